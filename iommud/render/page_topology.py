# SPDX-License-Identifier: GPL-2.0-or-later
"""The page's section on the topology: one drawing on a small machine, parts to open on a large one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from iommud.render.forest import Row, split
from iommud.render.markup import Palette, esc, mark_html
from iommud.render.svg import Drawing
from iommud.render.view import View
from iommud.render.words import plural
from iommud.verdict.findings import Severity

OPEN_LIMIT = 96
"""Functions of a machine up to which everything is in sight."""
PART = 48
"""Functions of a part, roughly, on a larger machine."""
DRAWN_LIMIT = 2000
"""Functions that are drawn at most, so that a page never grows beyond about two megabytes."""


@dataclass(frozen=True, slots=True)
class _Part:
    title: str
    rows: tuple[Row, ...]
    worst: Severity | None
    """The worst finding about a function in it, remarks left out."""


def topology_section(view: View, trees: Sequence[tuple[Row, ...]], palette: Palette) -> Iterator[str]:
    """The section's markup; nothing without functions."""
    total = sum(len(tree) for tree in trees)
    if not total:
        return
    yield '<section aria-labelledby="topology"><h2 id="topology">Topology</h2>'
    yield _LEGEND
    if total <= OPEN_LIMIT:
        for index, tree in enumerate(trees):
            title = f"Functions below {root_name(tree)}"
            yield _scrolling(Drawing(view, tree, palette, title, links=True), f"t{index}")
    else:
        parts = [part for tree in trees for part in _parts(view, tree)]
        yield from _large(view, parts, palette)
    yield "</section>"


def root_name(tree: Sequence[Row]) -> str:
    """The directory of the root bus in sysfs, ``pci0000:00``."""
    domain, bus = tree[0].node[:2]
    return f"pci{domain:04x}:{bus:02x}"


def _parts(view: View, tree: tuple[Row, ...]) -> Iterator[_Part]:
    cut = (tree,) if len(tree) <= PART + 1 else split(tree, PART)
    for rows in cut:
        addresses = [row.address for row in rows if row.address is not None]
        found = (severity for one in addresses if (severity := view.severity(one)) is not None)
        worst = min((one for one in found if one is not Severity.INFO), key=lambda one: one.rank, default=None)
        span = f", {min(addresses)} to {max(addresses)}" if len(cut) > 1 and addresses else ""
        yield _Part(root_name(tree) + span, rows, worst)


def _large(view: View, parts: list[_Part], palette: Palette) -> Iterator[str]:
    """Each part behind its summary, the first ones, up to some rows, and those with something wrong open.

    Those with something wrong come first when not all can be drawn.
    """
    budget = DRAWN_LIMIT
    drawn: set[int] = set()
    for index in sorted(range(len(parts)), key=lambda one: (parts[one].worst is None, one)):
        if len(parts[index].rows) <= budget:
            budget -= len(parts[index].rows)
            drawn.add(index)
    shown = 0
    for index, part in enumerate(parts):
        shown += len(part.rows)
        is_open = part.worst is not None or shown <= OPEN_LIMIT or index == 0
        yield from _folded(view, part, palette, f"t{index}" if index in drawn else None, is_open=is_open)


def _folded(view: View, part: _Part, palette: Palette, name: str | None, *, is_open: bool) -> Iterator[str]:
    addresses = [row.address for row in part.rows if row.address is not None]
    groups = len(view.numbers(addresses))
    sign = "" if part.worst is None else f" {mark_html(part.worst, '!')} {part.worst}"
    yield f"<details{' open' if is_open else ''}><summary><b>{esc(part.title)}</b>"
    yield f": {plural(len(addresses), 'function')} in {plural(groups, 'group')}{sign}</summary>"
    if name is None:
        yield "<p>Not drawn: the machine is too large for one page. The JSON report holds all groups.</p></details>"
        return
    drawing = Drawing(view, part.rows, palette, f"Functions of {part.title}", links=True)
    yield f"{_scrolling(drawing, name)}</details>"


def _scrolling(drawing: Drawing, name: str) -> str:
    """The drawing in a box that scrolls sideways on a narrow screen, by keyboard too."""
    label = f"{esc(drawing.title)}, drawing"
    return f'<div class="drawing" role="region" aria-label="{label}" tabindex="0">{drawing.inline(name)}</div>'


def _key(svg: str, words: str) -> str:
    return (
        f'<li><svg class="icon" width="16" height="16" viewBox="0 0 16 16" aria-hidden="true">{svg}</svg>{words}</li>'
    )


_LEGEND = (
    '<ul class="legend">'
    + _key('<rect class="dot gx" x="3" y="3" width="10" height="10" rx="2"/>', "bridge")
    + _key('<circle class="dot gx" cx="8" cy="8" r="5"/>', "function")
    + _key('<circle class="dot ring gx" cx="8" cy="8" r="4.5"/>', "virtual function")
    + f"<li>{mark_html(Severity.CRITICAL, '!')}critical</li>"
    + f"<li>{mark_html(Severity.WARNING, '!')}warning</li>"
    + f"<li>{mark_html(Severity.INFO, 'i')}info</li>"
    + "<li>Areas are groups of the kernel, their numbers at the left. A dashed frame: not in the expected group.</li>"
    + "</ul>"
)
