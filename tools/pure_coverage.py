# SPDX-License-Identifier: GPL-2.0-or-later
"""Hold the modules that decode and group at 100 % branch coverage; says nothing where they are.

The list of these modules is `tool.mutmut.only_mutate` in pyproject.toml.
"""

import subprocess
import sys
import tomllib
from pathlib import Path


def main() -> int:
    """Print what is not covered and return 1, or return 0."""
    patterns = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["tool"]["mutmut"]["only_mutate"]
    unmatched = [pattern for pattern in patterns if not any(Path().glob(pattern))]
    if unmatched:
        print(
            f"pyproject.toml, tool.mutmut.only_mutate: no such module: {', '.join(unmatched)}",
            file=sys.stderr,
        )
        return 1
    command = ["coverage", "report", f"--include={','.join(patterns)}", "--fail-under=100"]
    report = subprocess.run(command, check=False, capture_output=True, text=True)
    if report.returncode:
        print("the modules that decode and group must be covered in full:", file=sys.stderr)
        print(report.stdout, report.stderr, sep="", file=sys.stderr)
    return int(report.returncode != 0)


if __name__ == "__main__":
    sys.exit(main())
