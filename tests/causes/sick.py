# SPDX-License-Identifier: GPL-2.0-or-later
"""Random machines that suffer from known causes: what their kernels did is played by the oracle of the tests.

Nothing of ``iommud.causes`` takes part in the playing, so that it may be judged by it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import strategies as st

from iommud.address import Address
from iommud.causes.cause import CauseId
from iommud.causes.world import switched
from iommud.snapshot import IommuGroup, PciFunction, Snapshot
from tests.firmware.test_iort import FIRST, ROOT, SMMU_V3, id_map, iort, node
from tests.firmware.test_ivrs import ALIAS, ALL, ivhd, ivrs, long, short
from tests.firmware.test_viot import iommu_pci, pci_range, viot
from tests.kernel_oracle import Device, KernelOracle
from tests.machines import Machine, Partition
from tests.strategies import machines, orders, subsets

SMMU, VIRTIO = "smmu3.0x0000000009050000", "0000:00:1f.7"
VIOT = {"VIOT": viot(iommu_pci(0, 0xFF), pci_range(0, 0xFFFF, 48))}
_BRIDGE = 0x060400


class OverriddenKernel(KernelOracle):
    """A kernel with the patch behind ``pcie_acs_override=downstream``."""

    overrides = False

    def acs(self, dev: Device) -> bool:
        if self.overrides and dev.pcie and dev.facts.config.acs is None and dev.type in (4, 6):
            return super().acs(dev) or not any(self._speaks(row, dev) for row in self.acs_rows)
        return super().acs(dev)

    def _speaks(self, row: Mapping[str, str], dev: Device) -> bool:
        """Whether a row of the kernel's own table decides, which comes first."""
        mine = int(row["vendor"], 16) == dev.facts.vendor and row["device"] in ("any", f"{dev.facts.device:04x}")
        return mine and self._quirk(row["rule"], dev) is not None


@dataclass(frozen=True, kw_only=True)
class Illness:
    """What is wrong with a machine, in terms of what its kernel does."""

    truth: frozenset[CauseId]
    kernel: str
    iommu: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    unprobed: frozenset[Address] = frozenset()
    refused: frozenset[Address] = frozenset()
    taken: bool = False
    """A stream that belongs to another function is refused."""
    twice: bool = False
    """A stream that a function has twice is refused."""
    abandons: bool = False
    overrides: bool = False


@dataclass(frozen=True)
class Sick:
    """What is seen of a machine, and what is wrong with it."""

    snapshot: Snapshot
    illness: Illness
    masks: Mapping[Address, frozenset[int]]
    """Aliases of the IVRS table."""

    def __repr__(self) -> str:
        lines = [f"{one.address} group={one.group} driver={one.driver}" for one in self.snapshot.functions]
        return "\n".join([repr(self.illness), *lines])

    def kernel(self, functions: Collection[PciFunction]) -> OverriddenKernel:
        """Its kernel, on functions as they were."""
        version = tuple(int(part) for part in self.illness.kernel.split(".")[:2])
        past = replace(self.snapshot, functions=tuple(functions))
        oracle = OverriddenKernel(past, (version[0], version[1]), ivrs=bool(self.masks), ivrs_aliases=self.masks)
        oracle.overrides = self.illness.overrides
        return oracle


def played(kernel: KernelOracle, illness: Illness, order: list[Address]) -> dict[Address, int]:
    """The number of the group that each function gets, probed in this order."""
    owners: dict[object, Address] = {}
    accepted: list[Address] = []
    for one in order:
        streams = [requester for _, requester in kernel.requester_ids(one)]
        again = illness.twice and max(Counter(streams).values()) > 1
        shared = illness.taken and any(owners.get(stream, one) != one for stream in streams)
        if one in illness.unprobed:
            continue
        if one in illness.refused or again or shared:
            if illness.abandons:
                return {}
            continue
        accepted.append(one)
        owners.update(dict.fromkeys(streams, one))
    return numbered(accepted, kernel.probe(accepted))


def numbered(order: list[Address], groups: Partition) -> dict[Address, int]:
    """Groups numbered as they were begun."""
    home = {one: group for group in groups for one in group}
    begun = list(dict.fromkeys(home[one] for one in order))
    return {one: begun.index(home[one]) for one in order}


def in_list_order(machine: Machine) -> list[Address]:
    """The functions as the kernel meets them: parents first, virtual functions last."""
    return sorted(machine.functions, key=lambda one: (machine.functions[one].is_virtual, _depth(machine, one), one))


def _depth(machine: Machine, address: Address) -> int:
    one = machine.functions[address]
    above = one.upstream or one.host_parent
    return 0 if above is None else 1 + _depth(machine, above)


@st.composite
def sick_machines(draw: st.DrawFn) -> Sick:
    """A machine with one or two causes at work, or with causes that happen to have no effect on it."""
    machine = draw(machines())
    machine.logged.clear()
    _dress(machine)
    illness, then, masks = draw(st.sampled_from([_smmu, _virtio, _covered, _late, _overridden, _amd]))(draw, machine)
    order = in_list_order(machine)
    if CauseId.PROBE_ORDER in illness.truth:
        order = [one for one in draw(orders(machine)) if one in machine.functions]
    seen = Sick(machine.snapshot(), illness, masks)
    past = [then.get(one.address, one) for one in machine.functions.values()]
    return Sick(_as_seen(machine, illness, played(seen.kernel(past), illness, order)), illness, masks)


def _dress(machine: Machine) -> None:
    """One domain, bridges that are bridges, and drivers everywhere."""
    for address in [one for one in machine.functions if one.domain]:
        del machine.functions[address]
    for address, one in list(machine.functions.items()):
        bridge = one.secondary_bus is not None
        driver = "pcieport" if bridge else "some"
        machine.change(address, driver=driver, class_code=_BRIDGE if bridge else 0x020000)


_Drawn = tuple[Illness, dict[Address, PciFunction], dict[Address, frozenset[int]]]


def _acs_then(draw: st.DrawFn, machine: Machine) -> dict[Address, PciFunction]:
    """A few functions as they were, with ACS switched the other way."""
    on = draw(st.booleans())
    chosen = draw(st.lists(st.sampled_from(sorted(machine.functions)), unique=True, max_size=3))
    return {one: switched(machine.functions[one], on=on) for one in chosen}


def _beside(draw: st.DrawFn, machine: Machine, truth: set[CauseId], *, order: bool) -> dict[Address, PciFunction]:
    """Perhaps one more cause: ACS that was another one, or an order of probing."""
    more = draw(st.sampled_from([None, CauseId.ACS_CHANGED_SINCE, CauseId.PROBE_ORDER if order else None]))
    if more is not None:
        truth.add(more)
    return _acs_then(draw, machine) if more is CauseId.ACS_CHANGED_SINCE else {}


def _unmatched(draw: st.DrawFn, machine: Machine, truth: set[CauseId]) -> frozenset[Address]:
    """Perhaps all bridges, for want of a port driver."""
    if not draw(st.booleans()):
        return frozenset()
    truth.add(CauseId.BRIDGES_NOT_PROBED)
    bridges = frozenset(one.address for one in machine.functions.values() if one.secondary_bus is not None)
    for one in bridges:
        machine.change(one, driver=None)
    return bridges


def _raced(draw: st.DrawFn, machine: Machine, truth: set[CauseId]) -> frozenset[Address]:
    """Perhaps functions to which drivers were being bound."""
    if not draw(st.booleans()):
        return frozenset()
    truth.add(CauseId.PROBE_RACE)
    return frozenset(one for one in draw(subsets(machine)) if not machine.functions[one].is_virtual)


def _smmu(draw: st.DrawFn, machine: Machine) -> _Drawn:
    """Streams refused, before 6.15 with an order of their own or without bridges, since then with a race."""
    kernel = draw(st.sampled_from(["6.8", "6.12.95", "7.3"]))
    truth = {CauseId.SMMUV3_STREAM_CONFLICT, CauseId.SMMUV3_DUPLICATE_STREAM}
    old = kernel != "7.3"
    unprobed = _unmatched(draw, machine, truth) if old else _raced(draw, machine, truth)
    then = {} if unprobed else _beside(draw, machine, truth, order=old)
    illness = Illness(
        truth=frozenset(truth),
        kernel=kernel,
        iommu=SMMU,
        facts={"tables": {"IORT": iort(node(SMMU_V3), node(ROOT, id_map(0, 0x10000, 0, FIRST)))}},
        unprobed=unprobed,
        taken=True,
        twice=kernel == "6.8",
    )
    return illness, then, {}


def _virtio(draw: st.DrawFn, machine: Machine) -> _Drawn:
    """Endpoints that the hypervisor does not know, and what kernels make of it."""
    kernel = draw(st.sampled_from(["6.1", "6.12.95", "6.16.2", "6.18"]))
    truth = {CauseId.VIRTIO_ENDPOINT_UNKNOWN, CauseId.PASS_ABANDONED}
    unknown = frozenset(one for one in machine.functions if one.device and _below_conventional(machine, one))
    unprobed: frozenset[Address] = frozenset()
    if kernel == "6.16.2":
        truth.add(CauseId.VIRTIO_INSTANCE_LOOKUP)
        unprobed = frozenset(machine.functions)
    elif kernel == "6.18":
        unprobed = _raced(draw, machine, truth)
    elif kernel == "6.1" and draw(st.booleans()):
        truth.add(CauseId.VIOT_ALIAS_BUG)
        unprobed = _left_by_viot(machine)
    else:
        unprobed = _unmatched(draw, machine, truth)
    then = {} if unprobed else _beside(draw, machine, truth, order=kernel < "6.15")
    illness = Illness(
        truth=frozenset(truth),
        kernel=kernel,
        iommu=VIRTIO,
        facts={"tables": VIOT},
        unprobed=unprobed,
        refused=unknown,
        abandons=kernel == "6.18",
    )
    return illness, then, {}


def _oracle(machine: Machine) -> KernelOracle:
    return KernelOracle(machine.snapshot(), (6, 12))


def _below_conventional(machine: Machine, address: Address) -> bool:
    return any(taker != address for taker, _ in _oracle(machine).requester_ids(address))


def _left_by_viot(machine: Machine) -> frozenset[Address]:
    """Alias-taking bridges with something below: what was matched there wrote into the bridge's record."""
    takers = {taker for one in machine.functions for taker, _ in _oracle(machine).requester_ids(one) if taker != one}
    parents = {one.upstream for one in machine.functions.values()}
    return frozenset(takers & parents)


def _covered(draw: st.DrawFn, machine: Machine) -> _Drawn:
    """An IORT that leaves out whole buses; a function of which it maps only some IDs is refused before 6.15."""
    buses = sorted({one.bus for one in machine.functions})
    kept = draw(st.lists(st.sampled_from(buses), unique=True, min_size=1))
    maps = [id_map(bus << 8, 0x100, bus << 8, FIRST) for bus in sorted(kept)]
    oracle = _oracle(machine)
    ids = {one: [requester for _, requester in oracle.requester_ids(one)] for one in machine.functions}
    outside = frozenset(one for one in machine.functions if ids[one][0][1] not in kept)
    gap = frozenset(one for one in machine.functions if any(bus not in kept for _, bus, _ in ids[one]))
    truth = {CauseId.FIRMWARE_COVERAGE, CauseId.SMMUV3_STREAM_CONFLICT}
    then = _beside(draw, machine, truth, order=True)
    illness = Illness(
        truth=frozenset(truth),
        kernel="6.12.95",
        iommu=SMMU,
        facts={"tables": {"IORT": iort(node(SMMU_V3), node(ROOT, *maps))}},
        unprobed=outside,
        refused=gap,
        taken=True,
    )
    return illness, then, {}


def _late(draw: st.DrawFn, machine: Machine) -> _Drawn:
    """ACS that came after grouping, everywhere or on some functions."""
    if draw(st.booleans()):
        then = {one.address: switched(one, on=False) for one in machine.functions.values()}
        return Illness(truth=frozenset({CauseId.LATE_ACS}), kernel="6.12.80", iommu="dmar0"), then, {}
    then = _acs_then(draw, machine)
    return Illness(truth=frozenset({CauseId.ACS_CHANGED_SINCE}), kernel="7.3", iommu="dmar0"), then, {}


def _overridden(draw: st.DrawFn, machine: Machine) -> _Drawn:
    """An override, and perhaps ACS that was another one."""
    truth = {CauseId.ACS_OVERRIDE}
    then = _beside(draw, machine, truth, order=False)
    illness = Illness(
        truth=frozenset(truth),
        kernel="6.12.95",
        iommu="dmar0",
        facts={"cmdline": "quiet pcie_acs_override=downstream"},
        overrides=True,
    )
    return illness, then, {}


def _amd(draw: st.DrawFn, machine: Machine) -> _Drawn:
    """Aliases of the IVRS table, which the kernel learns one by one."""
    masks: dict[Address, frozenset[int]] = {}
    for one in draw(st.lists(st.sampled_from(sorted(machine.functions)), unique=True, max_size=5)):
        others = [other.devfn for other in machine.functions if other[:2] == one[:2] and other != one]
        if others:
            masks[one] = frozenset({draw(st.sampled_from(sorted(others)))})
    entries = [long(ALIAS, one.requester_id, one.with_devfn(min(mask)).requester_id) for one, mask in masks.items()]
    tables = {"IVRS": ivrs(ivhd(0x10, short(ALL), *entries, device_id=0xFE))}
    truth = {CauseId.NEVER_JOINED}
    then = _beside(draw, machine, truth, order=False)
    illness = Illness(truth=frozenset(truth), kernel="6.12.95", iommu="ivhd0", facts={"tables": tables})
    return illness, then, masks


@st.composite
def chained(draw: st.DrawFn) -> Sick:
    """Conventional functions of one bus whose aliases in the IVRS table run in chains and circles."""
    machine = Machine()
    for slot in draw(st.lists(st.integers(1, 9), unique=True, min_size=2, max_size=6)):
        machine.conventional(f"00:{slot:02x}.0", driver="some", class_code=0x020000)
    illness, _, masks = _amd(draw, machine)
    seen = Sick(machine.snapshot(), illness, masks)
    numbers = played(seen.kernel(list(machine.functions.values())), illness, in_list_order(machine))
    return Sick(_as_seen(machine, illness, numbers), illness, masks)


def _as_seen(machine: Machine, illness: Illness, numbers: Mapping[Address, int]) -> Snapshot:
    members: dict[int, list[Address]] = {}
    for address, number in numbers.items():
        members.setdefault(number, []).append(address)
    functions = (
        replace(one, root=(one.address.domain, 0), group=numbers.get(one.address)) for one in machine.functions.values()
    )
    found = replace(
        machine.snapshot(),
        functions=tuple(sorted(functions, key=lambda one: one.address)),
        groups={n: IommuGroup(number=n, members=tuple(sorted(found))) for n, found in members.items()},
        groups_listed=True,
        iommus={illness.iommu: ()},
        kernel_release=illness.kernel,
        log=(),
    )
    return replace(found, **illness.facts)
