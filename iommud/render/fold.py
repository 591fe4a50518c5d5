# SPDX-License-Identifier: GPL-2.0-or-later
"""Rows that count what is alike: 64 virtual functions become the first of them and ``63 more``.

Two siblings are alike if kind, device, driver, findings and groups are, and all that lies below them is alike too.
Groups are alike if they hold the same places of a subtree, whatever their numbers.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Sequence

from iommud.address import Address
from iommud.render.forest import Node, Row
from iommud.render.view import View
from iommud.render.words import listing, plural

WHOLE_LIMIT = 96
"""Functions of a machine up to which every one is drawn."""
_FEWEST = 3
"""Functions that must be saved for it to be worth a row that counts."""

Tree = tuple[Row, ...]
Signature = tuple[object, ...]


class Detail(enum.Enum):
    """How much of a machine is drawn."""

    WHOLE = "every function"
    ALIKE = "siblings that are alike are counted"
    QUIET = "siblings without findings are counted, alike or not"


def fitting(functions: int) -> Detail:
    """The detail in which so many functions stay readable."""
    return Detail.WHOLE if functions <= WHOLE_LIMIT else Detail.ALIKE


def folded(view: View, trees: Sequence[Tree], detail: Detail) -> tuple[Tree, ...]:
    """The same trees in some detail: every function is a row's own, or counted by exactly one row."""
    if detail is Detail.WHOLE:
        return tuple(trees)
    return tuple(tuple(_Folding(view, tree, detail).rows()) for tree in trees)


def folded_number(view: View, row: Row) -> int | None:
    """The number of the group that all functions of a row are in; None if there is none, or several."""
    numbers = {view.number(one) for one in row.members}
    return numbers.pop() if len(numbers) == 1 else None


def folded_words(view: View, row: Row) -> str:
    """What a row counts: ``62 more virtual functions, a group each (10 to 71)``."""
    kinds = {view.type_words(one) for one in row.tops}
    kind = kinds.pop() if len(kinds) == 1 else ""
    text = f"{len(row.tops)} more {plural(2, kind or 'function').partition(' ')[2]}"
    if len(row.folded) > len(row.tops):
        text += f", {len(row.folded)} functions with those below"
    return ", ".join(part for part in (text, _groups(view, row), _wrong(view, row)) if part)


def _groups(view: View, row: Row) -> str:
    numbers = view.numbers(row.folded)
    without = sum(view.number(one) is None for one in row.folded)
    if not numbers:
        return "no group"
    if without:
        return f"in {plural(len(numbers), 'group')}, {without} without"
    if len(numbers) == 1:
        return f"group {numbers[0]}"
    first, last = numbers[0], numbers[-1]
    span = f" ({first} to {last})" if last - first == len(numbers) - 1 else ""
    return f"a group each{span}" if len(numbers) == len(row.folded) else f"in {len(numbers)} groups{span}"


def _wrong(view: View, row: Row) -> str:
    """Findings about some of them, by kind."""
    kinds = sorted({one.kind for address in row.folded for one in view.findings.get(address, ())})
    return listing(kinds)


class _Folding:
    """One tree on its way to fewer rows."""

    def __init__(self, view: View, tree: Tree, detail: Detail) -> None:
        self._view = view
        self._detail = detail
        self._tree = tree
        self._children: dict[Node, list[Node]] = {}
        self._parents: dict[Node, Node | None] = {row.node: row.parent for row in tree}
        for row in tree:
            if row.parent is not None:
                self._children.setdefault(row.parent, []).append(row.node)
        self._start = {row.node: index for index, row in enumerate(tree)}
        self._end = self._ends()
        self._extents = self._group_extents()
        self._classes = self._classified()

    def rows(self) -> Iterator[Row]:
        """What is drawn, depth first."""
        waiting = [self._tree[0]]
        while waiting:
            row = waiting.pop()
            yield row
            if not row.tops:
                waiting.extend(reversed(list(self._below(row.node))))

    def _below(self, node: Node) -> Iterator[Row]:
        """The rows that hang from a node, in the order of the tree; one that counts follows the first of its kind."""
        families: dict[int, list[Node]] = {}
        for child in self._children.get(node, ()):
            families.setdefault(self._classes[child], []).append(child)
        counting = {family[0]: row for family in families.values() if (row := self._counting(family)) is not None}
        for child in self._children.get(node, ()):
            first = families[self._classes[child]][0]
            if child == first or first not in counting:
                yield self._tree[self._start[child]]
            if child in counting:
                yield counting[child]

    def _counting(self, family: Sequence[Node]) -> Row | None:
        """The row that stands for all of a family but the first; None if it would not save enough."""
        others = family[1:]
        if len(others) < 2:
            return None
        below = tuple(one for other in others for one in self._functions(other))
        row = self._tree[self._start[others[0]]]
        tops = tuple(one for one in others if isinstance(one, Address))
        return Row(row.node, row.depth, row.parent, tops, below) if len(below) >= _FEWEST else None

    def _functions(self, node: Node) -> Iterator[Address]:
        for row in self._tree[self._start[node] : self._end[node]]:
            yield from row.members

    def _ends(self) -> dict[Node, int]:
        """Behind the last row of each subtree."""
        ends: dict[Node, int] = {}
        for row in reversed(self._tree):
            below = self._children.get(row.node)
            ends[row.node] = ends[below[-1]] if below else self._start[row.node] + 1
        return ends

    def _group_extents(self) -> dict[int, tuple[int, int]]:
        """The first and the last row of each group that lies in this tree as a whole."""
        places: dict[int, list[int]] = {}
        for index, row in enumerate(self._tree):
            number = None if row.address is None else self._view.number(row.address)
            if number is not None:
                places.setdefault(number, []).append(index)
        members = self._view.report.actual.members
        return {number: (found[0], found[-1]) for number, found in places.items() if len(found) == len(members[number])}

    def _classified(self) -> dict[Node, int]:
        """Subtrees that are alike have the same number; children come before their parents."""
        numbers: dict[Signature, int] = {}
        classes: dict[Node, int] = {}
        quiet: set[Node] = set()
        for row in reversed(self._tree):
            below = self._children.get(row.node, ())
            signature: Signature = (*self._signature(row), *(classes[one] for one in below))
            if row.address is not None and row.address not in self._view.findings and quiet.issuperset(below):
                quiet.add(row.node)
                if self._detail is Detail.QUIET:
                    signature = ("quiet",)
            classes[row.node] = numbers.setdefault(signature, len(numbers))
        return classes

    def _signature(self, row: Row) -> Signature:
        if row.address is None:
            return ("a root bus is like no other", row.node)
        function = self._view.functions[row.address]
        wrong = tuple((one.kind, one.severity) for one in self._view.findings.get(row.address, ()))
        place = self._place(row.address, row.parent)
        identity = (function.vendor, function.device, function.class_code, function.driver, function.present)
        return (self._view.type_words(row.address), *identity, wrong, place)

    def _place(self, address: Address, parent: Node | None) -> object:
        """What tells how a function's group lies in the tree, the same for groups that lie alike."""
        number = self._view.number(address)
        if number is None:
            return "excused" if address in self._view.excuses else "none"
        if len(self._view.report.actual.members.get(number, ())) == 1:
            return "alone"
        if isinstance(parent, Address) and self._view.number(parent) == number:
            return "with its parent"
        first, last = self._extents.get(number, (-1, -1))
        if parent is None or not self._start[parent] < first or last >= self._end[parent]:
            return number
        return first - self._start[parent]
