# SPDX-License-Identifier: GPL-2.0-or-later
"""The bundled tables: lint of every row, counts per kernel version, and how rows are selected."""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import pytest

from iommud.data import data_text
from iommud.kernel import KNOWN_VERSIONS, Version
from iommud.model.quirks import (
    AcsRow,
    AcsRule,
    AliasRow,
    BridgeFlag,
    DeviceList,
    Quirks,
    _bundled,
    _holds,
    _is_gated,
    read_rows,
)

TABLES = {
    "acs.tsv": "vendor device rule since until note source",
    "dma-alias.tsv": "vendor device subsystem class effect since until note source",
    "device-lists.tsv": "list vendor first last since until source",
}
VERSIONS = {f"{major}.{minor}": (major, minor) for major, minor in KNOWN_VERSIONS}
KEY_COLUMNS = {
    "acs.tsv": ("vendor", "device", "rule"),
    "dma-alias.tsv": ("vendor", "device", "subsystem", "effect"),
    "device-lists.tsv": ("list", "vendor", "first"),
}
HEX = re.compile("[0-9a-f]{4}")
EFFECT = re.compile(
    "function=[0-7]|devfns=[0-9a-f]{2}(,[0-9a-f]{2})*|devfn-range=[0-9a-f]{2}-[0-9a-f]{2}"
    "|functions-of-every-slot=[0-7](,[0-7])*|flag=[A-Z_]+|device-memory"
)


@pytest.fixture(autouse=True)
def tables_read_anew() -> Iterator[None]:
    """No test rests on what another one has loaded."""
    _bundled.cache_clear()
    yield
    _bundled.cache_clear()


def rows(table: str) -> list[dict[str, str]]:
    names = TABLES[table].split()
    return [dict(zip(names, row, strict=True)) for row in read_rows(table)]


@pytest.mark.parametrize("table", TABLES)
def test_every_table_has_its_heading_and_rows_of_as_many_columns(table: str) -> None:
    lines = [line for line in data_text(table).splitlines() if not line.startswith("#")]
    assert lines[0].split("\t") == TABLES[table].split()
    assert len(rows(table)) == len(lines) - 1


@pytest.mark.parametrize("table", TABLES)
def test_rows_are_unique(table: str) -> None:
    found = Counter(tuple(row[name] for name in KEY_COLUMNS[table]) for row in rows(table))
    assert [key for key, times in found.items() if times > 1] == []


@pytest.mark.parametrize("table", TABLES)
def test_every_row_holds_for_known_versions_and_names_its_source(table: str) -> None:
    for row in rows(table):
        assert row["since"] in VERSIONS, row
        assert row["until"] == "-" or VERSIONS[row["since"]] < VERSIONS[row["until"]], row
        assert re.fullmatch("[a-z_0-9]+", row["source"]), row


@pytest.mark.parametrize("table", TABLES)
def test_every_id_is_four_lower_case_hex_digits(table: str) -> None:
    for row in rows(table):
        found = [row[name] for name in ("vendor", "device", "first", "last") if name in row]
        assert all(HEX.fullmatch(one) or (table == "acs.tsv" and one == "any") for one in found), row
        assert row["vendor"] != "any", row


def test_rules_effects_and_lists_are_ones_that_the_model_knows() -> None:
    assert {row["rule"] for row in rows("acs.tsv")} == set(AcsRule)
    assert {row["list"] for row in rows("device-lists.tsv")} == set(DeviceList)
    effects = [row["effect"] for row in rows("dma-alias.tsv")]
    assert [effect for effect in effects if not EFFECT.fullmatch(effect)] == []
    flags = {effect.removeprefix("flag=") for effect in effects if effect.startswith("flag=")}
    assert flags == set(BridgeFlag)


def test_conditions_of_alias_rows_are_well_formed() -> None:
    for row in rows("dma-alias.tsv"):
        assert re.fullmatch("-|[0-9a-f]{4}:[0-9a-f]{4}", row["subsystem"]), row
        assert re.fullmatch("-|[0-9a-f]{4}", row["class"]), row
        assert (row["class"] == "0680") == (row["effect"] == "device-memory"), row


def test_the_ranges_of_a_list_ascend_and_do_not_overlap() -> None:
    for name in DeviceList:
        held = sorted((row["first"], row["last"]) for row in rows("device-lists.tsv") if row["list"] == name)
        assert all(first <= last for first, last in held), name
        assert all(one[1] < other[0] for one, other in pairwise(held)), name


def test_no_row_follows_one_that_already_decides_for_its_device() -> None:
    first: dict[tuple[str, str], str] = {}
    for row in rows("acs.tsv"):
        key = (row["vendor"], row["device"])
        assert first.setdefault(key, row["rule"]) not in ("always", "mf-endpoint") or first[key] == row["rule"], row


def counted(version: Version) -> dict[str, int]:
    quirks = Quirks.bundled(version)
    found = Counter(row.source for held in quirks.aliases.values() for row in held)
    found["ACS"] = sum(len(held) for held in quirks.acs.values())
    for name in (DeviceList.INTEL_PCH_ROOT_PORT, DeviceList.VMD, DeviceList.INTEL_IGFX_IOMMU_OFF):
        found[name] = len(quirks.lists[name])
    return dict(found)


SAME_IN_ALL = {
    "quirk_dma_func1_alias": 19,
    "quirk_use_pcie_bridge_dma_alias": 5,
    "quirk_mic_x200_dma_alias": 2,
    "quirk_pex_vca_alias": 6,
    "quirk_bridge_cavm_thrx2_pcie_root": 2,
    "quirk_plx_ntb_dma_alias": 2,
    "quirk_fixed_dma_alias": 2,
    "intel-pch-root-port": 119,
}
SWITCHTEC, FUNC0, NO_ALIAS = (
    "quirk_switchtec_ntb_dma_alias",
    "quirk_dma_func0_alias",
    "quirk_aspeed_pci_bridge_no_alias",
)
IGFX = "intel-igfx-iommu-off"


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ((5, 10), {"ACS": 115, FUNC0: 2, SWITCHTEC: 48, "vmd": 5, IGFX: 31}),
        ((6, 1), {"ACS": 132, FUNC0: 4, SWITCHTEC: 99, "vmd": 8, IGFX: 33}),
        ((6, 12), {"ACS": 132, FUNC0: 4, SWITCHTEC: 99, "vmd": 10, IGFX: 33}),
        ((7, 3), {"ACS": 132, FUNC0: 4, SWITCHTEC: 100, NO_ALIAS: 1, "vmd": 14, IGFX: 33}),
    ],
)
def test_each_version_has_as_many_rows_as_its_kernel(version: Version, expected: dict[str, int]) -> None:
    assert counted(version) == {**SAME_IN_ALL, **expected}


@pytest.mark.parametrize(
    ("version", "same_as"),
    [((4, 19), (5, 10)), ((5, 15), (5, 10)), ((6, 0), (5, 10)), ((6, 6), (6, 1)), ((7, 2), (6, 12)), ((9, 0), (7, 3))],
)
def test_a_version_in_between_has_the_rows_of_the_last_one_before_it(version: Version, same_as: Version) -> None:
    assert counted(version) == counted(same_as)


def test_rows_of_one_vendor_keep_the_order_of_the_table() -> None:
    rules = [row.rule for row in Quirks.bundled((7, 3)).acs_rows(0x8086, 0x0001)]
    assert rules == [AcsRule.INTEL_RCIEP, AcsRule.INTEL_PCH, AcsRule.INTEL_SPT_PCH]
    rules = [row.rule for row in Quirks.bundled((7, 3)).acs_rows(0x177D, 0xA026)]
    assert rules == [AcsRule.CAVIUM_RP, AcsRule.MF_ENDPOINT]


def test_an_acs_row_says_what_the_table_says() -> None:
    quirks = Quirks.bundled((6, 12))
    assert list(quirks.acs_rows(0x10E8, 0xE004)) == [
        AcsRow(0x10E8, 0xE004, AcsRule.ALWAYS, (5, 10), None, "pci_quirk_xgene_acs")
    ]
    first = next(quirks.acs_rows(0x8086, 0x0001))
    assert first == AcsRow(0x8086, None, AcsRule.INTEL_RCIEP, (5, 10), None, "pci_quirk_rciep_acs")


def test_an_alias_row_says_what_the_table_says() -> None:
    quirks = Quirks.bundled((6, 12))
    assert quirks.alias_rows(0x9005, 0x0285) == tuple(
        AliasRow(0x9005, 0x0285, (0x9005, subsystem), None, "devfns=08", (5, 10), None, "quirk_fixed_dma_alias")
        for subsystem in (0x02BB, 0x02BC)
    )
    assert quirks.alias_rows(0x1055, 0x1001) == (
        AliasRow(0x1055, 0x1001, None, 0x0680, "device-memory", (6, 1), None, "quirk_switchtec_ntb_dma_alias"),
    )


def test_a_device_of_unknown_identity_stands_in_no_table() -> None:
    quirks = Quirks.bundled((7, 3))
    assert quirks.alias_rows(None, None) == quirks.alias_rows(0x9005, None) == ()
    assert not quirks.listed(DeviceList.VMD, None, 0x28C0)
    assert not quirks.listed(DeviceList.VMD, 0x8086, None)


@pytest.mark.parametrize(
    ("vendor", "device", "listed"),
    [
        (0x8086, 0xA10F, False),
        (0x8086, 0xA110, True),
        (0x8086, 0xA118, True),
        (0x8086, 0xA11F, True),
        (0x8086, 0xA120, False),
        (0x8088, 0xA118, False),
    ],
)
def test_both_ends_of_a_range_stand_on_the_list(vendor: int, device: int, listed: bool) -> None:
    assert Quirks.bundled((6, 12)).listed(DeviceList.INTEL_SPT_PCH_ROOT_PORT, vendor, device) is listed


@pytest.mark.parametrize(("vendor", "device", "told"), [(0x1055, 0x1001, True), (0x1103, 0x0642, False)])
def test_the_table_tells_whose_aliases_stand_in_memory(vendor: int, device: int, told: bool) -> None:
    assert Quirks.bundled((6, 12)).aliases_in_memory(vendor, device) is told


def test_a_range_of_aliases_includes_both_ends() -> None:
    row = AliasRow(1, 2, None, None, "devfn-range=10-12", (5, 10), None, "")
    assert row.devfns(0) == {0x10, 0x11, 0x12}


@pytest.mark.parametrize(
    ("since", "until", "holds", "gated"),
    [
        ((5, 10), None, True, False),
        ((6, 1), None, True, True),
        ((6, 2), None, False, True),
        ((5, 10), (6, 2), True, True),
        ((5, 10), (6, 1), False, True),
    ],
)
def test_a_row_holds_from_its_first_version_until_the_one_without_it(
    since: Version, until: Version | None, holds: bool, gated: bool
) -> None:
    assert _holds((6, 1), since, until) is holds
    assert _is_gated(since, until) is gated


ENDING_ROWS = {
    "acs.tsv": [["aaaa", "0001", "always", "5.10", "6.12", "note", "source"]],
    "dma-alias.tsv": [["bbbb", "0002", "-", "-", "devfns=08", "5.10", "6.12", "note", "source"]],
    "device-lists.tsv": [
        ["wangxun-nic", "cccc", "0018", "001a", "5.10", "6.12", "source"],
        ["vmd", "dddd", "0004", "0004", "5.10", "6.12", "source"],
    ],
}


@pytest.mark.parametrize(("version", "held"), [((5, 10), True), ((6, 1), True), ((6, 12), False), ((7, 3), False)])
def test_rows_end_before_the_version_that_dropped_them(
    version: Version, held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iommud.model.quirks.read_rows", ENDING_ROWS.__getitem__)
    quirks = Quirks.bundled(version)
    assert bool(list(quirks.acs_rows(0xAAAA, 1))) is held
    assert bool(quirks.alias_rows(0xBBBB, 2)) is held
    assert quirks.listed(DeviceList.WANGXUN_NIC, 0xCCCC, 0x19) is held
    assert quirks.listed(DeviceList.VMD, 0xDDDD, 4) is held
    # The version decides about all of them; only a list that an ACS rule asks is part of a verdict.
    assert quirks.gated == {(0xAAAA, 1), (0xBBBB, 2), *((0xCCCC, device) for device in (0x18, 0x19, 0x1A))}


@pytest.mark.parametrize(
    ("vendor", "device", "gated"),
    [
        (0x14E4, 0x1760, True),
        (0x6766, 0x3D40, True),
        (0x1A03, 0x1150, True),
        (0x8088, 0x5010, True),
        (0x111D, 0x80B5, True),
        (0x8088, 0x0100, False),
        (0x8086, 0x10C6, False),
        (0x8086, 0x28C1, False),
    ],
)
def test_what_hinges_on_the_version_is_known(vendor: int, device: int, gated: bool) -> None:
    assert ((vendor, device) in Quirks.bundled((6, 1)).gated) is gated
