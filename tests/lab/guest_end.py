#!/usr/bin/env python3
"""One guest in a lab machine, driven from outside it: whatever becomes of the network, the way to its monitor stays.

guest_end.py BUILD/bin NAME FIFO [incoming]: starts the writer guest under Pageferry. Each line that comes through the FIFO is asked of it,
a JSON object {"number", "do", ...}; each line said is {"event", "data"}, or {"number", "return" or "error"}, in the order of the monitor.
What happened before an answer is said before it. Ends with the guest; the other half is remote_guest.py.
"""
import json
import os
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "integration"), os.path.join(HERE, ".."), os.path.join(HERE, "..", "guest"), HERE]
import asked  # noqa: E402
import faults_common  # noqa: E402
import guest_image  # noqa: E402
from qemu_pair import Workspace  # noqa: E402

ENDS_WITHIN = 20  # seconds, of what belongs to a guest after its QEMU
MEMORY, END_MIB = 128, 100  # so many pages that a postcopy does not end by its faults while much is done to it


class End(asked.Asked):
    def __init__(self, guest):
        super().__init__()
        self._guest, self._said = guest, 0

    def say_events(self):
        with self._lock:
            while self._said < len(self._guest.qmp.events):
                event = self._guest.qmp.events[self._said]
                self._said += 1
                if event.name != "MIGRATION_PASS":
                    print(json.dumps({"event": event.name, "data": event.data}), flush=True)

    def follow(self):
        while not self._guest.qmp.closed:
            self.say_events()
            time.sleep(0.01)
        self.say_events()
        print(json.dumps({"event": "closed", "data": {}}), flush=True)

    def before_answer(self):
        self.say_events()

    # --- what can be asked ----------------------------------------------------------------------------------------------------

    def do_qmp(self, command, arguments):
        reply = self._guest.qmp.ask(command, arguments)
        return {key: reply[key] for key in ("return", "error") if key in reply}

    def do_boot(self):
        self._guest.boot()
        return {"return": {}}

    def do_check(self):
        """What is wrong with its RAM, or null; the guest goes on."""
        problem = self._guest.writer_problem()
        self._guest.qmp.execute("cont")
        self._guest.wait_writing()
        return {"return": problem}

    def do_kill_mover(self):
        self._guest.kill_mover()
        return {"return": {}}

    def do_mover(self):
        return {"return": self._guest.mover()}

    def do_errors(self):
        return {"return": self._guest.errors()}


def main():
    faults_common.PROGRAMS, name, fifo = sys.argv[1:4]
    with Workspace() as work:
        guest_image.make_image(faults_common.program("guest/guest_writer.img"), work.file("writer.img"), end_mib=END_MIB)
        with faults_common.Guest(work, name, incoming="incoming" in sys.argv[4:], memory=MEMORY) as guest:
            end = End(guest)
            threading.Thread(target=end.follow, daemon=True).start()
            number = end.serve(fifo)
        end_by = time.monotonic() + ENDS_WITHIN
        while (left := work.processes()) and time.monotonic() < end_by:
            time.sleep(0.05)
        print(json.dumps({"number": number, "return": {str(pid): command for pid, command in left.items()}}), flush=True)


if __name__ == "__main__":
    main()
