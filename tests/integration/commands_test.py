#!/usr/bin/env python3
"""Migration commands against a pair under Pageferry: figures, limits changed in flight, who runs at the end, what is refused."""
from under_pageferry import END_MIB, FAST, SLOW, Case, free_port, guest_image, main, program, wait_until

MIB = 1 << 20
IN_PROGRESS = "There's a migration process in progress"


class Figures(Case):
    def test_query_migrate_during_and_after(self):
        source, destination = self.pair()
        self.assertEqual(source.migration(), {})
        self.begin(source, destination, parameters=SLOW)
        source.wait_status("active")
        wait_until(lambda: source.migration()["ram"]["transferred"] > 0, "nothing is sent")
        during = source.migration()
        self.assertEqual(during["status"], "active")
        self.assertGreaterEqual(during["ram"]["total"], 64 * MIB)
        self.assertGreater(during["ram"]["remaining"], 0)
        self.assertEqual(during["ram"]["page-size"], 4096)
        self.assertGreaterEqual(during["ram"]["dirty-sync-count"], 1)
        self.assertGreaterEqual(during["total-time"], during["setup-time"])
        self.assertIn("expected-downtime", during)
        self.assertNotIn("downtime", during)
        later = wait_until(lambda: (now := source.migration())["ram"]["transferred"] > during["ram"]["transferred"] and now, "nothing more is sent")
        self.assertGreaterEqual(later["total-time"], during["total-time"])
        source.qmp.execute("migrate-set-parameters", **FAST)
        self.finish(source, destination)
        after = source.migration()
        self.assertEqual(after["status"], "completed")
        self.assertEqual(after["ram"]["remaining"], 0)
        self.assertGreaterEqual(after["ram"]["normal-bytes"], (END_MIB - 1) * MIB)  # each of the guest's pages at least once
        self.assertEqual(after["ram"]["normal-bytes"], after["ram"]["normal"] * 4096)
        self.assertGreater(after["ram"]["duplicate"], 0)
        self.assertGreater(after["ram"]["mbps"], 0)
        self.assertLessEqual(after["downtime"], after["total-time"])
        self.assertNotIn("expected-downtime", after)
        self.assertEqual(source.migration(), after)  # the clock stands
        self.assertEqual(destination.migration()["status"], "completed")

    def test_a_failed_migration_says_why(self):
        source = self.started()
        port = free_port()
        source.qmp.execute("migrate", uri=f"tcp:127.0.0.1:{port}")
        failed = source.wait_status("failed")
        self.assertRegex(failed["error-desc"], f"127.0.0.1:{port}.*[Cc]onnection refused")
        self.assertTrue(source.running())
        source.wait_writing()


class Limits(Case):
    def test_a_higher_bandwidth_in_flight_makes_it_finish(self):
        source, destination = self.pair()
        self.begin(source, destination, parameters={"downtime-limit": 20000, "max-bandwidth": MIB})
        source.wait_status("active")
        wait_until(lambda: source.migration()["ram"]["transferred"] > 256 * 1024, "nothing is sent")
        self.assertEqual(source.migration()["status"], "active")
        source.set_parameters(max_bandwidth=0)
        self.finish(source, destination)

    def test_a_higher_downtime_limit_in_flight_makes_it_finish(self):
        """A guest that dirties 8 MiB again and again does not fit 1 ms at 64 MiB/s, however many rounds."""
        image = guest_image.make_image(program("guest/guest_fill_dirty.img"), self.work.file("dirty.img"), end_mib=16, window_mib=8,
                                       rate_mib_per_second=400)
        source = self.start("src", image=image)
        destination = self.start("dst", image=image, incoming=True)
        source.wait_serial("F")
        self.begin(source, destination, parameters={"downtime-limit": 1, "max-bandwidth": 64 * MIB})
        wait_until(lambda: source.migration().get("ram", {}).get("dirty-sync-count", 0) >= 4, lambda: f"no rounds: {source.migration()}")
        self.assertEqual(source.migration()["status"], "active")
        source.set_parameters(downtime_limit=20000)
        source.wait_status("completed")
        destination.wait_running()
        destination.qmp.execute("stop")
        ram = destination.read_ram(guest_image.BASE, 15 * MIB)
        self.assertIsNone(guest_image.fill_problem(ram, dirty=True))

    def test_lanes(self):
        source, destination = self.pair()
        for vm in (source, destination):
            vm.set_capabilities(multifd=True)
        self.begin(source, destination, parameters={**FAST, "multifd-channels": 5})
        self.finish(source, destination)
        self.assertEqual(source.migration()["x-pageferry-lanes"], 5)

    def test_capabilities_are_refused_by_name_and_switched_off_in_silence(self):
        vm = self.start("vm")
        before = vm.qmp.execute("query-migrate-capabilities")
        names = {one["capability"] for one in before}
        for name in ("xbzrle", "auto-converge", "zero-copy-send", "background-snapshot", "x-ignore-shared"):
            self.assertIn(name, names)
            self.refused(vm, "migrate-set-capabilities", f"Pageferry does not implement the capability '{name}'",
                         capabilities=[{"capability": "return-path", "state": True}, {"capability": name, "state": True}])
        self.assertEqual(vm.qmp.execute("query-migrate-capabilities"), before)  # all or nothing
        vm.qmp.execute("migrate-set-capabilities", capabilities=[{"capability": name, "state": False} for name in sorted(names | {"compress"})])
        self.refused(vm, "migrate-set-capabilities", "Parameter 'capability' does not accept value 'nonsense'",
                     capabilities=[{"capability": "nonsense", "state": False}])

    def test_parameters_are_refused_by_name(self):
        vm = self.start("vm")
        before = vm.qmp.execute("query-migrate-parameters")
        self.refused(vm, "migrate-set-parameters", "Option downtime-limit expects an integer in the range of 0 to (2000 * 1000) ms",
                     downtime_limit=3_000_000)
        self.refused(vm, "migrate-set-parameters", "Pageferry does not implement the parameter 'multifd-compression'",
                     multifd_compression="zlib", max_bandwidth=7)
        self.assertEqual(vm.qmp.execute("query-migrate-parameters"), before)
        vm.set_parameters(multifd_compression="none", max_bandwidth=(1 << 63) - 1, downtime_limit=7)
        after = vm.qmp.execute("query-migrate-parameters")
        self.assertEqual((after["max-bandwidth"], after["downtime-limit"]), ((1 << 63) - 1, 7))


class WhoRuns(Case):
    """Whether the guest runs at the destination: as it did at the source, but for what the destination's user wants."""

    def held(self, vm):
        """It does not run, and no RESUME was told."""
        self.assertFalse(vm.running())
        self.assertFalse([event for event in vm.qmp.events if event.name == "RESUME"])

    def test_dash_s_leaves_it_paused_and_cont_lets_it_run(self):
        source, destination = self.started(), self.start("dst", incoming=True, extra=["-S"])
        self.begin(source, destination)
        self.finish(source, destination, running=False)
        self.held(destination)
        destination.qmp.execute("cont")
        destination.qmp.wait_event("RESUME")
        destination.wait_writing()
        self.assert_intact(destination)

    def test_cont_before_the_permit_is_remembered(self):
        source, destination = self.started(), self.start("dst", incoming=True, extra=["-S"])
        self.begin(source, destination, parameters=SLOW)
        destination.wait_status("active")
        destination.qmp.execute("cont")
        self.held(destination)
        source.qmp.execute("migrate-set-parameters", **FAST)
        self.finish(source, destination)

    def test_cont_before_migrate_incoming_is_remembered(self):
        source, destination = self.started(), self.start("dst", incoming=True, extra=["-S"])
        destination.qmp.execute("cont")
        self.held(destination)
        self.move(source, destination)

    def test_stop_before_the_permit_is_remembered(self):
        source, destination = self.pair()
        self.begin(source, destination, parameters=SLOW)
        destination.wait_status("active")
        destination.qmp.execute("stop")
        source.qmp.execute("migrate-set-parameters", **FAST)
        self.finish(source, destination, running=False)
        self.held(destination)

    def test_a_paused_guest_arrives_paused(self):
        source, destination = self.pair()
        source.qmp.execute("stop")
        self.begin(source, destination)
        self.finish(source, destination, running=False)
        self.held(destination)
        self.assertEqual(self.statuses(source), ["setup", "active", "device", "completed"])
        destination.qmp.execute("cont")
        destination.wait_writing()
        self.assert_intact(destination)

    def test_a_guest_paused_in_flight_arrives_paused(self):
        source, destination = self.pair()
        self.begin(source, destination, parameters=SLOW)
        source.wait_status("active")
        source.qmp.execute("stop")
        source.qmp.execute("migrate-set-parameters", **FAST)
        self.finish(source, destination, running=False)
        self.held(destination)

    def test_stop_in_pre_switchover_holds_at_the_destination(self):
        source, destination = self.pair()
        source.set_capabilities(pause_before_switchover=True)
        self.begin(source, destination)
        source.wait_status("pre-switchover")
        source.qmp.execute("stop")
        source.qmp.execute("migrate-continue", state="pre-switchover")
        self.finish(source, destination, running=False)
        self.held(destination)

    def test_a_cancelled_guest_is_as_before(self):
        """Running or paused, and it moves afterwards with every page it had written."""
        source, first = self.pair()
        self.begin(source, first, parameters=SLOW)
        source.wait_status("active")
        wait_until(lambda: source.migration()["ram"]["transferred"] > 0, "nothing is sent")
        source.qmp.execute("migrate_cancel")
        source.wait_status("cancelled")
        self.assertTrue(source.running())
        wait_until(lambda: first.process.poll() is not None, "the destination goes on")
        source.qmp.execute("stop")
        second = self.start("second", incoming=True)
        self.begin(source, second, parameters={"max-bandwidth": 1})
        source.wait_status("active")
        source.qmp.execute("migrate_cancel")
        source.wait_status("cancelled")
        self.assertFalse(source.running())
        source.qmp.execute("cont")
        source.wait_writing()
        self.move(source, self.start("third", incoming=True))

    def test_cancel_in_pre_switchover(self):
        source, destination = self.pair()
        source.set_capabilities(pause_before_switchover=True)
        self.begin(source, destination)
        source.wait_status("pre-switchover")
        self.assertFalse(source.running())
        source.qmp.execute("migrate_cancel")
        source.wait_status("cancelled")
        source.wait_running()
        source.wait_writing()
        self.assert_intact(source)
        source.set_capabilities(pause_before_switchover=False)
        self.move(source, self.start("second", incoming=True))


class Refusals(Case):
    def test_a_second_migration_while_one_runs(self):
        source, destination = self.pair()
        uri = self.uri()
        self.begin(source, destination, uri=uri, parameters=SLOW)
        source.wait_status("active")
        self.refused(source, "migrate", IN_PROGRESS, uri=self.uri())
        self.refused(source, "migrate-set-capabilities", IN_PROGRESS, capabilities=[{"capability": "events", "state": True}])
        self.refused(source, "migrate-continue", "Migration not in expected state: active", state="pre-switchover")
        self.refused(destination, "migrate-incoming", "The incoming migration has already been started", uri=uri)
        self.refused(destination, "migrate", "Guest is waiting for an incoming migration", uri=self.uri())
        source.qmp.execute("migrate-set-parameters", **FAST)
        self.finish(source, destination)
        self.assertEqual(self.statuses(source), ["setup", "active", "device", "completed"])

    def test_what_has_moved_away_does_not_move_again(self):
        source, destination = self.pair()
        self.move(source, destination)
        uri = self.uri()
        self.refused(source, "migrate", "Can't migrate the vm that was paused due to previous migration", uri=uri)
        self.assertEqual(source.migration()["status"], "completed")
        self.refused(source, "migrate-incoming", "'-incoming' was not specified on the command line", uri=uri)

    def test_a_guest_that_waits_for_none_takes_none(self):
        vm = self.start("vm")
        self.refused(vm, "migrate-incoming", "'-incoming' was not specified on the command line", uri=self.uri())
        self.assertEqual(vm.migration(), {})
        self.assertEqual(self.statuses(vm), [])


class Incoming(Case):
    def test_on_the_command_line(self):
        uri = self.uri()
        source, destination = self.started(), self.start("dst", incoming=uri)
        source.qmp.execute("migrate-set-parameters", **FAST)
        source.qmp.execute("migrate", uri=uri)
        self.finish(source, destination)

    def test_on_the_command_line_with_dash_s(self):
        uri = self.uri()
        source, destination = self.started(), self.start("dst", incoming=uri, extra=["-S"])
        source.qmp.execute("migrate-set-parameters", **FAST)
        source.qmp.execute("migrate", uri=uri)
        self.finish(source, destination, running=False)
        self.assertFalse(destination.running())

    def test_any_free_port(self):
        """Where it listens is told as QEMU tells it."""
        source, destination = self.started(), self.start("dst", incoming=True)
        self.assertNotIn("socket-address", destination.migration())
        destination.qmp.execute("migrate-incoming", uri="tcp:127.0.0.1:0")
        (address,) = destination.migration()["socket-address"]
        self.assertEqual((address["type"], address["host"]), ("inet", "127.0.0.1"))
        source.qmp.execute("migrate-set-parameters", **FAST)
        source.qmp.execute("migrate", uri=f"tcp:127.0.0.1:{address['port']}")
        self.finish(source, destination)
        self.assertNotIn("socket-address", destination.migration())

    def test_a_taken_port_on_the_command_line_ends_qemu(self):
        uri = self.uri()
        first = self.start("first", incoming=uri)
        with self.assertRaisesRegex(RuntimeError, "[Aa]ddress already in use|ended"):
            second = self.start("second", incoming=uri)
            wait_until(lambda: second.process.poll() is not None, "QEMU goes on")
            raise RuntimeError(second.errors())
        self.assertIsNone(first.process.poll())

    def test_channels_instead_of_a_uri(self):
        source, destination = self.pair()
        port = str(free_port())
        channels = [{"channel-type": "main", "addr": {"transport": "socket", "type": "inet", "host": "127.0.0.1", "port": port}}]
        source.qmp.execute("migrate-set-parameters", **FAST)
        destination.qmp.execute("migrate-incoming", channels=channels)
        source.qmp.execute("migrate", channels=channels)
        self.finish(source, destination)

    def test_ipv6(self):
        source, destination = self.pair()
        self.move(source, destination, uri=f"tcp:[::1]:{free_port('::1')}")

    def test_host_name(self):
        source, destination = self.pair()
        self.move(source, destination, uri=f"tcp:localhost:{free_port()}")


if __name__ == "__main__":
    main()
