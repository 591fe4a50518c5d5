# SPDX-License-Identifier: GPL-2.0-or-later
"""The topology as a Mermaid flowchart: a subgraph for each group, ties with their rule in a few words.

Mermaid draws up to 50,000 characters and 500 lines between nodes unless it is told otherwise
(https://mermaid.js.org/config/schema-docs/config.html, maxTextSize and maxEdges). A machine that has more is drawn in
less detail; what still does not fit says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from iommud.errors import visible
from iommud.render.colours import INK, LINE, SEVERITIES, of_group, pale, strong
from iommud.render.edges import Edge
from iommud.render.fold import Detail, fitting
from iommud.render.forest import Row
from iommud.render.graph import Graph
from iommud.render.scene import Scene
from iommud.render.stylesheet import COLOURS
from iommud.render.view import Naming
from iommud.render.words import status_words, summary
from iommud.verdict.findings import Severity
from iommud.verdict.report import Report

MAX_TEXT, MAX_EDGES = 50_000, 500
"""What Mermaid draws by itself."""
_MANY = 200
"""Nodes from which on less is drawn: Mermaid puts them below each other, without end."""
_NAME = 40
"""Characters of a name at most: Mermaid breaks longer ones, and the room is short."""
_UNSAFE = re.compile(r"[^\w .,:()\[\]/+-]", re.ASCII)
_UNTITLED = re.compile(r"[^\w .,:;()/+-]", re.ASCII)
"""What a title cannot hold: it is a YAML string in which Mermaid knows no character codes."""


@dataclass(frozen=True, slots=True)
class Flowchart:
    """A flowchart, and what a reader has to know of it."""

    text: str
    notice: str = ""
    """That it shows less than it would if Mermaid drew more, or that Mermaid will not draw it; empty if neither."""


def render_mermaid(report: Report, *, names: Naming | None = None, detail: Detail | None = None) -> Flowchart:
    """The whole topology as a flowchart.

    ``detail`` None: the most that suits the number of functions and that Mermaid draws; if nothing does, the least.
    """
    wanted = fitting(report.functions) if detail is None else detail
    every = list(Detail)
    rest = every[every.index(wanted) + 1 :] if detail is None else []
    graph = Graph.of(Scene.of(report, names, wanted), _NAME)
    if not _excess(graph) and (detail is not None or len(graph.rows) <= _MANY):
        return Flowchart(_text(graph))
    for one in rest:
        graph = Graph.of(Scene.of(report, names, one), _NAME)
        if not _excess(graph):
            return Flowchart(_text(graph, _LESS), _LESS)
    notice = _excess(graph)
    return Flowchart(_text(graph, notice), notice)


def _excess(graph: Graph) -> str:
    """That a graph is more than Mermaid draws; empty if it is not."""
    characters, lines = len(_text(graph)), graph.line_count
    if characters <= MAX_TEXT and lines <= MAX_EDGES:
        return ""
    return (
        f"{characters:,} characters and {lines:,} lines are more than Mermaid draws by default ({MAX_TEXT:,} and "
        f"{MAX_EDGES}): raise maxTextSize and maxEdges where it is set up"
    )


def _text(graph: Graph, notice: str = "") -> str:
    report = graph.scene.view.report
    title = _UNTITLED.sub("_", f"{status_words(report)} - {report.source}: {summary(report)}")
    lines = (*((f"%% {notice}",) if notice else ()), *_lines(graph))
    return f'---\ntitle: "{title}"\n---\nflowchart LR\n' + "".join(f"  {line}\n" for line in lines)


_LESS = (
    "too large for a flowchart: siblings without findings are counted, alike or not; the formats svg and dot "
    "show more, --all shows everything"
)


def escaped(text: str) -> str:
    """Text for a label in quotes: whatever could be more than a letter becomes a character code."""
    return _UNSAFE.sub(lambda found: f"#{ord(found[0])};", visible(text))


def _lines(graph: Graph) -> Iterator[str]:
    for number, rows in graph.groups.items():
        yield f'subgraph g{number}["group {number}"]'
        yield from (f"  {_node(graph, row)}" for row in rows)
        yield "end"
    for row in graph.rows:
        if graph.number(row) not in graph.groups:
            yield _node(graph, row)
    yield from _edges(graph)
    yield from _styles(graph)


def _node(graph: Graph, row: Row) -> str:
    opening, closing = _shape(graph, row)
    words = "<br>".join(map(escaped, graph.lines(row)))
    return f'{graph.names[row.node]}{opening}"{words}"{closing}{_class(graph, row)}'


def _shape(graph: Graph, row: Row) -> tuple[str, str]:
    """A stadium for a virtual function, two bars for a bridge, a hexagon for a node that counts several."""
    if row.tops:
        return "{{", "}}"
    if row.address is None:
        return "(", ")"
    function = graph.scene.view.functions[row.address]
    if function.is_bridge:
        return "[[", "]]"
    return ("([", "])") if function.is_virtual else ("[", "]")


def _class(graph: Graph, row: Row) -> str:
    worst = graph.worst(row)
    if worst is not None:
        return f":::{worst}"
    number = graph.number(row)
    return ":::plain" if number is None or number in graph.groups else f":::{graph.scene.palette.of_number(number)}"


def _edges(graph: Graph) -> Iterator[str]:
    broken: list[int] = []
    count = 0
    for row, parent, edge in graph.wires():
        upper, lower = graph.names[parent], graph.names[row.node]
        yield f"{upper} --- {lower}" if edge is None else f'{upper} == "{_words(edge)}" === {lower}'
        broken += [count] if edge is not None and edge.broken else []
        count += 1
    for edge, seen in graph.other_ties():
        label = "-.-" if seen and not edge.broken else f'-. "{_words(edge)}" .-'
        yield f"{graph.names[edge.hub]} {label} {graph.names[edge.end]}"
        broken += [count] if edge.broken else []
        count += 1
    if broken:
        yield f"linkStyle {','.join(map(str, broken))} stroke:{SEVERITIES[Severity.CRITICAL]},stroke-dasharray:5"


def _words(edge: Edge) -> str:
    return escaped(f"{edge.words}, not followed" if edge.broken else edge.words)


def _styles(graph: Graph) -> Iterator[str]:
    """One class for each colour in use, and the areas in theirs."""
    used = {_class(graph, row) for row in graph.rows}
    yield f"classDef plain fill:#fff,stroke:{LINE},color:{INK}"
    for severity, colour in SEVERITIES.items():
        if f":::{severity}" in used:
            yield f"classDef {severity} fill:#fff,stroke:{colour},stroke-width:3px,color:{colour}"
    for name in (f"g{index}" for index in range(COLOURS)):
        if f":::{name}" in used:
            yield f"classDef {name} fill:{pale(name)},stroke:{strong(name)},color:{INK}"
    for number in graph.groups:
        strong_colour, pale_colour = of_group(graph.scene.palette, number)
        yield f"style g{number} fill:{pale_colour},stroke:{strong_colour},color:{INK}"
