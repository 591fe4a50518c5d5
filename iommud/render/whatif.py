# SPDX-License-Identifier: GPL-2.0-or-later
"""What changes would do, as data for JSON, and as text and Markdown written from the same values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from iommud.model.groups import Group
from iommud.render.difference import partition_words
from iommud.render.markdown import escaped
from iommud.render.style import Role, Style
from iommud.render.words import listing, plural
from iommud.verdict.difference import GroupChange
from iommud.verdict.state import KnownFinding
from iommud.whatif.comparison import Freedom, Shift, Standing, Step, WhatIf

SCHEMA_VERSION = 1
Data = dict[str, Any]
"""A JSON object."""

COMPUTED = "computed: what the model says of this machine with other facts; nothing was tried or changed"
_ROWS = 40
"""Rows of one section, unless all are asked for."""


def what_if_data(found: WhatIf) -> Data:
    """The answer as a JSON object; docs/what-if.md describes it."""
    before = found.before
    return {
        "schema_version": SCHEMA_VERSION,
        "computed": True,
        "source": found.report.source,
        "kernel": found.report.kernel.text,
        "decided": found.decided,
        "before": {
            "groups": _partition(before.groups),
            "coarsest": None if before.coarsest is None else _partition(before.coarsest),
            "kernel_has_others": [_change(one) for one in found.deviations],
        },
        "together": _step(found.together),
        "alone": [_step(one) for one in found.alone],
    }


def _step(step: Step) -> Data:
    prediction = step.prediction
    return {
        "changes": [str(one) for one in step.changes],
        "notes": list(prediction.machine.notes),
        "groups": _partition(prediction.groups),
        "coarsest": None if prediction.coarsest is None else _partition(prediction.coarsest),
        "changed": [_change(one) for one in step.difference.groups],
        "allows": [_shift(one) for one in step.shifts if one.allows is True],
        "forbids": [_shift(one) for one in step.shifts if one.allows is False],
        "other": [_shift(one) for one in step.shifts if one.allows is None],
        "findings": {
            "appeared": [_finding(one) for one in step.difference.findings_appeared],
            "cleared": [_finding(one) for one in step.difference.findings_cleared],
        },
    }


def _change(one: GroupChange) -> Data:
    return {"change": one.change.value, "before": _partition(one.before), "after": _partition(one.after)}


def _partition(groups: Iterable[Group]) -> list[list[str]]:
    return [[str(one) for one in sorted(group)] for group in groups]


def _shift(one: Shift) -> Data:
    return {
        "function": str(one.address),
        "origin": str(one.origin),
        "before": _standing(one.before),
        "after": _standing(one.after),
    }


def _standing(one: Standing) -> Data:
    return {"freedom": one.freedom.value, "with": list(one.companions), "why": one.why}


def _finding(one: KnownFinding) -> Data:
    return {"id": one.id, "kind": one.kind, "severity": one.severity, "devices": [str(each) for each in one.devices]}


def render_what_if_json(found: WhatIf) -> str:
    """One line of JSON with its newline."""
    return json.dumps(what_if_data(found), separators=(",", ":")) + "\n"


@dataclass(frozen=True, slots=True)
class _Section:
    title: str
    rows: Sequence[str]


def render_what_if(found: WhatIf, *, style: Style, verbose: bool = False) -> str:
    """Text that ends in a newline; ``verbose`` leaves nothing out."""
    lines = list(style.wrapped(COMPUTED))
    lines[0] = style.paint(lines[0][:8], Role.INFO) + lines[0][8:]
    lines += [line for row in _head(found) for line in style.wrapped(style.clean(row), first="  ", rest="         ")]
    for section in _sections(found, verbose=verbose):
        lines += ["", style.paint(section.title, Role.HEADING)]
        lines += [line for row in section.rows for line in style.wrapped(style.clean(row), first="  ", rest="      ")]
    return "".join(f"{line}\n" for line in lines)


def render_what_if_markdown(found: WhatIf, *, verbose: bool = False) -> str:
    """GitHub-flavoured Markdown; foreign strings stay what they are."""
    lines = ["## IOMMU groups, computed", "", escaped(COMPUTED), "", *(f"- {escaped(row)}" for row in _head(found))]
    for section in _sections(found, verbose=verbose):
        lines += ["", f"### {section.title}", "", *(f"- {escaped(row)}" for row in section.rows)]
    return "".join(f"{line}\n" for line in lines)


def _head(found: WhatIf) -> Iterator[str]:
    kernel = found.report.kernel.text or "unknown"
    yield f"machine: {found.report.source} (kernel {kernel})"
    yield f"if: {'; '.join(str(one) for one in found.together.changes)}"


def _sections(found: WhatIf, *, verbose: bool) -> Iterator[_Section]:
    step = found.together
    sections = (
        ("Taken for granted", step.prediction.machine.notes),
        (
            f"Groups: {_counted(found)}",
            [change_row(one, verbose=verbose) for one in step.difference.groups] or ["none changes"],
        ),
        ("Newly possible", [shift_row(one) for one in step.shifts if one.allows is True]),
        ("Possible no more", [shift_row(one) for one in step.shifts if one.allows is False]),
        ("Otherwise different", [shift_row(one) for one in step.shifts if one.allows is None]),
        ("Findings that would appear", [_finding_row(one) for one in step.difference.findings_appeared]),
        ("Findings that would go", [_finding_row(one) for one in step.difference.findings_cleared]),
        ("Cannot be decided", list(_open_rows(found, verbose=verbose))),
        ("Each change alone", list(_alone_rows(found))),
        (
            "The kernel's groups are others than the model expects of the machine as it is",
            [change_row(one, verbose=verbose) for one in found.deviations],
        ),
    )
    for title, rows in sections:
        if rows:
            yield _Section(title, _shortened(rows, verbose=verbose))


def _counted(found: WhatIf) -> str:
    changed = found.together.difference.groups
    stay = len(set(found.before.groups) & set(found.together.prediction.groups))
    return f"{plural(len(changed), 'change')}, {plural(stay, 'group')} as before"


def _shortened(rows: Sequence[str], *, verbose: bool) -> Sequence[str]:
    if verbose or len(rows) <= _ROWS + 1:
        return rows
    return [*rows[:_ROWS], f"and {len(rows) - _ROWS} more (--verbose)"]


def change_row(one: GroupChange, *, verbose: bool) -> str:
    """One change of groups in a row."""
    sides = [partition_words(groups, verbose=verbose) for groups in (one.before, one.after)]
    return f"{one.change.value}: {sides[0]} -> {sides[1]}"


def shift_row(one: Shift) -> str:
    """What becomes of the freedom of one function."""
    name = str(one.address) if one.origin == one.address else f"{one.address} (now {one.origin})"
    return f"{name}: {_words(one.after)}; before {_words(one.before)}"


def _words(one: Standing) -> str:
    match one.freedom:
        case Freedom.NONE:
            return "no group"
        case Freedom.ALONE:
            return "safe alone"
        case Freedom.TOGETHER:
            return f"safe only with {listing(one.companions)}"
        case Freedom.REFUSED:
            return f"handed to nobody ({one.why})"
        case Freedom.UNSAFE:
            return f"not safe ({one.why})"
        case Freedom.UNKNOWN:
            return "not known"


def _finding_row(one: KnownFinding) -> str:
    return f"{one.severity} {one.kind}: {listing(one.devices) or 'the machine'}"


def _open_rows(found: WhatIf, *, verbose: bool) -> Iterator[str]:
    for when, prediction in (("as it is", found.before), ("with the changes", found.together.prediction)):
        open_ = [one for one in prediction.coarsest or () if one not in set(prediction.groups)]
        for group in open_:
            finest = [one for one in prediction.groups if one <= group]
            yield (
                f"{when}, facts are missing: between {partition_words(finest, verbose=verbose)} "
                f"and {partition_words([group], verbose=verbose)}"
            )


def _alone_rows(found: WhatIf) -> Iterator[str]:
    told = {one.changes[0] for one in found.alone}
    for step in found.alone:
        freer, tied = (sum(one.allows is way for one in step.shifts) for way in (True, False))
        counts = [
            plural(len(step.difference.groups), "change") + " of groups" if step.difference.groups else "",
            f"{plural(freer, 'function')} freer" if freer else "",
            f"{plural(tied, 'function')} less free" if tied else "",
        ]
        yield f"{step.changes[0]}: {', '.join(one for one in counts if one) or 'nothing'}"
    if found.alone or len(found.together.changes) > 1:
        yield from (f"{one}: not possible alone" for one in found.together.changes if one not in told)
