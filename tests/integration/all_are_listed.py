#!/usr/bin/env python3
"""all_are_listed.py FILE:CLASS.METHOD...: every test method in the *_test.py files here is among the arguments, and there is nothing else."""
import ast
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def methods(path):
    """CLASS.METHOD of each test; a class's bases in the same file lend it theirs."""
    with open(path, encoding="utf-8") as file:
        classes = {node.name: node for node in ast.parse(file.read()).body if isinstance(node, ast.ClassDef)}

    def of(name):
        node = classes.get(name)
        if node is None:
            return set()
        own = {item.name for item in node.body if isinstance(item, ast.FunctionDef) and item.name.startswith("test_")}
        return own.union(*(of(base.id) for base in node.bases if isinstance(base, ast.Name)))
    lent = {base.id for node in classes.values() for base in node.bases if isinstance(base, ast.Name)}
    return {f"{name}.{method}" for name in classes.keys() - lent for method in of(name)}


there = {f"{name}:{method}" for name in os.listdir(HERE) if name.endswith("_test.py") for method in methods(os.path.join(HERE, name))}
listed = set(sys.argv[1:])
for test in sorted(there ^ listed):
    print(test, "is not in CMakeLists.txt" if test in there else "does not exist")
sys.exit(1 if there != listed else 0)
