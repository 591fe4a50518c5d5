# SPDX-License-Identifier: GPL-2.0-or-later
"""Compare the kernel's groups with the expected ones: splits, missing groups, merged groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from iommud.address import Address
from iommud.model.groups import Group, canonical
from iommud.snapshot import PciFunction
from iommud.verdict.actual import ActualGroups
from iommud.verdict.findings import Finding, Kind, Reason, Severity
from iommud.verdict.reasons import Explainer, acs_text, gated_text

REASON_LIMIT = 12
"""Sentences that one finding carries at most; ``explain`` tells the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What comparing needs. ``finest`` and ``coarsest`` are one partition where all facts are known."""

    actual: ActualGroups
    explainer: Explainer
    finest: tuple[Group, ...]
    coarsest: tuple[Group, ...]
    ungrouped: tuple[Address, ...]
    """Functions that should have a group and have none."""
    cleared: Callable[[], tuple[Group, ...]]
    """The closure as it would be with ACS control cleared."""
    acs_before_grouping: bool | None

    def findings(self) -> Iterator[Finding]:
        """Every split, every missing group, every merged group: one finding each."""
        for group in self.finest:
            yield from self._split(group)
        yield from self._ungrouped()
        yield from self._merged()

    def _split(self, expected: Group) -> Iterator[Finding]:
        """A class of the finest closure that lies in several groups is split, whatever the unknown bytes say."""
        numbers = self.actual.number_of
        members = tuple(sorted(one for one in expected if one in numbers))
        if len({numbers[one] for one in members}) < 2:
            return
        shared = self._shared_requester(members)
        reasons = [shared] if shared is not None else []
        yield Finding(
            kind=Kind.ISOLATION_SPLIT if shared is None else Kind.ALIAS_SPLIT,
            severity=Severity.CRITICAL,
            devices=members,
            groups=self.actual.of_members(members),
            expected=(expected,),
            reasons=(*reasons, *self._ties_between(members)),
        )

    def _shared_requester(self, members: tuple[Address, ...]) -> Reason | None:
        """The requester ID by which two functions in different groups can use each other's mappings."""
        functions = self.explainer.model.topology.functions
        numbers = self.actual.number_of
        sends: dict[Address, Address] = {}
        for member in members:
            for alias in self.explainer.model.aliases.of(functions[member]):
                for other in (sends.setdefault(alias.requester_id, member), alias.taker):
                    if other in numbers and numbers[other] != numbers[member]:
                        return self._shares(other, member, alias.requester_id)
        return None

    def _shares(self, one: Address, other: Address, requester: Address) -> Reason:
        topology, aliases = self.explainer.model.topology, self.explainer.model.aliases
        functions = [topology.functions[address] for address in (one, other)]
        bridges = (bridge for function in functions for bridge in aliases.alias_bridges(topology.chain(function)))
        gated = gated_text(topology, {(each.vendor, each.device) for each in (*functions, *bridges)})
        first, second = sorted((one, other))
        text = f"{first} and {second} share requester ID {requester}: each can use the other's mappings{gated}"
        return Reason(text, "pci_for_each_dma_alias()")

    def _ties_between(self, members: tuple[Address, ...]) -> tuple[Reason, ...]:
        """The ties along shortest chains from the lowest member into each other group."""
        numbers = self.actual.number_of
        chains = self.explainer.chains(members[0], {one: numbers[one] for one in members})
        wanted = dict.fromkeys(numbers[one] for one in members[1:])
        ties = dict.fromkeys(tie for number in wanted for tie in chains.get(number, ()))
        return _limited(dict.fromkeys(map(self.explainer.reason, ties)))

    def _ungrouped(self) -> Iterator[Finding]:
        if not self.ungrouped:
            return
        senders, takers = self._senders()
        place = {address: group for group in self.finest for address in group}
        for address in self.ungrouped:
            yield self._one_ungrouped(address, self._partner(address, senders, takers), place[address])

    def _senders(self) -> tuple[dict[Address, Address], dict[Address, tuple[Address, Address]]]:
        """Among functions with a group: one for every requester ID; and for every bridge that takes an alias, whose.

        The latter gives the function below the bridge and the requester ID.
        """
        functions = self.explainer.model.topology.functions
        senders: dict[Address, Address] = {}
        takers: dict[Address, tuple[Address, Address]] = {}
        for address in sorted(self.actual.number_of):
            for alias in self.explainer.model.aliases.of(functions[address]):
                senders.setdefault(alias.requester_id, address)
                if alias.taker != address:
                    takers.setdefault(alias.taker, (address, alias.requester_id))
        return senders, takers

    def _one_ungrouped(self, address: Address, shared: Reason | None, expected: Group) -> Finding:
        function = self.explainer.model.topology.functions[address]
        bound = f"bound to {function.driver}" if function.driver else "bound to no driver"
        reasons = [Reason(f"an IOMMU serves {address} ({bound}), yet it has no group")]
        if shared is not None:
            reasons.append(shared)
        return Finding(
            kind=Kind.UNGROUPED,
            severity=Severity.WARNING if shared is None else Severity.CRITICAL,
            devices=(address,),
            expected=(expected,),
            reasons=(*reasons, *self._ties_of(address)),
        )

    def _partner(
        self,
        address: Address,
        senders: dict[Address, Address],
        takers: dict[Address, tuple[Address, Address]],
    ) -> Reason | None:
        """The function with a group that shares a requester ID with this one, or takes one of its aliases."""
        functions = self.explainer.model.topology.functions
        for alias in self.explainer.model.aliases.of(functions[address]):
            partner = senders.get(alias.requester_id)
            if partner is None and alias.taker in self.actual.number_of:
                partner = alias.taker
            if partner is not None:
                return self._shares(address, partner, alias.requester_id)
        if address in takers:
            other, requester = takers[address]
            return self._shares(address, other, requester)
        return None

    def _ties_of(self, address: Address) -> tuple[Reason, ...]:
        """The first tie that would have given the function a group others have."""
        chain = self.explainer.chain(address, self.actual.number_of) or ()
        return _limited(dict.fromkeys(self.explainer.reason(tie) for tie in chain))

    def _merged(self) -> Iterator[Finding]:
        """A group that reaches across classes of the coarsest closure is merged, whatever unknown bytes say."""
        place = {address: group for group in self.coarsest for address in group}
        for group in self.actual.groups:
            classes = {place[one] for one in group if one in place}
            if len(classes) > 1:
                yield self._one_merged(group, canonical(classes))

    def _one_merged(self, group: Group, classes: tuple[Group, ...]) -> Finding:
        late = self.acs_before_grouping is True and self._as_if_cleared(group)
        reasons = list(self._what_separates(classes))
        if late:
            text = "this is the group that results while ACS control is still clear: ACS was switched on too late"
            reasons.insert(0, Reason(text, "pci_enable_acs()"))
        return Finding(
            kind=Kind.MERGED,
            severity=Severity.WARNING if late else Severity.INFO,
            devices=tuple(sorted(group)),
            groups=(group,),
            expected=classes,
            reasons=tuple(reasons),
        )

    def _as_if_cleared(self, group: Group) -> bool:
        grouped = self.actual.number_of
        return any(frozenset(one for one in found if one in grouped) == group for found in self.cleared())

    def _what_separates(self, classes: tuple[Group, ...]) -> tuple[Reason, ...]:
        functions = self.explainer.model.topology.functions
        found = (self._why_apart(functions[min(group)]) for group in classes)
        return _limited(dict.fromkeys(found))

    def _why_apart(self, function: PciFunction) -> Reason:
        """What makes the lowest function of a group start one: the port above it, or itself on a root bus."""
        acs = self.explainer.model.acs
        above = acs.topology.chain(function)
        if above:
            text = f"{function.address} lies below {above[0].address}, which is {acs_text(acs, above[0])}"
            return Reason(text, "pci_acs_path_enabled()")
        if acs.verdict(function).isolated is None:
            return Reason(f"{function.address} is the only function of its device, on a root bus")
        return Reason(f"{function.address} sits on a root bus and is {acs_text(acs, function)}", "pci_acs_enabled()")


def _limited(reasons: Iterable[Reason]) -> tuple[Reason, ...]:
    found = tuple(reasons)
    if len(found) <= REASON_LIMIT:
        return found
    return (*found[:REASON_LIMIT], Reason(f"and {len(found) - REASON_LIMIT} further reasons"))
