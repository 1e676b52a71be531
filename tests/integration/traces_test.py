#!/usr/bin/env python3
"""The events of both sides and the answers to every migration command, compared with what QEMU 11.1 said.

Events and answers come by chance between each other, so each is compared in its own order.
"""
import json
import os

from postcopy_common import CRAWL, HELD, ballast_problem, load_ballast
from under_pageferry import FAST, HERE, Case, QmpClosed, main, wait_until

with open(os.path.join(HERE, "..", "data", "qemu-11.1-traces.json"), encoding="utf-8") as file:
    GOLDEN = json.load(file)


class Side:
    """A guest, and the answers it gave."""

    def __init__(self, vm):
        self.vm, self.answers = vm, []
        vm.set_parameters(downtime_limit=FAST["downtime-limit"])

    def command(self, name, **arguments):
        reply = self.vm.qmp.ask(name, {key.replace("_", "-"): value for key, value in arguments.items()})
        self.answers.append({"command": name, **{key: reply[key] for key in ("return", "error") if key in reply}})

    def events(self):
        try:
            self.vm.migration()  # what happened before is on the wire before the answer
        except QmpClosed:
            wait_until(lambda: self.vm.qmp.closed, "the monitor stays")  # a destination whose migration has failed ends
        return [{"event": e.name, **({"status": e.data["status"]} if e.name == "MIGRATION" else {})}
                for e in self.vm.qmp.events if e.name in ("MIGRATION", "STOP", "RESUME")]


class Scenarios:
    """Each test ends with its guest stopped: the traces have that STOP."""

    def setUp(self):
        super().setUp()
        self.source = Side(self.started("src", **self.large()))  # as the traces' guest
        self.destination = Side(self.start("dst", incoming=True, **self.large()))

    def begin_trace(self):
        uri = self.uri()
        self.destination.command("migrate-incoming", uri=uri)
        self.source.command("migrate", uri=uri)

    def arrive(self):
        self.source.vm.wait_status("completed")
        self.destination.vm.wait_status("completed")
        self.destination.vm.wait_running()
        self.assertIsNone(self.destination.vm.writer_problem())
        self.destination.vm.qmp.wait_event("STOP")

    def to_postcopy(self):
        """It stays there until full_speed()."""
        load_ballast(self.source.vm)
        for side in (self.source, self.destination):
            side.vm.set_capabilities(postcopy_ram=True)
        self.source.vm.set_parameters(downtime_limit=300, max_bandwidth=CRAWL, max_postcopy_bandwidth=HELD)
        self.begin_trace()
        self.source.vm.wait_status("active")
        self.source.command("migrate-start-postcopy")
        self.source.vm.wait_status("postcopy-active")
        self.destination.vm.wait_status("postcopy-active")
        self.destination.vm.qmp.wait_event("RESUME")

    def pause(self):
        self.source.command("migrate-pause")
        self.source.vm.wait_status("postcopy-paused")
        self.destination.vm.wait_status("postcopy-paused")

    def recover(self):
        uri = self.uri()
        self.destination.command("migrate-recover", uri=uri)
        self.source.command("migrate", uri=uri, resume=True)

    def arrive_whole(self):
        self.source.vm.set_parameters(max_postcopy_bandwidth=0)
        self.arrive()
        self.assertIsNone(ballast_problem(self.destination.vm))

    def compare(self, name):
        for side, recorded in ((self.source, GOLDEN[name]["src"]), (self.destination, GOLDEN[name]["dst"])):
            with self.subTest(side=side.vm.name):
                events, expected = side.events(), [e for e in recorded if "event" in e]
                if side.vm.process.poll() is not None:
                    # A destination that has failed ends, and the recorder has not read what it said last.
                    self.assertEqual(events[len(expected):], [{"event": "MIGRATION", "status": status} for status in ("active", "failed")])
                    events = events[:len(expected)]
                self.assertEqual(events, expected)
                self.assertEqual(side.answers, [{k: v for k, v in e.items() if k != "arguments"} for e in recorded if "command" in e])

    def test_precopy(self):
        self.begin_trace()
        self.arrive()
        self.compare("precopy")

    def test_precopy_dead_port(self):
        self.source.command("migrate", uri=self.dead_uri())
        self.source.vm.wait_status("failed")
        self.begin_trace()
        self.arrive()
        self.compare("precopy_dead_port")

    def test_precopy_cancel(self):
        self.source.vm.set_parameters(downtime_limit=300, max_bandwidth=20 << 20)
        self.begin_trace()
        self.source.vm.wait_status("active")
        self.source.command("migrate_cancel")
        self.source.vm.wait_status("cancelled")
        wait_until(lambda: self.destination.vm.process.poll() is not None, "the destination goes on")
        self.source.vm.wait_writing()
        self.assertIsNone(self.source.vm.writer_problem())
        self.source.vm.qmp.wait_event("STOP")
        self.compare("precopy_cancel")

    def test_pre_switchover(self):
        for side in (self.source, self.destination):
            side.vm.set_capabilities(pause_before_switchover=True)
        self.begin_trace()
        self.source.vm.wait_status("pre-switchover")
        self.source.command("migrate-continue", state="pre-switchover")
        self.arrive()
        self.compare("pre_switchover")

    def test_refusals_idle(self):
        for name, arguments in (("migrate-pause", {}), ("migrate-start-postcopy", {}), ("migrate-continue", {"state": "pre-switchover"}),
                                ("migrate_cancel", {}), ("migrate", {"uri": self.dead_uri(), "resume": True}),
                                ("migrate-recover", {"uri": self.uri()}), ("migrate", {"uri": "bogus:1"}), ("migrate", {})):
            self.source.command(name, **arguments)
        self.destination.command("migrate-recover", uri=self.uri())
        self.destination.command("migrate-pause")
        self.compare("refusals_idle")

    def test_postcopy(self):
        self.to_postcopy()
        self.arrive_whole()
        self.compare("postcopy")

    def test_postcopy_recover(self):
        self.to_postcopy()
        self.pause()
        self.recover()
        self.arrive_whole()
        self.compare("postcopy_recover")

    def test_recover_dead_port(self):
        self.to_postcopy()
        self.pause()
        mark = len(self.source.vm.qmp.events)
        self.source.command("migrate", uri=self.dead_uri(), resume=True)
        self.source.vm.qmp.wait_event("MIGRATION", since=mark, status="postcopy-paused")
        self.recover()
        self.arrive_whole()
        self.compare("recover_dead_port")

    def test_refusals_paused(self):
        self.to_postcopy()
        self.pause()
        self.source.command("migrate", uri=self.uri())
        self.source.command("migrate-continue", state="pre-switchover")
        self.source.command("migrate_cancel")
        self.source.command("migrate-pause")
        self.destination.command("migrate-incoming", uri=self.uri())
        self.recover()
        self.arrive_whole()
        self.destination.command("migrate-recover", uri=self.uri())
        self.compare("refusals_paused")


class Network(Scenarios, Case):
    """Over what --scheme and --host name: tcp, unless said otherwise."""


class Unix(Scenarios, Case):
    def uri(self):
        return "unix:" + self.work.file("migration")

    def dead_uri(self):
        return "unix:" + self.work.file("nobody")


if __name__ == "__main__":
    main()
