"""CPU time of everything a side starts, its children that have ended among them: a cgroup (v2) for each side.

/proc forgets a process when it ends, and a mover lives for one migration only; a cgroup remembers. Root, Linux 4.15 and later.
Standard library only.
"""
import os
import time


def mount_point():
    """Where a cgroup2 hierarchy is mounted, or None."""
    with open("/proc/mounts", encoding="utf-8") as mounts:
        for line in mounts:
            _, path, kind = line.split()[:3]
            if kind == "cgroup2":
                return path
    return None


class Cgroup:
    """Made below the root of the hierarchy; prefix() is the command prefix that starts a program in it."""

    _number = 0

    def __init__(self):
        root = mount_point()
        if root is None:
            raise OSError("no cgroup2 file system is mounted; mount -t cgroup2 none /sys/fs/cgroup/unified")
        Cgroup._number += 1
        self.path = os.path.join(root, f"pageferry-perf-{os.getpid()}-{Cgroup._number}")
        os.mkdir(self.path)

    def prefix(self):
        return ["sh", "-c", 'echo $$ >"$0" && exec "$@"', os.path.join(self.path, "cgroup.procs")]

    def cpu_seconds(self):
        with open(os.path.join(self.path, "cpu.stat"), encoding="utf-8") as stat:
            return int(dict(line.split() for line in stat)["usage_usec"]) / 1e6

    def pids(self):
        with open(os.path.join(self.path, "cgroup.procs"), encoding="utf-8") as procs:
            return [int(pid) for pid in procs]

    def close(self):
        end = time.monotonic() + 10
        while True:
            try:
                os.rmdir(self.path)
                return
            except FileNotFoundError:
                return
            except OSError:  # processes that were killed are still going away
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def thread_cpu_seconds(thread):
    """User and system time of one thread of this machine, by its id."""
    with open(f"/proc/{thread}/task/{thread}/schedstat", encoding="utf-8") as stat:
        return int(stat.read().split()[0]) / 1e9


def memory_of(pids):
    """Bytes that processes hold: private memory, and the blocks of every shared file they map (each file once)."""
    private, files = 0, {}
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup", encoding="utf-8") as rollup:
                private += sum(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Pss_Anon:"))
            with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
                for line in maps:
                    part = line.split(maxsplit=5)
                    if part[1][3] != "s" or part[4] == "0":
                        continue
                    status = os.stat(f"/proc/{pid}/map_files/{_unpadded(part[0])}")
                    files[(status.st_dev, status.st_ino)] = status.st_blocks * 512
        except (FileNotFoundError, ProcessLookupError):
            pass  # it ended meanwhile
    return private + sum(files.values())


def _unpadded(address_range):
    """map_files writes addresses without the zeros maps may put before them."""
    return "-".join(f"{int(part, 16):x}" for part in address_range.split("-"))
