# SPDX-License-Identifier: GPL-2.0-or-later
"""A second reader: what ACPICA's disassembler prints of the same bytes must be what the parsers give."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from iommud.firmware.dmar import parse_dmar
from iommud.firmware.iort import parse_iort
from iommud.firmware.ivrs import parse_ivrs
from iommud.firmware.mcfg import parse_mcfg
from tests.firmware.builders import fixture

pytestmark = pytest.mark.skipif(shutil.which("iasl") is None, reason="iasl (acpica-tools) is not installed")


def disassembled(data: bytes, folder: Path) -> list[tuple[str, str]]:
    """(label, value) of each line that iasl prints, in table order."""
    table = folder / "table.aml"
    table.write_bytes(data)
    subprocess.run(["iasl", "-d", table], check=True, capture_output=True, cwd=folder)
    line = re.compile(r"^\[[0-9A-F]+h [0-9]+ +[0-9A-F]+h?\] +(.+?) : (.*)$", re.MULTILINE)
    return line.findall(table.with_suffix(".dsl").read_text())


def numbers(lines: list[tuple[str, str]], label: str) -> list[int]:
    return [int(value.split()[0], 16) for name, value in lines if name == label]


@pytest.mark.parametrize("name", ["dmar-endpoints.aml", "dmar-sub-hierarchies.aml"])
def test_dmar_agrees_with_iasl(name: str, tmp_path: Path) -> None:
    lines = disassembled(fixture(name), tmp_path)

    found = parse_dmar(fixture(name))

    scopes = [scope for unit in found.units for scope in unit.scopes]
    assert [unit.register_base for unit in found.units] == numbers(lines, "Register Base Address")
    assert [scope.kind for scope in scopes] == numbers(lines, "Device Scope Type")
    assert [scope.start_bus for scope in scopes] == numbers(lines, "PCI Bus Number")
    paths = [f"{device:02X},{function:02X}" for scope in scopes for device, function in scope.path]
    assert paths == [value for label, value in lines if label == "PCI Path"]


def test_ivrs_agrees_with_iasl(tmp_path: Path) -> None:
    lines = disassembled(fixture("ivrs-alias-range.aml"), tmp_path)

    (block,) = parse_ivrs(fixture("ivrs-alias-range.aml")).blocks

    assert [block.device_id] == numbers(lines, "DeviceId")
    assert [block.register_base] == numbers(lines, "Base Address")
    # Newer listings call the type of an entry what they call that of a block, and say in words which it is.
    newer = [(label, value) for label, value in lines if "[Device Entry" in value]
    kinds = numbers(lines, "Entry Type") or numbers(newer, "Subtable Type")
    entries = zip(kinds, numbers(lines, "Device ID"), strict=True)
    selected = [rid for kind, rid in entries if kind == 2]
    alias, special = numbers(lines, "Source Used Device ID")
    singles = [item.first for item in block.covered if item.first == item.last]
    assert sorted(singles) == sorted([*selected, alias, special])
    assert [item.alias for item in block.aliases] == [alias]


@pytest.mark.parametrize("name", ["iort-smmuv3.aml", "iort-its-only.aml"])
def test_iort_agrees_with_iasl(name: str, tmp_path: Path) -> None:
    lines = disassembled(fixture(name), tmp_path)

    nodes = parse_iort(fixture(name)).nodes

    mappings = [mapping for node in nodes for mapping in node.mappings]
    assert [node.kind for node in nodes] == numbers(lines, "Type")
    assert [mapping.input_base for mapping in mappings] == numbers(lines, "Input base")
    assert [mapping.count - 1 for mapping in mappings] == numbers(lines, "ID Count")
    assert [mapping.output_base for mapping in mappings] == numbers(lines, "Output Base")
    assert [mapping.output_offset for mapping in mappings] == numbers(lines, "Output Reference")


def test_mcfg_agrees_with_iasl(tmp_path: Path) -> None:
    lines = disassembled(fixture("mcfg.aml"), tmp_path)

    (window,) = parse_mcfg(fixture("mcfg.aml")).allocations

    assert [window.base] == numbers(lines, "Base Address")
    assert [window.segment] == numbers(lines, "Segment Group Number")
    assert [window.first_bus] == numbers(lines, "Start Bus Number")
    assert [window.last_bus] == numbers(lines, "End Bus Number")
