# SPDX-License-Identifier: GPL-2.0-or-later
"""The topology in the language of Graphviz: a cluster for each group, ties as dashed edges with reasons as tooltips.

A tie along the tree is drawn as its edge, thick and in the colour of the group. Strings are quoted as the language
wants it (https://graphviz.org/doc/info/lang.html, attribute type escString): nothing in them is an escape.
"""

from __future__ import annotations

from collections.abc import Iterator

from iommud.errors import visible
from iommud.render.colours import INK, LINE, PANEL, SEVERITIES, of_group, strong
from iommud.render.edges import Edge
from iommud.render.fold import Detail
from iommud.render.forest import Row
from iommud.render.graph import Graph
from iommud.render.scene import Scene
from iommud.render.view import Naming
from iommud.render.words import headline, status_words, summary
from iommud.verdict.findings import Severity
from iommud.verdict.report import Report

_HEAD = f"""\
digraph iommud {{
  charset="UTF-8"
  rankdir=LR
  ranksep=0.35
  nodesep=0.1
  compound=true
  labelloc=t
  labeljust=l
  fontname="sans-serif"
  fontcolor="{INK}"
  node [shape=box style="filled,rounded" fillcolor="{PANEL}" color="{LINE}" fontcolor="{INK}" fontname="sans-serif"\
 fontsize=10 margin="0.1,0.05" height=0.2]
  edge [color="{LINE}" arrowhead=none fontname="sans-serif" fontsize=8]
"""


def render_dot(report: Report, *, names: Naming | None = None, detail: Detail | None = None) -> str:
    """The whole topology as a digraph; without functions one that has a label only."""
    graph = Graph.of(Scene.of(report, names, detail))
    lines = (*_label(graph), *_clusters(graph), *_lone(graph), *_edges(graph))
    return _HEAD + "".join(f"  {line}\n" for line in lines) + "}\n"


def quoted(text: str) -> str:
    """A string that shows as it is: no escape sequence, no character reference, no end of the string in it."""
    return '"' + _escaped(text) + '"'


def _escaped(text: str) -> str:
    # Graphviz resolves character references before it looks at backslashes.
    return visible(text).replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')


def _label(graph: Graph) -> Iterator[str]:
    view = graph.scene.view
    report = view.report
    machine = (one for one in report.findings if one.subject == "machine" or not one.devices)
    lines = [status_words(report), f"{report.source}: {summary(report)}"]
    lines += (f"{finding.severity} {finding.kind}: {headline(view, finding)}" for finding in machine)
    yield f'label="{"".join(_escaped(line) + _LEFT for line in lines)}"'


_LEFT = "\\l"
"""Ends a line that begins at the left."""


def _clusters(graph: Graph) -> Iterator[str]:
    for number, rows in graph.groups.items():
        strong_colour, pale_colour = of_group(graph.scene.palette, number)
        yield f"subgraph cluster_{number} {{"
        yield f'  label="group {number}" tooltip="group {number}" labeljust=l fontsize=10 style="filled,rounded"'
        yield f'  color="{strong_colour}" fillcolor="{pale_colour}" fontcolor="{INK}"'
        yield from (f"  {_node(graph, row)}" for row in rows)
        yield "}"


def _lone(graph: Graph) -> Iterator[str]:
    for row in graph.rows:
        if graph.number(row) not in graph.groups:
            yield _node(graph, row)


def _node(graph: Graph, row: Row) -> str:
    lines = graph.lines(row)
    label = "".join(_escaped(line) + _LEFT for line in lines) if len(lines) > 1 else _escaped(lines[0])
    attributes = [f'label="{label}"', f"tooltip={quoted(graph.title(row) or lines[0])}", *_looks(graph, row)]
    return f"{graph.names[row.node]} [{' '.join(attributes)}]"


def _looks(graph: Graph, row: Row) -> Iterator[str]:
    view, worst = graph.scene.view, graph.worst(row)
    if not row.members:
        yield "shape=plaintext"
    elif row.tops:
        yield "shape=folder"
    elif row.address is not None and view.functions[row.address].is_bridge:
        yield 'style="filled"'
    elif row.address is not None and view.functions[row.address].is_virtual:
        yield 'style="filled,rounded,dashed"'
    number = graph.number(row)
    if number is not None:
        strong_colour, pale_colour = of_group(graph.scene.palette, number)
        yield f'fillcolor="{"#ffffff" if number in graph.groups else pale_colour}"'
        if worst is None:
            yield f'color="{strong_colour}"'
    if worst is not None:
        yield f'color="{SEVERITIES[worst]}" fontcolor="{SEVERITIES[worst]}" penwidth=2'


def _edges(graph: Graph) -> Iterator[str]:
    for row, parent, edge in graph.wires():
        look = "" if edge is None else f" [{_tie(graph, edge)} style={_line(edge, 'solid')} penwidth=2.5]"
        yield f"{graph.names[parent]} -> {graph.names[row.node]}{look}"
    for edge, seen in graph.other_ties():
        label = ' label=""' if seen else ""
        look = f"{_tie(graph, edge)}{label} style={_line(edge, 'dashed')} constraint=false"
        yield f"{graph.names[edge.hub]} -> {graph.names[edge.end]} [{look}]"


def _line(edge: Edge, whole: str) -> str:
    return "dotted" if edge.broken else whole


def _tie(graph: Graph, edge: Edge) -> str:
    view = graph.scene.view
    colour = strong(graph.scene.palette.of_function(view, edge.ties[0].one))
    if edge.broken:
        colour = SEVERITIES[Severity.CRITICAL]
    title = quoted(edge.title(view))
    label = quoted(edge.words)
    return f'label={label} tooltip={title} labeltooltip={title} color="{colour}" fontcolor="{colour}"'
