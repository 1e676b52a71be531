"""The lab's initramfs: built from the host's own programs, kept in the cache, and built again only when something in it has changed."""
import glob
import hashlib
import os
import shutil
import subprocess
import tempfile
import time

from lab import programs
from lab.archive import Archive

VERSION = 2  # another number makes every image anew
KEPT = 6     # images; each is as large as what was built

_HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(_HERE)

# Programs that must be there, and those that are taken along where they are installed.
TOOLS = ["bash", "dash", "ip", "rdma", "setsid", "tc"]
EXTRA_TOOLS = ["ss", "taskset", "prlimit", "setpriv", "rping", "ucmatose", "rdma_server", "rdma_client", "ibv_devinfo", "ibv_rc_pingpong", "ib_write_bw",
               "ib_write_lat", "ib_read_bw", "ib_read_lat", "ib_send_bw", "ib_send_lat", "iperf3"]
_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_SEARCHED = ("/lib/", "/usr/lib/", "/lib64/", "/usr/lib64/")  # with what Debian adds for the machine: where the loader looks by itself


def guest_name(path):
    """The name in the archive of what is at this absolute path: /bin and the like are links into /usr there, as on Debian."""
    name = os.path.abspath(path).lstrip("/")
    return f"usr/{name}" if name.split("/")[0] in _MERGED else name


class Recipe:
    """What goes into an image. kernel: a Kernel; busybox: a static one; build: a build directory or None; added: files and folders of the
    host, kept under their own paths, programs with their libraries. RuntimeError: something needed is missing."""

    def __init__(self, kernel, busybox, build=None, added=()):
        self.kernel, self.busybox = kernel, busybox
        self.binaries = os.path.join(os.path.abspath(build), "bin") if build else None
        self.files = []  # (name in the archive, path on the host)
        for tool in TOOLS:
            path = shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
            if path is None:
                raise RuntimeError(f"{tool} is not installed; ./dev lab installs what the lab needs")
            self._take(os.path.realpath(path), f"usr/bin/{tool}")
        for tool in EXTRA_TOOLS:
            path = shutil.which(tool)
            if path and programs.is_elf(path):
                self._take(os.path.realpath(path), f"usr/bin/{tool}")
        drivers = [*glob.glob("/usr/lib/*/libibverbs/librxe-rdmav*.so"), *glob.glob("/etc/libibverbs.d/rxe.driver")]
        if len(drivers) < 2:
            raise RuntimeError("the verbs provider for soft-RoCE is not installed (Debian: ibverbs-providers); ./dev lab installs it")
        for path in [*drivers, *glob.glob("/usr/lib/*/libibverbs.so.1"), *glob.glob("/usr/lib/*/librdmacm.so.1"),
                     *glob.glob("/lib/*-linux-gnu/libgcc_s.so.1"),  # which pthread_exit() loads
                     "/etc/protocols", "/etc/services"]:
            if os.path.exists(path):
                self._take(path)
        for path in [*([self.binaries] if build else []), *map(os.path.abspath, added)]:
            self._take_tree(path)

    def _take(self, path, name=None):
        self.files.append((name or guest_name(path), path))

    def _take_tree(self, path):
        if not os.path.lexists(path):
            raise RuntimeError(f"{path} is not there")
        if not os.path.isdir(path) or os.path.islink(path):
            self._take(path)
        else:
            for folder, folders, names in os.walk(path):
                folders.sort()
                for name in sorted(names):
                    self._take(os.path.join(folder, name))

    def stamp(self, libraries):
        """What the image depends on, as one number in hex."""
        own = sorted([*glob.glob(os.path.join(_HERE, "*.py")), *glob.glob(os.path.join(_HERE, "guest", "*"))])
        lines = [f"{VERSION} {self.kernel.release} {self.binaries}"]
        for name, path in [*self.files, *((p, p) for p in [*libraries, *own, self.busybox, self.kernel.image])]:
            state = os.lstat(path)
            target = os.readlink(path) if os.path.islink(path) else ""
            if target and os.path.exists(path):  # what it leads to may change as well
                state = os.stat(path)
            lines.append(f"{name} {path} {target} {state.st_size} {state.st_mtime_ns}")
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:24]

    def libraries(self):
        return sorted(programs.libraries({os.path.realpath(path) for _, path in self.files}))

    def archive(self, libraries):
        archive = Archive()
        for name in _MERGED:
            archive.link(name, f"usr/{name}")
        for name in ("dev", "proc", "sys", "run", "tmp", "root", "etc"):
            archive.directory(name)
        archive.character_device("dev/console", 5, 1)
        archive.data("init", _read(os.path.join(_HERE, "guest", "init.sh")), mode=0o755)
        archive.data("usr/lib/lab/lane.sh", _read(os.path.join(_HERE, "guest", "lane.sh")), mode=0o755)
        archive.data("usr/lib/lab/environment", self._environment(libraries).encode())
        archive.data("etc/passwd", b"root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n")
        archive.data("etc/group", b"root:x:0:\nnogroup:x:65534:\n")
        archive.data("etc/nsswitch.conf", b"hosts: files\n")
        archive.data("etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n10.77.0.1 a\n10.77.0.2 b\nfd77::1 a6\nfd77::2 b6\n")
        modules = self.kernel.modules()
        for name, data in modules:
            archive.data(f"usr/lib/modules/{name}.ko", data)
        archive.data("usr/lib/modules/order", "".join(f"{name}\n" for name, _ in modules).encode())
        archive.link("usr/bin/sh", "dash")  # not busybox' own, which prefers its own ip to the one with rdma's friends
        archive.file("usr/lib/lab/busybox", self.busybox, mode=0o755)
        for applet in subprocess.run([self.busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
            archive.link(f"opt/busybox/{applet}", "/usr/lib/lab/busybox")
        for name, path in self.files:
            if os.path.islink(path) and not os.path.isabs(os.readlink(path)) and not path.startswith(("/usr/lib/", "/lib/")):
                archive.link(name, os.readlink(path))  # within what was taken, such as a plugin of two names
            elif os.path.exists(path) and not os.path.isdir(path):
                state = os.stat(path)  # with its time, by which Python knows that what it has compiled is still true
                archive.data(name, programs.content(path), mode=state.st_mode & 0o777, time=int(state.st_mtime))
        for path in libraries:
            archive.data(guest_name(path), programs.content(path), mode=0o755)
        return archive

    def _environment(self, libraries):
        """Of every command: where the build's programs are found, and the libraries that lie in no usual place."""
        unusual = sorted({os.path.dirname(p) for p in libraries if not os.path.dirname(p).startswith(tuple(s.rstrip("/") for s in _SEARCHED))})
        lines = ["export PAGEFERRY_TEST_PATIENCE=5"]  # of this repository's tests: everything is slower here
        if unusual:
            lines.append(f'export LD_LIBRARY_PATH="{":".join(unusual)}"')
        if self.binaries:
            lines.append(f'export PATH="{self.binaries}:$PATH"')
        return "\n".join([*lines, f'cd "{ROOT}" 2>/dev/null || cd /']) + "\n"


def image(recipe, cache):
    """(path of the image, whether it was built now). Several may ask for it at the same time."""
    os.makedirs(cache, exist_ok=True)
    known = os.path.join(cache, f"{recipe.stamp([])}.libraries")
    try:
        with open(known, encoding="utf-8") as file:
            libraries = file.read().splitlines()
        path = os.path.join(cache, f"{recipe.stamp(libraries)}.cpio")
        os.utime(path)  # it is in use, and not one of the oldest
        return path, False
    except FileNotFoundError:
        pass
    libraries = recipe.libraries()
    path = os.path.join(cache, f"{recipe.stamp(libraries)}.cpio")
    archive = recipe.archive(libraries)
    _replace(path, archive.write)
    _replace(known, lambda file: file.write("\n".join(libraries).encode()))
    _forget_old(cache)
    return path, True


def _replace(path, write):
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path))
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _forget_old(cache):
    """Keeps the last few images, and those of the last minute, which somebody else may be about to boot."""
    images = sorted(glob.glob(os.path.join(cache, "*.cpio")), key=os.path.getmtime, reverse=True)
    for path in images[KEPT:]:
        if os.path.getmtime(path) < time.time() - 60:
            os.unlink(path)
    for path in glob.glob(os.path.join(cache, "*.libraries")):
        if os.path.getmtime(path) < time.time() - 30 * 86400:
            os.unlink(path)


def _read(path):
    with open(path, "rb") as file:
        return file.read()
