"""QEMUs for tests and the demo: started, driven over QMP, looked into, and always cleaned up.

    with Workspace() as work, Vm(work, "src", boot_sector=image) as src, Vm(work, "dst", boot_sector=image, incoming=True) as dst:
        dst.qmp.execute("migrate-incoming", uri=uri)
        src.qmp.execute("migrate", uri=uri)
        src.wait_status("completed")

Every wait has a deadline and raises Timeout with what was seen instead. Everything a Workspace or a Vm has made (processes, files,
namespaces) is gone when its `with` block ends. A Vm must be made by a thread that lives as long as the Vm: its QEMU is killed with it,
so that a test that is killed leaves nothing running.

Standard library only.
"""
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass, field

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "guest"))
import guest_image  # noqa: E402

# Seconds: how long a wait lasts unless the caller says otherwise; generous, for busy machines, and more so where those are emulated.
PATIENCE = 60.0 * float(os.environ.get("PAGEFERRY_TEST_PATIENCE", "1"))
_TAG = "QEMU_PAIR_WORKSPACE"  # in the environment of every process started here, and of what those start


class Timeout(AssertionError):
    """A wait passed its deadline."""


class QmpError(Exception):
    """The monitor answered a command with an error."""

    def __init__(self, command, error):
        super().__init__(f"{command}: {error.get('desc')}")
        self.command, self.error_class, self.description = command, error.get("class"), error.get("desc")


class QmpClosed(Exception):
    """The monitor's connection ended."""


def wait_until(condition, what, timeout=PATIENCE, every=0.01):
    """The first true value of condition(). what: text, or a function that makes it when the deadline has passed."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Timeout(f"waited {timeout:g} s: {what() if callable(what) else what}")
        time.sleep(every)


@dataclass
class Event:
    name: str
    data: dict
    time: float  # time.monotonic() at which it was read
    stamp: float = 0.0  # QEMU's own, seconds since the epoch

    def __str__(self):
        return f"{self.name} {self.data['status']}" if self.name == "MIGRATION" else self.name


class Qmp:
    """A QMP client. Any thread may execute(); a thread of its own reads, so that events carry the time they came.

    address: the path of a Unix socket, (host, port), or a connected socket, which is closed with this object. With out_of_band the
    client may ask(..., out_of_band=True). `conversation` is all that came, in its order: ("event", Event) and ("reply", id).
    """

    def __init__(self, address, timeout=PATIENCE, alive=lambda: True, out_of_band=False):
        self._socket = _connected(address, time.monotonic() + timeout, alive)
        self._socket.settimeout(timeout)
        self._lines = self._socket.makefile("r", encoding="utf-8")
        try:
            self.greeting = json.loads(self._lines.readline() or "null")
        except OSError as error:
            self._socket.close()
            raise Timeout(f"no greeting from {address}: {error}") from error
        self._socket.settimeout(None)
        self._condition = threading.Condition()
        self._replies, self._next_id, self._closed = {}, 0, False
        self.events, self.conversation = [], []
        self._reader = threading.Thread(target=self._read, name="qmp-reader", daemon=True)
        self._reader.start()
        self.execute("qmp_capabilities", timeout=timeout, **({"enable": ["oob"]} if out_of_band else {}))

    def _read(self):
        try:
            for line in self._lines:
                message = json.loads(line)
                with self._condition:
                    if "event" in message:
                        self.events.append(Event(message["event"], message.get("data", {}), time.monotonic(), _stamp(message)))
                        self.conversation.append(("event", self.events[-1]))
                    else:
                        self._replies[message.get("id")] = message
                        self.conversation.append(("reply", message.get("id")))
                    self._condition.notify_all()
        except (OSError, ValueError):
            pass
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def ask(self, command, arguments=None, timeout=PATIENCE, fds=(), out_of_band=False):
        """The whole reply, an error among them; fds go along with the command. QmpClosed, Timeout."""
        with self._condition:
            self._next_id += 1
            number = self._next_id
        request = {"exec-oob" if out_of_band else "execute": command, "id": number, **({"arguments": arguments} if arguments else {})}
        line = (json.dumps(request) + "\n").encode()
        try:
            if fds:
                line = line[socket.send_fds(self._socket, [line], fds):]
            self._socket.sendall(line)
        except OSError as error:
            raise QmpClosed(f"{command}: {error}") from error
        with self._condition:
            if not self._condition.wait_for(lambda: number in self._replies or self._closed, timeout):
                raise Timeout(f"no reply to {command} in {timeout:g} s")
            if number not in self._replies:
                raise QmpClosed(f"{command}: the monitor closed")
            return self._replies.pop(number)

    def execute(self, command, timeout=PATIENCE, **arguments):
        """The `return` of a command; _ in an argument's name stands for -. QmpError, QmpClosed, Timeout."""
        reply = self.ask(command, {name.replace("_", "-"): value for name, value in arguments.items()}, timeout)
        if "error" in reply:
            raise QmpError(command, reply["error"])
        return reply["return"]

    def wait_event(self, name, timeout=PATIENCE, since=0, **data):
        """The first event of that name, from events[since] on, whose data holds these values."""
        def find():
            return next((e for e in self.events[since:] if e.name == name and all(e.data.get(k) == v for k, v in data.items())), None)
        with self._condition:
            if not self._condition.wait_for(lambda: find() or self._closed, timeout) or not find():
                raise Timeout(f"no event {name} {data or ''}: {'the monitor closed' if self._closed else f'waited {timeout:g} s'};"
                              f" seen: {_latest(self.events[since:])}")
            return find()

    @property
    def closed(self):
        with self._condition:
            return self._closed

    def close(self):
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._reader.join()
        self._socket.close()


def _stamp(message):
    when = message.get("timestamp", {})
    return when.get("seconds", 0) + when.get("microseconds", 0) / 1e6


def _connected(address, end, alive):
    """A socket connected there; tried again until `end`, for the monitor may not listen yet."""
    if isinstance(address, socket.socket):
        return address
    unix = isinstance(address, str)
    while True:
        connection = socket.socket(socket.AF_UNIX) if unix else None
        try:
            if not unix:
                return socket.create_connection(address, timeout=max(end - time.monotonic(), 0.01))
            connection.connect(address)
            return connection
        except OSError as error:
            if connection:
                connection.close()
            if not alive() or time.monotonic() > end:
                raise Timeout(f"no monitor at {address}: {error}") from error
            time.sleep(0.01)


class Workspace:
    """A directory, and the processes of everything that was started in it."""

    def __init__(self, keep=False):
        self.id = uuid.uuid4().hex
        self.path = tempfile.mkdtemp(prefix="pageferry-test-")
        self.keep = keep

    def file(self, name):
        return os.path.join(self.path, name)

    def environment(self):
        """With no settings file, unless the test writes one: this machine's own would count otherwise."""
        return {**os.environ, _TAG: self.id, "PAGEFERRY_CONFIG": self.file("qemu.json")}

    def processes(self):
        """{pid: command line} of what is still running of this workspace: QEMUs, and whatever they or their launchers started."""
        found, mark = {}, f"{_TAG}={self.id}".encode()
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/environ", "rb") as environment:
                    if mark not in environment.read().split(b"\0"):
                        continue
                with open(f"/proc/{pid}/cmdline", "rb") as command, open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
                    if stat.read().rsplit(")", 1)[1].split()[0] != "Z":
                        found[int(pid)] = command.read().replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                pass  # gone meanwhile, or not ours
        return found

    def close(self):
        deadline = time.monotonic() + 10
        while (left := self.processes()) and time.monotonic() < deadline:
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.02)
        if not self.keep:
            shutil.rmtree(self.path, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


@dataclass
class Launch:
    """How QEMU is started: prefix (a drop-in such as [PAGEFERRY, "qemu", "--"], `ip netns exec NAME`), and the program."""
    prefix: list = field(default_factory=list)
    qemu: str = "qemu-system-x86_64"
    environment: dict = field(default_factory=dict)


def _die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Vm:
    """One QEMU. NAME.qmp is the monitor driven here, NAME.cli.qmp a second one, for another client.

    incoming: True for `-incoming defer`, or what is to stand there. stdio: a socket or file as QEMU's standard input and output. pass_fds:
    descriptors it inherits, under their own numbers.
    """

    def __init__(self, work, name, launch=None, memory=128, boot_sector=None, incoming=False, extra=(), machine="pc", stdio=None, pass_fds=()):
        launch = launch or Launch()
        self.work, self.name, self.boot_sector = work, name, boot_sector
        self.qmp_path, self.cli_path = work.file(f"{name}.qmp"), work.file(f"{name}.cli.qmp")
        self.serial_path, self.error_path = work.file(f"{name}.serial"), work.file(f"{name}.stderr")
        self.command = [*launch.prefix, launch.qemu, "-accel", "tcg", "-machine", machine, "-m", str(memory), "-nodefaults",
                        "-display", "none", "-serial", f"file:{self.serial_path}",
                        "-qmp", f"unix:{self.qmp_path},server=on,wait=off", "-qmp", f"unix:{self.cli_path},server=on,wait=off"]
        if boot_sector:
            drive = f"file={boot_sector},format=raw,file.locking=off"
            if machine.startswith("q35"):  # its own AHCI does not boot a disk of one sector
                self.command += ["-drive", f"{drive},if=none,id=boot", "-device", "piix3-ide,id=ide", "-device", "ide-hd,drive=boot,bus=ide.0"]
            else:
                self.command += ["-drive", f"{drive},if=ide"]
        if incoming:
            self.command += ["-incoming", incoming if isinstance(incoming, str) else "defer"]
        self.command += extra
        with open(self.error_path, "ab") as errors:
            self.process = subprocess.Popen(self.command, stdin=stdio or subprocess.DEVNULL, stdout=stdio or errors, stderr=errors,
                                            pass_fds=pass_fds, env={**work.environment(), **launch.environment},
                                            preexec_fn=_die_with_parent)
        try:
            self.qmp = Qmp(self.qmp_path, alive=lambda: self.process.poll() is None)
        except (Timeout, QmpClosed, QmpError, ValueError) as error:
            self.process.kill()
            self.process.wait()
            raise RuntimeError(f"{name} did not start: {error}\n{' '.join(self.command)}\n{self.errors()}") from error

    # --- what it says -------------------------------------------------------------------------------------------------------

    def serial(self):
        return _text(self.serial_path)

    def errors(self):
        return _text(self.error_path)

    def wait_serial(self, text, count=1, timeout=PATIENCE):
        """Until the guest's console holds the text that often."""
        wait_until(lambda: self.serial().count(text) >= count or self._ended(),
                   lambda: f"{self.name}'s console has no {count} x {text!r}; it ends: {self.serial()[-300:]!r}", timeout)

    def _ended(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} ended with {self.process.returncode}: {self.errors()}")
        return False

    # --- migration ----------------------------------------------------------------------------------------------------------

    def set_capabilities(self, **states):
        """set_capabilities(events=True, return_path=True)"""
        self.qmp.execute("migrate-set-capabilities", capabilities=[{"capability": name.replace("_", "-"), "state": state}
                                                                   for name, state in states.items()])

    def set_parameters(self, **values):
        self.qmp.execute("migrate-set-parameters", **values)

    def migration(self):
        return self.qmp.execute("query-migrate")

    def wait_status(self, *statuses, timeout=PATIENCE):
        """query-migrate's answer once its status is one of these."""
        seen = {}

        def look():
            seen.update(self.migration())
            return seen.get("status") in statuses
        wait_until(look, lambda: f"{self.name}'s migration is {seen.get('status')} {seen.get('error-desc', '')}, not {' or '.join(statuses)};"
                   f" events: {_latest(self.qmp.events)}", timeout)
        return seen

    def running(self):
        return self.qmp.execute("query-status")["running"]

    def wait_running(self, timeout=PATIENCE):
        wait_until(self.running, f"{self.name}'s guest does not run", timeout)

    # --- its RAM ------------------------------------------------------------------------------------------------------------

    def read_ram(self, address, length):
        """Guest physical memory, as it is at this moment."""
        path = self.work.file(f"{self.name}.{threading.get_ident()}.ram")
        try:
            self.qmp.execute("pmemsave", val=address, size=length, filename=path)
            with open(path, "rb") as saved:
                return saved.read()
        finally:
            if os.path.exists(path):
                os.unlink(path)

    def writer_problem(self):
        """Stops the guest; what is wrong with the RAM of the writer guest, or None."""
        self.qmp.execute("stop")
        return guest_image.writer_problem(self.read_ram(guest_image.BASE, (guest_image.end_mib(self.boot_sector) << 20) - guest_image.BASE))

    def wait_writing(self, timeout=PATIENCE):
        """Until the writer guest has been seen to write: a byte of its RAM changes."""
        first = self.read_ram(guest_image.BASE, 1)
        wait_until(lambda: self.read_ram(guest_image.BASE, 1) != first, f"{self.name}'s guest writes nothing", timeout)

    # --- its end ------------------------------------------------------------------------------------------------------------

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def close(self):
        self.kill()
        self.qmp.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Pair:
    """A source and a destination, alike but for -incoming."""

    def __init__(self, work, launch=None, destination_launch=None, **machine):
        self.source = Vm(work, "src", launch, **machine)
        try:
            self.destination = Vm(work, "dst", destination_launch or launch, incoming=True, **machine)
        except BaseException:
            self.source.close()
            raise
        self.start = time.monotonic()

    def both(self):
        return self.source, self.destination

    def migrate(self, uri):
        """Both commands; answers as soon as the source has taken its own."""
        self.destination.qmp.execute("migrate-incoming", uri=uri)
        self.source.qmp.execute("migrate", uri=uri)

    def wait_completed(self, timeout=PATIENCE):
        self.source.wait_status("completed", timeout=timeout)
        self.destination.wait_status("completed", timeout=timeout)
        self.destination.wait_running(timeout)

    def close(self):
        for vm in self.both():
            vm.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Namespaces:
    """Two network namespaces joined by a veth pair, for root. Names hold this process's id; all is removed on exit."""

    addresses = ("192.0.2.1", "192.0.2.2")
    addresses6 = ("fd00:7066::1", "fd00:7066::2")
    _devices = ("pfa", "pfb")
    _nowhere = "02:00:00:00:00:fe"

    _number = 0

    def __init__(self, mtu=1500):
        Namespaces._number += 1
        self.names = tuple(f"pf-{os.getpid()}-{Namespaces._number}{side}" for side in "ab")
        try:
            for name in self.names:
                _ip("netns", "add", name)
            first, second = self._devices
            _ip("-n", self.names[0], "link", "add", first, "mtu", str(mtu), "type", "veth", "peer", "name", second, "netns", self.names[1])
            for name, device, address, address6 in zip(self.names, self._devices, self.addresses, self.addresses6):
                _ip("-n", name, "link", "set", "lo", "up")
                _ip("-n", name, "link", "set", device, "mtu", str(mtu), "up")
                _ip("-n", name, "address", "add", f"{address}/24", "dev", device)
                _ip("-n", name, "address", "add", f"{address6}/64", "dev", device, "nodad")
        except BaseException:
            self.close()
            raise

    def prefix(self, side):
        """The command prefix that runs a program on side 0 or 1."""
        return ["ip", "netns", "exec", self.names[side]]

    def cut(self):
        """From here on every packet is lost, and neither side is told: the link stays up."""
        for name, device, peers in self._ways():
            for peer in peers:
                _ip("-n", name, "neigh", "replace", peer, "lladdr", self._nowhere, "nud", "permanent", "dev", device)

    def restore(self):
        for name, device, peers in self._ways():
            for peer in peers:
                _ip("-n", name, "neigh", "del", peer, "dev", device)

    def set_link(self, up, side=0):
        """The link goes down (both ends lose the carrier) or up, as an administrator or a cable does it."""
        _ip("-n", self.names[side], "link", "set", self._devices[side], "up" if up else "down")

    def _ways(self):
        return [(self.names[side], self._devices[side], (self.addresses[1 - side], self.addresses6[1 - side])) for side in (0, 1)]

    def close(self):
        for name in self.names:
            if os.path.exists(f"/run/netns/{name}"):
                _ip("netns", "delete", name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def free_port(host="127.0.0.1"):
    """A TCP port nobody listens on now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def _ip(*arguments):
    result = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if result.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {result.stderr.strip()}")


def _latest(events):
    """The last of them, in words; passes of the RAM are left out, there can be thousands."""
    return ", ".join(str(e) for e in events if e.name != "MIGRATION_PASS")[-1000:] or "none"


def _text(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""
