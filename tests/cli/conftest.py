# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines on disk, written once for all tests of the command line."""

from pathlib import Path

import pytest

from tests.cli.running import MACHINES, UNREADABLE, place


@pytest.fixture(scope="session")
def machines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The path of each machine by its name."""
    root: Path = tmp_path_factory.mktemp("machines")
    return {name: place(name, root) for name in (*MACHINES, UNREADABLE)}
