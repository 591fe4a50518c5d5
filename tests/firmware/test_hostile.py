# SPDX-License-Identifier: GPL-2.0-or-later
"""Every reader against every kind of fault: a sentence names it, and what is sound beside it is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from iommud.firmware.dmar import parse_dmar
from iommud.firmware.fdt import parse_fdt
from iommud.firmware.iort import parse_iort
from iommud.firmware.ivrs import parse_ivrs
from iommud.firmware.mcfg import parse_mcfg
from iommud.firmware.viot import parse_viot
from tests.firmware.builders import fixture

CORPUS = Path(__file__).parent.parent / "fixtures" / "fuzz"

Problems = Callable[[bytes], tuple[str, ...]]

READERS: dict[str, Problems] = {
    "DMAR": lambda data: parse_dmar(data).problems,
    "IVRS": lambda data: parse_ivrs(data).problems,
    "IORT": lambda data: parse_iort(data).problems,
    "VIOT": lambda data: parse_viot(data).problems,
    "MCFG": lambda data: parse_mcfg(data).problems,
    "FDT": lambda data: parse_fdt(data).problems,
}
SOUND = {
    "DMAR": fixture("dmar-sub-hierarchies.aml"),
    "IVRS": fixture("ivrs-alias-range.aml"),
    "IORT": fixture("iort-smmuv3.aml"),
    "VIOT": fixture("viot.aml"),
    "MCFG": fixture("mcfg.aml"),
    "FDT": fixture("fdt-smmuv3.dtb"),
}
TABLES = [name for name in READERS if name != "FDT"]
FIRST = {"DMAR": (48, 2), "IVRS": (48, 2), "IORT": (48, 1), "VIOT": (48, 2)}
"""Where the first structure is, and in it its length."""


def with_checksum(table: bytes) -> bytes:
    rest = table[:9] + b"\0" + table[10:]
    return table[:9] + bytes([-sum(rest) & 0xFF]) + table[10:]


def all_of(name: str) -> bytes:
    """A table with one structure of each kind, and faults of its own."""
    return (CORPUS / name.lower() / "built-all").read_bytes()


@pytest.mark.parametrize("name", READERS)
def test_a_sound_one_has_no_problems(name: str) -> None:
    assert READERS[name](SOUND[name]) == ()


@pytest.mark.parametrize("name", READERS)
def test_one_that_is_cut_anywhere_is_named(name: str) -> None:
    for data in (SOUND[name], all_of(name)):
        for length in range(0, len(data), max(1, len(data) // 400)):
            problems = READERS[name](data[:length])
            assert problems, length
            assert all(problem.startswith(f"{name}: ") for problem in problems)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize(
    ("place", "fault", "problem"),
    [
        (9, b"\x77", "bad checksum"),
        (4, b"\xff\xff\xff\xff", "the header states 4294967295 bytes"),
        (4, b"\x24\0\0\0", "the header states 36 bytes"),
        (4, b"\0\0\0\0", "the header states 0 bytes"),
        (0, b"XXXX", "signature is b'XXXX'"),
    ],
)
def test_a_fault_of_the_header_is_named(name: str, place: int, fault: bytes, problem: str) -> None:
    table = SOUND[name]

    found = READERS[name](table[:place] + fault + table[place + len(fault) :])

    assert any(one.startswith(f"{name}: {problem}") for one in found)


@pytest.mark.parametrize("name", FIRST)
def test_a_structure_of_length_0_ends_the_table_and_is_named(name: str) -> None:
    start, place = FIRST[name]
    table = SOUND[name]
    at = start + place

    found = READERS[name](with_checksum(table[:at] + b"\0\0" + table[at + 2 :]))

    assert f"{name}: structure at 0x30 has length 0" in found


@pytest.mark.parametrize("name", FIRST)
def test_a_structure_that_passes_the_end_is_named(name: str) -> None:
    start, place = FIRST[name]
    table = SOUND[name]
    at = start + place

    found = READERS[name](with_checksum(table[:at] + b"\xff\xff" + table[at + 2 :]))

    assert any(one.startswith(f"{name}: structure at 0x30 passes the end by ") for one in found)


@pytest.mark.parametrize("name", READERS)
def test_all_its_bytes_turned_or_repeated_give_sentences_and_no_more_than_are_kept(name: str) -> None:
    for data in (all_of(name), SOUND[name]):
        for hostile in (bytes(byte ^ 0xFF for byte in data), data[:48] * 50, data[:48] + b"\x01" * 60_000):
            problems = READERS[name](hostile)
            assert 0 < len(problems) <= 69
            assert all(problem.startswith(f"{name}: ") and problem.isprintable() for problem in problems)
