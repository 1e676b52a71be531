"""What the tests under libvirt share: two hosts for a class of tests, a guest on the first, libvirt's events, and moves that are checked.

    migrate_test.py BUILD/bin [unittest options and test names]

Under /usr/bin/python3, whose module libvirt is the packaged one. For root. With PAGEFERRY_TEST_ROOT=FOLDER in the environment the daemons
and QEMUs are those of another Debian, which perf/newer_debian.sh has unpacked there.
"""
import os
import subprocess
import sys
import threading
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, ".."), os.path.join(HERE, "..", "guest")]
import guest_image  # noqa: E402
import libvirt  # noqa: E402
from libvirt_hosts import EMULATOR, PATIENCE, STOCK, Hosts, Timeout, Virsh, domain, wait_until  # noqa: E402, F401
from qemu_pair import Workspace  # noqa: E402

END_MIB = 40  # the guest rewrites 1 MiB .. this, for ever
SHARED = "<memoryBacking><source type='file'/><access mode='shared'/></memoryBacking>"
_programs = ""


def main():
    """Runs the calling file's tests with the programs in the directory named first."""
    global _programs
    if len(sys.argv) < 2:
        sys.exit(f"usage: {sys.argv[0]} BUILD/bin [unittest options and test names]")
    sys.modules["libvirt_case"]._programs = os.path.abspath(sys.argv.pop(1))
    libvirt.registerErrorHandler(lambda *_: None, None)  # what fails is raised; nothing is printed besides
    unittest.main(module="__main__", verbosity=2)


def program(name):
    return os.path.join(_programs, name)


class _Loop:
    """libvirt's own event loop, in one thread for the whole process."""
    _thread = None

    @classmethod
    def start(cls):
        if cls._thread is None:
            libvirt.virEventRegisterDefaultImpl()
            cls._thread = threading.Thread(target=cls._run, name="libvirt-events", daemon=True)
            cls._thread.start()

    @staticmethod
    def _run():
        while True:
            libvirt.virEventRunDefaultImpl()


_LIFECYCLE = {  # what `virsh event` calls them
    libvirt.VIR_DOMAIN_EVENT_DEFINED: ("Defined", {}), libvirt.VIR_DOMAIN_EVENT_UNDEFINED: ("Undefined", {}),
    libvirt.VIR_DOMAIN_EVENT_STARTED: ("Started", {0: "Booted", 1: "Migrated", 2: "Restored", 3: "Snapshot", 4: "Event wakeup"}),
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED: ("Suspended", {0: "Paused", 1: "Migrated", 2: "I/O Error", 3: "Watchdog", 4: "Restored", 5: "Snapshot",
                                                       6: "API error", 7: "Post-copy", 8: "Post-copy Error"}),
    libvirt.VIR_DOMAIN_EVENT_RESUMED: ("Resumed", {0: "Unpaused", 1: "Migrated", 2: "Snapshot", 3: "Post-copy", 4: "Post-copy Error"}),
    libvirt.VIR_DOMAIN_EVENT_STOPPED: ("Stopped", {0: "Shutdown", 1: "Destroyed", 2: "Crashed", 3: "Migrated", 4: "Saved", 5: "Failed", 6: "Snapshot"}),
    libvirt.VIR_DOMAIN_EVENT_SHUTDOWN: ("Shutdown", {}), libvirt.VIR_DOMAIN_EVENT_CRASHED: ("Crashed", {})}


class Listener:
    """Lifecycle and job events of one host's domains, by a connection of its own; a program that never asks, only listens."""

    def __init__(self, host):
        _Loop.start()
        self.events = []  # "Suspended Post-copy Error", "Job completed"
        self._condition = threading.Condition()
        self.connection = libvirt.open(host.uri)
        self._ids = [self.connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle, None),
                     self.connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED, self._job, None)]

    def _lifecycle(self, _connection, _domain, event, detail, _opaque):
        name, details = _LIFECYCLE.get(event, (f"event {event}", {}))
        self._add(f"{name} {details.get(detail, detail)}")

    def _job(self, _connection, _domain, figures, _opaque):
        self._add("Job completed" if figures.get("type", libvirt.VIR_DOMAIN_JOB_COMPLETED) == libvirt.VIR_DOMAIN_JOB_COMPLETED else "Job failed")

    def _add(self, text):
        with self._condition:
            self.events.append(text)
            self._condition.notify_all()

    def wait(self, text, count=1, timeout=PATIENCE):
        with self._condition:
            if not self._condition.wait_for(lambda: self.events.count(text) >= count, timeout):
                raise Timeout(f"no {count} x {text!r} in {timeout:g} s; seen: {self.events}")

    def taken(self):
        """What has come up to now, once."""
        with self._condition:
            events, self.events = self.events, []
        return events

    def close(self):
        try:
            for number in self._ids:
                self.connection.domainEventDeregisterAny(number)
            self.connection.close()
        except libvirt.libvirtError:
            pass  # its daemon is gone


class Move(threading.Thread):
    """`virsh migrate`, which lasts as long as the migration; error is what it said when it failed."""

    def __init__(self, source, *words):
        super().__init__(daemon=True)
        self.error = None
        self._source, self._words = source, words
        self.start()

    def run(self):
        try:
            self._source.virsh(*self._words, timeout=4 * PATIENCE)
        except (Virsh, subprocess.TimeoutExpired) as error:
            self.error = error

    def done(self):
        """Waits for its end; the error, or None."""
        self.join(4 * PATIENCE)
        return self.error if not self.is_alive() else Timeout("virsh migrate has no end")


class Case(unittest.TestCase):
    """source and destination, and a guest that can be started on the first; they are the same for all tests of a class."""
    settings = ""  # for qemu.conf
    is_cut = False

    @classmethod
    def setUpClass(cls):
        if os.geteuid() != 0:
            raise unittest.SkipTest("two hosts on one machine are for root to make")
        cls.work = cls.enterClassContext(Workspace())
        cls.writer = guest_image.make_image(program("guest/guest_writer.img"), cls.work.file("writer.img"), end_mib=END_MIB)
        os.chmod(cls.writer, 0o666)
        cls.hosts = cls.enterClassContext(Hosts(cls.work, _programs, cls.settings, root=os.environ.get("PAGEFERRY_TEST_ROOT")))
        cls.source, cls.destination = cls.hosts.both

    def run(self, result=None):
        bad = len(result.failures) + len(result.errors)
        super().run(result)
        if len(result.failures) + len(result.errors) > bad:
            for host in self.hosts.both:
                print(f"--- {host.name}\n{host.log()[-3000:]}\n{host.guest_log('guest')[-6000:]}", file=sys.stderr)
        return result

    def setUp(self):
        self.addCleanup(self._forget)

    def _forget(self):
        """No guest is left, nor anything of one."""
        self.restore()
        for host in self.hosts.both:
            for words in (("destroy", "guest"), ("managedsave-remove", "guest"), ("undefine", "guest", "--snapshots-metadata")):
                host.try_virsh(*words)
            wait_until(lambda at=host: not at.pids("qemu-system-x86_64") + at.pids("pageferry-monitor") + at.pids("pageferry-mover"),
                       lambda at=host: f"{at.name} still has processes of a guest: {at.run('ps', '-e', '-o', 'pid,args').stdout}")
            self.assertEqual([n for n in os.listdir(f"/proc/{host.init_pid}/root/dev/shm") if n != "libvirt"], [])

    def cut(self):
        """Nothing that is sent between the hosts arrives, and nobody is told."""
        self.hosts.network.cut()
        self.is_cut = True

    def restore(self):
        if self.is_cut:
            self.hosts.network.restore()
            self.is_cut = False

    def start(self, **options):
        """The guest on the source, and it writes."""
        options.setdefault("backing", SHARED)
        self.source.define(domain("guest", self.writer, **options))
        self.source.virsh("start", "guest")
        self.wait_writing(self.source)

    def listeners(self):
        both = [Listener(host) for host in self.hosts.both]
        for one in both:
            self.addCleanup(one.close)
        return both

    def wait_writing(self, host):
        first = host.read_ram("guest", guest_image.BASE, 1)
        wait_until(lambda: host.read_ram("guest", guest_image.BASE, 1) != first, f"the guest on {host.name} writes nothing")

    def words(self, *options, source=None, destination=None):
        return ("migrate", "--live", "--p2p", "--unsafe", *options, "guest", (destination or self.destination).uri)

    def begin(self, *options):
        """A migration that goes on until it is let: the guest writes faster than it is moved."""
        move = Move(self.source, *self.words("--bandwidth", "1", *options))
        wait_until(lambda: self.status(self.source) == "active" or not move.is_alive(), "the migration does not begin")
        self.assertTrue(move.is_alive(), move.error)
        return move

    def status(self, host):
        """As QEMU's monitor says it; empty where there is none."""
        return host.monitor("guest", "query-migrate").get("status", "")

    def move(self, *options, back=False):
        source, destination = (self.destination, self.source) if back else (self.source, self.destination)
        source.virsh(*self.words(*options, destination=destination), timeout=4 * PATIENCE)
        self.assertEqual(destination.state("guest"), "running (migrated)")
        self.assert_intact(destination)

    def assert_intact(self, host):
        """The guest goes on after the look, if it ran."""
        running = host.state("guest").startswith("running")
        if running:
            self.wait_writing(host)
            host.virsh("suspend", "guest")
        ram = host.read_ram("guest", guest_image.BASE, (END_MIB << 20) - guest_image.BASE)
        self.assertIsNone(guest_image.writer_problem(ram))
        if running:
            host.virsh("resume", "guest")
