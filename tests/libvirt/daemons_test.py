#!/usr/bin/env python3
"""libvirt's daemons end and come again in the middle of a migration, and Pageferry's own processes die: the guest is never lost, and libvirt
sees what has become of it."""
import os
import signal

from libvirt_case import Case, main, wait_until
from postcopy_test import PostcopyCase


class Daemons(PostcopyCase):
    def test_restarted_between_migrations(self):
        self.start()
        for host in self.hosts.both:
            host.kill_daemon()
            host.start_daemon()
        self.assertEqual(self.source.state("guest").split()[0], "running")
        self.move()
        self.destination.stop_daemon()
        self.destination.start_daemon()
        self.move(back=True)

    def test_the_sources_is_killed_in_precopy(self):
        """As with QEMU alone: the new daemon ends the migration, and the guest goes on."""
        self.start()
        move = self.begin()
        self.source.kill_daemon()
        self.assertIsNotNone(move.done())
        self.source.start_daemon()
        wait_until(lambda: self.status(self.source) in ("cancelled", "failed"), lambda: f"the migration is {self.status(self.source)}")
        self.destination.wait_state("guest", "")
        self.assertTrue(self.source.state("guest").startswith("running"))
        self.assert_intact(self.source)
        self.move()

    def test_the_destinations_is_killed_in_precopy(self):
        self.start()
        move = self.begin()
        self.destination.kill_daemon()
        self.assertIsNotNone(move.done())
        self.assertTrue(self.source.state("guest").startswith("running"))
        self.destination.start_daemon()
        self.destination.wait_state("guest", "")
        self.assert_intact(self.source)
        self.move()

    def test_both_are_killed_in_postcopy(self):
        """It goes on without them, and the new ones learn what has become of it."""
        self.start()
        move = self.begin_postcopy()
        for host in self.hosts.both:
            host.kill_daemon()
        move.done()
        for host in self.hosts.both:
            host.start_daemon()
        self.assertIn("post-copy", self.destination.state("guest"))
        self.let_go()
        self.destination.wait_state("guest", "running (migrated)", "running (unknown)", "running (post-copy)")
        wait_until(lambda: self.status(self.destination) == "completed", "the destination's migration does not complete")
        self.assert_intact(self.destination)

    def kill_mover(self, host):
        movers = host.pids("pageferry-mover")
        self.assertEqual(len(movers), 1)
        os.kill(movers[0], signal.SIGKILL)

    def test_a_mover_is_killed_in_precopy(self):
        self.start()
        for host in self.hosts.both:
            with self.subTest(host=host.name):
                move = self.begin()
                self.kill_mover(host)
                self.assertIsNotNone(move.done())
                self.destination.wait_state("guest", "")
                self.assertTrue(self.source.state("guest").startswith("running"))
                self.assert_intact(self.source)
        self.move()

    def test_a_mover_is_killed_in_postcopy(self):
        self.needs_a_resume()
        here, there = self.listeners()
        self.start()
        move = self.begin_postcopy()
        for number, host in enumerate(self.hosts.both, 1):
            self.kill_mover(host)
            self.expect_failed(here, there, number)
            move.done()
            if host is self.destination:
                self.let_go()
                self.resume()
            else:
                move = self.begin_resume()
        self.expect_moved()

    def test_the_guests_own_end_is_seen(self):
        """QEMU dies: libvirt knows at once, on either side, also in the middle of a migration."""
        here, _ = self.listeners()
        self.start()
        os.kill(self.source.pids("qemu-system-x86_64")[0], signal.SIGKILL)
        here.wait("Stopped Failed")
        self.source.virsh("start", "guest")
        self.wait_writing(self.source)
        move = self.begin()
        os.kill(self.destination.pids("qemu-system-x86_64")[0], signal.SIGKILL)
        self.assertIsNotNone(move.done())
        self.assert_intact(self.source)
        self.move()


if __name__ == "__main__":
    main()
