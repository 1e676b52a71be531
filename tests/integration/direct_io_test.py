#!/usr/bin/env python3
"""Disks past the page cache (cache=none): the kernel pins guest RAM, and the disk writes it when it likes, without a page fault.

The guest reads from a slow disk, one page after the other. A page whose read was under way when it was copied, and which was then
taken for clean, would show an old pass at the destination.
"""
import os
import signal
import struct
import subprocess
import unittest

from under_pageferry import FAST, HERE, SLOW, Case, guest_image, main, program, wait_until

PYTHON = "/usr/bin/python3"  # the one that has the distribution's packages
SLOW_DISK = os.path.join(HERE, "..", "guest", "slow_disk.py")
READER_BASE, READER_PAGES, READER_STRIDE, PAGE = 0x10000, 64, 1024, 4096  # guest.S
READ_MILLISECONDS = 20


def problem_of(ram):
    """What is wrong with the pages that the disk reader has filled, or None."""
    passes = []
    for page in range(READER_PAGES):
        sectors = [struct.unpack_from("<128I", ram, page * PAGE + i * 512) for i in range(8)]
        numbers = [words[0] for words in sectors]
        if any(set(words) != {words[0]} for words in sectors) or numbers != list(range(numbers[0], numbers[0] + 8)):
            return f"page {page} is of several reads: {numbers}"
        turn, place = divmod(numbers[0], READER_STRIDE)
        if place != page * 8:
            return f"page {page} holds what was read for page {place // 8}"
        passes.append(turn)
    drops = [(page, was, now) for page, (was, now) in enumerate(zip(passes, passes[1:]), 1) if was != now]
    return None if not drops or (len(drops) == 1 and drops[0][1] == drops[0][2] + 1) else f"passes {passes}"


def started(pid):
    """When a process was started, in the kernel's ticks."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        return int(stat.read().rsplit(")", 1)[1].split()[19])


def can_have_a_slow_disk():
    """Root, /dev/fuse, and fusepy: slow_disk.py gets as far as saying how it is used."""
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        return False
    return subprocess.run([PYTHON, SLOW_DISK], capture_output=True, check=False).returncode == 2


@unittest.skipUnless(can_have_a_slow_disk(), "needs root, /dev/fuse and python3-fusepy")
class DirectIo(Case):
    def setUp(self):
        super().setUp()
        self.folder = self.work.file("slow")
        os.mkdir(self.folder)
        server = subprocess.Popen([PYTHON, SLOW_DISK, self.folder, str(READ_MILLISECONDS)],
                                  stdin=subprocess.PIPE, env=self.work.environment())
        self.addCleanup(lambda: (server.stdin.close(), server.wait(30)))
        self.disk = os.path.join(self.folder, "disk")
        wait_until(lambda: os.path.exists(self.disk), "the slow disk is not mounted")
        self.image = guest_image.make_image(program("guest/guest_disk_reader.img"), self.work.file("reader.img"))

    def reader(self, name, **options):
        return self.start(name, image=self.image, extra=["-drive", f"file={self.disk},if=none,id=slow,format=raw,cache=none,readonly=on,file.locking=off",
                                                         "-device", "virtio-blk-pci,drive=slow"], **options)

    def direct(self, vm):
        """Whether QEMU has the disk open past the page cache."""
        folder = f"/proc/{vm.process.pid}/fd"
        for number in os.listdir(folder):
            if os.readlink(f"{folder}/{number}") == self.disk:
                with open(f"/proc/{vm.process.pid}/fdinfo/{number}", encoding="utf-8") as info:
                    flags = next(line for line in info if line.startswith("flags:"))
                return bool(int(flags.split()[1], 8) & os.O_DIRECT)
        self.fail("QEMU does not have the disk open")

    def read_passes(self, vm, count):
        vm.wait_serial("P", count=vm.serial().count("P") + count)

    def test_no_read_is_lost(self):
        source, destination = self.reader("src"), self.reader("dst", incoming=True)
        self.read_passes(source, 2)
        self.assertTrue(self.direct(source))
        self.begin(source, destination, parameters=SLOW)
        source.wait_status("active")
        self.assertFalse(self.direct(source))
        self.read_passes(source, 2)
        source.qmp.execute("migrate-set-parameters", **FAST)
        source.wait_status("completed")
        destination.wait_status("completed")
        destination.qmp.execute("stop")
        self.assertIsNone(problem_of(destination.read_ram(READER_BASE, READER_PAGES * PAGE)))
        destination.qmp.execute("cont")
        self.read_passes(destination, 1)
        self.assertTrue(self.direct(destination))
        self.assertTrue(self.direct(source), "as it was, also where the guest has left")

    def test_a_failed_and_a_cancelled_migration_leave_it_direct(self):
        source, destination = self.reader("src"), self.reader("dst", incoming=True)
        self.read_passes(source, 1)
        source.qmp.execute("migrate", uri=self.uri())  # nobody listens
        source.wait_status("failed")
        self.assertTrue(self.direct(source))
        self.begin(source, destination, parameters=SLOW)
        source.wait_status("active")
        source.qmp.execute("migrate_cancel")
        source.wait_status("cancelled")
        self.assertTrue(self.direct(source))
        self.read_passes(source, 1)

    def test_a_monitor_process_that_dies_leaves_it_direct(self):
        source, destination = self.reader("src"), self.reader("dst", incoming=True)
        self.read_passes(source, 1)
        self.begin(source, destination, parameters=SLOW)
        source.wait_status("active")
        self.assertFalse(self.direct(source))
        monitors = [pid for pid, command in self.work.processes().items() if "pageferry-monitor" in command]
        os.kill(min(monitors, key=started), signal.SIGKILL)  # the source was started first
        self.addCleanup(lambda: [os.unlink(path) for path in (source.qmp_path, source.cli_path)])  # nobody is left to do it
        wait_until(lambda: self.direct(source), "the disk stays in the page cache")
        self.read_passes(source, 1)

    def test_a_disk_opened_in_the_middle_fails_the_migration(self):
        source, destination = self.reader("src"), self.reader("dst", incoming=True)
        self.read_passes(source, 1)
        self.begin(source, destination, parameters=SLOW)
        source.wait_status("active")
        other = self.work.file("other.img")
        with open(other, "wb") as file:
            file.truncate(1 << 20)
        source.qmp.execute("blockdev-add", **{"driver": "file", "node_name": "other", "filename": other, "cache": {"direct": True}})
        source.qmp.execute("migrate-set-parameters", **FAST)
        self.assertIn(other, source.wait_status("failed")["error-desc"])
        source.wait_running()
        self.read_passes(source, 1)
        self.assertTrue(self.direct(source))


if __name__ == "__main__":
    main()
