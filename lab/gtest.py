#!/usr/bin/env python3
"""Runs GoogleTest programs in one lab machine and writes a JUnit file with each of their tests by its own name.

gtest.py [options] [NAME=]'PROGRAM ARGUMENTS'...

Tests are called lab.NAME.SUITE.TEST in the file (NAME: the program's, unless given) with the statuses of ctest: run, fail, notrun.
A test that ends the program, or passes its time, has failed; the tests after it are run by starting the program again.
Exit status: 0 all passed, 1 some failed, 77 the lab is not on this host.
"""
import argparse
import os
import re
import shlex
import sys
import time
import xml.etree.ElementTree as tree

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
from lab import host  # noqa: E402
from lab.lane import CommandTimeout, LabError  # noqa: E402
from lab.machine import Machine  # noqa: E402

NOT_HERE = 77
RESULTS = "/run/results.xml"


def listed(text):
    """The full names in what --gtest_list_tests prints."""
    suite, names = "", []
    for line in text.splitlines():
        word = line.split("#")[0].rstrip()
        if re.fullmatch(r"\S+\.", word):
            suite = word
        elif re.match(r"  \S", word) and suite:
            names.append(suite + word.strip())
    return names


def from_xml(data):
    """{full name: (status, message, seconds)} of GoogleTest's own file; empty if it is none."""
    try:
        root = tree.fromstring(data)
    except tree.ParseError:
        return {}
    found = {}
    for case in root.iter("testcase"):
        failures = [f.text or f.get("message", "") for f in case.findall("failure")]
        skipped = case.find("skipped")
        if failures:
            verdict = "fail", "\n".join(failures)
        elif skipped is not None or case.get("result") == "skipped":
            verdict = "notrun", (skipped.get("message") if skipped is not None else None) or "skipped"
        elif case.get("status") == "notrun" or case.get("result") == "suppressed":
            continue  # disabled, or left out by a filter
        else:
            verdict = "run", ""
        found[f"{case.get('classname')}.{case.get('name')}"] = (*verdict, float(case.get("time", 0)))
    return found


def from_output(text):
    """The same of its standard output, and the name of the test that was under way at the end, for a program that did not get to write
    its file."""
    found, current, begin = {}, None, 0
    for match in re.finditer(r"^\[ +(RUN|OK|FAILED|SKIPPED) +\] ([^\s,(]+\.[^\s,(]+)(?:[^\n]*\((\d+) ms\))?", text, re.M):
        kind, name, milliseconds = match.group(1), match.group(2), float(match.group(3) or 0) / 1000
        if kind == "RUN":
            current, begin = name, match.end()
        elif name == current:
            said = text[begin:match.start()].strip()
            found[name] = ({"OK": "run", "FAILED": "fail", "SKIPPED": "notrun"}[kind], "" if kind == "OK" else said or kind, milliseconds)
            current = None
    return found, current


class Program:
    def __init__(self, words, build):
        name, _, rest = words.partition("=") if re.match(r"[\w.-]+=", words) else ("", "", words)
        self.command = shlex.split(rest)
        self.name = name or os.path.basename(self.command[0])
        if os.sep not in self.command[0]:
            self.command[0] = os.path.join(os.path.abspath(build), "bin", self.command[0])
        else:
            self.command[0] = os.path.abspath(self.command[0])

    def run(self, machine, patience, show):
        """{name: (status, message, seconds)} of all its tests."""
        answer = machine.run(["env", "-u", "GTEST_FILTER", *self.command, "--gtest_list_tests"], timeout=60)
        wanted = [name for name in listed(answer.stdout.decode(errors="replace")) if ".DISABLED_" not in name and not name.startswith("DISABLED_")]
        if answer.status or not wanted:
            return {"(list)": ("fail", f"it lists no tests: status {answer.status}\n{(answer.stdout + answer.stderr).decode(errors='replace')}", 0.0)}
        found = {}
        while left := [name for name in wanted if name not in found]:
            found.update(self._run_some(machine, left, len(left) == len(wanted), patience, show))
        return found

    def _run_some(self, machine, left, every, patience, show):
        job = machine.spawn(["env", "-u", "GTEST_FILTER", *self.command, f"--gtest_output=xml:{RESULTS}", "--gtest_color=no",
                             *([] if every else ["--gtest_filter=" + ":".join(left)])], stdout=show)
        try:
            result = job.wait(patience)
            ended, errors = f"the program ended with status {result.status}", result.stderr.decode(errors="replace")
        except CommandTimeout as error:
            ended, errors = f"not done in {patience:g} s, and killed", str(error)
        found, current = from_output(job.output.decode(errors="replace"))
        data = machine.run(f"cat {RESULTS}; rm -f {RESULTS}").stdout
        found.update(from_xml(data))
        found = {name: verdict for name, verdict in found.items() if name in left}
        if not data:
            culprit = current or next((name for name in left if name not in found), None)
            if culprit:
                found[culprit] = ("fail", f"{ended}\n{errors[-4000:]}", 0.0)
        elif not found:  # it says that it is done, and has run nothing
            found = {name: ("fail", f"was not run; {ended}\n{errors[-4000:]}", 0.0) for name in left}
        return found


def write(path, results):
    suite = tree.Element("testsuite", name="lab", tests=str(len(results)))
    for name, (status, message, seconds) in results.items():
        case = tree.SubElement(suite, "testcase", name=name, classname=name, status=status, time=f"{seconds:.3f}")
        if status == "fail":
            tree.SubElement(case, "failure", message="").text = message
        elif status == "notrun":
            tree.SubElement(case, "skipped", message=message)
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    tree.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)


def report(name, status, message, seconds):
    word = {"run": "passed ", "fail": "FAILED ", "notrun": "skipped"}[status]
    print(f"{word} {name} ({seconds:.2f} s)" + (f"\n{message}" if message else ""), flush=True)


def options():
    o = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    o.add_argument("programs", nargs="+", metavar="[NAME=]'PROGRAM ARGUMENTS'", help="a program of the build directory, or a path")
    o.add_argument("--build", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "build", "release"))
    o.add_argument("--kernel", default=host.KERNEL)
    o.add_argument("--cpus", type=int, default=2)
    o.add_argument("--mtu", type=int, default=1500)
    o.add_argument("--memory", type=int, default=2048, help="MiB")
    o.add_argument("--output", help="the JUnit file")
    o.add_argument("--timeout", type=float, default=300.0, help="seconds for one program (default %(default)s)")
    o.add_argument("--limit", type=float, default=1200.0, help="seconds for everything (default %(default)s)")
    o.add_argument("--verbose", action="store_true", help="show what the programs print")
    return o.parse_args()


def main():
    given = options()
    begin, results = time.monotonic(), {}

    def show(data):
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    try:
        image, kernel = host.prepare(given.kernel, given.build)
        programs = [Program(words, given.build) for words in given.programs]
        with Machine(image, kernel, memory=given.memory, mtu=given.mtu, cpus=given.cpus, limit=given.limit) as machine:
            try:
                machine.wait_ready()
                print(f"the lab is ready after {time.monotonic() - begin:.1f} s", flush=True)
                for program in programs:
                    print(f"running {program.name}", flush=True)
                    for name, verdict in program.run(machine, given.timeout, show if given.verbose else None).items():
                        results[f"lab.{program.name}.{name}"] = verdict
                        report(f"lab.{program.name}.{name}", *verdict)
            except LabError as error:
                why = f"{'the time limit has passed; ' if machine.limit_passed else ''}{error}\n{machine.console()}"
                results["lab.machine"] = ("fail", why, time.monotonic() - begin)
                report("lab.machine", *results["lab.machine"])
    except host.NotFetched as error:
        print(error, file=sys.stderr)
        return NOT_HERE
    if given.output:
        write(given.output, results)
    count = {status: sum(1 for r in results.values() if r[0] == status) for status in ("run", "fail", "notrun")}
    print(f"{count['run']} passed, {count['fail']} failed, {count['notrun']} skipped in {time.monotonic() - begin:.1f} s")
    return 1 if count["fail"] or not count["run"] else 0


if __name__ == "__main__":
    sys.exit(main())
