# SPDX-License-Identifier: GPL-2.0-or-later
"""What differs between two states, as text, Markdown and JSON: first what may explain it, then the list."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from iommud.address import Address
from iommud.model.groups import Group
from iommud.render.markdown import escaped
from iommud.render.style import Role, Style
from iommud.render.words import plural
from iommud.verdict.circumstances import Circumstance
from iommud.verdict.difference import Difference, GroupChange
from iommud.verdict.state import KnownFinding, State

SCHEMA_VERSION = 1

_ROWS = 40
"""Rows of one section, unless all are asked for."""
_MEMBERS = 12
"""Addresses in one row, unless all are asked for."""


@dataclass(frozen=True, slots=True)
class _Section:
    title: str
    rows: Sequence[str]


def render_difference(difference: Difference, *, style: Style, verbose: bool = False) -> str:
    """Text that ends in a newline; ``verbose`` leaves nothing out."""
    lines = [_headline(difference, lambda text: style.paint(text, _role(difference)))]
    lines += [line for row in _states(difference) for line in style.wrapped(style.clean(row), first="  ")]
    for section in _sections(difference, verbose=verbose):
        lines += ["", style.paint(section.title, Role.HEADING)]
        for row in section.rows:
            lines += style.wrapped(style.clean(row), first="  ", rest="      ")
    return "".join(f"{line}\n" for line in lines)


def render_difference_markdown(difference: Difference, *, verbose: bool = False) -> str:
    """GitHub-flavoured Markdown; foreign strings stay what they are."""
    lines = [f"## IOMMU groups: {_headline(difference, str)}", ""]
    lines += [f"- {escaped(row)}" for row in _states(difference)]
    for section in _sections(difference, verbose=verbose):
        lines += ["", f"### {section.title}", "", *(f"- {escaped(row)}" for row in section.rows)]
    return "".join(f"{line}\n" for line in lines)


def render_difference_json(difference: Difference) -> str:
    """One line of JSON with its newline; docs/diff.md describes it."""
    return json.dumps(difference_document(difference), ensure_ascii=True, separators=(",", ":")) + "\n"


def difference_document(difference: Difference) -> dict[str, Any]:
    """The difference as values that JSON knows."""
    return {
        "schema_version": SCHEMA_VERSION,
        "same": difference.same,
        "before": _state_data(difference.before),
        "after": _state_data(difference.after),
        "circumstances": [_circumstance_data(one) for one in difference.circumstances],
        "groups": [_group_data(one) for one in difference.groups],
        "functions": {
            "lost": _names(difference.lost),
            "gained": _names(difference.gained),
            "gone": _names(difference.gone),
            "appeared": _names(difference.appeared),
        },
        "findings": {
            "appeared": [_finding_data(one) for one in difference.findings_appeared],
            "cleared": [_finding_data(one) for one in difference.findings_cleared],
        },
        "not_compared": list(difference.not_compared),
    }


def _state_data(state: State) -> dict[str, Any]:
    return {"source": state.source, "kernel": state.kernel, "status": state.status}


def _circumstance_data(one: Circumstance) -> dict[str, Any]:
    return {
        "subject": one.subject.value,
        "text": one.text,
        "before": one.before,
        "after": one.after,
        "devices": _names(one.devices),
        "bears": one.bears,
    }


def _group_data(one: GroupChange) -> dict[str, Any]:
    return {
        "change": one.change.value,
        "before": [_names(sorted(group)) for group in one.before],
        "after": [_names(sorted(group)) for group in one.after],
        "as_expected": one.as_expected,
    }


def _finding_data(one: KnownFinding) -> dict[str, Any]:
    devices = _names(one.devices)
    return {"id": one.id, "kind": one.kind, "severity": one.severity, "devices": devices, "causes": list(one.causes)}


def _names(addresses: Iterable[Address]) -> list[str]:
    return [str(one) for one in addresses]


def _role(difference: Difference) -> Role:
    return Role.GOOD if difference.same else Role.WARNING


def _headline(difference: Difference, painted: Callable[[str], str]) -> str:
    if difference.same:
        after = difference.after
        counts = f"{plural(len(after.groups), 'group')}, {plural(len(after.functions), 'function')}"
        return f"{painted('same')}: {counts}"
    counted = [
        (difference.groups, "change", "of groups"),
        (difference.lost, "function", "lost from groups"),
        (difference.gone, "function", "gone"),
        (difference.appeared, "function", "new"),
        (difference.findings_appeared, "finding", "new"),
        (difference.findings_cleared, "finding", "cleared"),
    ]
    words = [f"{plural(len(found), noun)} {what}" for found, noun, what in counted if found]
    return f"{painted('different')}: {', '.join(words)}"


def _states(difference: Difference) -> Iterator[str]:
    for word, state in (("before", difference.before), ("after", difference.after)):
        kernel = "kernel unknown" if state.kernel is None else f"kernel {state.kernel}"
        yield f"{word}: {state.source} ({kernel}, {state.status})"


def _sections(difference: Difference, *, verbose: bool) -> Iterator[_Section]:
    """The explanation first, then the list, then what explains nothing; none without rows."""
    bearing = [one.text for one in difference.circumstances if one.bears]
    others = [one.text for one in difference.circumstances if not one.bears]
    found = (
        ("What may explain it", [*_causes(difference), *bearing]),
        ("Groups", [_group_row(one, verbose=verbose) for one in difference.groups]),
        ("Functions", list(_function_rows(difference, verbose=verbose))),
        ("Findings", list(_finding_rows(difference, verbose=verbose))),
        ("What else differs", others),
        ("Not compared", difference.not_compared),
    )
    for title, rows in found:
        if rows:
            yield _Section(title, _shortened(rows, verbose=verbose))


def _shortened(rows: Sequence[str], *, verbose: bool) -> Sequence[str]:
    if verbose or len(rows) <= _ROWS + 1:
        return rows
    return [*rows[:_ROWS], f"and {len(rows) - _ROWS} more (--verbose)"]


def _causes(difference: Difference) -> Iterator[str]:
    """What the check of either state found out, each cause once."""
    new = dict.fromkeys(cause for one in difference.findings_appeared for cause in one.causes)
    old = dict.fromkeys(cause for one in difference.findings_cleared for cause in one.causes)
    yield from (f"now: {cause}" for cause in new if cause not in old)
    yield from (f"before: {cause}" for cause in old if cause not in new)
    yield from (f"in both: {cause}" for cause in new if cause in old)


def _group_row(one: GroupChange, *, verbose: bool) -> str:
    expected = {True: " (as expected)", False: " (not as expected)", None: ""}[one.as_expected]
    parts = [partition_words(groups, verbose=verbose) for groups in (one.before, one.after)]
    return f"{one.change}: {parts[0]} -> {parts[1]}{expected}"


def partition_words(groups: Sequence[Group], *, verbose: bool) -> str:
    """Groups beside each other in one row: members with spaces between them, groups with bars."""
    kept = groups if verbose else groups[:_MEMBERS]
    more = [f"{len(groups) - len(kept)} more groups"] if len(kept) < len(groups) else []
    return " | ".join([*(_listed(sorted(group), verbose=verbose) for group in kept), *more]) or "none"


def _function_rows(difference: Difference, *, verbose: bool) -> Iterator[str]:
    found = (
        ("without the group they had", difference.lost),
        ("have a group, and had none", difference.gained),
        ("gone", difference.gone),
        ("new", difference.appeared),
    )
    for words, addresses in found:
        if addresses:
            yield f"{words}: {_listed(addresses, verbose=verbose)}"


def _finding_rows(difference: Difference, *, verbose: bool) -> Iterator[str]:
    for word, findings in (("new", difference.findings_appeared), ("cleared", difference.findings_cleared)):
        for one in findings:
            about = _listed(one.devices, verbose=verbose) or "the machine"
            yield f"{word}: {one.severity} {one.kind}: {about}"


def _listed(addresses: Sequence[Address], *, verbose: bool) -> str:
    kept = addresses if verbose or len(addresses) <= _MEMBERS + 1 else addresses[:_MEMBERS]
    more = f" and {len(addresses) - len(kept)} more" if len(kept) < len(addresses) else ""
    return " ".join(map(str, kept)) + more
