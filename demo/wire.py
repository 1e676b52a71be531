"""The network between the demo's two QEMUs, where it is to be cut: what is really cut is said by each."""
import os
import subprocess

from qemu_pair import Namespaces


class Veth:
    """Two network namespaces, joined by a veth pair: one QEMU in each. Needs root."""

    def __init__(self):
        if os.geteuid() != 0:
            raise RuntimeError("--break makes network namespaces, which needs root: start it with sudo")
        self._namespaces = Namespaces()

    def prefix(self, side):
        return self._namespaces.prefix(side)

    def uri(self, transport, port=4444):
        return f"{transport}:{Namespaces.addresses[1]}:{port}"

    def notice_losses(self):
        """For plain QEMU, which relies on the kernel's patience with a connection: a quarter of an hour otherwise."""
        for side in (0, 1):
            subprocess.run([*self.prefix(side), "sh", "-c", "echo 3 >/proc/sys/net/ipv4/tcp_retries2"], check=True)

    def cut(self):
        self._namespaces.set_link(False)
        return "the link between the two hosts' network namespaces goes down (ip link set ... down)"

    def restore(self):
        self._namespaces.set_link(True)
        return "the link comes up again"

    def close(self):
        self._namespaces.close()


class Roce:
    """The two soft-RoCE devices of the lab's machine. Both are this machine's own, so by itself its kernel would hand packets from one to
    the other without any network; routes of their own send them through the veth pair under the devices, where they can be lost."""

    _ends = (("veth0", "10.77.0.1"), ("veth1", "10.77.1.1"))

    def __init__(self):
        if not all(os.path.isdir(f"/sys/class/net/{device}") for device, _ in self._ends):
            raise RuntimeError("--break over RDMA needs the lab's two soft-RoCE devices: ./dev demo --postcopy --break --transport rdma")
        for name in ("all", *(device for device, _ in self._ends)):
            for setting, value in (("accept_local", 1), ("rp_filter", 0), ("arp_ignore", 1)):
                with open(f"/proc/sys/net/ipv4/conf/{name}/{setting}", "w", encoding="ascii") as file:
                    file.write(str(value))
        for table, (near, far) in enumerate((self._ends, self._ends[::-1]), start=101):
            _run("ip", "rule", "add", "pref", "10", "iif", near[0], "lookup", "local")  # what has come in is for this machine
            _run("ip", "route", "add", f"{far[1]}/32", "dev", near[0], "src", near[1], "table", str(table))
            _run("ip", "rule", "add", "pref", "20", "to", far[1], "lookup", str(table))
            with open(f"/sys/class/net/{far[0]}/address", encoding="ascii") as file:  # rdma_resolve_addr gets no answer to its own ARP here
                _run("ip", "neigh", "replace", far[1], "lladdr", file.read().strip(), "nud", "permanent", "dev", near[0])
        _run("ip", "rule", "add", "pref", "100", "lookup", "local")
        _run("ip", "rule", "del", "pref", "0")

    def prefix(self, side):
        del side
        return []

    def uri(self, transport, port=4444):
        return f"{transport}:{self._ends[1][1]}:{port}"

    def notice_losses(self):
        pass

    def cut(self):
        for device, _ in self._ends:
            _run("tc", "qdisc", "add", "dev", device, "root", "netem", "loss", "100%")
        return "every packet between the two devices is lost from now on, and neither side is told"

    def restore(self):
        for device, _ in self._ends:
            _run("tc", "qdisc", "del", "dev", device, "root")
        return "packets pass again"

    def close(self):
        """The machine ends with the demo."""


def _run(*words):
    path = next((found for folder in ("/usr/bin", "/usr/sbin", "/sbin") if os.access(found := os.path.join(folder, words[0]), os.X_OK)), words[0])
    result = subprocess.run([path, *words[1:]], capture_output=True, text=True, check=False)  # not busybox' own ip
    if result.returncode:
        raise OSError(f"{' '.join(words)}: {result.stderr.strip()}")
