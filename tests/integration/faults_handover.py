#!/usr/bin/env python3
"""The connection ends in the moment of the hand-over, at each of its messages: never do both guests run, and a resume settles it.

faults_handover.py BUILD/bin [unittest options]
"""
from faults_common import FaultCase, connect_to, free_port, main, shut
from faults_proxy import Proxy
from qemu_pair import wait_until


class HandOver(FaultCase):
    def cut_at(self, message):
        source, (destination, uri) = self.source(), self.listening()
        proxy = self.enterContext(Proxy(uri))
        source.let_go()
        proxy.hold(message)
        source.qmp.execute("migrate", uri=proxy.uri)
        proxy.wait_held()
        proxy.cut()
        return source, destination, proxy

    def resume(self, source, destination, proxy):
        """migrate resume=true to the same URI, until both have completed."""
        events = len(source.qmp.events)
        source.qmp.execute("migrate", uri=proxy.uri, resume=True)
        source.wait_status("completed")
        destination.wait_status("completed")
        source.qmp.wait_event("MIGRATION", since=events, status="completed")
        self.assertEqual(source.statuses(events)[0], "postcopy-recover-setup")
        self.assert_goes_on(destination)
        self.assertFalse(source.running())

    def test_before_the_source_knows_that_all_is_loaded(self):
        source, destination, _ = self.cut_at("DeviceLoaded")
        source.wait_status("failed")
        destination.wait_status("postcopy-paused")
        self.assert_goes_on(source)
        self.assertFalse(destination.running())
        self.assert_moves(source)

    def test_permit_is_lost(self):
        source, destination, proxy = self.cut_at("Permit")
        source.wait_status("postcopy-paused")
        destination.wait_status("postcopy-paused")
        self.assertFalse(source.running())
        self.assertFalse(destination.running())
        self.resume(source, destination, proxy)

    def test_permit_is_lost_more_than_once(self):
        source, destination, proxy = self.cut_at("Permit")
        for attempt in range(2):
            source.wait_status("postcopy-paused")
            destination.wait_status("postcopy-paused")
            proxy.hold("Permit" if attempt else "HelloReply")
            events = len(source.qmp.events)
            source.qmp.execute("migrate", uri=proxy.uri, resume=True)
            proxy.wait_held()
            proxy.cut()
            source.qmp.wait_event("MIGRATION", since=events, status="postcopy-paused")
            self.assertTrue(source.migration().get("error-desc"))
        # The mover that waits dies; another one takes its place.
        first = destination.mover()
        destination.kill_mover()
        wait_until(lambda: destination.mover() not in (None, first), "no other mover")
        wait_until(lambda: accepts(proxy.target), "the other mover does not listen")
        self.resume(source, destination, proxy)

    def test_nobody_there_to_resume_with(self):
        source, destination, proxy = self.cut_at("Permit")
        source.wait_status("postcopy-paused")
        events = len(source.qmp.events)
        source.qmp.execute("migrate", uri=f"tcp:127.0.0.1:{free_port()}", resume=True)
        source.qmp.wait_event("MIGRATION", since=events, status="postcopy-paused")
        self.assertIn("nobody listens", source.migration()["error-desc"])
        self.resume(source, destination, proxy)

    def test_word_that_it_runs_is_lost(self):
        source, destination, proxy = self.cut_at("Running")
        source.wait_status("postcopy-paused")
        destination.wait_status("completed")
        self.assertFalse(source.running())
        self.assert_goes_on(destination)
        self.resume(source, destination, proxy)

    def test_goodbye_is_lost(self):
        source, destination, _ = self.cut_at("Goodbye")
        source.wait_status("completed")
        destination.wait_status("completed")
        self.assertFalse(source.running())
        self.assert_goes_on(destination)


def accepts(uri):
    try:
        shut(connect_to(uri))
        return True
    except ConnectionRefusedError:
        return False


if __name__ == "__main__":
    main()
