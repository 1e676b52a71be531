"""How a test program of the lab runs: skipped where there is no lab, and once more where a lab machine's own kernel failed."""
import sys
import unittest

from lab import host, machine

SKIPPED = 77


def main(argv=None):
    """unittest.main() for what runs in lab machines; it exits.

    The kernels of the machines are emulated, and now and then one dies of that (double faults were seen, in kernels that did nothing of ours). That says nothing
    about what was tested: then, and only then, all of it is run once more, and the output says so."""
    try:
        host.recipe()
    except host.NotFetched as missing:
        print(f"skipped: {missing}")
        sys.exit(SKIPPED)
    done = unittest.main(module="__main__", verbosity=2, argv=argv or sys.argv, exit=False).result
    if not done.wasSuccessful() and machine.failed_kernels:
        print("lab: once more, for a lab machine's kernel has failed:", *machine.failed_kernels, sep="\n  ", file=sys.stderr, flush=True)
        done = unittest.main(module="__main__", verbosity=2, argv=argv or sys.argv, exit=False).result
    sys.exit(0 if done.wasSuccessful() else 1)
