# SPDX-License-Identifier: GPL-2.0-or-later
"""Which IOMMU serves a requester ID, and under which ID: from real captures, and from tables built for each case."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from iommud import read_sysfs
from iommud.address import Address
from iommud.kernel import identify
from iommud.model.quirks import Quirks
from iommud.model.topology import Topology
from iommud.snapshot import Snapshot
from iommud.verdict.firmware_words import instance_of
from iommud.verdict.service import Answer, Evidence, IdKind, Served, Service, Unserved
from iommud.verdict.survey import survey
from tests.firmware.builders import Strings, fdt, fdt_node
from tests.firmware.test_dmar import dmar, drhd, scope
from tests.firmware.test_iort import FIRST, ROOT, SMMU, SMMU_V3, id_map, iort, smmu
from tests.firmware.test_iort import node as iort_node
from tests.firmware.test_ivrs import SELECT, ivhd, ivrs, short
from tests.firmware.test_viot import iommu_mmio, iommu_pci, pci_range, viot
from tests.machines import Machine
from tests.verdict.seen import seen, thread

CAPTURES = Path(__file__).parent.parent / "fixtures" / "captures"
ENDPOINT, BRIDGE = 1, 2


def service_of(snapshot: Snapshot) -> Service:
    kernel = identify(snapshot.kernel_release, snapshot.kernel_version)
    return Service(Topology.of(snapshot, Quirks.bundled(kernel.version)), survey(snapshot, kernel), snapshot)


@cache
def captured(name: str) -> Service:
    return service_of(read_sysfs(str(CAPTURES / f"{name}.tar.gz")))


def holding(machine: Machine, iommu: str | None, **tables: bytes) -> Service:
    return service_of(replace(seen(machine, iommu=iommu), tables=tables, table_names=frozenset(tables)))


def answer(service: Service, function: str, requester: str | None = None) -> Answer | None:
    address = Address.parse(function)
    return service.answer(service.topology.functions[address], Address.parse(requester or function))


def told(found: Answer | None) -> tuple[str, str, str | None] | str | None:
    """Unit, ``kind number`` and instance; or why not."""
    if isinstance(found, Unserved):
        # Its reason names the table too, but for the device tree and Intel's words for a unit.
        assert found.table in found.reason or found.table in (Evidence.DEVICE_TREE, Evidence.VIOT)
        return found.reason
    if found is None:
        return None
    assert found.unit.table is found.table in Evidence
    return found.unit.name, f"{found.kind} {found.value:#x}", found.unit.instance


@pytest.mark.parametrize("path", sorted(CAPTURES.glob("*.tar.gz")), ids=lambda path: path.name)
def test_every_function_that_a_real_kernel_lists_below_an_iommu_is_served_by_that_one(path: Path) -> None:
    service = service_of(read_sysfs(str(path)))

    listed = list(_listed(service.snapshot))
    wrong = [
        (name, instance, told(answer(service, name)))
        for instance, name in listed
        if not isinstance(found := answer(service, name), Served) or found.unit.instance != instance
    ]

    assert wrong == []
    grouped = [one for one in service.snapshot.functions if one.group is not None]
    assert bool(listed) == bool(grouped), "sysfs lists below an IOMMU whatever has a group"


def _listed(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    for instance, functions in (snapshot.iommus or {}).items():
        yield from ((instance, str(address)) for address in functions)


@pytest.mark.parametrize(
    ("name", "function", "requester", "expected"),
    [
        ("6.1-amd64-amd-seed-q7.2", "02:00.0", "02:00.0", ("0000:00:01.0", "device ID 0x200", "ivhd0")),
        (
            "6.1-arm64-smmuv3-two-e1000-rp-q7.2",
            "02:02.0",
            "02:00.0",
            ("/smmuv3@9050000", "stream ID 0x200", "smmu3.0x0000000009050000"),
        ),
        (
            "6.12-arm64-virtio-seed-q7.2",
            "00:02.0",
            "00:02.0",
            ("/pcie@10000000/virtio_iommu@1,0", "endpoint ID 0x10", "0000:00:01.0"),
        ),
        ("6.12-amd64-virtio-seed-q7.2", "00:02.0", "00:02.0", ("0000:00:01.0", "endpoint ID 0x10", "0000:00:01.0")),
        ("6.12-amd64-intel-seed-q7.2", "00:1f.2", "00:1f.2", ("unit at 0xfed90000", "source ID 0xfa", "dmar0")),
    ],
)
def test_real_firmware_tells_unit_and_id(
    name: str, function: str, requester: str, expected: tuple[str, str, str]
) -> None:
    assert told(answer(captured(name), function, requester)) == expected


def test_of_two_dmar_units_that_name_a_function_the_last_serves_it_and_one_for_all_the_rest_only_the_rest() -> None:
    rest = drhd(base=0x1000, flags=1)
    first, last = (drhd(scope(ENDPOINT, 0, (3, 0)), base=base) for base in (0x2000, 0x3000))
    machine = Machine()
    machine.endpoint("00:03.0")
    machine.endpoint("00:04.0")
    elsewhere = drhd(scope(ENDPOINT, 0, (4, 0)), base=0x4000, segment=1)

    service = holding(machine, "dmar0", DMAR=dmar(rest, first, last, elsewhere))

    assert told(answer(service, "00:03.0")) == ("unit at 0x3000", "source ID 0x18", "dmar2")
    assert told(answer(service, "00:04.0")) == ("unit at 0x1000", "source ID 0x20", "dmar0")


def test_requester_ids_that_bridges_give_are_known_to_the_unit_of_the_function() -> None:
    service = holding(thread(), "dmar0", DMAR=dmar(drhd(scope(BRIDGE, 0, (2, 0)))))

    found = answer(service, "02:00.0", "02:00.0")

    assert isinstance(found, Served)
    assert (found.kind, found.value) == (IdKind.SOURCE, 0x200)
    assert found.because == "its scope names 0000:00:02.0 with all that is below"
    assert told(answer(service, "00:02.0")) == ("unit at 0xfed90000", "source ID 0x10", "dmar0")


def amd(machine: Machine) -> Service:
    table = ivrs(
        ivhd(0x11, short(SELECT, 0x18), short(SELECT, 0x20), device_id=2),
        ivhd(0x11, short(SELECT, 0x20), device_id=0x102),
    )
    return holding(machine, "ivhd1", IVRS=table)


def test_amd_iommus_are_counted_as_the_driver_counts_them_and_the_last_that_names_an_id_has_it() -> None:
    machine = Machine()
    for name in ("00:03.0", "00:04.0", "00:05.0"):
        machine.endpoint(name)
    service = amd(machine)

    assert told(answer(service, "00:03.0")) == ("0000:00:00.2", "device ID 0x18", "ivhd0")
    assert told(answer(service, "00:04.0")) == ("0000:01:00.2", "device ID 0x20", "ivhd1")
    assert told(answer(service, "00:05.0")) == "no entry of the IVRS table covers its requester ID"


@pytest.mark.parametrize(("kernel", "served"), [("5.10", True), ("5.19", True), ("6.0", False), ("6.1", False)])
def test_before_6_0_the_amd_driver_took_no_notice_of_segments(kernel: str, served: bool) -> None:
    machine = Machine(kernel=kernel)
    machine.endpoint("0001:00:03.0")

    assert isinstance(answer(amd(machine), "0001:00:03.0"), Served) is served


def arm(**tables: bytes) -> Service:
    machine = Machine()
    machine.endpoint("00:03.0")
    machine.endpoint("0001:00:03.0")
    return holding(machine, None, **tables)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (SMMU_V3, ("SMMUv3 at 0x9050000", "stream ID 0x1018", "smmu3.0x0000000009050000")),
        (SMMU, ("SMMU at 0x9050000", "stream ID 0x1018", "smmu.0x0000000009050000")),
    ],
)
def test_an_iort_leads_to_a_stream_of_an_smmu(kind: int, expected: tuple[str, str, str]) -> None:
    service = arm(IORT=iort(smmu(kind, 0x9050000), iort_node(ROOT, id_map(0, 0x100, 0x1000, FIRST))))

    assert told(answer(service, "00:03.0")) == expected
    assert told(answer(service, "00:03.0", "01:00.0")) == "the IORT table maps its requester ID to no SMMU"
    assert told(answer(service, "0001:00:03.0")) == "the IORT table has no root complex for its segment"


def test_an_smmu_without_an_address_is_told_by_its_node() -> None:
    cut = smmu(SMMU_V3, 0)[:1] + (20).to_bytes(2, "little") + smmu(SMMU_V3, 0)[3:20]
    service = arm(IORT=iort(cut, iort_node(ROOT, id_map(0, 0x100, 0, FIRST))))

    assert told(answer(service, "00:03.0")) == ("SMMUv3 at node 0x30", "stream ID 0x18", None)


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (iommu_pci(1, 0x10), ("0001:00:02.0", "endpoint ID 0x118", "0001:00:02.0")),
        (iommu_mmio(0xA000), ("virtio-iommu at 0xa000", "endpoint ID 0x118", None)),
    ],
)
def test_a_viot_leads_to_an_endpoint_of_a_virtio_iommu(node: bytes, expected: tuple[str, str, str | None]) -> None:
    service = arm(VIOT=viot(node, pci_range(0, 0xFF, 48, endpoint=0x100), pci_range(0x100, 0x1FF, 0)))

    assert told(answer(service, "00:03.0")) == expected
    assert told(answer(service, "00:03.0", "01:00.0")) == ("the VIOT table names an IOMMU for it that is not described")
    assert told(answer(service, "0001:00:03.0")) == "no PCI range of the VIOT table holds its requester ID"


def test_a_virtio_iommu_does_not_translate_for_itself() -> None:
    service = arm(VIOT=viot(iommu_pci(0, 0x18), pci_range(0, 0xFF, 48, segments=(0, 1))))

    itself = "the IOMMU of the range that holds it does not translate for itself"
    assert told(answer(service, "00:03.0")) == itself
    assert isinstance(answer(service, "0001:00:03.0"), Served)


def board(compatible: str | None, *iommus: str) -> Service:
    machine = Machine()
    machine.endpoint("00:03.0")
    strings = Strings()
    named = () if compatible is None else (strings.prop("compatible", compatible),)
    target = fdt_node("iommu@9", strings.prop("phandle", 5), *named)
    entry = strings.prop("iommu-map", (0, 5, 0xFFFFFFFF, 0x10000))
    blob = fdt(fdt_node("", target, fdt_node("pcie@8", strings.prop("device_type", "pci"), entry)), strings.block)
    snapshot = seen(machine, iommu=None, device_tree=blob)
    return service_of(replace(snapshot, iommus=dict.fromkeys(iommus, ())))


@pytest.mark.parametrize(
    ("compatible", "kind"),
    [
        ("arm,smmu-v3", IdKind.STREAM),
        ("qcom,sm8150-smmu-500", IdKind.STREAM),
        ("arm,mmu-500", IdKind.STREAM),
        ("apple,t8103-dart", IdKind.STREAM),
        ("virtio,pci-iommu", IdKind.ENDPOINT),
        ("riscv,iommu", IdKind.DEVICE),
        ("vendor,iommu", IdKind.UNKNOWN),
        (None, IdKind.UNKNOWN),
    ],
)
def test_the_device_tree_tells_what_the_iommu_calls_its_ids(compatible: str | None, kind: IdKind) -> None:
    found = answer(board(compatible), "00:03.0")

    assert isinstance(found, Served)
    # The sum wraps as the kernel's does.
    assert (found.unit.name, found.kind, found.value) == ("/iommu@9", kind, 0x17)


@pytest.mark.parametrize(
    ("names", "instance"),
    [
        (["smmu3.0x0000000000000009"], "smmu3.0x0000000000000009"),
        (["smmu3.0x0000000000000109"], None),
        (["0000:00:09.0"], "0000:00:09.0"),
        (["0001:00:09.0"], None),
        (["0000:00:09.0", "0000:01:09.0"], None),
        ([], None),
    ],
)
def test_the_instance_of_a_node_is_the_one_that_its_address_names(names: list[str], instance: str | None) -> None:
    found = answer(board("arm,smmu-v3", *names), "00:03.0")

    assert isinstance(found, Served)
    assert found.unit.instance == instance


def test_where_no_table_speaks_nothing_is_answered() -> None:
    machine = Machine()
    machine.endpoint("00:03.0")

    assert answer(holding(machine, "dmar0"), "00:03.0") is None


WORDS = [
    ("DMAR", dmar(drhd(scope(ENDPOINT, 0, (3, 0)))), "its scope names the function"),
    ("DMAR", dmar(drhd(flags=1)), "it takes all functions of the segment that no other unit names"),
    ("IVRS", ivrs(ivhd(0x11, short(SELECT, 0x18))), "an entry of the IVHD at 0x30 covers it"),
    ("VIOT", viot(iommu_pci(0, 8), pci_range(0x13, 0x31F, 48)), "the range 00:02.3 to 03:03.7 holds it"),
    (
        "IORT",
        iort(smmu(SMMU_V3, 1), iort_node(ROOT, id_map(0, 0x100, 0, FIRST))),
        "ID mappings of the root complex at 0x54 lead there",
    ),
]


@pytest.mark.parametrize(("table", "data", "because"), WORDS)
def test_an_answer_names_its_table_and_the_words_of_it(table: str, data: bytes, because: str) -> None:
    found = answer(arm(**{table: data}), "00:03.0")

    assert isinstance(found, Served)
    assert (found.table, found.unit.table, found.because) == (table, table, because)


def test_an_answer_of_the_device_tree_names_the_host_bridge() -> None:
    found = answer(board("arm,smmu-v3"), "00:03.0")

    assert isinstance(found, Served)
    assert (found.table, found.because) == (Evidence.DEVICE_TREE, "the iommu-map of /pcie@8 holds it")


@pytest.mark.parametrize(
    ("table", "data", "reason"),
    [
        ("DMAR", dmar(drhd()), "no DMAR unit covers it"),
        ("DMAR", dmar(drhd(flags=1, segment=1)), "no DMAR unit covers it"),
        ("IVRS", ivrs(ivhd(0x11, short(SELECT, 0x20))), "no entry of the IVRS table covers its requester ID"),
        ("VIOT", viot(iommu_pci(0, 8)), "no PCI range of the VIOT table holds its requester ID"),
        ("VIOT", viot(pci_range(0, 0xFF, 0)), "the VIOT table names an IOMMU for it that is not described"),
        (
            "VIOT",
            viot(iommu_pci(0, 0x18), pci_range(0, 0xFF, 48)),
            "the IOMMU of the range that holds it does not translate for itself",
        ),
        ("IORT", iort(smmu(SMMU_V3, 1)), "the IORT table has no root complex for its segment"),
        ("IORT", iort(iort_node(ROOT)), "the IORT table maps its requester ID to no SMMU"),
    ],
)
def test_where_a_table_leaves_a_function_out_it_says_how(table: str, data: bytes, reason: str) -> None:
    assert answer(arm(**{table: data}), "00:03.0") == Unserved(Evidence(table), reason)


def hosts(*bridges: dict[str, int | tuple[int, ...]], host_node: str | None = None) -> Service:
    """Host bridges at 0x10, 0x20 and so on, and an SMMU with phandle 5, disabled one with phandle 6."""
    strings = Strings()
    found = [fdt_node("iommu@9", strings.prop("phandle", 5))]
    found.append(fdt_node("iommu@a", strings.prop("phandle", 6), strings.prop("status", "disabled")))
    for number, properties in enumerate(bridges, 1):
        fixed = (strings.prop("device_type", "pci"), strings.prop("reg", (16 * number, 16)))
        more = (strings.prop(name, value) for name, value in properties.items())
        found.append(fdt_node(f"pcie@{16 * number:x}", *fixed, *more))
    cells = (strings.prop("#address-cells", 1), strings.prop("#size-cells", 1))
    machine = Machine()
    machine.endpoint("00:03.0", host_node=host_node)
    return service_of(seen(machine, iommu=None, device_tree=fdt(fdt_node("", *cells, *found), strings.block)))


WHOLE: dict[str, int | tuple[int, ...]] = {"iommu-map": (0, 5, 0, 0x10000)}
LEFT_OUT = "the iommu-map of its host bridge leaves its requester ID out"


@pytest.mark.parametrize(
    ("bridges", "host_node", "found"),
    [
        ([WHOLE], None, ("/iommu@9", "ID 0x18", None)),
        ([{}], None, "its host bridge has no iommu-map in the device tree"),
        ([{"iommu-map": (0, 5, 0, 0x18)}], None, LEFT_OUT),
        ([{"iommu-map": (0, 6, 0, 0x19)}], None, "the device tree has its IOMMU disabled"),
        ([{"iommu-map": (0, 7, 0, 0x19)}], None, "the device tree has its IOMMU disabled"),
        ([WHOLE, {"iommu-map": (0, 5, 0, 1)}], "20.pcie", LEFT_OUT),
        ([{"iommu-map": (0, 5, 0, 1)}, WHOLE], "20.pcie", ("/iommu@9", "ID 0x18", None)),
        (
            [{"linux,pci-domain": 1} | WHOLE, {"linux,pci-domain": 0, "iommu-map": (0, 5, 0, 1)}],
            None,
            LEFT_OUT,
        ),
        ([WHOLE, WHOLE], None, None),
    ],
)
def test_the_host_bridge_of_the_function_speaks_if_it_can_be_told(
    bridges: list[dict[str, int | tuple[int, ...]]], host_node: str | None, found: object
) -> None:
    service = hosts(*bridges, host_node=host_node)

    given = answer(service, "00:03.0")

    assert told(given) == found
    assert given is None or given.table is Evidence.DEVICE_TREE


def nested() -> Machine:
    machine = Machine()
    machine.root_port("00:02.0", to=1, acs=None)
    machine.endpoint("01:03.0")
    machine.endpoint("01:04.0")
    return machine


@pytest.mark.parametrize(
    ("named", "bus", "path"),
    [
        ("01:03.0", 0, ((2, 0), (3, 0))),
        ("01:03.0", 1, ((3, 0),)),
        (None, 1, ((2, 0), (3, 0))),
        (None, 0, ((5, 0), (3, 0))),
        (None, 0, ((2, 0), (5, 0))),
        (None, 0, ((2, 0), (3, 0), (1, 0))),
        (None, 0, ()),
    ],
)
def test_a_scope_names_a_function_by_the_way_from_a_root_bus_or_by_its_own_bus(
    named: str | None, bus: int, path: tuple[tuple[int, int], ...]
) -> None:
    service = holding(nested(), "dmar0", DMAR=dmar(drhd(scope(ENDPOINT, bus, *path))))

    served = [name for name in ("00:02.0", "01:03.0", "01:04.0") if isinstance(answer(service, name), Served)]

    assert served == ([] if named is None else [named])


def test_only_scopes_of_pci_functions_name_any() -> None:
    service = holding(nested(), "dmar0", DMAR=dmar(drhd(scope(3, 0, (2, 0)), scope(4, 0, (2, 0)), scope(5, 0, (2, 0)))))

    assert told(answer(service, "00:02.0")) == "no DMAR unit covers it"


def test_a_virtual_function_counts_as_its_physical_one() -> None:
    machine = Machine()
    machine.endpoint("00:03.0")
    machine.vf("00:03.1", of="00:03.0")
    service = holding(machine, "dmar0", DMAR=dmar(drhd(scope(ENDPOINT, 0, (3, 0)))))

    assert told(answer(service, "00:03.1")) == ("unit at 0xfed90000", "source ID 0x19", "dmar0")
    alone = replace(service.topology.functions[Address.parse("00:03.1")], physfn=Address.parse("00:09.0"))
    assert service.physical(alone) is alone


def test_of_two_tables_the_one_that_serves_is_heard() -> None:
    service = arm(
        VIOT=viot(iommu_pci(0, 8), pci_range(0, 1, 48)),
        IORT=iort(iort_node(SMMU_V3), iort_node(ROOT, id_map(0, 0x100, 0, FIRST))),
    )

    found = answer(service, "00:03.0")

    assert isinstance(found, Served)
    assert found.table is Evidence.IORT
    assert told(answer(service, "0001:00:03.0")) == "no PCI range of the VIOT table holds its requester ID"


def test_sysfs_has_the_last_word_on_the_instance() -> None:
    machine = Machine()
    machine.endpoint("00:03.0")
    machine.endpoint("00:04.0")
    one, other = Address.parse("00:03.0"), Address.parse("00:04.0")
    table = dmar(drhd(flags=1))
    snapshot = replace(seen(machine), tables={"DMAR": table}, iommus={"dmar7": (one,), "dmar0": ()})
    service = service_of(snapshot)

    found = {}
    for address in (one, other):
        served = answer(service, str(address))
        assert isinstance(served, Served)
        found[address] = instance_of(service, service.topology.functions[address], served)
    assert found == {one: "dmar7", other: "dmar0"}


def test_an_instance_that_sysfs_does_not_have_is_not_named() -> None:
    machine = Machine()
    machine.endpoint("00:03.0")
    service = holding(machine, "dmar1", DMAR=dmar(drhd(flags=1)))
    served = answer(service, "00:03.0")

    assert isinstance(served, Served)
    assert instance_of(service, service.topology.functions[Address.parse("00:03.0")], served) is None
