# SPDX-License-Identifier: GPL-2.0-or-later
"""Searches for bytes that a reader does not withstand: ``python -m tests.fuzz.run TARGET [libFuzzer arguments]``.

Needs atheris, which tools/fuzz.sh installs; nothing else here does.
"""

import importlib
import sys


def main() -> None:
    """Run one target until libFuzzer ends it; bytes that break the check are written as it is told."""
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["iommud"]):
        targets = importlib.import_module("tests.fuzz.targets")
    name, *arguments = sys.argv[1:]
    if name not in targets.TARGETS:
        sys.exit(f"fuzz: no target {name!r}; there are {' '.join(targets.TARGETS)}")
    # A merge starts this again with libFuzzer's own arguments, so the name goes with the program.
    atheris.Setup([sys.argv[0], *arguments], targets.TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
