#!/usr/bin/env python3
"""What the lab is made of, tested without booting it."""
import io
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
from lab import gtest, programs  # noqa: E402
from lab.archive import Archive  # noqa: E402
from lab.image import guest_name  # noqa: E402
from lab.lane import Stream  # noqa: E402


class ArchiveTest(unittest.TestCase):
    def test_layout(self):
        archive = Archive()
        archive.data("a/b/c", b"12345", mode=0o755)
        archive.data("a/b/c", b"not this one")
        archive.link("d", "a/b")
        target = io.BytesIO()
        archive.write(target)
        data = target.getvalue()
        self.assertEqual(len(data) % 4, 0)
        names, at = [], 0
        while at < len(data):
            self.assertEqual(data[at:at + 6], b"070701")
            mode, size, length = (int(data[at + 6 + 8 * n:at + 14 + 8 * n], 16) for n in (1, 6, 11))
            name = data[at + 110:at + 110 + length - 1].decode()
            begin = at + 110 + length + -(110 + length) % 4
            names.append((name, oct(mode), data[begin:begin + size]))
            at = begin + size + -size % 4
        self.assertEqual(names, [("a", "0o40755", b""), ("a/b", "0o40755", b""), ("a/b/c", "0o100755", b"12345"), ("d", "0o120777", b"a/b"),
                                 ("TRAILER!!!", "0o0", b"")])

    def test_usr_is_merged(self):
        self.assertEqual(guest_name("/lib/x86_64-linux-gnu/libc.so.6"), "usr/lib/x86_64-linux-gnu/libc.so.6")
        self.assertEqual(guest_name("/usr/lib/x"), "usr/lib/x")
        self.assertEqual(guest_name("/library/x"), "library/x")


class ProgramsTest(unittest.TestCase):
    def test_a_slim_program_still_runs(self):
        slim = programs.content(sys.executable)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "python")
            with open(path, "wb") as file:
                file.write(slim)
            os.chmod(path, 0o755)
            result = subprocess.run([path, "-c", "print(6 * 7)"], capture_output=True, text=True, check=False, env={**os.environ, "PYTHONHOME": sys.base_prefix})
        self.assertEqual(result.stdout, "42\n", result.stderr)

    def test_other_files_stay_as_they_are(self):
        with open(__file__, "rb") as file:
            self.assertEqual(programs.content(__file__), file.read())

    def test_libraries(self):
        found = programs.libraries([shutil.which("bash"), __file__])
        self.assertTrue(any("libc.so.6" in path for path in found), found)
        self.assertTrue(any("ld-linux" in path for path in found), found)


class StreamTest(unittest.TestCase):
    def feed(self, data, size):
        seen = []
        stream = Stream("token", seen.append)
        for at in range(0, len(data), size):
            stream.feed(data[at:at + size])
        return stream, b"".join(seen)

    def test_everything_up_to_the_token_in_pieces_of_any_size(self):
        for body in (b"", b"text\n", b"\0", b"\0tok", b"\0\0token", b"\0token \n\0"):
            for size in range(1, 20):
                stream, seen = self.feed(body + b"\0token\n", size)
                self.assertTrue(stream.ended)
                self.assertEqual(seen, body)
                self.assertEqual(bytes(stream.all), body)

    def test_nothing_is_held_back_but_what_may_be_the_token(self):
        stream, seen = self.feed(b"no newline", 100)
        self.assertFalse(stream.ended)
        self.assertEqual(seen, b"no newline")
        self.assertEqual(self.feed(b"zero\0to", 100)[1], b"zero")


class GTestTest(unittest.TestCase):
    def test_list(self):
        self.assertEqual(gtest.listed("Running main() from x\nA.\n  one\n  two\nB/P.\n  x/0  # GetParam() = 3\n"), ["A.one", "A.two", "B/P.x/0"])

    def test_output_of_a_program_that_crashed(self):
        found, current = gtest.from_output("""[==========] Running 4 tests
[ RUN      ] A.good
[       OK ] A.good (5 ms)
[ RUN      ] A.bad
x.cc:1: Failure
no
[  FAILED  ] A.bad (1 ms)
[ RUN      ] A.skips
[  SKIPPED ] A.skips (0 ms)
[ RUN      ] A.crash
""")
        self.assertEqual({name: verdict[0] for name, verdict in found.items()}, {"A.good": "run", "A.bad": "fail", "A.skips": "notrun"})
        self.assertIn("x.cc:1: Failure", found["A.bad"][1])
        self.assertEqual(current, "A.crash")

    def test_xml(self):
        found = gtest.from_xml(b"""<?xml version="1.0"?><testsuites><testsuite name="A">
            <testcase name="good" status="run" result="completed" time="0.5" classname="A"/>
            <testcase name="bad" status="run" result="completed" time="0" classname="A"><failure message="m">why</failure></testcase>
            <testcase name="skips" status="run" result="skipped" time="0" classname="A"><skipped message="no kernel"/></testcase>
            <testcase name="out" status="notrun" result="suppressed" time="0" classname="A"/></testsuite></testsuites>""")
        self.assertEqual(found, {"A.good": ("run", "", 0.5), "A.bad": ("fail", "why", 0.0), "A.skips": ("notrun", "no kernel", 0.0)})
        self.assertEqual(gtest.from_xml(b""), {})


if __name__ == "__main__":
    unittest.main()
