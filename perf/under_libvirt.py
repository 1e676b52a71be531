#!/usr/bin/env python3
"""What Pageferry costs a user of libvirt, beside QEMU alone: migrations by virsh, and the monitor that libvirt speaks to.

  under_libvirt.py                        all of it (some minutes), usually as ./dev perf --libvirt
  under_libvirt.py --only migrate,monitor some of it: migrate, monitor, idle
  under_libvirt.py --markdown             the last run's table, from build/perf/libvirt.json; measures nothing

migrate  `virsh migrate --live --p2p --unsafe` between two libvirt daemons on this machine (tests/libvirt/libvirt_hosts.py), in turn with
         Pageferry as the domain's <emulator> and with QEMU itself. The guest has --memory MiB, and either has never touched them, or has filled
         --fill of them and halted. The whole time of virsh, and what libvirt itself says of its job (domjobinfo --completed). Each migration
         has a guest of its own; one of each kind goes before the first that counts, for libvirt probes an emulator when it first sees it.
monitor  the time of commands at a plain QEMU's monitor and through Pageferry's monitor process, in turn, by a small client in C++.
idle     CPU time and wake-ups of the monitor process in --idle seconds: one that has a client, which asks nothing, and one that has none.

For root: it makes namespaces. The packaged libvirt and QEMU are used.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
sys.path[:0] = [os.path.join(ROOT, *path) for path in (("tests", "libvirt"), ("tests",), ("tests", "guest"), ("perf",))]
import guest_image  # noqa: E402
import report_libvirt as report  # noqa: E402
from compare import checked, machine  # noqa: E402
from libvirt_hosts import EMULATOR, STOCK, Hosts, Virsh, domain  # noqa: E402
from precopy import warm_up_memory  # noqa: E402
from qemu_pair import Launch, QmpClosed, QmpError, Timeout, Vm, Workspace, wait_until  # noqa: E402

PARTS = ("migrate", "monitor", "idle")
EMULATORS = {"ours": EMULATOR, "qemu": STOCK}
# What virt-install writes for a guest whose memory others share, and the memory that a guest has where nothing is said.
BACKING = {"shared": "<memoryBacking><source type='file'/><access mode='shared'/></memoryBacking>", "plain": ""}
COMMANDS = {
    "query-cpus-fast": {"execute": "query-cpus-fast"},
    "qom-get /machine type": {"execute": "qom-get", "arguments": {"path": "/machine", "property": "type"}},
    "qom-get device[0] type": {"execute": "qom-get", "arguments": {"path": "/machine/unattached/device[0]", "property": "type"}}}
# QEMU takes its time for every byte of a request: as libvirt writes them, and as scripts do that leave it to Python.
STYLES = {"": (",", ":"), " spaced": (", ", ": ")}


def options():
    o = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    o.add_argument("--build", default=os.path.join(ROOT, "build", "release"), help="the build directory (default build/release)")
    o.add_argument("--out", default=os.path.join(ROOT, "build", "perf", "libvirt.json"), help="where the figures go (default build/perf/libvirt.json)")
    o.add_argument("--runs", type=int, default=5, help="rounds; the table shows medians (default 5)")
    o.add_argument("--memory", type=int, default=1024, metavar="MIB", help="RAM of the guest that is migrated (default %(default)s)")
    o.add_argument("--fill", type=int, default=1000, metavar="MIB", help="of which hold data, where it has filled them (default %(default)s)")
    o.add_argument("--backing", choices=BACKING, default="plain", help="memoryBacking of the domains (default plain, where QEMU alone is at its best)")
    o.add_argument("--commands", type=int, default=3000, help="of each kind, at each monitor, in each round (default 3000)")
    o.add_argument("--pause", type=int, default=0, metavar="US", help="before each of them (default 0)")
    o.add_argument("--beside", metavar="BUILD", help="measure the monitor of another build too, in the same run")
    o.add_argument("--idle", type=float, default=30, metavar="SECONDS", help="default 30")
    o.add_argument("--only", help="some parts, with commas: " + ", ".join(PARTS))
    o.add_argument("--markdown", action="store_true", help="print the last run's figures as Markdown and end")
    o.add_argument("--check", action="store_true", help="end with status 1 when a target is missed")
    given = o.parse_args()
    given.qemu = STOCK
    given.parts = given.only.split(",") if given.only else list(PARTS)
    if unknown := set(given.parts) - set(PARTS):
        o.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return given


class Migrations:
    """Two hosts for all of them."""

    def __init__(self, given, stack):
        self.given = given
        work = stack.enter_context(Workspace())
        template = os.path.join(given.build, "bin/guest/guest_fill_idle.img")
        self.images = {name: guest_image.make_image(template, work.file(f"{name}.img"), end_mib=end)
                       for name, end in (("untouched", 2), ("filled", given.fill))}
        for image in self.images.values():
            os.chmod(image, 0o666)
        self.source, self.destination = stack.enter_context(Hosts(work, os.path.join(given.build, "bin"))).both

    def measure(self, emulator, memory):
        """One migration; a dictionary of seconds."""
        try:
            xml = domain("guest", self.images[memory], EMULATORS[emulator], self.given.memory, BACKING[self.given.backing])
            self.source.define(xml)
            self.source.virsh("start", "guest")
            last = (guest_image.end_mib(self.images[memory]) << 20) - 4
            wait_until(lambda: any(self.source.read_ram("guest", last, 4)), "the guest has not filled its memory", every=0.1)
            if memory == "filled":
                warm_up_memory(2 * (self.given.fill << 20))
            begin = time.monotonic()
            self.source.virsh("migrate", "--live", "--p2p", "--unsafe", "guest", self.destination.uri)
            whole = time.monotonic() - begin
            if self.destination.state("guest") != "running (migrated)":
                raise RuntimeError(f"the guest is {self.destination.state('guest')!r} at its destination")
            if not any(self.destination.read_ram("guest", last, 4)):
                raise RuntimeError("the guest's memory did not arrive")
            told = job_info(self.source.virsh("domjobinfo", "guest", "--completed", "--keep-completed"))
            return {"whole": whole, "job": told["Time elapsed"], "downtime": told["Total downtime"], "setup": told.get("Setup time", 0.0)}
        finally:
            self._forget()

    def _forget(self):
        for host in (self.source, self.destination):
            host.try_virsh("destroy", "guest")
            host.try_virsh("undefine", "guest")
        programs = ("qemu-system-x86_64", "pageferry-monitor", "pageferry-mover")
        wait_until(lambda: not any(host.pids(program) for host in (self.source, self.destination) for program in programs), "processes of a guest are left")


def job_info(text):
    """The times of `virsh domjobinfo`, in seconds."""
    return {found[1]: float(found[2]) / 1000 for line in text.splitlines() if (found := re.match(r"(.*?):\s+(\d+)\s+ms$", line.strip()))}


class Monitors:
    """Guests that halt, one under QEMU alone and one behind each build's monitor process; new ones in each round, for no two are quite alike."""

    def __init__(self, given, stack):
        self.given, self.work = given, stack.enter_context(Workspace())
        image = guest_image.make_image(os.path.join(given.build, "bin/guest/guest_fill_idle.img"), self.work.file("guest.img"), end_mib=8)
        builds = {"qemu": None, "ours": given.build, **({"beside": given.beside} if given.beside else {})}
        self.vms = {}
        for name, build in builds.items():
            launch = Launch([os.path.join(os.path.abspath(build), "bin/pageferry"), "qemu", "--"] if build else [], STOCK)
            self.vms[name] = stack.enter_context(Vm(self.work, name, launch, memory=64, boot_sector=image))
            self.vms[name].wait_serial("F")

    def measure(self, command, style):
        request = json.dumps({**COMMANDS[command], "id": "libvirt-100"}, separators=STYLES[style])
        output = checked([os.path.join(self.given.build, "bin/pageferry-perf"), "qmp", *(vm.cli_path for vm in self.vms.values()), "--request", request,
                          "--runs", str(self.given.commands), "--pause", str(self.given.pause), "--json"], 600)
        return {f"{who}_{key}": one[key] for who, one in zip(self.vms, json.loads(output)["monitors"]) for key in ("p50", "p99")}


def idle(given):
    """What two monitor processes use while nobody asks anything."""
    with ExitStack() as stack:
        image = os.path.join(given.build, "bin/guest/guest_fill_idle.img")
        pids = {}
        for name in ("client", "alone"):
            work = stack.enter_context(Workspace())
            vm = stack.enter_context(Vm(work, "guest", Launch([os.path.join(given.build, "bin/pageferry"), "qemu", "--"], STOCK), boot_sector=image))
            vm.wait_serial("F")
            pids[name] = next(pid for pid in work.processes() if os.path.basename(os.readlink(f"/proc/{pid}/exe")) == "pageferry-monitor")
            if name == "alone":
                vm.qmp.close()
        time.sleep(1)  # what the guests' start has left to do
        before = {name: usage(pid) for name, pid in pids.items()}
        time.sleep(given.idle)
        return {f"{name}_{key}": value - before[name][key] for name, pid in pids.items() for key, value in usage(pid).items()}


def usage(pid):
    """Of all its threads: CPU time, in seconds, by the scheduler's own clock, and how often one of them went to sleep."""
    cpu = switches = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/schedstat", encoding="utf-8") as times:
            cpu += int(times.read().split()[0])
        with open(f"/proc/{pid}/task/{task}/status", encoding="utf-8") as status:
            switches += int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status.read(), re.MULTILINE)[1])
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return {"cpu": cpu / 1e9, "ticks": (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), "switches": switches}


class Run:
    """All parts, round after round; a part that fails is reported and does not end the others."""

    def __init__(self, given):
        self.given, self.runs, self.failures = given, {}, {}

    def all(self):
        if "migrate" in self.given.parts:
            with ExitStack() as stack:
                migrations = Migrations(self.given, stack)
                for emulator in EMULATORS:
                    migrations.measure(emulator, "untouched")
                self.rounds((f"migrate {memory} {emulator}", lambda e=emulator, m=memory: migrations.measure(e, m))
                            for _ in range(self.given.runs) for memory in ("untouched", "filled") for emulator in EMULATORS)
        if "monitor" in self.given.parts:
            for _ in range(self.given.runs):
                with ExitStack() as stack:
                    monitors = Monitors(self.given, stack)
                    self.rounds((f"monitor {command}{style}", lambda c=command, s=style: monitors.measure(c, s)) for style in STYLES for command in COMMANDS)
        if "idle" in self.given.parts:
            self.rounds([("idle", lambda: idle(self.given))])
        return self.runs

    def rounds(self, cases):
        for name, measure in cases:
            begin = time.monotonic()
            try:
                result = measure()
                self.runs.setdefault(name, []).append(result)
                note = f"{time.monotonic() - begin:.1f} s  " + " ".join(f"{key} {value:.6g}" for key, value in result.items())
            except (RuntimeError, Timeout, Virsh, QmpError, QmpClosed, OSError, ValueError, KeyError, StopIteration, subprocess.SubprocessError) as error:
                self.failures.setdefault(name, []).append(str(error))
                note = f"FAILED: {error}"
            print(f"{name:<32}  {note}", file=sys.stderr, flush=True)


def command_of(given):
    usual = {"only": None, "runs": 5, "memory": 1024, "fill": 1000, "backing": "plain", "commands": 3000, "pause": 0, "idle": 30}
    return "./dev perf --libvirt" + "".join(f" --{name} {getattr(given, name)}" for name, value in usual.items() if getattr(given, name) != value)


def main():
    given = options()
    if given.markdown:
        with open(given.out, encoding="utf-8") as last:
            print(report.markdown(json.load(last)))
        return 0
    if os.geteuid() != 0:
        raise SystemExit("under_libvirt.py: namespaces and libvirt's daemon need root")
    about = {**machine(given), "libvirt": checked(["/usr/sbin/libvirtd", "--version"], 30).split()[-1]}
    settings = {name: getattr(given, name) for name in ("runs", "memory", "fill", "backing", "commands", "pause", "idle")}
    run = Run(given)
    result = {"command": command_of(given), "machine": about, "settings": settings, "runs": run.all(), "failures": run.failures}
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
