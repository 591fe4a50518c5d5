# SPDX-License-Identifier: GPL-2.0-or-later
"""The topology as a drawing: an indented tree over areas in the colours of the groups, wrong functions marked.

The number of each group stands in a column at the left, so that long names may run out of sight at the right on a
narrow screen without hiding what counts. Beside the tree run the ties that hold the groups together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from iommud.address import Address
from iommud.render.fold import folded_number, folded_words
from iommud.render.forest import Node, Row
from iommud.render.marks import complaint
from iommud.render.markup import Palette, anchor, esc, mark_svg, sign_of
from iommud.render.svg_ties import LANE, Ties
from iommud.render.view import View
from iommud.render.words import listing
from iommud.verdict.findings import Finding, Kind

ROW = 26
"""Height of a row."""
SECOND = 19
"""What a second line adds to it."""
_NUMBERS = 46
"""Width of the column of numbers."""
_GUTTER = 58
_INDENT = 18
_MARK = 12
_MONOSPACED = 7.9
_LETTER = 6.9
"""Width of a character of an address, and of an average one elsewhere, for drawings that stand alone."""
_WIDEST = 2400
_LISTED = 64
"""Functions that the title of a row names which counts more."""

SHORT_TYPES = {
    "switch upstream port": "upstream port",
    "switch downstream port": "downstream port",
    "conventional PCI bridge": "PCI bridge",
    "root complex event collector": "event collector",
    "root complex integrated endpoint": "integrated endpoint",
}
"""Shorter words for types of functions where the tree itself shows the rest."""


@dataclass(frozen=True)  # without slots, so that what every row is asked for can be kept
class Drawing:
    """One drawing: rows of one tree, or of a part of it."""

    view: View
    rows: Sequence[Row]
    palette: Palette
    title: str
    links: bool = False
    """Whether marked functions lead to their finding on the same page."""
    ties: Ties | None = None
    """What holds groups together, if it is to be shown."""
    limit: int = _WIDEST
    """Units from left to right at most: longer names are cut."""

    @cached_property
    def height(self) -> int:
        """Units from top to bottom."""
        return sum(self._heights) + 4

    def inline(self, name: str) -> str:
        """An ``svg`` element for an HTML page that has the stylesheet; ``name`` makes its ids unique there.

        It is as wide as the page lets it be.
        """
        return (
            f'<svg class="tree" width="100%" height="{self.height}" role="group" '
            f'aria-labelledby="{name}-t {name}-d"><title id="{name}-t">{esc(self.title)}</title>'
            f'<desc id="{name}-d">{esc(self._description())}</desc>{self.body()}</svg>'
        )

    def body(self) -> str:
        """The content: areas, lines, functions."""
        tops = list(self._tops())
        return "".join((*self._areas(tops), *self._ties(tops), self._wires(tops), *self._functions(tops)))

    @property
    def _gutter(self) -> int:
        """Where the tree begins, behind numbers and ties."""
        width = self.ties.width if self.ties is not None else 0
        return max(_GUTTER, _NUMBERS + width + LANE) if width else _GUTTER

    def _ties(self, tops: list[int]) -> Iterator[str]:
        if self.ties is not None:
            middles = {row.node: top + ROW // 2 for row, top in zip(self.rows, tops, strict=True)}
            yield from self.ties.drawn(middles, self._gutter - 2, self.height)

    def _description(self) -> str:
        functions = [one for row in self.rows for one in row.members]
        groups = len(self.view.numbers(functions))
        marked = sum(self.view.severity(one) is not None for one in functions)
        return (
            f"{len(functions)} functions in {groups} groups as an indented tree, {marked} of them marked. "
            "The lists on this page hold the same in words."
        )

    @cached_property
    def _heights(self) -> tuple[int, ...]:
        return tuple(
            ROW + (SECOND if row.address is not None and complaint(self.view, row.address) else 0) for row in self.rows
        )

    def _tops(self) -> Iterator[int]:
        top = 2
        for height in self._heights:
            yield top
            top += height

    def _areas(self, tops: list[int]) -> Iterator[str]:
        """One area for each run of rows in the same group; rows without one stand for themselves."""
        start = 0
        ends = [*tops[1:], self.height - 2]
        numbers = [folded_number(self.view, row) for row in self.rows]
        for index in range(1, len(self.rows) + 1):
            if index == len(self.rows) or numbers[start] is None or numbers[index] != numbers[start]:
                yield self._area(self.rows[start], numbers[start], tops[start], ends[index - 1])
                start = index

    def _area(self, row: Row, number: int | None, top: int, bottom: int) -> str:
        if not row.members:
            return ""
        if number is None and self.view.numbers(row.members):
            return f'<rect class="area lone" y="{top + 1}" width="100%" height="{bottom - top - 2}" rx="5"/>'
        if number is None:
            address = row.members[0]
            word = "none" if address not in self.view.excuses and self.view.report.in_use else "-"
            return f'<text class="num none" x="14" y="{top + 17}">{word}</text>'
        # A group of one needs no area to be seen; the areas are left to those that hold functions together.
        lone = " lone" if len(self.view.report.actual.members[number]) == 1 else ""
        return (
            f'<g class="{self.palette.of_number(number)}">'
            f'<rect class="area{lone}" y="{top + 1}" width="100%" height="{bottom - top - 2}" rx="5"/>'
            f'<rect class="bar" y="{top + 1}" width="5" height="{bottom - top - 2}" rx="2"/>'
            f'<text class="num" x="14" y="{top + 17}">{number}</text></g>'
        )

    def _x(self, row: Row) -> int:
        return self._gutter + (row.depth - self.rows[0].depth) * _INDENT

    def _wires(self, tops: list[int]) -> str:
        """From each bridge a line down to its last child, and a bend to each."""
        place: dict[Node, tuple[int, int]] = {}
        lowest: dict[Node, int] = {}
        bends: list[str] = []
        for row, top in zip(self.rows, tops, strict=True):
            x, y = self._x(row) + 6, top + ROW // 2
            place[row.node] = (x, y)
            if row.parent is not None and row.parent in place:
                trunk = place[row.parent][0]
                lowest[row.parent] = y - 6
                bends.append(f"M{trunk} {y - 6}q0 6 6 6H{x - 7}")
        trunks = [f"M{place[node][0]} {place[node][1] + 7}V{bottom}" for node, bottom in lowest.items()]
        return f'<path class="wire" d="{"".join((*trunks, *bends))}"/>' if bends else ""

    def _functions(self, tops: list[int]) -> Iterator[str]:
        for row, top in zip(self.rows, tops, strict=True):
            if row.tops:
                yield self._folded(row, top)
            elif row.address is None:
                domain, bus = row.node[:2]
                yield f'<text class="root" x="{self._x(row)}" y="{top + 17}">pci{domain:04x}:{bus:02x}</text>'
            else:
                yield self._function(row, row.address, top)

    def _function(self, row: Row, address: Address, top: int) -> str:
        x = self._x(row)
        found = self.view.findings.get(address, ())
        wrong = complaint(self.view, address)
        glyph = (
            mark_svg(found[0].severity, sign_of(found[0]), (x + 6, top + 13)) if found else self._glyph(address, x, top)
        )
        second = f'<text class="why" x="{x + 20}" y="{top + 17 + SECOND}">{esc(wrong)}</text>' if wrong else ""
        halo = self._halo(found, wrong, top)
        inside = f"<title>{esc(self._words(address))}</title>{halo}{glyph}{self._label(address, found, x, top)}{second}"
        severity = f" {found[0].severity}" if found else ""
        if found and self.links:
            return f'<a class="fn{severity}" href="#{anchor(found[0])}">{inside}</a>'
        return f'<g class="fn{severity}">{inside}</g>'

    def _folded(self, row: Row, top: int) -> str:
        """A row that counts: three small dots, or the mark of the worst finding, and how many of what."""
        x = self._x(row)
        found = sorted((self.view.findings[one][0] for one in row.folded if one in self.view.findings), key=_rank)
        colour = self.palette.of_number(folded_number(self.view, row))
        dots = "".join(f'<circle class="dot {colour}" cx="{x + at}" cy="{top + 13}" r="1.75"/>' for at in (1, 6, 11))
        glyph = mark_svg(found[0].severity, sign_of(found[0]), (x + 6, top + 13)) if found else dots
        severity = f" {found[0].severity}" if found else ""
        title = f"{folded_words(self.view, row)}: {listing(row.folded, _LISTED)}"
        label = (
            f'<text x="{x + 20}" y="{top + 17}"><tspan class="kind">{esc(folded_words(self.view, row))}</tspan></text>'
        )
        return f'<g class="fold{severity}"><title>{esc(title)}</title>{glyph}{label}</g>'

    def _halo(self, found: Sequence[Finding], wrong: str, top: int) -> str:
        """A dashed frame around a function that is in another group than the expected one."""
        if not wrong or not found:
            return ""
        height = ROW + SECOND - 4
        return f'<svg y="{top + 2}" width="100%" height="{height}"><rect class="halo" x="1" y="1" rx="5"/></svg>'

    def _glyph(self, address: Address, x: int, top: int) -> str:
        """A square for a bridge, a disc for a function, a ring for a virtual one."""
        function = self.view.functions[address]
        colour = self.palette.of_function(self.view, address)
        if function.is_bridge:
            return f'<rect class="dot {colour}" x="{x + 1}" y="{top + 8}" width="10" height="10" rx="2"/>'
        ring = " ring" if function.is_virtual else ""
        return f'<circle class="dot{ring} {colour}" cx="{x + 6}" cy="{top + 13}" r="{4 if ring else 4.5}"/>'

    def _label(self, address: Address, found: Sequence[Finding], x: int, top: int) -> str:
        kind, name = self._kind_and_name(address)
        tag = "" if not found or complaint(self.view, address) else str(found[0].kind)
        room = int((self.limit - x - self._needed(address, f"{tag}{kind}")) / _LETTER)
        name = name if len(name) <= room else f"{name[: max(room - 1, 0)]}…"
        parts = [f'<tspan class="addr">{address}</tspan>']
        if found and not complaint(self.view, address) and found[0].kind is not Kind.NO_GROUPS:
            parts.append(f'<tspan class="tag" dx="8">{found[0].kind}</tspan>')
        parts += [f'<tspan class="kind" dx="8">{esc(kind)}</tspan>'] if kind else []
        parts += [f'<tspan class="name" dx="8">{esc(name)}</tspan>'] if name else []
        return f'<text x="{x + 20}" y="{top + 17}">{"".join(parts)}</text>'

    def _kind_and_name(self, address: Address) -> tuple[str, str]:
        """The place of a function in the topology where it has one worth naming, and its name."""
        function = self.view.functions[address]
        # Every PCIe bridge has the same driver: naming it would tell nothing.
        tail = self.view.tail(address, numbers=False).removesuffix(" (pcieport)")
        if not function.is_bridge and not function.is_virtual:
            return "", self.view.name(address) + tail
        words = self.view.type_words(address)
        return SHORT_TYPES.get(words, words), (self.view.name(address, kind=not words) + tail).strip()

    def _words(self, address: Address) -> str:
        """All about one function in one line, as its tooltip and for who hears the page."""
        excuse = self.view.excuses.get(address)
        parts = [str(address), self.view.type_words(address), self.view.title(address), self.view.group_label(address)]
        if excuse is not None:
            parts.append(f"rightly, {excuse.reason}")
        parts += [f"{one.severity}: {one.kind}" for one in self.view.findings.get(address, ())]
        return ", ".join(part for part in parts if part)

    def widest(self) -> int:
        """Units that the longest row takes, roughly, within the limit."""
        return min(int(max(self._x(row) + self._width(row) for row in self.rows)), self.limit)

    def _width(self, row: Row) -> float:
        if row.tops:
            return _MARK + 20 + len(folded_words(self.view, row)) * _LETTER
        if row.address is None:
            return 200.0
        first = self._needed(row.address, "".join(self._kind_and_name(row.address)))
        return max(first, 40 + len(complaint(self.view, row.address)) * _LETTER * 1.08)

    @staticmethod
    def _needed(address: Address, words: str) -> float:
        """Units from the glyph of a function to the end of some words behind its address, roughly."""
        return 20 + len(str(address)) * _MONOSPACED + 24 + len(words) * _LETTER + _MARK


def _rank(finding: Finding) -> int:
    return finding.severity.rank
