#!/usr/bin/env python3
"""Migrations one after the other, each with a fault at a random moment: afterwards exactly one guest runs, its RAM intact, every time.

faults_random.py BUILD/bin [--count N] [--seed S]

Whoever has the guest after one migration is the source of the next. Faults: the mover of either side is killed, the destination's QEMU
is killed, the link is cut for good or for a moment (as root: the two sides are in network namespaces), the user cancels; or none.

From the permit on the source never runs by itself. A fault in that window leaves it `postcopy-paused`: the link is then restored, the
migration is resumed, and has to complete. Such cases are counted. So are destinations that died with the guest in them: no migration
can help a guest whose host has died, or bring back one that may have run elsewhere.
"""
import argparse
import collections
import os
import random
import sys
import time

import faults_common
from faults_common import ENDED, Guest
from qemu_pair import Namespaces, QmpClosed, QmpError, Timeout, Workspace, wait_until

DEAD_PEER = 3000   # ms
PORT = 4444
SETTLED = (*ENDED, "postcopy-paused")
FAULTS = ("none", "source mover", "destination mover", "destination QEMU", "cut", "short cut", "cancel")


class Lost(AssertionError):
    """Not exactly one guest, or not with its RAM."""


class Run:
    def __init__(self, work, net, dice):
        self.work, self.net, self.dice = work, net, dice
        self.number, self.side = 0, 0
        self.source, self.destination = self.start(0), None
        self.source.boot()
        self.counts = collections.Counter()
        self.cut = False

    def start(self, side, incoming=False):
        self.number += 1
        guest = Guest(self.work, f"vm{self.number}", incoming=incoming, prefix=self.net.prefix(side) if self.net else ())
        guest.impatient(DEAD_PEER)
        return guest

    # --- one migration ------------------------------------------------------------------------------------------------------

    def migration(self):
        dice = self.dice
        host = self.net.addresses[1 - self.side] if self.net else "127.0.0.1"
        self.destination = self.start(1 - self.side, incoming=True)
        self.uri = f"tcp:{host}:{PORT if self.net else faults_common.free_port()}"
        self.destination.qmp.execute("migrate-incoming", uri=self.uri)
        self.source.set_parameters(downtime_limit=20000, max_bandwidth=dice.choice((0, 8 << 20, 16 << 20)))
        fault = dice.choice([one for one in FAULTS if self.net or "cut" not in one])
        moment = dice.choice(("time", "source active", "source STOP", "source device", "destination active"))
        delay = dice.uniform(0, {"time": 1.5, "source STOP": 0.1, "source device": 0.02}.get(moment, 0.5))
        self.marks = {vm: len(vm.qmp.events) for vm in (self.source, self.destination)}
        self.source.qmp.execute("migrate", uri=self.uri)
        self.wait_moment(moment)
        time.sleep(delay)  # a random moment is what is wanted
        phase = self.apply(fault)
        outcome = self.settle(fault)
        self.counts[outcome] += 1
        return f"{fault:17} {moment:18} +{delay * 1000:4.0f} ms  {phase:28} {outcome}"

    def wait_moment(self, moment):
        if moment == "time":
            return
        side, what = moment.split()
        vm = self.source if side == "source" else self.destination

        def come():
            events = [str(e) for e in vm.qmp.events[self.marks[vm]:]]
            return what in events or f"MIGRATION {what}" in events or self.source.migration()["status"] in SETTLED
        wait_until(come, f"neither {moment} nor an end", every=0.001)

    def apply(self, fault):
        """Answers the phase it was applied in."""
        phase = f"{self.source.migration()['status']}/{self.destination.migration().get('status')}"
        if fault == "source mover":
            kill(self.source.mover())
        elif fault == "destination mover":
            kill(self.destination.mover())
        elif fault == "destination QEMU" and not phase.startswith("completed"):
            self.destination.kill()
        elif fault == "cancel":
            self.source.qmp.execute("migrate_cancel")
        elif "cut" in fault:
            self.net.cut()
            self.cut = True
            if fault == "short cut":
                time.sleep(0.5)  # the length of the cut, far below the dead-peer time
                self.restore()
        return phase

    def restore(self):
        if self.cut:
            self.net.restore()
            self.cut = False

    # --- what came of it ----------------------------------------------------------------------------------------------------

    def settle(self, fault):
        status = self.source.wait_status(*SETTLED)["status"]
        # A destination that has taken the guest says so at once; one that has not sees the loss by itself.
        wait_until(lambda: self.end_of_destination() or (status in ("failed", "cancelled") and self.never_met()),
                   lambda: f"the source is {status}, the destination {self.migration_of_destination()}")
        end = self.end_of_destination() or "waits"
        self.restore()
        if status == "completed":
            if end == "ended" and fault == "destination QEMU":
                self.new_source()
                return "guest died with the destination's QEMU, after it had moved"
            if end != "completed":
                raise Lost(f"the source has completed, the destination is {end}")
            return self.moved("moved")
        if status in ("failed", "cancelled"):
            if end == "completed" or self.destination_runs():
                raise Lost(f"the source has {status} and runs, and the destination is {end}")
            return self.stayed(f"stayed, {status}; destination {end}")
        return self.undecided(end, fault)

    def undecided(self, end, fault):
        """The source has sent its permit and does not know what became of it."""
        if self.source.running():
            raise Lost("the source is postcopy-paused and runs")
        if end == "ended":
            if fault != "destination QEMU":
                raise Lost("the destination's QEMU ended by itself after the permit")
            self.new_source()
            return "guest died with the destination's QEMU, after the permit"
        words = f"postcopy-paused/{end}"
        try:
            self.source.qmp.execute("migrate", uri=self.uri, resume=True)
        except QmpError as refusal:
            if end == "completed":
                return self.moved(f"{words}, resume refused: {refusal.description}")
            self.destination.close()
            self.new_source()
            return f"{words}, resume refused: {refusal.description}"
        if self.source.wait_status("completed", "failed")["status"] == "failed":
            return self.stayed(f"{words}, resumed: it had never run there")
        self.destination.wait_status("completed")
        return self.moved(f"{words}, resumed: completed")

    def moved(self, outcome):
        if self.source.running():
            raise Lost(f"both run ({outcome})")
        self.check(self.destination)
        self.source.close()
        self.source, self.destination, self.side = self.destination, None, 1 - self.side
        return outcome

    def stayed(self, outcome):
        self.check(self.source)
        if self.destination_runs():
            raise Lost(f"both run ({outcome})")
        self.destination.close()
        return outcome

    def new_source(self):
        self.source.close()
        self.source = self.start(self.side).boot()

    @staticmethod
    def check(guest):
        guest.wait_running()
        guest.wait_writing()
        problem = guest.writer_problem()
        if problem:
            raise Lost(f"{guest.name}: {problem}")
        guest.qmp.execute("cont")

    def migration_of_destination(self):
        return self.destination.migration().get("status") if self.destination.alive() else "ended"

    def end_of_destination(self):
        """completed, failed, postcopy-paused, ended, or nothing yet."""
        try:
            status = self.destination.migration()["status"]
        except (QmpClosed, Timeout):
            return "ended" if not self.destination.alive() else None
        # With exit-on-error QEMU is about to end.
        return status if status in ("completed", "postcopy-paused") else None

    def never_met(self):
        """The destination waits still: to it, nobody has come."""
        try:
            return self.destination.migration()["status"] == "setup"
        except QmpClosed:
            return False

    def destination_runs(self):
        try:
            return self.destination.running()
        except QmpClosed:
            return False


def kill(pid):
    if pid:
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            pass


def options():
    o = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    o.add_argument("programs", help="BUILD/bin")
    o.add_argument("--count", type=int, default=50, help="migrations (default %(default)s)")
    o.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32), help="of the random numbers; it is printed")
    o.add_argument("--log", help="Pageferry's own log goes to this file")
    return o.parse_args()


def main():
    given = options()
    faults_common.PROGRAMS = os.path.abspath(given.programs)
    if given.log:
        os.environ["PAGEFERRY_LOG"] = given.log
    print(f"seed {given.seed}, {given.count} migrations", flush=True)
    net = Namespaces() if os.geteuid() == 0 else None
    try:
        with Workspace() as work:
            run = Run(work, net, random.Random(given.seed))
            for number in range(given.count):
                try:
                    print(f"{number + 1:3} {run.migration()}", flush=True)
                except (AssertionError, QmpError, QmpClosed, RuntimeError) as error:
                    for vm in filter(None, (run.source, run.destination)):
                        print(f"--- {vm.name}: {[str(e) for e in vm.qmp.events][-20:]}\n{vm.errors()[-3000:]}")
                    sys.exit(f"migration {number + 1} of seed {given.seed}: {type(error).__name__}: {error}")
            for vm in filter(None, (run.source, run.destination)):
                vm.close()
    finally:
        if net:
            net.close()
    for outcome, count in sorted(run.counts.items()):
        print(f"{count:4} x {outcome}")


if __name__ == "__main__":
    main()
