"""A lab machine: a Debian kernel under QEMU's emulation with the project's programs and a soft-RoCE device.

    with Machine(image, kernel) as machine:
        result = machine.run("rdma link show", timeout=10)
        server = machine.spawn(["rping", "-s", "-a", "10.77.0.1"])
        ...
        server.kill()

QEMU is a child that is killed with the thread that started it, at the end of the `with` block, and when the time limit has passed.
"""
import base64
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests"))
from lab.kernel import CPU  # noqa: E402
from lab.lane import Job, LabError, Lane  # noqa: E402
from qemu_pair import Qmp  # noqa: E402

LANES = 4          # commands at a time; one more is kept for killing them
ROCE_PORT = 4791   # UDP, of RoCE v2
BOOT_PATIENCE = 120.0
BOOTS = 4  # at most, see wait_ready()

_BEGUN = "lab: the first program runs"  # lab/guest/init.sh
_FAILED = ("Oops: ", "Kernel panic")

# no_timer_check: on a busy host the kernel would miss the emulated timer at boot, and panic.
_KERNEL = "console=ttyS0 no_timer_check quiet loglevel=4 panic=-1 rdinit=/init mitigations=off audit=0 random.trust_cpu=on cryptomgr.notests"


failed_kernels = []  # what those said that panicked after they had booted


class Machine:
    """image, kernel: paths. name: its host name. number: the last part of its addresses (10.77.0.NUMBER, fd77::NUMBER). wire: a socket
    that is its network cable; without one it has a pair of its own. terminal: QEMU's standard input and output are the terminal that a
    shell may be started on (/dev/hvc0). limit: seconds until it is killed, whatever it does. LabError: QEMU is not there."""

    def __init__(self, image, kernel, name="a", number=1, wire=None, memory=1024, cpus=2, mtu=1500, limit=300.0, terminal=False):
        self.name, self._number, self._wired = name, number, wire is not None
        self._lock, self._killing = threading.Lock(), threading.Lock()
        self._launch = lambda wire: self._start(image, kernel, wire, memory, cpus, mtu, limit, terminal)
        self._launch(wire)

    def _start(self, image, kernel, wire, memory, cpus, mtu, limit, terminal):
        name, number = self.name, self._number
        self.limit_passed, self.qmp = False, None
        self._lanes = [Lane() for _ in range(LANES + 1)]
        self._free, self._jobs = list(self._lanes[:LANES]), {}
        self._console = os.memfd_create("lab-console")
        monitor, theirs = socket.socketpair()
        words = f"lab_host={name} lab_number={number} lab_two={int(self._wired)} lab_mtu={mtu} TERM={os.environ.get('TERM', 'linux')}"
        command = ["qemu-system-x86_64", "-name", f"pageferry-lab-{name}", "-accel", "tcg,thread=multi", "-cpu", CPU, "-smp", str(cpus),
                   "-m", str(memory), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                   "-kernel", kernel, "-initrd", image, "-append", f"{_KERNEL} {words}",
                   "-chardev", f"file,id=console,path=/proc/self/fd/{self._console}", "-serial", "chardev:console",
                   "-chardev", f"socket,id=monitor,fd={theirs.fileno()}", "-mon", "chardev=monitor,mode=control",
                   "-device", f"virtio-serial-pci,id=serial,max_ports={3 * len(self._lanes) + 1}"]
        passed = [self._console, theirs.fileno()]
        if terminal:
            command += ["-chardev", "stdio,id=terminal,signal=off", "-device", "virtconsole,bus=serial.0,chardev=terminal"]
        for number_, lane in enumerate(self._lanes):
            for port, end in zip(("control", "stdout", "stderr"), lane.guest):
                command += ["-chardev", f"socket,id={port}{number_},fd={end.fileno()}",
                            "-device", f"virtserialport,bus=serial.0,chardev={port}{number_},name=lane{number_}.{port}"]
                passed.append(end.fileno())
        if wire is not None:
            command += ["-netdev", f"stream,id=wire,server=off,addr.type=fd,addr.str={wire.fileno()}",
                        "-device", f"virtio-net-pci,id=nic,netdev=wire,mac=52:54:00:77:00:{number:02x},host_mtu={mtu}"]
            passed.append(wire.fileno())
        self.started = time.monotonic()
        try:
            self.process = subprocess.Popen(command, stdin=None if terminal else subprocess.DEVNULL, stdout=None if terminal else self._console,
                                            stderr=self._console, pass_fds=passed, preexec_fn=_die_with_parent)
        except OSError as error:
            raise LabError(f"{command[0]}: {error}") from error
        finally:
            for end in (theirs, *(e for lane in self._lanes for e in lane.guest)):
                end.close()
        self._monitor = monitor
        self._timer = threading.Timer(limit, self._pass_limit)
        self._timer.daemon = True
        self._timer.start()
        self._waiter = threading.Thread(target=self._wait, name="lab-machine", daemon=True)
        self._waiter.start()

    def _wait(self):
        self.process.wait()
        for lane in self._lanes:
            lane.hang_up()

    def _pass_limit(self):
        self.limit_passed = True
        self.process.kill()

    # --- its life -----------------------------------------------------------------------------------------------------------

    def wait_ready(self, timeout=BOOT_PATIENCE):
        """Until its network and soft-RoCE devices are there and commands can be run. LabError: it did not come to that, and for one of
        two machines see Two.wait_ready()."""
        for boot in range(1, BOOTS + 1):
            try:
                return self._wait_ready(timeout)
            except LabError as error:
                if boot == BOOTS or self._wired or not self.kernel_failed():
                    raise
                self.boot_again(error)
        raise AssertionError("not reached")

    def kernel_failed(self):
        """Whether a machine that did not come to be ready has a kernel that failed, or that never ran its first program: nothing of ours
        was in it then, and another boot is worth its time. On a busy host the emulation is not all that a kernel relies on: with two
        processors it runs into a breakpoint (int3) with which the kernel was patching its own code, after the kernel had taken it away."""
        console = self.console(1 << 20)
        return not self.limit_passed and self.process.poll() in (None, 0) and (
            _BEGUN not in console or any(word in console for word in _FAILED))

    def boot_again(self, error, wire=None):
        """After a boot that failed, for which error stands. wire: the new cable of a machine that was made with one."""
        print(f"lab: {error}: booted again", file=sys.stderr)
        self.close()
        self._launch(wire)

    def _wait_ready(self, timeout):
        end = time.monotonic() + timeout
        for lane in self._lanes:
            lane.control.settimeout(max(end - time.monotonic(), 0.1))
            try:
                word, _, rest = lane.line().partition(" ")
            except (OSError, EOFError) as error:
                raise LabError(f"{self.name} did not boot: {error!r}{self.last_words()}") from error
            if word != "ready":
                raise LabError(f"{self.name} is not as it should be: {rest or word}")
            lane.control.settimeout(None)
        if self.qmp is None:
            self.qmp = Qmp(self._monitor)
        return self

    def console(self, most=4000):
        """The end of what the kernel and QEMU said."""
        size = os.fstat(self._console).st_size
        return os.pread(self._console, most, max(0, size - most)).decode(errors="replace")

    def last_words(self):
        """What a failed kernel says of itself, or else the end of the console, and whether its limit has passed: for an error."""
        lines = self.console(1 << 20).splitlines()
        said = " | ".join([line for line in lines if any(word in line for word in (*_FAILED, "BUG: ", "RIP: "))][:4] or lines[-3:])
        return f"{'; its time limit has passed' if self.limit_passed else ''}; console: {said or 'nothing'}"

    def close(self):
        self._timer.cancel()
        self.process.kill()
        self._waiter.join()
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:  # its lane has hung up; nobody may read there when it is closed
            job.join()
        with self._killing:
            pass
        if self.qmp is not None:
            self.qmp.close()
        self._monitor.close()
        for lane in self._lanes:
            lane.close()
        if self.qmp is not None and "Kernel panic" in self.console(1 << 20):
            failed_kernels.append(f"{self.name}{self.last_words()}")
        os.close(self._console)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # --- commands -----------------------------------------------------------------------------------------------------------

    def spawn(self, command, stdout=None, stderr=None):
        """A Job: the command runs. LabError: as many run as there are lanes."""
        with self._lock:
            if not self._free:
                raise LabError(f"{self.name} runs {LANES} commands already")
            lane = self._free.pop()
            self._jobs[lane] = Job(lane, command, stdout, stderr, done=lambda _: self._release(lane), kill=self._kill, last_words=self.last_words)
            return self._jobs[lane]

    def _release(self, lane):
        with self._lock:
            del self._jobs[lane]
            self._free.append(lane)

    def _kill(self, job, lane, name):
        script = f'read -r n </run/lab/{self._lanes.index(lane)}.pid && kill -{name} "-$n"'
        with self._killing:
            for _ in range(100):  # it may be so young that its number is not noted yet
                if not job.running or Job(self._lanes[LANES], script).wait(30).status == 0:
                    return
                time.sleep(0.05)

    def run(self, command, timeout=60.0, stdout=None, stderr=None, check=False):
        """Result. CommandTimeout, LabError; with check also LabError for a status other than 0."""
        result = self.spawn(command, stdout, stderr).wait(timeout)
        if check and result.status:
            raise LabError(f"{self.name}: {command}: status {result.status}: {result.stdout.decode(errors='replace')}{result.stderr.decode(errors='replace')}")
        return result

    def put(self, path, data, mode=0o644):
        """Writes a small file there."""
        quoted = path.replace("'", "'\\''")
        self.run(f"printf '' >'{quoted}' && chmod {mode:o} '{quoted}'", check=True)
        for at in range(0, len(data), 30000):
            self.run(f"base64 -d >>'{quoted}' <<'EOF'\n{base64.b64encode(data[at:at + 30000]).decode()}\nEOF", check=True)

    def get(self, path):
        """The bytes of a file there."""
        return self.run(["cat", path], check=True).stdout

    # --- its network --------------------------------------------------------------------------------------------------------

    @property
    def address(self):
        """Its IPv4 address on its first soft-RoCE device, rxe0."""
        return f"10.77.0.{self._number}"

    @property
    def address6(self):
        return f"fd77::{self._number}"

    @property
    def device(self):
        """The network device under rxe0."""
        return "eth0" if self._wired else "veth0"

    def set_link(self, up):
        """Its cable in or out, which its own kernel sees as carrier; the machine at the other end only notices the silence."""
        self.qmp.execute("set_link", name="wire", up=up)

    def drop_roce(self, percent=100):
        """Loses so much of the RoCE it sends (UDP 4791), and nothing else; 0 ends that. Between two machines only: what a machine sends to
        itself passes no queue."""
        self._shape_roce(f"netem loss {percent:g}% limit 10000" if percent else None)

    def hold_roce(self, on=True):
        """Sends RoCE at a packet a second, and everything else as ever: packets are under way, within this machine, for as long as it is on,
        and what is held at the end is lost. Between two machines only. (A delay by netem would not do: it takes packets off their
        sender's account.)"""
        self._shape_roce("tbf rate 8kbit burst 10000 limit 100000000" if on else None)

    def _shape_roce(self, how):
        clear = f"tc qdisc del dev {self.device} root 2>/dev/null;"
        if not how:
            self.run(clear)
            return
        self.run(f"""{clear} set -e
            tc qdisc add dev {self.device} root handle 1: prio bands 4
            tc qdisc add dev {self.device} parent 1:4 handle 40: {how}
            tc filter add dev {self.device} parent 1: protocol ip prio 1 u32 match ip protocol 17 0xff match ip dport {ROCE_PORT} 0xffff flowid 1:4
            tc filter add dev {self.device} parent 1: protocol ipv6 prio 2 u32 match ip6 protocol 17 0xff match ip6 dport {ROCE_PORT} 0xffff flowid 1:4
            """, check=True)


def _die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
