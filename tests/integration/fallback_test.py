#!/usr/bin/env python3
"""From one transport to another: lists of URIs, the policy for RDMA, and that nothing of it is silent.

An address of loopback has no RDMA device, whatever else the machine has, so rdma: cannot be used here, with and without its plugin.
"""
import socket

from under_pageferry import FAST, Case, QmpError, free_port, main, wait_until

EVENT = "PAGEFERRY_TRANSPORT"
FAILED = 1


class Fallback(Case):
    def rdma(self):
        return f"rdma:127.0.0.1:{free_port()}"

    def told(self, vm):
        """The data of its events about transports, once it has answered."""
        vm.migration()
        return [e.data for e in vm.qmp.events if e.name == EVENT]

    def begin_with(self, source, destination, incoming, outgoing):
        destination.qmp.execute("migrate-incoming", **incoming)
        source.qmp.execute("migrate-set-parameters", **FAST)
        source.qmp.execute("migrate", **outgoing)
        self.finish(source, destination)

    def transport(self, vm):
        return vm.migration()["x-pageferry-transport"]

    def assert_by_tcp(self, vm, uri, tried):
        """It went by tcp, and says why not by those that were tried before."""
        used = self.transport(vm)
        self.assertEqual((used["uri"], used["name"], used["lanes"]), (uri, "tcp", 2))
        self.assertIn("127.0.0.1", used["connection"])
        self.assertEqual([one["uri"] for one in used["attempts"]], tried)
        for one in used["attempts"]:
            self.assertTrue(one["reason"] and one["phase"])
            self.assertIn(one["reason"], one["error-desc"])
            self.assertIn(f"{one['uri']}", vm.errors())
            self.assertIn(one["reason"], vm.errors())
        self.assertIn(f"the migration goes by {uri}: {used['connection']}", vm.errors())

    def test_from_a_dead_path_to_tcp(self):
        source, destination = self.pair()
        uri, dead = self.uri(), "unix:" + self.work.file("nobody")
        self.begin_with(source, destination, {"uri": uri}, {"uris": [dead, uri]})
        self.assert_by_tcp(source, uri, [dead])
        self.assertEqual(self.transport(source)["attempts"][0]["phase"], "connecting")
        self.assertEqual(self.told(source), [self.transport(source)])
        self.assert_by_tcp(destination, uri, [])
        self.assertEqual(self.told(destination), [])  # what was asked for first is what is used
        self.assertEqual(self.statuses(source), ["setup", "active", "device", "completed"])
        self.assertEqual(self.statuses(destination), ["setup", "active", "completed"])

    def test_one_uri_is_no_fallback(self):
        source, destination = self.pair()
        uri = self.uri()
        self.assertNotIn("x-pageferry-transport", source.migration())
        self.begin_with(source, destination, {"uri": uri}, {"uri": uri})
        for vm in (source, destination):
            self.assert_by_tcp(vm, uri, [])
            self.assertEqual(self.told(vm), [])

    def test_rdma_without_a_device_falls_back_on_both_sides(self):
        source, destination = self.pair()
        rdma = self.rdma()
        tcp = rdma.replace("rdma", "tcp")
        self.assertEqual(source.qmp.execute("query-migrate-parameters")["x-pageferry-rdma"], "preferred")
        destination.qmp.execute("migrate-incoming", uri=rdma)
        first_reply = len(destination.qmp.conversation) - 1
        self.assertEqual(destination.qmp.conversation[first_reply][0], "reply")
        self.assertIn(EVENT, [what.name for kind, what in destination.qmp.conversation[:first_reply] if kind == "event"])
        self.assertEqual(destination.migration()["socket-address"], [{"type": "inet", "host": "127.0.0.1", "port": tcp.rsplit(":", 1)[1]}])
        self.assertEqual([one["uri"] for one in self.transport(destination)["attempts"]], [rdma])
        source.qmp.execute("migrate-set-parameters", **FAST)
        source.qmp.execute("migrate", uri=rdma)
        self.finish(source, destination)
        for vm in (source, destination):
            self.assert_by_tcp(vm, tcp, [rdma])
            self.assertEqual(self.told(vm)[-1], self.transport(vm))
        self.assertEqual(len(self.told(source)), 1)
        self.assertEqual(self.statuses(source), ["setup", "active", "device", "completed"])

    def test_rdma_on_the_command_line(self):
        source = self.started()
        rdma = self.rdma()
        destination = self.start("dst", incoming=rdma)
        source.qmp.execute("migrate-set-parameters", **FAST)
        source.qmp.execute("migrate", uri=rdma)
        self.finish(source, destination)
        self.assert_by_tcp(destination, rdma.replace("rdma", "tcp"), [rdma])

    def test_required_rdma_fails_with_the_reason_and_the_guest_goes_on(self):
        source, destination = self.pair()
        rdma, uri = self.rdma(), self.uri()
        for vm in (source, destination):
            vm.set_parameters(x_pageferry_rdma="required")
        for vm, command in ((source, "migrate"), (destination, "migrate-incoming")):
            with self.assertRaises(QmpError) as caught:
                vm.qmp.execute(command, uri=uri)
            self.assertIn("no rdma: URI is given", caught.exception.description)
        with self.assertRaises(QmpError) as caught:
            destination.qmp.execute("migrate-incoming", uris=[uri, rdma])
        self.assertRegex(caught.exception.description, "rdma")
        self.assertNotIn(uri, caught.exception.description)
        try:
            source.qmp.execute("migrate", uris=[uri, rdma])
            reason = source.wait_status("failed")["error-desc"]
        except QmpError as error:  # there is no plugin, so nothing begins
            reason = error.description
            self.assertIn("libibverbs1", reason)
        self.assertIn("rdma", reason)
        self.assertNotIn(uri, reason)
        source.wait_writing()
        # Nothing of it stays.
        for vm in (source, destination):
            vm.set_parameters(x_pageferry_rdma="preferred")
        self.move(source, destination)

    def test_off_goes_by_tcp_and_tries_nothing_else(self):
        source, destination = self.pair()
        rdma = self.rdma()
        tcp = rdma.replace("rdma", "tcp")
        for vm in (source, destination):
            vm.set_parameters(x_pageferry_rdma="off")
        self.begin_with(source, destination, {"uri": rdma}, {"uri": rdma})
        for vm in (source, destination):
            self.assert_by_tcp(vm, tcp, [])
            self.assertEqual(self.told(vm), [self.transport(vm)])  # it is not what was asked for first

    def test_when_all_fail_every_reason_is_told_and_the_guest_goes_on(self):
        source, destination = self.pair()
        dead = ["unix:" + self.work.file("nobody"), f"tcp:127.0.0.1:{free_port()}"]
        source.qmp.execute("migrate", uris=dead)
        failed = source.wait_status("failed")
        self.assertRegex(failed["error-desc"], f"^[^;]*{dead[1].removeprefix('tcp:')}.*tried before: {dead[0]}: No such file or directory$")
        self.assertEqual([one["uri"] for one in failed["x-pageferry-transport"]["attempts"]], dead)
        self.assertNotIn("uri", failed["x-pageferry-transport"])
        self.assertEqual(self.statuses(source), ["setup", "failing", "failed"])
        source.wait_writing()
        self.move(source, destination)
        self.assertEqual(self.transport(source)["attempts"], [])

    def test_a_destination_listens_on_all(self):
        source, destination = self.pair()
        uris = ["unix:" + self.work.file("migration"), self.uri()]
        destination.qmp.execute("migrate-incoming", uris=uris)
        addresses = destination.migration()["socket-address"]
        self.assertEqual([one["type"] for one in addresses], ["unix", "inet"])
        self.assertEqual(self.told(destination), [])
        source.qmp.execute("migrate-set-parameters", **FAST)
        source.qmp.execute("migrate", uri=uris[1])
        self.finish(source, destination)
        self.assert_by_tcp(destination, uris[1], [])
        self.assertEqual(self.told(destination), [self.transport(destination)])  # the source came by the second
        self.assertEqual(self.told(source), [])

    def test_cancel_while_the_first_is_tried(self):
        source, _ = self.pair()
        # It listens and never answers, so the handshake stays open.
        with socket.create_server(("127.0.0.1", 0)) as silent:
            uri = f"tcp:127.0.0.1:{silent.getsockname()[1]}"
            source.qmp.execute("migrate", uris=[uri, self.uri()])
            wait_until(lambda: self.statuses(source)[-1:] == ["setup"], "no setup")
            source.qmp.execute("migrate_cancel")
            source.wait_status("cancelled")
        self.assertEqual(self.statuses(source), ["setup", "cancelling", "cancelled"])
        source.wait_writing()

    def test_refusals(self):
        source = self.started()
        self.refused(source, "migrate", "'uris' is for migrations that Pageferry carries, exec:true is QEMU's own: give it as 'uri'",
                     uris=["tcp:127.0.0.1:1", "exec:true"])
        self.refused(source, "migrate", "Parameter 'uris' expects 1 to 8 URIs", uris=[])
        self.refused(source, "migrate", "unknown migration protocol: bogus:1", uris=["tcp:127.0.0.1:1", "bogus:1"])
        self.assertEqual(source.migration(), {})

    def test_the_command(self):
        source, destination = self.pair()
        uri, dead = self.uri(), "unix:" + self.work.file("nobody")
        destination.qmp.execute("migrate-incoming", uri=uri)
        _, said = self.run_cli("migrate", "--qmp", source.cli_path, "--rdma", "required", uri, code=FAILED)
        self.assertIn("no rdma: URI is given", said)
        objects, _ = self.run_cli("migrate", "--qmp", source.cli_path, "--json", "--interval", "50", "--rdma", "preferred",
                                  "--downtime-limit", "20000", "--max-bandwidth", "0", dead, uri)
        self.finish(source, destination)
        used = objects[-1]["transport"]
        self.assertEqual((objects[-1]["type"], used["uri"], used["name"]), ("summary", uri, "tcp"))
        self.assertEqual(used["attempts"], [{"uri": dead, "reason": "No such file or directory"}])
        (status,), _ = self.run_cli("status", "--qmp", source.cli_path, "--json")
        self.assertEqual(status["transport"], used)


if __name__ == "__main__":
    main()
