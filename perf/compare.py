#!/usr/bin/env python3
"""Pageferry beside its peers, in one run on one machine: one table of figures and ratios, and build/perf/quick.json.

  compare.py --quick                 all of it (some minutes), usually as ./dev perf --quick
  compare.py --only iperf3,precopy   some of it; the names are those of the first column, "precopy" also by parts
  compare.py --markdown              what goes into docs/performance.md, from the last run's JSON; measures nothing

Two network namespaces are joined by a veth pair, and everything that is compared goes over it, in turn, round after round, so that a
machine that is slow for a while is slow for all. Memory is taken and given back before each migration (warm_up_memory in precopy.py). Two cores are shared by source, destination and the network: read the ratios.
QEMU emulates the processor (-accel tcg); the guest is a boot sector that fills its RAM with non-zero data and then halts. All migrations have
the same downtime-limit, and a max-bandwidth that nothing here can reach. For root.
"""
import argparse
import json
import os
import platform
import subprocess
import sys
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
sys.path[:0] = [os.path.join(ROOT, "tests"), os.path.dirname(os.path.abspath(__file__))]
from qemu_pair import Namespaces, Timeout  # noqa: E402
import precopy  # noqa: E402
import report  # noqa: E402


PARTS = ("iperf3", "push", "pull", "request-reply", "fault", "dirty-scan", "pageferry", "tcp", "multifd", "sparse")


def options():
    o = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    o.add_argument("--quick", action="store_true", help="the whole comparison with few runs (also what happens without it)")
    o.add_argument("--build", default=os.path.join(ROOT, "build", "release"), help="the build directory (default build/release)")
    o.add_argument("--out", default=os.path.join(ROOT, "build", "perf", "quick.json"), help="where the figures go (default build/perf/quick.json)")
    o.add_argument("--runs", type=int, default=3, help="rounds; the table shows medians (default 3)")
    o.add_argument("--lanes", type=int, default=2, help="lanes, iperf3 streams and multifd channels (default 2)")
    o.add_argument("--memory", type=int, default=1280, metavar="MIB", help="RAM of the guest that is migrated (default %(default)s)")
    o.add_argument("--fill", type=int, default=1100, metavar="MIB", help="of which hold data (default %(default)s)")
    o.add_argument("--downtime-limit", type=int, default=300, metavar="MS")
    o.add_argument("--seconds", type=float, default=3, help="length of one iperf3 run (default 3)")
    o.add_argument("--scan", default="1G,4G,16G", help="sizes for the idle dirty round (default 1G,4G,16G)")
    o.add_argument("--qemu", default="qemu-system-x86_64")
    o.add_argument("--only", help="some parts, with commas: " + ", ".join(PARTS))
    o.add_argument("--markdown", action="store_true", help="print the last run's figures as Markdown and end")
    o.add_argument("--check", action="store_true", help="end with status 1 when a target is missed")
    given = o.parse_args()
    given.parts = given.only.split(",") if given.only else list(PARTS)
    if unknown := set(given.parts) - set(PARTS):
        o.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return given


class Comparison:
    def __init__(self, given, namespaces):
        self.given, self.namespaces = given, namespaces
        self.program = os.path.join(given.build, "bin", "pageferry")
        self.perf = os.path.join(given.build, "bin", "pageferry-perf")
        self.runs = {part: [] for part in given.parts}
        self.failures = {}
        self.port = 5000

    def run(self):
        for number in range(self.given.runs):
            for part in self.given.parts:
                if part == "dirty-scan" and number > 0:
                    continue  # it takes its own median
                self.attempt(part, number)
        return self.runs

    def attempt(self, part, number):
        """A part that fails is reported and does not end the others."""
        begin = time.monotonic()
        try:
            result = self.measure(part)
        except (RuntimeError, Timeout, OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            self.failures.setdefault(part, []).append(str(error))
            note = f"FAILED: {error}"
        else:
            self.runs[part].append(result)
            note = f"{time.monotonic() - begin:.1f} s"
        print(f"round {number + 1}/{self.given.runs}  {part:<10}  {note}", file=sys.stderr, flush=True)

    def measure(self, part):
        if part == "iperf3":
            return self.iperf3()
        if part == "push":
            return self.push()
        if part == "dirty-scan":
            output = checked([self.perf, "dirty-scan", "--size", self.given.scan, "--runs", "9", "--json"], 600)
            return [json.loads(line) for line in output.splitlines()]
        if part in ("pull", "fault", "request-reply"):
            return self.pair(part)
        self.port += 1
        return precopy.measure(self.case(part), self.namespaces, self.port)

    def case(self, part):
        """The same guest for all but the sparse one: much RAM of which little was touched."""
        ours = part in ("pageferry", "sparse")
        memory, fill = (8192, 101) if part == "sparse" else (self.given.memory, self.given.fill)
        return precopy.Case(part, [self.program, "qemu", "--"] if ours else [], os.path.join(self.given.build, "bin", "guest", "guest_fill_idle.img"),
                            memory=memory, fill=fill, downtime_limit=self.given.downtime_limit, lanes=self.given.lanes, multifd=part == "multifd",
                            qemu=self.given.qemu)

    def iperf3(self):
        address = self.namespaces.addresses[1]
        with Serving(self.namespaces.prefix(1) + ["iperf3", "--server", "--one-off", "--forceflush"], "listening"):
            output = checked(self.namespaces.prefix(0) + ["iperf3", "--client", address, "--parallel", str(self.given.lanes), "--time", str(self.given.seconds),
                                                          "--json"], 60 + self.given.seconds)
        end = json.loads(output)["end"]
        return {"throughput": end["sum_received"]["bits_per_second"] / 8}

    def push(self):
        self.port += 1
        uri, size = f"tcp:{self.namespaces.addresses[1]}:{self.port}", ["--size", "1G", "--lanes", str(self.given.lanes)]
        with Serving(self.namespaces.prefix(1) + [self.perf, "push", "--listen", uri, *size], "listening") as serving:
            result = json.loads(checked(self.namespaces.prefix(0) + [self.perf, "push", uri, *size, "--runs", "3", "--json"], 180))
            serving.wait(30)
        return {"throughput": result["bytes_per_second"]["median"], "cpu_per_gib": result["cpu_seconds_per_gib"]}


    def pair(self, mode):
        """What pageferry-perf says of itself, one end in each namespace."""
        self.port += 1
        uri = f"tcp:{self.namespaces.addresses[1]}:{self.port}"
        words = {"pull": ["--size", "1G", "--lanes", str(self.given.lanes), "--runs", "3"], "fault": ["--lanes", str(self.given.lanes)]}.get(mode, [])
        with Serving(self.namespaces.prefix(1) + [self.perf, mode, "--listen", uri], "listening") as serving:
            result = json.loads(checked(self.namespaces.prefix(0) + [self.perf, mode, uri, *words, "--json"], 180))
            serving.wait(30)
        return figures(mode, result)


def figures(mode, result):
    """What a table needs of pageferry-perf's pull, fault and request-reply."""
    if mode == "pull":
        return {"pull": result["pull"]["bytes_per_second"], "push": result["push"]["bytes_per_second"],
                "pull_cpu": result["pull"]["cpu_seconds_per_gib"], "push_cpu": result["push"]["cpu_seconds_per_gib"]}
    if mode == "fault":
        kinds = ("read", "urgent", "urgent_busy", "local", "whole", "whole_busy")
        return {"background": result["background_bytes_per_second"], **{f"{kind}_{key}": result[kind][key] for kind in kinds for key in ("p50", "p99")}}
    return {"read_p50": result["p50"], "read_p99": result["p99"]}


class Serving:
    """A server that says a word on its output when it is ready; ended with the block."""

    def __init__(self, command, ready):
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        seen = ""
        while ready not in seen.lower():
            line = self.process.stdout.readline()
            if not line:
                self.close()
                raise RuntimeError(f"{command[-1]} did not start: {seen.strip()}")
            seen += line

    def wait(self, timeout):
        self.process.wait(timeout)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def checked(command, timeout):
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def machine(given):
    with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:
        model = next((line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")), platform.machine())
    with open("/proc/meminfo", encoding="utf-8") as meminfo:
        memory = int(meminfo.readline().split()[1]) * 1024
    def first_line(command):
        return checked(command, 30).splitlines()[0]
    return {"date": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()), "cpu": model, "cpus": os.cpu_count(), "memory_bytes": memory,
            "kernel": platform.release(), "qemu": first_line([given.qemu, "--version"]), "iperf3": first_line(["iperf3", "--version"]),
            "pageferry": first_line([os.path.join(given.build, "bin", "pageferry"), "--version"]), "load_before": os.getloadavg()[0]}


def command_of(given):
    return "./dev perf --quick" + (f" --only {given.only}" if given.only else "") + (f" --runs {given.runs}" if given.runs != 3 else "")


def main():
    given = options()
    if given.markdown:
        with open(given.out, encoding="utf-8") as last:
            print(report.markdown(json.load(last)))
        return 0
    if os.geteuid() != 0:
        raise SystemExit("compare.py: network namespaces and cgroups need root")
    result = {"command": command_of(given), "machine": machine(given),
              "settings": {name: getattr(given, name) for name in ("runs", "lanes", "memory", "fill", "downtime_limit")}}
    with Namespaces() as namespaces:
        comparison = Comparison(given, namespaces)
        result["runs"] = comparison.run()
    result["failures"] = comparison.failures
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
