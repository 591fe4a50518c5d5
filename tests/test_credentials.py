# SPDX-License-Identifier: GPL-2.0-or-later
"""Copies that a service manager hands out stand in for files that a confined service may not open."""

from pathlib import Path

import pytest

from iommud.credentials import CREDENTIALS, credentials_of
from iommud.sysfs import _READ_TABLES
from iommud.tree import LiveTree
from tests.trees import TreeWriter

TABLE = "sys/firmware/acpi/tables/DMAR"


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    directory = tmp_path / "credentials"
    directory.mkdir()
    return directory


def tree(tmp_path: Path, copies: Path) -> LiveTree:
    machine = TreeWriter(tmp_path / "machine")
    machine.write("proc/version", "Linux version 6.12\n")
    found = credentials_of({"CREDENTIALS_DIRECTORY": str(copies), "RUNTIME_DIRECTORY": f"{copies}:/elsewhere"})
    return LiveTree(str(machine.root / "sys"), str(machine.root / "proc"), copies=found)


def test_a_file_that_cannot_be_read_is_read_from_its_copy(tmp_path: Path, copies: Path) -> None:
    (copies / "acpi-DMAR").write_bytes(b"DMAR\0\n")

    assert tree(tmp_path, copies).read(TABLE) == b"DMAR\0\n"


def test_a_file_that_can_be_read_counts_before_its_copy(tmp_path: Path, copies: Path) -> None:
    (copies / "version").write_text("Linux version 5.10\n")

    assert tree(tmp_path, copies).text("proc/version") == "Linux version 6.12"


@pytest.mark.parametrize("content", ["absent", "absent\n"])
def test_a_copy_that_says_absent_is_none(tmp_path: Path, copies: Path, content: str) -> None:
    (copies / "acpi-DMAR").write_text(content)

    assert tree(tmp_path, copies).read(TABLE) is None


def test_without_a_copy_nothing_changes(tmp_path: Path, copies: Path) -> None:
    assert tree(tmp_path, copies).read(TABLE) is None
    assert tree(tmp_path, copies).read("proc/cmdline") is None


def test_the_device_tree_is_copied_into_the_runtime_directory(tmp_path: Path, copies: Path) -> None:
    (copies / "fdt").write_bytes(b"\xd0\x0d\xfe\xed")

    assert tree(tmp_path, copies).read("sys/firmware/fdt") == b"\xd0\x0d\xfe\xed"


def test_every_table_that_is_read_can_be_handed_out() -> None:
    tables = {path.rpartition("/")[2] for path in CREDENTIALS if "/acpi/" in path}

    assert tables == set(_READ_TABLES)


def test_outside_of_a_service_there_are_no_copies() -> None:
    assert credentials_of({"RUNTIME_DIRECTORY": "/run/iommud"}) == {}
