"""Two lab machines, a and b, with one cable between them that can be cut.

    with Two(image, kernel) as lab:
        lab.b.spawn(["rping", "-s", "-a", lab.b.address])
        lab.cut()
        ...
        lab.restore()
"""
import contextlib
import socket

from lab.machine import BOOT_PATIENCE, Machine


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
        """LabError: one of them did not come to that."""
        for machine in (self.a, self.b):
            machine.wait_ready(timeout)
        return self

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
