"""The figures of postcopy.py as a table. Pure functions. Standard library only."""
from report import HEADS, GIB, cells, compared, median, rate, row, seconds, spread, text  # noqa: F401 (text is for the caller)


def percentile(buckets, percent):
    """Microseconds, from how many latencies were in [2^N, 2^(N+1)) microseconds; as engine/postcopy/latency.h does it."""
    left = max(1.0, percent / 100 * sum(buckets))
    for number, count in enumerate(buckets):
        low, high = (0 if number == 0 else 2.0 ** number), 2.0 ** (number + 1)
        if count and left <= count:
            return low + (high - low) * left / count
        left -= count
    return None


def micros(value):
    return f"{value:.0f} us"


def millis(value):
    return f"{value * 1000:.1f} ms"


def runs_with(result, name, key):
    return [run for run in result["runs"].get(name, []) if run.get(key) is not None]


def rows(result):
    return postcopy_rows(result) + pull_rows(result) + switch_rows(result) + recovery_rows(result)


def versions(result):
    """What stands for each QEMU: its version."""
    names = {"": result["machine"]["qemu"], " newer": result["machine"].get("newer", "")}
    return {age: name.split("version ")[-1].split()[0] for age, name in names.items() if name}


GUESTS = {"scatter": "jumping about", "writer": "in order"}


def postcopy_rows(result):
    table = []
    for guest, age in ((guest, age) for guest in GUESTS for age in ("", " newer")):
        ours, theirs = (f"postcopy {whose} {guest}{age}" for whose in ("ours", "qemu"))
        where = f"{GUESTS[guest]}, QEMU {versions(result).get(age)}"
        for what, key, show, target, holds in (
                ("postcopy, total time", "total", seconds, "< 0.5 x", lambda a, b: a < 0.5 * b),
                ("fault latency, p50", "p50", micros, "< 0.5 x", lambda a, b: a < 0.5 * b),
                ("fault latency, p99", "p99", micros, "", lambda a, b: None),
                ("faults", "faults", lambda n: f"{n:.0f}", "", lambda a, b: None),
                ("guest blocked by faults", "blocktime", seconds, "", lambda a, b: None),
                ("command to STOP", "to_stop", millis, "", lambda a, b: None),
                ("STOP to RESUME", "downtime", millis, "", lambda a, b: None)):
            table += compared(f"{what}: {where}", runs_with(result, ours, key), key, show, "its own", runs_with(result, theirs, key), target, holds)
    return table


def pull_rows(result):
    return compared("background pulls", result["runs"].get("pull postcopy", []), "rate", rate, "precopy's pushes", result["runs"].get("pull precopy", []),
                    ">= 0.9 x", lambda a, b: a >= 0.9 * b)


STEPS = (("device", "STOP seen"), ("saved", "device state saved, missing pages told"), ("pulling", "revoked, armed, page tables dropped"),
         ("loaded", "device state loaded"), ("permitted", "permit"), ("runs", "runs"))


def switch_rows(result):
    table, medians = [], []
    for gib in result["settings"]["sizes"].split(","):
        ours, theirs = (result["runs"].get(f"switch {whose} {gib}", []) for whose in ("ours", "qemu"))
        if not ours:
            continue
        medians.append(median(ours, "downtime"))
        # QEMU's own switch is its device state saved and loaded, over the same path.
        table += compared(f"STOP to RESUME, {gib} GiB, {median(ours, 'missing') / GIB:.1f} missing", ours, "downtime", millis, "QEMU", theirs,
                          "<= QEMU + 30 ms", lambda a, b: a <= b + 0.030)
        table += [row(f"... {words}", millis(median(ours, key)), spread(ours, key, millis)) for key, words in STEPS]
        table += compared("... before: command to STOP", ours, "to_stop", millis, "QEMU", theirs, "", lambda a, b: None)
    if len(medians) > 1:
        more = max(medians) - min(medians)
        table.append(row("STOP to RESUME, largest less smallest guest", millis(more), target="the same: < 5 ms", met=more < 0.005))
    return table


def recovery_rows(result):
    runs = result["runs"].get("recovery", [])
    if not runs:
        return []
    trip = median(runs, "round_trip")
    def trips(value):
        return f"{value / trip:.1f} round trips"
    table = [row("recovery: round trip of the path", millis(trip), spread(runs, "round_trip", millis))]
    for key, words in (("setup", "request to postcopy-recover-setup"), ("connected", "connect, hello: to postcopy-recover"),
                       ("agreed", "RAM table: to postcopy-active"), ("served", "postcopy-recover to the first page served"), ("total", "request to the first page served")):
        table.append(row(f"... {words}", millis(median(runs, key)), spread(runs, key, millis), trips(median(runs, key))))
    served = median(runs, "served") / trip
    table[-2].update(target="<= 5 round trips", met=served <= 5)
    return table


def markdown(result):
    about, settings = result["machine"], result["settings"]
    lines = [f"Measured {about['date']} with `{result['command']}`: {about['cpus']} x {about['cpu']}, {about['memory_bytes'] / GIB:.0f} GiB, Linux {about['kernel']};"
             f" {about['pageferry']}, {', '.join(filter(None, (about['qemu'], about.get('newer'))))}. Medians of {settings['runs']} rounds; a guest with"
             f" {settings['memory']} MiB of RAM that uses {settings['fill']} MiB.",
             "", "| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells(line)) + " |" for line in result["rows"]]
    lines += [f"\n{part} failed {len(errors)} x: {errors[0]}" for part, errors in result["failures"].items()]
    return "\n".join(lines)
