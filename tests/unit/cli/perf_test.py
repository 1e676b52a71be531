#!/usr/bin/env python3
"""pageferry-perf over real sockets and a real kernel, small, and the table that compare.py prints: perf_test.py PAGEFERRY_PERF."""
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..")
sys.path.insert(0, os.path.join(ROOT, "perf"))
import report  # noqa: E402

PERF = sys.argv[1]


def run(*arguments):
    return subprocess.run([PERF, *arguments], capture_output=True, text=True, timeout=100, check=False)


def maps_ram(pid):
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
        return re.search(r"[/:]pageferry-perf \(deleted\)", maps.read()) is not None


class Push(unittest.TestCase):
    def serve(self):
        server = subprocess.Popen([PERF, "push", "--listen", "tcp:127.0.0.1:0", "--timeout", "60"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(server.communicate)
        self.addCleanup(server.kill)
        word, uri = server.stdout.readline().split()
        self.assertEqual(word, "listening")
        return server, uri

    def test_measures_and_verifies(self):
        for more in ([], ["--fresh"]):
            server, uri = self.serve()
            done = run("push", uri, "--size", "8M", "--extent", "300K", "--runs", "3", "--json", *more)
            self.assertEqual(done.returncode, 0, done.stderr)
            told = json.loads(done.stdout)
            self.assertEqual((told["size_bytes"], told["extent_bytes"], len(told["runs"]), told["verified"]), (8 << 20, 300 << 10, 3, True))
            self.assertLessEqual(told["seconds"]["min"], told["seconds"]["median"])
            self.assertGreater(told["bytes_per_second"]["median"], 0)
            self.assertGreaterEqual(told["wire_bytes"], 4 * (8 << 20))  # one to warm up, three that count
            self.assertEqual(server.wait(60), 0)

    def test_says_what_is_wrong(self):
        self.assertEqual(run("push", "--size", "5", "tcp:127.0.0.1:1").returncode, 2)
        self.assertEqual(run("push").returncode, 2)
        done = run("push", "--size", "1M", "nonsense:1:1")
        self.assertEqual(done.returncode, 1)
        self.assertIn("pageferry-transport-nonsense", done.stderr)

    def test_server_ends_with_its_peer(self):
        server, uri = self.serve()
        client = subprocess.Popen([PERF, "push", uri, "--size", "1M", "--runs", "10000", "--no-verify"], stdout=subprocess.DEVNULL)
        self.addCleanup(client.wait)
        self.addCleanup(client.kill)
        self.assertEqual(server.poll(), None)
        while not maps_ram(server.pid):  # once it does, the setup has come: they are connected
            time.sleep(0.01)
            self.assertIsNone(server.poll())
            self.assertIsNone(client.poll())
        client.kill()
        self.assertEqual(server.wait(60), 1)


class DirtyScan(unittest.TestCase):
    def test_idle_rounds_are_idle(self):
        done = run("dirty-scan", "--size", "16M,32M", "--runs", "3", "--json")
        if done.returncode == 1 and ("unsupported" in done.stderr or "userfaultfd" in done.stderr or "Linux" in done.stderr):
            self.skipTest(done.stderr.strip())
        self.assertEqual(done.returncode, 0, done.stderr)
        told = [json.loads(line) for line in done.stdout.splitlines()]
        self.assertEqual([t["size_bytes"] for t in told], [16 << 20, 32 << 20])
        for t in told:
            self.assertEqual(t["dirty_bytes"], 0)
            self.assertGreater(t["collect_seconds"]["median"], 0)


class Monitor(threading.Thread):
    """Speaks QMP to one client: an event before each answer, and the answers in two pieces."""

    def __init__(self, path, answer):
        super().__init__(daemon=True)
        self.listener, self.answer, self.asked = socket.socket(socket.AF_UNIX), answer, []
        self.listener.bind(path)
        self.listener.listen()
        self.start()

    def run(self):
        client = self.listener.accept()[0]
        with client, client.makefile("rb") as lines:
            client.sendall(b'{"QMP": {}}\r\n')
            for line in lines:
                self.asked.append(line)
                client.sendall(b'{"timestamp": {}, "event": "STOP"}\r\n' + self.answer[:5])
                client.sendall(self.answer[5:] + b"\r\n")


class Qmp(unittest.TestCase):
    def monitors(self, *answers):
        folder = self.enterContext(tempfile.TemporaryDirectory())
        paths = [os.path.join(folder, str(number)) for number in range(len(answers))]
        made = [Monitor(path, answer) for path, answer in zip(paths, answers)]
        for monitor in made:
            self.addCleanup(monitor.listener.close)
        return made, paths

    def test_asks_in_turn(self):
        made, paths = self.monitors(b'{"return": {}}', b'{"return": [1, 2]}')
        done = run("qmp", *paths, "--request", '{"execute":"x"}', "--runs", "7", "--warm-up", "2", "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        told = json.loads(done.stdout)["monitors"]
        self.assertEqual([(one["socket"], one["count"], one["reply_bytes"]) for one in told], [(paths[0], 7, 16), (paths[1], 7, 20)])
        for monitor, one in zip(made, told):
            self.assertLessEqual(one["p50"], one["p99"])
            self.assertEqual(monitor.asked[1:], [b'{"execute":"x"}\r\n'] * 9)

    def test_an_answer_that_is_an_error_is_told(self):
        _, paths = self.monitors(b'{"id": 1, "error": {"desc": "no such thing"}}')
        done = run("qmp", *paths)
        self.assertEqual(done.returncode, 1)
        self.assertIn("no such thing", done.stderr)
        self.assertEqual(run("qmp", paths[0] + ".not").returncode, 1)


def migration(throughput, cpu=1.0, downtime=0.05, wall=0.5, growth=100 << 20):
    return {"throughput": throughput, "cpu_per_gib": cpu, "downtime": downtime, "wall": wall, "growth": growth}


class Table(unittest.TestCase):
    def result(self, **runs):
        return {"settings": {"lanes": 2}, "runs": runs, "failures": {}}

    def met(self, result, what, beside):
        return next(r["met"] for r in report.rows(result) if r["what"].startswith(what) and r["beside"].startswith(beside))

    def test_targets(self):
        good = self.result(iperf3=[{"throughput": 1.0}], pageferry=[migration(0.95, cpu=0.9, downtime=0.02)], tcp=[migration(0.4)], multifd=[migration(0.9)],
                           sparse=[migration(1.0)])
        bad = self.result(iperf3=[{"throughput": 1.0}], pageferry=[migration(0.7, cpu=1.1, downtime=0.2)], tcp=[migration(0.4, downtime=0.3)],
                          multifd=[migration(0.9)], sparse=[migration(1.0, wall=1.5, growth=1 << 30)])
        for result, expected in ((good, True), (bad, False)):
            for what, beside in (("precopy throughput", "iperf3"), ("precopy throughput", "QEMU tcp"), ("precopy throughput", "QEMU multifd"),
                                 ("CPU time", "QEMU multifd"), ("downtime", "QEMU tcp"), ("8 GiB", ""), ("... destination", "")):
                self.assertIs(self.met(result, what, beside), expected, (what, beside))

    def test_downtime_must_beat_both(self):
        for ours, theirs, met in ((0.09, 0.2, True), (0.09, 0.05, False), (0.11, 0.2, False)):
            self.assertIs(self.met(self.result(pageferry=[migration(1, downtime=ours)], tcp=[migration(1, downtime=theirs)]), "downtime", "QEMU tcp"), met)

    def test_medians_not_lucky_runs(self):
        result = self.result(pageferry=[migration(t) for t in (0.1, 0.2, 9.0)], multifd=[migration(0.3)])
        self.assertFalse(self.met(result, "precopy throughput", "QEMU multifd"))

    def test_what_was_not_measured_is_not_claimed(self):
        self.assertEqual(report.rows(self.result()), [])
        only = report.rows(self.result(pageferry=[migration(1.0)]))
        self.assertTrue(all(r["met"] is None and r["ratio"] is None for r in only))

    def test_linear_scan(self):
        def scan(size, per_gib):
            seconds = per_gib * size
            return {"size_bytes": size << 30, "populated": True, "collect_seconds": {"median": seconds, "min": seconds, "max": seconds}, "collect_seconds_per_gib": per_gib}
        for costs, met in (((1.0, 1.2, 1.1), True), ((1.0, 2.0, 4.0), False)):
            table = report.rows(self.result(**{"dirty-scan": [[scan(s, c) for s, c in zip((1, 4, 16), costs)]]}))
            self.assertIs(table[-1]["met"], met)

    def test_prints(self):
        result = self.result(iperf3=[{"throughput": 1e9}], pageferry=[migration(2e9)])
        result["rows"] = report.rows(result)
        result["failures"] = {"tcp": ["it broke"]}
        self.assertIn("FAILED tcp, 1 x: it broke", report.text(result))
        self.assertIn("2.00", report.text(result))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
