#!/usr/bin/env python3
"""`pageferry-qemu-system-x86_64` in QEMU's place, as libvirt calls it; and the settings file, for QEMUs with a clean environment."""
import json
import os
import shutil
import socket
import subprocess

from under_pageferry import PATIENCE, Case, Launch, Qmp, QmpError, main, program, wait_until

QEMU = "qemu-system-x86_64"
EMULATOR = f"pageferry-{QEMU}"
MIB = 1 << 20
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


def executable(pid):
    return os.path.basename(os.readlink(f"/proc/{pid}/exe"))


class Emulator(Case):
    def setUp(self):
        super().setUp()
        self.config = self.work.file("qemu.json")

    def settings(self, text):
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(text if isinstance(text, str) else json.dumps(text))

    def launch(self, name=EMULATOR):
        """With no more of an environment than libvirt gives, but for the settings file."""
        tag = {key: value for key, value in self.work.environment().items() if key not in os.environ}
        variables = {**tag, "PATH": "/usr/bin:/bin", "LC_ALL": "C", "PAGEFERRY_CONFIG": self.config}
        return Launch(["env", "-i", *(f"{key}={value}" for key, value in variables.items())], program(name))

    def run_emulator(self, *arguments, name=EMULATOR):
        launch = self.launch(name)
        return subprocess.run([*launch.prefix, launch.qemu, *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False, stdin=subprocess.DEVNULL,
                              env=self.work.environment())

    def link(self, name, target=None):
        """Another name, in a folder of the test's own."""
        path = self.work.file(name)
        os.symlink(target or program("pageferry-qemu"), path)
        return path

    def work_text(self, path):
        if not os.path.exists(path):
            return b""
        with open(path, "rb") as file:
            return file.read()

    def kinds(self):
        return sorted(executable(pid) for pid in self.work.processes())

    def refused(self, done, *texts, code=1):
        self.assertEqual((done.returncode, done.stdout), (code, ""))
        for text in texts:
            self.assertIn(text, done.stderr)

    def test_it_becomes_qemu_and_its_guest_moves(self):
        source = self.started("src", launch=self.launch())
        self.assertEqual(executable(source.process.pid), QEMU)
        with open(f"/proc/{source.process.pid}/cmdline", encoding="utf-8") as words:
            self.assertEqual(words.read().split("\0")[0], f"/usr/bin/{QEMU}")
        self.assertEqual(self.kinds(), ["pageferry-monitor", QEMU])
        self.move(source, self.start("dst", launch=self.launch(), incoming=True))

    def libvirts(self, name, monitor, *more):
        """A command line as libvirt 9.0 writes it."""
        ram = {"qom-type": "memory-backend-ram", "id": "pc.ram", "size": 64 * MIB}
        secret = self.work.file(f"{name}-key")
        with open(secret, "wb") as file:
            file.write(bytes(range(32)))
        node = {"driver": "file", "filename": self.writer, "node-name": "libvirt-1-storage", "auto-read-only": True, "discard": "unmap"}
        disk = {"node-name": "libvirt-1-format", "read-only": True, "driver": "raw", "file": "libvirt-1-storage"}
        return ["-name", f"guest={name},debug-threads=on", "-S",
                "-object", json.dumps({"qom-type": "secret", "id": "masterKey0", "format": "raw", "file": secret}),
                "-machine", "pc-i440fx-7.2,usb=off,dump-guest-core=off,memory-backend=pc.ram", "-accel", "tcg", "-cpu", "qemu64", "-m", "64",
                "-object", json.dumps(ram), "-overcommit", "mem-lock=off", "-smp", "1,sockets=1,cores=1,threads=1",
                "-uuid", "6c3e5c4e-0f5e-4a7b-9a39-7bd31d1a3f52", "-display", "none", "-no-user-config", "-nodefaults",
                "-chardev", f"socket,id=charmonitor,fd={monitor},server=on,wait=off", "-mon", "chardev=charmonitor,id=monitor,mode=control",
                "-rtc", "base=utc", "-no-shutdown", "-boot", "strict=on",
                "-device", json.dumps({"driver": "piix3-usb-uhci", "id": "usb", "bus": "pci.0", "addr": "0x1.0x2"}),
                "-blockdev", json.dumps(node), "-blockdev", json.dumps(disk),
                "-device", json.dumps({"driver": "virtio-blk-pci", "drive": "libvirt-1-format", "id": "virtio-disk0", "bootindex": 1}),
                "-audiodev", json.dumps({"id": "audio1", "driver": "none"}), "-sandbox", SANDBOX, "-msg", "timestamp=on", *more]

    def start_as_libvirt(self, name, *more):
        path, pidfile = self.work.file(f"{name}.monitor"), self.work.file(f"{name}.pid")
        launch = self.launch()
        with socket.socket(socket.AF_UNIX) as server, open(self.work.file(f"{name}.log"), "wb") as log:
            server.bind(path)
            server.listen(1)
            self.addCleanup(os.unlink, path)  # who made it removes it
            process = subprocess.Popen([*launch.prefix, launch.qemu, *self.libvirts(name, server.fileno(), "-pidfile", pidfile, *more)],
                                       pass_fds=[server.fileno()], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.work.environment())
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        qmp = Qmp(path, alive=lambda: process.poll() is None)
        self.addCleanup(qmp.close)
        return process, qmp, pidfile

    def test_as_libvirt_starts_and_moves_a_guest(self):
        process, source, pidfile = self.start_as_libvirt("src")
        with open(pidfile, encoding="utf-8") as file:
            self.assertEqual(int(file.read()), process.pid)
        self.assertEqual(source.execute("query-status"), {**source.execute("query-status"), "status": "prelaunch", "running": False})
        self.assertEqual(source.execute("query-memdev")[0]["size"], 64 * MIB)
        source.execute("cont")
        other, destination, _ = self.start_as_libvirt("dst", "-incoming", "defer")
        for side in (source, destination):
            side.execute("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
        uri = self.uri()
        destination.execute("migrate-incoming", uri=uri)
        source.execute("migrate", uri=uri)
        wait_until(lambda: source.execute("query-migrate").get("status") == "completed", "the source has not completed")
        wait_until(lambda: destination.execute("query-migrate").get("status") == "completed", "the destination has not completed")
        self.assertFalse(destination.execute("query-status")["running"])  # libvirt's -S: cont is its own
        destination.execute("cont")
        self.assertTrue(destination.execute("query-status")["running"])
        for side, qmp in ((process, source), (other, destination)):
            qmp.execute("quit")
            self.assertEqual(side.wait(timeout=PATIENCE), 0)

    def test_libvirts_probe_is_qemus_alone(self):
        """libvirt 9.0's own words, with which it asks what an emulator can do; a monitor process would stay behind its -daemonize."""
        path, pidfile = self.work.file("probe.monitor"), self.work.file("probe.pid")
        done = self.run_emulator("-S", "-no-user-config", "-nodefaults", "-nographic", "-machine", "none,accel=kvm:tcg",
                                 "-qmp", f"unix:{path},server=on,wait=off", "-pidfile", pidfile, "-daemonize")
        self.assertEqual((done.returncode, done.stdout), (0, ""))
        qmp = Qmp(path)
        self.addCleanup(qmp.close)
        self.assertEqual(self.kinds(), [QEMU])
        with open(pidfile, encoding="utf-8") as file:
            pid = int(file.read())
        with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
            self.assertNotIn("pageferry", maps.read())
        self.assertEqual(qmp.execute("query-target"), {"arch": "x86_64"})
        qmp.execute("quit")
        wait_until(lambda: not self.work.processes(), lambda: f"left: {self.work.processes()}")
        for leftover in (path, pidfile):
            if os.path.exists(leftover):  # QEMU's own business
                os.unlink(leftover)

    def test_the_name_says_which_qemu(self):
        qemus = subprocess.run([QEMU, "-version"], capture_output=True, text=True, check=True, timeout=PATIENCE).stdout
        for name in (EMULATOR, self.link(EMULATOR), self.link("pageferry-other", program(EMULATOR))):
            with self.subTest(name=name):
                self.settings({"emulators": {"pageferry-other": f"/usr/bin/{QEMU}"}})
                done = self.run_emulator("-version", name=name)
                self.assertEqual((done.returncode, done.stdout), (0, qemus), done.stderr)
        shutil.copy("/bin/echo", self.work.file("echo"))
        self.settings({"emulators": {EMULATOR: self.work.file("echo")}})  # a setting is stronger than the name
        self.assertEqual(self.run_emulator("-version").stdout, "-version\n")

    def test_a_name_that_says_nothing_is_refused(self):
        for name in ("pageferry-qemu", self.link("kvm")):
            self.refused(self.run_emulator("-version", name=name), name, "ln -s pageferry-qemu pageferry-qemu-system-x86_64", "emulators")
        self.refused(self.run_emulator("-version", name=self.link("pageferry-no-such-qemu")), "no-such-qemu", code=127)

    def test_it_never_executes_itself(self):
        self.settings({"emulators": {EMULATOR: self.link(QEMU)}})
        self.refused(self.run_emulator("-version"), self.work.file(QEMU), "pageferry-qemu itself", code=127)

    def test_a_wrong_settings_file_starts_nothing(self):
        """Not even what only asks QEMU, so that it is seen at once."""
        for text, problem in (("{", "parse error"), ({"logs": "none"}, '"logs"'), ({"parameters": 1}, '"parameters"')):
            self.settings(text)
            for arguments in (["-version"], ["-m", "64", "-display", "none"]):
                with self.subTest(text=text, arguments=arguments):
                    self.refused(self.run_emulator(*arguments), self.config, problem)
        done = subprocess.run([program("pageferry"), "qemu", "--", QEMU, "-version"], capture_output=True, text=True, timeout=PATIENCE,
                              check=False, env={**self.work.environment(), "PAGEFERRY_CONFIG": self.config})
        self.refused(done, self.config, '"parameters"')

    def test_parameters_are_the_guests_first_values(self):
        self.settings({"parameters": {"x-pageferry-rdma": "required", "downtime-limit": 17}})
        vm = self.start("vm", launch=self.launch())
        values = vm.qmp.execute("query-migrate-parameters")
        self.assertEqual((values["x-pageferry-rdma"], values["downtime-limit"]), ("required", 17))
        with self.assertRaises(QmpError):
            vm.qmp.execute("migrate", uri=self.dead_uri().replace("rdma:", "tcp:"))

    def test_a_parameter_that_is_refused_refuses_the_start(self):
        for parameters, reason in (({"downtime-limit": -1}, "downtime-limit"), ({"no-such": 1}, "no-such"),
                                   ({"x-pageferry-rdma": "maybe"}, "does not accept value 'maybe'")):
            self.settings({"parameters": parameters})
            with self.subTest(parameters=parameters):
                self.refused(self.run_emulator("-m", "64", "-display", "none"), self.config, reason)
                self.assertEqual(self.run_emulator("-version").returncode, 0)

    def test_the_log(self):
        log = self.work.file("monitor.log")
        self.settings({"log": log})
        vm = self.start("vm", launch=self.launch())
        vm.qmp.execute("quit")
        self.assertEqual(vm.process.wait(timeout=PATIENCE), 0)
        wait_until(lambda: b"QEMU has ended" in self.work_text(log), "nothing is logged")
        self.settings({"log": self.work.file("no-such-folder/log")})
        self.refused(self.run_emulator("-m", "64", "-display", "none"), "no-such-folder/log")


if __name__ == "__main__":
    main()
