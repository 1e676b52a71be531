#!/usr/bin/env python3
"""A running guest moves from one QEMU to another on this machine, over TCP unless said otherwise, and is checked afterwards.

The guest rewrites its memory all the time. Two stock QEMUs are started, the guest is migrated live, and then it is checked that it goes
on at the destination, that the source does not run any more, and that the RAM arrived whole. Ends with status 0 only if all of that holds.

--postcopy: the network is slower than the guest writes, so it moves by postcopy. --postcopy --break: the network is cut in the middle of
that, both sides pause, a first recovery fails, a second one succeeds.

Usually started as ./dev demo, which builds what is needed first.
"""
import argparse
import os
import pty
import shlex
import subprocess
import sys
import threading
import time

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path[:0] = [os.path.join(ROOT, "tests"), os.path.join(ROOT, "tests", "guest")]
import guest_image  # noqa: E402
import linux_guest  # noqa: E402
from postcopy import Story  # noqa: E402
from wire import Roce, Veth  # noqa: E402
from qemu_pair import PATIENCE, Launch, Pair, QmpClosed, QmpError, Timeout, Workspace, free_port, wait_until  # noqa: E402

LINUX_MEMORY = 256   # MiB
LINUX_WORKING_SET = 64
LIMIT = 2 * PATIENCE  # seconds: the longest a migration may take
RDMA_HOST = "10.77.0.1"  # the soft-RoCE device's, in the lab


def options():
    o = argparse.ArgumentParser(prog="./dev demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    o.add_argument("--linux", action="store_true", help="the guest is a small Linux that checks its own memory, not a boot sector")
    o.add_argument("--downtime-limit", type=int, metavar="MS",
                   help="longest planned stop of the guest; default 20000 for the boot sector, which rewrites 99 MiB faster than any network, 300 for Linux")
    o.add_argument("--transport", choices=("tcp", "unix", "rdma"), default="tcp",
                   help="what carries the pages; with rdma ./dev runs all of this in the lab's machine, which has a soft-RoCE device")
    o.add_argument("--postcopy", action="store_true", help="a guest that precopy cannot move, for the network is slower than it writes")
    o.add_argument("--break", action="store_true", dest="broken", help="with --postcopy: the network is cut on the way; over tcp this needs root")
    o.add_argument("--uri", help=f"where the destination listens; default tcp:127.0.0.1:, rdma:{RDMA_HOST}: with a free port, or unix: with a path")
    o.add_argument("--launcher", help="what QEMU is started with; default BUILD/bin/pageferry qemu --; '' is plain QEMU, for comparison")
    o.add_argument("--qemu", default="qemu-system-x86_64", help="the QEMU (default %(default)s)")
    o.add_argument("--build", default=os.path.join(ROOT, "build", "release"), help="the build directory (default build/release)")
    o.add_argument("--kernel", help="Linux guest: the kernel")
    o.add_argument("--busybox", help="Linux guest: a static busybox")
    o.add_argument("--as-terminal", action="store_true", help="show the progress as on a terminal though the output is none")
    o.add_argument("--keep", action="store_true", help="keep the directory with sockets, consoles and QEMU's messages")
    given = o.parse_args()
    if given.linux and not (given.kernel and given.busybox):
        o.error("--linux needs --kernel and --busybox; ./dev demo --linux fetches both")
    if given.broken and not given.postcopy:
        o.error("--break needs --postcopy")
    if given.broken and (given.transport == "unix" or given.uri):
        o.error("--break is over a network of its own: --transport tcp or rdma, and no --uri")
    if given.postcopy and given.linux:
        o.error("--postcopy is shown with the boot sector, which writes without a rest")
    if given.downtime_limit is None:
        given.downtime_limit = 300 if given.linux else 20000
    return given


class Demo:
    def __init__(self, given, work):
        self.given, self.work = given, work
        self.program = os.path.abspath(os.path.join(given.build, "bin", "pageferry"))
        self.prefix = [self.program, "qemu", "--"] if given.launcher is None else shlex.split(given.launcher)
        self.start = time.monotonic()
        self.uri = given.uri or {"tcp": f"tcp:127.0.0.1:{free_port()}", "unix": f"unix:{work.file('migration')}",
                                 "rdma": f"rdma:{RDMA_HOST}:{free_port()}"}[given.transport]
        self.on_terminal = given.as_terminal or sys.stdout.isatty()
        self.plain = not self.prefix  # QEMU migrates by itself
        self.pair = self.stopped = self.resumed = None

    def say(self, text, when=None):
        """when: time.monotonic() of what is told; now unless given."""
        over = "\r\x1b[K" if self.on_terminal else ""  # the live line of a command that runs meanwhile, which draws it again
        print(f"{over}{(when or time.monotonic()) - self.start:7.2f} s  {text}", flush=True)

    def run(self):
        wire = None
        try:
            if self.given.broken:
                wire = Roce() if self.given.transport == "rdma" else Veth()
                self.uri = wire.uri(self.given.transport)
            self.run_on(wire)
        finally:
            if wire:
                wire.close()

    def launch(self, wire, side):
        return Launch([*(wire.prefix(side) if wire else []), *self.prefix], self.given.qemu)

    def run_on(self, wire):
        with Pair(self.work, self.launch(wire, 0), self.launch(wire, 1), **self.machine()) as self.pair:
            source, destination = self.pair.both()
            version = source.qmp.greeting["QMP"]["version"]["qemu"]
            self.say(f"two QEMUs {version['major']}.{version['minor']}.{version['micro']}, started with: {shlex.join(self.prefix) or 'nothing, plain QEMU'}")
            self.wait_guest_writes()
            for vm in (source, destination):
                vm.set_capabilities(events=True)
            story = Story(self, wire) if self.given.postcopy else None
            if story:
                story.prepare()
            destination.qmp.execute("migrate-incoming", uri=self.uri)
            self.say(f"migrating to {self.uri}, downtime limit {300 if story else self.given.downtime_limit} ms")
            written = len(destination.serial())
            if story:
                story.run()
            else:
                self.migrate(source)
            self.pair.wait_completed()
            destination.qmp.wait_event("MIGRATION", status="completed")
            result = source.migration()
            self.stopped, self.resumed = source.qmp.wait_event("STOP"), destination.qmp.wait_event("RESUME")
            self.show_events()
            self.check(source, destination, written)
            self.show_figures(result)
            if story:
                story.show_figures()

    def machine(self):
        if not self.given.linux:
            writer = os.path.join(self.given.build, "bin", "guest", "guest_writer.img")
            if self.given.postcopy and self.given.transport == "rdma":  # the lab's processor is emulated
                return {"memory": 64, "boot_sector": guest_image.make_image(writer, self.work.file("writer.img"), end_mib=40)}
            return {"memory": 128, "boot_sector": writer}
        image = linux_guest.make_initramfs(self.work.file("initramfs.gz"), self.given.busybox,
                                           os.path.join(self.given.build, "bin", "guest", "memtest"), LINUX_WORKING_SET, os.getpid())
        return {"memory": LINUX_MEMORY, "extra": linux_guest.arguments(self.given.kernel, image)}

    def wait_guest_writes(self):
        source = self.pair.source
        if self.given.linux:
            self.say("Linux is booting (QEMU emulates the processor)")
            source.wait_serial("pass ", timeout=LIMIT)
            for line in source.serial().splitlines():
                self.say(f"guest: {line}")
        else:
            source.wait_serial("B")
            source.wait_writing()
            self.say(f"the guest is a boot sector that rewrites {self.written_mib(source)} MiB, page by page, for ever")

    @staticmethod
    def written_mib(vm):
        return guest_image.end_mib(vm.boot_sector) - 1

    def migrate(self, source):
        """With the progress display of `pageferry migrate` where it is built; otherwise by QMP alone."""
        if os.access(self.program, os.X_OK):
            command = [self.program, "migrate", "--qmp", source.cli_path, "--downtime-limit", str(self.given.downtime_limit), self.uri]
            self.say(f"$ {shlex.join(['pageferry', *command[1:]])}")
            code = self.show(command)
            if code:
                raise RuntimeError(f"pageferry migrate ended with {code}; {self.complaints()}")
            return
        source.set_parameters(downtime_limit=self.given.downtime_limit)
        source.qmp.execute("migrate", uri=self.uri)
        stop = threading.Event()

        def report():
            while not stop.wait(0.5):
                ram = source.migration().get("ram", {})
                self.say(f"{ram.get('transferred', 0) / 2**20:8.1f} MiB sent, {ram.get('remaining', 0) / 2**20:8.1f} MiB left")
        reporter = threading.Thread(target=report, daemon=True)
        reporter.start()
        try:
            status = source.wait_status("completed", "failed", "cancelled", timeout=LIMIT)
        finally:
            stop.set()
            reporter.join()
        if status["status"] != "completed":
            raise RuntimeError(f"migration {status['status']}: {status.get('error-desc', '')}; {self.complaints()}")

    def show(self, command):
        """Runs it, its output being this program's; its exit status."""
        if not self.given.as_terminal:
            return subprocess.run(command, env=self.work.environment(), timeout=LIMIT, check=False).returncode
        ours, theirs = pty.openpty()
        with os.fdopen(ours, "rb", buffering=0) as screen:
            process = subprocess.Popen(command, env=self.work.environment(), stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs)
            os.close(theirs)
            killer = threading.Timer(LIMIT, process.kill)
            killer.start()
            try:
                while data := screen.read(4096):
                    sys.stdout.buffer.write(data)
                    sys.stdout.flush()
            except OSError:
                pass  # how the end of a terminal is read
            finally:
                code = process.wait()
                killer.cancel()
        return code

    def complaints(self):
        return "; ".join(f"{vm.name}: {vm.errors().strip() or 'nothing on stderr'}" for vm in self.pair.both())

    def show_events(self):
        rows = [(e.time, column, str(e)) for column, vm in enumerate(self.pair.both()) for e in vm.qmp.events if e.name != "MIGRATION_PASS"]
        rows.sort()
        print(f"\n{'time':>9}  {'source':<32}destination")
        for when, column, text in rows:
            print(f"{when - self.start:7.3f} s  {'' if column == 0 else ' ' * 32}{text}")
        print(flush=True)

    def check(self, source, destination, written):
        if source.running():
            raise RuntimeError("the source's guest still runs")
        self.say("ok: the source's guest does not run any more")
        if self.given.linux:
            def passes():
                return destination.serial()[written:].count(" ok,")
            wait_until(lambda: passes() >= 4 or "CORRUPT" in destination.serial(), lambda: f"the guest did not go on: {destination.serial()[-300:]!r}")
            for line in destination.serial()[written:].splitlines():
                self.say(f"guest: {line}")
            if "CORRUPT" in destination.serial():
                raise RuntimeError("the guest found its memory corrupt")
            self.say("ok: the guest goes on at the destination, and its own check of all its memory finds every page right")
            return
        destination.wait_writing()
        self.say("ok: the guest goes on at the destination (its memory changes)")
        problem = destination.writer_problem()
        if problem:
            raise RuntimeError(f"guest RAM is corrupt: {problem}")
        self.say(f"ok: stopped and compared, the guest's RAM holds its pattern in all {self.written_mib(destination) * 256} pages")

    def show_figures(self, result):
        ram = result.get("ram", {})
        total, sent = result.get("total-time", 0), ram.get("transferred", 0)
        print(f"\ntotal time {total} ms · downtime {result.get('downtime', '?')} ms · {sent / 2**20:.1f} MiB sent"
              f" · {sent / 2**20 / (total / 1000) if total else 0:.0f} MiB/s on average (query-migrate's figures)")
        print(f"seen from outside: {1000 * (self.resumed.time - self.stopped.time):.0f} ms from STOP at the source to RESUME at the destination")
        if not self.given.linux and not self.given.postcopy:
            print("This guest writes faster than a network carries, so the last 99 MiB move while it is stopped: its downtime is not what a real guest sees.")


def main():
    given = options()
    with Workspace(keep=given.keep) as work:
        if given.keep:
            print(f"everything is kept in {work.path}")
        demo = Demo(given, work)
        try:
            demo.run()
        except (Timeout, QmpError, QmpClosed, RuntimeError, OSError, subprocess.TimeoutExpired) as error:
            demo.say(f"FAILED: {error}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
