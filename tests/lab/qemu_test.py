#!/usr/bin/env python3
"""QEMU guests that move within the lab: the scenarios of tests/integration/traces_test.py, over a soft-RoCE device.

qemu_test.py BUILD-DIRECTORY [--scheme tcp|rdma] [CLASS[.METHOD]...]; exit status 77: the lab is not on this host. QEMU is emulated by an
emulated processor there, so that the guests are small.
"""
import argparse
import os
import sys
import unittest

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
sys.path.insert(0, ROOT)
from lab import host, nested, testing  # noqa: E402
from lab.machine import Machine  # noqa: E402

BUILD = os.path.join(ROOT, "build", "release")
LIMIT = 900.0
SCHEME = "rdma"


class Qemu(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        image, kernel = host.prepare(build=BUILD, added=nested.paths())
        cls.machine = Machine(image, kernel, memory=nested.MEMORY, mtu=9000, limit=LIMIT)
        cls.addClassCleanup(cls.machine.close)
        cls.machine.wait_ready()

    def scenario(self, name, address=None):
        """It ends well, and leaves no file of a guest's RAM and no verbs object."""
        result = self.machine.run(["python3", "tests/integration/traces_test.py", os.path.join(BUILD, "bin"), "--scheme", SCHEME,
                                   "--host", address or self.machine.address, "--small", f"Network.test_{name}"], timeout=300)
        self.assertEqual(result.status, 0, (result.stdout + result.stderr).decode(errors="replace"))
        left = self.machine.run("ls /dev/shm; for kind in qp mr cm_id; do rdma resource show $kind | grep -E 'comm (pageferry|qemu)'; done").stdout
        self.assertEqual(left, b"", "something is left")

    def test_precopy(self):
        self.scenario("precopy")

    def test_precopy_over_ipv6(self):
        self.scenario("precopy", self.machine.address6)

    def test_precopy_dead_port(self):
        self.scenario("precopy_dead_port")

    def test_precopy_cancel(self):
        self.scenario("precopy_cancel")

    def test_pre_switchover(self):
        self.scenario("pre_switchover")

    def test_refusals_idle(self):
        self.scenario("refusals_idle")


@unittest.skipUnless(SCHEME == "rdma", "an RDMA device fails")
class QemuFaults(unittest.TestCase):
    def test_port_down(self):
        image, kernel = host.prepare(build=BUILD, added=nested.paths())
        with Machine(image, kernel, memory=nested.MEMORY, mtu=9000, limit=LIMIT) as machine:  # of its own: what went down may not come up whole
            machine.wait_ready()
            result = machine.run(["python3", "tests/lab/guest_faults.py", os.path.join(BUILD, "bin"), "--scheme", "rdma", "--host", machine.address,
                                  "GuestFaults.test_port_down_in_mid_migration"], timeout=300)
            self.assertEqual(result.status, 0, (result.stdout + result.stderr).decode(errors="replace"))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        BUILD = os.path.abspath(sys.argv.pop(1))
    words = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    words.add_argument("--scheme", choices=("tcp", "rdma"), default=SCHEME)
    given, rest = words.parse_known_args()
    SCHEME = given.scheme
    testing.main([sys.argv[0], *rest])
