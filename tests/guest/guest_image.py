"""The boot-sector guests of guest.S, from Python: setting their numbers, and knowing what their RAM must hold.

Pure functions and files; no virtual machine is started here.
"""
import shutil
import struct

BASE = 1 << 20      # bytes: the guests write from here
PAGE = 4096
MAX_END_MIB = 3072  # the PCI hole begins here
_FIELDS = 0x1E0     # of the sector: magic, END in MiB, WINDOW in pages, RATE in pages a tick
TICKS_PER_SECOND = 100


def make_image(template, path, end_mib=None, window_mib=None, rate_mib_per_second=None):
    """Copies an image with other numbers; what is None stays. ValueError: no such image, or numbers that cannot be."""
    with open(template, "rb") as source:
        sector = bytearray(source.read(512))
    magic, end, window, rate = struct.unpack_from("<4sIII", sector, _FIELDS)
    if magic != b"PFG1":
        raise ValueError(f"{template} is not one of the project's boot sectors")
    end = end_mib or end
    window = window_mib * (1 << 20) // PAGE if window_mib else window
    rate = int(rate_mib_per_second * (1 << 20) / PAGE / TICKS_PER_SECOND) if rate_mib_per_second else rate
    if not 1 < end <= MAX_END_MIB:
        raise ValueError(f"end {end} MiB: must be above 1 and at most {MAX_END_MIB}")
    if rate < 1 or window < 1:
        raise ValueError("a rate and a window are at least one page")
    struct.pack_into("<4sIII", sector, _FIELDS, magic, end, window, rate)
    with open(path, "wb") as target:
        target.write(sector)
    shutil.copymode(template, path)
    return path


def end_mib(image):
    """Where this image's guest stops writing, in MiB."""
    with open(image, "rb") as source:
        return struct.unpack_from("<I", source.read(512), _FIELDS + 4)[0]


def writer_problem(ram):
    """What is wrong with the writer's RAM from BASE to its END (its guest stopped), or None.

    The first bytes of all pages must be equal, but for one place, the writer's own, where the value drops by one.
    """
    first = ram[::PAGE]
    edges = [(n, a, b) for n, (a, b) in enumerate(zip(first, first[1:])) if a != b]
    if len(edges) > 1 or any((a - b) % 256 != 1 for _, a, b in edges):
        return f"{len(edges)} places where the pattern breaks, the first after pages {edges[:5]}"
    rest = bytearray(ram)
    rest[::PAGE] = bytes(len(first))
    if rest.count(0) != len(rest):
        where = next(n for n, byte in enumerate(rest) if byte)
        return f"byte {where:#x} past 1 MiB was never written by the guest and holds {rest[where]:#x}"
    return None


def fill_problem(ram, dirty=False):
    """What is wrong with a filled guest's RAM from BASE to its END, or None. dirty: the second word of a page may be anything."""
    words = memoryview(ram).cast("I")
    for n, word in enumerate(words):
        if word != ((BASE + 4 * n) * 0x9E3779B1 & 0xFFFFFFFF | 1) and not (dirty and n % (PAGE // 4) == 1):
            return f"word at {BASE + 4 * n:#x} holds {word:#x}"
    return None
