# SPDX-License-Identifier: GPL-2.0-or-later
"""The drawing as a document of its own: a headline, a legend, and the parts of the topology in columns."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from iommud.render.fold import Detail
from iommud.render.markup import MORE, esc, mark_svg
from iommud.render.parts import Part, parts
from iommud.render.scene import Scene
from iommud.render.stylesheet import SVG_STYLE
from iommud.render.svg import Drawing
from iommud.render.svg_ties import Ties
from iommud.render.view import Naming
from iommud.render.words import headline, plural, status_words, summary
from iommud.verdict.findings import Severity
from iommud.verdict.report import Report

PART = 48
"""Rows of a part, roughly."""
_SHAPE = 1.5
"""Width to height that the columns come to, roughly."""
_MARGIN = 20
_GAP = 32
"""Between columns."""
_SPACE = 16
"""Between parts."""
_TITLE = 24
"""Height of a part's title, and of a line at the top."""
_NARROWEST = 640
"""Width that headline and legend have at the least."""
_WIDEST = 840
"""Width of a column: longer names are cut."""
_CHARACTER = 6.7


@dataclass(frozen=True, slots=True)
class _Panel:
    """A part with its drawing; a part that is a whole tree needs no title, it begins with its root bus."""

    title: str
    drawing: Drawing

    @property
    def height(self) -> int:
        return self.drawing.height + (_TITLE if self.title else 0) + _SPACE


def render_svg(report: Report, *, names: Naming | None = None, detail: Detail | None = None) -> str:
    """The whole topology as a document that follows the reader's colour scheme.

    ``detail`` None: what suits the number of functions. A machine without functions gives a headline only.
    """
    scene = Scene.of(report, names, detail)
    panels = [_panel(scene, part) for tree in scene.trees for part in parts(scene.view, tree, PART)]
    columns = _columns(panels)
    width = max((panel.drawing.widest() for panel in panels), default=0)
    whole = max(width * len(columns) + _GAP * (len(columns) - 1), _NARROWEST)
    width = whole if len(columns) < 2 else width
    head = list(_head(scene, whole))
    top = _MARGIN + _TITLE * len(head) + _SPACE
    tall = top + max((sum(panel.height for panel in column) for column in columns), default=0) + _MARGIN
    drawn = (_column(column, _MARGIN + at * (width + _GAP), top, width) for at, column in enumerate(columns))
    lines = (f'<g transform="translate({_MARGIN} {_MARGIN + at * _TITLE})">{one}</g>' for at, one in enumerate(head))
    wide = whole + 2 * _MARGIN
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="tree" width="{wide}" height="{tall}" '
        f'viewBox="0 0 {wide} {tall}"><title>{esc(_name(report))}</title><style>{SVG_STYLE}</style>'
        f'<rect class="paper" width="100%" height="100%"/>{"".join(lines)}{"".join(drawn)}</svg>\n'
    )


def _name(report: Report) -> str:
    return f"PCI functions and IOMMU groups: {report.status}"


def _panel(scene: Scene, part: Part) -> _Panel:
    ties = Ties.of(scene.view, part.rows, scene.edges, scene.palette)
    title = part.title if part.rows[0].depth else ""
    return _Panel(title, Drawing(scene.view, part.rows, scene.palette, part.title, ties=ties, limit=_WIDEST))


def _columns(panels: Sequence[_Panel]) -> list[list[_Panel]]:
    """The parts in their order, in as many columns as give the wanted shape, none higher than it has to be."""
    height = sum(panel.height for panel in panels)
    width = max((panel.drawing.widest() for panel in panels), default=1) + _GAP
    wanted = max(1, min(round(math.sqrt(_SHAPE * height / width)), len(panels)))
    low, high = max((panel.height for panel in panels), default=0), height
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(_filled(panels, middle)) <= wanted else (middle + 1, high)
    return _filled(panels, low)


def _filled(panels: Sequence[_Panel], height: int) -> list[list[_Panel]]:
    """The parts in columns of which none is higher than this, each as full as it can be."""
    columns: list[list[_Panel]] = []
    left = 0
    for panel in panels:
        if panel.height > left:
            columns.append([])
            left = height
        columns[-1].append(panel)
        left -= panel.height
    return columns


def _column(panels: Sequence[_Panel], left: int, top: int, width: int) -> str:
    drawn: list[str] = []
    for panel in panels:
        below = top
        if panel.title:
            drawn.append(f'<text class="root" x="{left + 14}" y="{top + 15}">{esc(panel.title)}</text>')
            below += _TITLE
        size = f'x="{left}" y="{below}" width="{width}" height="{panel.drawing.height}"'
        drawn.append(f"<svg {size}>{panel.drawing.body()}</svg>")
        top += panel.height
    return "".join(drawn)


def _head(scene: Scene, width: int) -> Iterator[str]:
    """Lines at the top: verdict, what was looked at, findings about the machine as a whole, legend."""
    report = scene.view.report
    letters = int(width / _CHARACTER)
    yield f'<text class="headline" y="15">{esc(status_words(report))}</text>'
    yield from _wrapped(f"{report.source}: {summary(report)}", letters)
    for finding in report.findings:
        if finding.subject == "machine" or not finding.devices:
            about = textwrap.wrap(esc(f"{finding.kind}: {headline(scene.view, finding)}"), letters - 4)
            yield mark_svg(finding.severity, "!", (8, 12)) + f'<text x="22" y="15">{about[0]}</text>'
    if scene.counted:
        drawn = f"{plural(scene.counted, 'function')} like one that is drawn before them are counted only."
        yield from _wrapped(drawn, letters)
    yield from _legend(width, counts=scene.counted > 0)


def _wrapped(text: str, letters: int) -> Iterator[str]:
    for line in textwrap.wrap(text, letters):
        yield f'<text class="name" y="15">{esc(line)}</text>'


def _legend(width: int, *, counts: bool) -> Iterator[str]:
    line, left = "", 0.0
    for picture, words in _KEYS if counts else (key for key in _KEYS if key[0] != MORE):
        needed = 24 + len(words) * _CHARACTER + 16
        if line and left + needed > width:
            yield line
            line, left = "", 0.0
        at = f'<g transform="translate({left:g} 3)">{picture}</g>'
        line += f'{at}<text class="name" x="{left + 22:g}" y="15">{words}</text>'
        left += round(needed)
    yield line


_GROUP = (
    '<g class="g0"><rect class="area" y="1" width="16" height="14" rx="3"/>'
    '<rect class="bar" y="1" width="4" height="14"/></g>'
)
_KEYS = (
    ('<rect class="dot gx" x="3" y="3" width="10" height="10" rx="2"/>', "bridge"),
    ('<circle class="dot gx" cx="8" cy="8" r="4.5"/>', "function"),
    ('<circle class="dot ring gx" cx="8" cy="8" r="4"/>', "virtual function"),
    (MORE, "more like the one before"),
    (mark_svg(Severity.CRITICAL, "!", (8, 8)), "critical"),
    (mark_svg(Severity.WARNING, "!", (8, 8)), "warning"),
    (mark_svg(Severity.INFO, "i", (8, 8)), "info"),
    (_GROUP, "group"),
    ('<g class="tie g0"><path d="M15 3H8q-5 0-5 5t5 5H15"/></g>', "tie: one group is needed"),
    ('<g class="tie broken"><path/><path d="M15 3H8q-5 0-5 5t5 5H15"/></g>', "tie that the kernel did not follow"),
)
"""What the signs mean."""
