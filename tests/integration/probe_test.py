#!/usr/bin/env python3
"""`pageferry probe` against destinations that wait for their migration: they are not disturbed."""
import json
import subprocess

from under_pageferry import PATIENCE, Case, main, program, wait_until

ANY = "tcp:127.0.0.1:0"


class Probe(Case):
    def assert_a_destination(self, report):
        self.assertTrue(report["ok"])
        self.assertEqual(report["peer"]["kind"], "destination")
        self.assertIn("pageferry", report["peer"]["software"])
        self.assertNotIn("push", report)

    def test_a_waiting_destination_is_not_disturbed(self):
        source, destination = self.pair()
        uri = self.uri()
        destination.qmp.execute("migrate-incoming", uri=uri)
        before, events = destination.migration(), len(destination.qmp.events)
        for lanes in (1, 2, 5):
            (report,), _ = self.run_cli("probe", "--json", "--lanes", str(lanes), uri)
            self.assert_a_destination(report)
        wait_until(lambda: destination.errors().count("a probe: the connection works") == 3,
                   lambda: f"the log has a line for each: {destination.errors()}")
        self.assertEqual(destination.errors().count("turned away"), 3)
        self.assertEqual(destination.migration(), before)
        self.assertEqual(destination.qmp.events[events:], [])
        source.qmp.execute("migrate-set-parameters", **{"downtime-limit": 20000, "max-bandwidth": 0})
        source.qmp.execute("migrate", uri=uri)
        self.finish(source, destination)
        self.assertEqual(self.statuses(source), ["setup", "active", "device", "completed"])
        self.assertEqual(self.statuses(destination), ["setup", "active", "completed"])

    def test_a_source_that_meets_a_listening_probe(self):
        """It is refused with the reason, and its guest goes on; the listener goes on, too."""
        source = self.started()
        listener = subprocess.Popen([program("pageferry"), "probe", "--json", "--listen", "--count", "1", ANY], stdout=subprocess.PIPE, text=True,
                                    env=self.work.environment())
        self.addCleanup(listener.communicate)
        self.addCleanup(listener.kill)
        uri = json.loads(listener.stdout.readline())["uri"]
        source.qmp.execute("migrate", uri=uri)
        source.wait_status("failed")
        self.assertIn("pageferry probe --listen", source.migration()["error-desc"])
        source.wait_writing()
        (report,), _ = self.run_cli("probe", "--json", uri)
        self.assertEqual(report["peer"]["kind"], "probe")
        told = [json.loads(line) for line in listener.communicate(timeout=PATIENCE)[0].splitlines()]
        self.assertEqual([one["ok"] for one in told], [False, True])
        self.assertEqual(listener.returncode, 0)


if __name__ == "__main__":
    main()
