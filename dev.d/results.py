"""Sums JUnit files as ctest writes them: `N passed, N failed` alone on the last line; exit 1 on any failure or on no test at all.

results.py FILE...                   sum
results.py --check NAME [failed]     print the file of one check
"""
import sys
import xml.etree.ElementTree as tree


def write_check(name, failed):
    case = tree.Element("testcase", name=name, status="fail" if failed else "run")
    suite = tree.Element("testsuite", name="checks")
    suite.append(case)
    print(tree.tostring(suite, encoding="unicode"))


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
                failed.append(title)
    for title in skipped:
        print("skipped", title)
    for title in failed:
        print("FAILED ", title)
    print(f"{passed} passed, {len(failed)} failed" + (f", {len(skipped)} skipped" if skipped else ""))
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--check"]:
        write_check(sys.argv[2], sys.argv[3:4] == ["failed"])
    else:
        sys.exit(main(sys.argv[1:]))
