"""A cpio archive in the kernel's `newc` form, which is what an initramfs is. Standard library only."""
import os


class Archive:
    """Collects entries in memory; a directory comes before what is in it, without being asked for. A name is added once: the first
    one stays."""

    def __init__(self):
        self._entries = {}

    def __contains__(self, name):
        return name in self._entries

    def directory(self, name, mode=0o755):
        if name and name not in self._entries:
            self._parents(name)
            self._entries[name] = (0o040000 | mode, b"", (0, 0), 0)

    def data(self, name, content, mode=0o644, time=0):
        """time: of its last change, whole seconds since 1970."""
        self._add(name, 0o100000 | mode, content, time=time)

    def file(self, name, path, mode=None):
        """A copy of the file at path. OSError: it cannot be read."""
        with open(path, "rb") as source:
            self.data(name, source.read(), os.stat(path).st_mode & 0o777 if mode is None else mode)

    def link(self, name, target):
        self._add(name, 0o120777, target.encode())

    def character_device(self, name, major, minor, mode=0o600):
        self._add(name, 0o020000 | mode, b"", (major, minor))

    def _parents(self, name):
        self.directory(os.path.dirname(name))

    def _add(self, name, mode, content, device=(0, 0), time=0):
        if name not in self._entries:
            self._parents(name)
            self._entries[name] = (mode, content, device, time)

    def write(self, target):
        """To a file open for writing bytes."""
        for number, (name, entry) in enumerate([*self._entries.items(), ("TRAILER!!!", (0, b"", (0, 0), 0))], 1):
            target.write(_head(number, name, *entry))
            content = entry[1]
            target.write(content)
            target.write(b"\0" * (-len(content) % 4))  # the next archive or entry begins at a multiple of 4


def _head(number, name, mode, content, device, time):
    encoded = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, time, len(content), 0, 0, *device, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % value for value in fields) + encoded
    return head + b"\0" * (-len(head) % 4)
