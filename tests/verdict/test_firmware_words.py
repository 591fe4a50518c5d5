# SPDX-License-Identifier: GPL-2.0-or-later
"""What firmware says beside who serves whom: kept memory, translation caches, ports outside, flags."""

import struct

import pytest

from iommud.address import Address
from iommud.verdict.firmware_words import firmware_alias, kept_memory, remarks
from iommud.verdict.service import Service
from tests.firmware.builders import Strings, fdt, fdt_node
from tests.firmware.test_dmar import dmar, drhd, flagged, rmrr, scope
from tests.firmware.test_iort import FIRST, ROOT, SMMU_V3, id_map, iort
from tests.firmware.test_iort import node as iort_node
from tests.firmware.test_iort import rmr as iort_rmr
from tests.firmware.test_ivrs import ALIAS, ALL, ivhd, ivmd, ivrs, long, short
from tests.machines import Machine
from tests.verdict.seen import seen, thread
from tests.verdict.test_service import holding, service_of

ENDPOINT, BRIDGE = 1, 2


def fixed(service: Service, name: str) -> list[bool]:
    address = Address.parse(name)
    return [one.fixed for one in kept_memory(service, service.topology.functions[address], [address])]


def kept(service: Service, name: str, *requesters: str) -> list[tuple[int, int, str]]:
    function = service.topology.functions[Address.parse(name)]
    found = kept_memory(service, function, [Address.parse(one) for one in requesters or (name,)])
    return [(one.first, one.last, f"{one.table}: {one.what}") for one in found]


def said(service: Service, name: str) -> list[str]:
    found = remarks(service, service.topology.functions[Address.parse(name)])
    return [f"{one.table}: {one.text}" for one in found]


def test_dmar_keeps_memory_for_the_functions_it_names_and_what_lies_below_them() -> None:
    regions = (
        rmrr(scope(ENDPOINT, 0, (2, 0)), segment=0, base=0x1000, limit=0x1FFF),
        rmrr(scope(ENDPOINT, 0, (3, 0)), segment=0, base=0x2000, limit=0x2FFF),
        rmrr(scope(BRIDGE, 0, (2, 0)), segment=0, base=0x4000, limit=0x3FFF),
        rmrr(scope(ENDPOINT, 0, (2, 0)), segment=0, base=0x5000, limit=0x5000),
    )
    service = holding(thread(), "dmar0", DMAR=dmar(drhd(flags=1), *regions))

    what = "DMAR: RMRR, mapped one to one"
    mapped = [(0x1000, 0x1FFF, what), (0x5000, 0x5000, what)]
    assert kept(service, "00:02.0") == kept(service, "02:00.0") == mapped


@pytest.mark.parametrize(
    ("class_code", "stays"),
    [(0x020000, True), (0x010601, True), (0x0C0330, False), (0x0C0500, True), (0x030000, False), (None, True)],
)
def test_memory_of_usb_controllers_and_graphics_is_given_up_with_the_function(
    class_code: int | None, stays: bool
) -> None:
    machine = Machine()
    machine.endpoint("00:03.0", class_code=class_code)
    region = rmrr(scope(ENDPOINT, 0, (3, 0)), segment=0, base=0x1000, limit=0x1FFF)
    service = holding(machine, "dmar0", DMAR=dmar(drhd(flags=1), region))

    assert fixed(service, "00:03.0") == [stays]
    assert kept(service, "00:03.0")[0][2].endswith("given away") is not stays


@pytest.mark.parametrize(
    ("flags", "what"),
    [
        (0x1, ", mapped one to one (no access)"),
        (0x3, ", mapped one to one (read)"),
        (0x7, ", mapped one to one (read and write)"),
        (0x8, " exclusion range, mapped one to one (read and write)"),
        (0x9, " exclusion range, mapped one to one (read and write)"),
        (0x6, None),
    ],
)
def test_ivrs_keeps_memory_for_requester_ids(flags: int, what: str | None) -> None:
    blocks = (
        ivmd(0x22, 0x10, 0x1F, flags=flags, base=0x1000, size=0x1000),
        ivmd(0x22, 0x10, 0x1F, flags=1, base=0x8000, size=0),
        ivmd(0x20, 0, flags=1, segment=1, base=0x8000, size=1),
        ivmd(0x21, 0x20, flags=1, base=0x8000, size=1),
    )
    machine = Machine()
    machine.endpoint("00:03.0")
    service = holding(machine, "ivhd0", IVRS=ivrs(ivhd(0x11, short(ALL)), *blocks))

    assert kept(service, "00:03.0") == ([] if what is None else [(0x1000, 0x1FFF, f"IVRS: IVMD{what}")])


@pytest.mark.parametrize(("flags", "how"), [(0, "RMR, mapped one to one"), (1, "RMR, may be mapped elsewhere")])
def test_iort_keeps_memory_for_streams(flags: int, how: str) -> None:
    reserved = iort_rmr((0x1000, 0x1000), (0x5000, 0), mappings=(id_map(0, 1, 0x1200, FIRST),), flags=flags)
    root = iort_node(ROOT, id_map(0, 0x300, 0x1000, FIRST))
    service = holding(thread(), None, IORT=iort(iort_node(SMMU_V3), root, reserved))

    assert kept(service, "01:00.0") == []
    assert fixed(service, "02:00.0") == [flags == 0]
    assert kept(service, "01:00.0", "01:00.0", "02:00.0") == [(0x1000, 0x1FFF, f"IORT: {how}")]
    assert kept(service, "01:00.0", "0001:02:00.0") == []


@pytest.mark.parametrize(
    ("first", "last", "held"), [(0x18, 0x18, 1), (0x17, 0x18, 1), (0x18, 0x19, 1), (0x19, 0x20, 0), (0, 0x17, 0)]
)
def test_a_range_of_ivrs_holds_its_ends_and_always_stays(first: int, last: int, held: int) -> None:
    machine = Machine()
    machine.endpoint("00:03.0")
    block = ivmd(0x22, first, last, flags=1, base=0x1000, size=0x1000)
    service = holding(machine, "ivhd0", IVRS=ivrs(ivhd(0x11, short(ALL)), block))

    assert len(kept(service, "00:03.0")) == held
    assert fixed(service, "00:03.0") == [True] * held


def test_without_tables_no_memory_is_kept_and_nothing_said() -> None:
    service = holding(thread(), "dmar0")

    assert (kept(service, "02:00.0"), said(service, "02:00.0")) == ([], [])


@pytest.mark.parametrize(
    ("flags", "texts"),
    [
        (0, ["interrupt remapping is not offered (INTR_REMAP)"]),
        (
            3,
            [
                "interrupt remapping is offered (INTR_REMAP)",
                "firmware asks to leave x2APIC mode off (X2APIC_OPT_OUT)",
            ],
        ),
        (
            5,
            [
                "interrupt remapping is offered (INTR_REMAP)",
                "firmware asks that all DMA stay under control (DMA_CTRL_PLATFORM_OPT_IN)",
            ],
        ),
    ],
)
def test_the_flags_of_dmar_are_told(flags: int, texts: list[str]) -> None:
    service = holding(thread(), "dmar0", DMAR=dmar(drhd(flags=1), flags=flags))

    assert said(service, "02:00.0") == [f"DMAR: {text}" for text in texts]


BELOW = "DMAR: functions below its root port may cache translations (ATSR)"


@pytest.mark.parametrize(
    ("table", "name", "text"),
    [
        (flagged(2, scope(BRIDGE, 0, (2, 0))), "02:00.0", BELOW),
        (flagged(2, scope(BRIDGE, 0, (2, 0))), "00:02.0", None),
        (flagged(2, scope(BRIDGE, 0, (2, 0))), "01:00.0", BELOW),
        (flagged(2, scope(BRIDGE, 0, (3, 0))), "02:00.0", None),
        (flagged(2, flags=1), "02:00.0", BELOW),
        (flagged(2, flags=1, segment=1), "02:00.0", None),
        (flagged(5, scope(ENDPOINT, 0, (2, 0)), flags=1), "00:02.0", "DMAR: it needs its translation cache (SATC)"),
        (flagged(5, scope(ENDPOINT, 0, (2, 0))), "00:02.0", "DMAR: it may use its translation cache (SATC)"),
        (flagged(5, scope(ENDPOINT, 0, (2, 0))), "02:00.0", None),
    ],
)
def test_the_tables_tell_who_may_cache_translations(table: bytes, name: str, text: str | None) -> None:
    service = holding(thread(), "dmar0", DMAR=dmar(drhd(flags=1), table))

    assert said(service, name)[1:] == ([] if text is None else [text])


@pytest.mark.parametrize(("info", "count"), [(0, 0), (1, 0), (2, 1)])
def test_ivrs_tells_whether_memory_was_guarded_before_the_start(info: int, count: int) -> None:
    service = holding(thread(), "ivhd0", IVRS=ivrs(ivhd(0x11, short(ALL)), info=info))

    texts = said(service, "02:00.0")

    guards = "IVRS: the IOMMU guards memory from before the system is started (DMA remap support)"
    assert texts == [guards] * count


@pytest.mark.parametrize(("attribute", "may"), [(0, "may not"), (1, "may")])
def test_iort_tells_whether_translations_may_be_cached(attribute: int, may: str) -> None:
    root = struct.pack("<BHBIIIQIII", ROOT, 36, 0, 0, 0, 0, 0, attribute, 0, 0)
    service = holding(thread(), None, IORT=iort(iort_node(SMMU_V3), root))

    assert said(service, "02:00.0") == [f"IORT: functions of the segment {may} cache translations (ATS attribute)"]


@pytest.mark.parametrize(
    ("devfn", "name", "outside"),
    [(0x10, "00:02.0", True), (0x10, "02:00.0", True), (0x18, "02:00.0", False), (None, "02:00.0", False)],
)
def test_what_lies_below_a_port_that_leads_out_of_the_case_says_so(devfn: int | None, name: str, outside: bool) -> None:
    strings = Strings()
    marks = (strings.prop("reg", (devfn << 8, 0, 0, 0, 0)), strings.prop("external-facing", b"")) if devfn else ()
    host = fdt_node("pcie@8", strings.prop("device_type", "pci"), fdt_node("pci@2", *marks))
    service = service_of(seen(thread(), iommu=None, device_tree=fdt(fdt_node("", host), strings.block)))

    text = "device tree: it lies at or below a port that leads out of the case (external-facing)"
    assert said(service, name) == ([text] if outside else [])


@pytest.mark.parametrize(("rid", "alias"), [(0x200, "0000:01:00.0"), (0x100, None), (0x10, None)])
def test_an_alias_of_the_table_is_another_id_than_ones_own(rid: int, alias: str | None) -> None:
    table = ivrs(ivhd(0x11, long(ALIAS, 0x200, 0x100), long(ALIAS, 0x100, 0x100)))
    service = holding(thread(), "ivhd0", IVRS=table)
    function = service.topology.functions[Address.from_requester_id(0, rid)]

    found = firmware_alias(service, function)

    assert (found and str(found)) == alias


def test_without_an_ivrs_table_there_is_no_alias_of_it() -> None:
    service = holding(thread(), "dmar0")

    assert firmware_alias(service, service.topology.functions[Address.parse("02:00.0")]) is None
