#!/usr/bin/env python3
"""A guest moves on and on, each time to a fresh QEMU."""
from under_pageferry import Case, main

MOVES = 10


class Chain(Case):
    def test_ten_moves_in_a_row(self):
        here = self.started("vm0")
        for number in range(1, MOVES + 1):
            there = self.start(f"vm{number}", incoming=True)
            self.move(here, there)
            here.close()
            here = there


if __name__ == "__main__":
    main()
