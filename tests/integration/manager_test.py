#!/usr/bin/env python3
"""A management program that only listens to events, in the role of libvirt: it steers a postcopy through three failed recoveries and a
good one, and never asks how the migration is doing.
"""
import os
import unittest

from postcopy_common import ACTIVE, CRAWL, HELD, PAUSED, RECOVER, SETUP, PostcopyCase, ballast_problem, never_accepts
from qemu_pair import Namespaces, Timeout
from under_pageferry import PATIENCE, main

SOURCE, DESTINATION = "source", "destination"
SHORT = {"x-pageferry-dead-peer-timeout": 1000, "x-pageferry-connect-timeout": 1000}  # ms


class Manager:
    """It knows of the guests only what their events say. Each event must be the one that is due."""

    def __init__(self, source, destination):
        self.monitors = {SOURCE: source.qmp, DESTINATION: destination.qmp}
        self.seen = {SOURCE: 0, DESTINATION: 0}
        self.asked = []
        self.history = {SOURCE: [], DESTINATION: []}

    def tell(self, side, command, **arguments):
        self.asked.append(command)
        return self.monitors[side].execute(command, **arguments)

    def due(self, side, *names):
        """The next events of this side are these, in this order. MIGRATION_PASS and the guest's devices are not of interest."""
        for name in names:
            event = self.next(side)
            self.history[side].append(event)
            if event != name:
                raise AssertionError(f"{side}: {event}, not {name}, after {self.history[side]}")

    def next(self, side):
        monitor = self.monitors[side]
        with monitor._condition:  # as Qmp.wait_event, for any event  # pylint: disable=protected-access
            def find():
                return next(((n, e) for n, e in enumerate(monitor.events) if n >= self.seen[side] and e.name in ("MIGRATION", "STOP", "RESUME")),
                            None)
            if not monitor._condition.wait_for(find, PATIENCE):  # pylint: disable=protected-access
                raise Timeout(f"{side}: no event after {self.history[side]}")
            number, event = find()
        self.seen[side] = number + 1
        return event.data["status"] if event.name == "MIGRATION" else event.name


@unittest.skipUnless(os.geteuid() == 0, "network namespaces need root")
class EventsOnly(PostcopyCase):
    def setUp(self):
        super().setUp()
        self.net = self.enterContext(Namespaces())

    def test_three_failed_recoveries_and_a_good_one(self):
        source = self.started("src", prefix=self.net.prefix(0))
        destination = self.start("dst", incoming=True, prefix=self.net.prefix(1))
        uri = f"tcp:{self.net.addresses[1]}:4444"
        manager = Manager(source, destination)
        tell, due = manager.tell, manager.due

        # A postcopy. The event of a command comes before its answer.
        tell(SOURCE, "migrate-set-parameters", max_bandwidth=CRAWL, downtime_limit=1, max_postcopy_bandwidth=HELD, **SHORT)
        tell(DESTINATION, "migrate-set-parameters", **SHORT)
        tell(DESTINATION, "migrate-incoming", uri=uri)
        tell(SOURCE, "migrate", uri=uri)
        due(SOURCE, "setup", "active")
        tell(SOURCE, "migrate-start-postcopy")
        due(SOURCE, "STOP", "device", "postcopy-device", ACTIVE)
        due(DESTINATION, "setup", "active", "postcopy-device", ACTIVE, "RESUME")

        # The network is lost. Each side says so on its own account.
        self.net.cut()
        due(SOURCE, PAUSED)
        due(DESTINATION, PAUSED)
        self.net.restore()

        # A dead port.
        tell(SOURCE, "migrate", uri=f"tcp:{self.net.addresses[1]}:1", resume=True)
        due(SOURCE, SETUP, PAUSED)
        with never_accepts(self.net.addresses[1], self.net.prefix(1)) as silent:
            # A listener that never accepts: found by its own deadline.
            tell(SOURCE, "migrate", uri=silent, resume=True)
            due(SOURCE, SETUP, PAUSED)
            # The same, and the user does not wait for that.
            tell(SOURCE, "migrate-set-parameters", **{"x-pageferry-connect-timeout": 600_000})
            tell(SOURCE, "migrate", uri=silent, resume=True)
            due(SOURCE, SETUP)
            tell(SOURCE, "migrate-pause")
            due(SOURCE, PAUSED)

        # A good one. It is recovered at postcopy-active, not before.
        tell(SOURCE, "migrate", uri=uri, resume=True)
        due(SOURCE, SETUP, RECOVER, ACTIVE)
        due(DESTINATION, RECOVER, ACTIVE)
        tell(SOURCE, "migrate-set-parameters", max_postcopy_bandwidth=0)
        due(DESTINATION, "completed")
        due(SOURCE, "completed")

        self.assertEqual(manager.history[SOURCE], ["setup", "active", "STOP", "device", "postcopy-device", ACTIVE, PAUSED, SETUP, PAUSED, SETUP, PAUSED,
                                                   SETUP, PAUSED, SETUP, RECOVER, ACTIVE, "completed"])
        self.assertEqual(manager.history[DESTINATION], ["setup", "active", "postcopy-device", ACTIVE, "RESUME", PAUSED, RECOVER, ACTIVE, "completed"])
        self.assertFalse([command for command in manager.asked if command.startswith("query")])
        destination.wait_writing()
        self.assert_intact(destination)
        self.assertIsNone(ballast_problem(destination))


if __name__ == "__main__":
    main()
