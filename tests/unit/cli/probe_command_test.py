#!/usr/bin/env python3
"""`pageferry probe` on real sockets: probe_command_test.py DIRECTORY-OF-PROGRAMS."""
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import unittest

PAGEFERRY = os.path.join(os.path.abspath(sys.argv.pop(1)), "pageferry")
FAILED, USAGE = 1, 2
PATIENCE = 60


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Probe(unittest.TestCase):
    def probe(self, *words, code=0):
        done = subprocess.run([PAGEFERRY, "probe", *words], capture_output=True, text=True, timeout=PATIENCE, check=False)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stdout

    def probe_json(self, *words, code=0):
        line, = self.probe("--json", *words, code=code).splitlines()
        return json.loads(line)

    def listen(self, uri, *words):
        """`pageferry probe --listen`, and the URI that it listens on."""
        process = subprocess.Popen([PAGEFERRY, "probe", "--json", "--listen", *words, uri], stdout=subprocess.PIPE, text=True)
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        listening = json.loads(process.stdout.readline())
        self.assertEqual(listening["type"], "listening")
        return process, listening["uri"]

    def assert_works(self, report, lanes):
        self.assertTrue(report["ok"])
        self.assertEqual(report["lanes"], lanes)
        names = [one["phase"] for one in report["phases"]]
        self.assertEqual([names[0], names[-1]], ["load transport", "hello"])
        self.assertIn("connecting", names)
        self.assertIn("handshake", names)
        self.assertTrue(all(one["ms"] >= 0 for one in report["phases"]))
        self.assertEqual(report["peer"]["kind"], "probe")
        self.assertEqual(report["round_trip_ms"]["count"], 20)
        self.assertGreater(report["push"]["bytes_per_second"], 0)

    def test_tcp_and_unix(self):
        with tempfile.TemporaryDirectory() as folder:
            for uri in ("tcp:127.0.0.1:0", "tcp:[::1]:0", f"unix:{folder}/socket"):
                process, listening = self.listen(uri, "--count", "2")
                self.assert_works(self.probe_json("--lanes", "3", listening), 3)
                text = self.probe(listening)
                self.assertTrue(text.startswith(listening + "\n"))
                self.assertTrue(text.endswith("ok\n"))
                for word in ("connecting", "handshake", "hello", "round trip", "push"):
                    self.assertIn(word, text)
                out, _ = process.communicate(timeout=PATIENCE)
                self.assertEqual(process.returncode, 0)
                answered = [json.loads(line) for line in out.splitlines()]
                self.assertEqual([(one["type"], one["ok"], one["bytes"]) for one in answered], [("answered", True, 32 << 20)] * 2)

    def test_nobody_listens(self):
        uri = f"tcp:127.0.0.1:{free_port()}"
        report = self.probe_json(uri, code=FAILED)
        self.assertEqual((report["ok"], report["error"]["phase"], report["error"]["code"]), (False, "connecting", "refused"))
        self.assertIn("start the destination", report["error"]["remedy"])
        self.assertIn("no: ", self.probe(uri, code=FAILED))

    def test_a_listener_that_says_nothing(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            report = self.probe_json("--timeout", "0.5", f"tcp:127.0.0.1:{silent.getsockname()[1]}", code=FAILED)
        self.assertEqual((report["error"]["phase"], report["error"]["code"]), ("handshake", "timed out"))

    def test_wrong_words(self):
        for words in (["tcp:host"], ["nonsense"], ["--listen"], ["--count", "1", "tcp:h:1"], ["--lanes", "0", "tcp:h:1"]):
            self.probe(*words, code=USAGE)

    def test_a_transport_that_is_not_there(self):
        report = self.probe_json("no-such:host:1", code=FAILED)
        self.assertEqual((report["error"]["phase"], report["error"]["code"]), ("load transport", "not found"))
        self.assertTrue(report["error"]["remedy"])

    def test_ctrl_c_ends_a_listener(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            process, _ = self.listen("tcp:127.0.0.1:0")
            process.send_signal(number)
            process.communicate(timeout=PATIENCE)
            self.assertEqual(process.returncode, 0)

    def test_a_stranger_does_not_end_a_listener(self):
        process, uri = self.listen("tcp:127.0.0.1:0", "--count", "1")
        with socket.create_connection(("127.0.0.1", int(uri.rsplit(":", 1)[1]))) as stranger:
            stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
            self.assert_works(self.probe_json(uri), 2)
        process.communicate(timeout=PATIENCE)
        self.assertEqual(process.returncode, 0)

    def test_two_listeners_of_one_port(self):
        _, uri = self.listen("tcp:127.0.0.1:0")
        self.probe("--listen", uri, code=FAILED)

    def test_this_host(self):
        host = self.probe_json()
        titles = [section["title"] for section in host["sections"]]
        self.assertEqual(titles[:4], ["kernel", "memory", "QEMU", "transports"])
        transports = {one["what"]: one for one in host["sections"][3]["findings"]}
        self.assertTrue(transports["tcp"]["ok"])
        for section in host["sections"]:
            for one in section["findings"]:
                self.assertTrue(one.get("ok", True) or one["reason"], one)
            if section["title"] == "rdma":
                self.assertIsInstance(section["details"]["devices"], list)
        text = self.probe()
        for title in titles[:4]:
            self.assertIn(f"{title}\n", text)


if __name__ == "__main__":
    unittest.main(verbosity=2)
