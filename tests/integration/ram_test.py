#!/usr/bin/env python3
"""Guest RAM in every form Pageferry takes it, and that memory nobody touched costs nothing."""
import json
import os
import re
from contextlib import contextmanager

from under_pageferry import Case, drop_in, guest_image, main, plain, program

HUGE_PAGES = "/proc/sys/vm/nr_hugepages"
MIB = 1 << 20


def backend(name, size_mib, path):
    return ["-object", f"memory-backend-file,id={name},size={size_mib}M,mem-path={path},share=on"]


class Ram(Case):
    def moves(self, source, destination):
        """Each side's options; a guest moves between two that are so."""
        self.move(self.started("src", **source), self.start("dst", incoming=True, **destination))

    def named(self, name):
        """A file QEMU makes in /dev/shm, and leaves there: so ours to remove."""
        path = self.in_shm(name)
        self.addCleanup(lambda: os.path.exists(path) and os.unlink(path))
        return path

    def test_plain(self):
        self.moves({"memory": "70000k"}, {"memory": "70000k"})  # not a whole number of MiB

    def test_q35(self):
        self.moves({"machine": "q35"}, {"machine": "q35"})

    def test_directory(self):
        side = {"machine": "pc,memory-backend=ram0", "extra": backend("ram0", 64, "/dev/shm")}
        self.moves(side, side)

    def test_named_file(self):
        self.moves(*({"machine": "pc,memory-backend=ram0", "extra": backend("ram0", 64, self.named(side))} for side in ("src", "dst")))

    def test_named_file_to_memfd(self):
        """What the file is called and where it lies is each side's own business; the block's name is not."""
        options = ["-object", f"memory-backend-file,id=pc.ram,size=64M,mem-path={self.named('src')},share=on,"
                   "x-use-canonical-path-for-ramblock-id=off"]
        self.moves({"machine": "pc,memory-backend=pc.ram", "extra": options}, {})

    def test_numa(self):
        """The pattern lies across both nodes."""
        def nodes(name):
            return {"extra": [*backend("ram0", 32, self.named(name)), *backend("ram1", 32, "/dev/shm"),
                              "-numa", "node,memdev=ram0", "-numa", "node,memdev=ram1"]}
        self.moves(nodes("src"), nodes("dst"))

    def test_huge_pages(self):
        with huge_pages(self, 2 * 64 // 2):
            folder = self.work.file("huge")
            os.mkdir(folder)
            # Mounted for each QEMU alone, so that the mount goes with its processes.
            mount = ["unshare", "--mount", "sh", "-c", f"mount -t hugetlbfs -o pagesize=2M none {folder} && exec \"$@\"", "sh"]
            side = {"machine": "pc,memory-backend=ram0", "extra": backend("ram0", 64, folder), "launch": drop_in(mount)}
            self.moves(side, side)

    def test_untouched_memory_costs_nothing(self):
        writer = guest_image.make_image(program("guest/guest_writer.img"), self.work.file("small.img"), end_mib=8)
        source = self.started("src", memory=2048, image=writer)
        destination = self.start("dst", memory=2048, image=writer, incoming=True)
        before = allocated(destination)
        self.move(source, destination)
        self.assertLess(allocated(destination) - before, 16 * MIB)
        self.assertLess(allocated(source), 64 * MIB)
        figures = source.migration()["ram"]
        self.assertGreaterEqual(figures["total"], 2048 * MIB)
        self.assertGreater(figures["duplicate"] * figures["page-size"], 1900 * MIB)

    def test_what_the_source_does_not_have_is_gone_at_the_destination(self):
        """The destination's file held other data before: it arrives as holes."""
        path = self.named("dst")
        with open(path, "wb") as old:
            old.write(b"\xee" * (64 * MIB))
        source = self.started("src", machine="pc,memory-backend=ram0", extra=backend("ram0", 64, self.named("src")))
        destination = self.start("dst", machine="pc,memory-backend=ram0", extra=backend("ram0", 64, path), incoming=True)
        self.move(source, destination)
        self.assertEqual(destination.read_ram(50 * MIB, 4 * MIB), bytes(4 * MIB))
        self.assertLess(os.stat(path).st_blocks * 512, 60 * MIB)

    def test_backends_without_a_file(self):
        """Each gets one, and a guest moves from any of them to any other under the same name."""
        sides = [{"machine": "pc,memory-backend=ram0", "extra": ["-object", f"{kind},id=ram0,size=64M"]}
                 for kind in ("memory-backend-ram", "memory-backend-memfd,seal=on", "memory-backend-ram,prealloc=on,share=off")]
        sides.append({"machine": "pc,memory-backend=ram0", "extra": backend("ram0", 64, "/dev/shm")})
        guests = [self.started("vm0", **sides[0]), *(self.start(f"vm{n}", incoming=True, **sides[n]) for n in (1, 2, 3))]
        for source, destination in zip(guests, guests[1:]):
            self.move(source, destination)

    def test_an_old_machines_ram_block_keeps_its_name(self):
        """Before machine types 4.0, only a backend without a file has the plain name."""
        for kind, name in (("memory-backend-ram", "ram0"), ("memory-backend-memfd", "/objects/ram0")):
            with self.subTest(kind=kind):
                options = {"machine": "pc-i440fx-3.1,memory-backend=ram0", "extra": ["-object", f"{kind},id=ram0,size=64M"]}
                blocks = [self.ram_blocks(self.start(f"{kind}-{n}", launch=launch, **options)) for n, launch in enumerate((drop_in(), plain()))]
                self.assertEqual(blocks[0], blocks[1])
                self.assertIn(name, blocks[0])

    def ram_blocks(self, vm):
        lines = vm.qmp.execute("human-monitor-command", command_line="info ramblock").splitlines()
        return sorted(line.split()[0] for line in lines[1:])

    def test_numa_as_libvirt_writes_it(self):
        """Two backends without a file, as JSON; the pattern lies across both nodes."""
        def node(number):
            ram = {"qom-type": "memory-backend-ram", "id": f"ram-node{number}", "size": 32 * MIB, "host-nodes": [0], "policy": "preferred"}
            return ["-object", json.dumps(ram), "-numa", f"node,nodeid={number},memdev=ram-node{number}"]
        side = {"extra": [*node(0), *node(1)]}
        source = self.started("src", **side)
        nodes = {backend["id"]: backend for backend in source.qmp.execute("query-memdev")}
        self.assertEqual([nodes[f"ram-node{n}"]["size"] for n in (0, 1)], 2 * [32 * MIB])
        self.assertEqual(nodes["ram-node0"]["host-nodes"], [0])
        self.move(source, self.start("dst", incoming=True, **side))

    def test_a_private_file_is_refused_with_the_line_to_write(self):
        with self.assertRaisesRegex(RuntimeError, r"use -object memory-backend-file,id=ram0,size=64M,mem-path=/dev/shm,share=on"):
            self.start("vm", machine="pc,memory-backend=ram0", extra=["-object", "memory-backend-file,id=ram0,size=64M,mem-path=/dev/shm"])

    def test_private_huge_pages_are_refused_with_the_line_to_write(self):
        with self.assertRaisesRegex(RuntimeError, r"use -object memory-backend-file,id=ram0,size=64M,mem-path=/dev/hugepages,share=on"):
            self.start("vm", machine="pc,memory-backend=ram0", extra=["-object", "memory-backend-memfd,id=ram0,size=64M,hugetlb=on"])


def allocated(vm):
    """Bytes the guest's RAM takes: of the memory file Pageferry made for it."""
    folder = f"/proc/{vm.process.pid}/fd"
    files = {os.stat(f"{folder}/{fd}").st_ino: os.stat(f"{folder}/{fd}").st_blocks * 512 for fd in os.listdir(folder)
             if re.match(r"/(memfd:)?pageferry-pc\.ram", os.readlink(f"{folder}/{fd}"))}
    assert len(files) == 1, files
    return next(iter(files.values()))


@contextmanager
def huge_pages(case, more):
    """So many free 2 MiB pages, while it lasts; skips where the machine cannot have them."""
    with open("/proc/meminfo", encoding="utf-8") as file:
        if re.search(r"Hugepagesize: +(\d+) kB", file.read()).group(1) != "2048":
            case.skipTest("the machine's huge pages are not of 2 MiB")
    with open(HUGE_PAGES, encoding="utf-8") as file:
        before = file.read()

    def write(text):
        with open(HUGE_PAGES, "w", encoding="utf-8") as target:
            target.write(text)

    def free():
        with open("/proc/meminfo", encoding="utf-8") as figures:
            return int(re.search(r"HugePages_Free: +(\d+)", figures.read()).group(1))
    try:
        write(str(int(before) + more))
    except OSError as error:
        case.skipTest(f"huge pages cannot be reserved: {error}")
    try:
        if free() < more:
            case.skipTest(f"the machine has only {free()} free huge pages of the {more} needed")
        yield
    finally:
        write(before)  # what guests still hold becomes surplus, and goes with them


if __name__ == "__main__":
    main()
