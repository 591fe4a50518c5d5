# SPDX-License-Identifier: GPL-2.0-or-later
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommud.firmware.viot import (
    MmioEndpoint,
    PciRange,
    VirtioIommuMmio,
    VirtioIommuPci,
    parse_viot,
)
from tests.firmware.builders import acpi, damaged, fixture


def pci_range(first: int, last: int, output: int, *, segments: tuple[int, int] = (0, 0), endpoint: int = 0) -> bytes:
    return struct.pack("<BxHIHHHHH6x", 1, 24, endpoint, *segments, first, last, output)


def mmio_endpoint(base: int, endpoint: int, output: int) -> bytes:
    return struct.pack("<BxHIQH6x", 2, 24, endpoint, base, output)


def iommu_pci(segment: int, rid: int) -> bytes:
    return struct.pack("<BxHHH8x", 3, 16, segment, rid)


def iommu_mmio(base: int) -> bytes:
    return struct.pack("<BxH4xQ", 4, 16, base)


def viot(*nodes: bytes, count: int | None = None, offset: int = 48) -> bytes:
    head = struct.pack("<HH8x", len(nodes) if count is None else count, offset)
    return acpi("VIOT", head + b"".join(nodes))


def test_a_real_table_puts_three_buses_behind_the_iommu_at_00_01_0() -> None:
    found = parse_viot(fixture("viot.aml"))

    assert found.problems == ()
    assert found.iommus == (VirtioIommuPci(segment=0, rid=8),)
    assert found.pci_ranges == (
        PciRange(
            first_segment=0,
            last_segment=0,
            first_rid=0,
            last_rid=0x2FF,
            endpoint_start=0,
            output_node=48,
            output=VirtioIommuPci(segment=0, rid=8),
        ),
    )


@pytest.mark.parametrize(
    ("segment", "rid", "held"),
    [(0, 0, True), (0, 0x2FF, True), (0, 0x300, False), (1, 0, False)],
)
def test_a_range_holds_its_ends_and_no_more(segment: int, rid: int, held: bool) -> None:
    found = parse_viot(fixture("viot.aml"))

    assert (found.range_of(segment, rid) is not None) == held


def test_endpoint_ids_count_on_through_segments() -> None:
    (item,) = parse_viot(viot(iommu_pci(0, 8), pci_range(0x100, 0x1FF, 48, segments=(2, 3), endpoint=0x40))).pci_ranges

    assert item.endpoint(2, 0x100) == 0x40
    assert item.endpoint(3, 0x108) == 0x10048


def test_an_iommu_and_endpoints_behind_mmio_are_read() -> None:
    found = parse_viot(viot(mmio_endpoint(0x9000, 7, 72), iommu_mmio(0xA000)))

    assert found.mmio_endpoints == (
        MmioEndpoint(base=0x9000, endpoint=7, output_node=72, output=VirtioIommuMmio(base=0xA000)),
    )
    assert found.iommus == (VirtioIommuMmio(base=0xA000),)


def test_of_overlapping_ranges_the_last_in_the_table_decides() -> None:
    found = parse_viot(viot(iommu_pci(0, 8), pci_range(0, 0xFFFF, 48, endpoint=1), pci_range(0, 0xFF, 48, endpoint=2)))

    assert [found.range_of(0, rid) for rid in (0x10, 0x100)] == [found.pci_ranges[1], found.pci_ranges[0]]
    assert found.problems == ("VIOT: PCI range nodes at 0x40 and 0x58 overlap; the last counts",)


@pytest.mark.parametrize(
    ("first", "second", "count"),
    [((0, 0), (1, 1), 0), ((0, 1), (1, 1), 1), ((1, 2), (0, 1), 1), ((2, 3), (0, 1), 0), ((0, 3), (1, 1), 1)],
)
def test_ranges_overlap_only_in_segments_that_both_have(
    first: tuple[int, int], second: tuple[int, int], count: int
) -> None:
    ranges = (pci_range(5, 5, 48, segments=first), pci_range(0, 9, 48, segments=second))

    assert len(parse_viot(viot(iommu_pci(0, 8), *ranges)).problems) == count


def test_a_range_without_an_iommu_overlaps_none() -> None:
    found = parse_viot(viot(iommu_pci(0, 8), pci_range(0, 9, 0), pci_range(0, 9, 48), pci_range(9, 9, 48)[:8]))

    assert not any("overlap" in problem for problem in found.problems)


@pytest.mark.parametrize(("ids", "segments"), [((9, 8), (0, 0)), ((0, 9), (1, 0))])
def test_a_range_that_runs_backwards_is_named(ids: tuple[int, int], segments: tuple[int, int]) -> None:
    found = parse_viot(viot(iommu_pci(0, 8), pci_range(*ids, 48, segments=segments)))

    assert found.problems == ("VIOT: PCI range node at 0x40 ends before it starts, it holds nothing",)


def test_a_range_without_an_iommu_is_named_and_decides_nothing() -> None:
    found = parse_viot(viot(pci_range(0, 0xFFFF, 48)))

    assert found.pci_ranges[0].output is None
    assert found.range_of(0, 0) is None
    assert found.problems == ("VIOT: node at 0x30: no virtio-iommu node at its output offset 0x30",)


@pytest.mark.parametrize("offset", [0, 47, 86, 200, 0xFFFF])
def test_an_output_offset_outside_the_nodes_finds_no_iommu(offset: int) -> None:
    found = parse_viot(viot(iommu_pci(0, 8), pci_range(0, 0xFFFF, offset)))

    assert found.pci_ranges[0].output is None
    assert len(found.problems) == 1


def test_a_platform_device_without_an_iommu_is_named() -> None:
    found = parse_viot(viot(mmio_endpoint(0x9000, 7, 48)))

    assert found.mmio_endpoints == (MmioEndpoint(base=0x9000, endpoint=7, output_node=48, output=None),)
    assert found.problems == ("VIOT: node at 0x30: no virtio-iommu node at its output offset 0x30",)


def test_a_table_without_nodes_is_sound() -> None:
    assert parse_viot(viot()).problems == ()


def test_no_node_past_the_announced_count_is_looked_at() -> None:
    found = parse_viot(viot(iommu_pci(0, 8), pci_range(0, 0xFFFF, 48), count=1))

    assert (len(found.iommus), found.pci_ranges, found.problems) == (1, (), ())


def test_nodes_may_start_after_a_gap() -> None:
    found = parse_viot(viot(b"gap!", iommu_pci(0, 8), count=1, offset=52))

    assert found.iommus == (VirtioIommuPci(segment=0, rid=8),)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        pytest.param(acpi("VIOT", bytes(4)), "only 40 bytes, the fixed part needs 48", id="fixed part cut"),
        pytest.param(viot(iommu_pci(0, 8), offset=47), "nodes start at 0x2f, inside the fixed part", id="offset"),
        pytest.param(viot(iommu_pci(0, 8), count=2), "2 nodes announced, 1 found", id="count"),
        pytest.param(
            viot(struct.pack("<BxH4x", 1, 8)), "PCI range node at 0x30 is too short (8 bytes)", id="PCI range"
        ),
        pytest.param(viot(struct.pack("<BxH4x", 2, 8)), "MMIO endpoint node at 0x30 is too short (8 bytes)", id="MMIO"),
        pytest.param(viot(struct.pack("<BxH", 1, 0)), "structure at 0x30 has length 0", id="length 0"),
    ],
)
def test_a_broken_table_is_named(data: bytes, problem: str) -> None:
    assert f"VIOT: {problem}" in parse_viot(data).problems


@pytest.mark.parametrize("kind", [3, 4])
def test_a_cut_iommu_node_is_no_iommu(kind: int) -> None:
    found = parse_viot(viot(struct.pack("<BxH4x", kind, 8), pci_range(0, 0xFFFF, 48)))

    assert found.iommus == ()
    assert found.pci_ranges[0].output is None


def test_another_table_gives_no_nodes() -> None:
    found = parse_viot(acpi("FACP", bytes(40)))

    assert (found.pci_ranges, found.problems) == ((), ("VIOT: signature is b'FACP'",))


@given(
    st.binary(max_size=300)
    | damaged(fixture("viot.aml"))
    | st.binary(max_size=300).map(lambda body: viot(body, count=0xFFFF))
)
def test_any_bytes_give_a_result_no_larger_than_they_are(data: bytes) -> None:
    found = parse_viot(data)

    assert 24 * len(found.pci_ranges) + 16 * len(found.iommus) <= len(data)
    found.range_of(0, 0)
