"""The figures of under_libvirt.py as a table. Pure functions. Standard library only."""
from report import HEADS, GIB, cells, compared, median, row, seconds, spread, text  # noqa: F401 (text is for the caller)

MEMORY = {"untouched": "memory never touched", "filled": "memory filled"}


def micros(value):
    return f"{value * 1e6:.0f} us"


def rows(result):
    return migrate_rows(result) + monitor_rows(result) + idle_rows(result)


def migrate_rows(result):
    table = []
    for memory, words in MEMORY.items():
        ours, theirs = (result["runs"].get(f"migrate {memory} {whose}", []) for whose in ("ours", "qemu"))
        for what, key, target, holds in (("virsh migrate", "whole", "<= 2 x", lambda a, b: a <= 2 * b), ("... libvirt's job", "job", "", lambda a, b: None),
                                         ("... downtime, libvirt's figure", "downtime", "< 1 x", lambda a, b: a < b)):
            table += compared(what if what.startswith("...") else f"{what}, {words}", ours, key, seconds, "QEMU alone", theirs, target, holds)
    return table


def monitor_rows(result):
    table = []
    for name, runs in result["runs"].items():
        if not name.startswith("monitor "):
            continue
        direct = [{"p50": run["qemu_p50"], "p99": run["qemu_p99"]} for run in runs]
        for who, words in (("ours", "through the monitor process"), ("beside", "through the other build's")):
            if f"{who}_p50" not in runs[0]:
                continue
            through = [{"p50": run[f"{who}_p50"], "p99": run[f"{who}_p99"]} for run in runs]
            table += compared(f"{name.removeprefix('monitor ')}, {words}, p50", through, "p50", micros, "QEMU's own", direct, "<= 1.2 x",
                              lambda a, b: a <= 1.2 * b)
            table += compared("... p99", through, "p99", micros, "QEMU's own", direct, "", lambda a, b: None)
    return table


def idle_rows(result):
    """None: less than a millisecond in all, which is less than the kernel's own clock tick can show."""
    runs, table = result["runs"].get("idle", []), []
    for name, words in (("client", "a client that asks nothing"), ("alone", "no client")):
        if runs:
            cpu, switches = median(runs, f"{name}_cpu"), median(runs, f"{name}_switches")
            table.append(row(f"idle for {result['settings']['idle']:g} s, {words}: CPU time", micros(cpu), spread(runs, f"{name}_cpu", micros),
                             f"{switches:.0f} wake-ups", target="none", met=cpu < 0.001 and switches == 0))
    return table


def markdown(result):
    about, settings = result["machine"], result["settings"]
    lines = [f"Measured {about['date']} with `{result['command']}`: {about['cpus']} x {about['cpu']}, {about['memory_bytes'] / GIB:.0f} GiB, Linux {about['kernel']};"
             f" {about['pageferry']}, {about['qemu']}, libvirt {about['libvirt']}. Medians of {settings['runs']} rounds; a guest with {settings['memory']} MiB of RAM,"
             f" of which it has filled {settings['fill']} MiB or nothing; {settings['commands']} commands of each kind, at each monitor, in each round.",
             "", "| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells(line)) + " |" for line in result["rows"]]
    lines += [f"\n{part} failed {len(errors)} x: {errors[0]}" for part, errors in result["failures"].items()]
    return "\n".join(lines)
