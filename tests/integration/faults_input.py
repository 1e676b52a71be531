#!/usr/bin/env python3
"""Bad input: each gets an error that names the thing and the remedy, changes nothing, and a good migration works afterwards.

faults_input.py BUILD/bin [unittest options]
"""
import os
import shutil
import socket
import subprocess
import sys
import unittest

from faults_common import MEMORY, FaultCase, Guest, connect_to, listen, main, peer, preamble, program, read_exactly, shut, whole_connection
from qemu_pair import Qmp, QmpError, free_port, wait_until

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.geteuid() == 0
IN_PRIVATE_MOUNTS = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]


def waits_for_words(caller):
    """As a web server: it speaks when it is spoken to."""
    caller.recv(4096)
    caller.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    caller.close()


def speaks_first(caller):
    caller.sendall(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")


def says_nothing(caller):
    caller.recv(1)  # until the caller gives up


def another_version(caller):
    caller.sendall(b"PGFERRY\n" + b"\x07\x00\x09\x00" + bytes(4))
    caller.recv(64)


def hangs_up(caller):
    caller.close()


def greets_and_leaves(caller):
    caller.sendall(b"PGFERRY\n" + b"\x01\x00\x01\x00" + bytes(4))
    caller.recv(64)
    caller.close()


class SourceInput(FaultCase):
    """What a source may be told to migrate to."""

    def assert_refused_at_once(self, source, uri, *words):
        """The command fails, and nothing has changed."""
        before, events = source.migration(), len(source.qmp.events)
        with self.subTest(uri=uri):
            with self.assertRaises(QmpError) as refusal:
                source.qmp.execute("migrate", uri=uri)
            for word in words:
                self.assertIn(word, str(refusal.exception))
            self.assertEqual(source.migration(), before)
            self.assertEqual(source.statuses(events), [])
            self.assertTrue(source.running())

    def assert_fails(self, source, uri, *words):
        """The migration begins and fails, in QEMU's order; the guest goes on."""
        events = len(source.qmp.events)
        with self.subTest(uri=uri, words=words):
            source.qmp.execute("migrate", uri=uri)
            error = source.wait_status("failed").get("error-desc", "")
            for word in words:
                self.assertIn(word, error)
            wait_until(lambda: "failed" in source.statuses(events), "no event failed")
            self.assertEqual(source.statuses(events), ["setup", "failing", "failed"])
            self.assertTrue(source.running())
            source.wait_no_mover()

    def test_addresses(self):
        source = self.source()
        for uri, words in {
                "tcp:127.0.0.1": ["port is missing", "tcp:HOST:PORT"],
                "tcp:127.0.0.1:": ["port is empty"],
                "tcp:127.0.0.1:70000": ["70000", "65535"],
                "tcp:127.0.0.1:http": ["http", "digits"],
                "tcp:127.0.0.1:4444,to=9": ["to=9"],
                "tcp:[::1:4444": ["bracket"],
                "tcp:::1:4444": ["brackets"],
                "tcp:two words:4444": ["two words"],
                "unix:": ["path"],
                "unix:/" + "x" * 200: ["shorter"],
                "quic:127.0.0.1:4444": ["quic"],
                "localhost:4444": ["localhost"],
                "": ["protocol"]}.items():
            self.assert_refused_at_once(source, uri, *words)
        source.impatient(5000)
        nobody = f"tcp:127.0.0.1:{free_port()}"
        self.assert_fails(source, nobody, nobody, "nobody listens")
        self.assert_fails(source, "tcp:no-such-host.invalid:4444", "no-such-host.invalid")
        self.assert_fails(source, "unix:/nowhere/at/all.sock", "/nowhere/at/all.sock")
        self.assert_goes_on(source)
        self.assert_moves(source)

    def test_peers_that_are_not_pageferry(self):
        source = self.source()
        source.impatient(1500)
        for behave, words in {waits_for_words: ["did not greet", "pageferry qemu"],
                              speaks_first: ["not Pageferry", "pageferry qemu"],
                              says_nothing: ["did not greet", "pageferry qemu"],
                              hangs_up: ["closed"],
                              greets_and_leaves: ["closed"],
                              another_version: ["7..9", "releases of Pageferry"]}.items():
            with peer(behave) as uri:
                self.assert_fails(source, uri, uri.removeprefix("tcp:"), *words)
        with Guest(self.work, "plain", incoming=True, plain=True) as plain:
            self.assert_fails(source, listen(plain), "plain QEMU", "pageferry qemu")
        self.assert_goes_on(source)
        self.assert_moves(source)

    def test_guests_that_differ(self):
        source = self.source()
        other, uri = self.listening(memory=MEMORY + 16)
        mib = 1 << 20
        self.assert_fails(source, uri, "pc.ram", str(MEMORY * mib), str((MEMORY + 16) * mib))
        wait_until(lambda: "turned away" in other.errors(), "the destination does not say whom it turned away")
        for size in MEMORY * mib, (MEMORY + 16) * mib:
            self.assertIn(str(size), other.errors())
        self.assertEqual(other.statuses(), ["setup"])
        self.assertEqual(other.migration()["status"], "setup")
        self.assert_goes_on(source)
        self.assert_moves(source)


class DestinationInput(FaultCase):
    """What may come to a destination."""

    def assert_still_waits(self, destination, uri):
        self.assertEqual(destination.migration()["status"], "setup")
        self.assertEqual(destination.statuses(), ["setup"])
        self.assertTrue(destination.alive())
        shut(connect_to(uri))

    def test_port_taken(self):
        source, destination = self.source(), self.destination()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            uri = f"tcp:127.0.0.1:{taken.getsockname()[1]}"
            before = destination.migration()
            with self.assertRaises(QmpError) as refusal:
                destination.qmp.execute("migrate-incoming", uri=uri)
            self.assertIn(uri.removeprefix("tcp:"), str(refusal.exception))
            self.assertIn("another port", str(refusal.exception))
            self.assertEqual(destination.migration(), before)
            self.assertEqual(destination.statuses(), [])
        with self.assertRaises(QmpError):
            destination.qmp.execute("migrate-incoming", uri="tcp:192.0.2.77:4444")  # no address of this host
        source.let_go()
        source.qmp.execute("migrate", uri=listen(destination))
        destination.wait_status("completed")
        self.assert_goes_on(destination)

    def test_strangers(self):
        source = self.source()
        destination = self.destination()
        destination.impatient(1500)
        uri = listen(destination)
        for words in (b"", b"\0" * 64, os.urandom(4096), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"QEVM\0\0\0\3" + bytes(200), b"\x16\x03\x01\x02\0",
                      preamble(0, bytes(16))[:30], preamble(0, bytes(16), version=9), preamble(7, bytes(16)), preamble(1, bytes(16))):
            with connect_to(uri) as stranger:
                read_exactly(stranger, 16)
                if words:
                    stranger.sendall(words)
            self.assert_still_waits(destination, uri)
        # A QEMU of its own: that one sees an error, this one names it.
        with Guest(self.work, "plain", plain=True) as plain:
            plain.qmp.execute("migrate", uri=uri)
            plain.wait_status("failed", "completed")
        wait_until(lambda: "plain QEMU" in destination.errors(), lambda: f"plain QEMU is not named: {destination.errors()}")
        self.assert_still_waits(destination, uri)
        # The transport's handshake is right, what follows is not.
        for words in (b"", b"\xff" * 100, b"\x50\x54\x43\x4d" + b"\x0c\0\0\0" + b"PFRY\x0d\0\0\0" + bytes(4), b"\x50\x54\x43\x4d\xff\xff\xff\xff"):
            lanes = whole_connection(uri)
            lanes[0].sendall(words)
            if words:
                wait_for_end(lanes[0])
            for lane in lanes:
                lane.close()
            self.assert_still_waits(destination, uri)
        # And those that stay and say nothing, while the source comes.
        quiet = [connect_to(uri) for _ in range(3)] + whole_connection(uri)
        source.let_go()
        source.qmp.execute("migrate", uri=uri)
        source.wait_status("completed")
        destination.wait_status("completed")
        for stranger in quiet:
            shut(stranger)
        self.assert_goes_on(destination)

    def test_monitor_clients(self):
        source, (destination, uri) = self.source(), self.listening()
        nonsense = (b"\xff\xfe\0\0nonsense", b'{"execute": "migrate", "arguments": {"uri": "tcp:', b"[1, 2, 3]\n", b"{" * 5000, b'"\\ud800"\n',
                    b'{"execute": 7}\n{"execute": "qmp_capabilities"}\n{"execute": "query-migrate"}\n', b'{"execute": "qmp_capabilities"}\n{"execute": "migra')
        for guest in (source, destination):
            for words in nonsense:
                with socket.socket(socket.AF_UNIX) as client:
                    client.connect(guest.cli_path)
                    client.recv(4096)
                    client.sendall(words)
                guest.migration()
            Qmp(guest.cli_path).close()
        # A client that asks for a migration and is gone before the answer: the migration is everybody's.
        source.let_go()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(source.cli_path)
            client.recv(4096)
            client.sendall(b'{"execute": "qmp_capabilities"}\n{"execute": "migrate", "arguments": {"uri": "%s"}}\n' % uri.encode())
            wait_until(lambda: source.migration().get("status"), "the command was not taken")
        source.wait_status("completed")
        destination.wait_status("completed")
        self.assert_goes_on(destination)


def wait_for_end(stream):
    try:
        while stream.recv(4096):
            pass
    except ConnectionResetError:
        pass


class Backends(FaultCase):
    """Guest memory that cannot work, and what the host does not allow: refused before QEMU starts, or by name."""

    def refusal(self, prefix, *arguments):
        """What `pageferry qemu` says instead of starting QEMU."""
        command = [program("pageferry"), "qemu", "--", "qemu-system-x86_64", "-accel", "tcg", "-nodefaults", "-display", "none", "-S", *arguments]
        done = subprocess.run([*prefix, *command], env=self.work.environment(), capture_output=True, text=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 1, done.stderr)
        return done.stderr

    def test_memory_that_is_not_shared(self):
        private = "memory-backend-file,id=ram0,size=64M,mem-path=/dev/shm"
        said = self.refusal([], "-object", private, "-machine", "pc,memory-backend=ram0", "-m", "64M")
        self.assertIn(private, said)
        self.assertIn("use -object " + private + ",share=on", said)
        huge = self.refusal([], "-object", "memory-backend-memfd,id=ram0,size=64M,hugetlb=on", "-machine", "pc,memory-backend=ram0", "-m", "64M")
        self.assertIn("use -object memory-backend-file,id=ram0,size=64M,mem-path=/dev/hugepages,share=on", huge)

    @unittest.skipUnless(ROOT, "a mount of its own needs root")
    def test_full_shm(self):
        small = [*IN_PRIVATE_MOUNTS, 'mount -t tmpfs -o size=16m pageferry-test /dev/shm && exec "$@"', "sh"]
        said = self.refusal(small, "-object", "memory-backend-file,id=ram0,size=64M,mem-path=/dev/shm,share=on", "-machine", "pc,memory-backend=ram0", "-m", "64M")
        for words in ("/dev/shm", "16.0 MiB", "64.0 MiB", "remount"):
            self.assertIn(words, said)

    @unittest.skipUnless(ROOT, "huge pages need root")
    def test_page_sizes_that_differ(self):
        pages = "/sys/kernel/mm/hugepages/hugepages-2048kB/"
        before = read(pages + "nr_hugepages")
        self.addCleanup(write, pages + "nr_hugepages", before)
        write(pages + "nr_hugepages", str(int(before) + MEMORY // 2))
        if int(read(pages + "free_hugepages")) < MEMORY // 2:
            self.skipTest("the host has no huge pages to spare")
        folder = self.work.file("huge")
        os.mkdir(folder)
        mounted = [*IN_PRIVATE_MOUNTS, f'mount -t hugetlbfs -o pagesize=2M pageferry-test {folder} && exec "$@"', "sh"]
        # The name of the block is that of the plain backend.
        huge = ["-object", f"memory-backend-file,id=pc.ram,size={MEMORY}M,mem-path={folder},share=on,x-use-canonical-path-for-ramblock-id=off",
                "-machine", "memory-backend=pc.ram"]
        source = self.source()
        other, uri = self.listening(prefix=mounted, extra=huge)
        source.qmp.execute("migrate", uri=uri)
        error = source.wait_status("failed")["error-desc"]
        for words in ("pc.ram", "4096", "2097152"):
            self.assertIn(words, error)
        self.assertEqual(other.migration()["status"], "setup")
        other.close()
        self.assert_goes_on(source)
        self.assert_moves(source)

    def as_nobody(self, *more):
        os.chmod(self.work.path, 0o777)
        prefix = [sys.executable, os.path.join(HERE, "faults_as_nobody.py"), *more, "--"]
        if subprocess.run([*prefix, program("pageferry"), "--version"], capture_output=True, check=False).returncode:
            self.skipTest("the user nobody may not read the programs")
        return prefix

    @unittest.skipUnless(ROOT, "becoming another user needs root")
    def test_userfaultfd_of_user_faults_alone_is_enough_to_track(self):
        source = self.source(prefix=self.as_nobody())
        self.assert_moves(source)

    @unittest.skipUnless(ROOT, "becoming another user needs root")
    def test_no_userfaultfd_is_refused_by_name(self):
        source = self.source(prefix=self.as_nobody("--deny-userfaultfd"))
        _, uri = self.listening()
        before = source.migration()
        with self.assertRaises(QmpError) as refusal:
            source.qmp.execute("migrate", uri=uri)
        for words in ("userfaultfd", "/dev/userfaultfd"):
            self.assertIn(words, str(refusal.exception))
        self.assertEqual(source.migration(), before)
        self.assertEqual(source.statuses(), [])
        self.assert_goes_on(source)


def read(path):
    with open(path, encoding="ascii") as file:
        return file.read().strip()


def write(path, text):
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


if __name__ == "__main__":
    main()
