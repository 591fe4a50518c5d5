# SPDX-License-Identifier: GPL-2.0-or-later
"""Read exactly what a check reads, and do nothing with it: the floor under any such program in Python.

usage: python bare.py PLAN, where PLAN is what ``record.py`` wrote.
"""

import os
import sys


def main(plan: str) -> None:
    """Make the system calls of a plan and no others."""
    descriptor = os.open(plan, os.O_RDONLY)
    lines = os.read(descriptor, 1 << 30).decode().split("\n")
    directories, links, files, configs = (line.split("\t") if line else [] for line in lines)
    for path in directories:
        os.listdir(path)  # noqa: PTH208 - the floor is measured without the cost of pathlib
    for path in links:
        os.readlink(path)  # noqa: PTH115 - as above
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        os.read(descriptor, 4096)
        os.close(descriptor)
    for config in configs:
        path, *offsets = config.split(" ")
        descriptor = os.open(path, os.O_RDONLY)
        for offset in offsets:
            os.pread(descriptor, 4, int(offset))
        os.close(descriptor)


if __name__ == "__main__":
    main(sys.argv[1])
