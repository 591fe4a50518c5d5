# SPDX-License-Identifier: GPL-2.0-or-later
"""Hold the modules that decode and group at 100 % branch coverage; says nothing where they are.

The list of these modules is `tool.mutmut.only_mutate` in pyproject.toml.
"""

import io
import sys
import tomllib
from pathlib import Path

from coverage import Coverage
from coverage.exceptions import CoverageException

FULL = 100.0


def main() -> int:
    """Print what is not covered and return 1, or return 0."""
    patterns = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["tool"]["mutmut"][
        "only_mutate"
    ]
    unmatched = [pattern for pattern in patterns if not any(Path().glob(pattern))]
    if unmatched:
        print(
            f"pyproject.toml, tool.mutmut.only_mutate: no such module: {', '.join(unmatched)}",
            file=sys.stderr,
        )
        return 1
    report = io.StringIO()
    try:
        coverage = Coverage()
        coverage.load()
        total = coverage.report(include=patterns, file=report)
    except CoverageException as error:
        print(f"coverage of the pure modules: {error}", file=sys.stderr)
        return 1
    if total < FULL:
        print(
            f"the modules that decode and group must be covered in full:\n{report.getvalue()}",
            file=sys.stderr,
        )
    return int(total < FULL)


if __name__ == "__main__":
    sys.exit(main())
