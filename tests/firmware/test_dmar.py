# SPDX-License-Identifier: GPL-2.0-or-later
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommud.firmware.dmar import (
    CachedTranslation,
    DeviceScope,
    DmarFlag,
    DmarUnit,
    NamespaceDevice,
    ReservedRegion,
    RootPorts,
    ScopeKind,
    parse_dmar,
)
from tests.firmware.builders import acpi, damaged, fixture


def scope(kind: int, bus: int, *path: tuple[int, int]) -> bytes:
    steps = b"".join(bytes(step) for step in path)
    return struct.pack("<BBHBB", kind, 6 + len(steps), 0, 0, bus) + steps


def drhd(*scopes: bytes, segment: int = 0, base: int = 0xFED90000, flags: int = 0) -> bytes:
    content = b"".join(scopes)
    return struct.pack("<HHBBHQ", 0, 16 + len(content), flags, 0, segment, base) + content


def rmrr(*scopes: bytes, segment: int, base: int, limit: int) -> bytes:
    content = b"".join(scopes)
    return struct.pack("<HHHHQQ", 1, 24 + len(content), 0, segment, base, limit) + content


def flagged(kind: int, *scopes: bytes, flags: int = 0, segment: int = 0) -> bytes:
    """ATSR (2) or SATC (5)."""
    content = b"".join(scopes)
    return struct.pack("<HHBBH", kind, 8 + len(content), flags, 0, segment) + content


def andd(number: int, name: bytes) -> bytes:
    return struct.pack("<HH3xB", 4, 8 + len(name), number) + name


def other(kind: int) -> bytes:
    return struct.pack("<HHI", kind, 8, 0)


def dmar(*items: bytes, flags: int = 0) -> bytes:
    return acpi("DMAR", bytes([0x26, flags]) + bytes(10) + b"".join(items))


def test_a_real_table_names_endpoints_of_the_root_complex() -> None:
    found = parse_dmar(fixture("dmar-endpoints.aml"))

    assert (found.flags, found.problems, found.reserved_regions) == (1, (), ())
    (unit,) = found.units
    assert (unit.segment, unit.register_base, unit.include_all) == (0, 0xFED90000, False)
    assert unit.scopes[0] == DeviceScope(kind=ScopeKind.IOAPIC, start_bus=0xFF, path=((0, 0),))
    endpoints = [item.path for item in unit.scopes if item.kind is ScopeKind.PCI_ENDPOINT]
    assert endpoints == [
        ((device, function),)
        for device, function in (
            *((0, 0), (3, 0), (3, 1), (3, 3), (4, 0), (4, 1), (4, 7)),
            *((5, 0), (5, 1), (6, 0), (31, 0), (31, 2), (31, 3)),
        )
    ]


def test_a_real_table_names_bridges_below_further_root_buses() -> None:
    (unit,) = parse_dmar(fixture("dmar-sub-hierarchies.aml")).units

    bridges = [item for item in unit.scopes if item.kind is ScopeKind.PCI_SUB_HIERARCHY]

    assert [(item.start_bus, item.path) for item in bridges] == [
        (0x40, ((0, 0),)),
        (0x40, ((1, 0),)),
        (0x40, ((1, 3),)),
        (0x40, ((2, 0),)),
        (0xC0, ((0, 0),)),
        (0xC0, ((0, 2),)),
    ]


def test_include_all_segments_and_long_paths_are_read() -> None:
    graphics = drhd(scope(1, 0, (2, 0)), base=0xFED90000)
    rest = drhd(scope(1, 0, (0x1C, 0), (0, 0), (3, 1)), base=0xFED91000, flags=1, segment=1)

    found = parse_dmar(dmar(graphics, rest, flags=5))

    assert found.flags == 5
    assert found.problems == ()
    assert found.units == (
        DmarUnit(
            segment=0,
            register_base=0xFED90000,
            include_all=False,
            scopes=(DeviceScope(kind=ScopeKind.PCI_ENDPOINT, start_bus=0, path=((2, 0),)),),
        ),
        DmarUnit(
            segment=1,
            register_base=0xFED91000,
            include_all=True,
            scopes=(DeviceScope(kind=ScopeKind.PCI_ENDPOINT, start_bus=0, path=((0x1C, 0), (0, 0), (3, 1))),),
        ),
    )


def test_every_kind_of_scope_is_known() -> None:
    kinds = [scope(int(kind), 0, (1, 0)) for kind in ScopeKind]

    (unit,) = parse_dmar(dmar(drhd(*kinds))).units

    assert [item.kind for item in unit.scopes] == list(ScopeKind)


def test_reserved_memory_names_its_devices() -> None:
    found = parse_dmar(dmar(rmrr(scope(1, 0, (0x14, 0)), segment=2, base=0x8000, limit=0x8FFF)))

    assert found.reserved_regions == (
        ReservedRegion(
            segment=2,
            base=0x8000,
            limit=0x8FFF,
            scopes=(DeviceScope(kind=ScopeKind.PCI_ENDPOINT, start_bus=0, path=((0x14, 0),)),),
        ),
    )


@pytest.mark.parametrize("kind", [3, 6, 7, 0xFFFF])
def test_structures_that_do_not_concern_grouping_are_passed_over(kind: int) -> None:
    found = parse_dmar(dmar(other(kind), drhd()))

    assert len(found.units) == 1
    assert found.problems == ()


@pytest.mark.parametrize(
    ("items", "units", "problem"),
    [
        pytest.param(
            [drhd(), struct.pack("<HH", 0, 0), drhd(base=1)],
            1,
            "structure at 0x40 has length 0",
            id="length 0",
        ),
        pytest.param([struct.pack("<HHI", 0, 8, 0), drhd()], 1, "DRHD at 0x30 is too short (8 bytes)", id="DRHD"),
        pytest.param([struct.pack("<HHI", 1, 8, 0), drhd()], 1, "RMRR at 0x30 is too short (8 bytes)", id="RMRR"),
        pytest.param(
            [drhd(), drhd(flags=1)],
            1,
            "DRHD at 0x40 repeats the unit of segment 0 at 0xfed90000",
            id="repeated",
        ),
        pytest.param([drhd(), flagged(2)[:2] + b"\6\0xx"], 1, "ATSR at 0x40 is too short (6 bytes)", id="ATSR"),
        pytest.param([drhd(), flagged(5)[:2] + b"\4\0"], 1, "SATC at 0x40 is too short (4 bytes)", id="SATC"),
        pytest.param([drhd(), b"\4\0\7\0xxx"], 1, "ANDD at 0x40 is too short (7 bytes)", id="ANDD"),
        pytest.param(
            [drhd(), andd(1, b"\\_SB.I2C0")],
            1,
            "ANDD at 0x40 has a name without an end, the kernel refuses the table",
            id="ANDD without end",
        ),
        pytest.param(
            [drhd(), rmrr(segment=0, base=0x2000, limit=0x1FFF)],
            1,
            "RMRR at 0x40 ends at 0x1fff, before its start 0x2000",
            id="RMRR reversed",
        ),
        pytest.param(
            [drhd(scope(1, 0, (0x1C, 0), (0, 1))), drhd(scope(1, 0, (0x1C, 0), (0, 1)), base=0x1000)],
            2,
            "DRHDs at 0xfed90000 and 0x1000 both name 00:1c.0/00.1 of segment 0; the last counts",
            id="overlapping scopes",
        ),
        pytest.param(
            [drhd(flags=1, segment=3), drhd(base=0x1000, flags=1, segment=3)],
            2,
            "DRHDs at 0xfed90000 and 0x1000 both take all functions of segment 3 that no other names; the first does",
            id="two for all",
        ),
        pytest.param([drhd(base=0)], 1, "DRHD at 0x30 has register base 0, the kernel refuses the table", id="base 0"),
        pytest.param([drhd(scope(9, 0, (1, 0)))], 1, "device scope at 0x40 has unknown type 9", id="unknown scope"),
        pytest.param([drhd(b"\1\5xxxxxx")], 1, "structure at 0x40 has length 5", id="scope too short"),
        pytest.param([drhd(b"\1\0xxxxxx")], 1, "structure at 0x40 has length 0", id="scope of length 0"),
    ],
)
def test_a_broken_structure_is_named_and_the_rest_is_read(items: list[bytes], units: int, problem: str) -> None:
    found = parse_dmar(dmar(*items))

    assert f"DMAR: {problem}" in found.problems
    assert len(found.units) == units


def test_a_repeated_unit_leaves_the_first_one_in_force() -> None:
    found = parse_dmar(dmar(drhd(), drhd(flags=1)))

    assert [unit.include_all for unit in found.units] == [False]


def test_a_scope_cut_within_its_header_is_named() -> None:
    found = parse_dmar(dmar(drhd(b"\1\x08\0\0")))

    assert found.problems == (
        "DMAR: structure at 0x40 passes the end by 4 bytes",
        "DMAR: device scope at 0x40 is cut",
    )


def test_units_that_share_neither_segment_nor_kind_of_scope_do_not_contend() -> None:
    here, there = scope(1, 0, (2, 0)), scope(1, 0, (2, 0))
    ioapic = scope(3, 0xFF, (0, 0))

    found = parse_dmar(dmar(drhd(here, ioapic), drhd(there, segment=1), drhd(ioapic, base=0x1000, flags=1)))

    assert found.problems == ()


def test_the_kernel_looks_at_the_last_unit_first_and_at_those_for_all_the_rest_at_the_end() -> None:
    found = parse_dmar(dmar(drhd(base=1, flags=1), drhd(base=2), drhd(base=3, flags=1), drhd(base=4)))

    assert [(place, unit.register_base) for place, unit in found.search_order()] == [(3, 4), (1, 2), (0, 1), (2, 3)]


def test_translation_caches_below_root_ports_and_of_integrated_functions_are_read() -> None:
    port, function = scope(2, 0, (1, 0)), scope(1, 0, (2, 0))

    found = parse_dmar(
        dmar(flagged(2, port, segment=1), flagged(2, flags=1), flagged(5, function, flags=1), flagged(5, segment=2))
    )

    bridge = DeviceScope(kind=ScopeKind.PCI_SUB_HIERARCHY, start_bus=0, path=((1, 0),))
    endpoint = DeviceScope(kind=ScopeKind.PCI_ENDPOINT, start_bus=0, path=((2, 0),))
    assert found.root_ports == (
        RootPorts(segment=1, all_ports=False, scopes=(bridge,)),
        RootPorts(segment=0, all_ports=True, scopes=()),
    )
    assert found.cached_translations == (
        CachedTranslation(segment=0, required=True, scopes=(endpoint,)),
        CachedTranslation(segment=2, required=False, scopes=()),
    )
    assert found.problems == ()


def test_devices_outside_pci_have_a_number_and_a_name() -> None:
    found = parse_dmar(dmar(andd(7, b"\\_SB.I2C0\0"), andd(8, b"\xff\0rest\0")))

    assert found.namespace_devices == (
        NamespaceDevice(number=7, name="\\_SB.I2C0"),
        NamespaceDevice(number=8, name="\ufffd"),
    )
    assert found.problems == ()


def test_a_device_outside_pci_may_have_no_name_at_all() -> None:
    found = parse_dmar(dmar(andd(7, b"")))

    assert found.namespace_devices == (NamespaceDevice(number=7, name=""),)
    assert found.problems == ("DMAR: ANDD at 0x30 has a name without an end, the kernel refuses the table",)


def test_reserved_memory_may_be_a_single_byte() -> None:
    assert parse_dmar(dmar(rmrr(segment=0, base=7, limit=7))).problems == ()


def test_the_header_tells_the_width_of_addresses_and_what_the_platform_asks_for() -> None:
    found = parse_dmar(dmar(flags=6))

    assert found.address_width == 39
    assert DmarFlag(found.flags) == DmarFlag.X2APIC_OPT_OUT | DmarFlag.DMA_CONTROL_OPT_IN


def test_an_odd_byte_at_the_end_of_a_path_is_no_step() -> None:
    (unit,) = parse_dmar(dmar(drhd(b"\1\x09\0\0\0\0\x1f\2\7"))).units

    assert unit.scopes[0].path == ((0x1F, 2),)


def test_a_scope_without_a_path_is_kept() -> None:
    (unit,) = parse_dmar(dmar(drhd(scope(1, 7)))).units

    assert unit.scopes == (DeviceScope(kind=ScopeKind.PCI_ENDPOINT, start_bus=7, path=()),)


def test_reserved_memory_without_devices_is_kept() -> None:
    found = parse_dmar(dmar(rmrr(segment=2, base=0x8000, limit=0x8FFF)))

    assert found.reserved_regions == (ReservedRegion(segment=2, base=0x8000, limit=0x8FFF, scopes=()),)


def test_a_broken_scope_of_reserved_memory_is_named() -> None:
    found = parse_dmar(dmar(rmrr(scope(9, 0, (1, 0)), segment=0, base=0x8000, limit=0x8FFF)))

    assert found.problems == ("DMAR: device scope at 0x48 has unknown type 9",)


def test_a_table_that_ends_after_the_flags_has_them() -> None:
    assert parse_dmar(acpi("DMAR", b"\x26\5")).flags == 5


def test_a_table_that_ends_before_the_width_of_addresses_does_not_tell_it() -> None:
    assert parse_dmar(acpi("DMAR", b"")).address_width is None


def test_a_table_that_ends_before_the_flags_has_none() -> None:
    assert parse_dmar(acpi("DMAR", b"\x26")).flags == 0


@given(st.binary(max_size=300) | damaged(fixture("dmar-sub-hierarchies.aml")) | st.binary(max_size=300).map(dmar))
def test_any_bytes_give_a_result_no_larger_than_they_are(data: bytes) -> None:
    found = parse_dmar(data)

    scopes = sum(len(unit.scopes) for unit in found.units)
    scopes += sum(len(region.scopes) for region in found.reserved_regions)
    assert 6 * scopes + 16 * len(found.units) <= len(data)
