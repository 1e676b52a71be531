#!/usr/bin/env python3
"""The tools other tests stand on: the guests write what guest_image.py checks, and qemu_pair.py finds damage and leaves nothing.

guest_test.py IMAGES  (the directory the build put the guests in)
"""
import os
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import guest_image  # noqa: E402
from qemu_pair import Namespaces, Pair, QmpError, Timeout, Vm, Workspace, free_port, wait_until  # noqa: E402

IMAGES = ""
SERVER = "import socket; s = socket.create_server(('0.0.0.0', 7000)); print('up', flush=True)\nwhile True: s.accept()[0].close()"
CLIENT = "import socket; socket.create_connection(('192.0.2.2', 7000), timeout=1)"


def image(name):
    return os.path.join(IMAGES, f"guest_{name}.img")


class GuestTest(unittest.TestCase):
    def setUp(self):
        self.work = self.enterContext(Workspace())

    def test_writer_is_intact_after_a_migration_and_damage_is_found(self):
        with Pair(self.work, boot_sector=image("writer")) as pair:
            pair.source.wait_serial("B")
            for vm in pair.both():
                vm.set_capabilities(events=True)
            pair.source.set_parameters(downtime_limit=20000)
            pair.migrate(f"tcp:127.0.0.1:{free_port()}")
            pair.wait_completed()
            pair.destination.qmp.wait_event("MIGRATION", status="completed")
            pair.destination.wait_writing()
            self.assertIsNone(pair.destination.writer_problem())
            ram = bytearray(pair.destination.read_ram(guest_image.BASE, 99 << 20))
        page = 5000 * guest_image.PAGE
        ram[page] = (ram[page] + 7) % 256
        self.assertRegex(guest_image.writer_problem(ram), "pattern breaks")
        ram[page] = (ram[page] - 7) % 256
        ram[page + 9] = 1
        self.assertRegex(guest_image.writer_problem(ram), "never written")

    def test_fill_idle_fills_to_the_patched_end_and_rests(self):
        patched = guest_image.make_image(image("fill_idle"), self.work.file("idle.img"), end_mib=20)
        with Vm(self.work, "vm", boot_sector=patched) as vm:
            vm.wait_serial("F")
            ram = vm.read_ram(guest_image.BASE, 19 << 20)
            self.assertIsNone(guest_image.fill_problem(ram))
            self.assertEqual(vm.read_ram(20 << 20, 4096), bytes(4096))
            self.assertIsNotNone(guest_image.fill_problem(bytes(4096) + ram[4096:]))

    def test_fill_dirty_goes_on_writing_in_its_window_only(self):
        patched = guest_image.make_image(image("fill_dirty"), self.work.file("dirty.img"), end_mib=20, window_mib=2, rate_mib_per_second=50)
        with Vm(self.work, "vm", boot_sector=patched) as vm:
            vm.wait_serial("F")
            first = vm.read_ram(guest_image.BASE, 19 << 20)
            size, window = guest_image.PAGE, 2 << 20

            def whole_window_changed():
                now = vm.read_ram(guest_image.BASE, window)
                return all(now[n:n + size] != first[n:n + size] for n in range(0, window, size))
            wait_until(whole_window_changed, "the window is not rewritten")
            now = vm.read_ram(guest_image.BASE, 19 << 20)
            self.assertEqual(now[window:], first[window:])
            self.assertIsNone(guest_image.fill_problem(now, dirty=True))

    def test_waits_end_and_say_what_was_there(self):
        with Vm(self.work, "vm", boot_sector=image("fill_idle"), extra=["-S"]) as vm:
            with self.assertRaisesRegex(Timeout, "no event STOP"):
                vm.qmp.wait_event("STOP", timeout=0.1)
            with self.assertRaisesRegex(Timeout, "not completed"):
                vm.wait_status("completed", timeout=0.1)
            with self.assertRaisesRegex(QmpError, "nonsense"):
                vm.qmp.execute("nonsense")
            self.assertFalse(vm.running())

    def test_a_qemu_that_does_not_start_says_why(self):
        with self.assertRaisesRegex(RuntimeError, "no-such-device"):
            Vm(self.work, "vm", extra=["-device", "no-such-device"])

    def test_a_workspace_ends_whatever_was_started_in_it(self):
        with Workspace() as work:
            # A grandchild in a session of its own, whose parent has gone: what a launcher's helper looks like.
            subprocess.run(["setsid", "--fork", "sleep", "1000"], env=work.environment(), check=True)
            wait_until(work.processes, "the process was not seen")
        self.assertEqual(work.processes(), {})
        self.assertFalse(os.path.exists(work.path))


@unittest.skipUnless(os.geteuid() == 0, "network namespaces need root")
class NamespacesTest(unittest.TestCase):
    def test_link_is_cut_and_restored_and_nothing_is_left(self):
        with Workspace() as work, Namespaces() as net:
            server = subprocess.Popen([*net.prefix(1), sys.executable, "-c", SERVER], env=work.environment(), stdout=subprocess.PIPE, text=True)
            with server:
                self.assertEqual(server.stdout.readline(), "up\n")

                def reaches():
                    return subprocess.run([*net.prefix(0), sys.executable, "-c", CLIENT], stderr=subprocess.DEVNULL, check=False).returncode == 0
                self.assertTrue(reaches())
                net.cut()
                self.assertFalse(reaches())
                net.restore()
                self.assertTrue(reaches())
                net.set_link(up=False, side=1)
                self.assertFalse(reaches())
                net.set_link(up=True, side=1)
                wait_until(reaches, "the link did not come back")
                server.kill()
        for name in net.names:
            self.assertFalse(os.path.exists(f"/run/netns/{name}"))


if __name__ == "__main__":
    IMAGES = os.path.abspath(sys.argv.pop(1))
    unittest.main()
