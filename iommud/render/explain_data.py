# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a function is in its group, and what joins or separates two functions: the data for JSON and for text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from iommud.address import Address
from iommud.errors import IommudError
from iommud.model.groups import GroupingModel, Tie
from iommud.render.view import View
from iommud.snapshot import PciFunction
from iommud.verdict.findings import Kind
from iommud.verdict.firmware_words import firmware_alias, instance_of, kept_memory, listed_instance, remarks
from iommud.verdict.reasons import Explainer, acs_text
from iommud.verdict.report import Report
from iommud.verdict.service import Served, Service

SCHEMA_VERSION = 1

Data = dict[str, Any]
"""A JSON object."""


class UnknownFunctionError(IommudError):
    """A function that somebody asks for and the report does not know."""

    def __init__(self, report: Report, address: Address) -> None:
        super().__init__(f"{address} is not among the PCI functions of {report.source}")


def explain_one_data(report: Report, address: Address) -> Data:
    """Everything behind the group of one function, as a JSON object.

    ``requester_ids`` with who takes each and what the IOMMU calls it, ``shared_with``, ``same_iommu_id``,
    ``reserved_regions`` and other words of ``firmware``, the ``path`` to the root with the isolation of each bridge,
    the ``ties`` that bind the function directly, ``without`` if it rightly has no group, and its ``findings``.

    Raises UnknownFunctionError if the report knows no such function.
    """
    return _Explanation.of(report).one(address)


def explain_two_data(report: Report, one: Address, other: Address) -> Data:
    """What joins two functions, or what separates them, as a JSON object.

    ``joined`` says whether they belong together (None: cannot be told), ``chain`` holds the ties of a shortest way
    between them, ``separated_by`` the functions whose isolation keeps them apart, ``because`` a sentence;
    ``unisolated`` names the finding that requests can pass between them although the rule keeps them apart.

    Raises UnknownFunctionError if the report does not know both.
    """
    return _Explanation.of(report).two(one, other)


@dataclass(frozen=True, slots=True)
class _Explanation:
    report: Report
    view: View
    explainer: Explainer
    service: Service
    """What firmware says of who is served, and under which IDs."""

    @classmethod
    def of(cls, report: Report) -> _Explanation:
        if report.analysis is None:
            raise IommudError(f"the report on {report.source} does not hold what an explanation needs")
        explainer = report.analysis.explainer
        if not explainer.ties and not report.judged:
            # Where the groups are not judged, the ties still say what the kernel's own rule would do.
            explainer = Explainer(explainer.model, tuple(explainer.model.ties()))
        analysis = report.analysis
        service = Service(explainer.model.topology, analysis.platform, analysis.snapshot)
        return cls(report, View.of(report), explainer, service)

    @property
    def model(self) -> GroupingModel:
        return self.explainer.model

    def function(self, address: Address) -> PciFunction:
        found = self.view.functions.get(address)
        if found is None:
            raise UnknownFunctionError(self.report, address)
        return found

    def one(self, address: Address) -> Data:
        function = self.function(address)
        ties = [tie for tie in self.explainer.ties if address in (tie.one, tie.other)]
        return {
            **self._head(),
            "function": self._facts(function),
            "iommu_instance": listed_instance(self.service, function),
            "requester_ids": [*self._requester_ids(function)],
            "shared_with": [*self._shared_with(function)],
            "same_iommu_id": [*self._same_iommu_id(function)],
            "reserved_regions": [*self._reserved_regions(function)],
            "firmware": [{"table": str(one.table), "text": one.text} for one in remarks(self.service, function)],
            "path": [self._isolation(bridge) for bridge in self.model.topology.chain(function)],
            "ties": [self._tie(tie) for tie in ties],
            "findings": [
                {"id": one.id, "kind": str(one.kind), "severity": str(one.severity)}
                for one in self.view.findings.get(address, ())
            ],
        }

    def _head(self) -> Data:
        return {
            "schema_version": SCHEMA_VERSION,
            "source": self.report.source,
            "kernel": self.report.kernel.text,
            "judged": self.report.judged,
            "usage": self.report.usage_reason,
        }

    def _facts(self, function: PciFunction) -> Data:
        address = function.address
        number = self.view.number(address)
        excuse = self.view.excuses.get(address)
        expected = self.view.expected.get(address)
        return {
            **self._isolation(function),
            "vendor": _hex(function.vendor, 4),
            "device": _hex(function.device, 4),
            "class": _hex(function.class_code, 6),
            "driver": function.driver,
            "present": function.present,
            "group": number,
            "group_members": None if number is None else _listed(self.report.actual.members[number]),
            "expected": None if expected is None else _listed(expected),
            "expected_is_certain": self.report.expected is not None,
            "without": None if excuse is None else {"reason": excuse.reason, "evidence": str(excuse.evidence)},
        }

    def _isolation(self, function: PciFunction) -> Data:
        acs = self.model.acs
        unasked = self.view.unasked(function.address)
        return {
            "address": str(function.address),
            "type": self.view.type_words(function.address),
            "isolated": acs.verdict(function).isolated,
            "acs": "not looked at: nothing depends on it" if unasked else acs_text(acs, function),
        }

    def _requester_ids(self, function: PciFunction) -> Iterator[Data]:
        for taker, requester, source in self._senders(function):
            yield {
                "requester_id": str(requester),
                "taken_by": str(taker),
                "source": source,
                **self._at_iommu(function, requester),
            }

    def _senders(self, function: PciFunction) -> Iterator[tuple[Address, Address, str]]:
        """Who takes each requester ID of a function, the ID, and what says so: those of the table come last."""
        found = self.model.aliases.of(function)
        for alias in found:
            yield alias.taker, alias.requester_id, "topology"
        sender = self.model.topology.real_dma_device(function)
        named = firmware_alias(self.service, sender)
        if named is not None and named not in {alias.requester_id for alias in found}:
            yield sender.address, named, "IVRS"

    def _at_iommu(self, function: PciFunction, requester: Address) -> Data:
        """What the IOMMU calls a requester ID; null members where it has none or no table at hand says."""
        sender = self.model.topology.real_dma_device(function)
        answer = self.service.answer(sender, requester)
        found: Data = {"iommu": None, "id_kind": None, "id": None, "firmware": None}
        if isinstance(answer, Served):
            found["iommu"] = {
                "table": str(answer.table),
                "name": answer.unit.name,
                "instance": instance_of(self.service, sender, answer),
            }
            found |= {"id_kind": str(answer.kind), "id": f"0x{answer.value:x}", "firmware": answer.because}
        elif answer is not None:
            found["firmware"] = answer.reason
        return found

    def _served(self, function: PciFunction) -> Iterator[tuple[Address, Served]]:
        sender = self.model.topology.real_dma_device(function)
        for _, requester, _ in self._senders(function):
            answer = self.service.answer(sender, requester)
            if isinstance(answer, Served):
                yield requester, answer

    def _same_iommu_id(self, function: PciFunction) -> Iterator[Data]:
        """Everyone whom the IOMMU knows by one of the function's IDs, each once."""
        own = {answer.key for _, answer in self._served(function)}
        for address in sorted(self.view.functions.keys() - {function.address}) if own else ():
            for requester, answer in self._served(self.view.functions[address]):
                if answer.key in own:
                    yield {
                        "address": str(address),
                        "requester_id": str(requester),
                        "iommu": answer.unit.name,
                        "id_kind": str(answer.kind),
                        "id": f"0x{answer.value:x}",
                    }
                    break

    def _shared_iommu_id(self, one: PciFunction, other: PciFunction) -> Data | None:
        """The first ID of one function by which the IOMMU knows the other too."""
        theirs = {answer.key for _, answer in self._served(other)}
        common = next((answer for _, answer in self._served(one) if answer.key in theirs), None)
        if common is None:
            return None
        return {"iommu": common.unit.name, "id_kind": str(common.kind), "id": f"0x{common.value:x}"}

    def _reserved_regions(self, function: PciFunction) -> Iterator[Data]:
        requesters = [requester for _, requester, _ in self._senders(function)]
        for one in kept_memory(self.service, function, requesters):
            yield {"table": str(one.table), "first": f"0x{one.first:x}", "last": f"0x{one.last:x}", "what": one.what}

    def _shared_with(self, function: PciFunction) -> Iterator[Data]:
        """Everyone that sends under one of the function's requester IDs, takes one, or whose ID it takes."""
        aliases = self.model.aliases
        own = aliases.of(function)
        by_id = {alias.requester_id for alias in own}
        takers = {alias.taker: alias.requester_id for alias in reversed(own)}
        for address in sorted(self.view.functions.keys() - {function.address}):
            theirs = aliases.of(self.view.functions[address])
            common = min((alias.requester_id for alias in theirs if alias.requester_id in by_id), default=None)
            taken = (alias.requester_id for alias in theirs if alias.taker == function.address)
            shared = common or takers.get(address) or next(taken, None)
            if shared is not None:
                yield {"address": str(address), "requester_id": str(shared)}

    def _tie(self, tie: Tie) -> Data:
        reason = self.explainer.reason(tie)
        return {
            "one": str(tie.one),
            "other": str(tie.other),
            "rule": str(tie.rule),
            "reason": reason.text,
            "reference": reason.reference,
        }

    def two(self, one: Address, other: Address) -> Data:
        functions = (self.function(one), self.function(other))
        chain = self.explainer.chain(one, (other,))
        shared = self.model.aliases.share(*functions) if one != other else None
        separators = () if chain is not None else tuple(self._between(*functions))
        return {
            **self._head(),
            "functions": [self._facts(function) for function in functions],
            "joined": self._joined(one, other, joined=chain is not None),
            "same_group": self._same_group(one, other),
            "shared_requester_id": None if shared is None else str(shared),
            "shared_iommu_id": self._shared_iommu_id(*functions) if one != other else None,
            "chain": [self._tie(tie) for tie in chain or ()],
            "separated_by": [self._isolation(function) for function in separators],
            "unisolated": self._unisolated(one, other),
            "because": None if chain is not None else self._because(functions, separators),
        }

    def _joined(self, one: Address, other: Address, *, joined: bool) -> bool | None:
        """Whether they belong together; unread bytes may join what the finest partition keeps apart."""
        report = self.report
        if joined or report.coarsest is None:
            return joined if report.judged and report.in_use else None
        return None if any(one in group and other in group for group in report.coarsest) else False

    def _same_group(self, one: Address, other: Address) -> bool | None:
        """Whether the kernel has them in one group; None if one of them has none."""
        numbers = (self.view.number(one), self.view.number(other))
        return None if None in numbers else numbers[0] == numbers[1]

    def _unisolated(self, one: Address, other: Address) -> str | None:
        """The finding that says that requests can pass between their groups all the same."""
        for finding in self.report.findings:
            if finding.kind is Kind.UNISOLATED:
                homes = [group for group in finding.expected if one in group or other in group]
                if len(homes) > 1:
                    return finding.id
        return None

    def _between(self, one: PciFunction, other: PciFunction) -> Iterator[PciFunction]:
        """Whoever stands between two functions and is isolated, or may be: nearest to the first one first."""
        for address in dict.fromkeys(self._heads(one, other)):
            function = self.view.functions[address]
            if self.model.acs.verdict(function).isolated is not False:
                yield function

    def _heads(self, one: PciFunction, other: PciFunction) -> Iterator[Address]:
        """The bridges of each up to their common bus, and there the functions themselves if they are siblings."""
        ways = [(function, *self.model.topology.chain(function)) for function in (one, other)]
        common = {step.address[:2] for step in ways[0]} & {step.address[:2] for step in ways[1]}
        ends = []
        for way in ways:
            cut = next((index for index, step in enumerate(way) if step.address[:2] in common), len(way) - 1)
            ends.append(way[cut])
            yield from (step.address for step in way[1 : cut + 1])
        if common and ends[0].address.device == ends[1].address.device:
            yield from (end.address for end in ends)

    def _because(self, functions: tuple[PciFunction, PciFunction], separators: Sequence[PciFunction]) -> str:
        if not self.report.in_use:
            return f"no IOMMU is in use: {self.report.usage_reason}"
        if separators:
            return "these stand between them and are isolated"
        if self._root(functions[0]) != self._root(functions[1]):
            return "they lie below different root buses"
        return "the kernel's rule ties a device to bridges above it, and none of these joins both"

    def _root(self, function: PciFunction) -> tuple[int, int]:
        chain = self.model.topology.chain(function)
        return function.root or (chain[-1] if chain else function).address[:2]


def _hex(value: int | None, digits: int) -> str | None:
    return None if value is None else f"{value:0{digits}x}"


def _listed(addresses: Iterable[Address]) -> list[str]:
    return [str(one) for one in sorted(addresses)]
