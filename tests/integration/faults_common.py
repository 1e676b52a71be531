"""What the fault tests share: guests under Pageferry, their helper processes, and peers that misbehave.

    faults_input.py BUILD/bin [unittest options]

Standard library only.
"""
import os
import signal
import socket
import struct
import sys
import threading
import unittest
from contextlib import contextmanager

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, ".."), os.path.join(HERE, "..", "guest")]
import guest_image  # noqa: E402
from qemu_pair import Launch, Vm, Workspace, free_port, wait_until  # noqa: E402

MEMORY = 64      # MiB of a guest
END_MIB = 20     # the writer rewrites 1 MiB .. this
MARK = "PAGEFERRY_TEST_GUEST"  # in the environment of a guest's QEMU, monitor process and mover
PROGRAMS = ""    # BUILD/bin
ENDED = ("completed", "failed", "cancelled")


def main():
    """Runs the calling file's tests with the programs of the directory named first."""
    global PROGRAMS
    if len(sys.argv) < 2:
        sys.exit(f"usage: {sys.argv[0]} BUILD/bin [unittest options]")
    PROGRAMS = os.path.abspath(sys.argv.pop(1))
    unittest.main(module="__main__", verbosity=2)


def program(name):
    return os.path.join(PROGRAMS, name)


class Guest(Vm):
    """A writer guest under `pageferry qemu`, and its helpers."""

    def __init__(self, work, name, incoming=False, prefix=(), plain=False, memory=MEMORY, extra=(), **launch):
        drop_in = [] if plain else [program("pageferry"), "qemu", "--"]
        environment = {MARK: name, **launch.pop("environment", {})}
        image = work.file("writer.img")
        if not os.path.exists(image):
            guest_image.make_image(program("guest/guest_writer.img"), image, end_mib=END_MIB)
            os.chmod(image, 0o666)  # a QEMU of another user writes it too
        super().__init__(work, name, Launch([*prefix, *drop_in], environment=environment, **launch), memory=memory, boot_sector=image,
                         incoming=incoming, extra=extra)
        self.set_capabilities(events=True)

    def helper(self, kind):
        """The process id of this guest's pageferry-monitor or pageferry-mover, or None."""
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as command, open(f"/proc/{pid}/environ", "rb") as environment:
                    if os.path.basename(command.read().split(b"\0")[0]) == kind.encode():
                        variables = environment.read().split(b"\0")
                        if f"{MARK}={self.name}".encode() in variables and all(
                                f"{key}={value}".encode() in variables for key, value in self.work.environment().items() if key not in os.environ):
                            return int(pid)
            except OSError:
                pass  # gone meanwhile
        return None

    def mover(self):
        return self.helper("pageferry-mover")

    def kill_mover(self):
        pid = wait_until(self.mover, f"{self.name} has no mover")
        os.kill(pid, signal.SIGKILL)

    def hold(self):
        """A migration of this source stays in `active`: it cannot keep up with its guest."""
        self.set_parameters(max_bandwidth=2 << 20, downtime_limit=1)

    def let_go(self):
        self.set_parameters(max_bandwidth=0, downtime_limit=20000)

    def impatient(self, milliseconds=2000):
        self.set_parameters(**{"x-pageferry-dead-peer-timeout": milliseconds, "x-pageferry-connect-timeout": milliseconds})

    def boot(self):
        self.wait_serial("B")
        self.wait_writing()
        return self

    def alive(self):
        return self.process.poll() is None

    def statuses(self, since=0):
        return [e.data["status"] for e in self.qmp.events[since:] if e.name == "MIGRATION"]

    def wait_process_end(self):
        """And of its monitor: every event has come by then."""
        wait_until(lambda: not self.alive(), f"{self.name}'s QEMU goes on")
        wait_until(lambda: self.qmp.closed, f"{self.name}'s monitor goes on")

    def wait_no_mover(self):
        wait_until(lambda: self.mover() is None, f"{self.name}'s mover goes on")


class FaultCase(unittest.TestCase):
    """A workspace, and what must hold of a guest whatever happened."""

    def setUp(self):
        self.work = self.enterContext(Workspace())
        self.sources = self.guests = 0

    def source(self, **options):
        self.sources += 1
        return self.enterContext(Guest(self.work, f"src{self.sources}", **options)).boot()

    def destination(self, **options):
        self.guests += 1
        return self.enterContext(Guest(self.work, f"dst{self.guests}", incoming=True, **options))

    def listening(self, uri="tcp:127.0.0.1:0", exit_on_error=None, **options):
        """A destination that waits, and the URI to reach it at."""
        destination = self.destination(**options)
        return destination, listen(destination, uri, exit_on_error)

    def assert_goes_on(self, guest):
        """The guest runs, writes, and its RAM is what it has written; it runs on afterwards."""
        guest.wait_running()
        guest.wait_writing()
        self.assert_intact(guest)

    def assert_intact(self, guest):
        self.assertIsNone(guest.writer_problem())
        guest.qmp.execute("cont")

    def assert_moves(self, source, host="127.0.0.1", **options):
        """A good migration to a fresh destination."""
        destination = self.destination(**options)
        source.let_go()
        source.qmp.execute("migrate", uri=listen(destination, f"tcp:{host}:0"))
        source.wait_status("completed")
        destination.wait_status("completed")
        self.assert_goes_on(destination)
        self.assertFalse(source.running())
        return destination


def listen(destination, uri="tcp:127.0.0.1:0", exit_on_error=None):
    """migrate-incoming on a port of the kernel's choice; the URI a source reaches it at."""
    if uri.endswith(":0"):
        uri = uri[:-1] + str(free_port())  # of this network namespace; in another one it is as good as any
    more = {} if exit_on_error is None else {"exit_on_error": exit_on_error}
    destination.qmp.execute("migrate-incoming", uri=uri, **more)
    return uri


# --- peers that misbehave ------------------------------------------------------------------------------------------------------


@contextmanager
def peer(behave):
    """A TCP server on a port of its own; behave(socket) for each caller, on a thread. Yields its URI."""
    server = socket.create_server(("127.0.0.1", 0))
    callers = []

    def talk(caller):
        try:
            behave(caller)
        except OSError:
            pass

    def serve():
        while True:
            try:
                caller = server.accept()[0]
            except OSError:
                return
            callers.append(caller)
            threads.append(threading.Thread(target=talk, args=(caller,)))
            threads[-1].start()
    threads = [threading.Thread(target=serve)]
    threads[0].start()
    try:
        yield f"tcp:127.0.0.1:{server.getsockname()[1]}"
    finally:
        shut(server)
        threads[0].join()
        for caller in callers:
            shut(caller)
        for thread in threads[1:]:
            thread.join()


def shut(one):
    try:
        one.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    one.close()


def connect_to(uri):
    host, port = uri.removeprefix("tcp:").rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=60)


def read_exactly(stream, count):
    """OSError where it ends before."""
    data = b""
    while len(data) < count:
        piece = stream.recv(count - len(data))
        if not piece:
            raise OSError(f"the peer ended after {len(data)} of {count} bytes")
        data += piece
    return data


# The handshake of tcp_fallback/handshake.h, as a caller says it.
CONTROL, BULK, URGENT = 0, 1, 2


def preamble(kind, connection, version=1):
    return struct.pack("<8sHHHH16s16sIIQ", b"PGFLANE\n", version, kind, 0, 1, connection, bytes(range(16)), 0, 0, 0)


def whole_connection(uri):
    """The handshake a source makes, done to its end: the sockets of control, bulk and urgent lane."""
    lanes = []
    identity = os.urandom(16)
    for kind in (CONTROL, BULK, URGENT):
        lanes.append(connect_to(uri))
        read_exactly(lanes[-1], 16)
        lanes[-1].sendall(preamble(kind, identity))
    magic, status, length = struct.unpack("<IHH", read_exactly(lanes[0], 8))
    assert (magic, status) == (0x44524556, 0), (magic, status, length)
    return lanes
