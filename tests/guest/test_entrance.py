# SPDX-License-Identifier: GPL-2.0-or-later
"""How the lab is started: by make, by CI, and not at all."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guest.cells import SMOKE
from tests.guest.debian import Unavailable
from tests.guest.progress import fetch
from tests.guest.supplies import Supplies

ROOT = Path(__file__).parent.parent.parent
GUESTS = ROOT / "tools" / "guests.sh"
RECIPES = dict(
    re.findall(r"^([\w-]+):[^\n]*\n((?:\t[^\n]*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
)


def run_guests(tools: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The script on a machine that has a shell and Python, and nothing of Debian's."""
    for name in ("sh", "dirname", "mkdir"):
        (tools / name).symlink_to(shutil.which(name) or name)
    (tools / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tools / "python").chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if name != "IOMMUD_SKIP_GUEST"}
    return subprocess.run(
        [GUESTS],
        env={**kept, "PATH": str(tools), "XDG_CACHE_HOME": str(tools / "cache"), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_make_starts_the_smoke_run_and_the_matrix() -> None:
    assert RECIPES["guest"].split() == ["tools/guests.sh"]
    assert "-m tests.guest.run matrix" in RECIPES["guest-matrix"]
    assert os.access(GUESTS, os.X_OK)


def test_ci_boots_guests_after_the_gate_whatever_the_gate_says() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()

    assert lines[-3:] == ['./test "$@" || status=$?', "tools/guests.sh || status=$?", 'exit "$status"']
    assert not any("set -e" in line for line in lines)


def test_no_guest_is_booted_where_that_is_said_on_purpose(tmp_path: Path) -> None:
    done = run_guests(tmp_path, IOMMUD_SKIP_GUEST="1")

    assert (done.returncode, done.stderr) == (0, "guests: none booted, as IOMMUD_SKIP_GUEST=1 says\n")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("said", ["", "0"])
def test_a_machine_that_cannot_have_guests_fails(tmp_path: Path, said: str) -> None:
    done = run_guests(tmp_path, IOMMUD_SKIP_GUEST=said)

    assert done.returncode == 1
    assert "QEMU 7.2: there is no apt-get here: the lab's kernels and emulators are Debian's packages" in done.stderr


def test_what_cannot_be_had_is_named_and_the_rest_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    said: list[str] = []

    def refuse(*_: object) -> None:
        raise Unavailable("E: Unable to locate package")

    monkeypatch.setattr(Supplies, "emulator", refuse)
    monkeypatch.setattr(Supplies, "kernel", lambda _, name, architecture: asked.append(f"{name} {architecture}"))
    monkeypatch.setattr("tests.guest.progress.base_archives", lambda _, architecture: asked.append(architecture))

    assert fetch(SMOKE.values(), Supplies(tmp_path), said.append) == ["QEMU 7.2"]
    assert said == ["QEMU 7.2: E: Unable to locate package"]
    assert sorted(asked) == ["6.1 arm64", "6.12 amd64", "amd64", "arm64"]
