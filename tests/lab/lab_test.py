#!/usr/bin/env python3
"""The lab against real machines. lab_test.py BUILD-DIRECTORY [CLASS[.METHOD]...]; exit status 77: the lab is not on this host."""
import contextlib
import io
import os
import pty
import select
import signal
import subprocess
import sys
import tempfile
import termios
import time
import unittest
import xml.etree.ElementTree as tree
from unittest import mock

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
sys.path.insert(0, ROOT)
from lab import host, testing  # noqa: E402
from lab.lane import CommandTimeout, LabError  # noqa: E402
from lab.machine import BOOTS, LANES, Machine  # noqa: E402
from lab.two import Two  # noqa: E402

BUILD = os.path.join(ROOT, "build", "release")
LIMIT = 300.0


def machines():
    """The process ids of all lab machines of this host."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
                if any(w.startswith(b"pageferry-lab-") for w in words) and stat.read().rsplit(")", 1)[1].split()[0] != "Z":
                    found.append(int(pid))
        except OSError:
            pass
    return found


def children(pid):
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children", encoding="utf-8") as file:
            found += map(int, file.read().split())
    return found


def wait_until(condition, what, timeout=60.0):
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout:g} s: {what}")
        time.sleep(0.05)


def rping(server, client, address, count=3, patience=60.0):
    """Whether verbs work from client to server: (the client's Result, the server's). The client is tried again until the server listens."""
    listening = server.spawn(["rping", "-s", "-a", address, "-C", str(count), "-v"])
    try:
        end = time.monotonic() + patience
        while True:
            result = client.run(["timeout", "30", "rping", "-c", "-a", address, "-C", str(count), "-v"], timeout=60)
            if b"ping data" in result.stdout or time.monotonic() > end or not listening.running:
                return result, listening.wait(30)
            time.sleep(0.2)
    finally:
        listening.kill()


class OneMachine(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        image, kernel = host.prepare(build=BUILD)
        cls.machine = Machine(image, kernel, mtu=9000, limit=LIMIT)
        cls.addClassCleanup(cls.machine.close)
        cls.machine.wait_ready()

    def test_output_errors_and_status_come_apart(self):
        result = self.machine.run("echo out; echo err >&2; printf 'a\\0b'; exit 7")
        self.assertEqual(result, (7, b"out\na\0b", b"err\n"))
        self.assertEqual(self.machine.run(["sh", "-c", "kill -TERM $$"]).status, 128 + signal.SIGTERM)
        self.assertEqual(self.machine.run(["no-such-program"]).status, 127)

    def test_the_console_is_kept(self):
        self.machine.run("echo said on the console >/dev/console", check=True)
        wait_until(lambda: "said on the console" in self.machine.console(), "the console has it")

    def test_much_output_is_whole(self):
        result = self.machine.run("seq 1 100000", timeout=120)
        self.assertEqual(result.stdout, "".join(f"{n}\n" for n in range(1, 100001)).encode())

    def test_files_go_there_and_back(self):
        data = bytes(range(256)) * 300
        self.machine.put("/tmp/a file", data)
        self.assertEqual(self.machine.get("/tmp/a file"), data)

    def test_a_command_that_hangs_is_killed_and_the_lane_works_on(self):
        for _ in range(LANES + 1):
            with self.assertRaises(CommandTimeout):
                self.machine.run("echo begun; sleep 1000 & wait", timeout=2)
        wait_until(lambda: self.machine.run("pidof sleep >/dev/null && ps -o args | grep -c '[s]leep 1000'").stdout.strip() in (b"", b"0"), "sleep 1000 goes on")

    def test_commands_run_side_by_side(self):
        jobs = [self.machine.spawn(f"echo {n}; cat /dev/zero >/dev/null") for n in range(LANES)]
        with self.assertRaises(LabError):
            self.machine.spawn("true")
        for number, job in enumerate(jobs):
            wait_until(lambda j=job, n=number: j.output == f"{n}\n".encode(), "the output comes while it runs")
        for job in jobs:
            job.kill("TERM")
            self.assertEqual(job.wait(60).status, 128 + signal.SIGTERM)

    def test_an_interrupt_is_not_ignored(self):
        job = self.machine.spawn("echo begun; exec sleep 1000")
        wait_until(lambda: job.output == b"begun\n", "it begins")
        job.kill("INT")
        self.assertEqual(job.wait(60).status, 128 + signal.SIGINT)

    def test_soft_roce_devices(self):
        result = self.machine.run("rdma link show; ip -br address show veth0; ibv_devinfo -d rxe0", check=True).stdout.decode()
        self.assertIn("link rxe0/1 state ACTIVE", result)
        self.assertIn("10.77.0.1/24", result)
        self.assertIn("fd77::1/64", result)
        self.assertRegex(result, r"active_mtu:\s+4096")

    def test_verbs_over_ipv4_and_ipv6(self):
        for address in (self.machine.address, self.machine.address6, "10.77.1.1"):
            client, server = rping(self.machine, self.machine, address)
            self.assertEqual(client.stdout.count(b"ping data: rdma-ping-"), 3, (address, client, server))

    def test_what_was_built_runs(self):
        self.assertEqual(self.machine.run(["pageferry", "--version"]).status, 0)
        self.assertEqual(self.machine.run(["build/release/bin/pageferry" if BUILD == os.path.join(ROOT, "build", "release")
                                           else os.path.join(BUILD, "bin", "pageferry"), "--version"]).status, 0)


class TwoMachines(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        image, kernel = host.prepare(build=BUILD)
        cls.lab = Two(image, kernel, limit=LIMIT)
        cls.addClassCleanup(cls.lab.close)
        cls.lab.wait_ready()

    def setUp(self):
        self.addCleanup(self.lab.drop_roce, 0)
        self.addCleanup(self.lab.restore)

    def ping(self, machine, address):
        return machine.run(["ping", "-c", "1", "-W", "10", address], timeout=60).status == 0

    def verbs_work(self):
        client, server = rping(self.lab.b, self.lab.a, self.lab.b.address)
        self.assertIn(b"ping data: rdma-ping-2", client.stdout, (client, server))

    def verbs_fail(self):
        """A connection that is not there comes to its end by its own or by our limit, and never to data."""
        server = self.lab.b.spawn(["rping", "-s", "-a", self.lab.b.address])
        try:
            result = self.lab.a.run(["timeout", "8", "rping", "-c", "-a", self.lab.b.address, "-C", "1", "-v"], timeout=60)
        finally:
            server.kill()
        self.assertNotEqual(result.status, 0)
        self.assertNotIn(b"ping data", result.stdout)

    def test_each_reaches_the_other(self):
        for one, other in ((self.lab.a, self.lab.b), (self.lab.b, self.lab.a)):
            self.assertTrue(self.ping(one, other.address))
            self.assertTrue(self.ping(one, other.address6))
        self.assertTrue(self.ping(self.lab.a, "b"))
        self.verbs_work()

    def test_a_cut_link_and_a_restored_one(self):
        self.lab.cut()
        self.assertIn(b"NO-CARRIER", self.lab.a.run("ip link show eth0").stdout)
        self.verbs_fail()
        self.lab.restore()
        wait_until(lambda: self.ping(self.lab.a, self.lab.b.address), "the link comes back")
        self.verbs_work()

    def test_a_cut_at_the_other_end_is_only_silence(self):
        self.lab.cut(carrier="b")
        self.assertNotIn(b"NO-CARRIER", self.lab.a.run("ip link show eth0").stdout)
        self.assertIn(b"NO-CARRIER", self.lab.b.run("ip link show eth0").stdout)
        self.verbs_fail()
        self.lab.restore()
        wait_until(lambda: self.ping(self.lab.a, self.lab.b.address), "the link comes back")
        self.verbs_work()

    def test_roce_alone_is_lost(self):
        self.lab.drop_roce()
        self.assertTrue(self.ping(self.lab.a, self.lab.b.address))
        self.verbs_fail()
        self.lab.drop_roce(0)
        self.verbs_work()


class Boots(unittest.TestCase):
    """A kernel that fails before it runs a program is booted again."""

    def setUp(self):
        self.image, self.kernel = host.prepare(build=BUILD)

    @staticmethod
    def fails():
        """While it lasts, machines are started whose kernel finds no first program, and panics."""
        return mock.patch("lab.machine._KERNEL", "rdinit=/none console=ttyS0 no_timer_check quiet panic=-1")

    def test_one_machine(self):
        with self.fails():
            machine = Machine(self.image, self.kernel, limit=LIMIT)
        with machine, contextlib.redirect_stderr(io.StringIO()) as said:
            machine.wait_ready()
            self.assertIn("Kernel panic", said.getvalue())
            self.assertEqual(machine.run("echo here").stdout, b"here\n")

    def test_two_machines_and_their_cable(self):
        with self.fails():
            lab = Two(self.image, self.kernel, limit=LIMIT)
        with lab, contextlib.redirect_stderr(io.StringIO()):
            lab.wait_ready()
            for one, other in ((lab.a, lab.b), (lab.b, lab.a)):
                self.assertEqual(one.run(["ping", "-c", "1", "-W", "10", other.address]).status, 0)

    def test_one_that_never_boots(self):
        with self.fails(), Machine(self.image, self.kernel, limit=LIMIT) as machine, contextlib.redirect_stderr(io.StringIO()) as said:
            with self.assertRaisesRegex(LabError, "a did not boot.*Kernel panic"):
                machine.wait_ready()
        self.assertEqual(said.getvalue().count("booted again"), BOOTS - 1)


class CommandLine(unittest.TestCase):
    def lab(self, *words, timeout=200):
        return subprocess.run([sys.executable, os.path.join(ROOT, "lab", "main.py"), *words], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=timeout, check=False)

    def setUp(self):
        host.prepare()
        self.before = machines()

    def tearDown(self):
        wait_until(lambda: set(machines()) <= set(self.before), "no machine is left")

    def test_output_and_status(self):
        result = self.lab("--", "sh", "-c", "echo 'two  words'; echo err >&2; exit 9")
        self.assertEqual((result.returncode, result.stdout, result.stderr), (9, "two  words\n", "err\n"))

    def test_the_limit_ends_it_and_shows_the_console(self):
        result = self.lab("--limit", "15", "--", "sh", "-c", "sleep 1000")
        self.assertEqual(result.returncode, 124, result.stderr)
        self.assertIn("end of a's console", result.stderr)
        self.assertIn("the limit of 15 s has passed", result.stderr)

    def test_a_machine_that_panics(self):
        result = self.lab("--", "sh", "-c", "echo c >/proc/sysrq-trigger; sleep 1000")
        self.assertEqual(result.returncode, 125, result.stderr)
        self.assertIn("sysrq triggered crash", result.stderr)

    def test_nothing_is_left_of_a_lab_that_is_killed(self):
        with subprocess.Popen([sys.executable, os.path.join(ROOT, "lab", "main.py"), "--", "sh", "-c", "echo begun; sleep 1000"], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE) as lab:
            self.assertEqual(lab.stdout.readline(), b"begun\n")
            mine = children(lab.pid)
            self.assertTrue(set(mine) & set(machines()))
            lab.kill()
        wait_until(lambda: not set(mine) & set(machines()), "its machine is gone")

    def test_a_command_on_each_of_two(self):
        result = self.lab("--two", "--peer-command", "echo from b; rping -s -a 10.77.0.2 -C 3", "--",
                          "sh", "-c", "for n in 1 2 3 4 5; do rping -c -a 10.77.0.2 -C 3 -v | grep rdma-ping-2 && exit 0; sleep 1; done; exit 1")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("rdma-ping-2", result.stdout)
        self.assertIn("b: from b\n", result.stderr)

    def test_a_shell_on_the_terminal(self):
        ours, theirs = pty.openpty()
        self.addCleanup(os.close, ours)
        before = termios.tcgetattr(theirs)
        shell = subprocess.Popen([sys.executable, os.path.join(ROOT, "lab", "main.py")], stdin=theirs, stdout=theirs, stderr=theirs)
        self.addCleanup(shell.wait)
        self.addCleanup(shell.kill)
        said = b""

        def wait_for(text, typed=b""):
            """After what was waited for before. What is typed while a shell sets up the terminal is lost: it is typed again, which does no harm."""
            nonlocal said
            begun = again = time.monotonic()
            while text not in said:
                now = time.monotonic()
                self.assertLess(now, begun + 120, (text, said))
                if typed and now >= again:
                    os.write(ours, typed)
                    again = now + 10
                if select.select([ours], [], [], 1)[0]:
                    said += os.read(ours, 4096)
            head, _, said = said.partition(text)
            return head
        wait_for(b"# ")
        wait_for(b"begun 2", b"echo begun $((1 + 1)); sleep 1000\n")
        wait_for(b"# ", b"\x03")  # Ctrl-C ends the sleep, not the lab
        self.assertIn(b"/dev/hvc0", wait_for(b"42", b"tty; echo $((6 * 7)); exit 4\n"))
        self.assertEqual(shell.wait(60), 4)
        self.assertEqual(termios.tcgetattr(theirs), before)
        os.close(theirs)

    def test_wrong_words(self):
        for words in (["--peer-command", "true", "--", "true"], ["--two"], []):
            self.assertEqual(self.lab(*words).returncode, 2)
        missing = self.lab("--kernel", "7.9", "--", "true")
        self.assertEqual(missing.returncode, 125)
        self.assertIn("./dev lab --kernel 7.9", missing.stderr)


class GoogleTests(unittest.TestCase):
    def test_each_test_has_its_name(self):
        program = os.path.join(BUILD, "bin", "test_memory")
        if not os.path.exists(program):
            self.skipTest(f"no {program}")
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "results.xml")
            result = subprocess.run([sys.executable, os.path.join(ROOT, "lab", "gtest.py"), "--build", BUILD, "--output", path, "short=test_memory --gtest_brief=0"],
                                    capture_output=True, text=True, timeout=LIMIT, check=False)
            self.assertIn(result.returncode, (0, 1), result.stderr)
            found = {case.get("name"): case.get("status") for case in tree.parse(path).iter("testcase")}
        listed = subprocess.run([program, "--gtest_list_tests"], capture_output=True, text=True, check=True).stdout
        self.assertEqual(len(found), sum(1 for line in listed.splitlines() if line.startswith("  ")), result.stdout)
        self.assertTrue(all(name.startswith("lab.short.") for name in found), found)
        self.assertEqual([name for name, status in found.items() if status == "fail"], [], result.stdout)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        BUILD = os.path.abspath(sys.argv.pop(1))
    testing.main()
