# SPDX-License-Identifier: GPL-2.0-or-later
"""A report for a terminal: one line that sums it up, the findings, and nothing more unless asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from iommud.address import Address
from iommud.causes.cause import Cause
from iommud.render.style import Role, Style, role_of, role_of_status
from iommud.render.view import Naming, View
from iommud.render.words import (
    NOT_EXPLAINED,
    cause_notes,
    firmware_notes,
    headline,
    kernel_note,
    listing,
    no_iommu_lines,
    page,
    plural,
    summary,
)
from iommud.verdict.findings import Finding, Kind, Reason, Severity
from iommud.verdict.report import Failure, Report, Status

_ROWS = 8
"""Devices that a finding lists unless asked for all."""
_REASONS = {Severity.CRITICAL: 6, Severity.WARNING: 6, Severity.INFO: 2}
"""Reasons that a finding lists unless asked for all."""


def render_text(
    report: Report,
    *,
    style: Style,
    names: Naming | None = None,
    verbose: bool = False,
    show_source: bool = False,
) -> str:
    """The report as text that ends in a newline.

    ``verbose`` adds the evidence; ``show_source`` begins the summary with the name of the source.
    """
    view = View.of(report, names)
    lines = [*_summary(report, style, show_source=show_source)]
    for finding in report.findings:
        lines.append("")
        lines.extend(_finding(view, finding, style, verbose=verbose))
    lines.extend(_section("Accepted findings", _accepted(view), style))
    if verbose:
        lines.extend(_evidence(view, style))
    return "".join(f"{line}\n" for line in lines)


def render_failure_text(failure: Failure, *, style: Style) -> str:
    """One line for a source that could not be read."""
    return f"{style.paint('error', Role.CRITICAL)}: {style.clean(failure.error)}\n"


def _summary(report: Report, style: Style, *, show_source: bool) -> Iterator[str]:
    source = f"{style.clean(report.source)}: " if show_source else ""
    status = style.paint(str(report.status), role_of_status(report.status))
    yield f"{source}{status}: {style.clean(summary(report))}"
    note = kernel_note(report)
    if note is not None:
        yield from style.wrapped(style.clean(note), first="  note: ")
    if report.status is Status.NO_IOMMU:
        for line in no_iommu_lines(report):
            yield from style.wrapped(style.clean(line), first="  ")


def _finding(view: View, finding: Finding, style: Style, *, verbose: bool) -> Iterator[str]:
    severity = style.paint(str(finding.severity), role_of(finding.severity))
    yield f"{severity} {style.paint(str(finding.kind), Role.HEADING)}"
    yield from style.wrapped(headline(view, finding), first="  ")
    yield from _devices(view, finding, style, verbose=verbose)
    shown = len(finding.reasons) if verbose else _REASONS[finding.severity]
    for reason in finding.reasons[:shown]:
        yield from _reason(reason, style, verbose=verbose)
    if len(finding.reasons) > shown:
        yield f"  - and {plural(len(finding.reasons) - shown, 'further reason')} (--verbose)"
    yield from _causes(view, finding, style, verbose=verbose)
    yield "  " + style.paint(f"see {page(finding.kind)}", Role.QUIET)
    if verbose:
        yield "  " + style.paint(f"id {finding.id}", Role.QUIET)


def _causes(view: View, finding: Finding, style: Style, *, verbose: bool) -> Iterator[str]:
    causes = view.report.causes.get(finding.id, ())
    if not causes and finding.calls_for_cause:
        yield f"  unexplained: {NOT_EXPLAINED}"
    for cause in causes:
        yield from style.wrapped(style.clean(f"because {cause.summary}"), first="  ", rest="      ")
        yield from _details(cause, style) if verbose else ()
        yield from style.wrapped(style.clean(f"what to do: {cause.remedy}"), first="    ", rest="      ")


def _details(cause: Cause, style: Style) -> Iterator[str]:
    for line in cause.evidence:
        yield from style.wrapped(style.clean(line), first="    - ")
    for note in cause_notes(cause):
        for line in style.wrapped(note, first="    ", rest="      "):
            yield style.paint(line, Role.QUIET)


def _accepted(view: View) -> Iterator[str]:
    """One paragraph for each: what it is, and why it does not count."""
    for one in view.report.accepted:
        finding = one.finding
        about = headline(view, finding)
        yield f"{finding.kind} ({finding.severity}): {about} Accepted until {one.until.isoformat()}: {one.reason}"


def _reason(reason: Reason, style: Style, *, verbose: bool) -> Iterator[str]:
    yield from style.wrapped(style.clean(reason.text), first="  - ")
    if verbose and reason.reference is not None:
        for line in style.wrapped(reason.reference, first="    "):
            yield style.paint(line, Role.QUIET)


def shown_devices(finding: Finding) -> tuple[Address, ...]:
    """The functions that a reader wants to see beside a finding: of a split, the whole expected group."""
    if finding.kind in (Kind.ALIAS_SPLIT, Kind.ISOLATION_SPLIT):
        return tuple(sorted({*finding.devices, *(one for group in finding.expected for one in group)}))
    return () if finding.kind is Kind.NO_GROUPS else finding.devices


def _devices(view: View, finding: Finding, style: Style, *, verbose: bool) -> Iterator[str]:
    devices = shown_devices(finding)
    shown = devices if verbose or len(devices) <= _ROWS + 1 else devices[:_ROWS]
    labels = {one: view.group_label(one) for one in shown}
    wide = max((len(label) for label in labels.values()), default=0)
    for one, label in labels.items():
        begin = f"    {label:<{wide}}  {one}  "
        tail = style.clean(view.tail(one, numbers=verbose))
        yield (begin + style.cut(style.clean(view.name(one)), used=len(begin), tail=tail)).rstrip()
    if len(shown) < len(devices):
        yield f"    and {len(devices) - len(shown)} more (--verbose)"


def _evidence(view: View, style: Style) -> Iterator[str]:
    report = view.report
    yield from _section("Kernel's groups", _actual(view), style)
    yield from _section(_EXPECTED if report.expected is not None else _FINEST, _expected(view), style)
    yield from _section("Rightly without a group", _without(view), style)
    yield from _section("Firmware problems", firmware_notes(report), style)
    yield from _section("How this was found out", _basis(report), style)


_EXPECTED = "Expected groups"
_FINEST = "Expected groups at the least (unread facts could join more)"


def _section(title: str, rows: Iterable[str], style: Style) -> Iterator[str]:
    lines = [line for row in rows for line in style.wrapped(style.clean(row), first="  ", rest="      ")]
    if lines:
        yield ""
        yield style.paint(title, Role.HEADING)
        yield from lines


def _actual(view: View) -> Iterator[str]:
    members = view.report.actual.members
    wide = max((len(str(number)) for number in members), default=0)
    for number in sorted(members):
        yield f"{number:>{wide}}  {_spaced(sorted(members[number]))}"


def _expected(view: View) -> Iterator[str]:
    """Each expected group; one that the kernel made otherwise with the group numbers its members have."""
    report = view.report
    actual = set(report.actual.members.values())
    for group in report.expected if report.expected is not None else report.finest or ():
        if group in actual:
            yield f"=  {_spaced(sorted(group))}"
        else:
            numbered = (f"{one} ({_number(view, one)})" for one in sorted(group))
            yield f"!  {' '.join(numbered)}"


def _number(view: View, address: Address) -> str:
    number = view.number(address)
    return "none" if number is None else str(number)


def _spaced(addresses: Iterable[Address]) -> str:
    return " ".join(str(one) for one in addresses)


def _without(view: View) -> Iterator[str]:
    for address, excuse in view.report.without:
        yield f"{address}  {excuse.reason} (evidence: {excuse.evidence})"


def _basis(report: Report) -> Iterator[str]:
    complete = "complete" if report.config_complete else "incomplete: some bytes could not be read"
    yield f"IOMMU: {report.usage_reason}"
    if report.iommus:
        yield f"IOMMU units: {listing([f'{name} ({driver})' for name, driver in report.iommus], 16)}"
    yield f"judged by the rules and device tables of kernel {report.kernel}"
    yield f"config space: {plural(report.config_reads, 'dword')} read, {complete}"
