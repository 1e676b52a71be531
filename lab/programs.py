"""The host's programs for a guest: what shared libraries they need, and their contents without what a debugger alone reads."""
import os
import re
import struct
import subprocess


def is_elf(path):
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"\x7fELF"
    except OSError:
        return False


def libraries(paths):
    """The paths of all shared libraries, and of the loader, that these programs and libraries need, as ldd finds them. RuntimeError:
    one is missing."""
    found = set()
    for path in paths:
        if not is_elf(path):
            continue
        result = subprocess.run(["ldd", path], capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
        if result.returncode:  # "not a dynamic executable": it needs none
            continue
        for line in result.stdout.splitlines():
            missing = re.match(r"\s*(\S+) => not found", line)
            if missing:
                raise RuntimeError(f"{path} needs {missing.group(1)}, which is not installed")
            match = re.match(r"\s*(?:\S+ => )?(/\S+) \(0x", line)
            if match:
                found.add(match.group(1))
    return found


def content(path):
    """A file's bytes; of an ELF file for 64 bits only those that are loaded, which leaves out symbols and debug information: most of
    what a compiler writes, and all of it memory of the guest. OSError: it cannot be read."""
    with open(path, "rb") as file:
        head = file.read(64)
        if head[:6] != b"\x7fELF\x02\x01" or len(head) < 64 or struct.unpack_from("<H", head, 16)[0] not in (2, 3):
            return head + file.read()  # no program, or a kernel module, whose sections are what is read
        start, = struct.unpack_from("<Q", head, 32)
        size, count = struct.unpack_from("<HH", head, 54)
        file.seek(start)
        table = file.read(size * count)
        end = start + len(table)
        for n in range(count):
            offset, in_file = struct.unpack_from("<Q", table, n * size + 8)[0], struct.unpack_from("<Q", table, n * size + 32)[0]
            end = max(end, offset + in_file)
        file.seek(0)
        loaded = bytearray(file.read(end))
    struct.pack_into("<Q", loaded, 40, 0)        # e_shoff
    struct.pack_into("<HHH", loaded, 58, 0, 0, 0)  # e_shentsize, e_shnum, e_shstrndx
    return bytes(loaded)
