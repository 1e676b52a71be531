"""The comparison's figures as a table: what was measured, beside what, the ratio, the target, and whether it was met.

Pure functions on the dictionaries of compare.py. Standard library only.
"""
import statistics

GIB, MIB = 1 << 30, 1 << 20


def median(runs, key):
    values = [run[key] for run in runs]
    return statistics.median(values) if values else None


def spread(runs, key, show):
    values = [run[key] for run in runs]
    return f"{show(min(values))} to {show(max(values))}" if len(values) > 1 else ""


def rate(value):
    return f"{value / GIB:.2f} GiB/s"


def seconds(value):
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


def cpu(value):
    return f"{value:.2f} s/GiB"


def size(value):
    return f"{value / MIB:.0f} MiB"


def microseconds(value):
    return f"{value * 1e6:.0f} us"


def row(what, value, spread_text="", beside="", ratio=None, target="", met=None):
    return {"what": what, "value": value, "spread": spread_text, "beside": beside, "ratio": ratio, "target": target, "met": met}


def compared(what, runs, key, show, peer_name, peer_runs, target, holds):
    """A row for one figure beside a peer's; holds(ours, theirs) tells whether the target is met. Nothing without our figure."""
    ours, theirs = median(runs, key), median(peer_runs, key)
    if ours is None:
        return []
    if theirs is None:
        return [row(what, show(ours), spread(runs, key, show))]
    return [row(what, show(ours), spread(runs, key, show), f"{peer_name} {show(theirs)}", ours / theirs if theirs else None, target, holds(ours, theirs))]


def rows(result):
    runs = {part: result["runs"].get(part, []) for part in ("iperf3", "push", "pull", "fault", "request-reply", "dirty-scan", "pageferry", "tcp", "multifd", "sparse")}
    ours, tcp, multifd, iperf3 = runs["pageferry"], runs["tcp"], runs["multifd"], runs["iperf3"]
    lanes = result["settings"]["lanes"]
    table = []
    table += compared("push, pages only", runs["push"], "throughput", rate, f"iperf3 -P{lanes}", iperf3, "", lambda a, b: None)
    table += compared("precopy throughput", ours, "throughput", rate, f"iperf3 -P{lanes}", iperf3, ">= 0.9 x", lambda a, b: a >= 0.9 * b)
    table += compared("precopy throughput", ours, "throughput", rate, "QEMU tcp", tcp, ">= 2 x", lambda a, b: a >= 2 * b)
    table += compared("precopy throughput", ours, "throughput", rate, "QEMU multifd", multifd, "> 1 x", lambda a, b: a > b)
    table += compared("precopy, wall clock", ours, "wall", seconds, "QEMU tcp", tcp, "", lambda a, b: None)
    table += compared("precopy, wall clock", ours, "wall", seconds, "QEMU multifd", multifd, "", lambda a, b: None)
    table += compared("CPU time, both ends", ours, "cpu_per_gib", cpu, "QEMU multifd", multifd, "< 1 x", lambda a, b: a < b)
    table += compared("CPU time, both ends", ours, "cpu_per_gib", cpu, "QEMU tcp", tcp, "", lambda a, b: None)
    table += compared("downtime, idle guest", ours, "downtime", seconds, "QEMU tcp", tcp, "< 100 ms, < 1 x", lambda a, b: a < min(b, 0.1))
    table += compared("downtime, idle guest", ours, "downtime", seconds, "QEMU multifd", multifd, "", lambda a, b: None)
    table += pull_rows(runs["pull"]) + fault_rows(runs["fault"], "plain request, reply", runs["request-reply"], 1.5)
    table += sparse_rows(runs["sparse"])
    table += scan_rows(runs["dirty-scan"])
    if not ours:  # the peers alone, when only they were asked for
        table += [row(f"{name} throughput", rate(median(part, "throughput")), spread(part, "throughput", rate))
                  for name, part in (("iperf3", iperf3), ("QEMU tcp", tcp), ("QEMU multifd", multifd)) if part]
    return table


def pull_rows(runs, scheme=""):
    """Both ways on the same connection."""
    if not runs:
        return []
    mine, name = [{"rate": run["pull"], "cpu": run["pull_cpu"]} for run in runs], f"pull{scheme}, in pieces of 256 KiB"
    theirs = [{"rate": run["push"], "cpu": run["push_cpu"]} for run in runs]
    return (compared(name, mine, "rate", rate, "push", theirs, ">= 0.9 x", lambda a, b: a >= 0.9 * b) +
            compared("... CPU time, both ends", mine, "cpu", cpu, "push", theirs, "", lambda a, b: None))


def fault_rows(runs, peer_name, peer_runs, bound, scheme=""):
    """A fault beside what it cannot be quicker than: the peer's request and reply of a page, and the fault of this host alone."""
    if not runs:
        return []
    def line(what, key, beside="", other=None, limit=None):
        ours = median(runs, key)
        return row(what, microseconds(ours), spread(runs, key, microseconds), f"{beside} {microseconds(other)}" if other else "", ours / other if other else None,
                   f"<= {limit:g} x" if limit and other else "", ours <= limit * other if limit and other else None)
    peer, local = median(peer_runs, "read_p50"), median(runs, "local_p50")
    table = [line(f"page{scheme}: read, one thread, p50", "read_p50", peer_name, peer),
             line("... by the engine's threads, p50", "urgent_p50"),
             line("... p99 beside bulk pulls", "urgent_busy_p99", "alone", median(runs, "urgent_p99"), 3),
             line("fault of this host alone, p50", "local_p50"),
             line(f"fault{scheme}, whole, p50", "whole_p50", f"{peer_name} + local", peer + local if peer else None, bound),
             line("... p99", "whole_p99"),
             line("... p50 beside bulk pulls", "whole_busy_p50", "alone", median(runs, "whole_p50")),
             line("... p99 beside bulk pulls", "whole_busy_p99", "alone", median(runs, "whole_p99"), 3)]
    return [*table, row("... bulk pulls beside faults", rate(median(runs, "background")), spread(runs, "background", rate))]


def sparse_rows(runs):
    if not runs:
        return []
    total, growth = median(runs, "wall"), median(runs, "growth")
    return [row("8 GiB guest, 100 MiB touched", seconds(total), spread(runs, "wall", seconds), target="< 1 s", met=total < 1),
            row("... destination's memory grows", size(growth), spread(runs, "growth", size), target="about 100 MiB", met=growth < 125 * MIB)]


def scan_rows(runs):
    """Linear: the cost of a GiB differs by less than a factor of two between sizes (the smallest is all in the caches)."""
    if not runs:
        return []
    scans = runs[0]
    costs = [scan["collect_seconds_per_gib"] for scan in scans]
    table = []
    for scan in scans:
        value = scan["collect_seconds"]
        note = "" if scan["populated"] else "; RAM never touched: it does not fit"
        table.append(row(f"idle dirty round, {scan['size_bytes'] / GIB:g} GiB", f"{value['median'] * 1e3:.2f} ms",
                         f"{value['min'] * 1e3:.2f} to {value['max'] * 1e3:.2f} ms", f"{scan['collect_seconds_per_gib'] * 1e3:.2f} ms/GiB{note}"))
    if len(scans) > 1 and min(costs) > 0:
        table[-1].update(ratio=max(costs) / min(costs), target="linear: per GiB < 2 x", met=max(costs) < 2 * min(costs))
    return table


HEADS = ("what", "median", "spread", "beside", "ratio", "target", "met")


def cells(line):
    return (line["what"], line["value"], line["spread"], line["beside"], "" if line["ratio"] is None else f"{line['ratio']:.2f}", line["target"],
            {None: "", True: "yes", False: "NO"}[line["met"]])


def text(result):
    table = [HEADS, *map(cells, result["rows"])]
    widths = [max(map(len, column)) for column in zip(*table)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in table]
    lines.insert(1, "  ".join("-" * width for width in widths))
    for part, errors in result["failures"].items():
        lines.append(f"FAILED {part}, {len(errors)} x: {errors[0]}")
    return "\n".join(lines)


def markdown(result):
    about, settings = result["machine"], result["settings"]
    lines = [f"Measured {about['date']} with `{result['command']}`: {about['cpus']} x {about['cpu']}, {about['memory_bytes'] / GIB:.0f} GiB, Linux {about['kernel']};"
             f" {about['pageferry']}, {about['qemu']}, {about['iperf3']}. Medians of {settings['runs']} rounds; {settings['lanes']} lanes, streams, channels;"
             f" a guest with {settings['memory']} MiB of RAM of which {settings['fill']} MiB hold data; downtime limit {settings['downtime_limit']} ms.",
             "", "| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells(line)) + " |" for line in result["rows"]]
    lines += [f"\n{part} failed {len(errors)} x: {errors[0]}" for part, errors in result["failures"].items()]
    return "\n".join(lines)
