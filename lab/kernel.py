"""A Debian kernel unpacked with `dpkg -x`: its image, and the modules a guest needs in the order they are loaded."""
import bz2
import glob
import gzip
import lzma
import os
import re
import shutil
import subprocess

# For QEMU's -cpu. la57 is off because emulating five-level page tables trips some kernels at boot.
CPU = "max,la57=off"

# What the lab loads. A kernel may have some of them built in, or, where it says optional, not at all.
WANTED = ["virtio_pci", "virtio_console", "virtio_net", "veth", "ib_uverbs", "rdma_ucm", "rdma_rxe",
          "sch_prio", "sch_netem", "sch_tbf", "sch_ingress", "cls_u32", "act_gact"]
# rdma_rxe computes its checksums through the crypto API and does not say which module it needs for it; newer kernels have a library.
OPTIONAL = ["crc32_generic", "crc32_pclmul", "crc32c_generic", "crc32c_intel", "tun", "dummy", "bridge"]

_READERS = {".ko": lambda data: data, ".xz": lzma.decompress, ".gz": gzip.decompress, ".bz2": bz2.decompress}


class Kernel:
    """directory: where a linux-image package was unpacked. RuntimeError: there is none in it."""

    def __init__(self, directory):
        images = sorted(glob.glob(os.path.join(directory, "boot", "vmlinuz-*")))
        if not images:
            raise RuntimeError(f"no kernel in {directory}; remove the directory, and ./dev lab fetches it again")
        self.image = os.path.abspath(images[-1])
        self.release = os.path.basename(self.image).removeprefix("vmlinuz-")
        self._tree = next((t for t in (os.path.join(directory, p, "modules", self.release) for p in ("lib", "usr/lib")) if os.path.isdir(t)), None)
        if self._tree is None:
            raise RuntimeError(f"no modules of {self.release} in {directory}")

    def modules(self):
        """[(name, its contents)], each after those it depends on. RuntimeError: one that the lab cannot do without is missing."""
        self._files = {}
        for folder, _, names in os.walk(self._tree):
            for name in names:
                if re.search(r"\.ko(\.\w+)?$", name):
                    self._files[_plain(name)] = os.path.join(folder, name)
        with open(os.path.join(self._tree, "modules.builtin"), encoding="utf-8") as builtin:
            inside = {_plain(os.path.basename(line.strip())) for line in builtin}
        ordered = {}
        for name in [*OPTIONAL, *WANTED]:  # the checksums before the device that looks for them
            if name in self._files:
                self._add(name, ordered)
            elif name in WANTED and name not in inside:
                raise RuntimeError(f"Linux {self.release} has no {name}")
        return list(ordered.items())

    def _add(self, name, ordered, above=()):
        if name in ordered or name in above:
            return
        data = _read(self._files[name])
        depends = re.search(rb"\0depends=([^\0]*)", data)
        for other in filter(None, (depends.group(1).decode() if depends else "").split(",")):
            if _plain(other) in self._files:
                self._add(_plain(other), ordered, (*above, name))
        ordered[name] = data


def _plain(name):
    return re.sub(r"\.ko(\.\w+)?$", "", name).replace("-", "_")


def _read(path):
    with open(path, "rb") as file:
        data = file.read()
    if path.endswith(".zst"):
        if not shutil.which("zstd"):
            raise RuntimeError("this kernel's modules are compressed with zstd, which is not installed")
        return subprocess.run(["zstd", "-dcq"], input=data, capture_output=True, check=True).stdout
    return _READERS[os.path.splitext(path)[1]](data)
