#!/usr/bin/env python3
"""The user's monitors, which Pageferry serves: several at once, on every kind of socket, with descriptors and out-of-band commands."""
import os
import socket

from under_pageferry import SLOW, Case, Qmp, QmpError, free_port, main, plain

TOLD = ("MIGRATION", "STOP", "RESUME")


def told(qmp):
    """The events of a migration, as this client had them; those before its last command are all there."""
    qmp.execute("query-migrate")
    return [str(event) for event in qmp.events if event.name in TOLD]


class Monitors(Case):
    def client(self, address, **options):
        qmp = Qmp(address, **options)
        self.addCleanup(qmp.close)
        return qmp

    def test_every_monitor_has_every_event_in_the_same_order(self):
        source, destination = self.pair()
        others = {vm: self.client(vm.cli_path) for vm in (source, destination)}
        self.move(source, destination)
        for vm, other in others.items():
            with self.subTest(side=vm.name):
                self.assertEqual(told(other), told(vm.qmp))
        self.assertEqual(told(others[source]), ["MIGRATION setup", "MIGRATION active", "STOP", "MIGRATION device", "MIGRATION completed"])

    def test_commands_on_two_monitors_at_once(self):
        """Each client has the answers to its own commands, and what one sets the other sees."""
        vm = self.started("vm")
        other = self.client(vm.cli_path)
        for number in range(100, 200):
            vm.qmp.execute("migrate-set-parameters", downtime_limit=number)
            self.assertEqual(other.execute("query-migrate-parameters")["downtime-limit"], number)
            self.assertTrue(other.execute("query-status")["running"])
        self.assertEqual([kind for kind, _ in other.conversation].count("reply"), 1 + 200)

    def test_a_second_client_of_one_monitor_waits_for_the_first_to_leave(self):
        vm = self.started("vm")
        first = self.client(vm.cli_path)
        second = socket.socket(socket.AF_UNIX)
        self.addCleanup(second.close)
        second.connect(vm.cli_path)
        second.settimeout(0.2)
        with self.assertRaises(TimeoutError):
            second.recv(1)
        first.close()
        self.assertTrue(self.client(second).execute("query-status")["running"])

    def test_a_client_that_comes_again_negotiates_again(self):
        vm = self.started("vm")
        for _ in range(3):
            with socket.socket(socket.AF_UNIX) as raw:
                raw.settimeout(60)
                raw.connect(vm.cli_path)
                lines = raw.makefile("r")
                self.assertIn("QMP", lines.readline())
                raw.sendall(b'{"execute": "query-status", "id": {"any": ["thing", 1]}}\n')
                answer = lines.readline()
                self.assertIn("CommandNotFound", answer)
                self.assertIn('{"any": ["thing", 1]}', answer)
                lines.close()

    def test_the_state_event_comes_before_the_reply(self):
        """libvirt depends on it: `setup` before the answer to migrate and migrate-incoming, `cancelling` before migrate_cancel's."""
        source, destination = self.pair()
        source.qmp.execute("migrate-set-parameters", **SLOW)
        uri = self.uri()
        for vm, command, arguments, status in ((destination, "migrate-incoming", {"uri": uri}, "setup"), (source, "migrate", {"uri": uri}, "setup"),
                                               (source, "migrate_cancel", {}, "cancelling")):
            with self.subTest(command=command):
                vm.qmp.execute(command, **arguments)
                replied = max(n for n, (kind, _) in enumerate(vm.qmp.conversation) if kind == "reply")
                self.assertIn(f"MIGRATION {status}", [str(what) for _, what in vm.qmp.conversation[:replied]])
            if command == "migrate":
                source.wait_status("active")
        source.wait_status("cancelled")

    def test_descriptors_go_to_qemu(self):
        """getfd and add-fd reach QEMU with their descriptors: it writes guest memory into both."""
        vm = self.started("vm")
        vm.qmp.execute("stop")
        for name in ("named", "in a set"):
            with open(self.work.file("dump"), "wb") as file:
                if name == "named":
                    self.assertEqual(vm.qmp.ask("getfd", {"fdname": "dump"}, fds=[file.fileno()])["return"], {})
                    where = "fd:dump"
                else:
                    answer = vm.qmp.ask("add-fd", {"fdset-id": 7, "opaque": "mine"}, fds=[file.fileno()])["return"]
                    self.assertEqual(answer["fdset-id"], 7)
                    self.assertEqual(vm.qmp.execute("query-fdsets")[0]["fds"][0]["opaque"], "mine")
                    where = "file:/dev/fdset/7"
                vm.qmp.execute("dump-guest-memory", **{"paging": False, "protocol": where, "begin": 1 << 20, "length": 1 << 20})
            with open(self.work.file("dump"), "rb") as file:
                dumped = file.read()
                self.assertTrue(dumped.startswith(b"\x7fELF"), name)
                self.assertIn(vm.read_ram(1 << 20, 1 << 20), dumped)
        with self.assertRaisesRegex(QmpError, "No file descriptor supplied via SCM_RIGHTS"):
            vm.qmp.execute("getfd", fdname="none")

    def test_out_of_band(self):
        """As with QEMU: for a client that asks for it, the commands that allow it."""
        answers = []
        for name, launch in (("ours", None), ("qemu", plain())):
            vm = self.start(name, launch=launch)
            with_it = self.client(vm.cli_path, out_of_band=True)
            answers.append([with_it.greeting["QMP"]["capabilities"],
                            with_it.ask("yank", {"instances": []}, out_of_band=True),
                            with_it.ask("migrate-pause", out_of_band=True)["error"]["class"],
                            with_it.ask("query-status", out_of_band=True),
                            vm.qmp.ask("yank", {"instances": []}, out_of_band=True)])
            for answer in answers[-1]:
                if isinstance(answer, dict):
                    answer.pop("id", None)
        self.assertEqual(answers[0], answers[1])

    def test_on_tcp(self):
        port = free_port()
        vm = self.started("vm", extra=["-qmp", f"tcp:127.0.0.1:{port},server=on,wait=off"])
        qmp = self.client(("127.0.0.1", port))
        self.assert_is_monitor_of(qmp, vm)

    def test_on_a_chardev(self):
        path = self.work.file("third.qmp")
        vm = self.started("vm", extra=["-chardev", f"socket,id=mine,path={path},server=on,wait=off", "-mon", "chardev=mine,mode=control"])
        qmp = self.client(path)
        self.assert_is_monitor_of(qmp, vm)
        labels = {chardev["label"] for chardev in qmp.execute("query-chardev")}
        self.assertIn("mine", labels)

    def test_on_stdio(self):
        ours, theirs = socket.socketpair()
        with theirs:
            vm = self.start("vm", extra=["-qmp", "stdio"], stdio=theirs)
        qmp = self.client(ours)
        self.assert_is_monitor_of(qmp, vm)

    def test_on_an_inherited_listening_socket(self):
        """libvirt's way: QEMU is given a descriptor that listens already."""
        path = self.work.file("inherited.qmp")
        with socket.socket(socket.AF_UNIX) as server:
            self.addCleanup(lambda: os.path.exists(path) and os.unlink(path))  # who made it removes it
            server.bind(path)
            server.listen(1)
            chardev = f"socket,id=charmonitor,fd={server.fileno()},server=on,wait=off"
            vm = self.start("vm", extra=["-chardev", chardev, "-mon", "chardev=charmonitor,mode=control"], pass_fds=[server.fileno()])
        self.assert_is_monitor_of(self.client(path), vm)

    def test_the_human_monitor_is_qemus_own(self):
        path = self.work.file("human")
        vm = self.started("vm", extra=["-monitor", f"unix:{path},server=on,wait=off"])
        self.addCleanup(lambda: os.path.exists(path) and os.unlink(path))  # QEMU leaves it when it is killed
        with socket.socket(socket.AF_UNIX) as human:
            human.settimeout(60)
            human.connect(path)
            text = b""
            human.sendall(b"info status\n")
            while b"running" not in text:
                text += human.recv(4096)
        self.assertIn("running", vm.qmp.execute("human-monitor-command", command_line="info status"))

    def assert_is_monitor_of(self, qmp, vm):
        """It speaks for this guest, and sees its events."""
        self.assertTrue(qmp.execute("query-status")["running"])
        vm.qmp.execute("stop")
        qmp.wait_event("STOP")
        qmp.execute("cont")
        vm.qmp.wait_event("RESUME")


if __name__ == "__main__":
    main()
