#!/usr/bin/env python3
"""Boots a Debian kernel in QEMU with what was built and a soft-RoCE device, and runs a command in it.

Its exit status is the command's; 124 if the time limit ended it; 125 if the lab itself failed. Without a command there is a shell on
the terminal. With --two there are two machines, a and b: a runs the command, b the one of --peer-command, until a's has ended.
Addresses: 10.77.0.1 and fd77::1 (a), 10.77.0.2 and fd77::2 (b), on rxe0; a machine that is alone has 10.77.1.1 and fd77:1::1 on rxe1.
"""
import argparse
import os
import shutil
import subprocess
import sys
import termios
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from lab import host, nested  # noqa: E402
from lab.lane import CommandTimeout, LabError  # noqa: E402
from lab.machine import Machine  # noqa: E402
from lab.two import Two  # noqa: E402

LIMIT_PASSED, LAB_FAILED = 124, 125


def options(words):
    o = argparse.ArgumentParser(prog="./dev lab", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    o.add_argument("--kernel", default=host.KERNEL, help="6.1, 6.12 or 7.3 (default %(default)s)")
    o.add_argument("--two", action="store_true", help="two machines, joined by a cable")
    o.add_argument("--peer-command", metavar="COMMAND", help="with --two: what a shell runs on b meanwhile")
    o.add_argument("--limit", type=float, metavar="SECONDS", help="until everything is killed (default 300; a shell has none)")
    o.add_argument("--mtu", type=int, default=1500, help="of the network; 9000 makes RoCE's 4096 (default %(default)s)")
    o.add_argument("--memory", type=int, metavar="MIB", help=f"of each machine (default 1024; with --qemu {nested.MEMORY}, with "
                   f"--libvirt {nested.LIBVIRT_MEMORY})")
    o.add_argument("--qemu", action="store_true", help="take QEMU, python3 and this repository's Python programs along, for guests in there")
    o.add_argument("--libvirt", action="store_true", help="--qemu, and libvirt's daemon, virsh and Python binding")
    o.add_argument("--cpus", type=int, help="of each machine (default 2; with --two 1)")
    o.add_argument("--add", action="append", default=[], metavar="PATH", help="a file or folder to take along under its own path, programs "
                   "with their libraries; may be repeated")
    o.add_argument("--build", help="the build directory whose programs are taken along")
    o.add_argument("--timings", action="store_true", help="say how long each step took")
    o.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="and its arguments")
    given = o.parse_args(words)
    if given.command[:1] == ["--"]:
        del given.command[0]
    if given.peer_command and not given.two:
        o.error("--peer-command needs --two")
    if given.two and not given.command:
        o.error("--two needs a command")
    if not given.command and not (sys.stdin.isatty() and sys.stdout.isatty()):
        o.error("a shell needs a terminal; otherwise give a command: ./dev lab -- COMMAND")
    if given.memory is None:
        given.memory = nested.LIBVIRT_MEMORY if given.libvirt else nested.MEMORY if given.qemu else 1024
    if given.limit is None:
        given.limit = 300.0 if given.command else 7 * 86400.0
    return given


def to(stream):
    def write(data):
        stream.buffer.write(data)
        stream.buffer.flush()
    return write


class Prefixed:
    """Whole lines, each with the name of the machine it came from."""

    def __init__(self, name):
        self._prefix, self._rest = f"{name}: ".encode(), b""

    def __call__(self, data):
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            to(sys.stderr)(self._prefix + line + b"\n")

    def end(self):
        if self._rest:
            self(b"\n")


class Session:
    def __init__(self, given):
        self.given, self.begin = given, time.monotonic()

    def timing(self, what):
        if self.given.timings:
            print(f"lab: {time.monotonic() - self.begin:6.2f} s  {what}", file=sys.stderr)

    def run(self):
        given = self.given
        image, kernel = host.prepare(given.kernel, given.build, [*given.add, *(nested.libvirt_paths() if given.libvirt else nested.paths() if given.qemu else [])])
        self.timing(f"image {os.path.getsize(image) >> 20} MiB")
        shared = {"memory": given.memory, "mtu": given.mtu, "limit": given.limit, **({"cpus": given.cpus} if given.cpus else {})}
        if given.two:
            with Two(image, kernel, **shared) as lab:
                return self.guarded([lab.a, lab.b], lambda: self.on_two(lab.wait_ready()))
        with Machine(image, kernel, terminal=not given.command, **shared) as machine:
            return self.guarded([machine], lambda: self.on_one(machine.wait_ready()))

    def guarded(self, machines, action):
        try:
            return action()
        except LabError as error:
            for machine in machines:
                print(f"--- the end of {machine.name}'s console ---\n{machine.console()}--- end ---", file=sys.stderr)
            if any(machine.limit_passed for machine in machines):
                print(f"lab: killed, for the limit of {self.given.limit:g} s has passed", file=sys.stderr)
                return LIMIT_PASSED
            print(f"lab: {error}", file=sys.stderr)
            return LAB_FAILED
        finally:
            self.timing("done")

    def on_one(self, machine):
        self.timing("ready")
        if not self.given.command:
            size = shutil.get_terminal_size()
            return machine.run(f"exec </dev/hvc0 >/dev/hvc0 2>&1; stty rows {size.lines} cols {size.columns}; bash -i", timeout=None).status
        return machine.run(self.given.command, timeout=None, stdout=to(sys.stdout), stderr=to(sys.stderr)).status

    def on_two(self, lab):
        self.timing("both ready")
        shown = [Prefixed("b"), Prefixed("b")]
        peer = lab.b.spawn(self.given.peer_command, *shown) if self.given.peer_command else None
        status = lab.a.run(self.given.command, timeout=None, stdout=to(sys.stdout), stderr=to(sys.stderr)).status
        if peer:
            try:
                ended = peer.wait(5).status
                print(f"lab: b's command ended with {ended}", file=sys.stderr)
            except CommandTimeout:
                print("lab: b's command was ended", file=sys.stderr)
            for stream in shown:
                stream.end()
        return status


def main(words):
    given = options(words)
    terminal = None if given.command else termios.tcgetattr(sys.stdin)
    try:
        return Session(given).run()
    except (LabError, RuntimeError, OSError, subprocess.CalledProcessError) as error:
        print(f"lab: {error}", file=sys.stderr)
        return LAB_FAILED
    except KeyboardInterrupt:
        return 130
    finally:
        if terminal is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, terminal)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
