#!/usr/bin/env python3
"""The pageferry command against two plain QEMUs: plain_qemu_test.py PAGEFERRY QEMU."""
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

PAGEFERRY, QEMU = sys.argv[1:3]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class PlainQemu(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="pageferry-cli-")
        self.addCleanup(self.folder.cleanup)
        self.uri = f"tcp:127.0.0.1:{free_port()}"
        self.source = self.start("source")

    def start(self, name, *extra):
        path = os.path.join(self.folder.name, name)
        process = subprocess.Popen([QEMU, "-accel", "tcg", "-machine", "pc", "-m", "128", "-display", "none", "-nic", "none", "-serial", "null",
                                    "-qmp", f"unix:{path},server=on,wait=off", *extra], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        deadline = time.monotonic() + 60
        while True:
            self.assertIsNone(process.poll(), "QEMU did not start")
            self.assertLess(time.monotonic(), deadline)
            with socket.socket(socket.AF_UNIX) as monitor:
                monitor.settimeout(60)
                try:
                    monitor.connect(path)
                except OSError:
                    time.sleep(0.02)
                    continue
                # The greeting may come before -incoming listens; an answer comes from the main loop, after it.
                monitor.sendall(b'{"execute": "qmp_capabilities"}\n')
                answers = monitor.makefile("r")
                while "return" not in json.loads(answers.readline()):
                    pass
                answers.close()
                return path

    def start_destination(self):
        return self.start("destination", "-incoming", self.uri)

    def run_command(self, *arguments, code=0):
        done = subprocess.run([PAGEFERRY, *arguments], capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done

    def objects(self, text):
        return [json.loads(line) for line in text.splitlines()]

    def test_migrates_and_tells_every_state(self):
        destination = self.start_destination()
        done = self.run_command("migrate", "--qmp", self.source, "--downtime-limit", "200", "--max-bandwidth", "10G/s", self.uri)
        told = self.objects(done.stdout)
        self.assertEqual([o["status"] for o in told if o["type"] == "state"], ["setup", "active", "completed"])
        self.assertEqual(told[-1]["type"], "summary")
        self.assertEqual(told[-1]["exit_code"], 0)
        self.assertGreater(told[-1]["transferred_bytes"], 0)
        self.assertGreater(told[-1]["total_time_ms"], 0)
        status = self.objects(self.run_command("status", "--qmp", self.source, "--json").stdout)[0]
        self.assertEqual((status["status"], status["percent"]), ("completed", 100.0))
        self.run_command("status", "--qmp", destination)
        self.assertIn("nothing to cancel", self.run_command("cancel", "--qmp", self.source).stdout)

    def test_draws_one_live_line_on_a_terminal(self):
        self.start_destination()
        pid, terminal = pty.fork()
        if pid == 0:
            os.execv(PAGEFERRY, [PAGEFERRY, "migrate", "--qmp", self.source, "--interval", "20", "--max-bandwidth", "300K", self.uri])
        drawn = b""
        while True:
            try:
                piece = os.read(terminal, 65536)
            except OSError:  # Linux says EIO when the other end of a terminal is gone
                break
            if not piece:
                break
            drawn += piece
        os.close(terminal)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0, drawn)
        text = drawn.decode()
        self.assertRegex(text, r"\d\d:\d\d:\d\d\.\d{3}  active")
        self.assertRegex(text, r"\r\x1b\[Kactive  .*% ")
        for line in re.findall(r"\r\x1b\[K([^\r\n]+)", text):
            self.assertLess(len(line), 80)
        self.assertRegex(text, r"result +completed\r\n")

    def test_interrupt_cancels(self):
        self.start_destination()
        process = subprocess.Popen([PAGEFERRY, "migrate", "--qmp", self.source, "--max-bandwidth", "20K", "--json", "--interval", "50", self.uri],
                                   stdout=subprocess.PIPE, text=True)
        told = []
        for line in process.stdout:
            told.append(json.loads(line))
            if told[-1].get("status") == "active" and told[-1]["type"] == "progress" and not any(o.get("sent") for o in told):
                process.send_signal(signal.SIGINT)
                told[-1]["sent"] = True
        self.assertEqual(process.wait(timeout=60), 4, told)
        process.stdout.close()
        self.assertEqual([o["status"] for o in told if o["type"] == "state"], ["setup", "active", "cancelling", "cancelled"])

    def test_timeout_cancels(self):
        self.start_destination()
        done = self.run_command("migrate", "--qmp", self.source, "--max-bandwidth", "20K", "--timeout", "0.5", self.uri, code=5)
        self.assertIn("--timeout", done.stderr)
        self.assertTrue(self.objects(done.stdout)[-1]["timed_out"])

    def test_cancel_and_watch_take_over_after_detach(self):
        self.start_destination()
        self.assertEqual(self.run_command("migrate", "--qmp", self.source, "--max-bandwidth", "20K", "--detach", self.uri).stdout, "")
        self.assertEqual(self.objects(self.run_command("status", "--qmp", self.source, "--json").stdout)[0]["lanes"], 1)
        done = self.run_command("cancel", "--qmp", self.source)
        self.assertEqual(self.objects(done.stdout)[-1]["status"], "cancelled")

    def set_capability(self, path, name):
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(path)
            lines = monitor.makefile("rw")
            lines.readline()
            for command in ({"execute": "qmp_capabilities"},
                            {"execute": "migrate-set-capabilities", "arguments": {"capabilities": [{"capability": name, "state": True}]}}):
                lines.write(json.dumps(command) + "\n")
                lines.flush()
                answer = json.loads(lines.readline())
                if "error" in answer:  # userfaultfd is not for everybody
                    self.skipTest(answer["error"]["desc"])
            lines.close()

    def start_postcopy_destination(self):
        destination = self.start("destination", "-incoming", "defer")
        self.set_capability(destination, "postcopy-ram")
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(destination)
            lines = monitor.makefile("rw")
            lines.readline()
            for command in ({"execute": "qmp_capabilities"}, {"execute": "migrate-incoming", "arguments": {"uri": self.uri}}):
                lines.write(json.dumps(command) + "\n")
                lines.flush()
                while "return" not in json.loads(lines.readline()):
                    pass
            lines.close()
        return destination

    def until(self, process, condition, told):
        """Reads the JSON lines of a command until one fulfils that."""
        for line in process.stdout:
            told.append(json.loads(line))
            if condition(told[-1]):
                return told[-1]
        self.fail(f"it ended: {told}")

    # Slow enough that neither precopy nor what postcopy moves in the background comes to its end.
    slow = ("--max-bandwidth", "100K", "--max-postcopy-bandwidth", "4K", "--interval", "50", "--json")

    def in_postcopy(self, *options):
        """A command that follows, and what it has told so far."""
        process = subprocess.Popen([PAGEFERRY, "migrate", "--qmp", self.source, *self.slow, *options, self.uri],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.addCleanup(process.stderr.close)
        self.addCleanup(process.stdout.close)
        told = []
        self.until(process, lambda o: o["type"] == "progress" and o["status"] == "postcopy-active", told)
        return process, told

    def end(self, process, told, code):
        rest, said = process.communicate(timeout=60)
        told += self.objects(rest)
        self.assertEqual(process.returncode, code, (told, said))
        return said

    def test_interrupt_in_postcopy_only_leaves(self):
        self.start_postcopy_destination()
        process, told = self.in_postcopy("--postcopy=0.1")
        process.send_signal(signal.SIGINT)
        self.assertIn("cannot be cancelled", self.end(process, told, 130))
        watch = subprocess.Popen([PAGEFERRY, "watch", "--qmp", self.source, "--json", "--interval", "50"], stdout=subprocess.PIPE, text=True)
        self.addCleanup(watch.wait)
        self.addCleanup(watch.kill)
        self.addCleanup(watch.stdout.close)
        self.until(watch, lambda o: o["type"] == "progress" and o["status"] == "postcopy-active", [])

    def test_postcopy_that_the_other_side_does_not_know_fails(self):
        self.start_destination()
        done = subprocess.run([PAGEFERRY, "migrate", "--qmp", self.source, "--postcopy", self.uri], capture_output=True, text=True, timeout=120)
        if done.returncode == 1:  # QEMU 7.2 takes it for a broken stream, others go on with precopy
            self.assertIn("postcopy-ram", done.stderr)

    def test_postcopy_command(self):
        self.assertIn("migrate-start-postcopy", self.run_command("postcopy", "--qmp", self.source, code=7).stderr)
        destination = self.start_postcopy_destination()
        self.run_command("migrate", "--qmp", self.source, *self.slow, "--capability", "postcopy-ram=on", "--detach", self.uri)
        self.run_command("postcopy", "--qmp", self.source)
        watch = subprocess.Popen([PAGEFERRY, "watch", "--qmp", destination, "--json", "--interval", "50"], stdout=subprocess.PIPE, text=True)
        self.addCleanup(watch.wait)
        self.addCleanup(watch.kill)
        self.addCleanup(watch.stdout.close)
        self.until(watch, lambda o: o["type"] == "state" and o["status"] == "postcopy-active", [])

    def test_failure_says_why(self):
        done = self.run_command("migrate", "--qmp", self.source, f"tcp:127.0.0.1:{free_port()}", code=1)
        self.assertIn("Connection refused", done.stderr)

    def test_refusals_change_nothing(self):
        done = self.run_command("migrate", "--qmp", self.source, "--capability", "nonsense=on", self.uri, code=7)
        self.assertIn("nonsense", done.stderr)
        self.run_command("migrate", "--qmp", self.source, "--parameter", "max-bandwidth=fast", self.uri, code=2)
        self.run_command("migrate", "--qmp", self.source, "--parameter", "max-bandwidth", self.uri, code=2)
        self.run_command("migrate", "--qmp", self.source, "--max-bandwidth", "1X", self.uri, code=2)
        self.run_command("migrate", self.uri, code=2)
        self.run_command("migrate", "--qmp", self.source, "--postcopy=soon", self.uri, code=2)
        self.run_command("migrate", "--qmp", self.source, "--postcopy", "--detach", self.uri, code=2)
        self.run_command("recover", "--qmp", self.source, code=2)
        self.run_command("frobnicate", code=2)
        self.run_command("status", "--qmp", "/nonexistent", code=3)
        self.run_command("status", "--qmp", "tcp:x", code=2)
        status = self.objects(self.run_command("status", "--qmp", self.source, "--json").stdout)[0]
        self.assertEqual(status["status"], "none")
        self.assertIn("protocol", self.run_command("migrate", "--qmp", self.source, "bogus:1", code=1).stderr)

    def test_parameters_reach_the_monitor(self):
        self.run_command("migrate", "--qmp", self.source, "--parameter", "cpu-throttle-initial=31", "--downtime-limit", "77", "--max-bandwidth", "1.5G",
                         "--lanes", "5", "--capability", "auto-converge=on", "bogus:1", code=1)
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(self.source)
            lines = monitor.makefile("rw")
            lines.readline()
            answers = []
            for command in ("qmp_capabilities", "query-migrate-parameters", "query-migrate-capabilities"):
                lines.write(json.dumps({"execute": command}) + "\n")
                lines.flush()
                answers.append(json.loads(lines.readline())["return"])
            lines.close()
        self.assertEqual([answers[1][n] for n in ("cpu-throttle-initial", "downtime-limit", "max-bandwidth", "multifd-channels")], [31, 77, 3 << 29, 5])
        self.assertIn({"capability": "auto-converge", "state": True}, answers[2])
        self.assertIn({"capability": "events", "state": True}, answers[2])

    def test_help_and_version_need_no_monitor(self):
        self.assertRegex(self.run_command("--version").stdout, r"^pageferry \d")
        for arguments in ([], ["migrate"], ["watch"], ["status"], ["cancel"], ["postcopy"], ["pause"], ["recover"]):
            text = self.run_command(*arguments, "--help").stdout
            self.assertIn("Example", text)
            self.assertIn("Exit codes", text)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
