# SPDX-License-Identifier: GPL-2.0-or-later
"""A report as GitHub-flavoured Markdown, to be pasted into a bug report. Foreign strings stay what they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from iommud.address import Address
from iommud.errors import visible
from iommud.render.text import shown_devices
from iommud.render.view import Naming, View
from iommud.render.words import (
    NOT_EXPLAINED,
    cause_bounds,
    cause_page,
    firmware_notes,
    headline,
    iommu_words,
    kernel_note,
    machine_words,
    no_iommu_lines,
    page,
    summary,
)
from iommud.verdict.findings import Finding
from iommud.verdict.report import Failure, Report, Status

_ROWS = 200
"""Rows of one table; a bug report holds 65,536 characters at most."""
_SPECIAL = re.compile(r"[\\`*\[\]|~$!]|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])")
"""What Markdown would take for its own; an underscore inside a word is none."""
_HARMLESS = re.compile(r"[0-9A-Za-z_.:;,/()+ -]+")
_BEYOND_BACKSLASH = re.compile(r"[<>&@#]|(?<=:)//|(?<=www)\.", re.IGNORECASE)
"""Elements of HTML, and what a forge links by itself: mentions, references, addresses."""


def render_markdown(report: Report, *, names: Naming | None = None) -> str:
    """The report as Markdown: summary, findings, groups, and the evidence folded away."""
    view = View.of(report, names)
    parts = [_head(report), *_findings(view), _groups(view), *_evidence(view)]
    return "\n".join(part for part in parts if part)


def render_failure_markdown(failure: Failure) -> str:
    """A section for a source that could not be read."""
    return f"## IOMMU groups: error\n\n{escaped(failure.error)}\n"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _SPECIAL.sub(r"\\\g<0>", _BEYOND_BACKSLASH.sub(_entities, visible(text)))


def _entities(match: re.Match[str]) -> str:
    return "".join(f"&#{ord(character)};" for character in match[0])


def _code(text: str) -> str:
    """A string as code. Backticks hold what cannot contain one; HTML's element holds anything, escaped."""
    return f"`{text}`" if _HARMLESS.fullmatch(text) else f"<code>{escaped(text)}</code>"


def _head(report: Report) -> str:
    lines = [f"## IOMMU groups: {report.status}", "", f"{escaped(summary(report))}.", ""]
    note = kernel_note(report)
    lines += [] if note is None else [f"Note: {escaped(note)}.", ""]
    if report.status is Status.NO_IOMMU:
        lines += [*(escaped(line) for line in no_iommu_lines(report)), ""]
    return "\n".join(lines)


def _findings(view: View) -> Iterator[str]:
    findings = view.report.findings
    if not findings:
        return
    rows = [
        (str(number), str(one.severity), str(one.kind), _group_cells(view, one), _code(one.id))
        for number, one in enumerate(findings[:_ROWS], 1)
    ]
    yield "### Findings\n"
    yield _table(("#", "severity", "kind", "groups", "id"), rows, len(findings))
    for number, finding in enumerate(findings[:_ROWS], 1):
        yield _finding(view, finding, number)


def _group_cells(view: View, finding: Finding) -> str:
    numbers = view.numbers(finding.devices)
    return ", ".join(str(number) for number in numbers[:12]) or "none"


def _finding(view: View, finding: Finding, number: int) -> str:
    lines = [f"#### {number}. {finding.kind} ({finding.severity})", "", escaped(headline(view, finding)), ""]
    lines += [f"- {escaped(reason.text)}{_reference(reason.reference)}" for reason in finding.reasons]
    lines += _causes(view, finding)
    lines += ["", _devices(view, shown_devices(finding)), f"See `{page(finding.kind)}`.", ""]
    return "\n".join(lines)


def _reference(reference: str | None) -> str:
    return "" if reference is None else f" ({_code(reference)})"


def _causes(view: View, finding: Finding) -> Iterator[str]:
    """A paragraph, the evidence and the remedy of each cause, or that the finding is not explained."""
    causes = view.report.causes.get(finding.id, ())
    if not causes and finding.calls_for_cause:
        yield f"\n**Unexplained:** {NOT_EXPLAINED}."
    for cause in causes:
        yield f"\n**Because** {escaped(cause.summary)}.\n"
        yield from (f"- {escaped(line)}" for line in cause.evidence)
        yield f"\n**What to do:** {escaped(cause.remedy)}."
        yield f"Cause {_code(cause.id)} ({escaped(cause_bounds(cause))}); see `{cause_page(cause.id)}`."


def _devices(view: View, devices: Sequence[Address]) -> str:
    rows = [(view.group_label(one), _code(str(one)), escaped(view.title(one))) for one in devices[:_ROWS]]
    return _table(("group", "function", "name"), rows, len(devices)) if rows else ""


def _groups(view: View) -> str:
    members = view.report.actual.members
    rows = [
        (str(number), " ".join(_code(str(one)) for one in sorted(members[number])), _matches(view, members[number]))
        for number in sorted(members)[:_ROWS]
    ]
    if not rows:
        return ""
    return "### Groups\n\n" + _table(("group", "functions", "as expected"), rows, len(members))


def _matches(view: View, group: frozenset[Address]) -> str:
    """Whether the model arrives at the same group; empty where it does not say."""
    expected = {view.expected.get(one) for one in group}
    if view.report.expected is None:
        return ""
    return "yes" if expected == {group} else "no"


def _evidence(view: View) -> Iterator[str]:
    """Folded away: what was expected, who rightly has no group, and how it was found out."""
    report = view.report
    expected = report.expected if report.expected is not None else report.finest or ()
    rows = [(" ".join(_code(str(one)) for one in sorted(group)),) for group in expected[:_ROWS]]
    yield "<details><summary>Evidence</summary>\n"
    if rows:
        yield _table(
            ("expected groups" if report.expected is not None else "at the least expected",), rows, len(expected)
        )
    if report.without:
        without = [(_code(str(one)), escaped(why.reason), str(why.evidence)) for one, why in report.without[:_ROWS]]
        yield _table(("rightly without a group", "reason", "evidence"), without, len(report.without))
    yield "\n".join(f"- {line}" for line in _basis(report)) + "\n"
    yield "</details>\n"


def _basis(report: Report) -> Iterator[str]:
    yield f"machine: {escaped(machine_words(report))}"
    yield f"IOMMU: {escaped(report.usage_reason)}"
    if report.iommus:
        listed = ", ".join(f"{_code(name)} ({escaped(driver)})" for name, driver in report.iommus[:_ROWS])
        yield f"{escaped(iommu_words(report))}: {listed}"
    yield f"judged by the rules and device tables of kernel {report.kernel}"
    complete = "complete" if report.config_complete else "incomplete"
    yield f"config space: {report.config_reads} dwords read, {complete}"
    for note in firmware_notes(report):
        yield f"firmware: {escaped(note)}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], total: int) -> str:
    """A table whose cells are escaped already; rows that were left out are counted below it."""
    kept = [*rows]
    lines = [head, ["---"] * len(head), *kept]
    text = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    return text if total <= len(kept) else f"{text}\nand {total - len(kept)} more.\n"
