"""Sums JUnit files as ctest writes them: `N passed, N failed` alone on the last line; exit 1 on any failure or on no test at all.

results.py FILE...                   sum
results.py --check NAME [failed]     print the file of one check; what it said is read from standard input

Under the name of each test that failed stands what matters most of its output. Only the end of what CI prints may be kept, so it is little.
"""
import re
import sys
import xml.etree.ElementTree as tree

LINES, LINES_OF_ONE, WIDTH = 18, 6, 300  # what failed tests said: of all of them, of one of them, and how wide

_UNITTEST = re.compile(r"^={70}\n((?:FAIL|ERROR): .*)\n(?:.*\n)*?-{70}\n((?:.*\n)*?)(?=^={70}$|^-{70}$)", re.M)
_GOOGLETEST = re.compile(r"^(\S+:\d+: Failure\n(?:(?!\[ ).+\n?){0,3})", re.M)
_SANITIZER = re.compile(r"^.*(?:(?:Address|Thread|Leak)Sanitizer|: runtime error: ).*", re.M)


def write_check(name, failed, said):
    case = tree.Element("testcase", name=name, status="fail" if failed else "run")
    tree.SubElement(case, "system-out").text = re.sub(r"[^\n\t -\ufffd]", "?", said)
    suite = tree.Element("testsuite", name="checks")
    suite.append(case)
    print(tree.tostring(suite, encoding="unicode"))


def end_of_traceback(text):
    """[the last place in it and the exception, on one line]."""
    places = list(re.finditer(r'^ +File "(.*)", line (\d+), in (\S+)\n(?:(?! +File ) .*\n)*', text, re.M))
    if not places:
        return text.splitlines()[-1:]
    path, line, function = places[-1].groups()
    return [f"{path.split('/')[-1]}:{line} {function}: {' '.join(text[places[-1].end():].split())}"]


def what_matters(text):
    """The lines of a failed test's output that say most."""
    text += "\n"
    if blocks := _UNITTEST.findall(text):
        return [line for title, block in blocks for line in [title, *end_of_traceback(block)]]
    if blocks := _GOOGLETEST.findall(text):
        return [" ".join(block.split()) for block in blocks]
    lines = _SANITIZER.findall(text) or [line for line in text.splitlines() if line.strip()][-LINES_OF_ONE:]
    return [line.strip() for line in lines]


def output(case):
    return "\n".join(part.text for part in [*case.findall("failure"), case.find("system-out")] if part is not None and part.text)


def print_failed(failed):
    left = LINES
    for title, case in failed:
        time = f" ({float(case.get('time')):.0f} s)" if case.get("time") else ""
        print(f"FAILED  {title}{time}")
        lines = what_matters(output(case))[:min(left, max(1, LINES // len(failed)), LINES_OF_ONE)]
        left -= len(lines)
        for line in lines:
            print(f"    {line}"[:WIDTH])


def main(files):
    passed, failed, skipped = 0, [], []
    for name in files:
        for case in tree.parse(name).getroot().iter("testcase"):
            status, title = case.get("status"), f"{name.split('/')[-1].removesuffix('.xml')}: {case.get('name')}"
            if status == "run":
                passed += 1
            elif status in ("notrun", "disabled") and case.find("skipped") is not None and case.find("failure") is None:
                skipped.append(f"{title} ({case.find('skipped').get('message') or status})")
            else:
                failed.append((title, case))
    for title in skipped:
        print("skipped", " ".join(title.split()))
    print_failed(failed)
    print(f"{passed} passed, {len(failed)} failed" + (f", {len(skipped)} skipped" if skipped else ""))
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="replace")
    if sys.argv[1:2] == ["--check"]:
        write_check(sys.argv[2], sys.argv[3:4] == ["failed"], sys.stdin.read())
    else:
        sys.exit(main(sys.argv[1:]))
