#!/usr/bin/env python3
"""libvirt, as it is packaged, moves guests over RDMA; a postcopy that loses its way is paused, and resumed, all by libvirt's own words and events.

libvirt_test.py BUILD-DIRECTORY [CLASS[.METHOD]...]; exit status 77: the lab, or libvirt, is not on this host.
"""
import os
import re
import sys
import time
import unittest

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
sys.path[:0] = [ROOT, os.path.dirname(os.path.abspath(__file__))]
from lab import host, nested, testing  # noqa: E402
from lab.machine import Machine  # noqa: E402
from lab.two import Two  # noqa: E402
from remote_guest import PATIENCE, Refused, RemoteEnd  # noqa: E402

BUILD = os.path.join(ROOT, "build", "release")
LIMIT = 900.0
SRC, DST = "src.example", "dst.example"
GUEST, DAEMON_PORT = "guest", 16509
NOBODY = "10.77.0.99"  # on the machines' own subnet, where nobody answers


def wait_until(condition, what, timeout=PATIENCE, every=0.2):
    end = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout:g} s: {what() if callable(what) else what}")
        time.sleep(every)
    return value


class RemoteHost(RemoteEnd):
    """libvirt_end.py: a host with its libvirt."""

    def __init__(self, machine, name, place, peer):
        super().__init__(machine, "libvirt_end.py", BUILD, name, machine.address, str(place), peer)
        self._begun = 0

    def happened(self, since=0):
        """Lifecycle events, by libvirt's names."""
        return [data["name"] for name, data in self.events[since:] if name == "lifecycle"]

    def wait_happened(self, wanted, since=0, timeout=PATIENCE):
        self._wait(lambda: wanted in self.happened(since), f"no event {wanted}", timeout)

    def virsh(self, *words):
        """Refused."""
        return self.ask("virsh", words=words)

    def begin(self, *words):
        """virsh, which goes on; for ended()."""
        self._begun += 1
        self.ask("begin", number=self._begun, words=words)
        return self._begun

    def ended(self, number):
        """How that ended, or None: {"error", "took"}."""
        return next((data for name, data in self.events if name == "virsh" and data["number"] == number), None)

    def wait_ended(self, number, timeout=PATIENCE):
        self._wait(lambda: self.ended(number), "virsh does not end", timeout)
        return self.ended(number)

    def state(self):
        return self.ask("state")


class LibvirtOfOne(unittest.TestCase):
    def test_there_and_back(self):
        """By precopy, and by postcopy; RAM whole after each."""
        image, kernel = host.prepare(build=BUILD, added=nested.libvirt_paths())
        with Machine(image, kernel, memory=nested.LIBVIRT_MEMORY, mtu=9000, limit=LIMIT) as machine:
            machine.wait_ready()
            result = machine.run(["python3", "tests/libvirt/rdma_move.py", os.path.join(BUILD, "bin"), "--address", machine.address], timeout=600)
            said = (result.stdout + result.stderr).decode(errors="replace")
            self.assertEqual(result.status, 0, said)
            self.assertEqual(said.count("RAM is whole"), 2, said)
            print(said, file=sys.stderr)


class LibvirtOfTwo(unittest.TestCase):
    def setUp(self):
        self.begun = time.monotonic()
        image, kernel = host.prepare(build=BUILD, added=nested.libvirt_paths())
        self.lab = Two(image, kernel, memory=1500, mtu=9000, limit=LIMIT)
        self.addCleanup(self.lab.close)
        self.lab.wait_ready()
        self.tell("the lab is ready")
        a, b = self.lab.a, self.lab.b
        self.source = RemoteHost(a, SRC, 0, f"{DST}={b.address}")
        self.destination = RemoteHost(b, DST, 1, f"{SRC}={a.address}")
        for end in self.both():
            end.wait_started()
        self.tell("both daemons answer")

    def both(self):
        return self.source, self.destination

    def tell(self, what):
        print(f"      {time.monotonic() - self.begun:5.1f} s: {what}", file=sys.stderr, flush=True)

    def mark(self):
        self.since = {end: len(end.events) for end in self.both()}

    def expect(self, source, destination):
        """The lifecycle events since the mark, in their order."""
        for end, wanted in ((self.source, source), (self.destination, destination)):
            wait_until(lambda end=end, wanted=wanted: len(end.happened(self.since[end])) >= len(wanted) or not end.job.running,
                       lambda end=end, wanted=wanted: f"{end.name}: {end.happened(self.since[end])}, not yet {wanted}; virsh: {end.shown()}")
            state = end.state()
            self.assertEqual(end.happened(self.since[end]), wanted, f"{end.name}, {state}")

    def migrate(self, *words, address=None, port=4444):
        return self.source.begin("migrate", "--live", "--p2p", "--unsafe", "--postcopy", "--migrateuri", f"rdma://{address or self.lab.b.address}:{port}",
                                 *words, GUEST, f"qemu+tcp://{self.lab.b.address}:{DAEMON_PORT}/system")

    def moving(self, number):
        """RAM is on its way."""
        if ended := self.source.ended(number):
            raise AssertionError(f"virsh migrate ended: {ended['error']}")
        return re.search(r"Data processed: +(?!0\.000)", self.source.virsh("domjobinfo", GUEST))

    def test_a_postcopy_is_paused_and_resumed(self):
        try:
            self.story()
        except BaseException:
            for end in self.both():
                print(f"--- {end.name}: {end.shown()}", file=sys.stderr)
                if end.job.running:
                    try:
                        print(end.ask("logs", timeout=30), file=sys.stderr)
                    except Exception as error:  # the first one counts  # pylint: disable=broad-except
                        print(error, file=sys.stderr)
            raise

    def story(self):
        self.mark()
        self.source.ask("start")
        self.tell("the guest runs at the source")
        self.mark()
        first = self.migrate("--bandwidth", "5", "--postcopy-bandwidth", "1")
        wait_until(lambda: self.moving(first), "RAM moves")
        self.source.virsh("migrate-postcopy", GUEST)
        self.source.wait_happened("SUSPENDED_POSTCOPY", self.since[self.source])
        self.destination.wait_happened("RESUMED_POSTCOPY", self.since[self.destination])
        self.tell(f"postcopy: {[(end.happened(self.since[end]), end.state()) for end in self.both()]}")
        self.mark()
        self.lab.drop_roce()
        self.tell("the RDMA's way is cut")
        ended = self.source.wait_ended(first)
        self.tell(f"virsh ended: {ended}")
        wait_until(lambda: "post-copy failed" in self.source.state() and "post-copy failed" in self.destination.state(), lambda: self.shown())
        self.tell(f"paused: {self.shown()}")
        self.mark()
        bad = self.migrate("--postcopy-resume", address=NOBODY, port=4445)
        ended = self.source.wait_ended(bad)
        self.tell(f"virsh ended: {ended}; {self.shown()}")
        self.lab.drop_roce(0)
        wait_until(lambda: "postcopy-paused" in self.source.virsh("qemu-monitor-command", GUEST, '{"execute": "query-migrate"}'), "the attempt ends", every=1)
        self.tell(f"the attempt has ended: {self.shown()}")
        self.mark()
        good = self.migrate("--postcopy-resume", port=4446)
        ended = self.source.wait_ended(good)
        self.tell(f"virsh ended: {ended}; {self.shown()}")
        time.sleep(20)
        for end in self.both():
            try:
                print(end.virsh("qemu-monitor-command", GUEST, '{"execute": "query-migrate"}'))
            except Refused as e:
                print(e)
        self.tell(f"later: {self.shown()}")
        self.destination.ask("wait_writing")
        self.assertIsNone(self.destination.ask("check"))
        print("---", self.source.ask("logs"), "---", self.destination.ask("logs"))
        for end in self.both():
            self.assertEqual(end.end(), {}, "processes are left")

    def shown(self):
        return [(end.name, end.happened(self.since[end]), end.state()) for end in self.both()]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        BUILD = os.path.abspath(sys.argv.pop(1))
    testing.main()
