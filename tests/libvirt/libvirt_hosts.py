"""Two hosts with a libvirt daemon each, on one machine: own mounts, process ids, host names, host UUIDs and network; cleaned up by one kill.

    with Workspace() as work, Hosts(work, BUILD/bin) as (source, destination):
        source.define(domain("guest", image)); source.virsh("start", "guest")
        source.virsh("migrate", "--live", "--p2p", "guest", destination.uri)

For root. The daemons and QEMUs are the machine's own packages. The hosts share /tmp, with
the daemons' sockets, and a link that can be cut; libvirt's own connections do not go over that link, as where migration has a network of
its own. Every wait has a deadline. Standard library, and libvirt's own Python binding where a caller asks for connection().
"""
import json
import os
import shlex
import signal
import subprocess
import sys
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, ".."))
from qemu_pair import PATIENCE, Namespaces, Timeout, wait_until  # noqa: E402

USER = "libvirt-qemu"
EMULATOR = "/opt/pageferry/bin/pageferry-qemu-system-x86_64"
TCP_PORT = 16509  # libvirt's own
STOCK = "/usr/bin/qemu-system-x86_64"

BACKING = "<memoryBacking><source type='file'/><access mode='shared'/></memoryBacking>"
# libvirt wants a limit for rdma://, and gives what it starts as much locked memory: RAM, which is registered, and what verbs need beside it.
RDMA_BACKING = "<memtune><hard_limit unit='MiB'>1024</hard_limit></memtune>" + BACKING


class Virsh(Exception):
    """virsh ended with an error."""

    def __init__(self, words, done):
        super().__init__(f"virsh {shlex.join(words)}: {done.stderr.strip() or done.stdout.strip()}")
        self.status, self.stderr = done.returncode, done.stderr.strip()


class Host:
    """One of the two. Its daemon runs from start_daemon() to stop_daemon() or kill_daemon(); its guests outlive that."""

    def __init__(self, work, name, number, programs, address, others, prefix=(), settings="", port=None, root=None):
        """port: of TCP, where its daemon is reached by those of other machines."""
        self.name, self.address, self.prefix, self._port = name, address, list(prefix), port
        self.folder = work.file(name)
        self.sockets = os.path.join(self.folder, "sockets")
        self.uri = f"qemu+unix:///system?socket={self.sockets}/libvirt-sock"
        self._environment = work.environment()
        self._make_folders(number, others, settings)
        command = [*self.prefix, "unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private",
                   "/usr/bin/python3", os.path.join(HERE, "host_init.py"), self.folder, name, os.path.abspath(programs),
                   *([os.path.abspath(root)] if root else [])]
        self._init = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self._environment)
        if self._init.stdout.readline().strip() != "ready":
            self.close()
            raise RuntimeError(f"the host {name} could not be made")
        with open(f"/proc/{self._init.pid}/task/{self._init.pid}/children", encoding="utf-8") as children:
            self.init_pid = int(children.read().split()[0])
        self._daemon = None
        try:
            self.start_daemon()
        except BaseException:
            self.close()
            raise

    def _make_folders(self, number, others, settings):
        for name in ("etc-libvirt", "var-lib-libvirt", "var-cache-libvirt", "var-log-libvirt", "sockets", "ram"):
            os.makedirs(os.path.join(self.folder, name))
        os.makedirs(os.path.join(os.path.dirname(self.folder), "guests"), exist_ok=True)
        for path in (os.path.dirname(self.folder), self.folder):
            os.chmod(path, 0o755)
        os.chmod(os.path.join(self.folder, "ram"), 0o1777)
        self._write("passwd", _text("/etc/passwd") + f"{USER}:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin\n")
        self._write("group", _text("/etc/group") + f"{USER}:x:64055:\nlibvirt:x:64057:\n")
        self._write("hosts", "127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in others))
        self._write("etc-libvirt/libvirtd.conf", "\n".join((
            f'unix_sock_dir = "{self.sockets}"', 'auth_unix_rw = "none"', 'auth_unix_ro = "none"', 'unix_sock_ro_perms = "0777"',
            *((f'listen_addr = "{self.address}"', f'tcp_port = "{self._port}"', "listen_tls = 0", "listen_tcp = 1", 'auth_tcp = "none"')
              if self._port else ()),
            f'host_uuid = "{uuid.uuid5(uuid.NAMESPACE_DNS, self.name)}"', 'log_outputs = "2:stderr"', 'keepalive_interval = -1', "")))
        self._write("etc-libvirt/qemu.conf", "\n".join((
            'security_driver = "none"', "dynamic_ownership = 0", "cgroup_controllers = []", 'stdio_handler = "file"',
            'memory_backing_dir = "/dev/shm"', f"migration_port_min = {49152 + 64 * number}", f"migration_port_max = {49152 + 64 * number + 63}",
            f'migration_address = "{self.address}"', f'migration_host = "{self.address}"',
            "cgroup_device_acl = [" + ", ".join(f'"/dev/{name}"' for name in (
                "null", "full", "zero", "random", "urandom", "ptmx", "kvm", "userfaultfd", *_verbs_devices())) + "]", settings, "")))

    def _write(self, name, text):
        with open(os.path.join(self.folder, name), "w", encoding="utf-8") as file:
            file.write(text)

    # --- processes --------------------------------------------------------------------------------------------------------------

    def inside(self, *command):
        """The command line that runs a program on this host."""
        return [*self.prefix, "nsenter", "--target", str(self.init_pid), "--mount", "--uts", "--pid", *command]

    def run(self, *command, timeout=PATIENCE, check=True):
        return subprocess.run(self.inside(*command), capture_output=True, text=True, timeout=timeout, check=check, env=self._environment)

    def start_daemon(self):
        self._log = open(os.path.join(self.folder, "libvirtd.log"), "a", encoding="utf-8")
        self._daemon = subprocess.Popen(self.inside("/usr/sbin/libvirtd", *(["--listen"] if self._port else [])), stdin=subprocess.DEVNULL,
                                        stdout=self._log, stderr=self._log, env=self._environment)
        wait_until(self._answers, lambda: f"{self.name}'s libvirtd does not answer:\n{self.log()[-2000:]}")

    def _answers(self):
        if self._daemon.poll() is not None:
            raise RuntimeError(f"{self.name}'s libvirtd ended with {self._daemon.returncode}:\n{self.log()[-3000:]}")
        return self.try_virsh("list", "--all").returncode == 0

    def stop_daemon(self, how=signal.SIGTERM):
        """The guests go on."""
        daemons = self.pids("libvirtd")
        for pid in daemons:
            os.kill(pid, how)
        self._daemon.wait(timeout=PATIENCE)
        self._log.close()

    def kill_daemon(self):
        self.stop_daemon(signal.SIGKILL)

    def pids(self, program):
        """Process ids, outside, of this host's processes that run a program of this name."""
        mine, found = os.readlink(f"/proc/{self.init_pid}/ns/pid"), []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{pid}/ns/pid") == mine and os.path.basename(os.readlink(f"/proc/{pid}/exe")) == program:
                    found.append(int(pid))
            except OSError:
                pass
        return found

    def log(self):
        return _text(os.path.join(self.folder, "libvirtd.log"))

    def guest_log(self, name):
        path = os.path.join(self.folder, "var-log-libvirt/qemu", f"{name}.log")
        return _text(path) if os.path.exists(path) else ""

    # --- libvirt ----------------------------------------------------------------------------------------------------------------

    def try_virsh(self, *words, timeout=PATIENCE):
        return subprocess.run(["virsh", "--quiet", "--connect", self.uri, *words], capture_output=True, text=True, timeout=timeout, check=False,
                              env=self._environment)

    def virsh(self, *words, timeout=PATIENCE):
        """What virsh prints; Virsh where it fails."""
        done = self.try_virsh(*words, timeout=timeout)
        if done.returncode != 0:
            raise Virsh(words, done)
        return done.stdout.strip()

    def version(self):
        """Of its libvirt: `9.0.0`."""
        return self.run("/usr/sbin/libvirtd", "--version").stdout.rsplit(maxsplit=1)[-1]

    def state(self, name):
        """`running (booted)`; empty where there is no such domain."""
        done = self.try_virsh("domstate", name, "--reason")
        return done.stdout.strip() if done.returncode == 0 else ""

    def wait_state(self, name, *states, timeout=PATIENCE):
        wait_until(lambda: self.state(name) in states, lambda: f"{name} on {self.name} is {self.state(name)!r}, not {states}", timeout, every=0.1)

    def monitor(self, name, command, **arguments):
        """The `return` of a QMP command; empty where there is no such domain, or its monitor is gone."""
        request = json.dumps({"execute": command, **({"arguments": arguments} if arguments else {})})
        done = self.try_virsh("qemu-monitor-command", name, request)
        return json.loads(done.stdout).get("return", {}) if done.returncode == 0 else {}

    def define(self, xml):
        path = os.path.join(self.folder, "domain.xml")
        self._write("domain.xml", xml)
        self.virsh("define", path)

    def read_ram(self, name, address, length):
        """Guest physical memory of a domain, as it is at this moment."""
        path = os.path.join(self.folder, "ram", uuid.uuid4().hex)
        try:
            self.monitor(name, "pmemsave", val=address, size=length, filename=path)
            with open(path, "rb") as saved:
                return saved.read()
        finally:
            if os.path.exists(path):
                os.unlink(path)

    # --- its end ----------------------------------------------------------------------------------------------------------------

    def close(self):
        self._init.stdin.close()
        self._init.stdout.close()
        try:
            self._init.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._init.kill()
            self._init.wait()
        if getattr(self, "_daemon", None):
            self._daemon.wait()


class Hosts:
    """Both, on a network of their own; or on the machine's, with the addresses that are given, where an RDMA device is."""

    names = ("src.example", "dst.example")

    def __init__(self, work, programs, settings="", addresses=None, root=None):
        """root: a folder with another Debian's programs, which come before this machine's (perf/newer_debian.sh makes one)."""
        self.network = Namespaces() if addresses is None else None
        self.both = []
        try:
            others = list(zip(self.names, addresses or self.network.addresses))
            for number, (name, address) in enumerate(others):
                own = {"prefix": self.network.prefix(number), "port": TCP_PORT} if self.network else {}
                self.both.append(Host(work, name, number, programs, address, others, settings=settings, root=root, **own))
        except BaseException:
            self.close()
            raise

    def close(self):
        for host in self.both:
            host.close()
        if self.network:
            self.network.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def domain(name, image, emulator=EMULATOR, memory_mib=64, backing="", memory="", cpu=""):
    """The XML of a guest that boots a sector, with nothing but a serial console."""
    return f"""<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid.uuid5(uuid.NAMESPACE_DNS, name)}</uuid>
  {memory}
  <memory unit='MiB'>{memory_mib}</memory>
  <vcpu>1</vcpu>
  {backing}
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/></features>
  {cpu}
  <devices>
    <emulator>{emulator}</emulator>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{image}'/><target dev='hda' bus='ide'/></disk>
    <serial type='null'/>
    <memballoon model='none'/>
  </devices>
</domain>
"""


def _verbs_devices():
    """Names below /dev of what RDMA needs: libvirt's guests see no others than those that are named."""
    return [f"infiniband/{name}" for name in sorted(os.listdir("/dev/infiniband")) if name.startswith(("rdma_cm", "uverbs"))] if os.path.isdir(
        "/dev/infiniband") else []


def _text(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
