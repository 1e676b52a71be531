#!/usr/bin/env python3
"""`pageferry migrate`, `watch`, `status`, `cancel`, `pause` and `recover` against a pair under Pageferry: JSON lines, and exit codes as documented."""
import json
import os
import signal
import subprocess

from under_pageferry import PATIENCE, SLOW, Case, free_port, main, program

FAILED, USAGE, UNREACHABLE, CANCELLED, TIMED_OUT, PAUSED, REFUSED = 1, 2, 3, 4, 5, 6, 7
FAST_OPTIONS = ["--downtime-limit", "20000", "--max-bandwidth", "0"]
SLOW_OPTIONS = ["--downtime-limit", "1", "--max-bandwidth", "1M"]
STATES = ["setup", "active", "device", "completed"]


class Cli(Case):
    def listening(self):
        source, destination = self.pair()
        uri = self.uri()
        destination.qmp.execute("migrate-incoming", uri=uri)
        return source, destination, uri

    def in_background(self, *arguments):
        process = subprocess.Popen([program("pageferry"), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   env=self.work.environment())
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def ended(self, process, code):
        """Its JSON objects."""
        out, err = process.communicate(timeout=PATIENCE)
        self.assertEqual(process.returncode, code, out + err)
        return [json.loads(line) for line in out.splitlines()]

    def states(self, objects):
        return [one["status"] for one in objects if one["type"] == "state"]

    def test_migrate(self):
        source, destination, uri = self.listening()
        objects, _ = self.run_cli("migrate", "--qmp", source.cli_path, "--json", "--interval", "50", "--lanes", "3", *FAST_OPTIONS, uri)
        self.finish(source, destination)
        self.assertEqual(self.states(objects), STATES)
        self.assertEqual([one["event"] for one in objects if one["type"] == "guest"], ["STOP"])
        summary = objects[-1]
        figures = source.migration()
        self.assertEqual((summary["type"], summary["status"], summary["exit_code"], summary["timed_out"]), ("summary", "completed", 0, False))
        self.assertEqual(summary["transferred_bytes"], figures["ram"]["transferred"])
        self.assertEqual(summary["downtime_ms"], figures["downtime"])
        self.assertEqual(summary["total_time_ms"], figures["total-time"])
        (status,), _ = self.run_cli("status", "--qmp", source.cli_path, "--json")
        self.assertEqual((status["type"], status["status"], status["percent"]), ("progress", "completed", 100.0))
        _, said = self.run_cli("cancel", "--qmp", source.cli_path)  # nothing is under way any more
        self.assertEqual(said, "")
        self.assertTrue(destination.running())

    def test_migrate_to_nobody(self):
        source = self.started()
        objects, said = self.run_cli("migrate", "--qmp", source.cli_path, "--json", f"tcp:127.0.0.1:{free_port()}", code=FAILED)
        self.assertEqual(self.states(objects), ["setup", "failing", "failed"])
        self.assertIn("efused", objects[-1]["error"])
        self.assertIn("efused", said)
        source.wait_writing()

    def test_watch_and_cancel_beside_migrate(self):
        source, destination, uri = self.listening()
        watch = self.in_background("watch", "--qmp", destination.cli_path, "--json", "--interval", "50")
        migrate = self.in_background("migrate", "--qmp", source.cli_path, "--json", "--interval", "50", *SLOW_OPTIONS, uri)
        source.wait_status("active")
        destination.wait_status("active")
        source.qmp.execute("migrate-set-parameters", **{"downtime-limit": 20000, "max-bandwidth": 0})
        self.finish(source, destination)
        self.assertEqual(self.states(self.ended(migrate, 0)), STATES)
        watched = self.ended(watch, 0)
        self.assertEqual(self.states(watched)[-1], "completed")
        self.assertEqual((watched[-1]["type"], watched[-1]["exit_code"]), ("summary", 0))

    def test_cancel(self):
        source, destination, uri = self.listening()
        watch = self.in_background("watch", "--qmp", source.cli_path, "--json", "--interval", "50")
        source.qmp.execute("migrate-set-parameters", **SLOW)
        source.qmp.execute("migrate", uri=uri)
        source.wait_status("active")
        watch_line = json.loads(watch.stdout.readline())  # it has the monitor to itself
        self.assertIn(watch_line["type"], ("state", "progress"))
        source.qmp.execute("migrate_cancel")
        self.assertEqual(self.states(self.ended(watch, CANCELLED))[-1], "cancelled")
        self.assertTrue(source.running())
        (status,), _ = self.run_cli("status", "--qmp", source.cli_path, "--json")
        self.assertEqual(status["status"], "cancelled")

    def test_cancel_command(self):
        source, _, uri = self.listening()
        self.run_cli("migrate", "--qmp", source.cli_path, "--detach", *SLOW_OPTIONS, uri)
        source.wait_status("active")
        (status,), _ = self.run_cli("status", "--qmp", source.cli_path, "--json")
        self.assertEqual((status["status"], status["lanes"]), ("active", 2))
        objects, _ = self.run_cli("cancel", "--qmp", source.cli_path, "--json")
        self.assertEqual(objects[-1]["status"], "cancelled")
        self.assertEqual(source.migration()["status"], "cancelled")
        source.wait_writing()

    def test_timeout(self):
        source, _, uri = self.listening()
        objects, _ = self.run_cli("migrate", "--qmp", source.cli_path, "--json", "--timeout", "1", *SLOW_OPTIONS, uri, code=TIMED_OUT)
        self.assertEqual(self.states(objects)[-2:], ["cancelling", "cancelled"])
        self.assertTrue(objects[-1]["timed_out"])
        source.wait_writing()

    def in_postcopy(self, *options):
        """A pair, the URI, and a `migrate` that follows; pages that nobody waits for hardly move."""
        source, destination = self.pair()
        uri = self.uri()
        destination.set_capabilities(postcopy_ram=True)
        destination.qmp.execute("migrate-incoming", uri=uri)
        migrate = self.in_background("migrate", "--qmp", source.cli_path, "--json", "--interval", "50", "--max-bandwidth", "8M", "--downtime-limit", "1",
                                     "--max-postcopy-bandwidth", "64K", *options, uri)
        source.qmp.wait_event("MIGRATION", status="postcopy-active")
        destination.qmp.wait_event("MIGRATION", status="postcopy-active")
        return source, destination, uri, migrate

    def test_postcopy_paused_and_recovered(self):
        source, destination, uri, migrate = self.in_postcopy("--postcopy=0.3")
        self.run_cli("pause", "--qmp", destination.cli_path)  # migrate has the source's monitor to itself
        destination.qmp.wait_event("MIGRATION", status="postcopy-paused")
        told = self.ended(migrate, PAUSED)
        states = ["setup", "active", "device", "postcopy-device", "postcopy-active", "postcopy-paused"]
        self.assertEqual(self.states(told), states)
        self.assertEqual([one["status"] for one in told[-1]["history"]], states)
        self.assertTrue(told[-1]["error"])
        (status,), _ = self.run_cli("status", "--qmp", source.cli_path, "--json")
        self.assertEqual(status["status"], "postcopy-paused")
        objects, said = self.run_cli("recover", "--qmp", source.cli_path, "--json", f"tcp:127.0.0.1:{free_port()}", code=PAUSED)
        self.assertEqual(self.states(objects), ["postcopy-recover-setup", "postcopy-paused"])
        self.assertIn("efused", said)
        self.assertIn(f"pageferry recover --qmp {source.cli_path}", said)
        objects, _ = self.run_cli("recover", "--qmp", source.cli_path, "--json", "--max-postcopy-bandwidth", "0", uri)
        self.assertEqual(self.states(objects), ["postcopy-recover-setup", "postcopy-recover", "postcopy-active", "completed"])
        self.assertEqual([one["status"] for one in objects[-1]["history"]],
                         [*states, "postcopy-recover-setup", "postcopy-paused", "postcopy-recover-setup", "postcopy-recover", "postcopy-active", "completed"])
        self.finish(source, destination)

    def test_postcopy_recovers_by_itself(self):
        source, destination, _, migrate = self.in_postcopy("--postcopy=0.3", "--recover-attempts", "3", "--recover-backoff", "100")
        os.kill(next(pid for pid, command in self.work.processes().items() if "pageferry-mover" in command), signal.SIGKILL)  # of either side
        source.qmp.wait_event("MIGRATION", status="postcopy-recover")
        source.qmp.execute("migrate-set-parameters", **{"max-postcopy-bandwidth": 0})
        self.finish(source, destination)
        states = self.states(self.ended(migrate, 0))
        self.assertEqual(states[-5:], ["postcopy-paused", "postcopy-recover-setup", "postcopy-recover", "postcopy-active", "completed"])

    def test_what_is_refused(self):
        source = self.started()
        nowhere = self.uri()
        for arguments, code, text in (
                (["--capability", "release-ram=on", nowhere], REFUSED, "Pageferry does not implement the capability 'release-ram'"),
                (["--parameter", "multifd-compression=zlib", nowhere], REFUSED, "Pageferry does not implement the parameter 'multifd-compression'"),
                (["bogus:1"], FAILED, "unknown migration protocol: bogus:1"),
                (["tcp:127.0.0.1:99999"], FAILED, "99999"),
                (["--lanes", "0", nowhere], USAGE, "--lanes")):
            with self.subTest(arguments=arguments):
                _, said = self.run_cli("migrate", "--qmp", source.cli_path, *arguments, code=code)
                self.assertIn(text, said)
        self.assertEqual(source.migration(), {})
        _, said = self.run_cli("status", "--qmp", self.work.file("none"), code=UNREACHABLE)
        self.assertIn(self.work.file("none"), said)
        (status,), _ = self.run_cli("status", "--qmp", source.cli_path, "--json")
        self.assertEqual(status["status"], "none")


if __name__ == "__main__":
    main()
