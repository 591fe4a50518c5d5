# SPDX-License-Identifier: GPL-2.0-or-later
import struct

from hypothesis import given
from hypothesis import strategies as st

from iommud.firmware.mcfg import Mcfg, McfgAllocation, parse_mcfg
from tests.firmware.builders import acpi, damaged, fixture


def window(base: int, segment: int, first: int, last: int) -> bytes:
    return struct.pack("<QHBBI", base, segment, first, last, 0)


def test_a_real_table_gives_its_window() -> None:
    mcfg = parse_mcfg(fixture("mcfg.aml"))

    assert mcfg.allocations == (McfgAllocation(segment=0, first_bus=0, last_bus=255, base=0xB0000000),)
    assert mcfg.problems == ()


def test_each_segment_has_its_window() -> None:
    data = acpi("MCFG", bytes(8) + window(0x80000000, 0, 0, 0x7F) + window(0x90000000, 1, 0x80, 0xFF))

    assert parse_mcfg(data).allocations == (
        McfgAllocation(segment=0, first_bus=0, last_bus=0x7F, base=0x80000000),
        McfgAllocation(segment=1, first_bus=0x80, last_bus=0xFF, base=0x90000000),
    )


def test_a_cut_window_is_named_and_left_out() -> None:
    mcfg = parse_mcfg(acpi("MCFG", bytes(8) + window(0x80000000, 0, 0, 0xFF) + b"rest"))

    assert len(mcfg.allocations) == 1
    assert mcfg.problems == ("MCFG: 4 stray bytes after allocation 1",)


def test_a_table_without_room_for_a_window_has_none() -> None:
    assert parse_mcfg(acpi("MCFG", b"")) == Mcfg(allocations=(), problems=())


def test_a_window_of_one_bus_is_sound() -> None:
    assert parse_mcfg(acpi("MCFG", bytes(8) + window(0x80000000, 0, 5, 5))).problems == ()


def test_windows_that_run_backwards_or_share_buses_are_named() -> None:
    data = acpi("MCFG", bytes(8) + window(1 << 28, 0, 0, 0x80) + window(2 << 28, 0, 0x80, 0xFF) + window(0, 1, 9, 8))

    assert parse_mcfg(data).problems == (
        "MCFG: allocation 2 ends at bus 0x8, before its first bus 0x9",
        "MCFG: allocations 0 and 1 both hold buses of segment 0",
    )


@given(st.binary(max_size=200) | damaged(fixture("mcfg.aml")) | st.binary().map(lambda body: acpi("MCFG", body)))
def test_any_bytes_give_a_result(data: bytes) -> None:
    assert len(parse_mcfg(data).allocations) <= len(data) // 16
