#!/usr/bin/env python3
"""RDMA beside its peers in the lab: boots it, runs rdma.py there, prints one table, and writes build/perf/lab.json.

  lab.py --quick [options of rdma.py]    usually as ./dev perf --quick --lab
  lab.py --markdown                      what goes into docs/performance.md, from the last run's JSON; measures nothing

The whole machine is emulated, network and device too: read the ratios, not the rates.
"""
import argparse
import json
import os
import platform
import sys
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
sys.path[:0] = [ROOT, os.path.dirname(os.path.abspath(__file__))]
from lab import host, nested  # noqa: E402
from lab.lane import LabError  # noqa: E402
from lab.machine import Machine  # noqa: E402
from report import HEADS, cells, compared, cpu, fault_rows, median, microseconds, pull_rows, rate, row, seconds, spread, text  # noqa: E402


def options():
    o = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    o.add_argument("--quick", action="store_true", help="the whole comparison with few runs (also what happens without it)")
    o.add_argument("--build", default=os.path.join(ROOT, "build", "release"), help="the build directory (default build/release)")
    o.add_argument("--out", default=os.path.join(ROOT, "build", "perf", "lab.json"), help="where the figures go (default build/perf/lab.json)")
    o.add_argument("--kernel", default=host.KERNEL, help="the lab's (default %(default)s)")
    o.add_argument("--mtu", type=int, default=9000, help="of the lab's network; 9000 makes RoCE's 4096 (default %(default)s)")
    o.add_argument("--limit", type=float, default=3600, metavar="SECONDS", help="until the lab is killed (default %(default)s)")
    o.add_argument("--markdown", action="store_true", help="print the last run's figures as Markdown and end")
    o.add_argument("--check", action="store_true", help="end with status 1 when a target is missed")
    return o.parse_known_args()


def rows(result):
    runs = {part: result["runs"].get(part, []) for part in ("write-bw", "push", "push-tcp", "cold", "send-lat", "control", "pull", "pull-tcp", "read-lat",
                                                            "request-reply", "fault", "fault-tcp", "idle", "pageferry", "qemu",
                                                            "pageferry-tcp", "qemu-tcp")}
    ours, qemu, tcp = runs["pageferry"], runs["qemu"], runs["pageferry-tcp"]

    def nothing(_a, _b):
        return None
    table = []
    table += compared("push over rdma", runs["push"], "throughput", rate, "ib_write_bw", runs["write-bw"], ">= 0.95 x", lambda a, b: a >= 0.95 * b)
    table += compared("push over rdma", runs["push"], "throughput", rate, "push over tcp", runs["push-tcp"], "", nothing)
    table += compared("... CPU time, both ends", runs["push"], "cpu_per_gib", cpu, "push over tcp", runs["push-tcp"], "", nothing)
    table += compared("control, there and back", runs["control"], "round_trip", microseconds, "ib_send_lat", runs["send-lat"], "<= 1.3 x", lambda a, b: a <= 1.3 * b)
    table += pull_rows(runs["pull"], " over rdma") + pull_rows(runs["pull-tcp"], " over tcp")
    table += fault_rows(runs["fault"], "ib_read_lat", runs["read-lat"], 1.3, " over rdma")
    table += fault_rows(runs["fault-tcp"], "plain request, reply", runs["request-reply"], 1.5, " over tcp")
    table += compared("precopy throughput", ours, "throughput", rate, "QEMU rdma", qemu, ">= 2 x", lambda a, b: a >= 2 * b)
    for what, key, show in (("precopy, total time", "total", seconds), ("downtime, idle guest", "downtime", seconds), ("CPU time, both ends", "cpu_per_gib", cpu)):
        table += compared(what, ours, key, show, "QEMU rdma", qemu, "", nothing)
        table += compared(what, ours, key, show, "ours over tcp", tcp, "", nothing)
        table += compared(what, ours, key, show, "QEMU tcp", runs["qemu-tcp"], "", nothing)
    return table + cold_rows(runs["cold"]) + idle_rows(runs["idle"])


def cold_rows(runs):
    if not runs:
        return []
    cold, warm = median(runs, "cold"), median(runs, "warm")
    table = [row("push, nothing registered yet", seconds(cold), spread(runs, "cold", seconds), f"warm {seconds(warm)}", cold / warm, "<= 1.1 x", cold <= 1.1 * warm)]
    steps = [key for key in runs[0] if key not in ("cold", "warm", "first_push")]
    ends = [*steps[1:], "first_push"]
    for step, end in zip(steps, ends):
        took = [{step: run[end] - run[step]} for run in runs]
        table.append(row(f"setup: {step}", f"{median(took, step) * 1e3:.2f} ms", spread(took, step, lambda value: f"{value * 1e3:.2f} ms")))
    table.append(row("setup: all, to the first push done", f"{median(runs, 'first_push') * 1e3:.2f} ms", spread(runs, "first_push", lambda value: f"{value * 1e3:.2f} ms")))
    return table


def idle_rows(runs):
    """No measurable CPU: less than a thousandth of a processor at either end."""
    return [row(f"idle connection, {end}", f"{runs[0][end] * 1e3:.2f} ms/s", target="< 1 ms/s", met=runs[0][end] < 1e-3) for end in ("source", "target")] if runs else []


def markdown(result):
    about, settings = result["machine"], result["settings"]
    lines = [f"Measured {about['date']} with `{result['command']}` in the lab on {about['cpus']} x {about['cpu']}: Linux {result['kernel']}, {result['cpus']} emulated"
             f" processors, soft-RoCE with an MTU of {result['mtu']}. Medians of {settings['runs']} rounds; {settings['lanes']} lanes, queue pairs; {settings['size']} MiB pushed"
             f" in extents and messages of {settings['extent']} KiB; a guest with {settings['memory']} MiB of RAM of which {settings['fill']} MiB hold data.",
             "", "| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells(line)) + " |" for line in result["rows"]]
    lines += [f"\n{part} failed {len(errors)} x: {errors[0]}" for part, errors in result["failures"].items()]
    return "\n".join(lines)


def about_host():
    with open("/proc/cpuinfo", encoding="utf-8") as cpuinfo:
        model = next((line.split(":", 1)[1].strip() for line in cpuinfo if line.startswith("model name")), platform.machine())
    return {"date": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()), "cpu": model, "cpus": os.cpu_count(), "kernel": platform.release(),
            "load_before": os.getloadavg()[0]}


def measured(given, rest):
    """rdma.py's object, from within the lab."""
    image, kernel = host.prepare(given.kernel, given.build, nested.paths())
    with Machine(image, kernel, memory=4096, mtu=given.mtu, limit=given.limit) as machine:
        try:
            machine.wait_ready()
            command = ["python3", os.path.join(ROOT, "perf", "rdma.py"), "--host", machine.address, "--build", os.path.abspath(given.build), *rest]
            result = machine.run(command, timeout=None, stderr=lambda data: (sys.stderr.buffer.write(data), sys.stderr.flush()))
        except LabError as error:
            raise SystemExit(f"lab.py: {error}\n{machine.console()}") from error
    if not result.stdout.strip():
        raise SystemExit(f"lab.py: rdma.py ended with {result.status} and no figures")
    return json.loads(result.stdout.splitlines()[-1])


def main():
    given, rest = options()
    if given.markdown:
        with open(given.out, encoding="utf-8") as last:
            print(markdown(json.load(last)))
        return 0
    machine = about_host()
    result = {"command": " ".join(["./dev perf --quick --lab", *rest]), "machine": machine, **measured(given, rest)}
    result["rows"] = rows(result)
    os.makedirs(os.path.dirname(os.path.abspath(given.out)), exist_ok=True)
    with open(given.out, "w", encoding="utf-8") as out:
        json.dump(result, out, indent=1)
    print(text(result))
    print(f"\nfigures of every run: {os.path.relpath(given.out)}")
    missed = [line for line in result["rows"] if line["met"] is False]
    return 1 if result["failures"] or (given.check and missed) else 0


if __name__ == "__main__":
    sys.exit(main())
