#!/usr/bin/env python3
"""A disk that takes its time: a file system of one file, /disk, whose every read lasts a while.

    slow_disk.py DIRECTORY MILLISECONDS

Mounts itself on the directory and serves until its input ends; then the mount is gone. Each sector of the disk holds its own number in
every 32-bit word. A read past the page cache (O_DIRECT) pins the reader's memory first, waits, and is written there last, as with a real
disk. For root, with fusepy.
"""
import array
import ctypes
import errno
import os
import stat
import sys
import threading
import time

try:
    import fusepy as fuse  # as Debian names it
except ImportError:
    import fuse

SECTOR = 512
SIZE = 64 << 20


class SlowDisk(fuse.Operations):
    def __init__(self, seconds):
        self.seconds = seconds

    def getattr(self, path, fh=None):
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
        if path == "/disk":
            return {"st_mode": stat.S_IFREG | 0o644, "st_nlink": 1, "st_size": SIZE}
        raise fuse.FuseOSError(errno.ENOENT)

    def read(self, path, size, offset, fh):
        time.sleep(self.seconds)
        first, last = offset // SECTOR, -(-min(offset + size, SIZE) // SECTOR)
        words = array.array("I")
        for sector in range(first, last):
            words.extend([sector] * (SECTOR // 4))
        return words.tobytes()[offset - first * SECTOR:][:size]


def unmount_at_end_of_input(directory):
    while os.read(0, 4096):
        pass
    ctypes.CDLL(None).umount2(directory.encode(), 2)  # MNT_DETACH


def main():
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    directory, milliseconds = sys.argv[1], int(sys.argv[2])
    threading.Thread(target=unmount_at_end_of_input, args=(directory,), daemon=True).start()
    fuse.FUSE(SlowDisk(milliseconds / 1000), directory, foreground=True, nothreads=False)


if __name__ == "__main__":
    main()
