# SPDX-License-Identifier: GPL-2.0-or-later
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommud.firmware.acpi import PROBLEM_LIMIT, Problems, read_table, structures
from tests.firmware.builders import acpi, fixture

LAYOUT = struct.Struct("<BB")


def test_a_sound_table_is_read_whole() -> None:
    data = acpi("DMAR", b"abcd", revision=3)

    table = read_table(data, "DMAR")

    assert (table.signature, table.revision, table.body, table.problems) == ("DMAR", 3, b"abcd", ())
    assert table.data == data


@pytest.mark.parametrize(
    ("data", "body", "problem"),
    [
        pytest.param(b"", b"", "DMAR: only 0 bytes, the header alone needs 36", id="empty"),
        pytest.param(acpi("DMAR", b"")[:35], b"", "DMAR: only 35 bytes, the header alone needs 36", id="short"),
        pytest.param(acpi("FACP", b"abcd"), b"", "DMAR: signature is b'FACP'", id="another table"),
        pytest.param(
            acpi("DMAR", b"abcd") + b"xy",
            b"abcd",
            "DMAR: the header states 40 bytes, 42 are at hand",
            id="tail",
        ),
        pytest.param(acpi("DMAR", b"abcd")[:-1], b"abc", "DMAR: the header states 40 bytes, 39 are at hand", id="cut"),
        pytest.param(
            acpi("DMAR", b"") + b"xy",
            b"",
            "DMAR: the header states 36 bytes, 38 are at hand",
            id="tail of a bare header",
        ),
        pytest.param(acpi("DMAR", b"abcd")[:-1] + b"e", b"abce", "DMAR: bad checksum", id="flipped bit"),
    ],
)
def test_a_fault_of_the_header_is_named_and_reading_goes_on(data: bytes, body: bytes, problem: str) -> None:
    table = read_table(data, "DMAR")

    assert table.problems == (problem,)
    assert (table.signature, table.body) == ("DMAR", body)


def test_a_header_alone_is_a_sound_table() -> None:
    assert read_table(acpi("DMAR", b""), "DMAR").problems == ()


@pytest.mark.parametrize(("data", "revision"), [(acpi("FACP", b"", revision=5), 5), (acpi("DMAR", b"")[:35], 0)])
def test_the_revision_is_the_table_s_or_0_where_it_cannot_be_read(data: bytes, revision: int) -> None:
    assert read_table(data, "DMAR").revision == revision


def test_a_stored_length_below_the_header_leaves_the_bytes_at_hand() -> None:
    data = bytearray(acpi("DMAR", b"abcd"))
    data[4:8] = struct.pack("<I", 7)

    table = read_table(bytes(data), "DMAR")

    assert table.body == b"abcd"
    assert table.problems == ("DMAR: the header states 7 bytes, 40 are at hand",)


@pytest.mark.parametrize(
    ("data", "found", "problems"),
    [
        pytest.param(b"\1\3x\2\2", [(1, 0x10, b"\1\3x"), (2, 0x13, b"\2\2")], (), id="two"),
        pytest.param(b"\1\0\2\2", [], ("T: structure at 0x10 has length 0",), id="length 0"),
        pytest.param(b"\1\1\2\2", [], ("T: structure at 0x10 has length 1",), id="below the minimum"),
        pytest.param(b"\1\4x", [(1, 0x10, b"\1\4x")], ("T: structure at 0x10 passes the end by 1 bytes",), id="cut"),
        pytest.param(b"\1\2x", [(1, 0x10, b"\1\2")], ("T: 1 stray bytes at 0x12",), id="stray byte"),
    ],
)
def test_structures_follow_their_lengths_and_end_at_a_length_that_leads_nowhere(
    data: bytes, found: list[tuple[int, int, bytes]], problems: tuple[str, ...]
) -> None:
    collected = Problems("T")

    walked = [(item.kind, item.offset, item.data) for item in structures(data, 0, LAYOUT, 2, collected, base=16)]

    assert walked == found
    assert collected.listed() == problems


def test_a_hostile_table_cannot_fill_the_memory_with_problems() -> None:
    problems = Problems("T")

    for number in range(10 * PROBLEM_LIMIT):
        problems.add(f"fault {number}")

    assert len(problems.listed()) == PROBLEM_LIMIT + 1
    assert problems.listed()[-1] == "T: more problems than are listed"


def test_a_problem_that_repeats_is_listed_once() -> None:
    problems = Problems("T")

    problems.add("fault")
    problems.add("fault")

    assert problems.listed() == ("T: fault",)


@given(st.binary(max_size=80))
def test_any_bytes_give_a_table_within_what_is_at_hand(data: bytes) -> None:
    table = read_table(data, "DMAR")

    assert data.startswith(table.data)


@given(st.integers(0, 167), st.integers(1, 255))
def test_any_single_changed_byte_is_noticed(place: int, difference: int) -> None:
    data = bytearray(fixture("dmar-sub-hierarchies.aml"))
    data[place] ^= difference

    assert read_table(bytes(data), "DMAR").problems
