# SPDX-License-Identifier: GPL-2.0-or-later
"""Report -> the same report with the causes of its findings.

A cause is named if replaying it gives exactly what was observed of the functions concerned. If none does alone, two
at once are tried. Causes that rest on evidence come after; a finding without any cause is unexplained.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations

from iommud.causes import acs_time, bridges, drivers, order, other_rules, refusals
from iommud.causes.cause import Basis, Cause, CauseId
from iommud.causes.facts import SEARCH_LIMIT, Budget, Facts
from iommud.causes.hypothesis import Hypothesis, cause_of
from iommud.causes.search import Proof, reproduces
from iommud.causes.world import World
from iommud.verdict.findings import Finding, Kind
from iommud.verdict.report import Report

REPLAYED = (bridges, refusals, acs_time, order)
TOLD = (drivers, other_rules)
_BESIDE_OTHERS = (CauseId.VFIO_NOIOMMU, CauseId.FOREIGN_DRIVER)
"""Causes by evidence that are named although others are proved."""


def explain_causes(report: Report, *, limit: int = SEARCH_LIMIT) -> Report:
    """The report with ``causes`` filled; the same object if there is nothing to explain.

    ``limit`` bounds the decisions of the kernel's that are replayed in search of an order, for each finding.
    """
    findings = [one for one in report.findings if one.calls_for_cause]
    if report.analysis is None or not findings:
        return report
    facts = Facts(report, report.analysis, Budget.of(limit))
    causes = {one.id: found for one in findings if (found := causes_of(facts, one))}
    spent = sorted({one.id for one in facts.budget.spent_up.values()} - causes.keys())
    if not spent:
        return replace(report, causes=causes)
    others = f" and of {len(spent) - 1} more" if len(spent) > 1 else ""
    note = f"search limit: the causes of {spent[0]}{others} were not looked for to the end"
    return replace(report, causes=causes, notes=(*report.notes, note))


def causes_of(facts: Facts, finding: Finding) -> tuple[Cause, ...]:
    """Every cause that fits one finding, the one that assumes least first."""
    proved = _replayed(facts, finding) if _is_replayable(facts, finding) else []
    found = [cause_of(one.hypothesis.id, one.hypothesis.tell(one.proof), Basis.REPLAY) for one in proved]
    told = [cause for module in TOLD for cause in module.told(facts, finding)]
    if found:
        told = [one for one in told if one.id in _BESIDE_OTHERS]
    return tuple(sorted((*found, *told), key=lambda one: one.id.rank))


def _is_replayable(facts: Facts, finding: Finding) -> bool:
    """Whether there are expected groups to replay against."""
    return facts.report.judged and finding.kind is not Kind.UNDECIDABLE


def proofs_of(facts: Facts, finding: Finding) -> tuple[tuple[World, Proof], ...]:
    """The worlds that give exactly what was observed of the functions concerned, each with its replay."""
    return tuple((one.world, one.proof) for one in _replayed(facts, finding))


@dataclass(frozen=True, slots=True)
class _Proved:
    """A hypothesis, and the world that proved it: its own, or with that of another."""

    hypothesis: Hypothesis
    world: World
    proof: Proof


def _replayed(facts: Facts, finding: Finding) -> list[_Proved]:
    if not facts.budget.spend(finding, 1):
        return []
    plain = None if finding.kind is Kind.UNISOLATED else reproduces(facts, finding, World())
    if plain is not None:  # nothing needs to have been otherwise, so nothing can be proved to have been
        return [_Proved(order.never_joined(facts), World(), plain)]
    proposed = [one for module in REPLAYED for one in module.propose(facts, finding)]
    alone = [found for one in proposed for found in _proved(facts, finding, (one,), one.world)]
    if alone:
        late = any(one.hypothesis.id is CauseId.LATE_ACS for one in alone)
        # What came late has changed since; the reason that is known stands for it.
        return [one for one in alone if not (late and one.hypothesis.id is CauseId.ACS_CHANGED_SINCE)]
    found: dict[CauseId, _Proved] = {}
    for pair in combinations(proposed, 2):
        for proved in _proved(facts, finding, pair, pair[0].world.joined(pair[1].world)):
            found.setdefault(proved.hypothesis.id, proved)
    return list(found.values())


def _proved(facts: Facts, finding: Finding, parts: tuple[Hypothesis, ...], world: World) -> Iterator[_Proved]:
    proof = reproduces(facts, finding, world)
    if proof is None:
        return
    if finding.kind is Kind.UNGROUPED and len(parts) > 1:
        # Of two causes the one that leaves this function out is its own; the other shaped its neighbours' groups.
        parts = tuple(part for part in parts if _leaves_out(part, finding)) or parts
    yield from (_Proved(part, world, proof) for part in parts)


def _leaves_out(hypothesis: Hypothesis, finding: Finding) -> bool:
    world = hypothesis.world
    if world.stream_taken or world.stream_twice:
        return True
    return any(one in world.unprobed or one in world.refused for one in finding.devices)
