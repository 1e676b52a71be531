"""What is asked of a program in a lab machine, whatever becomes of the network: the machine's half of remote_guest.py's RemoteEnd.

Each line that comes through a FIFO is a JSON object {"number", "do", "with"}; the answer on standard output is {"number", "return" or
"error"}. Between them other lines may be said, such as events. `end` ends it, and is answered by the program when nothing of it is left.
"""
import json
import os
import threading


class Asked:
    """What can be asked are the methods do_NAME, which return {"return": ...} or {"error": {"desc": ...}}; an exception is an error as well."""

    def __init__(self):
        self._lock = threading.Lock()

    def before_answer(self):
        """Says what happened before an answer."""

    def serve(self, fifo):
        """Until it is to end; the number to answer that with. It is said that it has begun."""
        os.mkfifo(fifo)
        with open(os.open(fifo, os.O_RDWR), encoding="utf-8") as lines:  # also for writing: it has no end
            print(json.dumps({"number": 0, "return": {}}), flush=True)
            for line in lines:
                what = json.loads(line)
                if what["do"] == "end":
                    return what["number"]
                self._answer(what)
        raise AssertionError("not reached")

    def _answer(self, what):
        try:
            reply = getattr(self, "do_" + what["do"])(**what.get("with", {}))
        except Exception as error:  # for the one who asked  # pylint: disable=broad-except
            reply = {"error": {"desc": f"{what['do']}: {error!r}"}}
        self.before_answer()
        with self._lock:
            print(json.dumps({"number": what["number"], **reply}), flush=True)
