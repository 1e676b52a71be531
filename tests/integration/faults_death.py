#!/usr/bin/env python3
"""Death at every phase: QEMU, the mover or the monitor process of either side is killed, and no guest is lost.

faults_death.py BUILD/bin [unittest options]
"""
import os
import signal

from faults_common import FaultCase, main, peer
from faults_proxy import Proxy
from qemu_pair import wait_until

# Where a migration is held, by the message that is withheld on its way. To the source: setup until its peer has answered Hello; device
# from the end of device state to the permit.
BEFORE_ACTIVE = "HelloReply"
NO_GUEST_LOADED = "RamFinal"
LOADED = "DeviceLoaded"


class Death(FaultCase):
    def begin(self, source, held, phase, exit_on_error=None):
        """A migration that stands still in a phase of the source. Answers the destination and the relay between."""
        destination, uri = self.listening(exit_on_error=exit_on_error)
        proxy = self.enterContext(Proxy(uri))
        events = len(source.qmp.events)
        source.set_capabilities(pause_before_switchover=phase == "pre-switchover")
        if phase == "active":
            source.hold()
        else:
            source.let_go()
        if held:
            proxy.hold(held)
        source.qmp.execute("migrate", uri=proxy.uri)
        if held:
            proxy.wait_held()
        source.qmp.wait_event("MIGRATION", since=events, status=phase)
        if phase == "active":
            wait_until(lambda: destination.migration()["status"] == "active", "the destination is not active")
        return destination, proxy

    def assert_source_failed(self, source, events, *words):
        error = source.wait_status("failed").get("error-desc", "")
        for word in words:
            self.assertIn(word, error)
        wait_until(lambda: source.statuses(events)[-2:] == ["failing", "failed"], lambda: f"states: {source.statuses(events)}")
        source.wait_no_mover()
        source.set_capabilities(pause_before_switchover=False)
        self.assert_goes_on(source)

    def assert_destination_ended(self, destination):
        destination.wait_process_end()
        self.assertIn("failed", destination.statuses())
        wait_until(lambda: not destination.helper("pageferry-monitor") and not destination.mover(), "a helper outlived QEMU")

    PHASES = (("setup", BEFORE_ACTIVE), ("active", None), ("pre-switchover", None), ("device", NO_GUEST_LOADED), ("device", LOADED))

    def test_source_mover(self):
        source = self.source()
        for phase, held in self.PHASES:
            with self.subTest(phase=phase, held=held):
                events = len(source.qmp.events)
                destination, proxy = self.begin(source, held, phase)
                source.kill_mover()
                self.assert_source_failed(source, events, "mover")
                proxy.cut()
                self.assert_left_behind(destination, held)
        self.assert_moves(source)

    def test_destination_mover(self):
        source = self.source()
        for phase, held in self.PHASES:
            with self.subTest(phase=phase, held=held):
                events = len(source.qmp.events)
                destination, proxy = self.begin(source, held, phase)
                destination.kill_mover()
                if held == LOADED:
                    proxy.hold(None)  # it comes through, and then the end
                    self.assertIn(source.wait_status("failed", "postcopy-paused")["status"], ("failed", "postcopy-paused"))
                    if source.migration()["status"] == "postcopy-paused":
                        self.assertFalse(source.running())
                        return
                proxy.cut()
                self.assert_source_failed(source, events)
                self.assert_left_behind(destination, held)
        self.assert_moves(source)

    def assert_left_behind(self, destination, held):
        """What a destination becomes whose migration has failed."""
        if held == BEFORE_ACTIVE:
            return  # to it, that was a stranger; or it has ended
        if held == LOADED:
            # The source may have sent its permit: not this side's to decide.
            destination.wait_status("postcopy-paused")
            self.assertFalse(destination.running())
        else:
            self.assert_destination_ended(destination)
        destination.close()

    def test_destination_qemu(self):
        source = self.source()
        for phase, held in self.PHASES:
            with self.subTest(phase=phase, held=held):
                events = len(source.qmp.events)
                destination, proxy = self.begin(source, held, phase)
                destination.kill()
                wait_until(lambda: not destination.helper("pageferry-monitor") and not destination.mover(), "a helper outlived QEMU")
                proxy.cut()
                self.assert_source_failed(source, events)
        self.assert_moves(source)

    def test_source_qemu(self):
        for phase, held in self.PHASES:
            with self.subTest(phase=phase, held=held):
                source = self.source()
                destination, proxy = self.begin(source, held, phase)
                source.kill()
                wait_until(lambda: not source.helper("pageferry-monitor") and not source.mover(), "a helper outlived QEMU")
                proxy.cut()
                self.assert_left_behind(destination, held)
                if held == BEFORE_ACTIVE:
                    # It goes on waiting, for a source that comes.
                    source.close()
                    source = self.source()
                    source.let_go()
                    source.qmp.execute("migrate", uri=proxy.uri)
                    destination.wait_status("completed")
                    self.assert_goes_on(destination)
                source.close()
                destination.close()

    def test_destination_stays_if_told_so(self):
        source = self.source()
        destination, proxy = self.begin(source, None, "active", exit_on_error=False)
        source.kill_mover()
        error = destination.wait_status("failed").get("error-desc", "")
        self.assertTrue(error)
        self.assertTrue(destination.alive())
        self.assertFalse(destination.running())
        self.assert_moves(source)

    def test_monitor_process(self):
        source = self.source()
        destination, _ = self.begin(source, None, "active")
        first, last = source.helper("pageferry-monitor"), len(source.serial())
        os.kill(first, signal.SIGKILL)
        source.wait_no_mover()
        self.assertTrue(wait_until(lambda: source.qmp.closed, "the monitor's connection goes on"))
        self.assertTrue(source.alive())
        self.assertGreaterEqual(len(source.serial()), last)
        self.assert_burns_cpu(source)
        self.assert_destination_ended(destination)

    def assert_burns_cpu(self, guest):
        """QEMU's vCPU runs: the guest's loop takes processor time."""
        first = cpu_ticks(guest.process.pid)
        wait_until(lambda: cpu_ticks(guest.process.pid) > first + 10, "the guest does not run")


class Setup(FaultCase):
    def test_source_mover_while_connecting(self):
        source = self.source()

        def silent(caller):
            caller.recv(1)
        with peer(silent) as uri:
            source.qmp.execute("migrate", uri=uri)
            self.assertEqual(source.migration()["status"], "setup")
            source.kill_mover()
            self.assertIn("mover", source.wait_status("failed")["error-desc"])
        self.assert_goes_on(source)
        self.assert_moves(source)

    def test_waiting_destination(self):
        destination, _ = self.listening()
        destination.kill_mover()
        destination.wait_process_end()
        self.assertEqual(destination.statuses(), ["setup", "failed"])


def cpu_ticks(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


if __name__ == "__main__":
    main()
