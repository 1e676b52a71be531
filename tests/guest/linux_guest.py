"""The Linux guest: an initramfs with busybox and memtest, and the QEMU arguments that boot it with a Debian kernel."""
import gzip
import os

_INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys
/bin/busybox mount -t proc proc /proc
echo "Linux $(/bin/busybox uname -r), $(/bin/busybox nproc) CPU, $(/bin/busybox awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo) MiB"
/bin/memtest @MEGABYTES@ @SEED@
echo "CORRUPT, or no memory: memtest ended"
/bin/busybox poweroff -f
"""


def _entry(number, name, mode, data=b"", device=(0, 0)):
    """One file of a cpio archive in the kernel's `newc` form."""
    encoded = name.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % value for value in fields) + encoded
    return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)


def make_initramfs(path, busybox, memtest, megabytes, seed):
    """Writes it. busybox and memtest are programs without shared libraries. OSError: one cannot be read."""
    init = _INIT.replace("@MEGABYTES@", str(megabytes)).replace("@SEED@", str(seed))
    programs = []
    for program in (busybox, memtest):
        with open(program, "rb") as source:
            programs.append(source.read())
    entries = [("dev", 0o040755, b""), ("dev/console", 0o020600, b"", (5, 1)), ("bin", 0o040755, b""),
               ("bin/busybox", 0o100755, programs[0]), ("bin/memtest", 0o100755, programs[1]), ("init", 0o100755, init.encode()),
               ("TRAILER!!!", 0, b"")]
    with open(path, "wb") as target:
        target.write(gzip.compress(b"".join(_entry(n, *e) for n, e in enumerate(entries, 1)), compresslevel=1))
    return path


def arguments(kernel, initramfs):
    """For QEMU. la57 is off because emulating five-level page tables trips some kernels at boot."""
    return ["-cpu", "max,la57=off", "-kernel", os.path.abspath(kernel), "-initrd", os.path.abspath(initramfs),
            "-append", "console=ttyS0 quiet panic=-1 rdinit=/init"]
