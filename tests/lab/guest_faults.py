#!/usr/bin/env python3
"""What becomes of a QEMU guest when its RDMA device fails in mid-migration. Run in the lab by qemu_test.py: it takes the machine's network
interface down.

guest_faults.py BUILD/bin --scheme rdma --host ADDRESS [unittest options]
"""
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "integration"))
from under_pageferry import SLOW, Case, free_port, main  # noqa: E402


class GuestFaults(Case):
    def test_port_down_in_mid_migration(self):
        """It has failed, with the port in its error; the guest goes on, and moves over TCP while the port is still down. The kernel may
        keep what was RDMA's until the port is up again: nobody waits for that."""
        source, destination = self.pair()
        self.begin(source, destination, parameters={**SLOW, "x-pageferry-dead-peer-timeout": 5000, "x-pageferry-rdma": "required"})
        source.wait_status("active")
        subprocess.run(["ip", "link", "set", "veth0", "down"], check=True)
        self.addCleanup(subprocess.run, ["ip", "link", "set", "veth0", "up"], check=True)
        error = source.wait_status("failed")["error-desc"]
        self.assertIn("the port of the RDMA device is down (IBV_EVENT_PORT_ERR)", error)
        self.assertTrue(source.running())
        source.wait_writing()
        self.assert_intact(source)
        destination.close()
        source.qmp.execute("migrate-set-parameters", **{"x-pageferry-rdma": "preferred"})
        self.move(source, self.start("again", incoming=True), uri=f"tcp:127.0.0.1:{free_port()}")
        subprocess.run(["ip", "link", "set", "veth0", "up"], check=True)


if __name__ == "__main__":
    main()
