#!/usr/bin/env python3
"""Postcopies one after the other, each broken and recovered in a random way: every time the guest arrives, once, with its RAM.

postcopy_random.py BUILD/bin [--count N] [--seed S] [--only NUMBER] [--log FILE] [--qemu PROGRAM]
lab/main.py --qemu --memory 2648 -- python3 tests/integration/postcopy_random.py BUILD/bin --roce ...

With --roce, in the lab, between its two soft-RoCE devices: the guest goes by RDMA, and recovers by RDMA or TCP, as it happens.

Whoever has the guest after one is the source of the next. What happens in one: the link is cut and restored (as root: the two sides are
in network namespaces), the mover of either side is killed, either side's user pauses it, the source is told to recover, to the right
place or to a wrong one, the destination is told to listen elsewhere, limits change, recovery by itself is on or off; at random moments
of the switch to postcopy and of what comes after. Then the link is whole again, and the migration is recovered until it has completed.

After each: at no time did both guests run; RAM is intact; each side's events are legal by the table that pageferry-states prints;
no mover is left, and the monitor processes hold what they held after a migration without faults.
"""
import argparse
import collections
import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

import faults_common
from faults_common import Guest, program
from postcopy_common import ACTIVE, BALLAST, MIB, PAUSED, ballast_problem, load_ballast, never_accepts, open_files
from qemu_pair import Namespaces, QmpClosed, QmpError, Workspace, wait_until

sys.path.append(os.path.join(faults_common.HERE, "..", "..", "demo"))
import wire  # noqa: E402

PORT = 4444
OVER = ("completed", "failed", "cancelled")
# What a command may be answered that came in the wrong state: nobody can know.
REFUSALS = ("Cannot resume if there is no paused migration", "There's a migration process in progress",
            "migrate-pause is currently only supported during postcopy-active or postcopy-recover state",
            "Migrate recover can only be run when postcopy is paused.", "another migrate-recover is under way")


class Wrong(AssertionError):
    """What must never be."""


class Roce(wire.Roce):
    """The lab's two devices, as Namespaces are."""
    addresses = ("10.77.0.1", "10.77.1.1")


def legal_changes():
    """{side: {(from, to)}} of the generated table."""
    table, side = {}, None
    for line in subprocess.run([program("pageferry-states")], capture_output=True, text=True, check=True).stdout.splitlines():
        if line.startswith("## "):
            side = table.setdefault(line[3:].lower(), set())
        elif row := re.fullmatch(r"\| `([a-z-]+)` \| `([a-z-]+)` \| .* \|", line):
            side.add(row.groups())
    assert all(table[name] for name in ("source", "destination")), table
    return table


class Run:
    def __init__(self, work, net, stack, given):
        self.work, self.net, self.qemu, self.actions = work, net, given.qemu, given.actions and given.actions.split(",")
        self.schemes = ("rdma", "tcp") if isinstance(net, Roce) else ("tcp",)
        self.legal = legal_changes()
        self.number, self.side = 0, 0
        self.cut = False
        self.counts = collections.Counter()
        self.baseline, self.last_words = {}, ""
        self.silent = [stack.enter_context(never_accepts(self.host(side), net.prefix(side) if net else ())) for side in (0, 1)]
        self.source, self.destination = self.start(0), None
        self.source.boot()
        load_ballast(self.source)

    def host(self, side):
        return self.net.addresses[side] if self.net else "127.0.0.1"

    def start(self, side, incoming=False):
        self.number += 1
        guest = Guest(self.work, f"vm{self.number}", incoming=incoming, prefix=self.net.prefix(side) if self.net else (), qemu=self.qemu)
        guest.set_capabilities(postcopy_ram=True)
        return guest

    def port(self):
        self.ports += 1
        return PORT + self.ports if self.net else faults_common.free_port()

    # --- one migration ------------------------------------------------------------------------------------------------------

    def migration(self, dice, actions):
        """Answers what was done and what came of it."""
        self.dice, self.done, self.ports = dice, [], 0
        self.destination = self.start(1 - self.side, incoming=True)
        pair = self.source, self.destination
        self.marks = {vm: len(vm.qmp.events) for vm in pair}
        self.good = [f"{scheme}:{self.host(1 - self.side)}:{self.port()}" for scheme in self.schemes]
        for vm in pair:
            vm.set_parameters(**{"x-pageferry-dead-peer-timeout": dice.choice((500, 1000, 2000)) if actions else 60_000,
                                 "x-pageferry-connect-timeout": dice.choice((300, 1000)) if actions else 30_000})
        self.source.set_parameters(max_bandwidth=dice.choice((1, 4, 64)) * MIB, downtime_limit=1, max_postcopy_bandwidth=MIB // 4)
        self.automatic(dice.choice((0, 0, 3)) if actions else 0)
        self.destination.qmp.execute("migrate-incoming", **({"uri": self.good[0]} if len(self.good) == 1 else {"uris": self.good}))
        self.source.qmp.execute("migrate", uri=self.good[0])
        self.wait_source("active", *OVER)
        time.sleep(dice.uniform(0, 0.3))  # a random moment is what is wanted, here and below
        self.source.qmp.execute("migrate-start-postcopy")
        if dice.random() < 0.85 or not actions:
            self.wait_source(ACTIVE, PAUSED, *OVER)
        for _ in range(actions):
            time.sleep(dice.choice((0, 0, dice.uniform(0, 0.02), dice.uniform(0, 0.2), dice.uniform(0, 0.8))))
            self.act()
            self.one_runs()
        return " ".join(self.done) + ": " + self.settle(len(self.done))

    def automatic(self, attempts):
        self.source.set_parameters(**{"x-pageferry-recover-attempts": attempts, "x-pageferry-recover-backoff": self.dice.choice((10, 200))})

    def act(self):
        names = ["kill-source", "kill-destination", "pause-source", "pause-destination", "resume", "resume", "resume-dead", "resume-silent",
                 "recover-port", "bandwidth", "automatic"] + (["cut", "restore", "restore", "blink"] if self.net else [])
        name = self.dice.choice([name for name in names if name in self.actions] if self.actions else names)
        if name.startswith(("resume", "recover")) and self.dice.random() < 0.7:
            self.wait_paused(self.dice.uniform(0, 2.5))  # most of what asks for a pause comes when there is one
        try:
            getattr(self, "do_" + name.replace("-", "_"))()
        except QmpError as refusal:
            if refusal.description not in REFUSALS:
                raise
            name += "!"
        except QmpClosed:
            self.destination_has_ended()  # it may, as long as the guest is at the source: settle() looks
            name += "?"
        self.done.append(name)
        self.counts[name] += 1

    def do_cut(self):
        if not self.cut:
            self.net.cut()
            self.cut = True

    def do_restore(self):
        if self.cut:
            self.net.restore()
            self.cut = False

    def do_blink(self):
        if not self.cut:
            self.net.cut()
            time.sleep(self.dice.uniform(0, 0.2))
            self.net.restore()

    def do_kill_source(self):
        kill(self.source.mover())

    def do_kill_destination(self):
        kill(self.destination.mover())

    def do_pause_source(self):
        self.source.qmp.execute("migrate-pause")

    def do_pause_destination(self):
        self.destination.qmp.execute("migrate-pause")

    def do_resume(self):
        self.source.qmp.execute("migrate", uri=self.dice.choice(self.good), resume=True)

    def do_resume_dead(self):
        self.source.qmp.execute("migrate", uri=f"{self.dice.choice(self.schemes)}:{self.host(1 - self.side)}:1", resume=True)

    def do_resume_silent(self):
        self.source.qmp.execute("migrate", uri=self.silent[1 - self.side], resume=True)

    def do_recover_port(self):
        uri = f"{self.dice.choice(self.schemes)}:{self.host(1 - self.side)}:{self.port()}"
        self.destination.qmp.execute("migrate-recover", uri=uri)
        self.good = [*self.good[:len(self.schemes)], uri]

    def do_bandwidth(self):
        vm = self.dice.choice((self.source, self.destination))
        vm.set_parameters(max_postcopy_bandwidth=self.dice.choice((4096, MIB // 4, MIB, 16 * MIB)))

    def do_automatic(self):
        self.automatic(self.dice.choice((0, 1, 5)))

    # --- what came of it ----------------------------------------------------------------------------------------------------

    def wait_source(self, *statuses):
        return self.source.wait_status(*statuses)["status"]

    def wait_paused(self, seconds):
        """Or not: it may never be."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.source.migration()["status"] not in (PAUSED, *OVER):
            time.sleep(0.01)

    def status_there(self):
        try:
            return self.destination.migration().get("status")
        except QmpClosed:
            self.destination_has_ended()
            return "ended"

    def destination_has_ended(self):
        """And the source has not; or it is an error."""
        wait_until(lambda: not self.destination.alive(), "a monitor is closed, and its QEMU goes on", timeout=10)
        if not self.source.alive():
            raise Wrong("both QEMUs have ended")

    def settle(self, faults):
        if self.net:
            self.do_restore()
        attempts = 0
        self.source.set_parameters(max_postcopy_bandwidth=0, **{"x-pageferry-recover-attempts": 0, "x-pageferry-dead-peer-timeout": 60_000,
                                                               "x-pageferry-connect-timeout": 10_000})
        try:
            self.destination.set_parameters(max_postcopy_bandwidth=0, **{"x-pageferry-dead-peer-timeout": 60_000})
        except QmpClosed:
            pass  # it has ended: the source knows whether it may
        while (status := self.wait_source(PAUSED, *OVER)) == PAUSED:
            if attempts == 100:
                raise Wrong(f"{attempts} recoveries over a good link have failed: {self.source.migration()}")
            self.one_runs()
            if self.status_there() == "ended":
                raise Wrong("the destination has ended and the source does not know whether its guest has run there")
            attempts += 1
            wait_until(self.listens, "the destination does not listen")
            try:
                self.source.qmp.execute("migrate", uri=self.dice.choice(self.good[:len(self.schemes)]), resume=True)
            except QmpError as refusal:
                if refusal.description not in REFUSALS:
                    raise
        if status == "completed":
            return self.moved(attempts, faults)
        if any(e.name == "RESUME" for e in self.destination.qmp.events):
            raise Wrong(f"the source has {status}, and the destination has run")
        return self.stayed(f"{status}, {self.source.migration().get('error-desc')}")

    def listens(self):
        """At its first TCP port; or it will never be asked again."""
        if self.status_there() in ("completed", "ended"):
            return True
        port = f":{int(self.good[len(self.schemes) - 1].rsplit(':', 1)[1]):04X}"
        with open(f"/proc/{self.destination.process.pid}/net/tcp", encoding="utf-8") as table:
            return any(fields[1].endswith(port) and fields[3] == "0A" for fields in map(str.split, table))

    def moved(self, attempts, faults):
        self.destination.wait_status("completed")
        for vm in (self.source, self.destination):
            vm.wait_no_mover()
        if self.source.running():
            raise Wrong("the source has completed and runs")
        self.check_guest(self.destination)
        self.one_at_a_time()
        self.check_events()
        self.check_holdings(faults)
        self.source.close()
        self.source, self.destination, self.side = self.destination, None, 1 - self.side
        self.counts["-- moved"] += 1
        return f"moved, {attempts} recoveries at the end"

    def stayed(self, status):
        self.one_runs()
        self.check_guest(self.source)
        self.check_events()
        self.last_words = self.destination.errors()
        self.destination.close()
        self.source.wait_no_mover()
        self.counts["-- stayed"] += 1
        return f"stayed, {status}"

    @staticmethod
    def check_guest(guest):
        guest.wait_running()
        guest.wait_writing()
        problem = guest.writer_problem() or ballast_problem(guest)
        if problem:
            raise Wrong(f"{guest.name}: {problem}")
        guest.qmp.execute("cont")

    def one_runs(self):
        """The destination is asked first: a guest that runs there has stopped at the source before."""
        try:
            if self.destination.running() and self.source.running():
                raise Wrong("both run")
        except QmpClosed:
            self.destination_has_ended()

    def one_at_a_time(self):
        """By QEMU's own clock: the source stopped before the destination ran, and did not run again."""
        here = [e for e in self.source.qmp.events[self.marks[self.source]:] if e.name in ("STOP", "RESUME")]
        there = next(e for e in self.destination.qmp.events if e.name == "RESUME")
        if [e.name for e in here] != ["STOP"] or here[0].stamp > there.stamp:
            raise Wrong(f"the source: {[(e.name, e.stamp) for e in here]}, the destination runs at {there.stamp}")

    def check_events(self):
        for side, vm in (("source", self.source), ("destination", self.destination)):
            was = "none"
            for status in vm.statuses(self.marks[vm]):
                if (was, status) not in self.legal[side]:
                    raise Wrong(f"the {side} went from {was} to {status}: {vm.statuses(self.marks[vm])}")
                was = status
                self.counts[f"-- {side} {status}"] += 1

    def check_holdings(self, faults):
        for side, vm in (("source", self.source), ("destination", self.destination)):
            if not faults:
                self.baseline[side] = self.holdings(vm)
            wait_until(lambda side=side, vm=vm: self.holdings(vm) == self.baseline[side],
                       lambda side=side, vm=vm: f"the {side}'s monitor process holds {self.holdings(vm)}, not {self.baseline[side]}", timeout=10)

    @staticmethod
    def holdings(vm):
        return open_files(vm.helper("pageferry-monitor"))


def kill(pid):
    if pid:
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            pass


def options():
    o = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    o.add_argument("programs", help="BUILD/bin")
    o.add_argument("--count", type=int, default=20, help="sequences (default %(default)s)")
    o.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32), help="of the random numbers; it is printed")
    o.add_argument("--only", type=int, help="the sequence of this number alone")
    o.add_argument("--roce", action="store_true", help="in the lab: by RDMA and by TCP between its two devices")
    o.add_argument("--qemu", default="qemu-system-x86_64", help="another QEMU")
    o.add_argument("--actions", help="these alone, with commas, of what may happen")
    o.add_argument("--log", help="Pageferry's own log goes to this file")
    return o.parse_args()


def main():
    given = options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))  # the namespaces go, too
    faults_common.PROGRAMS = os.path.abspath(given.programs)
    if given.log:
        os.environ["PAGEFERRY_LOG"] = given.log
    print(f"seed {given.seed}, {given.count} sequences, {len(BALLAST) // MIB} MiB of ballast", flush=True)
    with ExitStack() as stack:
        net = Roce() if given.roce else stack.enter_context(Namespaces()) if os.geteuid() == 0 else None
        work = stack.enter_context(Workspace())
        run = Run(work, net, stack, given)
        begin = time.monotonic()
        plain = run.migration(random.Random(0), 0)  # without faults: what the others are compared with
        if not run.baseline:
            sys.exit(f"a migration without faults {plain}: {run.source.migration()}\n{run.source.errors()}\n{run.last_words}")
        for number in [given.only] if given.only else range(1, given.count + 1):
            dice = random.Random(f"{given.seed} {number}")
            try:
                print(f"{number:3} {run.migration(dice, dice.randrange(2, 12))}", flush=True)
            except (AssertionError, QmpError, QmpClosed, RuntimeError, OSError) as error:
                print(f"{number:3} {' '.join(run.done)}")
                for vm in filter(None, (run.source, run.destination)):
                    print(f"--- {vm.name}: {[str(e) for e in vm.qmp.events if e.name != 'MIGRATION_PASS'][-40:]}\n{vm.errors()[-8000:]}")
                sys.exit(f"sequence {number} of seed {given.seed}: {type(error).__name__}: {error}")
        for vm in filter(None, (run.source, run.destination)):
            vm.close()
        for outcome, count in sorted(run.counts.items()):
            print(f"{count:5} x {outcome}")
        print(f"{time.monotonic() - begin:.0f} s")


if __name__ == "__main__":
    main()
