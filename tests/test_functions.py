# SPDX-License-Identifier: GPL-2.0-or-later
"""Functions that are listed but lie nowhere: every question about them has an answer."""

from pathlib import Path

from iommud.address import Address
from iommud.functions import FunctionReader
from iommud.pci import Gap, Wanted
from iommud.power import Sleep
from iommud.snapshot import PciFunction
from iommud.tree import DirectoryTree
from tests.trees import TreeWriter

ADDRESS = Address.parse("00:02.0")


def reader(root: Path) -> FunctionReader:
    TreeWriter(root)
    return FunctionReader(DirectoryTree(str(root)))


def test_a_function_that_lies_nowhere_has_no_registers_and_no_attributes(tmp_path: Path) -> None:
    found = reader(tmp_path)
    sleep = Sleep(DirectoryTree(str(tmp_path)), found.paths, wake=False)
    function = PciFunction(address=ADDRESS)

    assert found.with_config(function, Wanted(), sleep).config.gap is Gap.NO_CONFIG
    assert found.with_config(function, None, sleep) is function
    assert found.has_link(ADDRESS) is None


def test_a_function_that_lies_nowhere_does_not_sleep(tmp_path: Path) -> None:
    found = reader(tmp_path)

    assert not Sleep(DirectoryTree(str(tmp_path)), found.paths, wake=False).would_wake(ADDRESS, None)
