"""A lane of a lab machine: one command at a time, its output, errors and exit status each on a virtio port of its own.

The host's ends are connected sockets. The guest's end is lab/guest/lane.sh, which says how the ports are used.
"""
import base64
import collections
import selectors
import shlex
import socket
import threading
import uuid


class LabError(Exception):
    """The lab itself failed: a machine that did not boot, ended, or passed its time limit. Not: a command that failed."""


class CommandTimeout(LabError):
    """A command did not end within its time. It has been killed."""


Result = collections.namedtuple("Result", "status stdout stderr")  # exit status as a shell has it; bytes; bytes


class Lane:
    """Any thread may use it, one at a time. ready() comes first."""

    def __init__(self):
        pairs = [socket.socketpair() for _ in range(3)]
        self.guest = [pair[1] for pair in pairs]  # for QEMU; closed here once it has them
        self.control, self.stdout, self.stderr = (pair[0] for pair in pairs)
        self._line = b""

    def close(self):
        for end in (self.control, self.stdout, self.stderr, *self.guest):
            end.close()

    def hang_up(self):
        """Ends every wait at this lane; from any thread."""
        for end in (self.control, self.stdout, self.stderr):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def line(self):
        """The next line of the guest's lane.sh. EOFError: the machine has ended. TimeoutError: as the control socket is set."""
        while b"\n" not in self._line:
            data = self.control.recv(4096)
            if not data:
                raise EOFError
            self._line += data
        line, self._line = self._line.split(b"\n", 1)
        return line.decode(errors="replace")


class Stream:
    """What comes through one of the ports for one command: everything up to the token."""

    def __init__(self, token, sink):
        self._mark, self._sink = b"\0" + token.encode() + b"\n", sink
        self._held, self.all, self.ended = b"", bytearray(), False

    def feed(self, data):
        data = self._held + data
        at = data.find(self._mark)
        if at >= 0:
            self.ended, data, self._held = True, data[:at], b""
        else:  # what may be the first part of the mark waits for the rest
            zero = data.rfind(b"\0", max(0, len(data) - len(self._mark) + 1))
            split = zero if zero >= 0 and self._mark.startswith(data[zero:]) else len(data)
            data, self._held = data[:split], data[split:]
        if data:
            self.all += data
            if self._sink:
                self._sink(data)


class Job:
    """A command under way on a lane; a thread of its own reads what it says. command: text for a shell, or a list of words.

    stdout, stderr: called with bytes as they come, by that thread. done(job): called last, by that thread. kill(job, lane, signal): how
    it is done, for the lane itself is busy. last_words(): of the machine, for the error that says that it is gone.
    """

    def __init__(self, lane, command, stdout=None, stderr=None, done=None, kill=None, last_words=lambda: ""):
        self.command = command if isinstance(command, str) else "exec " + shlex.join(map(str, command))
        self._lane, self._done, self._kill, self._last_words = lane, done, kill, last_words
        self._token = uuid.uuid4().hex
        self._out, self._err = Stream(self._token, stdout), Stream(self._token, stderr)
        self._status = self._lost = None
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lab-job", daemon=True)
        self._thread.start()

    def _run(self):
        try:
            lane = self._lane
            script = base64.b64encode(self.command.encode()).decode()
            lane.control.sendall(f"{self._token} {script}\n".encode())
            with selectors.DefaultSelector() as ready:
                ready.register(lane.stdout, selectors.EVENT_READ, self._out)
                ready.register(lane.stderr, selectors.EVENT_READ, self._err)
                while not (self._out.ended and self._err.ended):
                    for key, _ in ready.select():
                        data = key.fileobj.recv(65536)
                        if not data:
                            raise EOFError
                        key.data.feed(data)
            token, status = lane.line().split()
            if token != self._token:
                raise ValueError(f"status of another command: {token}")
            self._status = int(status)
        except (OSError, EOFError, ValueError) as error:
            self._lost = f"{error!r}{self._last_words()}"
        self._finished.set()
        if self._done:
            self._done(self)

    @property
    def running(self):
        return not self._finished.is_set()

    @property
    def output(self):
        """What came on its standard output so far."""
        return bytes(self._out.all)

    @property
    def errors(self):
        """The same of its standard error."""
        return bytes(self._err.all)

    def wait(self, timeout=None):
        """Result. CommandTimeout: it took longer, and was killed. LabError: the machine is gone."""
        if not self._finished.wait(timeout):
            self.kill()
            raise CommandTimeout(f"{self.command}: not done in {timeout:g} s; so far: {_end(self._out.all)} {_end(self._err.all)}")
        if self._lost is not None:
            raise LabError(f"{self.command}: the machine ended ({self._lost}); so far: {_end(self._out.all)} {_end(self._err.all)}")
        return Result(self._status, bytes(self._out.all), bytes(self._err.all))

    def join(self):
        """Until its thread has ended; for the machine, once the lane has hung up."""
        self._thread.join()

    def kill(self, signal="KILL"):
        """Sends a signal to all processes of the command's session. It has no effect once the command has ended."""
        if self.running and self._kill:
            self._kill(self, self._lane, signal)


def _end(data):
    return bytes(data[-2000:]).decode(errors="replace")
