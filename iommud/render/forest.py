# SPDX-License-Identifier: GPL-2.0-or-later
"""The PCI topology as rows of an indented tree, each knowing its depth and the row it hangs from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from iommud.address import Address
from iommud.model.topology import BusId, Topology
from iommud.snapshot import PciFunction

Node = Address | BusId
"""A function, or a root bus in the place where the machine shows it."""

_DEEPEST = 24
"""Levels that are indented; what a contradictory snapshot nests deeper stays at this one."""


@dataclass(frozen=True, slots=True)
class Row:
    """One node of the tree."""

    node: Node
    depth: int
    parent: Node | None
    """What it hangs from; None at the top."""
    tops: tuple[Address, ...] = ()
    """Functions that this row counts in place of rows of their own, ``node`` the first of them; empty: it is one."""
    folded: tuple[Address, ...] = ()
    """The same with all that lies below them."""

    @property
    def address(self) -> Address | None:
        """The function; None for a root bus, and for a row that counts several."""
        return self.node if isinstance(self.node, Address) and not self.tops else None

    @property
    def members(self) -> tuple[Address, ...]:
        """Every function that the row stands for."""
        return self.folded if self.address is None else (self.address,)


def forest(topology: Topology) -> tuple[tuple[Row, ...], ...]:
    """One tree of rows for each root bus that no function contains, depth first, every function once.

    Functions whose paths run in a circle below no root bus come last, as trees of their own.
    """
    tops, children = _family(topology)
    seen: set[Node] = set()
    starts: list[Node] = [*tops, *topology.functions]
    return tuple(tuple(_descended(start, children, seen)) for start in starts if start not in seen)


def split(tree: Sequence[Row], size: int) -> tuple[tuple[Row, ...], ...]:
    """A tree cut between the subtrees below its top into parts of about ``size`` rows, the top itself left out.

    A subtree is never cut, so a part can be larger; otherwise all parts are about equally long.
    """
    rows = len(tree) - 1
    even = rows / max(round(rows / size), 1)
    parts: list[list[Row]] = []
    for index, row in enumerate(tree[1:]):
        if not parts or (row.depth == 1 and index >= even * len(parts)):
            parts.append([])
        parts[-1].append(row)
    return tuple(tuple(part) for part in parts)


def _descended(start: Node, children: dict[Node, list[Node]], seen: set[Node]) -> Iterator[Row]:
    waiting = [Row(start, 0, None)]
    seen.add(start)
    while waiting:
        row = waiting.pop()
        fresh = [one for one in children.get(row.node, ()) if one not in seen]
        seen.update(fresh)
        yield row
        depth = min(row.depth + 1, _DEEPEST)
        waiting.extend(Row(one, depth, row.node) for one in reversed(fresh))


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
        tops[root] = None
        host = function.host_parent
        if host is not None and host in topology.functions and root not in hosted:
            hosted.add(root)
            children.setdefault(host, []).append(root)
    return sorted(root for root in tops if root not in hosted), children


def _parent(function: PciFunction, topology: Topology) -> Address | None:
    """The physical function of a virtual one, or the bridge above."""
    if function.physfn is not None and function.physfn in topology.functions:
        return function.physfn
    return function.upstream
