"""The Linux guest: an initramfs with busybox and memtest, and the QEMU arguments that boot it with a Debian kernel."""
import gzip
import io
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
from lab.archive import Archive  # noqa: E402
from lab.kernel import CPU  # noqa: E402

_INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys
/bin/busybox mount -t proc proc /proc
for module in @MODULES@; do /bin/busybox insmod /lib/$module; done
@BESIDE@
echo "Linux $(/bin/busybox uname -r), $(/bin/busybox nproc) CPU, $(/bin/busybox awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo) MiB"
/bin/memtest @MEGABYTES@ @SEED@
echo "CORRUPT, or no memory: memtest ended"
/bin/busybox poweroff -f
"""


def make_initramfs(path, busybox, memtest, megabytes, seed, modules=(), beside=""):
    """Writes it. busybox and memtest are programs without shared libraries; modules: paths of kernel modules, loaded in this order; beside: a
    line of shell before memtest. OSError: one cannot be read.
    """
    archive = Archive()
    archive.character_device("dev/console", 5, 1)
    archive.file("bin/busybox", busybox, mode=0o755)
    archive.file("bin/memtest", memtest, mode=0o755)
    for module in modules:
        archive.file("lib/" + os.path.basename(module), module)
    init = _INIT.replace("@MODULES@", " ".join(map(os.path.basename, modules))).replace("@BESIDE@", beside)
    archive.data("init", init.replace("@MEGABYTES@", str(megabytes)).replace("@SEED@", str(seed)).encode(), mode=0o755)
    plain = io.BytesIO()
    archive.write(plain)
    with open(path, "wb") as target:
        target.write(gzip.compress(plain.getvalue(), compresslevel=1))
    return path


def arguments(kernel, initramfs):
    """For QEMU."""
    return ["-cpu", CPU, "-kernel", os.path.abspath(kernel), "-initrd", os.path.abspath(initramfs),
            "-append", "console=ttyS0 no_timer_check quiet panic=-1 rdinit=/init"]
