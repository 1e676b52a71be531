"""A guest, or another program, in a lab machine, from the test's side of the machine: guest_end.py and asked.py are its other half."""
import json
import shlex
import threading
import time

PATIENCE = 180.0  # seconds: emulated by what is emulated, on a machine that may be busy


class Refused(Exception):
    """The answer was an error."""


class RemoteEnd:
    """A Python program of tests/lab that is asked through a FIFO. One thread asks. events: all that came, as (name, data)."""

    def __init__(self, machine, program, build, name, *more):
        self.name, self.machine, self.events = name, machine, []
        self._fifo, self._number, self._replies, self._rest = f"/run/{name}.fifo", 0, {}, b""
        self._changed = threading.Condition()
        words = ["python3", f"tests/lab/{program}", f"{build}/bin", name, self._fifo, *more]
        self.job = machine.spawn(f"rm -f {self._fifo}; exec {shlex.join(words)}", self._take)

    def wait_started(self):
        """Before anything is asked."""
        self._reply(0, "its start", PATIENCE)

    def _take(self, data):
        *lines, self._rest = (self._rest + data).split(b"\n")
        with self._changed:
            for line in map(json.loads, lines):
                if "event" in line:
                    self.events.append((line["event"], line["data"]))
                else:
                    self._replies[line["number"]] = line
            self._changed.notify_all()

    def _wait(self, condition, what, timeout):
        end = time.monotonic() + timeout
        with self._changed:
            while not condition():
                left = end - time.monotonic()
                if left <= 0 or not self.job.running:
                    why = f"waited {timeout:g} s" if self.job.running else "it has ended"
                    raise AssertionError(f"{self.name}: {why}: {what}; events: {self.shown()}; {self.job.errors[-1000:].decode(errors='replace')}")
                self._changed.wait(min(left, 1))

    def _reply(self, number, what, timeout):
        self._wait(lambda: number in self._replies, f"no answer to {what}", timeout)
        reply = self._replies.pop(number)
        if "error" in reply:
            raise Refused(f"{self.name}: {what}: {reply['error']['desc']}")
        return reply["return"]

    def ask(self, do, timeout=PATIENCE, **arguments):
        self._number += 1
        line = json.dumps({"number": self._number, "do": do, "with": arguments})
        self.machine.run(f"printf '%s\\n' {shlex.quote(line)} >{self._fifo}", check=True)
        return self._reply(self._number, f"{do} {arguments or ''}", timeout)

    def shown(self):
        """The events, for an error."""
        return " ".join(f"{name} {data}" for name, data in self.events) or "none"

    def end(self):
        """What it has left running."""
        left = self.ask("end")
        self.job.wait(PATIENCE)
        return left


class RemoteGuest(RemoteEnd):
    """Events of MIGRATION can be waited for, so that nothing is polled."""

    def __init__(self, machine, build, name, incoming=False):
        super().__init__(machine, "guest_end.py", build, name, *(["incoming"] if incoming else []))

    def qmp(self, command, **arguments):
        """_ in an argument's name stands for -. Refused."""
        return self.ask("qmp", command=command, arguments={name.replace("_", "-"): value for name, value in arguments.items()})

    def migration(self):
        return self.qmp("query-migrate")

    def parameters(self, **values):
        self.qmp("migrate-set-parameters", **values)

    def capabilities(self, *names):
        self.qmp("migrate-set-capabilities", capabilities=[{"capability": name, "state": True} for name in names])

    def statuses(self, since=0):
        return [data["status"] if name == "MIGRATION" else name for name, data in self.events[since:] if name in ("MIGRATION", "STOP", "RESUME")]

    def shown(self):
        return " ".join(self.statuses()) or "none"

    def transports(self, since=0):
        """What was told of the ways that were tried."""
        return [data for name, data in self.events[since:] if name == "PAGEFERRY_TRANSPORT"]

    def wait_status(self, status, since=0, timeout=PATIENCE):
        self._wait(lambda: status in self.statuses(since), f"it is not {status}", timeout)
