"""Two lab machines, a and b, with one cable between them that can be cut.

    with Two(image, kernel) as lab:
        lab.b.spawn(["rping", "-s", "-a", lab.b.address])
        lab.cut()
        ...
        lab.restore()
"""
import contextlib
import socket
import sys
import time

from lab.lane import LabError
from lab.machine import BOOT_PATIENCE, BOOTS, Machine


class Two:
    """Both boot at once, each with one processor unless said otherwise. Options: as a Machine's. One thread drives it, the one that made
    it. wait_ready() comes first."""

    def __init__(self, image, kernel, cpus=1, **options):
        self._stack = contextlib.ExitStack()
        cable = socket.socketpair()
        with self._stack, cable[0], cable[1]:
            self.a = self._stack.enter_context(Machine(image, kernel, "a", 1, cable[0], cpus=cpus, **options))
            self.b = self._stack.enter_context(Machine(image, kernel, "b", 2, cable[1], cpus=cpus, **options))
            self._stack = self._stack.pop_all()

    def wait_ready(self, timeout=BOOT_PATIENCE):
        """Until both are, and each reaches the other. LabError: it did not come to that. Where a kernel failed (Machine.kernel_failed()),
        both are booted again, for their cable ends with either of them."""
        for boot in range(1, BOOTS + 1):
            try:
                for machine in (self.a, self.b):
                    machine.wait_ready(timeout)
                break
            except LabError as error:
                if boot == BOOTS or not machine.kernel_failed():
                    raise
                cable = socket.socketpair()
                with cable[0], cable[1]:
                    self.a.boot_again(error, cable[0])
                    self.b.boot_again(error, cable[1])
        self._wait_joined(timeout)
        return self

    def _wait_joined(self, timeout):
        """Until each has an answer of the other one. Now and then nothing comes through the emulated cable of two machines that have just
        booted, not even an answer to ARP, though both see its carrier; it is plugged anew then."""
        end = time.monotonic() + timeout
        while not all(one.run(["ping", "-c", "1", "-W", "3", other.address]).status == 0 for one, other in ((self.a, self.b), (self.b, self.a))):
            seen = [f"{m.name}: {m.run('ip neigh show dev eth0; ip -s link show eth0').stdout.decode()}" for m in (self.a, self.b)]
            print("lab: nothing comes through the cable, it is plugged anew", *seen, sep="\n", file=sys.stderr)
            if time.monotonic() > end:
                raise LabError(f"the machines do not reach each other: {' '.join(' '.join(seen).split())}")
            self.cut()
            self.restore()

    def cut(self, carrier=None):
        """Nothing passes any more. One that is named by carrier ("a" or "b"; None: both) sees that its cable is out; the other one sees
        no more than silence."""
        for machine in (self.a, self.b):
            if carrier in (None, machine.name):
                machine.set_link(False)

    def restore(self):
        """Undoes cut()."""
        for machine in (self.a, self.b):
            machine.set_link(True)

    def drop_roce(self, percent=100):
        """Both lose so much of the RoCE they send and nothing else, so TCP goes on; 0 ends that."""
        for machine in (self.a, self.b):
            machine.drop_roce(percent)

    def hold_roce(self, on=True):
        """What both send of RoCE stays with them; TCP goes on."""
        for machine in (self.a, self.b):
            machine.hold_roce(on)

    def close(self):
        self._stack.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
