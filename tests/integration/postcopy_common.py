"""What the tests of postcopy and recovery share: pairs that are held in the middle of a postcopy, and their helper processes.

A guest that rewrites its memory pulls all of it by its own faults, in a second or two. So that a postcopy lasts as long as a test wants,
the guests here have a ballast beside: memory full of numbers that the guest never touches, which comes by background pulls alone, and
those obey max-postcopy-bandwidth.

Standard library only.
"""
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

from under_pageferry import Case, drop_in, guest_image, wait_until

MIB = 1 << 20
BALLAST_MIB = 8
BALLAST = random.Random(4711).randbytes(BALLAST_MIB * MIB)
MARK = "PAGEFERRY_TEST_GUEST"  # in the environment of a guest's QEMU, monitor process and mover
HELD = 4096    # bytes per second of background pulls: for ever
CRAWL = 1 * MIB  # max-bandwidth of a precopy that never ends
PAUSED, SETUP, RECOVER, ACTIVE = "postcopy-paused", "postcopy-recover-setup", "postcopy-recover", "postcopy-active"
TO_POSTCOPY_SOURCE = ["setup", "active", "device", "postcopy-device", ACTIVE]
TO_POSTCOPY_DESTINATION = ["setup", "active", "postcopy-device", ACTIVE]


# --- the ballast ---------------------------------------------------------------------------------------------------------------


def ballast_at(vm):
    """Its guest physical address: past what the writer writes, below what the BIOS keeps at the top."""
    return (guest_image.end_mib(vm.boot_sector) + 4) * MIB


def ram_file(vm):
    """A path to the memory file of the guest's RAM."""
    folder = f"/proc/{vm.process.pid}/fd"
    for number in os.listdir(folder):
        path = os.path.join(folder, number)
        if re.match(r"/(memfd:)?pageferry-pc\.ram", os.readlink(path)):
            return path
    raise AssertionError(f"{vm.name} has no memory file")


def load_ballast(vm):
    with open(ram_file(vm), "r+b", buffering=0) as memory:
        assert os.pwrite(memory.fileno(), BALLAST, ballast_at(vm)) == len(BALLAST)


def ballast_problem(vm):
    """Through the memory file, so that nothing is missing that could make QEMU wait."""
    with open(ram_file(vm), "rb", buffering=0) as memory:
        there = os.pread(memory.fileno(), len(BALLAST), ballast_at(vm))
    if there == BALLAST:
        return None
    pages = [n for n in range(len(BALLAST) // 4096) if there[4096 * n:4096 * n + 4096] != BALLAST[4096 * n:4096 * n + 4096]]
    return f"{vm.name}: {len(pages)} pages of the ballast differ, the first at {[ballast_at(vm) + 4096 * n for n in pages[:5]]}"


# --- pairs ---------------------------------------------------------------------------------------------------------------------


class PostcopyCase(Case):
    """Guests with a ballast, and the way into a postcopy that lasts."""

    ballast = True

    def start(self, name, launch=None, prefix=(), **options):
        vm = super().start(name, launch=launch or drop_in(prefix, **{MARK: name}), **options)
        vm.set_capabilities(postcopy_ram=True)
        vm.set_parameters(**{"x-pageferry-dead-peer-timeout": 60_000})  # a busy machine is no dead peer; a test that wants one says so
        return vm

    def started(self, name="src", **options):
        vm = super().started(name, **options)
        if self.ballast:
            load_ballast(vm)
        return vm

    def to_active(self, source, destination, uri=None, by=None):
        """A precopy that would never end. by: the way the source takes to there, if it is another."""
        uri = uri or self.uri()
        source.set_parameters(max_bandwidth=CRAWL, downtime_limit=1, max_postcopy_bandwidth=HELD)
        destination.qmp.execute("migrate-incoming", uri=uri)
        mark = len(source.qmp.events)
        source.qmp.execute("migrate", uri=by or uri)
        source.qmp.wait_event("MIGRATION", since=mark, status="active")
        destination.qmp.wait_event("MIGRATION", status="active")
        return uri

    def to_postcopy(self, source, destination, uri=None):
        """Held there; the guest runs at the destination."""
        mark = len(source.qmp.events)
        uri = self.to_active(source, destination, uri)
        source.qmp.execute("migrate-start-postcopy")
        source.qmp.wait_event("MIGRATION", since=mark, status=ACTIVE)
        destination.qmp.wait_event("MIGRATION", status=ACTIVE)
        destination.qmp.wait_event("RESUME")
        return uri

    def in_postcopy(self, **options):
        source, destination = self.pair(**options)
        return source, destination, self.to_postcopy(source, destination)

    def pause(self, source, destination):
        """By the user, at the source."""
        marks = [len(vm.qmp.events) for vm in (source, destination)]
        source.qmp.execute("migrate-pause")
        self.wait_paused(source, destination, marks)

    @staticmethod
    def wait_paused(source, destination, marks):
        for vm, mark in zip((source, destination), marks):
            vm.qmp.wait_event("MIGRATION", since=mark, status=PAUSED)

    def attempt_fails(self, source, uri, *words, **more):
        """A recovery to there: its events, and its error."""
        mark = len(source.qmp.events)
        source.qmp.execute("migrate", uri=uri, resume=True, **more)
        self.assert_attempt_failed(source, mark, *words)

    def assert_attempt_failed(self, source, mark, *words):
        source.qmp.wait_event("MIGRATION", since=mark, status=PAUSED)
        self.assertEqual(self.statuses(source, mark), [SETUP, PAUSED])
        error = source.migration()["error-desc"]
        for word in words:
            self.assertIn(word, error)

    def recover(self, source, destination, uri):
        """It works; on both sides, by the events."""
        marks = [len(vm.qmp.events) for vm in (source, destination)]
        source.qmp.execute("migrate", uri=uri, resume=True)
        for vm, mark in zip((source, destination), marks):
            vm.qmp.wait_event("MIGRATION", since=mark, status=ACTIVE)
        self.assertEqual(self.statuses(source, marks[0])[:3], [SETUP, RECOVER, ACTIVE])
        self.assertEqual(self.statuses(destination, marks[1])[:2], [RECOVER, ACTIVE])

    def complete(self, source, destination):
        source.set_parameters(max_postcopy_bandwidth=0)
        self.finish(source, destination)

    def finish(self, source, destination, running=True):
        super().finish(source, destination, running)
        if self.ballast:
            self.assertIsNone(ballast_problem(destination))

    # --- helper processes ---------------------------------------------------------------------------------------------------

    def helper(self, vm, kind):
        """The process id of this guest's pageferry-monitor or pageferry-mover, or None."""
        for pid, command in self.work.processes().items():
            if os.path.basename(command.split(" ")[0]) == kind:
                try:
                    with open(f"/proc/{pid}/environ", "rb") as environment:
                        if f"{MARK}={vm.name}".encode() in environment.read().split(b"\0"):
                            return pid
                except OSError:
                    pass  # gone meanwhile
        return None

    def mover(self, vm):
        return self.helper(vm, "pageferry-mover")

    def kill_mover(self, vm):
        pid = wait_until(lambda: self.mover(vm), f"{vm.name} has no mover")
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_new_mover(self, vm, old):
        return wait_until(lambda: (pid := self.mover(vm)) != old and pid, f"{vm.name} gets no new mover")

    def open_files(self, vm):
        return open_files(self.helper(vm, "pageferry-monitor"))


def open_files(pid):
    """What a process holds: how many of each kind of descriptor, and its threads."""
    kinds = {}
    for number in os.listdir(f"/proc/{pid}/fd"):
        try:
            kind = re.sub(r"[0-9]+", "N", os.readlink(f"/proc/{pid}/fd/{number}"))
        except OSError:
            continue  # closed meanwhile
        kinds[kind] = kinds.get(kind, 0) + 1
    return kinds, len(os.listdir(f"/proc/{pid}/task"))


# --- peers that are none --------------------------------------------------------------------------------------------------------


LISTENER = "import socket, sys; s = socket.create_server((sys.argv[1], 0)); print(s.getsockname()[1], flush=True); sys.stdin.read()"


@contextmanager
def never_accepts(host="127.0.0.1", prefix=()):
    """A port where the kernel completes the connection and nobody answers. prefix: where it runs. Yields its URI."""
    with subprocess.Popen([*prefix, sys.executable, "-c", LISTENER, host], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as listener:
        try:
            yield f"tcp:{host}:{int(listener.stdout.readline())}"
        finally:
            listener.stdin.close()


@contextmanager
def greets_and_hangs(greeting=b"", host="127.0.0.1"):
    """A server that accepts, says this, and then nothing for ever. Yields its URI."""
    server, callers = socket.create_server((host, 0)), []

    def serve():
        while True:
            try:
                callers.append(server.accept()[0])
                callers[-1].sendall(greeting)
            except OSError:
                return
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"tcp:{host}:{server.getsockname()[1]}"
    finally:
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for one in (server, *callers):
            one.close()
