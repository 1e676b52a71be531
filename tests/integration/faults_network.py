#!/usr/bin/env python3
"""The network is cut during precopy: found within the dead-peer time on both sides, the guest goes on, and can migrate again.

faults_network.py BUILD/bin [unittest options]      (root: network namespaces)
"""
import os
import time
import unittest

from faults_common import FaultCase, main
from qemu_pair import Namespaces

DEAD_PEER = 2000  # ms


@unittest.skipUnless(os.geteuid() == 0, "network namespaces need root")
class Network(FaultCase):
    def setUp(self):
        super().setUp()
        self.net = self.enterContext(Namespaces())

    def begin(self, dead_peer=DEAD_PEER):
        source = self.source(prefix=self.net.prefix(0))
        destination = self.destination(prefix=self.net.prefix(1))
        for guest in (source, destination):
            guest.impatient(dead_peer)
        uri = f"tcp:{self.net.addresses[1]}:4444"
        destination.qmp.execute("migrate-incoming", uri=uri)
        source.hold()
        source.qmp.execute("migrate", uri=uri)
        source.wait_status("active")
        destination.wait_status("active")
        return source, destination

    def assert_loss_is_seen(self, source, destination):
        events = len(source.qmp.events)
        self.assertIn("192.0.2.2", source.wait_status("failed")["error-desc"])
        source.qmp.wait_event("MIGRATION", since=events, status="failed")
        self.assertEqual(source.statuses(events), ["failing", "failed"])
        destination.wait_process_end()
        self.assertIn("failed", destination.statuses())
        self.assert_goes_on(source)

    def test_cut(self):
        source, destination = self.begin()
        self.net.cut()
        self.assert_loss_is_seen(source, destination)
        # While the link is down, it is said what cannot be reached.
        source.qmp.execute("migrate", uri=f"tcp:{self.net.addresses[1]}:4444")
        self.assertIn("192.0.2.2", source.wait_status("failed")["error-desc"])
        self.net.restore()
        self.assert_moves(source, host=self.net.addresses[1], prefix=self.net.prefix(1))

    def test_carrier_is_lost(self):
        source, destination = self.begin()
        self.net.set_link(up=False)
        self.assert_loss_is_seen(source, destination)
        self.net.set_link(up=True)
        self.assert_moves(source, host=self.net.addresses[1], prefix=self.net.prefix(1))

    def test_short_cut_is_survived(self):
        source, destination = self.begin(dead_peer=20_000)
        self.net.cut()
        time.sleep(1)  # the length of the cut, far below the dead-peer time
        self.net.restore()
        source.let_go()
        source.wait_status("completed")
        destination.wait_status("completed")
        self.assertFalse(source.running())
        self.assert_goes_on(destination)


if __name__ == "__main__":
    main()
