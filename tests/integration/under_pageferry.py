"""What the integration tests share: guests under `pageferry qemu`, moves that are checked, and the proof that nothing is left.

    chain_test.py BUILD/bin [--scheme tcp|rdma] [--host ADDRESS] [--small] [unittest options and test names]

The scheme and host are of the migrations that name no other; an RDMA device has to have that address. --small: guests of 64 MiB where
they would be larger, for machines that are emulated.

Standard library only.
"""
import argparse
import json
import os
import stat
import subprocess
import sys
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), os.path.join(HERE, "..", "guest")]
import guest_image  # noqa: E402
from qemu_pair import PATIENCE, Launch, Qmp, QmpClosed, QmpError, Vm, Workspace, free_port, wait_until  # noqa: E402, F401


END_MIB = 40  # the small writer rewrites 1 MiB .. this
MEMORY = 64   # MiB, of a guest with that writer
FAST = {"downtime-limit": 20000, "max-bandwidth": 0}         # a writer that never rests arrives all the same
SLOW = {"downtime-limit": 1, "max-bandwidth": 1 << 20}       # it does not: the migration stays in `active`
_programs = ""
_where = argparse.Namespace(scheme="tcp", host="127.0.0.1", small=False)


def main():
    """Runs the calling file's tests with the programs in the directory named first."""
    global _programs
    if len(sys.argv) < 2:
        sys.exit(f"usage: {sys.argv[0]} BUILD/bin [--scheme tcp|rdma] [--host ADDRESS] [--small] [unittest options]")
    sys.modules["under_pageferry"]._programs = _programs = os.path.abspath(sys.argv.pop(1))
    o = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    o.add_argument("--scheme", choices=("tcp", "rdma"))
    o.add_argument("--host")
    o.add_argument("--small", action="store_true")
    _, rest = o.parse_known_args(namespace=sys.modules["under_pageferry"]._where)
    unittest.main(module="__main__", verbosity=2, argv=[sys.argv[0], *rest])


def program(name):
    return os.path.join(_programs, name)


def drop_in(prefix=(), **environment):
    """How QEMU is started under Pageferry."""
    return Launch([*prefix, program("pageferry"), "qemu", "--"], environment=environment)


def bracketed(host):
    return f"[{host}]" if ":" in host else host


def plain(**environment):
    return Launch(environment=environment)


class Case(unittest.TestCase):
    """A workspace; guests in it that end before it; and the check that they leave no process and no file behind."""

    def run(self, result=None):
        """What the guests' processes said is shown where a test fails."""
        self.said = []
        bad = len(result.failures) + len(result.errors)
        super().run(result)
        if len(result.failures) + len(result.errors) > bad:
            print("".join(self.said), file=sys.stderr)
        return result

    def setUp(self):
        self.work = self.enterContext(Workspace())
        self.addCleanup(self._assert_nothing_left)
        self.writer = guest_image.make_image(program("guest/guest_writer.img"), self.work.file("writer.img"), end_mib=END_MIB)

    def start(self, name, launch=None, memory=MEMORY, image=None, **options):
        """A guest under Pageferry, unless `launch` says otherwise, with the small writer in it."""
        vm = Vm(self.work, name, launch or drop_in(), memory=memory, boot_sector=image or self.writer, **options)
        if launch and not launch.prefix:  # QEMU itself leaves its sockets when it is killed
            self.addCleanup(lambda: [os.unlink(path) for path in (vm.qmp_path, vm.cli_path) if os.path.exists(path)])
        self.addCleanup(lambda: self.said.append(f"--- {name}\n{vm.errors()[-5000:]}"))
        self.addCleanup(vm.close)
        vm.set_capabilities(events=True)
        return vm

    def started(self, name="src", **options):
        """The same, and its guest writes."""
        vm = self.start(name, **options)
        vm.wait_serial("A")
        vm.wait_writing()
        return vm

    def large(self):
        """The machine of a guest that rewrites 99 MiB, unless small ones are wanted."""
        return {} if _where.small else {"memory": 128, "image": program("guest/guest_writer.img")}

    def pair(self, **options):
        return self.started("src", **options), self.start("dst", incoming=True, **options)

    def uri(self):
        return f"{_where.scheme}:{bracketed(_where.host)}:{free_port(_where.host)}"

    def tcp_only(self):
        """For a test with a relay between the two sides: that is TCP's."""
        if _where.scheme != "tcp":
            self.skipTest(f"not over {_where.scheme}")

    def dead_uri(self):
        """Where nobody listens."""
        return f"{_where.scheme}:{bracketed(_where.host)}:1"

    def begin(self, source, destination, uri=None, parameters=None):
        """Both commands; the source has answered when this returns."""
        uri = uri or self.uri()
        source.qmp.execute("migrate-set-parameters", **(parameters or FAST))
        destination.qmp.execute("migrate-incoming", uri=uri)
        source.qmp.execute("migrate", uri=uri)

    def finish(self, source, destination, running=True):
        """Waits for the end, and checks that one guest goes on, with its RAM intact."""
        source.wait_status("completed")
        destination.wait_status("completed")
        self.assertFalse(source.running())
        if running:
            destination.wait_running()
            destination.wait_writing()
        self.assert_intact(destination)

    def move(self, source, destination, **options):
        self.begin(source, destination, **options)
        self.finish(source, destination)

    def assert_intact(self, vm):
        """Stops the guest for the look, and lets it go on if it ran."""
        ran = vm.running()
        self.assertIsNone(vm.writer_problem())
        if ran:
            vm.qmp.execute("cont")

    def refused(self, vm, command, text, **arguments):
        """The command is an error with this text."""
        with self.assertRaises(QmpError) as caught:
            vm.qmp.execute(command, **arguments)
        self.assertEqual(caught.exception.description, text)

    def statuses(self, vm, since=0):
        return [e.data["status"] for e in vm.qmp.events[since:] if e.name == "MIGRATION"]

    def run_cli(self, *arguments, code=0):
        """The pageferry command; its output's JSON objects, and what it said on standard error."""
        done = subprocess.run([program("pageferry"), *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False,
                              env=self.work.environment())
        self.assertEqual(done.returncode, code, f"{arguments}: {done.stdout}{done.stderr}")
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")], done.stderr

    def in_shm(self, name):
        """A name in /dev/shm that no other test has."""
        return f"/dev/shm/pageferry-test-{self.work.id}-{name}"

    def _assert_nothing_left(self):
        wait_until(lambda: not self.work.processes(), lambda: f"processes are left: {self.work.processes()}", timeout=20)
        sockets = [name for name in os.listdir(self.work.path) if stat.S_ISSOCK(os.lstat(self.work.file(name)).st_mode)]
        self.assertEqual(sockets, [], "sockets are left")
        self.assertEqual([name for name in os.listdir("/dev/shm") if self.work.id in name], [], "shared memory is left")
