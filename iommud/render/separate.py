# SPDX-License-Identifier: GPL-2.0-or-later
"""What it takes to get two functions apart, as data for JSON and as text written from the same data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from iommud.render.style import Role, Style
from iommud.render.words import listing
from iommud.whatif.changes import Move
from iommud.whatif.separate import LARGEST, Answer, Separation, Verdict
from iommud.whatif.steps import steps

Data = dict[str, Any]
"""A JSON object."""

_SENTENCES = {
    Verdict.APART: "They are in different groups already.",
    Verdict.MERGED: "They could be in different groups: the kernel has joined them without need.",
    Verdict.POSSIBLE: "They can be separated.",
    Verdict.IMPOSSIBLE: f"Nothing that iommud knows separates them, up to {LARGEST} changes together.",
    Verdict.UNDECIDED: "It cannot be told.",
    Verdict.NO_GROUP: "There is nothing to separate.",
}
_ROLES = {
    Verdict.APART: Role.GOOD,
    Verdict.POSSIBLE: Role.GOOD,
    Verdict.IMPOSSIBLE: Role.CRITICAL,
}
_ANSWERS = 12
"""Answers that the text lists."""


def separation_data(found: Separation, cmdline: str | None) -> Data:
    """The answer as a JSON object; ``cmdline`` is the kernel's command line as it is. docs/what-if.md describes it."""
    return {
        "computed": True,
        "verdict": found.verdict.value,
        "because": list(found.because),
        "notes": list(found.notes),
        "answers": [_answer(one, cmdline) for one in found.answers],
        "tried": found.tried,
        "complete": found.complete,
    }


def _answer(one: Answer, cmdline: str | None) -> Data:
    return {
        "kind": one.kind.value,
        "isolates": one.real,
        "hazard": one.hazard,
        "changes": [str(change) for change in one.changes],
        "steps": list(steps(one.changes, cmdline)),
    }


def render_separation(found: Separation, cmdline: str | None, *, style: Style) -> str:
    """Text that ends in a newline."""
    head = f"{found.one} and {found.other}: "
    sentence = style.paint(_SENTENCES[found.verdict], _ROLES.get(found.verdict, Role.WARNING))
    lines = [f"{head}{sentence}"]
    lines += _rows(_BECAUSE.get(found.verdict, "What joins them"), found.because, style)
    lines += _rows("Note", [*found.notes, *_bound(found)], style)
    real = [one for one in found.answers if one.real]
    lines += _answers("Any of these separates them (computed, not tried)", real, cmdline, style)
    others = [one for one in found.answers if not one.real]
    lines += _answers("These give them different groups without isolating them", others, cmdline, style)
    return "".join(f"{line}\n" for line in lines)


_BECAUSE = {
    Verdict.APART: "Yet requests can pass",
    Verdict.MERGED: "Why",
    Verdict.UNDECIDED: "What is missing or joins them",
    Verdict.NO_GROUP: "Why",
}


def _bound(found: Separation) -> Iterator[str]:
    if not found.complete:
        yield f"not every set of changes was computed, only {found.tried}: there may be others"


def _rows(title: str, rows: list[str] | tuple[str, ...], style: Style) -> list[str]:
    if not rows:
        return []
    wrapped = (line for row in rows for line in style.wrapped(style.clean(row), first="  - ", rest="    "))
    return ["", style.paint(title, Role.HEADING), *wrapped]


def _answers(title: str, answers: list[Answer], cmdline: str | None, style: Style) -> list[str]:
    if not answers:
        return []
    lines = ["", style.paint(title, Role.HEADING)]
    gathered = _gathered(answers)
    for number, alike in enumerate(gathered[:_ANSWERS], 1):
        lines += _one_answer(number, alike, cmdline, style)
    if len(gathered) > _ANSWERS:
        lines.append(f"  and {len(gathered) - _ANSWERS} more (--format json)")
    return lines


def _gathered(answers: list[Answer]) -> list[list[Answer]]:
    """Answers that differ only in the port that one device is moved to."""
    found: dict[object, list[Answer]] = {}
    for one in answers:
        key = (one.kind, one.hazard, *(each.address if isinstance(each, Move) else each for each in one.changes))
        found.setdefault(key, []).append(one)
    return list(found.values())


def _one_answer(number: int, alike: list[Answer], cmdline: str | None, style: Style) -> Iterator[str]:
    first = alike[0]
    rows = list(steps(first.changes, cmdline))
    if len(alike) > 1:
        ports = [str(one.changes[-1].slot) for one in alike[1:] if isinstance(one.changes[-1], Move)]
        rows[-1] += f" (or {listing(ports)})"
    yield f"  {number}. {first.kind.value}:"
    for row in rows:
        yield from style.wrapped(style.clean(row), first="     ", rest="       ")
    if first.hazard is not None:
        yield from style.wrapped(style.clean(f"not isolated: {first.hazard}"), first="     ", rest="       ")
