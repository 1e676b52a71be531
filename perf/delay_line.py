"""A network path with a known delay between two namespaces: packets are kept back for so long in either direction.

For kernels without netem. Slow (every packet passes a Python process): for a dialogue's round trips, not for throughput. Root.
Standard library only.
"""
import ctypes
import fcntl
import heapq
import os
import select
import signal
import struct
import subprocess
import sys
import time

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


class DelayLine:
    """A second path between the two namespaces; addresses[side] are its ends. Gone with the block."""

    addresses = ("198.51.100.1", "198.51.100.2")
    _devices = ("pfda", "pfdb")

    def __init__(self, namespaces, seconds):
        """seconds: one way."""
        ends = []
        try:
            for side, (device, address) in enumerate(zip(self._devices, self.addresses)):
                ends.append(_tun(device))
                _run("ip", "link", "set", device, "netns", namespaces.names[side])
                _run(*namespaces.prefix(side), "ip", "address", "add", f"{address}/24", "dev", device)
                _run(*namespaces.prefix(side), "ip", "link", "set", device, "up")
            self.process = subprocess.Popen([sys.executable, os.path.abspath(__file__), *map(str, ends), str(seconds)], pass_fds=ends,
                                            preexec_fn=lambda: ctypes.CDLL(None).prctl(1, signal.SIGKILL))
        finally:
            for end in ends:
                os.close(end)

    def close(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def round_trip(namespaces, address, port, times=7):
    """Seconds: the median time of a TCP connect from side 0 to side 1, which is one round trip."""
    listen = f"import socket; s = socket.create_server(('{address}', {port}), backlog=99); print(flush=True); input()"
    connect = (f"import socket, time\nfor _ in range({times}):\n b = time.perf_counter(); s = socket.create_connection(('{address}', {port}));"
               " print(time.perf_counter() - b)")
    with subprocess.Popen(namespaces.prefix(1) + [sys.executable, "-c", listen], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as listener:
        listener.stdout.readline()
        done = subprocess.run(namespaces.prefix(0) + [sys.executable, "-c", connect], capture_output=True, text=True, check=True, timeout=60)
        listener.communicate(b"\n")
    return sorted(map(float, done.stdout.split()))[times // 2]


def _tun(name):
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return end


def _run(*command):
    subprocess.run(command, check=True, capture_output=True)


def carry(ends, delay):
    """Packets from one end to the other, each after its delay, for ever."""
    other, waiting, number = {ends[0]: ends[1], ends[1]: ends[0]}, [], 0
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, end, packet = heapq.heappop(waiting)
            try:
                os.write(end, packet)
            except OSError:
                pass  # as a network loses a packet: the interface is not up yet, or no more
        for end in select.select(ends, [], [], waiting[0][0] - now if waiting else None)[0]:
            number += 1
            heapq.heappush(waiting, (time.monotonic() + delay, number, other[end], os.read(end, 65536)))


if __name__ == "__main__":
    carry([int(sys.argv[1]), int(sys.argv[2])], float(sys.argv[3]))
