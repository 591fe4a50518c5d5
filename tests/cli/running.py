# SPDX-License-Identifier: GPL-2.0-or-later
"""Run the command line, in a process of its own or in this one, on small machines written to disk."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from iommud.cli import main
from tests.trees import TreeWriter, config_space

FIXTURES = Path(__file__).parent.parent / "fixtures"
THREAD = str(FIXTURES / "captures" / "6.1bug-amd64-virtio-at-0x3-seed-vga-builtin-q7.2.tar.gz")
SWITCH = str(FIXTURES / "captures" / "6.12-amd64-intel-switch-q7.2.tar.gz")

PORT = "0000:00:02.0"
BELOW = "0000:00:02.0/0000:01:00.0"


def run(*arguments: str, **facts: Any) -> subprocess.CompletedProcess[str]:
    """``python -m iommud`` in a process of its own; ``env`` adds to the environment."""
    facts["env"] = {**environment(), **facts.get("env", {})}
    facts.setdefault("stdin", None if "input" in facts else subprocess.DEVNULL)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | facts
    return subprocess.run(command(*arguments), text=True, check=False, timeout=60, **streams)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "iommud", *arguments]


def environment() -> dict[str, str]:
    """This environment, in which no colour is asked for or refused, and streams are buffered as they are by default."""
    asked = {"NO_COLOR", "FORCE_COLOR", "TERM", "PYTHONUNBUFFERED"}
    return {name: value for name, value in os.environ.items() if name not in asked}


def call(*arguments: str) -> int:
    """``iommud`` in this process; gives the exit status."""
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    assert isinstance(left.value.code, int)
    return left.value.code


def documents(text: str) -> list[dict[str, Any]]:
    """JSON documents, one on each line."""
    return [json.loads(line) for line in text.splitlines()]


def machine(root: Path, kernel: str = "6.12.1", *, iommu: str | None = "dmar0", cmdline: str = "quiet") -> TreeWriter:
    writer = TreeWriter(root)
    writer.write("proc/sys/kernel/osrelease", kernel + "\n")
    writer.write("proc/cmdline", cmdline + "\n")
    writer.write("sys/kernel/iommu_groups/.keep", "")
    (root / "sys/kernel/iommu_groups/.keep").unlink()
    writer.write("sys/class/iommu/.keep", "")
    (root / "sys/class/iommu/.keep").unlink()
    if iommu is not None:
        writer.write(f"sys/class/iommu/{iommu}/.keep", "")
    return writer


def port_and_endpoint(writer: TreeWriter, config: bytes) -> None:
    writer.function(
        PORT,
        "1b36:000c",
        "060400",
        config=config,
        driver="pcieport",
        secondary_bus_number="1",
        subordinate_bus_number="1",
        max_link_width="1",
    )
    writer.function(BELOW, "8086:10d3", driver="e1000e", max_link_width="1")


def right(root: Path) -> None:
    """A machine on which nothing is wrong."""
    writer = machine(root)
    port_and_endpoint(writer, config_space(4, (0x5F, 0x1D), header=1))
    writer.group(0, PORT)
    writer.group(1, BELOW)


def split(root: Path) -> None:
    """A machine with one critical finding: a port without ACS, yet two groups."""
    writer = machine(root)
    port_and_endpoint(writer, config_space(4, header=1))
    writer.group(0, PORT)
    writer.group(1, BELOW)


def bare_port(root: Path) -> None:
    """A machine with one warning: a protected port without a group."""
    writer = machine(root)
    port_and_endpoint(writer, config_space(4, (0x5F, 0x1D), header=1))
    writer.group(1, BELOW)


def merged(root: Path) -> None:
    """A machine with one finding of no consequence: two endpoints in one group."""
    writer = machine(root)
    for number in (3, 4):
        writer.function(f"0000:00:0{number}.0", driver="e1000e")
    writer.group(0, "0000:00:03.0", "0000:00:04.0")


def restricted(root: Path) -> None:
    """A machine that somebody without CAP_SYS_ADMIN captured: config spaces of 64 bytes."""
    writer = machine(root)
    port_and_endpoint(writer, config_space(4, (0x5F, 0x1D), header=1)[:64])
    writer.group(0, PORT)
    writer.group(1, BELOW)


def idle(root: Path) -> None:
    """A machine without an IOMMU in use."""
    writer = machine(root, iommu=None)
    port_and_endpoint(writer, config_space(4, header=1))


MACHINES = {
    "right": right,
    "split": split,
    "bare port": bare_port,
    "merged": merged,
    "restricted": restricted,
    "idle": idle,
}
UNREADABLE = "unreadable"


def place(name: str, root: Path) -> str:
    """The path of one of the machines, written below a directory; ``unreadable`` is one that is not there."""
    path = root / name.replace(" ", "-")
    if name in MACHINES and not path.exists():
        MACHINES[name](path)
    return str(path)
