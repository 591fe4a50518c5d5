# SPDX-License-Identifier: GPL-2.0-or-later
"""The repository keeps its own promises: licence lines, module sizes, version, runnable scripts."""

import os
import re
import subprocess
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

import iommud

ROOT = Path(__file__).parent.parent
SPDX = "# SPDX-License-Identifier: GPL-2.0-or-later"
# What the set-up and the tools make; none of it is committed.
MADE = {".git", ".venv", ".cache", "mutants", ".hypothesis", "__pycache__", "build", "dist", "node_modules"}
LONGEST_MODULE = 400


def tracked() -> list[Path]:
    """Every file of the repository, found without git so that a source archive is checked too."""
    found: list[Path] = []
    for directory, below, names in os.walk(ROOT):
        below[:] = sorted(set(below) - MADE)
        found += [Path(directory, name) for name in sorted(names)]
    return found


FILES = tracked()
PYTHON = [path for path in FILES if path.suffix == ".py"]
SCRIPTS = [path for path in FILES if path.suffix != ".py" and path.read_bytes()[:2] == b"#!"]


def in_repository(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_of(path: Path) -> str:
    """The text of a file, or nothing where it is an archive or a picture."""
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        return ""


@pytest.mark.parametrize("path", PYTHON + SCRIPTS, ids=in_repository)
def test_every_source_file_states_its_licence_at_the_top(path: Path) -> None:
    assert SPDX in path.read_text(encoding="utf-8").splitlines()[:2]


@pytest.mark.parametrize("path", [p for p in PYTHON if p.is_relative_to(ROOT / "iommud")], ids=in_repository)
def test_no_module_is_too_long_to_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_MODULE


@pytest.mark.parametrize("path", SCRIPTS, ids=in_repository)
def test_a_script_can_be_run_and_parsed(path: Path) -> None:
    shell = "bash" if b"bash" in path.read_bytes().splitlines()[0] else "sh"

    assert os.access(path, os.X_OK)
    subprocess.run([shell, "-n", str(path)], check=True)


def test_nobody_names_a_path_of_his_own_machine() -> None:
    path_of_somebody = re.compile(r"(?<![\w.])/(?:tmp|work|root|home/\w+)/\w+")
    named = {in_repository(path): path_of_somebody.findall(text_of(path)) for path in FILES}

    assert not {name: found for name, found in named.items() if found}


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def test_the_changelog_leads_to_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+?)\](.*)$", changelog, re.MULTILINE)
    releases = [numbers(version) for version, date in headings[1:] if re.fullmatch(r" - \d{4}-\d\d-\d\d", date)]

    assert headings[0] == ("Unreleased", "")
    assert len(releases) == len(headings) - 1, "a release is headed '## [1.2.3] - 2026-01-31'"
    assert all(newer > older for newer, older in pairwise(releases))
    assert all(numbers(iommud.__version__) >= release for release in releases)


def test_the_runtime_dependencies_are_the_five_that_are_needed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.split(r"[^\w-]", requirement)[0] for requirement in project["dependencies"]}

    assert names == {"typer", "pyudev", "watchdog", "prometheus-client", "tornado"}
