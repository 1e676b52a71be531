#!/usr/bin/env python3
"""Postcopy and recovery, beside QEMU's own postcopy, in one run: one table of figures and ratios, and build/perf/postcopy.json.

  postcopy.py                         all of it, usually as ./dev perf --postcopy
  postcopy.py --only switch           some of it: postcopy, pull, switch, recovery
  postcopy.py --newer QEMU            beside a newer QEMU as well (newer_qemu.sh fetches one), and with it under Pageferry
  postcopy.py --markdown              what goes into docs/performance.md, from the last run's JSON; measures nothing

  postcopy   a guest that rewrites its RAM for ever, jumping about or page after page: some precopy with a bandwidth limit, then postcopy without one. total is from the command
             migrate-start-postcopy to `completed` on both sides; the latency of faults is from the moment one is read to the moment its page
             is mapped, on the destination. QEMU has postcopy-preempt on, and tells latencies from 11.1 on.
  pull       a guest that stands still: what precopy pushes in a second beside what postcopy pulls in a second
  switch     the time without a running guest when a postcopy begins, for guests of several sizes: from the source's STOP to the
             destination's RESUME, as their QEMUs date these events; and the phases between
  recovery   from `migrate` with resume=true to the first page that was waited for, in round trips of a path with a delay

Peers are measured in turn, round after round. A processor is emulated (-accel tcg). For root: it makes network namespaces and TUN devices.
"""
import argparse
import json
import mmap
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
sys.path[:0] = [os.path.join(ROOT, "tests"), os.path.join(ROOT, "tests", "guest"), os.path.dirname(os.path.abspath(__file__))]
from compare import checked, machine  # noqa: E402
from delay_line import DelayLine, round_trip  # noqa: E402
from precopy import NO_LIMIT, warm_up_memory  # noqa: E402
from qemu_pair import Launch, Namespaces, QmpError, Timeout, Vm, Workspace, wait_until  # noqa: E402
import guest_image  # noqa: E402
import report_postcopy as report  # noqa: E402

PARTS = ("postcopy", "pull", "switch", "recovery")
MIB = 1 << 20
LIMIT = 300  # seconds: of one migration


def options():
    o = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    o.add_argument("--build", default=os.path.join(ROOT, "build", "release"), help="the build directory (default build/release)")
    o.add_argument("--out", default=os.path.join(ROOT, "build", "perf", "postcopy.json"), help="where the figures go (default build/perf/postcopy.json)")
    o.add_argument("--runs", type=int, default=3, help="rounds; the table shows medians (default 3)")
    o.add_argument("--only", help="some parts, with commas: " + ", ".join(PARTS))
    o.add_argument("--memory", type=int, default=1280, metavar="MIB", help="RAM of the guest that is migrated (default %(default)s)")
    o.add_argument("--fill", type=int, default=1100, metavar="MIB", help="of which it uses (default %(default)s)")
    o.add_argument("--sizes", default="1,4,16", metavar="GIB", help="guests of the part switch (default %(default)s)")
    o.add_argument("--touched", type=int, default=10, metavar="GIB", help="of each of these guests, at most so much was touched (default %(default)s)")
    o.add_argument("--delay", type=float, default=10, metavar="MS", help="of the path of the part recovery, one way (default %(default)s)")
    o.add_argument("--qemu", default="qemu-system-x86_64")
    o.add_argument("--newer", help="another QEMU; '' is none")
    o.add_argument("--markdown", action="store_true", help="print the last run's figures as Markdown and end")
    o.add_argument("--check", action="store_true", help="end with status 1 when a target is missed")
    given = o.parse_args()
    given.parts = given.only.split(",") if given.only else list(PARTS)
    if unknown := set(given.parts) - set(PARTS):
        o.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return given


class Bench:
    """Two guests at a time, one in each namespace, plain or under Pageferry."""

    def __init__(self, given, namespaces):
        self.given, self.namespaces, self.port = given, namespaces, 6000
        self.ours = [os.path.join(given.build, "bin", "pageferry"), "qemu", "--"]

    def guest(self, name):
        return os.path.join(self.given.build, "bin", "guest", f"guest_{name}.img")

    def pair(self, stack, qemu, launcher, template, memory, fill):
        """Source and destination, the source's guest at work, both ready for a postcopy."""
        work = stack.enter_context(Workspace())
        image = guest_image.make_image(self.guest(template), work.file("guest.img"), end_mib=fill)
        launches = [Launch(self.namespaces.prefix(side) + launcher, qemu) for side in range(2)]
        source = stack.enter_context(Vm(work, "src", launches[0], memory=memory, boot_sector=image))
        destination = stack.enter_context(Vm(work, "dst", launches[1], memory=memory, boot_sector=image, incoming=True))
        source.wait_serial("F" if template == "fill_idle" else "B", timeout=LIMIT)
        for vm in (source, destination):
            vm.set_capabilities(events=True, postcopy_ram=True, postcopy_blocktime=True, **({} if launcher else {"postcopy_preempt": True}))
            vm.set_parameters(max_bandwidth=NO_LIMIT, max_postcopy_bandwidth=0)
        return source, destination

    def start(self, source, destination):
        self.port += 1
        destination.qmp.execute("migrate-incoming", uri=f"tcp:0:{self.port}")
        source.qmp.execute("migrate", uri=f"tcp:{self.namespaces.addresses[1]}:{self.port}")
        event(source, "active")

    # --- the parts ----------------------------------------------------------------------------------------------------------

    def postcopy(self, qemu, launcher, guest):
        """A guest that rewrites all of its RAM, page after page (writer) or jumping about (scatter)."""
        with ExitStack() as stack:
            source, destination = self.pair(stack, qemu, launcher, guest, self.given.memory, self.given.fill)
            warm_up_memory(2 * self.given.fill * MIB)
            source.set_parameters(max_bandwidth=100 * MIB, downtime_limit=1)
            self.start(source, destination)
            wait_until(lambda: source.migration()["ram"]["transferred"] > 128 * MIB, "precopy moves nothing", LIMIT)
            begin = time.time()
            source.qmp.execute("migrate-start-postcopy")
            ends = [event(vm, "completed").stamp for vm in (source, destination)]
            told = destination.migration()
            figures = {"total": max(ends) - begin, "to_stop": happened(source, "STOP").stamp - begin,
                       "downtime": happened(destination, "RESUME").stamp - happened(source, "STOP").stamp,
                       "blocktime": told["postcopy-blocktime"] / 1000}
            if spread := told.get("postcopy-latency-dist"):
                figures.update(p50=report.percentile(spread, 50), p99=report.percentile(spread, 99), mean=told["postcopy-latency"] / 1e3, faults=sum(spread))
            elif ours := told.get("x-pageferry-postcopy"):
                spread = ours["latency"]["dist"]
                figures.update(p50=report.percentile(spread, 50), p99=report.percentile(spread, 99), faults=sum(spread))
            return figures

    def pull(self, qemu, postcopy):
        """A guest that stands still; bytes a second by push or by pull."""
        with ExitStack() as stack:
            source, destination = self.pair(stack, qemu, self.ours, "fill_idle", self.given.memory, self.given.fill)
            warm_up_memory(2 * self.given.fill * MIB)
            source.set_parameters(max_bandwidth=MIB if postcopy else NO_LIMIT)
            self.start(source, destination)
            if not postcopy:
                end = event(destination, "completed")
                begin, stop = event(source, "active"), happened(source, "STOP")
                return {"rate": (self.given.fill * MIB - guest_image.BASE) / (stop.stamp - begin.stamp), "total": end.stamp - begin.stamp}
            source.qmp.execute("migrate-start-postcopy")
            begin, end = event(destination, "postcopy-device"), event(destination, "completed")
            told = destination.migration()["x-pageferry-postcopy"]
            return {"rate": told["bytes"] / (end.stamp - begin.stamp), "total": end.stamp - begin.stamp, "bytes": told["bytes"]}

    def switch(self, qemu, launcher, gib):
        """Only the switch: nearly nothing moves before it, and nothing after."""
        with ExitStack() as stack:
            source, destination = self.pair(stack, qemu, launcher, "writer", gib * 1024, 64)
            if launcher:
                touch(source, min(gib, self.given.touched) << 30)
            source.set_parameters(max_bandwidth=MIB, downtime_limit=1)
            for vm in (source, destination):
                vm.set_parameters(max_postcopy_bandwidth=MIB)
            self.start(source, destination)
            begin = time.time()
            source.qmp.execute("migrate-start-postcopy")
            resume = destination.qmp.wait_event("RESUME", timeout=LIMIT).stamp
            stop = happened(source, "STOP").stamp
            figures = {"downtime": resume - stop, "to_stop": stop - begin}
            if launcher:
                steps = [("stopped", stop), *((name, event(vm, status).stamp) for name, vm, status in (
                    ("device", source, "device"), ("saved", source, "postcopy-device"), ("pulling", destination, "postcopy-device"),
                    ("loaded", source, "postcopy-active"), ("permitted", destination, "postcopy-active"))), ("runs", resume)]
                figures.update({name: now - before for (_, before), (name, now) in zip(steps, steps[1:])})
                figures["missing"] = destination.migration()["x-pageferry-postcopy"]["missing"]
            return figures

    def recovery(self, qemu, line):
        """A guest that waits for a page while the connection is away."""
        with ExitStack() as stack:
            source, destination = self.pair(stack, qemu, self.ours, "writer", 128, 64)
            source.set_parameters(max_bandwidth=MIB, downtime_limit=1)
            self.start(source, destination)
            for vm in (source, destination):
                vm.set_parameters(max_postcopy_bandwidth=4096)  # the guest goes on from fault to fault, nearly nothing comes besides
            source.qmp.execute("migrate-start-postcopy")
            event(destination, "postcopy-active")
            wait_until(lambda: pulled(destination) > 0, "nothing is pulled")
            source.qmp.execute("migrate-pause")
            for vm in (source, destination):
                event(vm, "postcopy-paused")
            before = pulled(destination)
            seen = [len(vm.qmp.events) for vm in (source, destination)]
            first = Watch(lambda: pulled(destination) > before)
            begin = time.time()
            source.qmp.execute("migrate", uri=f"tcp:{line.addresses[1]}:{self.port}", resume=True)
            stamps = [("requested", begin)] + [(name, event(vm, status, since).stamp) for name, vm, since, status in (
                ("setup", source, seen[0], "postcopy-recover-setup"), ("connected", source, seen[0], "postcopy-recover"),
                ("agreed", source, seen[0], "postcopy-active"))]
            served = first.wait()
            return {**{name: now - before for (_, before), (name, now) in zip(stamps, stamps[1:])},
                    "served": served - stamps[-2][1], "total": served - begin}


def event(vm, status, since=0):
    try:
        return vm.qmp.wait_event("MIGRATION", timeout=LIMIT, since=since, status=status)
    except Timeout as error:
        raise RuntimeError(f"{vm.name}: {error}; query-migrate: {vm.migration()}; {vm.errors().strip()}") from error


def happened(vm, name):
    return vm.qmp.wait_event(name, timeout=LIMIT)


def pulled(vm):
    return vm.migration()["x-pageferry-postcopy"]["bytes"]


def touch(vm, length):
    """The guest's RAM, as if it had touched so much of it: the file gets its pages. (The guests in a boot sector reach 3 GiB.)"""
    for pid in vm.work.processes():
        try:
            with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
                shared = [line.split(maxsplit=5) for line in maps if re.search(r" rw-s .* /", line)]
        except OSError:
            continue
        for part in shared:
            first, last = (int(number, 16) for number in part[0].split("-"))
            if last - first >= length and vm.name in _command(pid):
                file = os.open(f"/proc/{pid}/map_files/{first:x}-{last:x}", os.O_RDWR)
                try:
                    with mmap.mmap(file, length) as ram:
                        ram.madvise(23)  # MADV_POPULATE_WRITE, Linux 5.14
                finally:
                    os.close(file)
                return
    raise RuntimeError(f"{vm.name} has no RAM of {length} bytes in a file")


def _command(pid):
    with open(f"/proc/{pid}/cmdline", "rb") as command:
        return command.read().decode(errors="replace")


class Watch:
    """Looks at a condition for ever on a thread of its own, and keeps the time.time() at which it came true."""

    def __init__(self, condition):
        self.condition, self.when = condition, None
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def _look(self):
        try:
            wait_until(self.condition, "the first page after a recovery", LIMIT, every=0.0005)
            self.when = time.time()
        except (Timeout, QmpError, KeyError):
            pass

    def wait(self):
        self.thread.join()
        if self.when is None:
            raise RuntimeError("no page came after the recovery")
        return self.when


class Run:
    """All parts, round after round; a part that fails is reported and does not end the others."""

    def __init__(self, given, namespaces):
        self.given, self.bench, self.runs, self.failures = given, Bench(given, namespaces), {}, {}
        self.namespaces = namespaces

    def all(self):
        for number in range(self.given.runs):
            for part in self.given.parts:
                for name, measure in self.cases(part):
                    self.attempt(number, name, measure)
        return self.runs

    def cases(self, part):
        bench, qemus = self.bench, [("", self.given.qemu)] + ([(" newer", self.given.newer)] if self.given.newer else [])
        if part == "postcopy":
            return [(f"{part} {whose} {guest}{age}", lambda q=qemu, l=launcher, g=guest: bench.postcopy(q, l, g))
                    for guest, age, qemu in [("scatter", *each) for each in qemus] + [("writer", *qemus[-1])]
                    for whose, launcher in (("ours", bench.ours), ("qemu", []))]
        if part == "pull":
            return [("pull precopy", lambda: bench.pull(self.given.qemu, False)), ("pull postcopy", lambda: bench.pull(self.given.qemu, True))]
        if part == "switch":
            return [(f"switch {whose} {gib}", lambda l=launcher, g=int(gib): bench.switch(self.given.newer or self.given.qemu, l, g))
                    for gib in self.given.sizes.split(",") for whose, launcher in (("ours", bench.ours), ("qemu", []))]
        return [("recovery", self.recovery)]

    def recovery(self):
        with DelayLine(self.namespaces, self.given.delay / 1000) as line:
            trip = round_trip(self.namespaces, line.addresses[1], 5999)
            return {**self.bench.recovery(self.given.qemu, line), "round_trip": trip}

    def attempt(self, number, name, measure):
        begin = time.monotonic()
        try:
            self.runs.setdefault(name, []).append(measure())
            note = f"{time.monotonic() - begin:.1f} s"
        except (RuntimeError, Timeout, QmpError, OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            self.failures.setdefault(name, []).append(str(error))
            note = f"FAILED: {error}"
        print(f"round {number + 1}/{self.given.runs}  {name:<24}  {note}", file=sys.stderr, flush=True)


def command_of(given):
    return "./dev perf --postcopy" + (f" --only {given.only}" if given.only else "") + (f" --runs {given.runs}" if given.runs != 3 else "")


def main():
    given = options()
    if given.markdown:
        with open(given.out, encoding="utf-8") as last:
            print(report.markdown(json.load(last)))
        return 0
    if os.geteuid() != 0:
        raise SystemExit("postcopy.py: network namespaces need root")
    about = machine(given)
    if given.newer:
        about["newer"] = checked([given.newer, "--version"], 30).splitlines()[0]
    result = {"command": command_of(given), "machine": about,
              "settings": {name: getattr(given, name) for name in ("runs", "memory", "fill", "sizes", "touched", "delay")}}
    with Namespaces() as namespaces:
        run = Run(given, namespaces)
        result["runs"] = run.all()
    result["failures"] = run.failures
    result["rows"] = report.rows(result)
    os.makedirs(os.path.dirname(given.out), exist_ok=True)
    with open(given.out, "w", encoding="utf-8") as out:
        json.dump(result, out, indent=1)
    print(report.text(result))
    print(f"\nfigures of every run: {os.path.relpath(given.out)}")
    missed = [row for row in result["rows"] if row["met"] is False]
    return 1 if result["failures"] or (given.check and missed) else 0


if __name__ == "__main__":
    sys.exit(main())
