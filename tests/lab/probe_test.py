#!/usr/bin/env python3
"""`pageferry probe` on soft-RoCE devices. probe_test.py BUILD-DIRECTORY [CLASS[.METHOD]...]; exit status 77: the lab is not on this host."""
import json
import os
import sys
import time
import unittest

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
sys.path.insert(0, ROOT)
from lab import host, testing  # noqa: E402
from lab.two import Two  # noqa: E402

BUILD = os.path.join(ROOT, "build", "release")
LIMIT = 800.0  # for what hangs, as every other limit here
FAILED = 1


class Probe(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        image, kernel = host.prepare(build=BUILD)
        cls.lab = Two(image, kernel, mtu=9000, limit=LIMIT)
        cls.addClassCleanup(cls.lab.close)
        cls.lab.wait_ready()

    def setUp(self):
        self.addCleanup(self.lab.drop_roce, 0)

    def probe(self, *words, code=0, prefix=()):
        """What `pageferry probe --json` on a says."""
        result = self.lab.a.run([*prefix, "pageferry", "probe", "--json", *words], timeout=120)
        self.assertEqual(result.status, code, result)
        line, = result.stdout.splitlines()
        return json.loads(line)

    def listening(self, uri):
        """`pageferry probe --listen` on b, as soon as it listens; it ends with the test."""
        job = self.lab.b.spawn(["pageferry", "probe", "--json", "--listen", uri])

        def end():
            job.kill("INT")
            self.assertEqual(job.wait(60).status, 0)
        self.addCleanup(end)
        limit = time.monotonic() + 60
        while b"listening" not in job.output:
            self.assertLess(time.monotonic(), limit, job.output)
            time.sleep(0.05)
        return job

    def test_this_host_has_devices(self):
        sections = {one["title"]: one for one in self.probe()["sections"]}
        transports = {one["what"]: one for one in sections["transports"]["findings"]}
        self.assertTrue(transports["rdma"]["ok"], transports)
        device, = sections["rdma"]["details"]["devices"]
        self.assertEqual((device["name"], device["ports"][0]["state"], device["ports"][0]["active_mtu"]), ("rxe0", "ACTIVE", 4096))
        self.assertIn(self.lab.a.address, [gid["address"] for gid in device["ports"][0]["gids"]])
        self.assertEqual({gid["type"] for gid in device["ports"][0]["gids"]}, {"RoCE v2"})
        self.assertGreater(device["limits"]["max_qp_wr"], 0)
        lines = {one["what"]: one for one in sections["rdma"]["findings"]}
        self.assertTrue(lines["rxe0"]["ok"] and lines["rxe0 port 1"]["ok"], lines)

    def test_two_hosts_over_ipv4_and_ipv6(self):
        self.listening("rdma:[::]:4444")
        for address in (self.lab.b.address, f"[{self.lab.b.address6}]"):
            report = self.probe("--lanes", "3", f"rdma:{address}:4444")
            self.assertTrue(report["ok"], report)
            phases = [one["phase"] for one in report["phases"]]
            for phase in ("resolving address", "resolving route", "connecting", "handshake", "hello"):
                self.assertIn(phase, phases)
            self.assertEqual((report["lanes"], report["peer"]["kind"]), (3, "probe"))
            self.assertEqual(report["round_trip_ms"]["count"], 20)
            self.assertEqual(report["push"]["bytes"], 16 << 20)
            self.assertIn("rxe0", report["connection"])

    def test_the_same_by_tcp(self):
        self.listening("tcp:0:4445")
        self.assertTrue(self.probe(f"tcp:{self.lab.b.address}:4445")["ok"])

    def test_nobody_listens(self):
        error = self.probe(f"rdma:{self.lab.b.address}:4446", code=FAILED)["error"]
        self.assertEqual((error["phase"], error["code"]), ("connecting", "refused"))
        self.assertTrue(error["remedy"])

    def test_no_such_host(self):
        error = self.probe("--timeout", "3", "rdma:10.77.0.99:4444", code=FAILED)["error"]
        self.assertTrue(error["reason"] and error["remedy"], error)

    def test_roce_is_lost_on_the_way(self):
        """TCP goes through, RoCE does not: what a firewall without UDP 4791 does."""
        self.listening("rdma:0:4447")
        self.lab.drop_roce()
        report = self.probe("--timeout", "5", f"rdma:{self.lab.b.address}:4447", code=FAILED)
        self.assertEqual((report["error"]["phase"], report["error"]["code"]), ("connecting", "timed out"))
        self.assertTrue(report["error"]["remedy"], report)
        self.lab.drop_roce(0)
        self.assertTrue(self.probe(f"rdma:{self.lab.b.address}:4447")["ok"])

    def test_memlock_too_small(self):
        self.listening("rdma:0:4448")
        nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps", "-all", "--bounding-set", "-all",
                  "prlimit", "--memlock=1048576:1048576"]
        error = self.probe(f"rdma:{self.lab.b.address}:4448", code=FAILED, prefix=nobody)["error"]
        self.assertIn("memlock", error["reason"])
        self.assertIn("ulimit -l", error["remedy"])
        memory, = [one for one in self.probe(prefix=nobody)["sections"] if one["title"] == "memory"]
        line, = [one for one in memory["findings"] if one["what"] == "memlock, guest RAM by rdma"]
        self.assertEqual((line["ok"], line["bytes"]), (False, 0))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        BUILD = os.path.abspath(sys.argv.pop(1))
    testing.main()
