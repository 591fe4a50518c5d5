# SPDX-License-Identifier: GPL-2.0-or-later
"""Ties as edges between the rows of a drawing, each with the reason that makes its title."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from iommud.address import Address
from iommud.model.groups import Rule, Tie
from iommud.render.forest import Node, Row
from iommud.render.view import View
from iommud.render.words import plural

RULE_WORDS: Mapping[Rule, str] = {
    Rule.ALIAS_BRIDGE: "bridge's requester ID",
    Rule.UNPROTECTED_PATH: "path without ACS",
    Rule.REAL_DMA_DEVICE: "sends for it",
    Rule.DMA_ALIAS: "DMA alias",
    Rule.MULTIFUNCTION: "one device, no ACS",
    Rule.UNGROUPED_BRIDGE: "below a bridge without group",
}
"""Each rule in a few words, where the sentence has no place."""


@dataclass(frozen=True, slots=True)
class Edge:
    """The ties between two rows."""

    hub: Node
    """The row to which ties of the same rule lead from several others."""
    end: Node
    ties: tuple[Tie, ...]
    broken: bool
    """Whether the kernel has functions that belong together in different groups."""

    @property
    def words(self) -> str:
        """The rules, in a few words."""
        return ", ".join(dict.fromkeys(RULE_WORDS[tie.rule] for tie in self.ties))

    def title(self, view: View) -> str:
        """Why these belong together, in a sentence."""
        analysis = view.report.analysis
        if analysis is None:
            return self.words
        text = analysis.explainer.reason(self.ties[0]).text
        more = len({frozenset((tie.one, tie.other)) for tie in self.ties}) - 1
        text += f", and {plural(more, 'more tie')} like this one" if more else ""
        return f"{text}; yet the kernel has them in different groups" if self.broken else text


@dataclass(frozen=True, slots=True)
class Edges:
    """All edges of a machine."""

    all: tuple[Edge, ...] = ()
    order: Mapping[Node, int] = field(default_factory=dict)
    """The place of each row among those of the machine."""
    _at: Mapping[Node, tuple[Edge, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, view: View, rows: Iterable[Row]) -> Edges:
        """The ties behind a report between the rows that stand for their functions; none within one row."""
        shown: dict[Address, Node] = {}
        order: dict[Node, int] = {}
        for index, row in enumerate(rows):
            order[row.node] = index
            shown.update(dict.fromkeys(row.members, row.node))
        edges = tuple(_merged(view, shown))
        at: dict[Node, list[Edge]] = {}
        for edge in edges:
            at.setdefault(edge.hub, []).append(edge)
            at.setdefault(edge.end, []).append(edge)
        return cls(edges, order, {node: tuple(found) for node, found in at.items()})

    def at(self, rows: Iterable[Row]) -> tuple[Edge, ...]:
        """The edges that begin or end at some rows, each once."""
        found = {(edge.hub, edge.end): edge for row in rows for edge in self._at.get(row.node, ())}
        return tuple(found.values())


def _merged(view: View, shown: Mapping[Address, Node]) -> Iterable[Edge]:
    ties = view.report.analysis.explainer.ties if view.report.analysis is not None else ()
    between: dict[frozenset[Node], list[Tie]] = {}
    for tie in ties:
        one, other = shown.get(tie.one), shown.get(tie.other)
        if one is not None and other is not None and one != other:
            between.setdefault(frozenset((one, other)), []).append(tie)
    for found in between.values():
        first = found[0]
        hub, end = (first.one, first.other) if first.rule is Rule.MULTIFUNCTION else (first.other, first.one)
        yield Edge(shown[hub], shown[end], tuple(found), any(_is_broken(view, tie) for tie in found))


def _is_broken(view: View, tie: Tie) -> bool:
    """Whether the kernel's groups contradict a tie; a function that rightly has no group contradicts none."""
    if not view.report.in_use or not view.report.judged or {tie.one, tie.other} & view.excuses.keys():
        return False
    return view.number(tie.one) != view.number(tie.other)
