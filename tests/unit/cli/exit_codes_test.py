#!/usr/bin/env python3
"""docs/cli.md lists the exit codes that the header has: exit_codes_test.py HEADER DOCUMENT."""
import re
import sys

with open(sys.argv[1], encoding="utf-8") as header, open(sys.argv[2], encoding="utf-8") as document:
    source, text = header.read(), document.read()
numbers = {name: int(value) for name, value in re.findall(r"(exit_\w+) = (\d+),", source)}
coded = {(numbers[name], words) for name, words in re.findall(r"\{\.code = (exit_\w+),\s*\.text = \"([^\"]+)\"\}", source)}
documented = {(int(number), words.replace("`", "").strip()) for number, words in re.findall(r"^\| (\d+) \| (.+) \|$", text, re.MULTILINE)}
if len(coded) != len(numbers):
    sys.exit(f"{sys.argv[1]}: not every code has its words, or they are written in a way this test does not read")
if coded != documented:
    sys.exit(f"only in the header: {sorted(coded - documented)}\nonly in the document: {sorted(documented - coded)}")
