#!/usr/bin/env python3
"""RDMA beside its peers, on one machine with an RDMA device: source and destination are both on it. One JSON object on standard output.

  rdma.py --host 10.77.0.1                       in the lab's machine; ./dev perf --quick --lab does that, and makes the table
  rdma.py --host ADDRESS --only write-bw,push    some of it, on any machine: an RDMA device has to have the address

  write-bw   ib_write_bw: messages as large as our pushes, as many queue pairs as lanes
  push       pageferry-perf push of all of a RAM over rdma:, warm; push-tcp the same over tcp:
  cold       the first push of a connection beside the ones after it: nothing is registered yet, but what `prepare` has begun
  send-lat   ib_send_lat, there and back; control: a message on our control lane, there and back
  pull       pageferry-perf pull: bulk pulls, and pushes in turn with them; pull-tcp the same over tcp:
  read-lat   ib_read_lat of a page; request-reply: a page asked for over a plain TCP connection
  fault      pageferry-perf fault: page faults in postcopy, and what they are made of; fault-tcp the same over tcp:
  idle       CPU time of a connection on which nothing happens
  pageferry, qemu    a guest moves over rdma:, with Pageferry and with QEMU's own migration; -tcp: over tcp:

All are taken in turn, round after round. For root.
"""
import argparse
import glob
import ipaddress
import json
import os
import subprocess
import sys
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
sys.path[:0] = [os.path.join(ROOT, "tests"), os.path.dirname(os.path.abspath(__file__))]
from compare import Serving, checked, figures  # noqa: E402
from qemu_pair import PATIENCE, Timeout, free_port  # noqa: E402
import precopy  # noqa: E402

PARTS = ("write-bw", "push", "push-tcp", "cold", "send-lat", "control", "pull", "pull-tcp", "read-lat", "request-reply", "fault", "fault-tcp", "idle", "pageferry", "qemu", "pageferry-tcp", "qemu-tcp")
MIB = 1 << 20
LIMIT = 2 * PATIENCE
PERFTEST_LIMIT = 40.0  # seconds for one of its runs


def options():
    o = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    o.add_argument("--host", required=True, help="this machine's address on an RDMA device")
    o.add_argument("--build", default=os.path.join(ROOT, "build", "release"), help="the build directory (default build/release)")
    o.add_argument("--runs", type=int, default=3, help="rounds (default 3)")
    o.add_argument("--lanes", type=int, default=2, help="lanes and queue pairs (default 2)")
    o.add_argument("--extent", type=int, default=1024, metavar="KIB", help="of a push, and of ib_write_bw's message (default 1024)")
    o.add_argument("--size", type=int, default=256, metavar="MIB", help="RAM that is pushed (default %(default)s)")
    o.add_argument("--memory", type=int, default=256, metavar="MIB", help="RAM of the guest that moves (default %(default)s)")
    o.add_argument("--fill", type=int, default=200, metavar="MIB", help="of which hold data (default %(default)s)")
    o.add_argument("--downtime-limit", type=int, default=300, metavar="MS")
    o.add_argument("--idle", type=float, default=10, metavar="SECONDS", help="how long nothing happens (default %(default)s)")
    o.add_argument("--qemu", default="qemu-system-x86_64")
    o.add_argument("--only", help="some parts, with commas: " + ", ".join(PARTS))
    given = o.parse_args()
    given.parts = given.only.split(",") if given.only else list(PARTS)
    if unknown := set(given.parts) - set(PARTS):
        o.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return given


def device_of(address):
    """(device, index of the GID) whose GID is this address; RoCE v2 where there is a choice. RuntimeError: there is none."""
    wanted = ipaddress.ip_address(address)
    wanted = ipaddress.ip_address(f"::ffff:{address}") if wanted.version == 4 else wanted
    found = []
    for path in glob.glob("/sys/class/infiniband/*/ports/1/gids/*"):
        kind = path.replace("/gids/", "/gid_attrs/types/")
        try:
            with open(path, encoding="utf-8") as gid, open(kind, encoding="utf-8") as type_of:
                if ipaddress.ip_address(gid.read().strip()) == wanted:
                    found.append(("v2" in type_of.read(), path.split("/")[4], path.rsplit("/", 1)[1]))
        except (OSError, ValueError):
            pass  # a place in the table that nothing stands at
    if not found:
        raise RuntimeError(f"no RDMA device has the address {address}")
    _, device, index = max(found)
    return device, index


class Rdma:
    def __init__(self, given):
        self.given = given
        self.program, self.perf = (os.path.join(os.path.abspath(given.build), "bin", name) for name in ("pageferry", "pageferry-perf"))
        self.device, self.gid = device_of(given.host)
        self.runs, self.failures = {part: [] for part in given.parts}, {}

    def run(self):
        for number in range(self.given.runs):
            for part in self.given.parts:
                if part == "idle" and number > 0:
                    continue
                self.attempt(part, number)

    def attempt(self, part, number):
        """A part that fails is reported and does not end the others."""
        begin = time.monotonic()
        try:
            self.runs[part].append(self.measure(part))
            note = f"{time.monotonic() - begin:.1f} s"
        except (RuntimeError, Timeout, OSError, ValueError, KeyError, IndexError, subprocess.SubprocessError) as error:
            self.failures.setdefault(part, []).append(str(error))
            note = f"FAILED: {error}"
        print(f"round {number + 1}/{self.given.runs}  {part:<14}{note}", file=sys.stderr, flush=True)

    def uri(self, scheme="rdma"):
        host = f"[{self.given.host}]" if ":" in self.given.host else self.given.host
        return f"{scheme}:{host}:{free_port(self.given.host)}"

    def measure(self, part):
        scheme = "tcp" if part.endswith("-tcp") else "rdma"
        if part == "write-bw":
            line = self.perftest("ib_write_bw", "-s", str(self.given.extent << 10), "-q", str(self.given.lanes), "-n", "256")
            return {"throughput": float(line[3]) * MIB}
        if part == "send-lat":
            # It tells half of it. It spins; told to sleep (-e), it never ends on soft-RoCE.
            return {"round_trip": 2 * float(self.perftest("ib_send_lat", "-s", "64", "-n", "1000")[4]) / 1e6}
        if part == "control":
            result = self.pair("control", scheme, [], ["--size", "64"])
            return {"round_trip": result["round_trip_seconds"]["median"]}
        if part == "read-lat":
            line = self.perftest("ib_read_lat", "-s", "4096", "-n", "1000")
            return {"read_p50": float(line[4]) / 1e6, "read_p99": float(line[7]) / 1e6}
        if part == "request-reply":
            return figures(part, self.pair(part, "tcp", [], []))
        mode = part.removesuffix("-tcp")
        if mode in ("pull", "fault"):
            words = ["--size", f"{self.given.size}M", "--lanes", str(self.given.lanes), "--runs", "2" if mode == "pull" else "1000"]
            return figures(mode, self.pair(mode, scheme, [], words))
        if part in ("pageferry", "qemu", "pageferry-tcp", "qemu-tcp"):
            return precopy.measure(self.case(part), uri=self.uri(scheme), timeout=LIMIT)
        size = ["--size", f"{self.given.size}M", "--lanes", str(self.given.lanes), "--extent", f"{self.given.extent}K"]
        if part == "idle":
            result = self.pair("push", scheme, size, [*size, "--runs", "1", "--idle", str(self.given.idle)])
            idle = result["idle"]
            return {key: idle[f"{key}_cpu_seconds"] / idle["seconds"] for key in ("source", "target")}
        if part == "cold":
            result = self.pair("push", scheme, size, [*size, "--warm-up", "0", "--runs", "3", "--prepare"])
            seconds = [run["seconds"] for run in result["runs"]]
            return {"cold": seconds[0], "warm": sorted(seconds[1:])[0], "first_push": result["first_push_seconds"], **result["steps_seconds"]}
        result = self.pair("push", scheme, size, [*size, "--runs", "2"])
        return {"throughput": result["bytes_per_second"]["median"], "cpu_per_gib": result["cpu_seconds_per_gib"]}

    def case(self, part):
        launcher = [self.program, "qemu", "--"] if part.startswith("pageferry") else []
        return precopy.Case(part, launcher, os.path.join(self.given.build, "bin", "guest", "guest_fill_idle.img"), memory=self.given.memory, fill=self.given.fill,
                            downtime_limit=self.given.downtime_limit, lanes=self.given.lanes, qemu=self.given.qemu)

    def pair(self, mode, scheme, serving, asking):
        """What pageferry-perf says of itself when one listens and the other connects."""
        uri = self.uri(scheme)
        with Serving([self.perf, mode, "--listen", uri, *serving], "listening") as server:
            result = json.loads(checked([self.perf, mode, uri, *asking, "--json"], LIMIT))
            server.wait(PATIENCE)
        return result

    def perftest(self, program, *words):
        """The words of the line with the figures."""
        command = [program, "-d", self.device, "-x", self.gid, "-F", "-p", str(free_port(self.given.host)), *words]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
            try:
                end = time.monotonic() + PATIENCE
                while True:  # it does not say when it listens
                    done = subprocess.run([*command, self.given.host], capture_output=True, text=True, timeout=PERFTEST_LIMIT, check=False)
                    lines = [line.split() for line in done.stdout.splitlines() if line.split()[:1] == [words[1]]]
                    if done.returncode == 0 and lines:
                        return lines[-1]
                    if time.monotonic() > end or server.poll() is not None:
                        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
                    time.sleep(0.2)
            finally:
                server.kill()


def main():
    given = options()
    rdma = Rdma(given)
    rdma.run()
    with open("/proc/sys/kernel/osrelease", encoding="utf-8") as release:
        kernel = release.read().strip()
    mtu = next((line.split()[-2:] for line in checked(["ibv_devinfo", "-d", rdma.device], 60).splitlines() if "active_mtu" in line), ["?"])[0]
    print(json.dumps({"benchmark": "rdma", "kernel": kernel, "device": rdma.device, "mtu": mtu, "cpus": os.cpu_count(), "settings":
                      {key: getattr(given, key) for key in ("runs", "lanes", "extent", "size", "memory", "fill", "downtime_limit", "idle")},
                      "runs": rdma.runs, "failures": rdma.failures}))
    return 1 if rdma.failures else 0


if __name__ == "__main__":
    sys.exit(main())
