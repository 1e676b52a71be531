#!/usr/bin/env python3
"""`virsh migrate` by precopy, with an unmodified libvirt and QEMU: every way that libvirt has, and what it tells of it."""
import os

from libvirt_case import EMULATOR, SHARED, STOCK, Case, Move, Virsh, domain, main, wait_until


class Precopy(Case):
    def test_the_ways(self):
        """Each kind of address that libvirt can be given, and each option that asks for another kind of transfer; to and fro."""
        self.start()
        back = False
        for options in (["--verbose"], ["--migrateuri", "tcp://{0}"], ["--migrateuri", "tcp://{0}:50123"],
                        ["--migrateuri", "unix://{1}"], ["--parallel", "--parallel-connections", "3"], ["--timeout", "60", "--timeout-suspend"],
                        ["--persistent", "--undefinesource"], ["--postcopy", "--timeout", "60", "--timeout-postcopy"], ["--tunnelled"]):
            with self.subTest(options=options):
                there = self.source if back else self.destination
                path = os.path.join(there.folder, "ram/migration")
                self.move(*(word.format(there.address, path) for word in options), back=back)
                self.assertEqual("the migration goes by" in there.guest_log("guest").rpartition("starting up")[2], "--tunnelled" not in options,
                                 "only what is tunnelled through the daemons is QEMU's own")
                back = not back

    def test_conducted_by_virsh(self):
        """Without --p2p: the two daemons do not speak to each other."""
        self.start()
        self.source.virsh("migrate", "--live", "--unsafe", "guest", self.destination.uri)
        self.assert_intact(self.destination)

    def test_with_its_disk(self):
        """libvirt copies the disk by QEMU's own means while Pageferry waits before the switchover."""
        self.start()
        there = os.path.join(self.destination.folder, "ram/disk.img")
        with open(there, "wb") as disk:
            disk.truncate(os.path.getsize(self.writer))
        os.chmod(there, 0o666)
        other = os.path.join(self.source.folder, "other.xml")
        with open(other, "w", encoding="utf-8") as file:
            file.write(domain("guest", there, backing=SHARED))
        self.source.virsh(*self.words("--copy-storage-all", "--xml", other))
        self.assert_intact(self.destination)
        with open(there, "rb") as copy, open(self.writer, "rb") as original:
            self.assertEqual(copy.read(512), original.read(512))

    def test_what_is_not_done_is_refused_by_its_name(self):
        self.start()
        for option, name in (("--auto-converge", "auto-converge"), ("--compressed", "xbzrle"), ("--zerocopy", "zero")):
            with self.subTest(option=option):
                with self.assertRaises(Virsh) as refused:
                    self.source.virsh(*self.words(option, *(["--parallel"] if option == "--zerocopy" else [])))
                self.assertIn(name, str(refused.exception))
                self.assertEqual((self.source.state("guest"), self.destination.state("guest")), ("running (booted)", ""))
        self.move()

    def test_a_guest_that_is_paused_arrives_paused(self):
        self.start()
        self.source.virsh("suspend", "guest")
        self.source.virsh(*self.words())
        self.assertEqual(self.destination.state("guest"), "paused (user)")
        self.assert_intact(self.destination)
        self.destination.virsh("resume", "guest")
        self.wait_writing(self.destination)

    def test_aborted(self):
        """The guest goes on where it was, with no descriptor of the migration left in QEMU, and moves later."""
        self.start()
        def sockets():
            folder = f"/proc/{self.source.pids('qemu-system-x86_64')[0]}/fd"
            return sum(os.readlink(os.path.join(folder, name)).startswith("socket:") for name in os.listdir(folder))
        before = sockets()
        move = self.begin()
        self.source.virsh("domjobabort", "guest")
        self.assertIn("canceled by client", str(move.done()))
        self.assertEqual((self.source.state("guest"), self.destination.state("guest")), ("running (booted)", ""))
        wait_until(lambda: sockets() == before, lambda: f"QEMU has {sockets()} sockets, and had {before}")
        self.assert_intact(self.source)
        self.move()

    def test_aborted_before_and_at_the_switchover(self):
        """In QEMU's states setup and pre-switchover, as far as libvirt lets anybody in: whatever comes of it, one guest goes on."""
        self.start()
        back = False
        for wait_for in ("setup", "active", "pre-switchover"):
            with self.subTest(wait_for=wait_for):
                source, destination = (self.destination, self.source) if back else (self.source, self.destination)
                move = Move(source, *self.words(destination=destination))
                wait_until(lambda at=source, until=wait_for: self.status(at) in (until, "completed") or not move.is_alive(), wait_for, every=0)
                source.try_virsh("domjobabort", "guest")
                moved = move.done() is None
                self.assertEqual([source.state("guest").startswith("running"), destination.state("guest").startswith("running")], [not moved, moved])
                self.assert_intact(destination if moved else source)
                back ^= moved

    def test_speed_and_downtime_can_be_changed_on_the_way(self):
        self.start()
        self.source.virsh("migrate-setmaxdowntime", "guest", "123")
        self.assertEqual(self.source.virsh("migrate-getmaxdowntime", "guest"), "123")
        self.source.virsh("migrate-setspeed", "guest", "1")
        move = self.begin()
        figures = dict(line.split(":", 1) for line in self.source.virsh("domjobinfo", "guest").splitlines() if ":" in line)
        self.assertEqual(figures["Job type"].strip(), "Unbounded")
        for name in ("Data processed", "Data remaining", "Data total", "Memory processed", "Memory remaining", "Memory total", "Memory bandwidth",
                     "Dirty rate", "Iteration", "Page size", "Constant pages", "Normal pages", "Expected downtime", "Setup time"):
            self.assertIn(name, figures)
        self.assertEqual(self.source.virsh("migrate-getspeed", "guest"), "1")
        self.source.virsh("migrate-setmaxdowntime", "guest", "20000")
        self.source.virsh("migrate-setspeed", "guest", "1000")
        self.assertIsNone(move.done())
        self.assertIn("Total downtime", self.source.virsh("domjobinfo", "guest", "--completed", "--keep-completed"))
        self.assert_intact(self.destination)

    def test_a_guest_whose_time_is_over_is_suspended_and_moves(self):
        self.start()
        self.source.virsh("migrate-setspeed", "guest", "10")
        self.source.virsh(*self.words("--timeout", "2", "--timeout-suspend"))
        self.assert_intact(self.destination)

    def test_a_peer_without_pageferry(self):
        """Refused by either side; and where the policy says so, QEMU does it alone, in both directions."""
        self.start()
        stock = os.path.join(self.source.folder, "stock.xml")
        ours = os.path.join(self.destination.folder, "ours.xml")
        for path, emulator in ((stock, STOCK), (ours, None)):
            with open(path, "w", encoding="utf-8") as file:
                file.write(domain("guest", self.writer, backing=SHARED, **({"emulator": emulator} if emulator else {})))
        with self.assertRaises(Virsh):  # what it says is the source's error or the destination's, whichever libvirt comes to first
            self.source.virsh(*self.words("--xml", stock, "--bandwidth", "1"))
        self.assertIn("under Pageferry (plain QEMU listens for one connection only)", self.source.guest_log("guest"))
        self.assertEqual((self.source.state("guest"), self.destination.state("guest")), ("running (booted)", ""))
        self.source.monitor("guest", "migrate-set-parameters", **{"x-pageferry-carrier": "qemu"})
        self.source.virsh(*self.words("--xml", stock))
        self.assert_intact(self.destination)
        with self.assertRaises(Virsh):
            self.destination.virsh(*self.words("--xml", ours, destination=self.source))
        self.assertTrue(self.source.state("guest").startswith("shut off"))
        self.assertTrue(self.destination.state("guest").startswith("running"))
        self.assert_intact(self.destination)

    def events_of(self, emulator, *steps):
        here, there = self.listeners()
        self.start(emulator=emulator)
        here.wait("Started Booted")
        here.taken()
        for step in steps:
            step()
        found = here.taken(), there.taken(), self.source.state("guest"), self.destination.state("guest")
        self._forget()
        return found

    def test_the_events_are_those_of_qemu_alone(self):
        def abort():
            move = self.begin()
            self.source.virsh("domjobabort", "guest")
            self.assertIsNotNone(move.done())
            wait_until(lambda: not self.destination.state("guest"), "the destination's is left")
        def move():
            self.source.virsh(*self.words())
        def move_paused():
            self.source.virsh("suspend", "guest")
            self.source.virsh(*self.words())
        for steps in ([abort, move], [move_paused]):
            with self.subTest(steps=steps):
                self.assertEqual(self.events_of(EMULATOR, *steps), self.events_of(STOCK, *steps))


class Chain(Case):
    def test_twenty_times_to_and_fro(self):
        self.start()
        for number in range(20):
            self.move(back=number % 2 == 1)


if __name__ == "__main__":
    main()
