# SPDX-License-Identifier: GPL-2.0-or-later
"""Ties in a drawing: lines beside the tree that bend into the rows which they hold together.

All ties to one function share a lane; functions whose ties overlap get lanes of their own, the shorter nearer to the
tree. A tie to a row that is not in the drawing leaves it at the top or at the bottom.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from iommud.render.edges import Edge, Edges
from iommud.render.forest import Node, Row
from iommud.render.markup import Palette, esc
from iommud.render.view import View

LANE = 8
"""Width of a lane."""
_MOST = 8
"""Lanes at most: what does not fit shares the outermost."""
_BEND = 5


@dataclass(frozen=True, slots=True)
class Bundle:
    """The edges of one hub, and the lane in which they lie; 0 is next to the tree."""

    edges: tuple[Edge, ...]
    lane: int


@dataclass(frozen=True, slots=True)
class Ties:
    """The edges of one drawing, in lanes."""

    view: View
    palette: Palette
    bundles: tuple[Bundle, ...]
    order: Mapping[Node, int]

    @classmethod
    def of(cls, view: View, rows: Sequence[Row], edges: Edges, palette: Palette) -> Ties:
        """Put the edges of some rows into lanes."""
        index = {row.node: place for place, row in enumerate(rows)}
        hubs: dict[Node, list[Edge]] = {}
        for edge in edges.at(rows):
            hubs.setdefault(edge.hub, []).append(edge)
        spans = [(*_span(found, index, rows[0].node, edges.order, len(rows)), found) for found in hubs.values()]
        spans.sort(key=lambda one: (one[1] - one[0], one[0]))
        return cls(view, palette, tuple(_in_lanes(spans)), edges.order)

    @property
    def width(self) -> int:
        """Units that the lanes take beside the tree."""
        return LANE * (1 + max(one.lane for one in self.bundles)) if self.bundles else 0

    def drawn(self, heights: Mapping[Node, int], right: int, bottom: int) -> Iterator[str]:
        """The lines; ``heights`` is the middle of each row, ``right`` where they end."""
        for bundle in self.bundles:
            lane = right - _BEND - LANE * bundle.lane - 1
            for edge in bundle.edges:
                yield self._edge(edge, heights, lane, right, bottom)

    def _edge(self, edge: Edge, heights: Mapping[Node, int], lane: int, right: int, bottom: int) -> str:
        ends = sorted((edge.hub, edge.end), key=lambda one: self.order[one])
        upper, lower = (heights.get(one) for one in ends)
        begin = f"M{lane} 0" if upper is None else f"M{right} {upper}H{lane + _BEND}q-{_BEND} 0-{_BEND} {_BEND}"
        finish = f"V{bottom}" if lower is None else f"V{lower - _BEND}q0 {_BEND} {_BEND} {_BEND}H{right}"
        look = self._look(edge)
        line = begin + finish
        title = f"<title>{esc(edge.title(self.view))}</title>"
        return f'<g class="tie {look}">{title}<path class="hit" d="{line}"/><path d="{line}"/></g>'

    def _look(self, edge: Edge) -> str:
        tie = edge.ties[0]
        if edge.broken:
            found = [one for one in (self.view.severity(tie.one), self.view.severity(tie.other)) if one is not None]
            return f"broken {min(found, key=lambda one: one.rank)}" if found else "broken"
        return self.palette.of_function(self.view, tie.one)


def _span(
    found: Sequence[Edge], index: Mapping[Node, int], first: Node, order: Mapping[Node, int], length: int
) -> tuple[int, int]:
    """The first and the last row between which the edges of a hub run."""
    places = []
    for node in {one for edge in found for one in (edge.hub, edge.end)}:
        outside = -1 if order[node] < order[first] else length
        places.append(index.get(node, outside))
    return min(places), max(places)


def _in_lanes(spans: Sequence[tuple[int, int, list[Edge]]]) -> Iterator[Bundle]:
    lanes: list[list[tuple[int, int]]] = []
    for start, end, found in spans:
        lane = next((at for at, taken in enumerate(lanes) if all(end < a or b < start for a, b in taken)), len(lanes))
        lane = min(lane, _MOST - 1)
        if lane == len(lanes):
            lanes.append([])
        lanes[lane].append((start, end))
        yield Bundle(tuple(found), lane)
