# SPDX-License-Identifier: GPL-2.0-or-later
"""What makes it unsafe to give a group away: who outside it shares its mappings or reaches it without the IOMMU."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from iommud.address import Address
from iommud.model.groups import Group
from iommud.snapshot import PciFunction
from iommud.verdict.findings import Finding, Kind
from iommud.verdict.report import Analysis, Report

_SPLIT = frozenset({Kind.ALIAS_SPLIT, Kind.ISOLATION_SPLIT, Kind.UNISOLATED})


class Hazard(enum.StrEnum):
    """Why an assignment is not safe."""

    OTHER_GROUP = "requester-id-in-other-group"
    """A function of another group sends under a requester ID of this one, or takes one of its aliases."""
    NO_GROUP = "requester-id-without-group"
    """A function without a group does."""
    NOT_ISOLATED = "not-isolated"
    """Requests can pass between the group and functions outside it: a finding says so."""
    NO_IOMMU = "no-iommu-group"
    """A no-IOMMU group of VFIO: there is no translation at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Danger:
    """One hazard with the functions concerned, of the group and outside it."""

    hazard: Hazard
    devices: tuple[Address, ...]
    text: str
    finding: str | None = None
    """Id of the finding of ``check`` that says so; None: it follows from the requester IDs alone."""


@dataclass(frozen=True, slots=True)
class Dangers:
    """The hazards of one machine, ready to be asked for by group."""

    report: Report
    analysis: Analysis
    senders: Mapping[Address, tuple[Address, ...]]
    """By requester ID the functions that send under it."""
    taken: Mapping[Address, tuple[tuple[Address, Address], ...]]
    """By function the others whose requests it takes, each with the requester ID it gives them."""
    excused: frozenset[Address]
    """Functions that rightly have no group."""

    @classmethod
    def of(cls, report: Report, analysis: Analysis) -> Dangers:
        """Index the requester IDs of a machine."""
        senders: dict[Address, list[Address]] = {}
        taken: dict[Address, list[tuple[Address, Address]]] = {}
        model = analysis.explainer.model
        for address, function in sorted(model.topology.functions.items()):
            for alias in model.aliases.of(function):
                senders.setdefault(alias.requester_id, []).append(address)
                if alias.taker != address:
                    taken.setdefault(alias.taker, []).append((address, alias.requester_id))
        return cls(
            report,
            analysis,
            {requester: tuple(found) for requester, found in senders.items()},
            {taker: tuple(found) for taker, found in taken.items()},
            frozenset(address for address, _ in report.without),
        )

    def about(self, group: Group) -> Iterator[Danger]:
        """The hazards of a group that the kernel made: requester IDs first, then findings."""
        yield from self._shared(group)
        yield from self._found(group)

    def _shared(self, group: Group) -> Iterator[Danger]:
        numbers = self.report.actual.number_of
        shared: dict[tuple[Address, Hazard], set[tuple[Address, Address]]] = {}
        for member in sorted(group):
            for other, requester in self._partners(member):
                if other not in group and not self._harmless(other):
                    hazard = Hazard.OTHER_GROUP if other in numbers else Hazard.NO_GROUP
                    shared.setdefault((requester, hazard), set()).add((member, other))
        for (requester, hazard), pairs in sorted(shared.items()):
            yield self._danger(requester, hazard, pairs)

    def _partners(self, member: Address) -> Iterator[tuple[Address, Address]]:
        """Whoever can use the mappings of a function, and by which requester ID (see ``Aliases.share``)."""
        model = self.analysis.explainer.model
        for alias in model.aliases.of(model.topology.functions[member]):
            for other in (*self.senders[alias.requester_id], alias.taker):
                yield other, alias.requester_id
        yield from self.taken.get(member, ())

    def _harmless(self, other: Address) -> bool:
        """A bridge that rightly has no group sends nothing of its own; what lies below it is looked at by itself."""
        function = self.analysis.explainer.model.topology.functions[other]
        return not function.present or (function.is_bridge and other in self.excused)

    def _danger(self, requester: Address, hazard: Hazard, pairs: set[tuple[Address, Address]]) -> Danger:
        inside, outside = ({pair[side] for pair in pairs} for side in (0, 1))
        listed = ", ".join(self._placed(one) for one in sorted(outside))
        lead = ", ".join(str(one) for one in sorted(inside))
        what = (
            "unmanaged DMA reaches its mappings" if hazard is Hazard.NO_GROUP else "each can use the other's mappings"
        )
        return Danger(
            hazard=hazard,
            devices=tuple(sorted(inside | outside)),
            text=f"{lead} shares requester ID {requester} with {listed}: {what}",
        )

    def _placed(self, address: Address) -> str:
        number = self.report.actual.number_of.get(address)
        return f"{address} ({'no group' if number is None else f'group {number}'})"

    def _found(self, group: Group) -> Iterator[Danger]:
        for finding in self.report.findings:
            if self._concerns(finding, group):
                yield Danger(
                    hazard=Hazard.NOT_ISOLATED,
                    devices=finding.devices,
                    text="; ".join(reason.text for reason in finding.reasons) or f"finding {finding.kind}",
                    finding=finding.id,
                )

    def _concerns(self, finding: Finding, group: Group) -> bool:
        if finding.kind is Kind.UNGROUPED:
            return self._unmanaged_peer(finding, group)
        if finding.kind not in _SPLIT:
            return False
        touched = set(group)
        if finding.subject == "switch":
            # Requests turned round inside a switch arrive below its isolated ports as well.
            touched.update(bridge.address for one in group for bridge in self._above(one))
        return not touched.isdisjoint(finding.devices)

    def _above(self, address: Address) -> tuple[PciFunction, ...]:
        topology = self.analysis.explainer.model.topology
        return topology.chain(topology.functions[address])

    def _unmanaged_peer(self, finding: Finding, group: Group) -> bool:
        """An endpoint that belongs in the group and has none sends untranslated requests beside it."""
        functions = self.analysis.explainer.model.topology.functions
        belongs = any(not expected.isdisjoint(group) for expected in finding.expected)
        return belongs and not any(functions[one].is_bridge for one in finding.devices)
