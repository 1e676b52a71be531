#!/usr/bin/env python3
"""What goes wrong on the way, in the lab: what is said of it, that it is said within a bound, and that nothing is left.

faults_test.py BUILD-DIRECTORY [--scheme tcp|rdma] [CLASS[.METHOD]...]; exit status 77: the lab is not on this host. The two ends are
`pageferry-perf push`. The bounds are for a hang: they are far above what each takes.
"""
import argparse
import os
import re
import sys
import time
import unittest

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
sys.path.insert(0, ROOT)
from lab import host, testing  # noqa: E402
from lab.machine import Machine  # noqa: E402
from lab.two import Two  # noqa: E402

BUILD = os.path.join(ROOT, "build", "release")
LIMIT = 800.0
PATIENCE = 60.0   # seconds for what is to come to an end by itself; a dead peer is one that is silent for 5 s, in most of them
TIMEOUT = "20"    # of the programs' own waits
SCHEME = "rdma"


def wait_until(condition, what, timeout=PATIENCE, every=0.1):
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout:g} s: {what() if callable(what) else what}")
        time.sleep(every)


def dead_peer(options):
    """Shorter than the default, for most of the time would be spent on it."""
    return "" if any("--dead-peer" in option for option in options) else "--dead-peer 5"


class Faults(unittest.TestCase):
    """Of ends, source first: the machines they run on."""
    port = 6000

    def setUp(self):
        Faults.port += 1
        self.jobs = []
        self.addCleanup(self.assert_nothing_left)

    def uri(self, machine):
        return f"{SCHEME}:{machine.address}:{self.port}"

    def push(self, machine, uri, *options, prefix="", size="16M"):
        """A source under way."""
        words = f"exec {prefix} pageferry-perf push {uri} --size {size} --timeout {TIMEOUT} {dead_peer(options)} {' '.join(options)}"
        self.jobs.append(machine.spawn(words))
        return self.jobs[-1]

    def serve(self, machine, uri, program="pageferry-perf push --listen", *options, size="16M"):
        """A target that listens."""
        tail = f"--size {size} --timeout {TIMEOUT} {dead_peer(options)}" if program.startswith("pageferry-perf") else ""
        self.jobs.append(machine.spawn(f"exec {program} {uri} {tail} {' '.join(options)}"))
        job = self.jobs[-1]
        wait_until(lambda: b"listening" in job.output or not job.running, "it listens")
        self.assertTrue(job.running, f"it does not listen: {job.running or job.wait()}")
        return job

    def mute(self, machine, what):
        return self.serve(machine, f"{what} {SCHEME} {machine.address} {self.port}", "lab-listener")

    def failed(self, job, *patterns, timeout=PATIENCE):
        """It has ended with status 1, and what it said matches each of these."""
        self.said(job, *patterns, timeout=timeout)
        wait_until(lambda: not job.running, lambda: f"it ends; it is in\n{self.whereabouts()}", timeout)
        result = job.wait()
        self.assertEqual(result.status, 1, result)
        return result.stderr.decode(errors="replace")

    def said(self, job, *patterns, timeout=PATIENCE):
        """It has said that it failed, in words that match each of these."""
        wait_until(lambda: job.errors.endswith(b"\n") or not job.running, lambda: f"it fails; it is in\n{self.whereabouts()}", timeout)
        said = job.errors.decode(errors="replace")
        print(f"      {said.strip().splitlines()[-1] if said.strip() else 'nothing was said'}", file=sys.stderr)
        for pattern in patterns:
            self.assertRegex(said, re.compile(pattern, re.IGNORECASE))

    def moved(self, machine):
        """How much has been sent through this machine's device: packets of RDMA, or bytes, as the scheme has it."""
        if SCHEME == "rdma":
            return 1024 * int(machine.run("cat /sys/class/infiniband/rxe0/ports/1/hw_counters/sent_pkts", check=True).stdout)
        return int(machine.run(f"cat /sys/class/net/{'lo' if machine.device == 'veth0' else machine.device}/statistics/tx_bytes", check=True).stdout)

    def wait_moving(self, machine, job, size=4 << 20):
        """Until so much more has been sent: the push is in the middle of it."""
        first = self.moved(machine)
        wait_until(lambda: self.moved(machine) > first + size or not job.running, "pages move")
        self.assertTrue(job.running, f"the push has ended already: {job.running or job.wait()}")

    def whereabouts(self):
        """Where in the kernel our programs' threads are."""
        script = "for task in $(pidof pageferry-perf lab-reconnect | xargs -n1 printf '/proc/%s/task/* '); do echo \"$(cat $task/comm):\"; cat $task/stack; done"
        return "\n".join(f"{machine.name}: {machine.run(script).stdout.decode()}" for machine in self.machines())

    def assert_nothing_left(self):
        for job in self.jobs:
            if job.running:
                job.kill()
                job.wait(PATIENCE)
        for machine in self.machines():
            def left(machine=machine):
                return machine.run("ps -o pid,args | grep -E '[p]ageferry-perf|[l]ab-'; "
                                   "for kind in qp mr cm_id cq pd; do rdma resource show $kind | grep -E 'comm (pageferry|lab-)' | sed \"s/^/$kind: /\"; done;"
                                   "ls /dev/shm").stdout.decode()
            wait_until(lambda: not left().strip(), lambda: f"left on {machine.name}: {left()}")

    def assert_usable(self, source, target):
        """A connection comes up as if nothing had been, and carries RAM."""
        self.port += 100
        server = self.serve(target, self.uri(target), size="4M")
        result = self.push(source, self.uri(target), "--runs 1 --warm-up 0", size="4M").wait(PATIENCE)
        self.assertEqual(result.status, 0, result)
        self.assertEqual(server.wait(PATIENCE).status, 0)


class OneMachine(Faults):
    """Faults that need no cable."""

    @classmethod
    def setUpClass(cls):
        image, kernel = host.prepare(build=BUILD)
        cls.machine = Machine(image, kernel, limit=LIMIT)
        cls.addClassCleanup(cls.machine.close)
        cls.machine.wait_ready()

    def machines(self):
        return [self.machine]

    def test_nobody_listens(self):
        self.failed(self.push(self.machine, self.uri(self.machine)), rf"{self.machine.address}:{self.port}", "refused|rejected|nobody|listen")

    def test_an_address_that_nobody_has(self):
        uri = f"{SCHEME}:10.77.0.99:{self.port}"
        self.failed(self.push(self.machine, uri), f"10.77.0.99:{self.port}", "unreachable|no route|timed out|did not answer|no host|not resolved|resolve")

    def test_an_address_that_no_route_leads_to(self):
        uri = f"{SCHEME}:203.0.113.1:{self.port}"
        self.failed(self.push(self.machine, uri), f"203.0.113.1:{self.port}", "unreachable|route")

    def test_a_listener_that_never_accepts(self):
        self.mute(self.machine, "never-accept")
        self.failed(self.push(self.machine, self.uri(self.machine)), f"{self.machine.address}:{self.port}", "timed out|did not|nothing|no answer|in time")

    def test_a_listener_that_turns_all_away(self):
        self.mute(self.machine, "reject")
        self.failed(self.push(self.machine, self.uri(self.machine)), f"{self.machine.address}:{self.port}", "refused|rejected|closed|went away|ended")

    def test_the_target_is_killed(self):
        target = self.serve(self.machine, self.uri(self.machine))
        source = self.push(self.machine, self.uri(self.machine), "--runs 10000")
        self.wait_moving(self.machine, source)
        target.kill()
        self.failed(source, self.machine.address, "closed|went away|disconnected|reset|ended|gone|broken")
        self.assert_usable(self.machine, self.machine)

    def test_the_source_is_killed(self):
        target = self.serve(self.machine, self.uri(self.machine))
        source = self.push(self.machine, self.uri(self.machine), "--runs 10000")
        self.wait_moving(self.machine, source)
        source.kill()
        self.failed(target, self.machine.address, "closed|went away|disconnected|reset|ended|gone|broken")
        self.assert_usable(self.machine, self.machine)

    def test_a_target_that_is_killed_while_a_source_connects(self):
        """At any moment of the connecting: a source that starts with its target's end says that, and ends."""
        for pause in ("0", "0.02", "0.1", "0.3"):
            target = self.serve(self.machine, self.uri(self.machine))
            source = self.push(self.machine, self.uri(self.machine), "--runs 10000")
            self.machine.run(f"sleep {pause}", check=True)
            target.kill()
            self.failed(source, self.machine.address)
            target.wait(PATIENCE)
            Faults.port += 1

    def test_too_little_memory_may_be_locked(self):
        if SCHEME != "rdma":
            self.skipTest("nothing is pinned")
        nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps -all --bounding-set -all prlimit --memlock=1048576:1048576"
        self.serve(self.machine, self.uri(self.machine))
        said = self.failed(self.push(self.machine, self.uri(self.machine), prefix=nobody), "memlock|locked memory|RLIMIT_MEMLOCK|ulimit -l")
        self.assertRegex(said, r"\d")  # the figure


class TwoMachines(Faults):
    """Faults on the way."""

    @classmethod
    def setUpClass(cls):
        image, kernel = host.prepare(build=BUILD)
        cls.lab = Two(image, kernel, limit=LIMIT)
        cls.addClassCleanup(cls.lab.close)
        cls.lab.wait_ready()

    def setUp(self):
        super().setUp()
        self.addCleanup(self.lab.drop_roce, 0)
        self.addCleanup(self.restore)

    def machines(self):
        return [self.lab.a, self.lab.b]

    def restore(self):
        self.lab.restore()
        wait_until(self.reachable, "the link comes back")

    def reachable(self):
        return self.lab.a.run(["ping", "-c", "1", "-W", "5", self.lab.b.address]).status == 0

    def pushing(self, *options, runs=10000):
        """(source, target), and pages move between them."""
        uri = self.uri(self.lab.b)
        target = self.serve(self.lab.b, uri, "pageferry-perf push --listen", *options)
        source = self.push(self.lab.a, uri, f"--runs {runs}", *options)
        self.wait_moving(self.lab.a, source)
        return source, target

    words = "timed out|no answer|not answer|unreachable|nothing|said|retr|lost|closed|port|flush"

    def both_fail(self, source, target):
        """Each finds out by itself."""
        self.failed(source, self.lab.b.address, self.words)
        self.failed(target, self.lab.a.address, self.words)

    def test_a_cut_of_two_seconds_is_survived(self):
        source, target = self.pushing("--dead-peer 10", runs=3)  # the default
        self.lab.cut(carrier="b")
        time.sleep(2)
        self.restore()
        result = source.wait(4 * PATIENCE)
        self.assertEqual(result.status, 0, result)
        self.assertEqual(target.wait(PATIENCE).status, 0)

    def test_a_cut_for_good_seen_by_both(self):
        source, target = self.pushing()
        self.lab.cut()
        self.both_fail(source, target)
        self.restore()
        self.assert_usable(self.lab.a, self.lab.b)

    def test_a_cut_for_good_that_is_only_silence(self):
        source, target = self.pushing()
        self.lab.cut(carrier="b")
        self.both_fail(source, target)
        self.restore()
        self.assert_usable(self.lab.a, self.lab.b)

    def test_roce_is_lost_and_tcp_goes_on(self):
        source, target = self.pushing()
        self.lab.drop_roce()
        if SCHEME == "rdma":
            self.both_fail(source, target)
        else:
            self.wait_moving(self.lab.a, source)
            target.kill()
        self.assertTrue(self.reachable())
        self.lab.drop_roce(0)
        self.assert_usable(self.lab.a, self.lab.b)

    def reconnecting(self):
        """(caller, server) of lab-reconnect, moving pages over RDMA."""
        if SCHEME != "rdma":
            self.skipTest("it is about RDMA")
        server = self.lab.b.spawn(f"exec lab-reconnect serve {self.lab.b.address} {self.port}")
        self.jobs.append(server)
        wait_until(lambda: b"listening" in server.output or not server.running, "it listens")
        caller = self.lab.a.spawn(f"exec lab-reconnect call {self.lab.b.address} {self.port}")
        self.jobs.append(caller)
        wait_until(lambda: b"moving" in caller.output or not caller.running, "pages move")
        self.assertTrue(caller.running, f"it has ended already: {caller.running or caller.wait()}")
        return caller, server

    def closed_in_time(self, *jobs):
        """Each has noticed, and close() took no longer than it may: a second, and what an emulated machine needs."""
        for job in jobs:
            wait_until(lambda job=job: b"closed in" in job.output or not job.running,
                       lambda job=job: f"it closes: {job.output} {job.errors}; it is in\n{self.whereabouts()}")
            said = job.output.decode()
            print(f"      {said.strip()}", file=sys.stderr)
            self.assertIn("closed in", said, job.errors)
            self.assertLess(int(re.search(r"closed in (\d+) ms", said)[1]), 3000)

    def test_a_connection_that_cannot_be_taken_apart_is_closed_and_tcp_goes_on(self):
        caller, server = self.reconnecting()
        self.lab.hold_roce()  # what they send stays in the machine, and with it the queue pairs
        try:
            self.closed_in_time(caller, server)
            for job in (caller, server):
                wait_until(lambda job=job: b"done" in job.output or not job.running, lambda job=job: f"TCP works: {job.output} {job.errors}")
                self.assertIn(b"tcp works", job.output)
        finally:
            self.lab.hold_roce(False)
        for job in (caller, server):
            self.assertEqual(job.wait(PATIENCE).status, 0)
        self.assert_usable(self.lab.a, self.lab.b)

    def test_the_port_goes_down_and_close_returns(self):
        caller, server = self.reconnecting()
        self.lab.a.run("ip link set eth0 down", check=True)
        try:
            self.closed_in_time(caller, server)
        finally:
            self.lab.a.run("ip link set eth0 up", check=True)
        for job in (caller, server):
            result = job.wait(2 * PATIENCE)
            self.assertEqual(result.status, 0, result)
        self.anew(self.lab.a)
        self.restore()
        self.assert_usable(self.lab.a, self.lab.b)

    def anew(self, machine):
        """A device whose port went down under traffic may not come to life again: it is made anew, its addresses after it."""
        machine.run(f"""set -e
            rdma link delete rxe0
            rdma link add rxe0 type rxe netdev eth0
            ip address flush dev eth0
            ip address add {machine.address}/24 dev eth0
            ip address add {machine.address6}/64 dev eth0 nodad""", check=True)

    def test_the_port_goes_down(self):
        source, target = self.pushing()
        self.lab.a.run("ip link set eth0 down", check=True)
        try:
            self.said(source, self.lab.b.address, self.words)
            self.failed(target, self.lab.a.address, self.words)
        finally:
            self.lab.a.run("ip link set eth0 up", check=True)
        self.failed(source)  # rxe holds on to a queue pair with packets on their way while its port is down
        self.anew(self.lab.a)
        self.restore()
        self.assert_usable(self.lab.a, self.lab.b)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        BUILD = os.path.abspath(sys.argv.pop(1))
    words = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    words.add_argument("--scheme", choices=("tcp", "rdma"), default=SCHEME)
    given, rest = words.parse_known_args()
    SCHEME = given.scheme
    testing.main([sys.argv[0], *rest])
