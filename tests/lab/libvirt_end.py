#!/usr/bin/env python3
"""A libvirt host in a lab machine, driven from outside it: whatever becomes of the network, the way to its daemon stays.

libvirt_end.py BUILD/bin NAME FIFO ADDRESS PLACE PEER=ADDRESS...: starts the host. What is asked of it: asked.py. Between the answers it says
what libvirt's event loop gives it of its domains, {"event": "lifecycle", "data": {"name": "Suspended Post-copy Error"}} and {"event": "MIGRATION",
"data": {"status"}}, and {"event": "virsh", "data": {"number", "status", "error", "took"}} of commands that were left to themselves. The other half is
libvirt_test.py.
"""
import json
import os
import sys
import threading
import time

import libvirt_qemu

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "libvirt"), os.path.join(HERE, ".."), os.path.join(HERE, "..", "guest"), HERE]
import asked  # noqa: E402
import guest_image  # noqa: E402
from libvirt_case import Listener  # noqa: E402
from libvirt_hosts import RDMA_BACKING, Host, domain  # noqa: E402
from qemu_pair import Workspace, wait_until  # noqa: E402

TCP_PORT = 16509
PATIENCE = 900.0  # seconds, of a virsh that is left to itself
IMAGE = "/var/tmp/writer.img"  # of the same path on all hosts, as on shared storage
GUEST, MEMORY, END_MIB = "guest", 128, 100  # so many pages that a postcopy does not end by its faults while much is done to it


class Teller(Listener):
    """Says what it hears; also what QEMU tells of a migration, which libvirt passes on."""

    def __init__(self, host, say):
        self._say = say
        super().__init__(host)
        libvirt_qemu.qemuMonitorEventRegister(self.connection, None, "MIGRATION", self._migration, None)

    def _migration(self, _connection, _domain, _event, _seconds, _micros, details, _opaque):
        self._say("MIGRATION", **json.loads(details))

    def _add(self, text):
        if not text.startswith("Job "):
            self._say("lifecycle", name=text)


class End(asked.Asked):
    def __init__(self, host):
        super().__init__()
        self._host = host
        self._teller = Teller(host, self._say)

    def _say(self, event, **data):
        with self._lock:
            print(json.dumps({"event": event, "data": {**data, "at": round(time.monotonic(), 2)}}), flush=True)

    # --- what can be asked ----------------------------------------------------------------------------------------------------

    def do_start(self):
        self._host.define(domain(GUEST, IMAGE, backing=RDMA_BACKING, memory_mib=MEMORY))
        self._host.virsh("start", GUEST)
        return self.do_wait_writing()

    def do_virsh(self, words):
        return {"return": self._host.virsh(*words)}

    def do_begin(self, number, words):
        """virsh, left to itself; its end is said."""
        def run():
            begun = time.monotonic()
            done = self._host.try_virsh(*words, timeout=PATIENCE)
            self._say("virsh", number=number, status=done.returncode, error=done.stderr.strip(), took=round(time.monotonic() - begun, 2))
        threading.Thread(target=run, daemon=True).start()
        return {"return": {}}

    def do_state(self):
        return {"return": self._host.state(GUEST)}

    def do_wait_writing(self):
        first = self._host.read_ram(GUEST, guest_image.BASE, 1)
        wait_until(lambda: self._host.read_ram(GUEST, guest_image.BASE, 1) != first, f"{GUEST} writes nothing", every=0.2)
        return {"return": {}}

    def do_check(self):
        """What is wrong with the guest's RAM, or null; it stands still from then on."""
        self._host.virsh("suspend", GUEST)
        return {"return": guest_image.writer_problem(self._host.read_ram(GUEST, guest_image.BASE, (END_MIB << 20) - guest_image.BASE))}

    def do_logs(self):
        return {"return": f"--- libvirtd\n{self._host.log()}\n--- the guest\n{self._host.guest_log(GUEST)}"}


def main():
    programs, name, fifo, address, place, *peers = sys.argv[1:]
    with Workspace() as work:
        guest_image.make_image(os.path.join(programs, "guest/guest_writer.img"), IMAGE, end_mib=END_MIB)
        os.chmod(IMAGE, 0o666)
        others = [peer.split("=")[::-1] for peer in peers]
        host = Host(work, name, int(place), programs, address, [*others, (address, name)], port=TCP_PORT)
        try:
            number = End(host).serve(fifo)
        finally:
            host.close()
        print(json.dumps({"number": number, "return": {str(pid): command for pid, command in work.processes().items()}}), flush=True)


if __name__ == "__main__":
    main()
