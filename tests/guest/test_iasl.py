# SPDX-License-Identifier: GPL-2.0-or-later
"""The firmware tables beside a newer disassembler than this machine may have: Debian 13's knows VIOT."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guest.debian import Apt, Suite, Unavailable, cache_directory
from tests.guest.supplies import library_path

ROOT = Path(__file__).parent.parent.parent


def newer_iasl(folder: Path) -> Path:
    """A command that runs Debian 13's iasl with its own loader and libraries. Raises Unavailable with apt's words."""
    apt = Apt(Suite("trixie", "amd64"), cache_directory())
    tree = apt.unpacked(["acpica-tools"], "iasl", wanted=lambda name: name in {"acpica-tools", "libc6"})
    loader = next((tree / "usr").glob("lib*/ld-linux-x86-64.so.2"))
    words = [loader, "--library-path", library_path(tree), tree / "usr/bin/iasl"]
    command = folder / "iasl"
    command.write_text(f'#!/bin/sh\nexec {shlex.join(map(str, words))} "$@"\n')
    command.chmod(0o755)
    return command


@pytest.mark.guest
def test_the_parsers_read_as_the_newer_disassembler_does(tmp_path: Path) -> None:
    try:
        iasl = newer_iasl(tmp_path)
    except Unavailable as error:
        pytest.skip(str(error))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "tests/firmware/test_iasl.py"]

    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"IASL": str(iasl)}, check=False, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout
