# SPDX-License-Identifier: GPL-2.0-or-later
"""What the languages of graphs share: nodes with their words, groups with their nodes, lines and ties."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from iommud.errors import visible
from iommud.render.edges import Edge
from iommud.render.fold import folded_number, folded_words
from iommud.render.forest import Node, Row
from iommud.render.marks import complaint
from iommud.render.scene import Scene
from iommud.render.svg import SHORT_TYPES
from iommud.verdict.findings import Finding, Severity

_LISTED = 64
"""Functions that the words of a node which counts several name."""


@dataclass(frozen=True, slots=True)
class Graph:
    """One machine as nodes and lines; nodes have short names in the order of the trees, ``n0``, ``n1``."""

    scene: Scene
    rows: tuple[Row, ...]
    names: dict[Node, str]
    groups: dict[int, list[Row]]
    """The groups of more than one function with their nodes, by number, in the order of the trees."""
    longest: int
    """Characters of a name at most."""

    @classmethod
    def of(cls, scene: Scene, longest: int = 60) -> Graph:
        """The graph of a scene."""
        rows = tuple(scene.rows)
        members = scene.view.report.actual.members
        groups: dict[int, list[Row]] = {}
        for row in rows:
            number = folded_number(scene.view, row)
            if number is not None and len(members.get(number, ())) > 1:
                groups.setdefault(number, []).append(row)
        return cls(scene, rows, {row.node: f"n{index}" for index, row in enumerate(rows)}, groups, longest)

    @property
    def line_count(self) -> int:
        """Lines between nodes."""
        return sum(1 for _ in self.wires()) + sum(1 for _ in self._unwired())

    def number(self, row: Row) -> int | None:
        """The group of a node; None for a root bus, for functions without one, and for those of several groups."""
        return folded_number(self.scene.view, row)

    def lines(self, row: Row) -> tuple[str, ...]:
        """The words of a node, one line after the other: what it is, its name, what is wrong with it.

        The number of its group is among them where no area shows it.
        """
        view = self.scene.view
        if row.tops:
            return (folded_words(view, row),)
        if row.address is None:
            domain, bus = row.node[:2]
            return (f"pci{domain:04x}:{bus:02x}",)
        function = view.functions[row.address]
        placed = function.is_bridge or function.is_virtual
        words = view.type_words(row.address) if placed else ""
        # Every PCIe bridge has the same driver: naming it would tell nothing.
        tail = view.tail(row.address, numbers=False).removesuffix(" (pcieport)")
        name = view.name(row.address, kind=not words) + tail
        first = f"{row.address} {SHORT_TYPES.get(words, words)}".rstrip()
        lines = (first, _cut(name.strip(), self.longest), self._group(row), *self._wrong(row))
        return tuple(line for line in lines if line)

    def title(self, row: Row) -> str:
        """What there is to know of a node beside its words."""
        view = self.scene.view
        if row.address is not None:
            return ", ".join(part for part in (view.type_words(row.address), view.title(row.address)) if part)
        more = f" and {len(row.folded) - _LISTED} more" if len(row.folded) > _LISTED else ""
        return ", ".join(map(str, row.folded[:_LISTED])) + more

    def worst(self, row: Row) -> Severity | None:
        """How bad the worst finding about the functions of a node is."""
        found = [one for address in row.members if (one := self.scene.view.severity(address)) is not None]
        return min(found, key=lambda one: one.rank, default=None)

    def wires(self) -> Iterator[tuple[Row, Node, Edge | None]]:
        """What hangs from what: the lower node, the upper one, and the tie between the two if there is one."""
        ties = {frozenset((edge.hub, edge.end)): edge for edge in self.scene.edges.all}
        for row in self.rows:
            if row.parent is not None:
                yield row, row.parent, ties.get(frozenset((row.node, row.parent)))

    def other_ties(self) -> Iterator[tuple[Edge, bool]]:
        """The ties between nodes of which neither hangs from the other, and whether one like it came before.

        Ties of one function by the same rule are like each other.
        """
        seen: set[tuple[Node, str]] = set()
        for edge in self._unwired():
            kind = (edge.hub, edge.words)
            yield edge, kind in seen
            seen.add(kind)

    def _unwired(self) -> Iterator[Edge]:
        wired = {frozenset((row.node, row.parent)) for row in self.rows if row.parent is not None}
        return (edge for edge in self.scene.edges.all if frozenset((edge.hub, edge.end)) not in wired)

    def _group(self, row: Row) -> str:
        view = self.scene.view
        address = row.members[0]
        if view.number(address) is None:
            return "no group" if address not in view.excuses and view.report.in_use else ""
        return "" if view.number(address) in self.groups else view.group_label(address)

    def _wrong(self, row: Row) -> Iterator[str]:
        address = row.members[0]
        found: tuple[Finding, ...] = self.scene.view.findings.get(address, ())
        if found:
            what = complaint(self.scene.view, address) or str(found[0].kind)
            yield f"{found[0].severity}: {what}"


def _cut(text: str, longest: int) -> str:
    text = visible(text)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
