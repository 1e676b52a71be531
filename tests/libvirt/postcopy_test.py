#!/usr/bin/env python3
"""`virsh migrate --postcopy` and its recovery, with an unmodified libvirt and QEMU, told by libvirt's own events."""
from libvirt_case import EMULATOR, STOCK, Case, Move, Virsh, main, wait_until


class PostcopyCase(Case):
    def begin_postcopy(self, *options):
        """The guest runs at the destination; what is missing follows so slowly that it does not end by itself."""
        move = self.begin("--postcopy", "--postcopy-bandwidth", "1", *options)
        self.source.virsh("migrate-postcopy", "guest")
        wait_until(lambda: self.destination.state("guest") == "running (post-copy)" or not move.is_alive(), "the guest does not run there")
        self.assertTrue(move.is_alive(), move.error)
        return move

    def let_go(self):
        """What is missing comes as fast as it can."""
        self.source.virsh("migrate-setspeed", "guest", "--postcopy", "0")

    def needs_a_resume(self):
        """libvirt 11.3's destination daemon ends by a null descriptor at --postcopy-resume, with QEMU alone too."""
        if self.source.version().startswith("11.3"):
            self.skipTest("libvirt 11.3 cannot resume")

    def resume(self, *options):
        self.source.virsh(*self.words("--postcopy", "--postcopy-resume", *options))

    def begin_resume(self):
        """A postcopy that was lost goes on, as slowly as before."""
        move = Move(self.source, *self.words("--postcopy", "--postcopy-resume"))
        wait_until(lambda: self.destination.state("guest") == "running (post-copy)" or not move.is_alive(), "it is not resumed")
        self.assertTrue(move.is_alive(), move.error)
        return move

    def expect_failed(self, here, there, count=1):
        """Both sides' events, and their states, those of libvirt with QEMU alone."""
        here.wait("Suspended Post-copy Error", count)
        there.wait("Resumed Post-copy Error", count)
        self.source.wait_state("guest", "paused (post-copy failed)")
        self.destination.wait_state("guest", "running (post-copy failed)")

    def expect_moved(self):
        self.source.wait_state("guest", "shut off (migrated)")
        self.destination.wait_state("guest", "running (migrated)", "running (post-copy)")
        self.assert_intact(self.destination)


class Postcopy(PostcopyCase):
    def test_asked_for_by_hand(self):
        self.start()
        move = self.begin("--postcopy")
        self.source.virsh("migrate-postcopy", "guest")
        self.assertIsNone(move.done())
        self.expect_moved()

    def test_after_a_time_and_after_a_round(self):
        self.start()
        move = Move(self.source, *self.words("--postcopy", "--bandwidth", "4", "--timeout", "4", "--timeout-postcopy"))
        # virsh asks once, and on a busy machine before QEMU has been told to migrate: then nothing comes of it, as with QEMU alone.
        wait_until(lambda: "Enable postcopy with migrate_set_capability" in self.source.log() or not move.is_alive(), "no end")
        if move.is_alive():
            wait_until(lambda: self.status(self.source) == "active", "the migration does not begin")
            self.source.virsh("migrate-postcopy", "guest")
        self.assertIsNone(move.done())
        self.expect_moved()
        self.destination.virsh(*self.words("--postcopy", "--bandwidth", "100", "--postcopy-after-precopy", destination=self.source))
        self.assert_intact(self.source)

    def test_the_link_is_cut(self):
        """Both sides say so by events; a resume to nobody fails with an event; a good one finishes it."""
        self.needs_a_resume()
        here, there = self.listeners()
        self.start()
        move = self.begin_postcopy()
        with self.assertRaises(Virsh):  # there is no way back
            self.source.virsh("domjobabort", "guest")
        self.assertTrue(move.is_alive(), move.error)
        self.cut()
        self.expect_failed(here, there)
        self.assertIsNotNone(move.done())
        self.restore()
        bad = Move(self.source, *self.words("--postcopy", "--postcopy-resume", "--migrateuri", "tcp://192.0.2.9:50200"))
        self.assertIn("No route to host", str(bad.done()))
        self.expect_failed(here, there)
        self.let_go()
        self.resume()
        self.expect_moved()


class BesideQemuAlone(PostcopyCase):
    """QEMU 7.2 does postcopy only as root."""
    settings = 'user = "root"\ngroup = "root"'

    def recovery(self, emulator):
        """A postcopy that is paused on purpose, resumed to nobody, and resumed: the events and states of both sides."""
        here, there = self.listeners()
        self.start(emulator=emulator)
        here.wait("Started Booted")
        move = self.begin_postcopy()
        states = []
        self.source.virsh("domjobabort", "guest", "--postcopy")
        self.expect_failed(here, there)
        move.done()
        states.append((self.source.state("guest"), self.destination.state("guest")))
        bad = Move(self.source, *self.words("--postcopy", "--postcopy-resume", "--migrateuri", "tcp://192.0.2.9:50200"))
        self.assertIsNotNone(bad.done())
        states.append((self.source.state("guest"), self.destination.state("guest")))
        self.source.monitor("guest", "migrate-set-parameters", **{"max-postcopy-bandwidth": 0})
        self.resume()
        here.wait("Stopped Migrated")
        self.source.wait_state("guest", "shut off (migrated)")
        there.wait("Resumed Migrated")
        states.append((self.source.state("guest"), self.destination.state("guest")))
        self.assert_intact(self.destination)
        found = here.taken(), there.taken(), states
        self._forget()
        return found

    def test_the_events_are_those_of_qemu_alone(self):
        self.needs_a_resume()
        ours = self.recovery(EMULATOR)
        for attempt in range(5):
            try:
                theirs = self.recovery(STOCK)
                break
            except Virsh:  # libvirt 9.0 may come to the destination before it has heard of its recovery
                self._forget()
                self.assertLess(attempt, 4, "QEMU alone is never resumed")
        self.assertEqual(ours, theirs)


if __name__ == "__main__":
    main()
