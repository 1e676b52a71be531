"""The story of ./dev demo --postcopy: a guest that precopy cannot move goes on at the destination while its RAM follows.

With --break the network is cut in the middle of that: paused on both sides, a recovery that fails, one that succeeds.
"""
import shlex
import threading
import time

from qemu_pair import PATIENCE, QmpError, Timeout, wait_until

LIMIT = 2 * PATIENCE     # seconds: the longest any step may take
PRECOPY_RATE = "48M"     # bytes per second: less than the guest writes
BACKGROUND_RATE = "32M"  # of what no fault waits for: slow enough to look on
CUT_RATE = "4M"          # the same while the cut is to come
SOON = {"x-pageferry-dead-peer-timeout": 3000}  # ms; the default is for networks that stutter
ONLY_RDMA = {"x-pageferry-rdma": "required"}    # nothing else in its place

SOURCE = ["setup", "active", "device", "postcopy-device", "postcopy-active"]
DESTINATION = ["setup", "active", "postcopy-device", "postcopy-active"]
BROKEN_SOURCE = [*SOURCE, "postcopy-paused", "postcopy-recover-setup", "postcopy-paused", "postcopy-recover-setup", "postcopy-recover", "postcopy-active"]
BROKEN_DESTINATION = [*DESTINATION, "postcopy-paused", "postcopy-recover", "postcopy-active"]


class Command(threading.Thread):
    """One `pageferry` command that shows itself while the story goes on."""

    def __init__(self, demo, words):
        super().__init__(name="demo-command", daemon=True)
        self._demo, self._words, self._code, self._error = demo, words, None, None
        demo.say(f"$ {shlex.join(['pageferry', *words])}")
        self.start()

    def run(self):
        try:
            self._code = self._demo.show([self._demo.program, *self._words])
        except Exception as error:  # told by the thread that waits  # pylint: disable=broad-except
            self._error = error

    def wait(self, expected):
        self.join(LIMIT)
        if self._error:
            raise self._error
        if self._code != expected:
            raise RuntimeError(f"pageferry {self._words[0]} ended with {self._code}, not {expected}; {self._demo.complaints()}")
        return self


class Watcher:
    """Follows one side by its events alone, in their order."""

    def __init__(self, demo, vm, name):
        self._demo, self._vm, self._name, self._next = demo, vm, name, 0

    def wait(self, status):
        """The next event with that status, told with the time it came at."""
        end = time.monotonic() + LIMIT
        event = None
        while event is None:
            try:
                event = self._vm.qmp.wait_event("MIGRATION", min(1, LIMIT), since=self._next, status=status)
            except Timeout:
                over = any(e.data.get("status") in ("failed", "cancelled") for e in self._vm.qmp.events if e.name == "MIGRATION")
                if over or self._vm.qmp.closed or time.monotonic() > end:
                    raise
        self._next = self._vm.qmp.events.index(event) + 1
        self._demo.say(f"{self._name}: {status}", event.time)
        return event


class Story:
    def __init__(self, demo, wire=None):
        self._demo, self._wire = demo, wire
        self._source, self._destination = demo.pair.both()
        self._at_source, self._at_destination = Watcher(demo, self._source, "source"), Watcher(demo, self._destination, "destination")

    def prepare(self):
        self._destination.set_capabilities(postcopy_ram=True)
        if self._demo.plain:
            if self._wire:
                self._wire.notice_losses()
        else:
            for vm in self._demo.pair.both():  # the lab's emulated processor takes seconds to register memory
                vm.qmp.execute("migrate-set-parameters", **(ONLY_RDMA if self._demo.given.transport == "rdma" else SOON))

    def run(self):
        demo, uri = self._demo, self._demo.uri
        demo.say(f"precopy at {PRECOPY_RATE}iB/s at most, less than the guest writes: it would never end")
        background = ["--max-postcopy-bandwidth", CUT_RATE if self._wire else BACKGROUND_RATE]
        migrate = Command(demo, ["migrate", "--qmp", self._source.cli_path, "--max-bandwidth", PRECOPY_RATE, "--downtime-limit", "300",
                                 "--postcopy=auto", *background, uri])
        self._at_source.wait("postcopy-active")
        self._at_destination.wait("postcopy-active")
        resumed = self._destination.qmp.wait_event("RESUME", LIMIT)
        demo.say("destination: the guest runs here, while most of its RAM is still at the source", resumed.time)
        if self._wire:
            self._break()
            migrate.wait(6)  # paused, and waits for recovery
            self._recover(uri)
        else:
            migrate.wait(0)
        self._at_source.wait("completed")
        self._at_destination.wait("completed")
        self._check_states()

    def _break(self):
        def figures():
            ram = self._source.migration()["ram"]
            return ram["postcopy-requests"], ram["remaining"]
        _, first = figures()

        def under_way():
            faults, left = figures()
            return faults >= 200 or left < 0.9 * first
        wait_until(under_way, lambda: f"nothing moves: {self._source.migration()}", LIMIT)
        faults, left = figures()
        self._demo.say(f"{faults} faults, {left / 2**20:.1f} MiB still at the source: {self._wire.cut()}")
        for watcher, vm in ((self._at_source, self._source), (self._at_destination, self._destination)):
            if self._demo.plain and vm is self._destination:  # it waits for pages, and would wait as long as the kernel lets it
                Command(self._demo, ["pause", "--qmp", vm.cli_path]).wait(0)
            watcher.wait("postcopy-paused")
            self._demo.say(f"    {vm.migration().get('error-desc', 'the monitor gives no reason')}")
        self._demo.say("nothing is lost: the source keeps what the destination has not, and the guest goes on wherever it touches no missing page")

    def _recover(self, uri):
        demo = self._demo
        demo.say(self._wire.restore())
        demo.say("a recovery to a port where nobody listens:")
        dead = Command(demo, ["recover", "--qmp", self._source.cli_path, self._dead_uri(uri)])
        if not demo.plain:  # which QEMU has from 9.1 on
            self._at_source.wait("postcopy-recover-setup")
            self._at_source.wait("postcopy-paused")
        dead.wait(6)
        demo.say(f"    {self._source.migration().get('error-desc', 'the monitor gives no reason')}")
        if demo.plain:
            uri = self._wire.uri("tcp", 4445)
            Command(demo, ["recover", "--qmp", self._destination.cli_path, "--incoming", uri]).wait(0)
        demo.say("and one to where the destination has been listening all the time:" if not demo.plain else "and one that succeeds:")
        good = Command(demo, ["recover", "--qmp", self._source.cli_path, "--max-postcopy-bandwidth", "0", uri])
        if not demo.plain:
            self._at_source.wait("postcopy-recover-setup")
        for status in ("postcopy-recover", "postcopy-active"):
            self._at_source.wait(status)
            self._at_destination.wait(status)
        good.wait(0)

    @staticmethod
    def _dead_uri(uri):
        return f"{uri.rsplit(':', 1)[0]}:1"

    def _check_states(self):
        """In the order QEMU 11.1 has them."""
        if self._demo.plain:
            return
        for vm, broken, whole in ((self._source, BROKEN_SOURCE, SOURCE), (self._destination, BROKEN_DESTINATION, DESTINATION)):
            expected = [*(broken if self._wire else whole), "completed"]
            seen = [e.data["status"] for e in vm.qmp.events if e.name == "MIGRATION"]
            if seen != expected:
                raise RuntimeError(f"{vm.name}'s states were {', '.join(seen)}; expected: {', '.join(expected)}")
        self._demo.say("ok: the states on both sides came in the order of QEMU 11.1")

    def show_figures(self):
        """What each side says of its postcopy, where it says anything."""
        for name, vm in (("source", self._source), ("destination", self._destination)):
            try:
                told = vm.migration()
            except QmpError:
                continue
            figures, ram = told.get("x-pageferry-postcopy", {}), told.get("ram", {})
            latency = figures.get("latency", {})
            parts = [f"{figures.get('requests', ram.get('postcopy-requests', 0))} faults"]
            parts += [f"{figures.get('bytes', ram.get('postcopy-bytes', 0)) / 2**20:.1f} MiB moved in postcopy"]
            parts += [f"fault latency {p} {latency[f'{p}-us']} us" for p in ("p50", "p99") if f"{p}-us" in latency]
            if figures or ram:
                print(f"{name}: {' · '.join(parts)}")
