"""A relay between source and destination that follows the session protocol and can stop the world at one message of it.

    with Proxy(destination_uri) as proxy:
        proxy.hold("Permit")            # it, and whatever comes after it in that direction, waits here
        source.qmp.execute("migrate", uri=proxy.uri)
        proxy.wait_held()
        proxy.cut()                     # every connection through it ends; later ones pass again
    proxy.freeze()                  # or: nothing passes any more, and the end of one side is not told to the other, until freeze(False)

Connections that come after cut() are relayed as if nothing had been. Standard library only.
"""
import socket
import struct
import threading

from faults_common import connect_to, read_exactly, shut
from qemu_pair import PATIENCE, Timeout

GREETING, PREAMBLE, VERDICT, CONTROL_HEADER = 16, 64, 8, 8
TYPES = ("Hello", "HelloReply", "RamTable", "DataExtents", "Discard", "DiscardDone", "RoundEnd", "DeviceState", "DeviceReturn", "Switchover",
         "RamFinal", "DeviceLoaded", "Permit", "Running", "Goodbye", "Failure", "Heartbeat", "Delivered", "PullLimit", "PullProgress", "Resume",
         "Received")  # numbered from 1, as in docs/protocol.md


class Proxy:
    def __init__(self, target):
        self.target = target
        self._server = socket.create_server(("127.0.0.1", 0))
        self.uri = f"tcp:127.0.0.1:{self._server.getsockname()[1]}"
        self._changed = threading.Condition()
        self._hold = None
        self._held = False
        self._frozen = False
        self._cut = 0
        self.seen = []  # names of the messages that passed, both ways
        self._sockets = []
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def hold(self, message):
        """None: what is held goes on."""
        with self._changed:
            assert message is None or message in TYPES
            self._hold, self._held = message, False
            self._changed.notify_all()

    def wait_held(self, timeout=PATIENCE):
        with self._changed:
            if not self._changed.wait_for(lambda: self._held, timeout):
                seen = [one for one in self.seen if one != "Heartbeat"]
                raise Timeout(f"no {self._hold} came by; seen: {seen[-20:]}")

    def freeze(self, frozen=True):
        with self._changed:
            self._frozen = frozen
            self._changed.notify_all()

    def cut(self):
        with self._changed:
            self._cut += 1
            self._hold = None
            self._frozen = False
            sockets, self._sockets = self._sockets, []
            self._changed.notify_all()
        for one in sockets:
            shut(one)

    def _serve(self):
        while True:
            try:
                caller = self._server.accept()[0]
                callee = connect_to(self.target)
            except OSError:
                if self._server.fileno() < 0:
                    return
                shut(caller)
                continue
            callee.settimeout(None)
            for one in (caller, callee):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._changed:
                self._sockets += [caller, callee]
                age = self._cut
            self._start(self._greet, caller, callee, age)

    def _start(self, work, *arguments):
        def run():
            try:
                work(*arguments)
            except OSError:
                pass
            self._wait_if_frozen()
            for one in arguments[:2]:
                try:
                    one.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _greet(self, caller, callee, age):
        caller.sendall(read_exactly(callee, GREETING))
        preamble = read_exactly(caller, PREAMBLE)
        callee.sendall(preamble)
        if struct.unpack_from("<H", preamble, 10)[0] == 0:
            self._start(self._control, caller, callee, age)
            verdict = read_exactly(callee, VERDICT)
            caller.sendall(verdict + read_exactly(callee, struct.unpack_from("<H", verdict, 6)[0]))
            self._control(callee, caller, age)
        else:
            self._start(self._bytes, caller, callee)
            self._bytes(callee, caller)

    def _control(self, source, target, age):
        while True:
            header = read_exactly(source, CONTROL_HEADER)
            message = read_exactly(source, struct.unpack_from("<I", header, 4)[0])
            number = struct.unpack_from("<H", message, 4)[0]
            name = TYPES[number - 1] if 0 < number <= len(TYPES) else str(number)
            with self._changed:
                if name == self._hold and age == self._cut:
                    self._held = True
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._hold != name or age != self._cut)
                if age != self._cut:
                    raise OSError("cut")
                self.seen.append(name)
            self._wait_if_frozen()
            target.sendall(header + message)

    def _bytes(self, source, target):
        while data := source.recv(1 << 18):
            self._wait_if_frozen()
            target.sendall(data)

    def _wait_if_frozen(self):
        with self._changed:
            age = self._cut
            self._changed.wait_for(lambda: not self._frozen or age != self._cut)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shut(self._server)
        self.cut()
        for thread in self._threads:
            thread.join()
