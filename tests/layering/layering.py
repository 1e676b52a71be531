#!/usr/bin/env python3
"""Dependencies point downward only: fails when a folder includes, or links to, something that is not below it.

layering.py [--root DIRECTORY] [--binaries DIRECTORY]

Reads #include "..." of every source file and the LINK lists and target_link_libraries of every CMakeLists.txt. With --binaries it
also asks the linked programs what they import.
"""
import argparse
import os
import re
import subprocess
import sys

# Who may see what. A key is a folder or a file, and the longest one that fits a file counts; its value is what that file may include,
# besides its own key's folder. A folder that is no key here is an error: new folders take their place on purpose.
INCLUDES = {
    "base": [],
    "transport": ["base"],
    "transport/abi": [],  # a third party has this one header and nothing else
    "statemachine": ["base"],
    "memory": ["base"],
    "transport/plugin": ["base", "transport/abi", "transport/uri.h"],  # what our own plugins share; no loader, no session
    "tcp_fallback": ["base", "transport/abi", "transport/plugin", "transport/uri.h"],
    "rdma": ["base", "transport/abi", "transport/plugin", "transport/uri.h"],
    "engine": ["base", "transport", "statemachine", "memory"],
    "engine/control_page.h": ["base", "statemachine"],
    "engine/postcopy/latency.h": [],  # percentiles of what the control page holds
    "monitor": ["base", "transport", "statemachine", "engine/control_page.h"],
    "hypervisor": ["base", "transport", "statemachine", "memory", "engine", "monitor"],
    "hypervisor/qemu/agent": [],  # the only code of ours inside QEMU: libc and its own folder
    # Must survive what a peer sends: it sees neither the data path nor the contents of guest RAM, only where a block is.
    "hypervisor/monitor_process": ["base", "transport/uri.h", "transport/search.h", "statemachine", "monitor",
                                   "memory/ram_block.h", "memory/page_map_layout.h", "engine/control_page.h", "engine/postcopy/latency.h", "hypervisor"],
    "cli": ["base", "transport", "statemachine", "monitor", "hypervisor"],
    "perf": ["base", "transport", "statemachine", "memory", "engine", "monitor", "hypervisor"],
    "tests": ["base", "transport", "statemachine", "memory", "tcp_fallback", "rdma", "engine", "monitor", "hypervisor", "cli", "perf"],
}
# Programs that must not hold some code, however it would get in: libraries they may not reach through any chain, calls their own
# sources may not make, and symbols the finished program may not import.
PROGRAMS = {
    "pageferry-monitor": {
        "libraries": ["pageferry_engine", "pageferry_memory", "pageferry_transport", "pageferry_tcp_fallback", "pageferry_rdma"],
        "imports": ["dlopen", "dlmopen"],
    },
}
SKIPPED = {"build", "out", ".git", "docs", "cmake", "demo", "dev.d", ".ci", ".cache"}


def owner(path):
    """The key of INCLUDES that a path belongs to, or None."""
    parts = path.split("/")
    for n in range(len(parts), 0, -1):
        if "/".join(parts[:n]) in INCLUDES:
            return "/".join(parts[:n])
    return None


def within(path, prefix):
    return path == prefix or path.startswith(prefix + "/")


def allowed(key, target):
    return within(target, key) or any(within(target, other) for other in INCLUDES[key])


def files(root, *endings):
    for folder, names, found in os.walk(root):
        names[:] = [n for n in names if not (folder == root and n in SKIPPED)]
        for name in found:
            if name.endswith(endings):
                yield os.path.relpath(os.path.join(folder, name), root)


def check_includes(root):
    for path in files(root, ".h", ".cc", ".c", ".S"):
        key = owner(path)
        if key is None:
            yield f"{path}: its folder has no place in the order of layers (tests/layering/layering.py)"
            continue
        with open(os.path.join(root, path), encoding="utf-8") as source:
            for number, line in enumerate(source, 1):
                match = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
                if not match:
                    continue
                name = match.group(1)
                if not os.path.exists(os.path.join(root, name)):
                    name = os.path.normpath(os.path.join(os.path.dirname(path), name))  # a file next to it
                if name.startswith("..") or owner(name) is None:
                    yield f'{path}:{number}: "{match.group(1)}" is no file of the project; system headers go in <>'
                elif not allowed(key, name):
                    yield f"{path}:{number}: {key} may not see {name}; it may see: {', '.join(INCLUDES[key]) or 'nothing but itself'}"


def targets(root):
    """{name: (folder, linked names)} of every target of the project."""
    found = {}
    for path in files(root, "CMakeLists.txt"):
        with open(os.path.join(root, path), encoding="utf-8") as source:
            text = re.sub(r"#.*", "", source.read())
        folder = os.path.dirname(path)
        for command, body in re.findall(r"\b(pageferry_\w+|add_library|add_executable|target_link_libraries)\s*\(([^()]*(?:\([^()]*\)[^()]*)*)\)", text):
            words = body.split()
            if not words:
                continue
            name = f"pageferry-transport-{words[0]}" if command == "pageferry_transport_plugin" else words[0]
            if command == "target_link_libraries":
                links = words[1:]
            else:
                links = words[words.index("LINK") + 1:] if "LINK" in words else []
            if command == "target_link_libraries" and name not in found:
                found[name] = (folder, [])
            known = found.setdefault(name, (folder, []))
            known[1].extend(w for w in links if not w.startswith("$"))
    return found


def check_links(root):
    known = targets(root)
    for name, (folder, links) in sorted(known.items()):
        key = owner(folder)
        if key is None:
            continue  # the top level
        for link in links:
            if link not in known or within(known[link][0], key):
                continue
            target = known[link][0]
            # Part of a folder may be seen (a header of transport/): then its library may be linked.
            if not any(within(target, other) or within(other, target) for other in INCLUDES[key]):
                yield f"{folder}/CMakeLists.txt: {name} links {link} of {target}, which is not below {key}"


def check_programs(root, binaries):
    known = targets(root)
    for program, rule in PROGRAMS.items():
        reached, chain = {}, [(program, program)]
        while chain:
            name, way = chain.pop()
            if name not in reached:
                reached[name] = way
                chain += [(link, f"{way} -> {link}") for link in known.get(name, ("", []))[1]]
        for library in rule["libraries"]:
            if library in reached:
                yield f"{program} must not hold {library}: {reached[library]}"
        path = os.path.join(binaries or "", program)
        if binaries and os.path.exists(path):
            table = subprocess.run(["nm", "--dynamic", "--undefined-only", path], capture_output=True, text=True, check=True).stdout
            for line in table.splitlines():
                symbol = line.split()[-1].split("@")[0]
                if symbol in rule["imports"]:
                    yield f"{path} must not import {symbol}"


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--root", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
    arguments.add_argument("--binaries")
    given = arguments.parse_args()
    root = os.path.abspath(given.root)
    problems = [*check_includes(root), *check_links(root), *check_programs(root, given.binaries)]
    print("\n".join(problems) if problems else f"{sum(1 for _ in files(root, '.h', '.cc', '.c', '.S'))} files: every dependency points downward")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
