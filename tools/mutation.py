# SPDX-License-Identifier: GPL-2.0-or-later
"""Run mutmut over the modules that decode and group, and fail on a survivor that nobody has justified.

A mutant that no test can kill, because it means the same, has a line in tests/equivalent_mutants.tsv:
its name, a tab, and why it is equivalent. A line whose mutant does not survive (any more) is an error too.
Arguments choose mutants (`iommud.model.acs*`) or are options of `mutmut run` (`--max-children=2`).
Each run starts from nothing, because mutmut lets a result stand though the tests have changed since.
Results stay in mutants/; `mutmut show NAME` prints a mutant as a diff.
"""

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

JUSTIFIED = Path("tests/equivalent_mutants.tsv")
# A mutant that makes a loop endless is found out by the clock, one that breaks the interpreter by the crash.
CAUGHT = {"killed", "timeout", "segfault", "caught by type check"}


def results() -> dict[str, str]:
    """The status of each mutant by its name."""
    listing = subprocess.run(["mutmut", "results", "--all", "true"], check=True, capture_output=True, text=True).stdout
    lines = (line.strip().rpartition(": ") for line in listing.splitlines() if "__mutmut_" in line)
    return {name: status for name, _, status in lines}


def survivors(found: dict[str, str], *, chosen: bool) -> set[str]:
    """The names of the mutants that no test noticed; with some chosen, the others may lack a result."""
    passed = CAUGHT | {"not checked"} if chosen else CAUGHT
    return {name for name, status in found.items() if status not in passed}


def table(found: dict[str, str], known: set[str]) -> list[str]:
    """A line for each module that was checked: mutants, caught ones, and those justified as equivalent."""
    checked = {name: status for name, status in found.items() if status != "not checked"}
    mutants = Counter(module(name) for name in checked)
    caught = Counter(module(name) for name, status in checked.items() if status in CAUGHT)
    equivalent = Counter(module(name) for name in checked.keys() & known)
    lines = [
        f"{one}: {mutants[one]} mutants, {caught[one]} caught, {equivalent[one]} equivalent" for one in sorted(mutants)
    ]
    total = f"all: {mutants.total()} mutants, {caught.total()} caught, {equivalent.total()} equivalent"
    return [*lines, total]


def module(name: str) -> str:
    """The module of a mutant."""
    return name.partition(".x")[0]


def justified() -> set[str]:
    """The names in the table of equivalent mutants; every one has its reason."""
    if not JUSTIFIED.exists():
        return set()
    rows = [line.split("\t") for line in JUSTIFIED.read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    return {row[0] for row in rows if len(row) > 1 and row[1].strip()}


def main() -> int:
    """Print the figures and the mutants to look at and return 1, or return 0."""
    arguments = sys.argv[1:]
    chosen = any(not argument.startswith("-") for argument in arguments)
    shutil.rmtree("mutants", ignore_errors=True)
    if subprocess.run(["mutmut", "run", *arguments], check=False).returncode:
        print("mutmut came to no result: most likely a test fails without any change; see above")
        return 1
    found, known = results(), justified()
    alive = survivors(found, chosen=chosen)
    print(*table(found, known), sep="\n")
    for name in sorted(alive - known):
        print(f"{name} survived: add a test, or a line in {JUSTIFIED} that says why it is equivalent")
    stale = set() if chosen else known - alive
    for name in sorted(stale):
        print(f"{name} does not survive: remove its line from {JUSTIFIED}")
    return int(bool(alive - known or stale))


if __name__ == "__main__":
    sys.exit(main())
