#!/usr/bin/env python3
"""The last lines of ./dev test: they count all tests, and say of those that failed what matters."""
import os
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as tree

RESULTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "dev.d", "results.py")

UNITTEST = """\
test_a (__main__.Two.test_a) ... ok
test_b (__main__.Two.test_b)
What it is for. ... FAIL

======================================================================
FAIL: test_b (__main__.Two.test_b)
What it is for.
----------------------------------------------------------------------
Traceback (most recent call last):
  File "/there/faults_test.py", line 12, in test_b
    self.check()
  File "/there/faults_test.py", line 34, in check
    self.assertEqual(1, 2,
        "text")
AssertionError: 1 != 2 : said
much

======================================================================
ERROR: setUpClass (__main__.Three)
----------------------------------------------------------------------
Traceback (most recent call last):
  File "/there/machine.py", line 5, in wait_ready
    raise LabError
LabError: a did not boot

----------------------------------------------------------------------
Ran 2 tests in 1.000s

FAILED (failures=1, errors=1)
"""

GOOGLETEST = """\
[ RUN      ] Suite.Case
/there/case_test.cc:7: Failure
Expected equality of these values:
  one
  two
[  FAILED  ] Suite.Case (0 ms)
"""


class Results(unittest.TestCase):
    def lines(self, *cases):
        """What is printed of (name, status, output)... and the exit status."""
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "release.xml")
            suite = tree.Element("testsuite")
            for name, status, said in cases:
                case = tree.SubElement(suite, "testcase", name=name, status=status, time="1.5")
                if status == "fail":
                    tree.SubElement(case, "failure", message="")
                tree.SubElement(case, "system-out").text = said
            tree.ElementTree(suite).write(path)
            result = subprocess.run([sys.executable, RESULTS, path], capture_output=True, text=True, check=False)
        self.assertEqual(result.stderr, "")
        return result.stdout.splitlines(), result.returncode

    def test_all_passed(self):
        self.assertEqual(self.lines(("a", "run", "much"), ("b", "run", "")), (["2 passed, 0 failed"], 0))

    def test_no_test_at_all(self):
        self.assertEqual(self.lines(), (["0 passed, 0 failed"], 1))

    def test_python(self):
        self.assertEqual(self.lines(("a", "fail", UNITTEST), ("b", "run", "")), ([
            "FAILED  release: a (2 s)",
            "    FAIL: test_b (__main__.Two.test_b)",
            "    faults_test.py:34 check: AssertionError: 1 != 2 : said much",
            "    ERROR: setUpClass (__main__.Three)",
            "    machine.py:5 wait_ready: LabError: a did not boot",
            "1 passed, 1 failed"], 1))

    def test_googletest(self):
        self.assertEqual(self.lines(("a", "fail", GOOGLETEST)), ([
            "FAILED  release: a (2 s)",
            "    /there/case_test.cc:7: Failure Expected equality of these values: one two",
            "0 passed, 1 failed"], 1))

    def test_the_end_of_anything_else(self):
        lines, _ = self.lines(("a", "fail", "".join(f"line {n}\n\n" for n in range(20))))
        self.assertEqual(lines[1:-1], [f"    line {n}" for n in range(14, 20)])

    def test_it_is_little(self):
        lines, _ = self.lines(*((f"{n}", "fail", "\n".join("x" * 1000 for _ in range(100))) for n in range(5)))
        self.assertEqual([line[:6] for line in lines].count("FAILED"), 5)
        self.assertLessEqual(len(lines), 5 + 18 + 1)
        self.assertLessEqual(max(map(len, lines)), 300)
        lines, _ = self.lines(*((f"{n}", "fail", UNITTEST) for n in range(50)))
        self.assertLessEqual(len(lines), 50 + 18 + 1)
        self.assertEqual(lines[-1], "0 passed, 50 failed")

    def test_a_check(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "check-format.xml")
            with open(path, "w", encoding="utf-8") as file:
                subprocess.run([sys.executable, RESULTS, "--check", "format", "failed"], input="a.cc is wrong\x1b\n", text=True, stdout=file, check=True)
            result = subprocess.run([sys.executable, RESULTS, path], capture_output=True, text=True, check=False)
        self.assertEqual(result.stdout.splitlines(), ["FAILED  check-format: format", "    a.cc is wrong?", "0 passed, 1 failed"])


if __name__ == "__main__":
    unittest.main()
