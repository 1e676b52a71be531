#!/usr/bin/env python3
"""Postcopy between real QEMUs: what moves, what the figures say, what is refused, and what is left of it afterwards."""
import os
import re

from faults_proxy import Proxy
from postcopy_common import (ACTIVE, BALLAST, CRAWL, HELD, MIB, TO_POSTCOPY_DESTINATION, TO_POSTCOPY_SOURCE, PostcopyCase, ballast_problem,
                             ram_file)
from ram_test import backend, huge_pages
from under_pageferry import END_MIB, main, wait_until


class Moves(PostcopyCase):
    """Every one of these guests rewrites its memory faster than precopy is allowed to send it."""

    def test_a_guest_that_precopy_cannot_move(self):
        source, destination = self.pair()
        self.to_active(source, destination)
        wait_until(lambda: source.migration()["ram"]["transferred"] > MIB, "nothing is sent")
        source.qmp.execute("migrate-start-postcopy")
        source.qmp.wait_event("MIGRATION", status=ACTIVE)
        destination.qmp.wait_event("RESUME")
        self.assertFalse(source.running())
        destination.wait_writing()
        self.complete(source, destination)
        self.assertEqual(self.statuses(source), [*TO_POSTCOPY_SOURCE, "completed"])
        self.assertEqual(self.statuses(destination), [*TO_POSTCOPY_DESTINATION, "completed"])

    def test_huge_pages(self):
        self.ballast = False
        with huge_pages(self, 2 * 64 // 2):
            folder = self.work.file("huge")
            os.mkdir(folder)
            mount = ["unshare", "--mount", "sh", "-c", f"mount -t hugetlbfs -o pagesize=2M none {folder} && exec \"$@\"", "sh"]
            source, destination = self.pair(machine="pc,memory-backend=ram0", extra=backend("ram0", 64, folder), prefix=mount)
            self.to_postcopy(source, destination)
            self.complete(source, destination)
            self.assertGreater(source.migration()["ram"]["postcopy-requests"], 0)

    def test_several_ram_blocks(self):
        """The pattern lies across both nodes."""
        self.ballast = False
        nodes = [*backend("ram0", 32, "/dev/shm"), *backend("ram1", 32, "/dev/shm"), "-numa", "node,memdev=ram0", "-numa", "node,memdev=ram1"]
        source, destination = self.pair(extra=nodes)
        self.to_postcopy(source, destination)
        self.complete(source, destination)

    def test_the_start_is_remembered_if_it_comes_before_active(self):
        self.tcp_only()
        source, destination = self.pair()
        uri = self.uri()
        proxy = self.enterContext(Proxy(uri))
        proxy.hold("HelloReply")
        destination.qmp.execute("migrate-incoming", uri=uri)
        source.set_parameters(max_bandwidth=CRAWL, downtime_limit=1, max_postcopy_bandwidth=HELD)
        source.qmp.execute("migrate", uri=proxy.uri)
        proxy.wait_held()
        self.assertEqual(source.migration()["status"], "setup")
        source.qmp.execute("migrate-start-postcopy")
        proxy.hold(None)
        destination.qmp.wait_event("RESUME")
        self.complete(source, destination)
        self.assertEqual(self.statuses(source), [*TO_POSTCOPY_SOURCE, "completed"])

    def test_pause_before_switchover(self):
        source, destination = self.pair()
        source.set_capabilities(pause_before_switchover=True)
        self.to_active(source, destination)
        source.qmp.execute("migrate-start-postcopy")
        source.qmp.wait_event("MIGRATION", status="pre-switchover")
        self.assertFalse(source.running())
        self.assertEqual(destination.migration()["status"], "active")
        source.qmp.execute("migrate-continue", state="pre-switchover")
        destination.qmp.wait_event("RESUME")
        self.complete(source, destination)
        self.assertEqual(self.statuses(source), ["setup", "active", "pre-switchover", "device", "postcopy-device", ACTIVE, "completed"])

    def test_cancel_in_pre_switchover(self):
        source, destination = self.pair()
        source.set_capabilities(pause_before_switchover=True)
        self.to_active(source, destination)
        source.qmp.execute("migrate-start-postcopy")
        source.qmp.wait_event("MIGRATION", status="pre-switchover")
        source.qmp.execute("migrate_cancel")
        source.wait_status("cancelled")
        source.wait_running()
        source.wait_writing()
        self.assert_intact(source)
        # Nothing is latched: the next migration is a precopy until it is told otherwise.
        source.set_capabilities(pause_before_switchover=False)
        wait_until(lambda: destination.process.poll() is not None, "the destination goes on")
        second = self.start("second", incoming=True)
        self.to_active(source, second)
        self.assertEqual(source.migration()["status"], "active")
        source.qmp.execute("migrate-start-postcopy")
        second.qmp.wait_event("RESUME")
        self.complete(source, second)

    def test_who_runs(self):
        """A paused guest arrives paused; so does one at a destination with -S, until `cont`."""
        for paused in (True, False):
            with self.subTest(paused=paused):
                source = self.started(f"src{paused}")
                destination = self.start(f"dst{paused}", incoming=True, extra=[] if paused else ["-S"])
                if paused:
                    source.qmp.execute("stop")
                self.to_active(source, destination)
                source.qmp.execute("migrate-start-postcopy")
                destination.qmp.wait_event("MIGRATION", status=ACTIVE)
                self.assertFalse(destination.running())
                source.set_parameters(max_postcopy_bandwidth=0)
                self.finish(source, destination, running=False)
                self.assertFalse([e for e in destination.qmp.events if e.name == "RESUME"])
                destination.qmp.execute("cont")
                destination.wait_writing()
                self.assert_intact(destination)
                for vm in (source, destination):
                    vm.close()

    def test_and_on_to_a_third_and_a_fourth(self):
        """A destination of a postcopy becomes a source, of a precopy and of a postcopy."""
        source, second = self.pair()
        self.to_postcopy(source, second)
        self.complete(source, second)
        source.close()
        third = self.start("third", incoming=True)
        self.move(second, third)
        second.close()
        self.assertEqual(self.statuses(second)[len(TO_POSTCOPY_DESTINATION) + 1:], ["setup", "active", "device", "completed"])
        self.assertNotIn("x-pageferry-postcopy", third.migration())
        fourth = self.start("fourth", incoming=True)
        self.to_postcopy(third, fourth)
        self.refused(fourth, "migrate", "There's a migration process in progress", uri=self.uri())
        self.complete(third, fourth)
        third.close()
        fifth = self.start("fifth", incoming=True)
        self.to_postcopy(fourth, fifth)
        self.complete(fourth, fifth)


class Figures(PostcopyCase):
    def test_query_migrate_on_both_sides(self):
        source, destination = self.pair()
        for vm in (source, destination):
            vm.set_capabilities(postcopy_blocktime=True)
        self.to_postcopy(source, destination)
        destination.wait_writing()
        during = wait_until(lambda: (now := source.migration())["ram"]["postcopy-requests"] > 0 and now, lambda: f"{source.migration()}")
        self.assertEqual(during["status"], ACTIVE)
        self.assertGreater(during["ram"]["remaining"], 0)
        self.assertGreater(during["ram"]["postcopy-bytes"], 0)
        self.assertGreater(during["x-pageferry-postcopy"]["requests"], 0)
        self.assertGreater(during["x-pageferry-postcopy"]["missing"], 0)
        self.assertIn("downtime", during)
        there = destination.migration()
        self.assertEqual(there["status"], ACTIVE)
        self.assertNotIn("postcopy-latency", there)  # QEMU gives them at the end
        self.assertGreater(there["x-pageferry-postcopy"]["latency"]["p50-us"], 0)
        self.complete(source, destination)
        after = source.migration()
        self.assertEqual((after["ram"]["remaining"], after["x-pageferry-postcopy"]["missing"]), (0, 0))
        self.assertGreater(after["ram"]["postcopy-bytes"], len(BALLAST) // 2)
        self.assertGreaterEqual(after["ram"]["postcopy-requests"], during["ram"]["postcopy-requests"])
        self.assertEqual(source.migration(), after)  # the clock stands
        there = destination.migration()
        self.assertEqual(there["x-pageferry-postcopy"]["missing"], 0)
        self.assertGreater(there["postcopy-latency"], 0)
        self.assertGreater(sum(there["postcopy-latency-dist"]), 0)
        self.assertEqual(len(there["postcopy-vcpu-blocktime"]), 1)
        self.assertEqual(len(there["postcopy-vcpu-latency"]), 1)
        self.assertGreater(there["postcopy-blocktime"], 0)
        self.assertIn("postcopy-non-vcpu-latency", there)

    def test_bandwidth(self):
        """The lower limit of both sides holds, and changes in flight; faults are exempt from it."""
        source, destination = self.pair()
        destination.set_parameters(max_postcopy_bandwidth=HELD)
        self.to_postcopy(source, destination)
        missing = lambda: destination.migration()["x-pageferry-postcopy"]["missing"]  # noqa: E731
        source.set_parameters(max_postcopy_bandwidth=0)
        # All of what the guest writes comes by its faults; but for the ballast, and what little else there is.
        wait_until(lambda: missing() < (END_MIB - 8) * MIB, lambda: f"the guest pulls nothing: {missing()}")
        wait_until(lambda: missing() < len(BALLAST) + 4 * MIB, lambda: f"the guest does not pull all: {missing()}")
        self.assertGreater(missing(), len(BALLAST) // 2)
        self.assertEqual(source.migration()["status"], ACTIVE)
        source.set_parameters(max_postcopy_bandwidth=HELD)
        destination.set_parameters(max_postcopy_bandwidth=0)
        self.assertEqual(source.migration()["status"], ACTIVE)
        source.set_parameters(max_postcopy_bandwidth=4 * MIB)
        self.finish(source, destination)


class Refusals(PostcopyCase):
    def test_in_postcopy(self):
        source, destination, _ = self.in_postcopy()
        finalized = "Migration is not finalized yet"
        self.refused(source, "cont", finalized)
        self.refused(source, "migrate_cancel", "Postcopy migration in progress, cannot cancel.")
        self.refused(source, "migrate", "There's a migration process in progress", uri=self.uri())
        self.refused(source, "migrate", "Cannot resume if there is no paused migration", uri=self.uri(), resume=True)
        self.refused(destination, "migrate-recover", "Migrate recover can only be run when postcopy is paused.", uri=self.uri())
        self.refused(destination, "migrate-incoming", "The incoming migration has already been started", uri=self.uri())
        self.assertEqual(source.qmp.execute("migrate-start-postcopy"), {})
        self.assertEqual(destination.qmp.execute("migrate_cancel"), {})
        self.assertEqual(self.statuses(source), TO_POSTCOPY_SOURCE)
        self.pause(source, destination)
        self.refused(source, "cont", finalized)
        self.assertFalse(source.running())
        uri = self.uri()
        destination.qmp.execute("migrate-recover", uri=uri)
        self.recover(source, destination, uri)
        self.complete(source, destination)

    def test_a_capability_on_one_side_only(self):
        """Refused in words before anything moves; with the same on both sides the same two go on, by postcopy and by precopy."""
        source, destination = self.pair()
        for on in (True, False):
            with self.subTest(destination=on):
                source.set_capabilities(postcopy_ram=not on)
                destination.set_capabilities(postcopy_ram=on)
                uri, mark = self.uri(), len(source.qmp.events)
                destination.qmp.execute("migrate-incoming", uri=uri)
                source.qmp.execute("migrate", uri=uri)
                source.qmp.wait_event("MIGRATION", since=mark, status="failed")
                self.assertIn("postcopy-ram", source.migration()["error-desc"])
                self.assertTrue(source.running())
                self.assertEqual(self.statuses(destination), ["setup"])
                if on:
                    self.refused(source, "migrate-start-postcopy", "Enable postcopy with migrate_set_capability before the start of migration")
                source.set_capabilities(postcopy_ram=on)
                if on:
                    source.set_parameters(max_bandwidth=CRAWL, downtime_limit=1, max_postcopy_bandwidth=HELD)
                    source.qmp.execute("migrate", uri=uri)
                    source.qmp.execute("migrate-start-postcopy")
                    destination.qmp.wait_event("RESUME")
                    self.complete(source, destination)
                else:
                    source.set_parameters(**{"downtime-limit": 20000, "max-bandwidth": 0})
                    source.qmp.execute("migrate", uri=uri)
                    self.finish(source, destination)
                source.close()
                source, destination = destination, self.start(f"dst{on}", incoming=True)


class Discards(PostcopyCase):
    """Guest memory that is given back to the host, by virtio-mem, which does so without the guest's help."""

    def test_memory_that_was_discarded_before(self):
        source, destination = self.pair(memory="64M,maxmem=1G", extra=[
            "-object", "memory-backend-file,id=mem0,size=128M,mem-path=/dev/shm,share=on",
            "-device", "virtio-mem-pci,id=vm0,memdev=mem0,requested-size=0"])
        self.to_postcopy(source, destination)
        self.complete(source, destination)

    def test_discards_in_the_middle(self):
        """Of memory that was added at the destination since: none of the migration's pages is hurt."""
        source, destination = self.pair(memory="64M,maxmem=1G")
        self.to_postcopy(source, destination)
        destination.qmp.execute("object-add", **{"qom-type": "memory-backend-file", "id": "mem0", "size": 128 << 20, "mem-path": "/dev/shm",
                                                 "share": True})
        destination.qmp.ask("device_add", {"driver": "virtio-mem-pci", "id": "vm0", "memdev": "mem0"})
        self.assertEqual(source.migration()["status"], ACTIVE)
        destination.wait_writing()
        self.pause(source, destination)
        uri = self.uri()
        destination.qmp.execute("migrate-recover", uri=uri)
        self.recover(source, destination, uri)
        self.complete(source, destination)


class Afterwards(PostcopyCase):
    def test_the_guest_is_the_kernels_again(self):
        """No range of QEMU's is watched, nobody holds a userfaultfd for faults, and no helper process is left."""
        source, destination = self.pair()
        before = self.faults_held(destination)
        self.to_postcopy(source, destination)
        self.assertTrue(self.watched(destination))
        self.assertGreater(self.faults_held(destination), before)
        self.complete(source, destination)
        self.assertEqual(self.watched(destination), [])
        for vm in (source, destination):
            wait_until(lambda vm=vm: self.mover(vm) is None, f"{vm.name}'s mover goes on")
        self.assertEqual(self.watched(source), [])
        wait_until(lambda: self.faults_held(destination) <= before, "the monitor process keeps userfaultfds")

    def test_the_sources_memory_is_free_when_it_ends(self):
        source, destination, _ = self.in_postcopy()
        memory = os.stat(ram_file(source))
        self.complete(source, destination)
        source.close()
        wait_until(lambda: not self.holders(memory), lambda: f"held by {self.holders(memory)}")
        self.assertIsNone(ballast_problem(destination))
        destination.wait_writing()

    @staticmethod
    def watched(vm):
        """The mappings that a userfaultfd watches: missing, minor or write-protected."""
        found, name = [], ""
        with open(f"/proc/{vm.process.pid}/smaps", encoding="utf-8") as smaps:
            for line in smaps:
                if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                    name = line.strip()
                elif line.startswith("VmFlags:") and {"um", "ui", "uw"} & set(line.split()):
                    found.append(name)
        return found

    def faults_held(self, vm):
        return sum(count for kind, count in self.open_files(vm)[0].items() if "userfaultfd" in kind)

    def holders(self, memory):
        found = []
        for pid, command in self.work.processes().items():
            for number in os.listdir(f"/proc/{pid}/fd"):
                try:
                    if os.path.samestat(os.stat(f"/proc/{pid}/fd/{number}"), memory):
                        found.append(command[:60])
                except OSError:
                    pass  # closed meanwhile
        return found


if __name__ == "__main__":
    main()
