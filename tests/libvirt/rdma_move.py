#!/usr/bin/env python3
"""A guest of libvirt goes to another host by precopy and comes back by postcopy, over RDMA; its RAM is whole after each.

    ./dev lab --libvirt -- python3 tests/libvirt/rdma_move.py build/release/bin [--address ADDRESS] [--moves NUMBER]

Both hosts are on this machine and share its network, for an RDMA device has no other. ADDRESS: of the device (10.77.0.1). For root.
"""
import argparse
import os
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, ".."), os.path.join(HERE, "..", "guest")]
import guest_image  # noqa: E402
from libvirt_hosts import PATIENCE, RDMA_BACKING, Hosts, Virsh, domain  # noqa: E402
from qemu_pair import Workspace, wait_until  # noqa: E402

NAME, END_MIB, PORT = "guest", 40, 4444


def wait_writing(host):
    """Until the guest has been seen to write: without that, its RAM proves nothing."""
    first = host.read_ram(NAME, guest_image.BASE, 1)
    wait_until(lambda: host.read_ram(NAME, guest_image.BASE, 1) != first, f"{NAME} on {host.name} writes nothing", every=0.2)


def ram_problem(host):
    host.virsh("suspend", NAME)
    problem = guest_image.writer_problem(host.read_ram(NAME, guest_image.BASE, (END_MIB << 20) - guest_image.BASE))
    host.virsh("resume", NAME)
    return problem


def job_is_under_way(host):
    """RAM is moving: what comes earlier has no postcopy to go over to."""
    info = dict(line.split(":", 1) for line in host.virsh("domjobinfo", NAME).splitlines() if ":" in line)
    return info.get("Operation", "").strip() == "Outgoing migration" and "Data processed" in info and info["Data processed"].split()[0] != "0.000"


class Migration(threading.Thread):
    """`virsh migrate`, under way."""

    def __init__(self, source, destination, uri, *words):
        super().__init__(daemon=True)
        self._source, self._words, self.problem = source, ("migrate", "--live", "--p2p", "--unsafe", "--migrateuri", uri, *words, NAME,
                                                           destination.uri), None
        self.start()

    def run(self):
        try:
            self._source.virsh(*self._words)
        except (Virsh, OSError) as error:
            self.problem = error

    def end(self):
        self.join(PATIENCE)
        if self.problem or self.is_alive():
            raise AssertionError(f"virsh migrate: {self.problem or 'does not end'}")


def move(source, destination, address, number, postcopy):
    uri, begun, logged = f"rdma://{address}:{PORT + number}", time.monotonic(), len(source.guest_log(NAME))
    if postcopy:
        migration = Migration(source, destination, uri, "--postcopy", "--bandwidth", "5")
        wait_until(lambda: not migration.is_alive() or job_is_under_way(source), "the migration begins", every=0.2)
        source.virsh("migrate-postcopy", NAME)
    else:
        source.virsh("migrate-setmaxdowntime", NAME, "10000")  # the guest writes as fast as it can
        migration = Migration(source, destination, uri)
    migration.end()
    took = time.monotonic() - begun
    said = source.guest_log(NAME)[logged:]
    wanted = f"the migration goes by rdma:{address}:{PORT + number}:"
    if wanted not in said or ("postcopy-active" in said) != postcopy:
        raise AssertionError(f"not by RDMA, or not as it was asked for:\n{said}")
    if not source.state(NAME).startswith("shut off") and source.state(NAME):
        raise AssertionError(f"{NAME} on {source.name} is {source.state(NAME)}")
    wait_writing(destination)
    if problem := ram_problem(destination):
        raise AssertionError(f"RAM after {'postcopy' if postcopy else 'precopy'}: {problem}")
    print(f"{'postcopy' if postcopy else 'precopy'} by {uri} from {source.name} to {destination.name}: {took:.1f} s, {destination.state(NAME)}, RAM is whole",
          flush=True)


def options():
    o = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    o.add_argument("programs", metavar="BUILD/bin")
    o.add_argument("--address", default="10.77.0.1", help="of the RDMA device (default %(default)s)")
    o.add_argument("--moves", type=int, default=2, help="every other one by postcopy (default %(default)s)")
    return o.parse_args()


def main():
    given = options()
    with Workspace() as work, Hosts(work, given.programs, addresses=[given.address] * 2) as hosts:
        image = guest_image.make_image(os.path.join(given.programs, "guest/guest_writer.img"), work.file("writer.img"), end_mib=END_MIB)
        os.chmod(image, 0o666)
        source, destination = hosts.both
        try:
            source.define(domain(NAME, image, backing=RDMA_BACKING))
            source.virsh("start", NAME)
            wait_writing(source)
            for number in range(given.moves):
                move(source, destination, given.address, number, postcopy=number % 2 == 1)
                source, destination = destination, source
        except BaseException:
            for host in hosts.both:
                print(f"--- {host.name}\n{host.log()[-3000:]}\n{host.guest_log(NAME)[-4000:]}", file=sys.stderr)
            raise


if __name__ == "__main__":
    main()
