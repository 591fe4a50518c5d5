# SPDX-License-Identifier: GPL-2.0-or-later
"""Explanations of one function and of two, as data and as text."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from iommud import check
from iommud.errors import IommudError
from iommud.pci import PortType
from iommud.render.explain import (
    UnknownFunctionError,
    explain_one,
    explain_one_data,
    explain_two,
    explain_two_data,
)
from iommud.render.style import Style
from iommud.verdict.report import Report
from tests.firmware.builders import Strings, fdt, fdt_node
from tests.firmware.test_dmar import dmar, drhd, rmrr, scope
from tests.firmware.test_ivrs import ALIAS, SELECT, ivhd, ivrs, long, short
from tests.firmware.test_viot import iommu_mmio, iommu_pci, pci_range, viot
from tests.render.samples import (
    FOUNDING,
    NAMES,
    ON,
    SMMU,
    SRIOV,
    SWITCH,
    WORKSTATION,
    at,
    config,
    foreign,
    function,
    hostile,
    machine,
    merged,
    no_iommu,
    report_of,
    undecidable,
)

WIDE = Style(width=80)


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        (FOUNDING, "01:00.0"),
        (FOUNDING, "02:00.0"),
        (FOUNDING, "00:03.0"),
        (FOUNDING, "00:02.0 02:00.0"),
        (FOUNDING, "00:03.0 02:00.0"),
        (SMMU, "02:02.0"),
        (SMMU, "02:01.0 02:02.0"),
        (SWITCH, "03:00.0 04:00.0"),
        (SRIOV, "02:10.0"),
        (WORKSTATION, "03:00.0 18:00.0"),
    ],
)
def test_the_explanation_stays_as_it_is(name: str, addresses: str, golden: Callable[[str, str], None]) -> None:
    found = [at(text) for text in addresses.split()]
    explain = explain_one if len(found) == 1 else explain_two
    text = explain(report_of(name), *found, style=WIDE, names=NAMES)

    golden(f"render/explain/{name}-{addresses.replace(' ', '-').replace(':', '.')}.txt", text)


def test_a_function_below_an_alias_bridge_has_the_bridges_requester_id_too() -> None:
    data = explain_one_data(report_of(SMMU), at("02:02.0"))

    smmu = {"table": "device tree", "name": "/smmuv3@9050000", "instance": "smmu3.0x0000000009050000"}
    known = {
        "source": "topology",
        "iommu": smmu,
        "id_kind": "stream ID",
        "firmware": "the iommu-map of /pcie@10000000 holds it",
    }
    assert data["requester_ids"] == [
        {"requester_id": "0000:02:02.0", "taken_by": "0000:02:02.0", "id": "0x210", **known},
        {"requester_id": "0000:02:00.0", "taken_by": "0000:01:00.0", "id": "0x200", **known},
    ]
    assert {one["address"] for one in data["shared_with"]} == {"0000:01:00.0", "0000:02:01.0"}


def test_whoever_has_the_same_id_at_the_iommu_is_named() -> None:
    data = explain_one_data(report_of(SMMU), at("02:02.0"))

    (other,) = data["same_iommu_id"]
    assert other == {
        "address": "0000:02:01.0",
        "requester_id": "0000:02:00.0",
        "iommu": "/smmuv3@9050000",
        "id_kind": "stream ID",
        "id": "0x200",
    }


def folded() -> Report:
    """Two functions with requester IDs of their own, which the mask of the device tree makes one stream."""
    strings = Strings()
    target = fdt_node("smmu@9", strings.prop("phandle", 5), strings.prop("compatible", "arm,smmu-v2"))
    kind = strings.prop("device_type", "pci")
    host = fdt_node(
        "pcie@8", kind, strings.prop("iommu-map", (0, 5, 0, 0x10000)), strings.prop("iommu-map-mask", 0xFF00)
    )
    functions = (function("00:03.0", config(PortType.ENDPOINT)), function("00:04.0", config(PortType.ENDPOINT)))
    blob = fdt(fdt_node("", target, host), strings.block)
    iommus = ("smmu.0x0000000000000009",)
    return check(machine(*functions, groups="00:03.0 00:04.0", iommus=iommus, table_names=None, device_tree=blob))


def test_two_functions_that_firmware_makes_one_say_so() -> None:
    report = folded()

    data = explain_two_data(report, at("00:03.0"), at("00:04.0"))
    text = explain_two(report, at("00:03.0"), at("00:04.0"), style=Style())

    assert data["shared_requester_id"] is None
    assert data["shared_iommu_id"] == {"iommu": "/smmu@9", "id_kind": "stream ID", "id": "0x0"}
    assert "Firmware says that the /smmu@9 knows both by stream ID 0x0: each can use the other's mappings.\n" in text
    assert explain_two_data(report, at("00:03.0"), at("00:03.0"))["shared_iommu_id"] is None
    assert explain_two_data(report_of(FOUNDING), at("00:02.0"), at("00:1f.0"))["shared_iommu_id"] is None


def test_an_alias_that_only_the_table_names_is_listed_last() -> None:
    table = ivrs(ivhd(0x11, short(SELECT, 0x18), long(ALIAS, 0x200, 0x100)))
    functions = (
        function("00:01.0", config(PortType.ROOT_PORT, ON), secondary_bus=2, class_code=0x060400),
        function("02:00.0", config(PortType.ENDPOINT), upstream=at("00:01.0")),
    )
    report = check(
        machine(*functions, groups="00:01.0 | 02:00.0", iommus=("ivhd0",), tables={"IVRS": table}, table_names=None)
    )

    data = explain_one_data(report, at("02:00.0"))
    text = explain_one(report, at("02:00.0"), style=Style())

    assert [(one["requester_id"], one["source"], one["id"]) for one in data["requester_ids"]] == [
        ("0000:02:00.0", "topology", "0x200"),
        ("0000:01:00.0", "IVRS", "0x100"),
    ]
    assert "  0000:01:00.0  by the IVRS table, device ID 0x100\n" in text


def test_a_requester_id_that_another_unit_or_none_serves_says_so() -> None:
    table = viot(
        iommu_pci(0, 8), iommu_pci(0, 16), pci_range(0x100, 0x1FF, 48), pci_range(0x210, 0x210, 64, endpoint=7)
    )
    functions = (
        function("00:02.0", config(PortType.ROOT_PORT, ON), secondary_bus=1, class_code=0x060400),
        function("01:00.0", config(PortType.PCIE_TO_PCI_BRIDGE), upstream=at("00:02.0"), secondary_bus=2),
        function("02:02.0", config(None), upstream=at("01:00.0")),
        function("02:03.0", config(None), upstream=at("01:00.0")),
    )
    report = check(
        machine(*functions, iommus=("0000:00:01.0", "0000:00:02.0"), tables={"VIOT": table}, table_names=None)
    )

    texts = {name: explain_one(report, at(name), style=Style()) for name in ("01:00.0", "02:02.0", "02:03.0")}

    assert "  iommu      0000:00:01.0 (VIOT: the range 01:00.0 to 01:1f.7 holds it)\n" in texts["01:00.0"]
    assert "  0000:02:02.0  its own, endpoint ID 0x7\n" in texts["02:02.0"]
    unmapped = "no IOMMU: no PCI range of the VIOT table holds its requester ID"
    assert f"  0000:02:00.0  given by 0000:01:00.0, {unmapped}\n" in texts["02:02.0"]
    assert "  iommu      none: no PCI range of the VIOT table holds its requester ID\n" in texts["02:03.0"]
    assert "  0000:02:03.0  its own\n" in texts["02:03.0"]


def test_a_requester_id_behind_another_iommu_names_it() -> None:
    table = viot(
        iommu_pci(0, 8), iommu_mmio(0xA000), pci_range(0x200, 0x200, 64), pci_range(0x210, 0x210, 48, endpoint=7)
    )
    functions = (
        function("00:02.0", config(PortType.ROOT_PORT, ON), secondary_bus=1, class_code=0x060400),
        function("01:00.0", config(PortType.PCIE_TO_PCI_BRIDGE), upstream=at("00:02.0"), secondary_bus=2),
        function("02:02.0", config(None), upstream=at("01:00.0")),
    )
    report = check(machine(*functions, iommus=("0000:00:01.0",), tables={"VIOT": table}, table_names=None))

    text = explain_one(report, at("02:02.0"), style=Style())

    assert "  0000:02:00.0  given by 0000:01:00.0, endpoint ID 0x0 at virtio-iommu at 0xa000\n" in text


def test_reserved_memory_and_what_firmware_adds_are_told() -> None:
    reserved = rmrr(scope(1, 0, (3, 0)), segment=0, base=0x7B800000, limit=0x7FFFFFFF)
    table = dmar(drhd(flags=1), reserved, flags=7)
    report = check(machine(function("00:03.0", config(PortType.ENDPOINT)), groups="00:03.0", tables={"DMAR": table}))

    data = explain_one_data(report, at("00:03.0"))
    text = explain_one(report, at("00:03.0"), style=Style())

    assert data["reserved_regions"] == [
        {"table": "DMAR", "first": "0x7b800000", "last": "0x7fffffff", "what": "RMRR, mapped one to one"}
    ]
    assert "Reserved memory\n  0x7b800000 to 0x7fffffff  RMRR, mapped one to one (DMAR)\n" in text
    assert "What firmware adds\n  DMAR: interrupt remapping is offered (INTR_REMAP)\n" in text
    assert {one["table"] for one in data["firmware"]} == {"DMAR"}


def test_without_tables_sysfs_tells_the_iommu() -> None:
    functions = (function("00:03.0", config(PortType.ENDPOINT)), function("00:04.0", config(PortType.ENDPOINT)))
    snapshot = replace(machine(*functions, groups="00:03.0 | 00:04.0"), iommus={"dmar3": (at("00:03.0"),)})
    report = check(snapshot)

    assert explain_one_data(report, at("00:03.0"))["iommu_instance"] == "dmar3"
    assert "  iommu      dmar3 (sysfs lists the function below it)\n" in explain_one(
        report, at("00:03.0"), style=Style()
    )
    assert "\n  iommu" not in explain_one(report, at("00:04.0"), style=Style())


def test_a_bridge_that_takes_requests_shares_them_with_those_below() -> None:
    data = explain_one_data(report_of(SMMU), at("01:00.0"))

    assert data["shared_with"] == [
        {"address": "0000:02:01.0", "requester_id": "0000:02:00.0"},
        {"address": "0000:02:02.0", "requester_id": "0000:02:00.0"},
    ]


def test_the_path_to_the_root_names_the_isolation_of_each_bridge() -> None:
    path = explain_one_data(report_of(FOUNDING), at("02:00.0"))["path"]

    assert [(step["address"], step["isolated"]) for step in path] == [("0000:01:00.0", False), ("0000:00:02.0", False)]


def test_a_function_that_rightly_has_no_group_says_why() -> None:
    facts = explain_one_data(report_of(FOUNDING), at("00:03.0"))["function"]

    assert facts["group"] is None
    assert facts["without"] == {"reason": "it is the IOMMU itself", "evidence": "VIOT"}


def test_a_function_of_the_root_bus_in_its_expected_group_says_so() -> None:
    text = explain_one(report_of(FOUNDING), at("00:1f.0"), style=Style())

    assert "\n  expected   the same\n" in text
    assert "Path to the root\n  it is on a root bus\n" in text


def test_a_function_that_nothing_ties_says_so() -> None:
    report = report_of(WORKSTATION)

    assert "What ties it to others\n  nothing\n" in explain_one(report, at("03:00.0"), style=Style())


def test_two_functions_are_joined_by_a_shortest_chain() -> None:
    data = explain_two_data(report_of(FOUNDING), at("00:02.0"), at("02:00.0"))

    assert data["joined"] is True
    assert data["same_group"] is False
    assert [(tie["one"], tie["other"]) for tie in data["chain"]] == [
        ("0000:01:00.0", "0000:00:02.0"),
        ("0000:02:00.0", "0000:01:00.0"),
    ]
    assert data["because"] is None


def test_two_functions_are_separated_by_what_is_isolated_between_them() -> None:
    data = explain_two_data(report_of(WORKSTATION), at("03:00.0"), at("04:00.0"))

    assert data["joined"] is False
    assert [step["address"] for step in data["separated_by"]] == [
        "0000:02:00.0",
        "0000:01:00.0",
        "0000:00:01.1",
        "0000:00:01.2",
    ]


def test_two_functions_of_one_device_are_separated_by_themselves() -> None:
    data = explain_two_data(report_of(WORKSTATION), at("03:00.0"), at("03:00.1"))

    assert [step["address"] for step in data["separated_by"]] == ["0000:03:00.0", "0000:03:00.1"]


def test_a_bridge_and_what_lies_below_it_are_separated_by_the_bridge() -> None:
    data = explain_two_data(report_of(WORKSTATION), at("00:01.2"), at("04:00.0"))

    assert [step["address"] for step in data["separated_by"]] == ["0000:00:01.2"]


def two_domains() -> dict[str, object]:
    functions = (
        function("00:03.0", config(PortType.ENDPOINT)),
        function("0001:00:03.0", config(PortType.ENDPOINT), root=(1, 0)),
    )
    report = check(machine(*functions, groups="00:03.0 | 0001:00:03.0"))
    return explain_two_data(report, at("00:03.0"), at("0001:00:03.0"))


@pytest.mark.parametrize(
    ("data", "because"),
    [
        (two_domains(), "they lie below different root buses"),
        (
            explain_two_data(merged(), at("00:03.0"), at("00:04.0")),
            "the kernel's rule ties a device to bridges above it, and none of these joins both",
        ),
        (explain_two_data(no_iommu(), at("00:03.0"), at("00:03.0")), None),
    ],
    ids=["domains", "devices", "itself"],
)
def test_where_nothing_stands_between_two_functions_a_sentence_says_why(
    data: dict[str, object], because: str | None
) -> None:
    assert data["separated_by"] == []
    assert data["because"] == because


def test_a_pair_that_the_rule_keeps_apart_but_no_hardware_does_says_so() -> None:
    report = report_of(SWITCH)

    text = explain_two(report, at("03:00.0"), at("04:00.0"), style=Style())

    assert f"Yet requests can pass between them: see finding {report.findings[0].id}." in text
    assert explain_two_data(report, at("03:00.0"), at("00:02.0"))["unisolated"] is None


def test_a_merged_pair_is_told_from_its_groups() -> None:
    text = explain_two(merged(), at("00:03.0"), at("00:04.0"), style=Style())

    assert "0000:00:03.0 and 0000:00:04.0 belong in different groups, but the kernel has them in one." in text


def test_without_an_iommu_nothing_is_joined() -> None:
    functions = (function("00:03.0", config(PortType.ENDPOINT)), function("00:04.0", config(PortType.ENDPOINT)))
    report = check(machine(*functions, iommus=()))

    data = explain_two_data(report, at("00:03.0"), at("00:04.0"))

    assert data["joined"] is None
    assert str(data["because"]).startswith("no IOMMU is in use: ")
    assert "0000:00:03.0 and 0000:00:04.0 rightly have no group." in explain_two(
        report, at("00:03.0"), at("00:04.0"), style=Style()
    )


def test_what_unread_bytes_decide_is_left_open() -> None:
    text = explain_two(undecidable(), at("01:00.0"), at("01:00.1"), style=Style())

    assert "cannot be judged from this snapshot; the kernel has them in one." in text
    assert "at the least: unread facts could join more" in explain_one(undecidable(), at("01:00.0"), style=Style())


def test_what_unread_bytes_cannot_join_is_apart() -> None:
    assert explain_two_data(undecidable(), at("00:01.0"), at("01:00.0"))["joined"] is False


def test_a_machine_that_is_not_judged_still_shows_the_kernels_own_rule() -> None:
    report = foreign()

    assert explain_two_data(report, at("00:03.0"), at("00:04.0"))["joined"] is None
    text = explain_two(report, at("00:03.0"), at("00:04.0"), style=Style())
    assert "are not judged; 0000:00:04.0 has none." in text
    assert "\n  group      none\n" in explain_one(report, at("00:04.0"), style=Style())


def test_an_alias_of_a_functions_own_is_named_as_such() -> None:
    # Marvell 9123: quirk_dma_func1_alias() lets it send as function 1 too.
    report = check(
        machine(function("00:03.0", config(PortType.LEGACY_ENDPOINT), vendor=0x1B4B, device=0x9123), groups="00:03.0")
    )

    text = explain_one(report, at("00:03.0"), style=Style())

    assert "Requester IDs\n  0000:00:03.0  its own\n  0000:00:03.1  an alias of its own\n" in text


def test_requests_of_a_vmd_domain_carry_the_endpoints_id() -> None:
    report = check(
        machine(
            function("00:0e.0", config(PortType.ROOT_COMPLEX_INTEGRATED_ENDPOINT), driver="vmd"),
            function("10000:e1:00.0", config(PortType.ENDPOINT), root=(0x10000, 0xE1), host_parent=at("00:0e.0")),
            groups="00:0e.0 10000:e1:00.0",
        )
    )

    text = explain_one(report, at("10000:e1:00.0"), style=Style())

    assert "Requester IDs\n  0000:00:0e.0  of the function that takes its requests\n" in text


def test_long_lists_are_cut_in_text_but_not_in_data() -> None:
    port = function("00:01.0", config(PortType.ROOT_PORT), secondary_bus=1, class_code=0x060400)
    below = [function(f"01:{number:02x}.0", config(None), upstream=at("00:01.0")) for number in range(20)]
    names = " ".join(str(one.address) for one in (port, *below))
    report = check(machine(port, *below, groups=names))

    assert len(explain_one_data(report, at("00:01.0"))["ties"]) == 20
    text = explain_one(report, at("00:01.0"), style=Style())
    assert "  and 4 more (--format json)\n" in text
    assert "0000:01:0f.0 and 4 more\n" in text


def test_the_data_is_json() -> None:
    for data in (
        explain_one_data(hostile(), at("00:03.0")),
        explain_two_data(report_of(FOUNDING), at("00:02.0"), at("02:00.0")),
    ):
        assert json.loads(json.dumps(data)) == data


def test_foreign_strings_are_harmless_in_text() -> None:
    text = explain_one(hostile(), at("00:03.0"), style=Style())

    assert all(line.isprintable() for line in text.splitlines())


def test_a_function_that_is_not_there_is_an_error_that_names_it() -> None:
    with pytest.raises(UnknownFunctionError, match=r"0000:7f:00\.0 is not among the PCI functions of"):
        explain_one_data(report_of(FOUNDING), at("7f:00.0"))


def test_a_report_without_its_analysis_cannot_be_explained() -> None:
    with pytest.raises(IommudError, match="does not hold what an explanation needs"):
        explain_one_data(replace(report_of(FOUNDING), analysis=None), at("00:02.0"))


def test_isolated_ports_are_told_with_their_registers() -> None:
    report = check(
        machine(
            function("00:01.0", config(PortType.ROOT_PORT, ON), secondary_bus=1, class_code=0x060400),
            function("01:00.0", config(PortType.ENDPOINT), upstream=at("00:01.0")),
            groups="00:01.0 | 01:00.0",
        )
    )

    text = explain_two(report, at("00:01.0"), at("01:00.0"), style=Style())

    assert (
        "What separates them\n  0000:00:01.0  root port, isolated: "
        "ACS capability 0x005f, control 0x001d has all of SV|RR|CR|UF\n" in text
    )
