#!/usr/bin/env python3
"""libvirt, as it is packaged, moves guests over RDMA; a postcopy that loses its way is paused, and resumed, all by libvirt's own words and events.

libvirt_test.py BUILD-DIRECTORY [--all] [CLASS[.METHOD]...]; exit status 77: the lab, or libvirt, is not on this host. --all: with what is too
long for every run.
"""
import argparse
import contextlib
import json
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
from remote_guest import PATIENCE, RemoteEnd  # noqa: E402

BUILD = os.path.join(ROOT, "build", "release")
ALL = False
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
        """Lifecycle events, as virsh calls them."""
        return [data["name"] for name, data in self.events[since:] if name == "lifecycle"]

    def statuses(self, since=0):
        """What QEMU's migration went through, by the events that libvirt passes on."""
        return [data["status"] for name, data in self.events[since:] if name == "MIGRATION"]

    def wait_happened(self, count, since, what):
        self._wait(lambda: len(self.happened(since)) >= count, what, PATIENCE)

    def wait_statuses(self, count, since, what):
        self._wait(lambda: len(self.statuses(since)) >= count, what, PATIENCE)

    def virsh(self, *words):
        """Refused."""
        return self.ask("virsh", words=words)

    def begin(self, *words):
        """virsh, which goes on; for ended()."""
        self._begun += 1
        self.ask("begin", number=self._begun, words=words)
        return self._begun

    def ended(self, number):
        """How that ended, or None: {"status", "error", "took"}."""
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
        if self._testMethodName.endswith("_too") and not ALL:
            self.skipTest("only with --all")
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
        """What is expected from here on."""
        self.since = {end: len(end.events) for end in self.both()}

    def expect(self, source, destination):
        """Each (lifecycle events, state, what QEMU's migration went through since the mark); all of that comes as events."""
        for end, (happened, state, statuses) in ((self.source, source), (self.destination, destination)):
            end.wait_happened(len(happened), self.since[end], f"not yet {happened}")
            end.wait_statuses(len(statuses), self.since[end], f"not yet {statuses}")
            self.assertEqual(end.state(), state, end.name)
            self.assertEqual(end.happened(self.since[end]), happened, end.name)
            self.assertEqual(end.statuses(self.since[end]), statuses, end.name)

    def query(self, end):
        return json.loads(end.virsh("qemu-monitor-command", GUEST, '{"execute": "query-migrate"}'))["return"]

    def migrate(self, *words, scheme="rdma", address=None, port=4444):
        return self.source.begin("migrate", "--live", "--p2p", "--unsafe", "--postcopy", "--migrateuri",
                                 f"{scheme}://{address or self.lab.b.address}:{port}", *words, GUEST,
                                 f"qemu+tcp://{self.lab.b.address}:{DAEMON_PORT}/system")

    def moving(self, number):
        """RAM is on its way."""
        if ended := self.source.ended(number):
            raise AssertionError(f"virsh migrate ended: {ended['error']}")
        return re.search(r"Data processed: +(?!0\.000)", self.source.virsh("domjobinfo", GUEST))

    def test_a_postcopy_is_paused_and_resumed(self):
        """RDMA's way alone is cut."""
        with self.explained():
            first = self.begin()
            self.lose_the_way(self.lab.drop_roce)
            self.assertIn("failed in post-copy phase", self.source.wait_ended(first)["error"])
            self.resume_to_nobody()
            self.lab.drop_roce(0)
            self.resume()
            self.arrive()

    def test_resumed_over_tcp_too(self):
        """While RDMA's way stays cut."""
        with self.explained():
            self.begin()
            self.lose_the_way(self.lab.drop_roce)
            self.resume(scheme="tcp")
            self.arrive()

    def test_the_cable_is_cut_too(self):
        """By which the daemons speak to each other as well."""
        with self.explained():
            first = self.begin()
            self.lose_the_way(self.lab.cut)
            self.assertNotEqual(self.source.wait_ended(first)["status"], 0)  # once libvirt's keepalive has given up
            self.lab.restore()
            wait_until(lambda: self.lab.a.run(["ping", "-c", "1", "-W", "5", self.lab.b.address]).status == 0, "the link comes back")
            self.resume()
            self.arrive()

    @contextlib.contextmanager
    def explained(self):
        try:
            yield
        except BaseException:
            for end in self.both():
                print(f"--- {end.name}: {end.shown()}", file=sys.stderr)
                if end.job.running:
                    try:
                        print(end.ask("logs", timeout=30), file=sys.stderr)
                    except Exception as error:  # the first one counts  # pylint: disable=broad-except
                        print(error, file=sys.stderr)
            raise

    def begin(self):
        self.source.ask("start")
        self.tell("the guest runs at the source")
        return self.go_over()

    def go_over(self):
        self.mark()
        first = self.migrate("--bandwidth", "5", "--postcopy-bandwidth", "1")
        wait_until(lambda: self.moving(first), "RAM moves")
        self.source.virsh("migrate-postcopy", GUEST)
        self.expect((["Suspended Migrated", "Suspended Post-copy"], "paused (post-copy)",
                     ["setup", "active", "pre-switchover", "device", "postcopy-device", "postcopy-active"]),
                    (["Started Migrated", "Resumed Post-copy"], "running (post-copy)", ["setup", "active", "postcopy-device", "postcopy-active"]))
        self.assertEqual(self.query(self.source)["x-pageferry-transport"]["name"], "rdma")
        self.tell("it runs at the destination")
        return first

    def lose_the_way(self, how):
        self.mark()
        how()
        self.expect((["Suspended Post-copy Error"], "paused (post-copy failed)", ["postcopy-paused"]),
                    (["Resumed Post-copy Error"], "running (post-copy failed)", ["postcopy-paused"]))
        self.tell("the way is lost, and both sides say so")

    def resume_to_nobody(self):
        """virsh fails, both sides stay as they are, and QEMU's event, which libvirt passes on, says when the attempt has ended."""
        self.mark()
        ended = self.source.wait_ended(self.migrate("--postcopy-resume", address=NOBODY, port=4445))
        self.assertNotEqual(ended["status"], 0, ended)
        self.expect(([], "paused (post-copy failed)", ["postcopy-recover-setup", "postcopy-paused"]), ([], "running (post-copy failed)", []))
        self.assertIn(NOBODY, self.query(self.source)["error-desc"])
        self.tell(f"resumed to nobody: {ended}")

    def resume(self, scheme="rdma"):
        self.mark()
        self.source.virsh("migrate-setspeed", GUEST, "--postcopy", "0")
        ended = self.source.wait_ended(self.migrate("--postcopy-resume", scheme=scheme, port=4446))
        self.expect((["Suspended Post-copy", "Stopped Migrated"], "shut off (migrated)",
                     ["postcopy-recover-setup", "postcopy-recover", "postcopy-active", "completed"]),
                    (["Resumed Post-copy", "Resumed Migrated"], "running (migrated)", ["postcopy-recover", "postcopy-active", "completed"]))
        self.assertEqual(ended["status"], 0, ended)
        self.tell(f"resumed: {ended}")
        self.assertIn(f"the migration goes by {scheme}:{self.lab.b.address}:4446", self.destination.ask("logs"))

    def arrive(self):
        self.destination.ask("wait_writing")
        self.assertIsNone(self.destination.ask("check"))
        left = "for kind in qp mr cm_id; do rdma resource show $kind | grep -E 'comm (pageferry|qemu)'; done"
        for end in self.both():
            wait_until(lambda end=end: end.machine.run(left).stdout == b"", f"{end.name}: something is left", timeout=30)
            self.assertEqual(end.end(), {}, "processes are left")
        self.tell("RAM is whole, and nothing is left")


def skip_without_libvirt():
    try:
        nested.libvirt_paths()
    except RuntimeError as missing:
        print(f"skipped: {missing}")
        sys.exit(testing.SKIPPED)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        BUILD = os.path.abspath(sys.argv.pop(1))
    words = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    words.add_argument("--all", action="store_true")
    given, rest = words.parse_known_args()
    ALL = given.all
    skip_without_libvirt()
    testing.main([sys.argv[0], *rest])
