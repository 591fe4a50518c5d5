# SPDX-License-Identifier: GPL-2.0-or-later
"""Run mutmut over the modules that decode and group, and fail on a survivor that nobody has justified.

A mutant that no test can kill, because it means the same, has a line in tests/equivalent_mutants.tsv:
its name, a tab, and why it is equivalent. A line whose mutant does not survive (any more) is an error too.
Arguments choose mutants (`iommud.acs*`).
Results stay in mutants/; `mutmut show NAME` prints a mutant as a diff.
"""

import subprocess
import sys
from pathlib import Path

JUSTIFIED = Path("tests/equivalent_mutants.tsv")
# A mutant that makes a loop endless is found out by the clock, one that breaks the interpreter by the crash.
CAUGHT = {"killed", "timeout", "segfault", "caught by type check"}


def survivors(chosen: list[str]) -> set[str]:
    """The names of the mutants that no test noticed; with some chosen, the others may lack a result."""
    passed = CAUGHT | {"not checked"} if chosen else CAUGHT
    listing = subprocess.run(["mutmut", "results"], check=True, capture_output=True, text=True).stdout
    results = (line.strip().rpartition(": ") for line in listing.splitlines() if "__mutmut_" in line)
    return {name for name, _, status in results if status not in passed}


def justified() -> set[str]:
    """The names in the table of equivalent mutants; every one has its reason."""
    if not JUSTIFIED.exists():
        return set()
    rows = [
        line.split("\t") for line in JUSTIFIED.read_text(encoding="utf-8").splitlines() if line[:1] != "#"
    ]
    return {row[0] for row in rows if len(row) > 1 and row[1].strip()}


def main() -> int:
    """Print the mutants to look at and return 1, or return 0."""
    chosen = sys.argv[1:]
    subprocess.run(["mutmut", "run", *chosen], check=True)
    alive, known = survivors(chosen), justified()
    for name in sorted(alive - known):
        print(f"{name} survived: add a test, or a line in {JUSTIFIED} that says why it is equivalent")
    stale = set() if chosen else known - alive
    for name in sorted(stale):
        print(f"{name} does not survive: remove its line from {JUSTIFIED}")
    return int(bool(alive - known or stale))


if __name__ == "__main__":
    sys.exit(main())
