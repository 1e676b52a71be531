"""Where this host keeps what the lab is made of. It is fetched by ./dev lab (dev.d/lab.sh) and only looked up here."""
import glob
import os
import subprocess

from lab.image import Recipe, image
from lab.kernel import Kernel
from lab.lane import LabError

KERNEL = "6.12"  # the default, as in dev.d/lab.sh: the newest of a plain Debian 12, and Debian 13's


class NotFetched(LabError):
    """Something is not on this host; the text says what to do."""


def cache():
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "pageferry")


def kernel(version=KERNEL):
    directory = os.path.join(cache(), "lab", f"kernel-{version}", "root")
    if not os.path.isdir(directory):
        raise NotFetched(f"no Linux {version} in {directory}: ./dev lab --kernel {version} -- true fetches it")
    try:
        return Kernel(directory)
    except RuntimeError as error:
        raise NotFetched(str(error)) from error


def busybox():
    for path in [*glob.glob(os.path.join(cache(), "busybox", "root", "*", "busybox")), "/bin/busybox"]:
        if os.access(path, os.X_OK) and subprocess.run(["ldd", path], capture_output=True, check=False).returncode:
            return path  # static
    raise NotFetched("no static busybox here: ./dev lab -- true fetches one")


def recipe(version=KERNEL, build=None, added=()):
    try:
        return Recipe(kernel(version), busybox(), build, added)
    except RuntimeError as error:
        raise NotFetched(str(error)) from error


def prepare(version=KERNEL, build=None, added=()):
    """(image, kernel): paths for a Machine; the image is built if it is not in the cache. NotFetched; RuntimeError: it cannot be built."""
    parts = recipe(version, build, added)
    return image(parts, os.path.join(cache(), "lab", "images"))[0], parts.kernel.image
