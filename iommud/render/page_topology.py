# SPDX-License-Identifier: GPL-2.0-or-later
"""The page's section on the topology: one drawing on a small machine, parts to open on a large one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from iommud.render.edges import Edges
from iommud.render.fold import WHOLE_LIMIT, Detail, folded
from iommud.render.forest import Row
from iommud.render.markup import MORE, Palette, esc, mark_html
from iommud.render.parts import Part, parts, root_name
from iommud.render.svg import Drawing
from iommud.render.svg_ties import Ties
from iommud.render.view import View
from iommud.render.words import plural
from iommud.verdict.findings import Severity

OPEN_LIMIT = WHOLE_LIMIT
"""Functions of a machine up to which everything is in sight."""
PART = 48
"""Rows of a part, roughly, on a larger machine."""
DRAWN_LIMIT = 2000
"""Rows that are drawn at most, so that a page never grows beyond about two megabytes."""


def topology_section(view: View, trees: Sequence[tuple[Row, ...]], palette: Palette) -> Iterator[str]:
    """The section's markup; nothing without functions."""
    total = sum(len(tree) for tree in trees)
    if not total:
        return
    trees = folded(view, trees, Detail.WHOLE if total <= OPEN_LIMIT else Detail.ALIKE)
    edges = Edges.of(view, (row for tree in trees for row in tree))
    yield '<section aria-labelledby="topology"><h2 id="topology">Topology</h2>'
    yield _LEGEND if total <= OPEN_LIMIT else _LEGEND.replace("</ul>", f"{_MORE}</ul>")
    if total <= OPEN_LIMIT:
        for index, tree in enumerate(trees):
            title = f"Functions below {root_name(tree)}"
            yield _scrolling(_drawing(view, tree, palette, title, edges), f"t{index}")
    else:
        cut = [part for tree in trees for part in parts(view, tree, PART)]
        yield from _large(view, cut, palette, edges)
    yield "</section>"


def _drawing(view: View, rows: Sequence[Row], palette: Palette, title: str, edges: Edges) -> Drawing:
    return Drawing(view, rows, palette, title, links=True, ties=Ties.of(view, rows, edges, palette))


def _large(view: View, cut: list[Part], palette: Palette, edges: Edges) -> Iterator[str]:
    """Each part behind its summary, the first ones, up to some rows, and those with something wrong open.

    Those with something wrong come first when not all can be drawn.
    """
    budget = DRAWN_LIMIT
    drawn: set[int] = set()
    for index in sorted(range(len(cut)), key=lambda one: (cut[one].worst is None, one)):
        if len(cut[index].rows) <= budget:
            budget -= len(cut[index].rows)
            drawn.add(index)
    shown = 0
    for index, part in enumerate(cut):
        shown += len(part.rows)
        is_open = part.worst is not None or shown <= OPEN_LIMIT or index == 0
        drawing = _drawing(view, part.rows, palette, f"Functions of {part.title}", edges) if index in drawn else None
        yield from _behind(view, part, drawing, f"t{index}", is_open=is_open)


def _behind(view: View, part: Part, drawing: Drawing | None, name: str, *, is_open: bool) -> Iterator[str]:
    addresses = [one for row in part.rows for one in row.members]
    groups = len(view.numbers(addresses))
    sign = "" if part.worst is None else f" {mark_html(part.worst, '!')} {part.worst}"
    yield f"<details{' open' if is_open else ''}><summary><b>{esc(part.title)}</b>"
    yield f": {plural(len(addresses), 'function')} in {plural(groups, 'group')}{sign}</summary>"
    if drawing is None:
        yield "<p>Not drawn: the machine is too large for one page. The JSON report holds all groups.</p></details>"
        return
    yield f"{_scrolling(drawing, name)}</details>"


def _scrolling(drawing: Drawing, name: str) -> str:
    """The drawing in a box that scrolls sideways on a narrow screen, by keyboard too."""
    label = f"{esc(drawing.title)}, drawing"
    return f'<div class="drawing" role="region" aria-label="{label}" tabindex="0">{drawing.inline(name)}</div>'


def _key(svg: str, words: str) -> str:
    return (
        f'<li><svg class="icon" width="16" height="16" viewBox="0 0 16 16" aria-hidden="true">{svg}</svg>{words}</li>'
    )


_MORE = _key(MORE, "more like the one before")
_LEGEND = (
    '<ul class="legend">'
    + _key('<rect class="dot gx" x="3" y="3" width="10" height="10" rx="2"/>', "bridge")
    + _key('<circle class="dot gx" cx="8" cy="8" r="5"/>', "function")
    + _key('<circle class="dot ring gx" cx="8" cy="8" r="4.5"/>', "virtual function")
    + f"<li>{mark_html(Severity.CRITICAL, '!')}critical</li>"
    + f"<li>{mark_html(Severity.WARNING, '!')}warning</li>"
    + f"<li>{mark_html(Severity.INFO, 'i')}info</li>"
    + _key('<g class="tie gx"><path d="M15 3H8q-5 0-5 5t5 5H15"/></g>', "tie: must share a group")
    + "<li>Areas are groups of the kernel, their numbers at the left. A dashed frame: not in the expected group. "
    + "A dashed tie: the kernel did not follow it.</li>"
    + "</ul>"
)
