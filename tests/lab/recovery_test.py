#!/usr/bin/env python3
"""A guest on its way by postcopy over RDMA, to which everything is done that a network, a host and an operator can do: it arrives whole.

recovery_test.py BUILD-DIRECTORY [--steps NAME,NAME...|all] [CLASS[.METHOD]...]; exit status 77: the lab is not on this host. Each step
begins and ends with both sides in postcopy-active, and all events between are compared; which steps are done, and in which order, --steps
says. Without it they are those that are worth their time in every run; with `all` a second guest is there for the others.
"""
import argparse
import os
import sys
import time
import unittest

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
sys.path[:0] = [ROOT, os.path.dirname(os.path.abspath(__file__))]
from lab import host, nested, testing  # noqa: E402
from lab.machine import Machine  # noqa: E402
from lab.two import Two  # noqa: E402
from remote_guest import PATIENCE, Refused, RemoteGuest  # noqa: E402

BUILD = os.path.join(ROOT, "build", "release")
STEPS = None
LIMIT = 1500.0
PORT, DEAD_PORT, MUTE_PORT, OTHER_PORT = 4444, 1, 4445, 4446
NOBODY = "10.77.0.99"  # on the machines' own subnet, where nobody answers
DEAD_PEER = 6000       # ms; a false alarm would be another event
BACKGROUND = 64 << 10  # bytes per second: the postcopy does not end before it is to

PAUSED, SETUP, RECOVER, ACTIVE = "postcopy-paused", "postcopy-recover-setup", "postcopy-recover", "postcopy-active"
FAILED_ATTEMPT = [SETUP, PAUSED]
RECOVERED_SOURCE, RECOVERED_DESTINATION = [SETUP, RECOVER, ACTIVE], [RECOVER, ACTIVE]


def wait_until(condition, what, timeout=PATIENCE, every=0.1):
    end = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout:g} s: {what() if callable(what) else what}")
        time.sleep(every)
    return value


class OneMachine:
    """Both guests on one machine, one on each of its soft-RoCE devices; what goes from one to the other leaves by veth0 and comes in by
    veth1, and can be lost there."""
    source_host, destination_host = "10.77.0.1", "10.77.1.1"
    devices = ("veth0", "veth1")

    def __init__(self, image, kernel):
        self._lab = Machine(image, kernel, memory=nested.MEMORY + 600, mtu=9000, limit=LIMIT)
        self.source = self.destination = self._lab

    def wait_ready(self):
        self._lab.wait_ready()
        roce = "import sys; sys.path[:0] = ['demo', 'tests']; import wire; wire.Roce()"  # routes of its own: see there
        self._lab.run(["python3", "-c", roce], check=True)

    def _lose(self, what):
        for device in self.devices:
            self._lab.run(f"tc qdisc del dev {device} root 2>/dev/null; {what.format(device=device)}", check=True)

    def cut(self):
        self._lose("tc qdisc add dev {device} root netem loss 100%")

    def drop_roce(self):
        self._lose("""tc qdisc add dev {device} root handle 1: prio bands 4 &&
            tc qdisc add dev {device} parent 1:4 handle 40: netem loss 100% limit 10000 &&
            tc filter add dev {device} parent 1: protocol ip prio 1 u32 match ip protocol 17 0xff match ip dport 4791 0xffff flowid 1:4""")

    def restore(self):
        self._lose("true")

    def close(self):
        self._lab.close()


class TwoMachines:
    """One guest on each of two machines."""
    source_host, destination_host = "10.77.0.1", "10.77.0.2"

    def __init__(self, image, kernel):
        self._lab = Two(image, kernel, memory=1100, mtu=9000, limit=LIMIT)
        self.source, self.destination = self._lab.a, self._lab.b

    def wait_ready(self):
        self._lab.wait_ready()

    def cut(self):
        self._lab.cut(carrier="b")

    def drop_roce(self):
        self._lab.drop_roce()

    def restore(self):
        self._lab.drop_roce(0)
        self._lab.restore()
        wait_until(lambda: self.source.run(["ping", "-c", "1", "-W", "5", self.destination_host]).status == 0, "the link comes back")

    def close(self):
        self._lab.close()


class Story:
    """Steps are the methods step_NAME; those of `usual` are done in that order unless --steps says otherwise."""
    World = None
    usual = ()

    def setUp(self):
        self.begun = time.monotonic()
        image, kernel = host.prepare(build=BUILD, added=nested.paths())
        self.world = self.World(image, kernel)
        self.addCleanup(self.world.close)
        self.world.wait_ready()
        self.tell("the lab is ready")
        self.source = RemoteGuest(self.world.source, BUILD, "src")
        self.destination = RemoteGuest(self.world.destination, BUILD, "dst", incoming=True)
        for guest in self.both():
            guest.wait_started()
        self.since = {}
        self.tell("both QEMUs have started")

    def tell(self, what):
        print(f"      {time.monotonic() - self.begun:5.1f} s: {what}", file=sys.stderr, flush=True)

    def both(self):
        return self.source, self.destination

    def test_it_arrives_whole(self):
        self.go_through(self.usual if STEPS in ([], ["all"]) else STEPS)

    def test_it_arrives_whole_after_all_others(self):
        if STEPS != ["all"]:
            self.skipTest("only with --steps all")
        self.go_through([name.removeprefix("step_") for name in dir(self) if name.startswith("step_") and name.removeprefix("step_") not in self.usual])

    def go_through(self, steps):
        try:
            self.begin()
            self.tell("it runs at the destination")
            for name in steps:
                with self.subTest(name):
                    step = getattr(self, f"step_{name}")
                    self.mark()
                    self.wait_served()
                    step()
                    self.assertTrue(step.__doc__)
                    self.tell(name)
                    continue
                self.fail(f"{name} did not end well; what comes after it would say nothing")
            left = self.destination.migration()["x-pageferry-postcopy"]["missing"]
            self.arrive()
            self.tell(f"it has arrived; {left >> 20} MiB were missing still")
        except BaseException:
            for guest in self.both():
                if guest.job.running:
                    try:
                        print(f"--- {guest.name}: {guest.shown()}\n{guest.ask('errors', timeout=20)}", file=sys.stderr)
                    except Exception as error:  # the first one counts  # pylint: disable=broad-except
                        print(f"--- {guest.name}: {guest.shown()}\n{error}", file=sys.stderr)
            raise

    # --- from the first to the last ----------------------------------------------------------------------------------------

    def uri(self, scheme="rdma", address=None, port=PORT):
        return f"{scheme}:{address or self.world.destination_host}:{port}"

    def begin(self):
        self.mark()
        self.source.ask("boot")
        for guest in self.both():
            guest.capabilities("postcopy-ram")
            guest.parameters(**{"x-pageferry-dead-peer-timeout": DEAD_PEER, "x-pageferry-connect-timeout": 2 * DEAD_PEER})
        self.source.parameters(max_bandwidth=20 << 20, downtime_limit=1, max_postcopy_bandwidth=BACKGROUND)
        self.destination.qmp("migrate-incoming", uri=self.uri())
        self.source.qmp("migrate", uri=self.uri())
        self.source.wait_status("active")
        self.source.qmp("migrate-start-postcopy")
        self.expect(["setup", "active", "STOP", "device", "postcopy-device", ACTIVE],
                    ["setup", "active", "postcopy-device", ACTIVE, "RESUME"])
        self.assert_by("rdma")

    def arrive(self):
        self.mark()
        self.source.parameters(max_postcopy_bandwidth=0)
        self.expect(["completed"], ["completed"])
        self.assertIsNone(self.destination.ask("check"))
        self.assertFalse(self.source.qmp("query-status")["running"])
        for guest in self.both():
            self.assertEqual(guest.end(), {}, "processes are left")
        for machine in {self.world.source, self.world.destination}:
            left = machine.run("ls /dev/shm; for kind in qp mr cm_id; do rdma resource show $kind | grep -E 'comm (pageferry|qemu|lab-)'; done").stdout
            self.assertEqual(left, b"", "something is left")

    # --- what steps are made of --------------------------------------------------------------------------------------------

    def mark(self):
        """What is expected from here on."""
        self.since = {guest: len(guest.events) for guest in self.both()}

    def expect(self, source, destination):
        """Both sides' events since the mark, in their order, and no other until the last of them."""
        for guest, wanted in ((self.source, source), (self.destination, destination)):
            wait_until(lambda guest=guest, wanted=wanted: len(guest.statuses(self.since[guest])) >= len(wanted) or not guest.job.running,
                       lambda guest=guest, wanted=wanted: f"{guest.name}: {guest.statuses(self.since[guest])}, not yet {wanted}")
            guest.migration()  # what has happened by now is heard before the answer
            self.assertEqual(guest.statuses(self.since[guest]), wanted, guest.name)

    def wait_served(self):
        """Page faults of the guest are served by this connection: the destination asked for pages, and is given them."""
        def figures():
            answer = self.destination.migration()
            self.assertEqual(answer["status"], ACTIVE)
            return answer["x-pageferry-postcopy"]["bytes"]
        first = figures()
        wait_until(lambda: figures() > first, "pages come")

    def assert_by(self, name):
        """The transport that carries it, as both sides see it."""
        for guest in self.both():
            self.assertEqual(guest.migration()["x-pageferry-transport"]["name"], name, guest.name)

    def assert_paused(self, source=".", destination="."):
        """Both, and why."""
        for guest, pattern in ((self.source, source), (self.destination, destination)):
            answer = guest.migration()
            self.assertEqual(answer["status"], PAUSED, guest.name)
            self.assertRegex(answer["error-desc"], pattern, guest.name)

    def resume(self, *uris):
        """The event is there before the answer."""
        since = len(self.source.events)
        self.source.qmp("migrate", **({"uri": uris[0]} if len(uris) == 1 else {"uris": list(uris)}), resume=True)
        self.assertEqual(self.source.statuses(since)[:1], [SETUP])

    def recover(self, *uris, by, before=((), ())):
        """Ends the step: everything since the mark was a pause, what is in `before`, and this."""
        self.resume(*uris)
        self.expect([PAUSED, *before[0], *RECOVERED_SOURCE], [PAUSED, *before[1], *RECOVERED_DESTINATION])
        self.assert_by(by)
        self.wait_served()

    def fail_to_resume(self, *uris, reason):
        since = len(self.source.events)
        self.resume(*uris)
        wait_until(lambda: len(self.source.statuses(since)) > 1, "it gives up")
        self.assertEqual(self.source.statuses(since), FAILED_ATTEMPT)
        self.assert_paused(source=reason)

    def required(self, on=True):
        self.source.parameters(**{"x-pageferry-rdma": "required" if on else "preferred"})

    def pause(self):
        self.source.qmp("migrate-pause")
        self.expect([PAUSED], [PAUSED])
        self.assert_paused("paused by the user", "paused by the user")

    def lose(self, how):
        """Each side finds out by itself."""
        how()
        self.expect([PAUSED], [PAUSED])
        self.assert_paused()

    # --- steps: the operator -----------------------------------------------------------------------------------------------

    def step_to_tcp(self):
        """Paused on RDMA, recovered on TCP."""
        self.pause()
        self.recover(self.uri("tcp"), by="tcp")

    def step_to_rdma(self):
        """Paused, recovered on RDMA."""
        self.pause()
        self.recover(self.uri(), by="rdma")

    def step_elsewhere(self):
        """By another port, where the destination listens only since it was told to."""
        self.pause()
        self.destination.qmp("migrate-recover", uri=self.uri(port=OTHER_PORT))
        self.recover(self.uri(port=OTHER_PORT), by="rdma")

    def step_pause_while_an_address_is_resolved(self):
        """migrate-pause ends an attempt that hangs in the connection manager, long before its own time is up."""
        self.pause()
        self.required()
        patience = {"x-pageferry-dead-peer-timeout": 3_600_000, "x-pageferry-connect-timeout": 3_600_000}
        self.source.parameters(**patience)
        self.resume(self.uri(address=NOBODY))
        # The kernel asks for that address in vain: it is being resolved.
        wait_until(lambda: self.world.source.run(f"ip neigh show {NOBODY}").stdout.strip(), "the address is resolved")
        self.assertEqual(self.source.migration()["status"], SETUP)
        self.source.qmp("migrate-pause")
        self.expect([PAUSED, *FAILED_ATTEMPT], [PAUSED])
        self.assert_paused("paused by the user")
        self.source.parameters(**{"x-pageferry-dead-peer-timeout": DEAD_PEER, "x-pageferry-connect-timeout": 2 * DEAD_PEER})
        self.required(False)
        self.recover(self.uri(), by="rdma", before=(FAILED_ATTEMPT, ()))

    # --- steps: nobody, or somebody else, at the other end --------------------------------------------------------------------

    def step_dead_port_on_rdma_alone(self):
        """Nothing else is tried where RDMA is required."""
        self.pause()
        self.required()
        self.fail_to_resume(self.uri(port=DEAD_PORT), reason=r"^connect RDMA connection manager \(peer [0-9.]+:1\): nobody listens on that port for RDMA "
                            r"\(native code 8\); start the destination first, and give it an rdma: URI with this port$")
        self.required(False)
        self.recover(self.uri(), by="rdma", before=(FAILED_ATTEMPT, ()))

    def step_dead_port(self):
        """Otherwise TCP is, at the same port, within the same attempt."""
        self.pause()
        self.fail_to_resume(self.uri(port=DEAD_PORT), reason="Connection refused.*tried before: rdma:.*nobody listens on that port for RDMA")
        self.recover(self.uri(), by="rdma", before=(FAILED_ATTEMPT, ()))

    def step_address_nobody_has(self):
        """The attempt ends within its time, and says with which step."""
        self.pause()
        self.required()
        self.fail_to_resume(self.uri(address=NOBODY), reason=f"^resolve address .*{NOBODY}")
        self.required(False)
        self.recover(self.uri(), by="rdma", before=(FAILED_ATTEMPT, ()))

    def step_list_of_uris(self):
        """A listener that never accepts, a dead port, then the good one: one attempt, and all that was tried is told in its event."""
        mute = self.world.destination.spawn(["lab-listener", "never-accept", "rdma", self.world.destination_host, str(MUTE_PORT)])
        wait_until(lambda: b"listening" in mute.output, "it listens")
        self.pause()
        uris = [self.uri(port=MUTE_PORT), self.uri(port=DEAD_PORT), self.uri("tcp", port=DEAD_PORT), self.uri("tcp")]
        self.recover(*uris, by="tcp")
        mute.kill()
        mute.wait(PATIENCE)
        told, = self.source.transports(self.since[self.source])
        self.assertEqual(told["uri"], uris[-1])
        self.assertEqual([(one["uri"], one["phase"]) for one in told["attempts"]], [(uri, "connecting") for uri in uris[:-1]])
        for one, reason in zip(told["attempts"], ("did not answer", "nobody listens", "refused"), strict=True):
            self.assertIn(reason, one["reason"])

    def step_stranger(self):
        """Who is no source of this migration changes nothing, by either transport, and there is no event."""
        self.pause()
        for scheme in ("rdma", "tcp"):
            said = self.world.source.run(f"pageferry-perf push {self.uri(scheme)} --size 4M --timeout 20 --dead-peer 5", timeout=PATIENCE)
            self.assertEqual(said.status, 1, said)
        self.world.source.run(f"rping -c -a {self.world.destination_host} -p {PORT} -C 1", timeout=PATIENCE)  # no transport of ours at all
        self.expect([PAUSED], [PAUSED])
        self.assertGreaterEqual(self.destination.ask("errors").count("turned away"), 2)
        self.recover(self.uri(), by="rdma")

    # --- steps: processes that die ---------------------------------------------------------------------------------------------

    def step_source_mover_killed(self):
        """Its place is taken by another one."""
        self.source.ask("kill_mover")
        self.expect([PAUSED], [PAUSED])
        self.assert_paused("the mover process ended in the middle")
        self.recover(self.uri(), by="rdma")

    def wait_next_mover(self, before):
        """The destination's next one listens by both transports."""
        wait_until(lambda: self.destination.ask("errors").count("listening on") >= before + 2, "it listens again")

    def step_destination_mover_killed(self):
        """The monitor process has all that matters; the next mover listens at the same URIs."""
        listening = self.destination.ask("errors").count("listening on")
        self.destination.ask("kill_mover")
        self.expect([PAUSED], [PAUSED])
        self.assert_paused(destination="the mover process ended in the middle")
        self.wait_next_mover(listening)
        self.recover(self.uri(), by="rdma")

    def step_movers_killed_in_every_state(self):
        """Paused at the destination, and in the middle of an attempt at the source."""
        self.pause()
        listening = self.destination.ask("errors").count("listening on")
        self.destination.ask("kill_mover")
        self.wait_next_mover(listening)
        self.required()
        self.resume(self.uri(address=NOBODY))
        self.source.ask("kill_mover")
        self.expect([PAUSED, *FAILED_ATTEMPT], [PAUSED])
        self.required(False)
        self.recover(self.uri(), by="rdma", before=(FAILED_ATTEMPT, ()))

    # --- steps: the network ------------------------------------------------------------------------------------------------------

    def step_cut(self):
        """For longer than anybody waits; an attempt in the middle of it fails, one after it succeeds."""
        self.lose(self.world.cut)
        self.required()
        self.fail_to_resume(self.uri(), reason="time|unreachable|did not answer|resolve|route")
        self.required(False)
        self.world.restore()
        self.recover(self.uri(), by="rdma", before=(FAILED_ATTEMPT, ()))

    def step_cut_on_tcp(self):
        """Lost on TCP, recovered on RDMA."""
        self.pause()
        self.recover(self.uri("tcp"), by="tcp")
        self.mark()
        self.lose(self.world.cut)
        self.world.restore()
        self.recover(self.uri(), by="rdma")

    def step_roce_lost(self):
        """RoCE is lost and TCP is not: the attempt goes on by TCP, and says why; later it goes back."""
        self.lose(self.world.drop_roce)
        self.recover(self.uri(), by="tcp")
        told, = self.source.transports(self.since[self.source])
        self.assertEqual((told["uri"], [one["uri"] for one in told["attempts"]]), (self.uri("tcp"), [self.uri()]))
        self.world.restore()
        self.mark()
        self.pause()
        self.recover(self.uri(), by="rdma")

    def step_cut_again_in_the_recovery(self):
        """At any moment of it: what was begun ends in a pause at both sides, by legal ways alone."""
        self.lose(self.world.cut)
        for pause in (0, 0.05, 0.1, 0.2, 0.4):
            self.world.restore()
            self.mark()
            self.resume(self.uri())
            time.sleep(pause)  # not a wait: which moment it is does not matter
            self.world.cut()
            wait_until(lambda: self.source.statuses(self.since[self.source])[-1] == PAUSED, "the source is paused again")
            wait_until(lambda: self.destination.statuses(self.since[self.destination])[-1:] in ([], [PAUSED]), "the destination is paused again")
            self.assertIn(self.source.statuses(self.since[self.source]), [FAILED_ATTEMPT, [SETUP, RECOVER, PAUSED], [SETUP, RECOVER, ACTIVE, PAUSED]])
            self.assertIn(self.destination.statuses(self.since[self.destination]), [[], [RECOVER, PAUSED], [RECOVER, ACTIVE, PAUSED]])
        self.world.restore()
        self.mark()
        self.resume(self.uri())
        self.expect(RECOVERED_SOURCE, RECOVERED_DESTINATION)

    def step_by_itself(self):
        """Automatic recovery, with the events of one by hand and no command."""
        self.source.parameters(**{"x-pageferry-recover-attempts": 100, "x-pageferry-recover-backoff": 500})
        self.lose_and_mend()
        self.source.parameters(**{"x-pageferry-recover-attempts": 0})
        attempts = self.source.statuses(self.since[self.source])
        self.assertEqual(attempts, [PAUSED, *(FAILED_ATTEMPT * ((len(attempts) - 4) // 2)), *RECOVERED_SOURCE])
        self.assertEqual(self.destination.statuses(self.since[self.destination]), [PAUSED, *RECOVERED_DESTINATION])

    def lose_and_mend(self):
        self.world.cut()
        self.source.wait_status(PAUSED, self.since[self.source])
        self.destination.wait_status(PAUSED, self.since[self.destination])
        self.world.restore()
        self.source.wait_status(ACTIVE, self.since[self.source])
        self.destination.wait_status(ACTIVE, self.since[self.destination])

    def step_twenty_times(self):
        """From one transport to the other and back. The guest stands still, or it would have touched all its pages too soon."""
        self.destination.qmp("stop")
        for number in range(20):
            self.mark()
            self.pause()
            scheme = ("tcp", "rdma")[number % 2]
            self.resume(self.uri(scheme))
            self.expect([PAUSED, *RECOVERED_SOURCE], [PAUSED, *RECOVERED_DESTINATION])
            self.assert_by(scheme)
        self.destination.qmp("cont")


class Recovery(Story, unittest.TestCase):
    World = OneMachine
    usual = ("to_tcp", "source_mover_killed", "destination_mover_killed", "dead_port_on_rdma_alone", "stranger", "list_of_uris", "cut_on_tcp",
             "pause_while_an_address_is_resolved")


class RecoveryOfTwo(Story, unittest.TestCase):
    World = TwoMachines
    usual = ("cut", "roce_lost")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        BUILD = os.path.abspath(sys.argv.pop(1))
    words = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    words.add_argument("--steps", default="")
    given, rest = words.parse_known_args()
    STEPS = [name for name in given.steps.split(",") if name]
    testing.main([sys.argv[0], *rest])
