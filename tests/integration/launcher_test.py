#!/usr/bin/env python3
"""`pageferry qemu` is QEMU to whoever starts it: process id, exit status, signals, -daemonize, and nothing left at its end."""
import os
import signal
import subprocess

from under_pageferry import FAST, PATIENCE, SLOW, Case, Qmp, drop_in, main, plain, program, wait_until

QEMU = "qemu-system-x86_64"
SMALL = ["-accel", "tcg", "-machine", "pc", "-m", "64", "-nodefaults", "-display", "none"]


def executable(pid):
    return os.path.basename(os.readlink(f"/proc/{pid}/exe"))


class Launcher(Case):
    def run_qemu(self, *arguments, launch=None):
        """QEMU to its end."""
        launch = launch or drop_in()
        return subprocess.run([*launch.prefix, QEMU, *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False,
                              stdin=subprocess.DEVNULL, env={**self.work.environment(), **launch.environment})

    def kinds(self):
        """The programs of this workspace that run."""
        return sorted(executable(pid) for pid in self.work.processes())

    def test_the_process_that_was_started_is_qemu(self):
        vm = self.start("vm")
        self.assertEqual(executable(vm.process.pid), QEMU)
        self.assertEqual(self.kinds(), ["pageferry-monitor", QEMU])
        children = open(f"/proc/{vm.process.pid}/task/{vm.process.pid}/children", encoding="utf-8")
        with children:
            self.assertEqual(children.read().split(), [])  # the monitor process is nobody's child: a supervisor sees QEMU alone
        monitor = next(pid for pid in self.work.processes() if pid != vm.process.pid)
        self.assertNotEqual(os.getsid(monitor), os.getsid(vm.process.pid))

    def test_exit_status_is_qemus(self):
        vm = self.start("quits")
        vm.qmp.execute("quit")
        self.assertEqual(vm.process.wait(timeout=PATIENCE), 0)
        for arguments in (["-machine", "nonsense"], [*SMALL, "-device", "nonsense"], [*SMALL, "-nonsense"]):
            with self.subTest(arguments=arguments):
                ours, qemus = self.run_qemu(*arguments), self.run_qemu(*arguments, launch=plain())
                self.assertEqual((ours.returncode, ours.stdout), (qemus.returncode, qemus.stdout))
                self.assertIn(qemus.stderr.splitlines()[0], ours.stderr)

    def test_a_program_that_is_not_there(self):
        done = subprocess.run([*drop_in().prefix, "no-such-qemu", *SMALL], capture_output=True, text=True, timeout=PATIENCE, check=False,
                              env=self.work.environment())
        self.assertEqual(done.returncode, 127)
        self.assertIn("no-such-qemu", done.stderr)

    def ends_with(self, number, status):
        vm = self.start(f"vm{number}")
        other = Qmp(vm.cli_path)
        self.addCleanup(other.close)
        vm.process.send_signal(number)
        self.assertEqual(vm.process.wait(timeout=PATIENCE), status)
        wait_until(lambda: vm.qmp.closed and other.closed, "a monitor outlives QEMU")
        wait_until(lambda: not self.work.processes(), lambda: f"left: {self.work.processes()}")
        self.assertFalse(os.path.exists(vm.qmp_path) or os.path.exists(vm.cli_path), "a socket is left")
        return [event.name for event in other.events]

    def test_signals_end_qemu_and_its_monitor_process(self):
        self.assertIn("SHUTDOWN", self.ends_with(signal.SIGTERM, 0))  # QEMU's last word is heard
        self.ends_with(signal.SIGINT, 0)
        self.ends_with(signal.SIGKILL, -signal.SIGKILL)

    def test_killed_in_the_middle_of_a_migration(self):
        """All three processes of that side end, and the other side's mover."""
        source, destination = self.pair()
        self.begin(source, destination, parameters=SLOW)
        source.wait_status("active")
        self.assertEqual(self.kinds(), sorted(2 * ["pageferry-monitor", "pageferry-mover", QEMU]))
        source.process.kill()
        destination.process.wait(timeout=PATIENCE)  # its migration has failed, and exit-on-error is QEMU's default
        wait_until(lambda: not self.work.processes(), lambda: f"left: {self.work.processes()}")

    def test_no_mover_between_migrations(self):
        source, destination = self.pair()
        self.assertNotIn("pageferry-mover", self.kinds())
        self.move(source, destination)
        wait_until(lambda: "pageferry-mover" not in self.kinds(), "a mover is left")

    def test_daemonize(self):
        path, pidfile = self.work.file("vm.qmp"), self.work.file("pid")
        done = self.run_qemu(*SMALL, "-daemonize", "-pidfile", pidfile, "-qmp", f"unix:{path},server=on,wait=off")
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
        qmp = Qmp(path)  # listens already: daemonized means started
        self.addCleanup(qmp.close)
        with open(pidfile, encoding="utf-8") as file:
            pid = int(file.read())
        self.assertEqual(executable(pid), QEMU)
        self.assertIn(pid, self.work.processes())
        self.assertTrue(qmp.execute("query-status")["running"])
        for fd in (0, 1):
            self.assertEqual(os.readlink(f"/proc/{pid}/fd/{fd}"), "/dev/null")
        qmp.execute("quit")
        wait_until(lambda: not self.work.processes(), lambda: f"left: {self.work.processes()}")
        self.assertFalse(os.path.exists(path) or os.path.exists(pidfile))

    def test_daemonize_tells_of_a_start_that_failed(self):
        done = self.run_qemu(*SMALL, "-daemonize", "-device", "nonsense")
        self.assertEqual(done.returncode, 1)
        self.assertIn("nonsense", done.stderr)

    def test_what_qemu_starts_knows_nothing_of_the_agent(self):
        """Not preloaded there, and no variable or descriptor of ours is left; a preload of the user's stays."""
        mine = "/usr/lib/x86_64-linux-gnu/libm.so.6"
        for preload in ({}, {"LD_PRELOAD": mine} if os.path.exists(mine) else {}):
            vm = self.start("preload" if preload else "vm", launch=drop_in(**preload))
            env, files = self.work.file("env"), self.work.file("files")
            vm.qmp.execute("migrate-set-parameters", **FAST)
            vm.qmp.execute("migrate", uri=f"exec:cat /proc/self/environ > {env}; ls -l /proc/self/fd > {files}; exec cat > /dev/null")
            vm.wait_status("completed")
            with open(env, encoding="utf-8") as file:
                variables = dict(entry.split("=", 1) for entry in file.read().split("\0") if entry)
            self.assertEqual(variables.get("LD_PRELOAD"), preload.get("LD_PRELOAD"))
            self.assertEqual([name for name in variables if name.startswith("PAGEFERRY_AGENT") or name.startswith("PF_AGENT")], [])
            with open(files, encoding="utf-8") as file:
                listed = file.read()
            for ours in ("pageferry-pc.ram", "userfaultfd", "pidfd"):
                self.assertNotIn(ours, listed)

    def test_questions_go_to_plain_qemu(self):
        for arguments in (["-version"], ["-help"], ["-machine", "help"], ["-device", "help"]):
            with self.subTest(arguments=arguments):
                ours, qemus = self.run_qemu(*arguments), self.run_qemu(*arguments, launch=plain())
                self.assertEqual((ours.returncode, ours.stdout), (qemus.returncode, qemus.stdout))

    def assert_plain(self, *machine, launch=None, path="probe.qmp"):
        """QEMU alone serves its monitor, and has no agent in it."""
        path = self.work.file(path)
        launch = launch or drop_in()
        process = subprocess.Popen([*launch.prefix, QEMU, *machine, "-nodefaults", "-display", "none", "-qmp", f"unix:{path},server=on,wait=off"],
                                   stdin=subprocess.DEVNULL, env={**self.work.environment(), **launch.environment})
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        qmp = Qmp(path, alive=lambda: process.poll() is None)
        self.addCleanup(qmp.close)
        self.assertEqual(self.kinds(), [QEMU])
        with open(f"/proc/{process.pid}/maps", encoding="utf-8") as maps:
            self.assertNotIn("pageferry", maps.read())
        self.assertEqual(qmp.execute("query-migrate-capabilities")[0].keys(), {"capability", "state"})
        qmp.execute("quit")
        self.assertEqual(process.wait(timeout=PATIENCE), 0)

    def test_a_probe_without_a_machine_is_plain(self):
        self.assert_plain("-machine", "none")

    def test_switched_off_by_the_environment(self):
        self.assert_plain("-accel", "tcg", "-machine", "pc", "-m", "64", launch=drop_in(PAGEFERRY="off"))

    def test_without_a_command_line(self):
        done = subprocess.run([program("pageferry"), "qemu"], capture_output=True, text=True, timeout=PATIENCE, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn("pageferry qemu -- qemu-system-x86_64", done.stderr)


if __name__ == "__main__":
    main()
