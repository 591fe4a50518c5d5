# SPDX-License-Identifier: GPL-2.0-or-later
"""The PCI topology as a tree: each function with its group, what isolates it, and what is wrong, in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from iommud.address import Address
from iommud.model.topology import BusId, Topology
from iommud.render.marks import MARK_WIDTH, complaint, isolation_word, legend, machine_lines, mark
from iommud.render.style import Role, Style, role_of
from iommud.render.view import Naming, View
from iommud.snapshot import PciFunction
from iommud.verdict.report import Report

_BRANCHES = {True: ("├─ ", "└─ ", "│  ", "   "), False: ("|- ", "`- ", "|  ", "   ")}
_DEEPEST = 40
"""Levels that are indented; what a contradictory snapshot nests deeper stays at this one."""

Node = Address | BusId
"""A function, or a root bus in the place where the machine shows it."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One node with what is drawn before it, and before lines that belong to it."""

    node: Node
    begin: str
    rest: str


def render_tree(report: Report, *, style: Style, names: Naming | None = None) -> str:
    """The topology of a report as text that ends in a newline; empty without the analysis behind the report.

    One line per function: mark, group as the kernel numbers it (``-``: none), isolation, type, name and driver. A
    function in another group than the expected one has a second line that says where it belongs.
    """
    if report.analysis is None:
        return ""
    view = View.of(report, names)
    rows = list(_drawn(report.analysis.explainer.model.topology, style))
    lines = [*machine_lines(view, style), *_table(view, rows, style), legend(style)]
    return "".join(f"{line}\n" for line in lines)


def _drawn(topology: Topology, style: Style) -> Iterator[_Row]:
    """Every function once: those below root buses first, then those whose paths run in a circle."""
    tops, children = _family(topology)
    seen: set[Node] = set()
    starts: list[Node] = [*tops, *topology.functions]
    for start in starts:
        if start not in seen:
            yield from _descended(start, children, seen, style)


def _descended(start: Node, children: Mapping[Node, Sequence[Node]], seen: set[Node], style: Style) -> Iterator[_Row]:
    fork, last, pipe, blank = _BRANCHES[style.unicode]
    waiting = [(_Row(start, "", ""), 0)]
    seen.add(start)
    while waiting:
        row, depth = waiting.pop()
        fresh = [one for one in children.get(row.node, ()) if one not in seen]
        seen.update(fresh)
        yield _Row(row.node, row.begin, row.rest + (pipe if fresh else blank))
        above = row.rest if depth < _DEEPEST else row.rest[: -len(pipe)]
        below = [_Row(one, above + fork, above + pipe) for one in fresh[:-1]]
        below += [_Row(one, above + last, above + blank) for one in fresh[-1:]]
        waiting.extend((one, min(depth + 1, _DEEPEST)) for one in reversed(below))


def _family(topology: Topology) -> tuple[list[BusId], dict[Node, list[Node]]]:
    """The root buses that lie below no function, and what lies below each function and root bus."""
    children: dict[Node, list[Node]] = {}
    tops: dict[BusId, None] = {}
    hosted: set[BusId] = set()
    for function in sorted(topology.functions.values(), key=lambda one: one.address):
        parent = _parent(function, topology)
        if parent is not None:
            children.setdefault(parent, []).append(function.address)
            continue
        root = function.root or function.address[:2]
        children.setdefault(root, []).append(function.address)
        host = function.host_parent
        if host is not None and host in topology.functions and root not in hosted:
            hosted.add(root)
            children.setdefault(host, []).append(root)
        tops[root] = None
    return sorted(root for root in tops if root not in hosted), children


def _parent(function: PciFunction, topology: Topology) -> Address | None:
    """The physical function of a virtual one, or the bridge above."""
    if function.physfn is not None and function.physfn in topology.functions:
        return function.physfn
    return function.upstream


def _table(view: View, rows: Sequence[_Row], style: Style) -> Iterator[str]:
    """The rows with their columns aligned; deep and narrow parts of a large machine do not widen the whole."""
    labels = {row.node: _label(row) for row in rows}
    wide = max((len(label) for label in labels.values()), default=0)
    words = {row.node: isolation_word(view, row.node) for row in rows if isinstance(row.node, Address)}
    isolation = max(len(word) for word in (*words.values(), "isolation"))
    yield style.paint(f"{'function':<{wide}} {'':{MARK_WIDTH}} group  isolation", Role.QUIET)
    for row in rows:
        if not isinstance(row.node, Address):
            yield style.paint(labels[row.node], Role.HEADING)
        else:
            yield from _function(view, row, row.node, f"{labels[row.node]:<{wide}}", isolation, style)


def _label(row: _Row) -> str:
    if isinstance(row.node, Address):
        return f"{row.begin}{row.node}"
    domain, bus = row.node
    return f"{row.begin}pci{domain:04x}:{bus:02x}"


def _function(view: View, row: _Row, address: Address, label: str, isolation: int, style: Style) -> Iterator[str]:
    number = view.number(address)
    group = "-" if number is None else str(number)
    columns = f"{group:>5}  {isolation_word(view, address):<{isolation}}  "
    used = len(label) + MARK_WIDTH + 2 + len(columns)
    # Every PCIe bridge has the same driver: naming it would only shorten what tells them apart.
    tail = style.clean(view.tail(address, numbers=False)).removesuffix(" (pcieport)")
    what = style.cut(style.clean(_what(view, address)), used=used, tail=tail)
    yield f"{label} {mark(view, address, style)} {columns}{what}".rstrip()
    wrong = complaint(view, address)
    if wrong:
        yield from _complaint(view, row, address, wrong, style)


def _complaint(view: View, row: _Row, address: Address, wrong: str, style: Style) -> Iterator[str]:
    severity = view.severity(address)
    role = None if severity is None else role_of(severity)
    first = f"{row.rest}  "
    for line in style.wrapped(wrong, first=first):
        yield line[: len(first)] + style.paint(line[len(first) :], role)


def _what(view: View, address: Address) -> str:
    """The place of a function in the topology where it has one worth naming, then its name."""
    function = view.functions[address]
    words = view.type_words(address)
    if not function.is_bridge and not function.is_virtual:
        return view.name(address)
    name = view.name(address, kind=not words)
    return f"{_SHORT.get(words, words)}, {name}" if name else _SHORT.get(words, words)


_SHORT = {
    "switch upstream port": "upstream port",
    "switch downstream port": "downstream port",
    "conventional PCI bridge": "PCI bridge",
}
"""Shorter words where the tree itself shows what they leave out."""
