#!/usr/bin/env python3
"""A precopy migration of an idle guest whose RAM holds data, measured: time, downtime, throughput, CPU time, memory.

  precopy.py --launcher 'build/release/bin/pageferry qemu --' --runs 3          Pageferry
  precopy.py --launcher '' --multifd 2                                          QEMU's own multifd, for comparison

The guest is a boot sector that fills --fill MiB with non-zero data and halts. Each run starts two new QEMUs. For root: it makes network
namespaces and cgroups.

What the figures mean, for Pageferry and for QEMU alike:
  total        the source's own total-time (query-migrate): from the start to the end, setup and downtime included
  wall         from the `migrate` command to the moment both sides have said `completed`, on this script's clock
  downtime     from the source's STOP to the destination's RESUME, on this script's clock; downtime_reported is the source's own figure
  throughput   bytes the guest has filled, divided by total
  cpu          CPU seconds of all processes on both sides between the `migrate` command and `completed` on both, less those of the vCPU
               threads: QEMU's other threads, and whatever else was started beside it, also what has already ended
  growth       by how much the destination's memory has grown: private memory, and the blocks of shared files
"""
import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path[:0] = [os.path.join(ROOT, "tests"), os.path.join(ROOT, "tests", "guest"), os.path.dirname(os.path.abspath(__file__))]
from cgroup import Cgroup, memory_of, thread_cpu_seconds  # noqa: E402
from qemu_pair import Launch, Namespaces, Vm, Workspace  # noqa: E402
import guest_image  # noqa: E402

GIB = 1 << 30
NO_LIMIT = 1 << 43  # bytes/s: more than any network here, and both accept it


@dataclass
class Case:
    """One way to migrate one guest."""
    name: str
    launcher: list                 # before the QEMU program: [] is plain QEMU
    template: str                  # guest_fill_idle.img
    memory: int = 1280             # MiB of RAM
    fill: int = 1100               # MiB that hold data
    downtime_limit: int = 300      # ms, the same for all that are compared
    lanes: int = 2
    multifd: bool = False          # QEMU's capability; Pageferry has its lanes without it
    qemu: str = "qemu-system-x86_64"
    capabilities: dict = field(default_factory=dict)


def measure(case, namespaces=None, port=4444, timeout=180, uri=None):
    """One migration; a dictionary of figures in seconds and bytes. By tcp between the two network namespaces, or to a URI of this machine."""
    with ExitStack() as stack:
        work = stack.enter_context(Workspace())
        groups = [stack.enter_context(Cgroup()) for _ in range(2)]
        stack.callback(work.close)  # before the cgroups go: they must be empty
        image = guest_image.make_image(case.template, work.file("guest.img"), end_mib=case.fill)
        launches = [Launch(group.prefix() + (namespaces.prefix(side) if namespaces else []) + case.launcher, case.qemu) for side, group in enumerate(groups)]
        source = stack.enter_context(Vm(work, "src", launches[0], memory=case.memory, boot_sector=image))
        destination = stack.enter_context(Vm(work, "dst", launches[1], memory=case.memory, boot_sector=image, incoming=True))
        source.wait_serial("F", timeout=timeout)
        for vm in (source, destination):
            vm.set_capabilities(events=True, **case.capabilities, **({"multifd": True} if case.multifd else {}))
            vm.set_parameters(multifd_channels=case.lanes, max_bandwidth=NO_LIMIT, downtime_limit=case.downtime_limit)
        uri = uri or f"tcp:{namespaces.addresses[1]}:{port}"
        destination.qmp.execute("migrate-incoming", uri=uri)
        vcpus = [[cpu["thread-id"] for cpu in vm.qmp.execute("query-cpus-fast")] for vm in (source, destination)]
        memory = memory_of(groups[1].pids())
        warm_up_memory(2 * (case.fill << 20))
        usage = Usage(groups, vcpus)
        begin = time.monotonic()
        source.qmp.execute("migrate", uri=uri)
        wait_end(source, timeout)
        wait_end(destination, timeout)
        wall = time.monotonic() - begin
        cpu = usage.seconds()
        resumed = destination.qmp.wait_event("RESUME", timeout=timeout)
        stopped = source.qmp.wait_event("STOP", timeout=timeout)
        told = source.migration()
        growth = memory_of(groups[1].pids()) - memory
        total = told["total-time"] / 1000
        filled = (case.fill << 20) - guest_image.BASE
        return {"total": total, "wall": wall, "downtime": resumed.time - stopped.time, "downtime_reported": told["downtime"] / 1000,
                "throughput": filled / total, "cpu": sum(cpu), "cpu_source": cpu[0], "cpu_destination": cpu[1],
                "cpu_per_gib": sum(cpu) / filled * GIB, "growth": growth, "transferred": told["ram"]["transferred"]}


def warm_up_memory(length):
    """Takes that much memory and gives it back, so that what a migration allocates next is really there: on a virtual machine whose
    host takes free memory away, the first touch of each page would otherwise measure that host, and in no two runs alike."""
    taker = ("import mmap, sys; m = mmap.mmap(-1, int(sys.argv[1]), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS);"
             " m.madvise(mmap.MADV_HUGEPAGE); m.madvise(23)")  # MADV_POPULATE_WRITE, Linux 5.14
    subprocess.run([sys.executable, "-c", taker, str(length)], check=True)


def wait_end(vm, timeout):
    """Waits for the event, so that no query disturbs the figures."""
    try:
        vm.qmp.wait_event("MIGRATION", timeout=timeout, status="completed")
    except AssertionError as error:
        raise RuntimeError(f"{vm.name}: {error}; query-migrate: {vm.migration()}; {vm.errors().strip()}") from error


class Usage:
    """CPU seconds of the two sides since it was made, without the vCPU threads."""

    def __init__(self, groups, vcpus):
        self.groups, self.vcpus = groups, vcpus
        self.first = self._now()

    def _now(self):
        return [group.cpu_seconds() - sum(map(thread_cpu_seconds, threads)) for group, threads in zip(self.groups, self.vcpus)]

    def seconds(self):
        return [now - first for now, first in zip(self._now(), self.first)]


def summarize(runs):
    """{figure: {median, min, max}} of several runs' dictionaries."""
    return {key: {"median": statistics.median(run[key] for run in runs), "min": min(run[key] for run in runs), "max": max(run[key] for run in runs)}
            for key in runs[0]}


def main():
    o = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    o.add_argument("--build", default=os.path.join(ROOT, "build", "release"), help="the build directory (default build/release)")
    o.add_argument("--launcher", help="what QEMU is started with; default BUILD/bin/pageferry qemu --; '' is plain QEMU")
    o.add_argument("--qemu", default="qemu-system-x86_64")
    o.add_argument("--memory", type=int, default=1280, metavar="MIB", help="RAM of the guest (default %(default)s)")
    o.add_argument("--fill", type=int, default=1100, metavar="MIB", help="of which hold data (default %(default)s)")
    o.add_argument("--downtime-limit", type=int, default=300, metavar="MS")
    o.add_argument("--lanes", type=int, default=2, help="connections that carry pages (default %(default)s)")
    o.add_argument("--multifd", action="store_true", help="switch QEMU's multifd on (plain QEMU only)")
    o.add_argument("--runs", type=int, default=3)
    o.add_argument("--json", action="store_true", help="one JSON object")
    given = o.parse_args()
    launcher = [os.path.join(given.build, "bin", "pageferry"), "qemu", "--"] if given.launcher is None else shlex.split(given.launcher)
    case = Case("precopy", launcher, os.path.join(given.build, "bin", "guest", "guest_fill_idle.img"), memory=given.memory, fill=given.fill,
                downtime_limit=given.downtime_limit, lanes=given.lanes, multifd=given.multifd, qemu=given.qemu)
    with Namespaces() as namespaces:
        runs = [measure(case, namespaces) for _ in range(given.runs)]
    figures = summarize(runs)
    if given.json:
        print(json.dumps({"benchmark": "precopy", "launcher": launcher, "memory_mib": case.memory, "fill_mib": case.fill, "figures": figures, "runs": runs}))
        return
    for key, value in figures.items():
        print(f"{key:<18}" + "".join(f"{value[k]:>18.6g}" for k in ("median", "min", "max")))


if __name__ == "__main__":
    main()
