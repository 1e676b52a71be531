#!/usr/bin/env python3
"""A balloon in the middle of a postcopy: a Linux guest gives memory back to the host, takes it again, and never sees a wrong page.

Needs a Debian kernel and a static busybox, as ./dev demo --linux keeps them in the cache; it is skipped where there are none.
"""
import glob
import os
import re

from postcopy_common import ACTIVE, MIB, PostcopyCase
from under_pageferry import main, program, wait_until

import linux_guest  # where it is, the one above has said

CACHE = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "pageferry")
MEMORY = 256       # MiB
WORKING_SET = 24   # MiB that memtest rewrites and checks
INFLATED = 160     # MiB left to the guest
# Takes memory and gives it back all the time, so that what the balloon returned is used.
CHURN = """/bin/busybox mount -t devtmpfs dev /dev
while true; do /bin/busybox dd if=/dev/zero of=/churn bs=1M count=48 2>/dev/null; /bin/busybox rm /churn; done &"""
MODULES = ("virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_balloon")


class Balloon(PostcopyCase):
    ballast = False

    def setUp(self):
        super().setUp()
        kernels = sorted(glob.glob(f"{CACHE}/kernel/root/boot/vmlinuz-*"))
        busybox = f"{CACHE}/busybox/root/bin/busybox"
        if not kernels or not os.path.exists(busybox):
            self.skipTest(f"no kernel or busybox in {CACHE}: ./dev demo --linux fetches them")
        tree = f"{CACHE}/kernel/root/lib/modules/{os.path.basename(kernels[-1]).removeprefix('vmlinuz-')}"
        modules = [path for name in MODULES for path in glob.glob(f"{tree}/kernel/drivers/virtio/{name}.ko")]
        image = linux_guest.make_initramfs(self.work.file("initramfs.gz"), busybox, program("guest/memtest"), WORKING_SET, 4711, modules, CHURN)
        self.machine = {"memory": MEMORY, "extra": [*linux_guest.arguments(kernels[-1], image), "-device", "virtio-balloon-pci,id=balloon0"]}

    def passes(self, vm, more=2):
        """memtest goes on, and finds nothing."""
        done = vm.serial().count("pass ")
        wait_until(lambda: vm.serial().count("pass ") >= done + more or "CORRUPT" in vm.serial(),
                   lambda: f"{vm.name}'s memtest stands still: {vm.serial()[-300:]}", timeout=180)
        self.assertNotIn("CORRUPT", vm.serial())

    def balloon(self, vm, mib):
        vm.qmp.execute("balloon", value=mib * MIB)
        wait_until(lambda: abs(vm.qmp.execute("query-balloon")["actual"] - mib * MIB) <= 4 * MIB,
                   lambda: f"the balloon is {vm.qmp.execute('query-balloon')}", timeout=180)

    def test_in_the_middle_of_a_postcopy(self):
        source = self.start("src", **self.machine)
        source.wait_serial("pass ", timeout=180)
        self.assertTrue(re.search(r"Linux .* MiB", source.serial()))
        destination = self.start("dst", incoming=True, **self.machine)
        self.balloon(source, 220)  # some is out already
        self.to_postcopy(source, destination)
        self.passes(destination)
        self.balloon(destination, INFLATED)
        self.passes(destination)
        self.balloon(destination, MEMORY)
        self.passes(destination)
        self.balloon(destination, 200)
        self.assertEqual(source.migration()["status"], ACTIVE)
        self.pause(source, destination)
        uri = self.uri()
        destination.qmp.execute("migrate-recover", uri=uri)
        self.recover(source, destination, uri)
        self.balloon(destination, MEMORY)
        source.set_parameters(max_postcopy_bandwidth=0)
        source.wait_status("completed")
        destination.wait_status("completed")
        self.balloon(destination, INFLATED)
        self.balloon(destination, MEMORY)
        self.passes(destination, 4)


if __name__ == "__main__":
    main()
