"""What a lab machine needs to run QEMUs of its own and this repository's Python programs: the host's QEMU with its firmware, Debian's
Python with its standard library, and the programs; and, for guests that libvirt runs, its daemon. Paths of the host, for Recipe's `added`."""
import glob
import os
import shutil
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MEMORY = 2048  # MiB of a lab machine with two small guests, for everything in it is RAM
LIBVIRT_MEMORY = 3000  # with two libvirt daemons

# Debian's: one of another place on PATH has its library wherever it was built.
PYTHON = "/usr/bin/python3"
_PROGRAMS = ("demo", "lab", "perf", "tests/data", "tests/guest", "tests/integration", "tests/lab", "tests/libvirt", "tests/qemu_pair.py")
_KINDS = (".py", ".json", ".sh")
_LEFT_OUT = ("config-*", "dist-packages", "distutils", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages", "test", "tkinter", "turtledemo",
             "venv", "asyncio")
_LIBRARIES_LEFT_OUT = ("_asyncio", "_crypt", "_curses", "_dbm", "_gdbm", "_sqlite3", "_ssl", "_test", "_tkinter", "_xx", "nis", "ossaudiodev", "readline", "xx")

# The other drivers of the daemon are left out: it does without networks, storage pools and the like. The tools are util-linux's, for its own namespaces.
_LIBVIRT = (("/usr/sbin/libvirtd", "libvirt-daemon"), ("/usr/lib/libvirt/libvirt_iohelper", "libvirt-daemon"),
            ("/usr/lib/*/libvirt/storage-file/*.so", "libvirt-daemon"), ("/usr/lib/*/libvirt/connection-driver/libvirt_driver_qemu.so",
            "libvirt-daemon-driver-qemu"), ("/usr/share/libvirt/cpu_map/*", "libvirt0"), ("/usr/share/libvirt/schemas/*", "libvirt0"),
            ("/usr/bin/virsh", "libvirt-clients"), ("/usr/lib/python3/dist-packages/libvirt.py", "python3-libvirt"),
            ("/usr/lib/python3/dist-packages/libvirt_qemu.py", "python3-libvirt"), ("/usr/lib/python3/dist-packages/libvirtmod.*.so",
            "python3-libvirt"), ("/usr/lib/python3/dist-packages/libvirtmod_qemu.*.so", "python3-libvirt"),
            ("/usr/bin/unshare", "util-linux"), ("/usr/bin/nsenter", "util-linux"), ("/usr/bin/mount", "mount"))


def paths(qemu="qemu-system-x86_64"):
    """RuntimeError: QEMU or Debian's Python is not installed."""
    program = shutil.which(qemu)
    if program is None:
        raise RuntimeError(f"{qemu} is not installed (Debian: qemu-system-x86)")
    return [program, *glob.glob("/usr/lib/*/qemu/accel-tcg-*.so"), *_firmware(), *_python(), *_repository()]


def libvirt_paths():
    """paths(), and libvirt's daemon with its QEMU driver alone, virsh, and the Python binding. RuntimeError: one of them is not installed."""
    found = []
    for pattern, package in _LIBVIRT:
        here = [path for path in glob.glob(pattern, recursive=True) if not os.path.isdir(path)]
        if not here:
            raise RuntimeError(f"{pattern} is not installed (Debian: {package})")
        found += here
    return [*paths(), *found]


def _firmware():
    found = [path for name in ("bios*", "vgabios*", "kvmvapic.bin", "linuxboot*.bin", "multiboot*.bin", "pvh.bin")
             for folder in ("/usr/share/seabios", "/usr/share/qemu") for path in glob.glob(os.path.join(folder, name))]
    if not found:
        raise RuntimeError("no firmware for QEMU in /usr/share/seabios (Debian: seabios)")
    return found


def _python():
    if not os.access(PYTHON, os.X_OK):
        raise RuntimeError(f"{PYTHON} is not installed (Debian: python3)")
    library = subprocess.run([PYTHON, "-I", "-c", "import sysconfig; print(sysconfig.get_path('stdlib'))"], capture_output=True, text=True,
                             check=True).stdout.strip()
    left_out = {path for name in _LEFT_OUT for path in glob.glob(os.path.join(library, name))}
    found = [PYTHON, os.path.realpath(PYTHON)]
    for folder, folders, names in os.walk(library):
        folders[:] = sorted(name for name in folders if os.path.join(folder, name) not in left_out)
        native = os.path.basename(folder) == "lib-dynload"
        found += [os.path.join(folder, name) for name in sorted(names) if not (native and name.startswith(_LIBRARIES_LEFT_OUT)) and ".opt-" not in name]
    return found


def _repository():
    found = []
    for name in _PROGRAMS:
        path = os.path.join(ROOT, name)
        if os.path.isfile(path):
            found.append(path)
        for folder, folders, names in os.walk(path):
            folders[:] = sorted(name for name in folders if name != "__pycache__")
            found += [os.path.join(folder, name) for name in sorted(names) if name.endswith(_KINDS)]
    return found
