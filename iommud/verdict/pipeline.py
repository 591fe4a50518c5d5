# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole pipeline of a check: Snapshot -> Topology -> expected groups -> comparison -> Report."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

from iommud.address import Address
from iommud.kernel import KNOWN_VERSIONS, Kernel, identify
from iommud.model.acs import AcsModel, AcsState
from iommud.model.aliases import Aliases
from iommud.model.groups import Closure, Group, GroupingModel
from iommud.model.quirks import Quirks
from iommud.model.topology import Topology
from iommud.pci import Gap
from iommud.snapshot import Snapshot
from iommud.verdict.actual import ActualGroups
from iommud.verdict.compare import Comparison
from iommud.verdict.findings import Finding, Kind, Reason, Severity, ordered
from iommud.verdict.isolation import IsolationReview
from iommud.verdict.reasons import GAP_TEXTS, REMEDIES, Explainer
from iommud.verdict.report import Analysis, Report
from iommud.verdict.scope import Excuse, Scope
from iommud.verdict.survey import Platform, Usage, driver_of, parse_override, survey

_FIXED_ALIAS = re.compile(
    r"pci ([0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]): Enabling fixed DMA alias to ([0-9a-f]{2})\.([0-7])"
)
_LISTED_LIMIT = 8


def check(
    snapshot: Snapshot, *, kernel: Kernel | None = None, evidence: Callable[[Snapshot], Snapshot] | None = None
) -> Report:
    """Recompute the IOMMU groups of a snapshot, compare them with the kernel's, and report, with causes.

    ``kernel`` overrides the kernel that the snapshot names. ``evidence`` is asked only if there is something to
    explain: it gives the snapshot with the kernel log and the modules.
    """
    report = judge(snapshot, kernel)
    if report.analysis is None or not any(one.calls_for_cause for one in report.findings):
        return report
    from iommud.causes.explain import explain_causes  # noqa: PLC0415 - machines that are right never need it

    if evidence is not None:
        report = replace(report, analysis=replace(report.analysis, snapshot=evidence(snapshot)))
    return explain_causes(report)


def judge(snapshot: Snapshot, kernel: Kernel | None = None) -> Report:
    """The report without causes, as ``check`` gives it otherwise."""
    found = kernel or identify(snapshot.kernel_release, snapshot.kernel_version)
    topology = Topology.of(snapshot, Quirks.bundled(found.version))
    platform = survey(snapshot, found)
    actual = ActualGroups.of(snapshot)
    scope = Scope.of(topology, platform, snapshot, frozenset(actual.number_of))
    return _Check(snapshot, found, topology, platform, actual, scope).report()


@dataclass(frozen=True, slots=True)
class _Check:
    snapshot: Snapshot
    kernel: Kernel
    topology: Topology
    platform: Platform
    actual: ActualGroups
    scope: Scope

    def report(self) -> Report:
        report = self._frame()
        obstacle = self._obstacle()
        if obstacle is not None:
            finding = _undecidable((), [Reason(obstacle)], "machine")
            return replace(report, judged=False, findings=ordered([*report.findings, finding]))
        if self.platform.usage is Usage.NOT_USED:
            return replace(report, expected=(), without=self._without())
        return self._judged(report)

    def _frame(self) -> Report:
        snapshot = self.snapshot
        gaps = [one for one in snapshot.functions if one.config.gap is not None]
        return Report(
            source=snapshot.source,
            kernel=self.kernel,
            usage_reason=self.platform.usage_reason,
            in_use=self.platform.usage is not Usage.NOT_USED,
            judged=True,
            actual=self.actual,
            expected=None,
            findings=ordered(list(_inconsistencies(snapshot))),
            notes=tuple(self._notes()),
            config_reads=snapshot.config_reads,
            config_complete=not gaps,
            functions=len(snapshot.functions),
            iommus=tuple((name, driver_of(name).value) for name in sorted(snapshot.iommus or ())),
            analysis=Analysis(
                snapshot=snapshot,
                platform=self.platform,
                explainer=Explainer(self._model(AcsState(ivrs_present=self.platform.ivrs_present)), ()),
            ),
        )

    def _obstacle(self) -> str | None:
        """Why the groups cannot be judged at all, or None."""
        if self.platform.usage is Usage.UNKNOWN:
            return self.platform.usage_reason
        if self.platform.foreign is not None and self.platform.usage is not Usage.NOT_USED:
            return f"not judged: {self.platform.foreign}"
        return None

    def _notes(self) -> Iterator[str]:
        if not self.kernel.readable:
            version = ".".join(str(number) for number in self.kernel.version)
            what = (
                f"the kernel version {self.kernel.text!r} is unreadable"
                if self.kernel.text
                else ("the snapshot names no kernel")
            )
            yield f"{what}; judged as {version}, the newest modelled"
        elif self.kernel.version < KNOWN_VERSIONS[0]:
            oldest = ".".join(str(number) for number in KNOWN_VERSIONS[0])
            yield f"kernel {self.kernel} is older than all that are modelled; judged by the tables of {oldest}"
        yield from self.platform.firmware.problems

    def _model(self, state: AcsState) -> GroupingModel:
        aliases = aliases_of(self.topology, self.platform, self.snapshot)
        return GroupingModel(AcsModel(self.topology, state), aliases, self.scope.joins)

    def _state(self) -> AcsState:
        """The current registers, and the out-of-tree override if the kernel's groups show it at work."""
        plain = AcsState(unknown=True, ivrs_present=self.platform.ivrs_present)
        tokens, ids = parse_override(self.snapshot.cmdline or "")
        if not tokens and not ids:
            return plain
        overridden = replace(plain, override=tokens, override_ids=ids)
        return overridden if self._splits(overridden) < self._splits(plain) else plain

    def _splits(self, state: AcsState) -> int:
        """How many expected groups the kernel has in several groups."""
        closure = self._model(state).expected()
        numbers = self.actual.number_of
        places = ({numbers[one] for one in group if one in numbers} for group in closure.groups)
        return sum(len(found) > 1 for found in places)

    def _judged(self, report: Report) -> Report:
        state = self._state()
        model = self._model(state)
        finest = model.expected()
        coarsest, unknown = finest, model.acs.unknown
        if unknown:
            coarse_model = self._model(replace(state, unknown=False))
            coarsest = coarse_model.expected()
            unknown = unknown | coarse_model.acs.unknown
        lower, upper = self._restricted(finest), self._restricted(coarsest)
        ungrouped = self._ungrouped()
        comparison = Comparison(
            actual=self.actual,
            explainer=Explainer(model, finest.ties),
            finest=lower,
            coarsest=upper,
            ungrouped=ungrouped,
            cleared=self._cleared(state),
            acs_before_grouping=self.platform.acs_before_grouping,
        )
        decided = set(lower) == set(upper)
        findings = list(report.findings)
        findings += self._compared(comparison)
        findings += IsolationReview(model, self.actual, upper).findings()
        findings += self._overridden(state, lower)
        if not decided:
            findings.append(self._undecided(unknown))
        return replace(
            report,
            expected=lower if decided else None,
            finest=None if decided else lower,
            coarsest=None if decided else upper,
            ungrouped=ungrouped,
            without=self._without(),
            findings=ordered(findings),
            analysis=Analysis(snapshot=self.snapshot, platform=self.platform, explainer=comparison.explainer),
        )

    def _restricted(self, closure: Closure) -> tuple[Group, ...]:
        return closure.restricted_to(self.scope.joins)

    def _cleared(self, state: AcsState) -> Callable[[], tuple[Group, ...]]:
        @cache
        def compute() -> tuple[Group, ...]:
            cleared = replace(state, unknown=False, control_cleared=True)
            return self._model(cleared).expected().groups

        return compute

    def _compared(self, comparison: Comparison) -> Iterator[Finding]:
        if self.platform.usage is not Usage.NO_GROUPS:
            yield from comparison.findings()
        elif comparison.ungrouped:
            yield self._no_groups(comparison)

    def _no_groups(self, comparison: Comparison) -> Finding:
        return Finding(
            kind=Kind.NO_GROUPS,
            severity=Severity.CRITICAL,
            devices=comparison.ungrouped,
            expected=comparison.finest if comparison.finest == comparison.coarsest else (),
            reasons=(Reason(f"no function has a group, although {self.platform.usage_reason}"),),
            subject="machine",
        )

    def _ungrouped(self) -> tuple[Address, ...]:
        candidates = (one for one in self.snapshot.functions if one.address not in self.actual.number_of)
        return tuple(one.address for one in candidates if self.scope.excuse(one) is None)

    def _without(self) -> tuple[tuple[Address, Excuse], ...]:
        candidates = (one for one in self.snapshot.functions if one.address not in self.actual.number_of)
        found = ((one.address, self.scope.excuse(one)) for one in candidates)
        return tuple((address, excuse) for address, excuse in found if excuse is not None)

    def _overridden(self, state: AcsState, expected: tuple[Group, ...]) -> Iterator[Finding]:
        """What only the override keeps apart is not isolated by hardware."""
        if not state.override and not state.override_ids:
            return
        honest = self._restricted(
            self._model(replace(state, override=frozenset(), override_ids=frozenset())).expected()
        )
        for group in honest:
            parts = tuple(one for one in expected if one <= group)
            if len(parts) > 1:
                yield Finding(
                    kind=Kind.UNISOLATED,
                    severity=Severity.INFO,
                    devices=tuple(sorted(group)),
                    groups=self.actual.of_members(group),
                    expected=parts,
                    reasons=(Reason("only pcie_acs_override keeps these apart; no hardware isolates them"),),
                    subject="override",
                )

    def _undecided(self, unknown: set[Address]) -> Finding:
        """The missing bytes, by what is missing, each kind with its remedy."""
        by_gap: dict[Gap | None, list[Address]] = {}
        for address in sorted(unknown):
            by_gap.setdefault(self.topology.functions[address].config.gap, []).append(address)
        reasons = [_missing(gap, addresses) for gap, addresses in by_gap.items()]
        return _undecidable(tuple(sorted(unknown)), reasons, "bytes")


def aliases_of(topology: Topology, platform: Platform, snapshot: Snapshot) -> Aliases:
    """The alias facts of a machine, with what its firmware and its kernel log tell."""
    return Aliases(topology, _firmware_aliases(topology, platform), _logged_aliases(snapshot))


def _firmware_aliases(topology: Topology, platform: Platform) -> Mapping[Address, frozenset[int]]:
    """Aliases that the IVRS table gives to functions on the same bus; others are programmed without a mask."""
    ivrs = platform.firmware.ivrs
    if ivrs is None or not any(block.aliases for block in ivrs.blocks_used()):
        return {}
    found: dict[Address, frozenset[int]] = {}
    for address in topology.functions:
        domain = address.domain if platform.kernel.at_least(6, 0) else 0
        alias = ivrs.alias_of(domain, address.requester_id)
        if alias is not None and alias != address.requester_id and alias >> 8 == address.bus:
            found[address] = frozenset({alias & 0xFF})
    return found


def _missing(gap: Gap | None, addresses: list[Address]) -> Reason:
    listed = ", ".join(str(one) for one in addresses[:_LISTED_LIMIT])
    more = f" and {len(addresses) - _LISTED_LIMIT} more" if len(addresses) > _LISTED_LIMIT else ""
    if gap is None:
        return Reason(f"{listed}{more}: a fact that decides isolation is not in this snapshot")
    return Reason(f"{listed}{more}: {GAP_TEXTS[gap]}; {REMEDIES[gap]}")


def _undecidable(devices: tuple[Address, ...], reasons: list[Reason], subject: str) -> Finding:
    return Finding(
        kind=Kind.UNDECIDABLE,
        severity=Severity.WARNING,
        devices=devices,
        reasons=tuple(reasons),
        subject=subject,
    )


def _inconsistencies(snapshot: Snapshot) -> Iterator[Finding]:
    for one in snapshot.contradictions:
        yield Finding(
            kind=Kind.INCONSISTENT,
            severity=Severity.WARNING,
            devices=one.devices,
            reasons=(Reason(one.detail),),
            subject=one.complaint,
        )


def _logged_aliases(snapshot: Snapshot) -> Mapping[Address, frozenset[int]]:
    found: dict[Address, frozenset[int]] = {}
    for line in snapshot.log or ():
        match = _FIXED_ALIAS.search(line)
        address = Address.from_name(match[1]) if match else None
        if match is not None and address is not None:
            devfn = int(match[2], 16) << 3 | int(match[3])
            found[address] = found.get(address, frozenset()) | {devfn & 0xFF}
    return found
