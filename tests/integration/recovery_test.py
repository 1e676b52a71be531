#!/usr/bin/env python3
"""Recovery of a postcopy: whatever breaks, whenever, both sides pause, say so, and go on from where they were.

Where a link must really be cut, the two sides are in network namespaces (root). Where the moment matters, a relay between them holds a
message of the session protocol and then cuts.
"""
import os
import struct
import subprocess
import threading
import time
import unittest

import faults_common
from faults_proxy import Proxy
from postcopy_common import (ACTIVE, BALLAST, PAUSED, RECOVER, SETUP, TO_POSTCOPY_DESTINATION, TO_POSTCOPY_SOURCE, PostcopyCase, ballast_at,
                             greets_and_hangs, never_accepts)
from qemu_pair import Namespaces, Qmp, QmpError, Timeout
from under_pageferry import free_port, main, program, wait_until

CANNOT_CANCEL = "Postcopy migration in progress, cannot cancel."


def short(vm, dead_peer=1000, connect=1000):
    vm.set_parameters(**{"x-pageferry-dead-peer-timeout": dead_peer, "x-pageferry-connect-timeout": connect})


class Relayed(PostcopyCase):
    """In postcopy, through a relay."""

    def setUp(self):
        super().setUp()
        self.tcp_only()
        self.source, self.destination = self.pair()
        self.direct = self.uri()
        self.proxy = self.enterContext(Proxy(self.direct))

    def marks(self):
        return [len(vm.qmp.events) for vm in (self.source, self.destination)]

    def enter_postcopy(self):
        self.to_active(self.source, self.destination, self.direct, self.proxy.uri)
        self.source.qmp.execute("migrate-start-postcopy")
        self.source.qmp.wait_event("MIGRATION", status=ACTIVE)
        self.destination.qmp.wait_event("RESUME")

    def lose(self):
        marks = self.marks()
        self.proxy.cut()
        self.wait_paused(self.source, self.destination, marks)

    def attempt_held_at(self, message):
        """A recovery that stands still at this message; the events of both sides from its beginning."""
        marks = self.marks()
        self.proxy.hold(message)
        self.source.qmp.execute("migrate", uri=self.proxy.uri, resume=True)
        self.proxy.wait_held()
        return marks

    def assert_paused_again(self, marks, phase):
        """The attempt had come as far as `phase`, at the source."""
        self.source.qmp.wait_event("MIGRATION", since=marks[0], status=PAUSED)
        self.assertEqual(self.statuses(self.source, marks[0]), [SETUP, PAUSED] if phase == SETUP else [SETUP, RECOVER, PAUSED])
        self.destination.wait_status(PAUSED)
        self.assertIn(self.statuses(self.destination, marks[1]), ([], [RECOVER, PAUSED], [RECOVER, ACTIVE, PAUSED]))
        self.assertTrue(self.source.migration()["error-desc"])
        self.assertFalse(self.source.running())

    def recover_and_complete(self, uri=None):
        self.recover(self.source, self.destination, uri or self.proxy.uri)
        self.complete(self.source, self.destination)


class Phases(Relayed):
    # Where a recovery can be held, by the message that is withheld, and the source's state then.
    HELD_AT = (("Hello", SETUP), ("HelloReply", SETUP), ("RamTable", RECOVER), ("PullLimit", RECOVER), ("Resume", RECOVER))

    def test_cut_in_each_phase_of_a_recovery(self):
        self.enter_postcopy()
        self.lose()
        for message, phase in self.HELD_AT:
            with self.subTest(held=message):
                marks = self.attempt_held_at(message)
                self.source.qmp.wait_event("MIGRATION", since=marks[0], status=phase)
                self.proxy.cut()
                self.assert_paused_again(marks, phase)
        self.recover_and_complete()

    def test_pause_in_each_phase_of_a_recovery(self):
        """By the user: at once, for no deadline here is below half a minute. A cancel is refused in all of them."""
        self.enter_postcopy()
        self.refused(self.source, "migrate_cancel", CANNOT_CANCEL)
        self.lose()
        self.refused(self.source, "migrate_cancel", CANNOT_CANCEL)
        for message, phase in self.HELD_AT:
            with self.subTest(held=message):
                marks = self.attempt_held_at(message)
                self.source.qmp.wait_event("MIGRATION", since=marks[0], status=phase)
                self.refused(self.source, "migrate_cancel", CANNOT_CANCEL)
                self.refused(self.source, "cont", "Migration is not finalized yet")
                self.source.qmp.execute("migrate-pause")
                self.assert_paused_again(marks, phase)
                self.proxy.hold(None)
        self.recover_and_complete()

    def test_a_peer_that_hangs_in_each_phase(self):
        """Nothing comes any more, and nobody says that it is over: each side's own deadline finds it."""
        self.enter_postcopy()
        self.lose()
        for message, phase in (("HelloReply", SETUP), ("Resume", RECOVER)):
            with self.subTest(held=message):
                for vm in (self.source, self.destination):
                    short(vm)
                marks = self.attempt_held_at(message)
                self.assert_paused_again(marks, phase)
                self.proxy.cut()
        for vm in (self.source, self.destination):
            short(vm, 60_000, 30_000)
        self.recover_and_complete()

    def test_twenty_cuts_in_a_row(self):
        """And nothing of them is left in the monitor processes."""
        self.enter_postcopy()
        held = None
        for number in range(20):
            self.lose()
            if number == 1:
                held = self.settled_files()
            elif number == 19:
                wait_until(lambda: self.settled_files() == held, f"not what they held at first: {held}")
            self.recover(self.source, self.destination, self.proxy.uri)
        self.complete(self.source, self.destination)
        cycle = [PAUSED, SETUP, RECOVER, ACTIVE]
        self.assertEqual(self.statuses(self.source), [*TO_POSTCOPY_SOURCE, *cycle * 20, "completed"])
        self.assertEqual(self.statuses(self.destination), [*TO_POSTCOPY_DESTINATION, *[PAUSED, RECOVER, ACTIVE] * 20, "completed"])

    def settled_files(self):
        """What both monitor processes hold while paused, the source's mover gone and buried: of processes it watches QEMU alone."""
        def look():
            held = [self.open_files(vm) for vm in (self.source, self.destination)]
            return held if held[0][0].get("anon_inode:[pidfd]") == 1 else None
        return wait_until(look, "the source's mover goes on")

    def test_cut_in_the_hand_over(self):
        """Before the destination has all, the source goes on; afterwards it never does."""
        self.to_active(self.source, self.destination, self.direct, self.proxy.uri)
        self.proxy.hold("Permit")
        self.source.qmp.execute("migrate-start-postcopy")
        self.proxy.wait_held()
        marks = self.marks()
        self.proxy.cut()
        self.wait_paused(self.source, self.destination, marks)
        for vm in (self.source, self.destination):
            self.assertFalse(vm.running())
        self.refused(self.source, "cont", "Migration is not finalized yet")
        self.recover(self.source, self.destination, self.proxy.uri)
        self.destination.qmp.wait_event("RESUME")
        self.complete(self.source, self.destination)

    def test_an_old_connection_that_nobody_ended(self):
        """The source is gone from it, the destination waits on it still, and would for long: a new one of the same session ends it, a
        stranger's does not. What comes late by the old one goes nowhere.
        """
        short(self.destination, dead_peer=600_000)
        self.enter_postcopy()
        self.destination.wait_writing()
        marks = self.marks()
        self.proxy.freeze()
        self.source.qmp.execute("migrate-pause")
        self.source.qmp.wait_event("MIGRATION", since=marks[0], status=PAUSED)
        probe = subprocess.run([program("pageferry"), "probe", self.direct], capture_output=True, text=True, timeout=60, check=False)
        self.assertIn("this destination has a source already", probe.stdout + probe.stderr)
        self.assertEqual(self.statuses(self.destination, marks[1]), [])
        self.source.qmp.execute("migrate", uri=self.direct, resume=True)
        self.destination.qmp.wait_event("MIGRATION", since=marks[1], status=PAUSED)
        self.source.qmp.wait_event("MIGRATION", since=marks[0], status=ACTIVE)
        self.assertEqual(self.statuses(self.source, marks[0]), [PAUSED, SETUP, RECOVER, ACTIVE])
        self.destination.wait_status(ACTIVE)
        self.assertEqual(self.statuses(self.destination, marks[1]), [PAUSED, RECOVER, ACTIVE])
        self.proxy.freeze(False)
        self.complete(self.source, self.destination)

    def test_the_last_word_is_lost(self):
        self.enter_postcopy()
        self.proxy.hold("Received")
        self.source.set_parameters(max_postcopy_bandwidth=0)
        self.proxy.wait_held()
        marks = self.marks()
        self.assertEqual(self.source.migration()["status"], ACTIVE)
        self.proxy.cut()
        self.source.qmp.wait_event("MIGRATION", since=marks[0], status=PAUSED)
        self.assertFalse(self.source.running())
        self.source.qmp.execute("migrate", uri=self.proxy.uri, resume=True)
        self.finish(self.source, self.destination)

    def test_the_source_does_not_know_that_all_is_loaded(self):
        """Before it has sent its permit it goes on, and the destination never runs."""
        self.to_active(self.source, self.destination, self.direct, self.proxy.uri)
        self.proxy.hold("DeviceLoaded")
        self.source.qmp.execute("migrate-start-postcopy")
        self.proxy.wait_held()
        self.assertEqual(self.source.migration()["status"], "postcopy-device")
        self.refused(self.source, "migrate_cancel", CANNOT_CANCEL)
        self.proxy.cut()
        self.source.wait_status("failed")
        self.destination.wait_status(PAUSED)
        self.assertFalse(self.destination.running())
        self.source.wait_running()
        self.source.wait_writing()
        self.assert_intact(self.source)
        self.assertEqual(self.statuses(self.source), [*TO_POSTCOPY_SOURCE[:-1], "failing", "failed"])
        self.destination.close()
        second = self.start("second", incoming=True)
        self.to_postcopy(self.source, second)
        self.complete(self.source, second)

    def test_device_state_is_not_loaded(self):
        """The one moment of a postcopy in which the source gets its guest back."""
        self.to_active(self.source, self.destination, self.direct, self.proxy.uri)
        self.proxy.hold("RamFinal")
        self.source.qmp.execute("migrate-start-postcopy")
        self.proxy.wait_held()
        self.proxy.cut()
        self.source.wait_status("failed")
        self.source.wait_running()
        self.source.wait_writing()
        self.assert_intact(self.source)
        wait_until(lambda: self.destination.process.poll() is not None, "the destination goes on")
        second = self.start("second", incoming=True)
        self.to_postcopy(self.source, second)
        self.complete(self.source, second)


class Attempts(Relayed):
    def test_to_where_no_destination_is(self):
        self.enter_postcopy()
        self.lose()
        mark = len(self.destination.qmp.events)
        with self.subTest("a dead port"):
            self.attempt_fails(self.source, f"tcp:127.0.0.1:{free_port()}", "onnection refused")
        with self.subTest("an address that does not exist"):
            self.attempt_fails(self.source, "tcp:nosuch.invalid:4444", "resolve", "nosuch.invalid")
        with self.subTest("a socket that does not exist"):
            self.attempt_fails(self.source, "unix:" + self.work.file("nobody"), "nobody")
        short(self.source)
        with self.subTest("a listener that never accepts"), never_accepts() as uri:
            self.attempt_fails(self.source, uri, uri.removeprefix("tcp:"))
        with self.subTest("a peer that hangs after the connect"), greets_and_hangs() as uri:
            self.attempt_fails(self.source, uri, uri.removeprefix("tcp:"))
        short(self.source, 60_000, 30_000)
        with self.subTest("something else"), greets_and_hangs(b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n") as uri:
            self.attempt_fails(self.source, uri, uri.removeprefix("tcp:"))
        with self.subTest("another guest's destination"):
            other, uri = self.start("other", incoming=True), self.uri()
            other.qmp.execute("migrate-incoming", uri=uri)
            self.attempt_fails(self.source, uri)
            self.assertEqual(self.statuses(other), ["setup"])
        with self.subTest("a list, the good one last"):
            marks = self.marks()
            self.source.qmp.execute("migrate", uris=[f"tcp:127.0.0.1:{free_port()}", self.proxy.uri], resume=True)
            self.source.qmp.wait_event("MIGRATION", since=marks[0], status=ACTIVE)
            self.assertEqual(self.statuses(self.source, marks[0]), [SETUP, RECOVER, ACTIVE])
            told = self.source.qmp.wait_event("PAGEFERRY_TRANSPORT", since=marks[0])
            self.assertIn("onnection refused", str(told.data))
        # Of all this the destination has heard the last alone.
        self.destination.qmp.wait_event("MIGRATION", since=mark, status=ACTIVE)
        self.assertEqual(self.statuses(self.destination, mark), [RECOVER, ACTIVE])
        self.complete(self.source, self.destination)

    def test_strangers_at_the_recovery_port(self):
        """Garbage, half a connection, a whole one with a wrong session, another guest: no state, no event, and the recovery works."""
        self.enter_postcopy()
        self.lose()
        marks = self.marks()
        for said in (b"", b"\xff" * 4096, b"GET / HTTP/1.1\r\n\r\n", faults_common.preamble(faults_common.CONTROL, bytes(16)),
                     faults_common.preamble(faults_common.BULK, bytes(16))):
            with faults_common.connect_to(self.direct) as stranger:
                stranger.sendall(said)
        lanes = faults_common.whole_connection(self.direct)
        lanes[0].sendall(struct.pack("<II", 0, 64) + bytes(64))
        silent = faults_common.whole_connection(self.direct)  # and says nothing, as long as this lasts
        third = self.started("third")
        third.set_parameters(**{"x-pageferry-connect-timeout": 20_000})
        third.qmp.execute("migrate", uri=self.direct)
        third.wait_status("failed")
        self.assertTrue(third.running())
        for vm, mark in zip((self.source, self.destination), marks):
            self.assertEqual(vm.migration()["status"], PAUSED)
            self.assertEqual(self.statuses(vm, mark), [])
        for one in lanes:
            one.close()
        self.recover_and_complete(self.direct)
        for one in silent:
            one.close()

    def test_other_ways(self):
        """migrate-recover with new ports, twice; by a unix socket and back; and the first port is good all the time."""
        self.enter_postcopy()
        unix = "unix:" + self.work.file("recovery")
        first, second, third = (f"tcp:127.0.0.1:{free_port()}" for _ in range(3))
        for incoming, uris in (((first, second), (second,)), ((unix,), (unix, self.direct)), ((third,), (third, self.proxy.uri))):
            for uri in uris:
                self.pause(self.source, self.destination)
                if uri is uris[0]:
                    for one in incoming:
                        self.assertEqual(self.destination.qmp.execute("migrate-recover", uri=one), {})
                self.recover(self.source, self.destination, uri)
        self.pause(self.source, self.destination)
        with self.assertRaises(QmpError):
            self.destination.qmp.execute("migrate-recover", uri="tcp:192.0.2.77:1")  # not an address of this host
        self.recover_and_complete()


class Deaths(Relayed):
    def test_movers(self):
        """Of the source, of the destination, of both: in postcopy-active, in postcopy-paused, and in a recovery."""
        self.enter_postcopy()
        for sides in ((self.source,), (self.destination,), (self.source, self.destination)):
            names = " and ".join(vm.name for vm in sides)
            with self.subTest(killed=names, when=ACTIVE):
                marks = self.marks()
                old = {vm: self.kill_mover(vm) for vm in sides}
                self.wait_paused(self.source, self.destination, marks)
                self.assertTrue(all(vm.migration()["error-desc"] for vm in (self.source, self.destination)))
                self.recover_with_new(old)
            with self.subTest(killed=names, when=RECOVER):
                self.lose()
                marks = self.attempt_held_at("Resume")
                old = {vm: self.kill_mover(vm) for vm in sides}
                self.proxy.cut()
                self.assert_paused_again(marks, RECOVER)
                self.recover_with_new(old)
        with self.subTest(when=PAUSED):
            self.lose()
            marks = self.marks()
            self.recover_with_new({self.destination: self.kill_mover(self.destination)})
            self.assertEqual(self.statuses(self.destination, marks[1]), [RECOVER, ACTIVE])
        self.complete(self.source, self.destination)

    def recover_with_new(self, old):
        """The destination's new mover comes by itself."""
        if self.destination in old:
            self.wait_new_mover(self.destination, old[self.destination])
            # It listens a moment after it was started.
            wait_until(lambda: self.listens(self.direct), "the new mover does not listen")
        self.recover(self.source, self.destination, self.proxy.uri)
        self.destination.wait_writing()

    @staticmethod
    def listens(uri):
        port = f":{int(uri.rsplit(':', 1)[1]):04X}"
        with open("/proc/net/tcp", encoding="utf-8") as table:
            return any(fields[1].endswith(port) and fields[3] == "0A" for fields in map(str.split, table))

    def test_the_sources_qemu(self):
        """What was not pulled is gone: the destination says so, and no reader of its memory is ever given anything else."""
        self.enter_postcopy()
        self.assertEqual(self.destination.read_ram(ballast_at(self.destination), 4096), BALLAST[:4096])  # QEMU's own fault
        mark = len(self.destination.qmp.events)
        self.source.kill()
        self.proxy.cut()
        self.destination.qmp.wait_event("MIGRATION", since=mark, status=PAUSED)
        there = self.destination.migration()
        self.assertTrue(there["error-desc"])
        self.assertGreater(there["x-pageferry-postcopy"]["missing"], 0)
        self.assertEqual(self.destination.qmp.execute("migrate-recover", uri=self.uri()), {})
        # QEMU itself waits for a page that never comes, and with it this command. What Pageferry answers, it answers still.
        with self.assertRaises(Timeout):
            self.destination.qmp.execute("pmemsave", timeout=1, val=ballast_at(self.destination) + (6 << 20), size=4096,
                                         filename=self.work.file("never"))
        self.assertEqual(self.statuses(self.destination, mark), [PAUSED])

    def test_the_destinations_qemu(self):
        """The guest is gone with it; the source keeps what it has, and never runs it."""
        self.enter_postcopy()
        mark = len(self.source.qmp.events)
        self.destination.kill()
        self.source.qmp.wait_event("MIGRATION", since=mark, status=PAUSED)
        self.assertTrue(self.source.migration()["error-desc"])
        self.refused(self.source, "cont", "Migration is not finalized yet")
        self.refused(self.source, "migrate_cancel", CANNOT_CANCEL)
        self.attempt_fails(self.source, self.direct, "onnection refused")
        self.assertFalse(self.source.running())


@unittest.skipUnless(os.geteuid() == 0, "network namespaces need root")
class Cuts(PostcopyCase):
    """A link that is really cut: packets are lost, and nobody is told."""

    def setUp(self):
        super().setUp()
        self.net = self.enterContext(Namespaces())
        self.source = self.started("src", prefix=self.net.prefix(0))
        self.destination = self.start("dst", incoming=True, prefix=self.net.prefix(1))
        for vm in (self.source, self.destination):
            short(vm)
        self.there = self.to_postcopy(self.source, self.destination, f"tcp:{self.net.addresses[1]}:4444")

    def cut(self):
        marks = [len(vm.qmp.events) for vm in (self.source, self.destination)]
        self.net.cut()
        self.wait_paused(self.source, self.destination, marks)

    def begin_to_resume(self, mark):
        """The answer comes when it has succeeded or failed, or after two seconds."""
        resuming = threading.Thread(target=self.source.qmp.execute, args=("migrate",), kwargs={"uri": self.there, "resume": True})
        resuming.start()
        self.source.qmp.wait_event("MIGRATION", since=mark, status="postcopy-recover-setup")
        return resuming

    def test_for_good_and_restored_later(self):
        self.cut()
        for vm in (self.source, self.destination):
            self.assertIn("192.0.2.", vm.migration()["error-desc"])
        self.attempt_fails(self.source, self.there, "192.0.2.2")  # the deadline of the connect
        # A user who does not wait for that.
        short(self.source, connect=600_000)
        mark = len(self.source.qmp.events)
        resuming = self.begin_to_resume(mark)
        other = Qmp(self.source.cli_path)  # the first one has no answer yet
        self.addCleanup(other.close)
        other.execute("migrate-pause")
        resuming.join()
        self.assert_attempt_failed(self.source, mark)
        # The link comes back while the connection is being set up.
        marks = [len(vm.qmp.events) for vm in (self.source, self.destination)]
        resuming = self.begin_to_resume(marks[0])
        self.net.restore()
        resuming.join()
        for vm, mark in zip((self.source, self.destination), marks):
            vm.qmp.wait_event("MIGRATION", since=mark, status=ACTIVE)
        # And is cut again, and again comes back.
        self.cut()
        self.net.restore()
        self.recover(self.source, self.destination, self.there)
        self.complete(self.source, self.destination)

    def test_automatic_recovery(self):
        """Attempts are used up, or the time; more of them succeed once the link is back; a user's pause stops it."""
        short(self.source, connect=200)
        automatic = lambda **values: self.source.set_parameters(  # noqa: E731
            **{f"x-pageferry-recover-{name.replace('_', '-')}": value for name, value in values.items()})
        automatic(attempts=2, backoff=10)
        mark = len(self.source.qmp.events)
        self.cut()
        wait_until(lambda: "automatic recovery gives up: 2 failed attempts;" in self.source.errors(), "it does not give up")
        self.assertEqual(self.statuses(self.source, mark), [PAUSED, SETUP, PAUSED, SETUP, PAUSED])
        self.assertEqual(self.source.migration()["status"], PAUSED)
        automatic(attempts=1000)
        self.net.restore()
        self.source.qmp.wait_event("MIGRATION", since=mark, status=ACTIVE)
        automatic(time_limit=700)
        mark = len(self.source.qmp.events)
        self.cut()
        wait_until(lambda: "in the time limit of 700 ms" in self.source.errors(), "it does not give up")
        self.assertEqual(self.source.migration()["status"], PAUSED)
        self.assertIn(SETUP, self.statuses(self.source, mark))
        short(self.source, connect=5000)
        tried = len(self.source.qmp.events)
        automatic(time_limit=0)
        self.source.qmp.wait_event("MIGRATION", since=tried, status=SETUP)
        self.net.restore()
        self.source.qmp.wait_event("MIGRATION", since=mark, status=ACTIVE)
        self.destination.wait_status(ACTIVE)
        mark = len(self.source.qmp.events)
        self.pause(self.source, self.destination)
        time.sleep(0.5)  # fifty times the wait before an attempt; that none comes is what is looked for
        self.assertEqual(self.statuses(self.source, mark), [PAUSED])
        self.recover(self.source, self.destination, self.there)
        self.complete(self.source, self.destination)


if __name__ == "__main__":
    main()
