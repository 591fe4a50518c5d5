# SPDX-License-Identifier: GPL-2.0-or-later
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommud.firmware.fdt import parse_fdt
from iommud.firmware.fdt_pci import MAX_HOST_BRIDGES, MAX_PORT_DEPTH, HostBridge, host_bridges
from tests.firmware.builders import Strings, damaged, fdt, fdt_node, fixture

Value = bytes | str | int | tuple[int, ...]


def bridges(*nodes: bytes, strings: Strings) -> tuple[HostBridge, ...]:
    root = fdt_node("", strings.prop("#address-cells", 2), strings.prop("#size-cells", 2), *nodes)
    tree = parse_fdt(fdt(root, strings.block))
    assert tree.problems == ()
    return host_bridges(tree)


def node(strings: Strings, name: str, properties: dict[str, Value], *children: bytes) -> bytes:
    return fdt_node(name, *(strings.prop(key, value) for key, value in properties.items()), *children)


def one_bridge(properties: dict[str, Value], *, iommu: dict[str, Value] | None = None) -> HostBridge:
    strings = Strings()
    target = node(strings, "iommu@9", {"phandle": 5, "#iommu-cells": 1} | (iommu or {}))
    bridge = node(strings, "pcie@8", {"device_type": "pci"} | properties)
    (found,) = bridges(target, bridge, strings=strings)
    return found


def test_a_real_tree_maps_all_but_the_virtio_iommu_itself() -> None:
    (bridge,) = host_bridges(parse_fdt(fixture("fdt-virtio-iommu.dtb")))

    assert (bridge.path, bridge.name, bridge.enabled) == ("/pcie@10000000", "pcie@10000000", True)
    assert (bridge.reg_base, bridge.platform_name) == (0x4010000000, "4010000000.pcie")
    assert (bridge.linux_pci_domain, bridge.bus_range) == (0, (0, 255))
    assert (bridge.iommu_map_mask, bridge.problems) == (0xFFFFFFFF, ())
    assert [(one.rid_base, one.phandle, one.iommu_base, one.length) for one in bridge.iommu_map or ()] == [
        (0, 0x8005, 0, 8),
        (9, 0x8005, 9, 0xFFF7),
    ]
    assert {(one.target, one.target_enabled, one.compatible) for one in bridge.iommu_map or ()} == {
        ("/pcie@10000000/virtio_iommu@1,0", True, ("virtio,pci-iommu", "pci1af4,1057"))
    }


@pytest.mark.parametrize(("rid", "iommu_id"), [(0, 0), (7, 7), (8, None), (9, 9), (0xFFFF, 0xFFFF)])
def test_a_real_tree_lets_only_the_iommu_bypass(rid: int, iommu_id: int | None) -> None:
    (bridge,) = host_bridges(parse_fdt(fixture("fdt-virtio-iommu.dtb")))

    found = bridge.translate(rid)

    assert (None if found is None else found.iommu_id) == iommu_id


def test_a_real_tree_with_smmu_maps_everything_to_it() -> None:
    (bridge,) = host_bridges(parse_fdt(fixture("fdt-smmuv3.dtb")))

    found = bridge.translate(0xFFFF)

    assert found is not None
    assert (found.entry.target, found.iommu_id) == ("/smmuv3@9050000", 0xFFFF)


def test_a_machine_that_boots_by_acpi_has_no_host_bridge_in_its_tree() -> None:
    assert host_bridges(parse_fdt(fixture("fdt-acpi-stub.dtb"))) == ()


def test_a_tree_that_could_not_be_read_has_no_host_bridge() -> None:
    assert host_bridges(parse_fdt(b"")) == ()


def test_what_is_not_stated_is_none() -> None:
    bridge = one_bridge({})

    assert (bridge.reg_base, bridge.platform_name) == (None, None)
    assert (bridge.linux_pci_domain, bridge.bus_range, bridge.iommu_map) == (None, None, None)
    assert bridge.translate(0) is None
    assert bridge.problems == ()


def test_the_first_entry_whose_range_holds_the_id_decides() -> None:
    bridge = one_bridge({"iommu-map": (0x100, 5, 0x1000, 0x100, 0x180, 5, 0x2000, 0x100)})

    ids = [found and found.iommu_id for found in map(bridge.translate, (0xFF, 0x100, 0x180, 0x200, 0x280))]

    assert ids == [None, 0x1000, 0x1080, 0x2080, None]


def test_the_mask_is_applied_to_the_id() -> None:
    bridge = one_bridge({"iommu-map": (0, 5, 0x40, 0x100), "iommu-map-mask": 0xFF00FFF8 & 0xF8})

    found = bridge.translate(0x1FF)

    assert found is not None
    assert found.iommu_id == 0x40 + 0xF8


def test_a_base_outside_the_mask_spoils_the_map_from_there_on() -> None:
    bridge = one_bridge({"iommu-map": (0, 5, 0, 8, 9, 5, 9, 8), "iommu-map-mask": 0xF8})

    assert bridge.translate(1) is not None
    assert bridge.translate(0x20) is None
    assert bridge.problems == ("FDT: /pcie@8: iommu-map: mask 0xf8 excludes the base 0x9, the kernel refuses the map",)


def test_a_base_within_the_mask_is_sound() -> None:
    assert one_bridge({"iommu-map": (8, 5, 8, 8), "iommu-map-mask": 0xF8}).problems == ()


@pytest.mark.parametrize("value", [b"", bytes(12), bytes(20)])
def test_a_map_of_odd_length_is_named_and_maps_nothing(value: bytes) -> None:
    bridge = one_bridge({"iommu-map": value})

    assert bridge.iommu_map == ()
    assert bridge.translate(0) is None
    assert bridge.problems == (f"FDT: /pcie@8: iommu-map: has {len(value)} bytes, no multiple of 16",)


def test_a_target_that_no_node_answers_to_is_named() -> None:
    bridge = one_bridge({"iommu-map": (0, 0x99, 0, 0x10000)})

    found = bridge.translate(0)

    assert found is not None
    assert (found.entry.target, found.entry.target_enabled) == (None, False)
    assert bridge.problems == ("FDT: /pcie@8: iommu-map: refers to phandle 0x99, which no node has",)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ((0, 5, 0, 0x101, 0x100, 5, 0, 1), "entries 0 and 1 hold the same IDs; the first counts"),
        ((0x100, 5, 0, 0), "the entry at 0x100 has length 0, it maps nothing"),
    ],
)
def test_entries_that_overlap_or_map_nothing_are_named(value: tuple[int, ...], problem: str) -> None:
    assert one_bridge({"iommu-map": value}).problems == (f"FDT: /pcie@8: iommu-map: {problem}",)


def test_ports_that_lead_out_of_the_case_are_told_by_the_way_to_them() -> None:
    strings = Strings()
    outside: dict[str, Value] = {"external-facing": b""}
    below = node(strings, "pci@1,2", {"reg": (0x00010A00, 0, 0, 0, 0)} | outside)
    port = node(strings, "pci@2,0", {"reg": (0x1000, 0, 0, 0, 0)} | outside, below)
    unplaced = node(strings, "pci@3,0", outside)
    host = node(strings, "pcie@8", {"device_type": "pci"}, port, unplaced)

    (found,) = bridges(host, strings=strings)

    assert found.external_facing == (((2, 0),), ((2, 0), (1, 2)))


def test_ports_are_followed_down_to_a_limit() -> None:
    strings = Strings()
    port = node(strings, "pci@0", {"reg": (0,), "external-facing": b""})
    for _ in range(MAX_PORT_DEPTH + 2):
        port = node(strings, "pci@0", {"reg": (0,)}, port)
    host = node(strings, "pcie@8", {"device_type": "pci"}, port)

    (found,) = bridges(host, strings=strings)

    assert found.external_facing == ()


def test_a_disabled_target_is_told() -> None:
    bridge = one_bridge({"iommu-map": (0, 5, 0, 0x10000)}, iommu={"status": "disabled"})

    assert bridge.iommu_map is not None
    assert (bridge.iommu_map[0].target, bridge.iommu_map[0].target_enabled) == ("/iommu@9", False)


def test_a_target_with_another_number_of_cells_is_read_as_one_and_named() -> None:
    bridge = one_bridge({"iommu-map": (0, 5, 0, 0x10000)}, iommu={"#iommu-cells": 2})

    assert bridge.translate(0) is not None
    assert bridge.problems == (
        "FDT: /pcie@8: iommu-map: /iommu@9 wants other than 1 IOMMU cell, the kernel reads it as 1",
    )


def test_the_old_name_of_a_phandle_is_known_and_the_first_of_two_nodes_has_it() -> None:
    strings = Strings()
    first = node(strings, "iommu@1", {"linux,phandle": 5})
    second = node(strings, "iommu@2", {"phandle": 5})
    bridge = node(strings, "pcie@8", {"device_type": "pci", "iommu-map": (0, 5, 0, 1)})

    (found,) = bridges(first, second, bridge, strings=strings)

    assert found.iommu_map is not None
    assert found.iommu_map[0].target == "/iommu@1"


def test_a_bridge_below_a_host_bridge_is_none() -> None:
    strings = Strings()
    port = node(strings, "pci@0,0", {"device_type": "pci"})
    host = node(strings, "pcie@8", {"device_type": "pciex"}, port)
    other = node(strings, "pcie@9", {"device_type": "pci"})

    assert [item.path for item in bridges(host, other, strings=strings)] == ["/pcie@8", "/pcie@9"]


@pytest.mark.parametrize("where", ["bus", "bridge"])
def test_a_host_bridge_is_off_where_it_or_a_parent_is(where: str) -> None:
    strings = Strings()
    off: dict[str, Value] = {"status": "disabled"}
    host = node(strings, "pcie@8", {"device_type": "pci"} | (off if where == "bridge" else {}))
    bus = node(strings, "soc", off if where == "bus" else {}, host)

    (found,) = bridges(bus, strings=strings)

    assert not found.enabled


@pytest.mark.parametrize(
    ("bus", "reg_base"),
    [
        pytest.param({"ranges": b""}, 0x40_00000100, id="same addresses on both sides"),
        pytest.param({}, None, id="nothing passes"),
        pytest.param(
            {
                "#address-cells": 1,
                "#size-cells": 1,
                "ranges": (0x80, 1, 0x5000, 0x10, 0x40, 2, 0x9000, 0x100),
            },
            0x2_00009000,
            id="second range",
        ),
        pytest.param(
            {"#address-cells": 1, "#size-cells": 1, "ranges": (0x41, 1, 0x5000, 0x10)},
            None,
            id="no range holds it",
        ),
        pytest.param({"#address-cells": 1, "#size-cells": 1, "ranges": (0x40, 1, 0x5000)}, None, id="range cut"),
        pytest.param(
            {"#address-cells": 1, "#size-cells": 1, "ranges": (0x3F, 1, 0x5000, 1)},
            None,
            id="past the end of the range",
        ),
        pytest.param(
            {"#address-cells": 1, "#size-cells": 2, "ranges": (0x40, 1, 0x5000, 0x10)}, None, id="range cut in its size"
        ),
        pytest.param(
            {"#address-cells": 1, "#size-cells": 1, "ranges": struct.pack(">4I", 0x40, 1, 0x5000, 0x10000)[:-1]},
            None,
            id="range short of one byte",
        ),
        pytest.param({"#address-cells": 3, "ranges": b""}, None, id="reg shorter than an address"),
    ],
)
def test_the_register_address_is_translated_through_the_buses_above(
    bus: dict[str, Value], reg_base: int | None
) -> None:
    strings = Strings()
    host = node(strings, "pcie@4000000100", {"device_type": "pci", "reg": (0x40, 0x100)})

    (found,) = bridges(node(strings, "soc", bus, host), strings=strings)

    assert found.reg_base == reg_base


@pytest.mark.parametrize(
    ("low", "reg_base"), [(0x2000, 0x7_00008000), (0x20FF, 0x7_000080FF), (0x2100, None), (0x1FFF, None)]
)
def test_an_address_is_taken_up_bus_by_bus_with_the_cells_of_each(low: int, reg_base: int | None) -> None:
    strings = Strings()
    host = node(strings, "pcie", {"device_type": "pci", "reg": (1, low)})
    inner: dict[str, Value] = {"#address-cells": 2, "#size-cells": 1, "ranges": (1, 0x2000, 0x300, 0x100)}
    outer: dict[str, Value] = {"#address-cells": 1, "#size-cells": 2, "ranges": (0x300, 7, 0x8000, 0, 0x1000)}

    (found,) = bridges(node(strings, "soc", outer, node(strings, "bus", inner, host)), strings=strings)

    assert found.reg_base == reg_base


def test_without_registers_there_is_no_address() -> None:
    strings = Strings()
    host = node(strings, "pcie", {"device_type": "pci"})

    (found,) = host_bridges(parse_fdt(fdt(fdt_node("", host), strings.block)))

    assert found.reg_base is None


def test_without_any_cell_counts_an_address_has_one_cell() -> None:
    strings = Strings()
    host = node(strings, "pcie@8", {"device_type": "pci", "reg": (0x40, 0x100)})

    (found,) = host_bridges(parse_fdt(fdt(fdt_node("", host), strings.block)))

    assert found.reg_base == 0x40


def test_the_number_of_host_bridges_is_limited() -> None:
    strings = Strings()
    device_type = strings.prop("device_type", "pci")

    found = bridges(fdt_node("pcie", device_type) * (MAX_HOST_BRIDGES + 9), strings=strings)

    assert len(found) == MAX_HOST_BRIDGES


@given(damaged(fixture("fdt-virtio-iommu.dtb")), st.integers(0, 0xFFFF))
def test_a_damaged_tree_never_raises(data: bytes, rid: int) -> None:
    for bridge in host_bridges(parse_fdt(data)):
        bridge.translate(rid)


@given(st.binary(max_size=64), st.binary(max_size=64), st.binary(max_size=8), st.binary(max_size=8))
def test_arbitrary_property_values_never_raise(reg: bytes, ranges: bytes, cells: bytes, iommu_map: bytes) -> None:
    strings = Strings()
    properties: dict[str, Value] = {
        "device_type": "pci",
        "reg": reg,
        "iommu-map": iommu_map,
        "bus-range": cells,
    }
    host = node(strings, "pcie", properties)
    bus = node(strings, "soc", {"ranges": ranges, "#address-cells": cells, "#size-cells": cells}, host)

    (found,) = bridges(bus, strings=strings)

    assert found.path == "/soc/pcie"
