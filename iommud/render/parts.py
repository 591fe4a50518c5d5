# SPDX-License-Identifier: GPL-2.0-or-later
"""A large topology in parts of about a screen each, named by the root bus and the functions that they hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from iommud.render.fold import Tree
from iommud.render.forest import Row, split
from iommud.render.view import View
from iommud.verdict.findings import Severity


@dataclass(frozen=True, slots=True)
class Part:
    """Rows that are drawn together."""

    title: str
    rows: tuple[Row, ...]
    worst: Severity | None
    """The worst finding about a function in it, remarks left out."""


def parts(view: View, tree: Tree, size: int) -> Iterator[Part]:
    """A tree, cut between the subtrees of its root bus if it has more than ``size`` rows."""
    cut = (tree,) if len(tree) <= size + 1 else split(tree, size)
    for rows in cut:
        addresses = [one for row in rows for one in row.members]
        found = (severity for one in addresses if (severity := view.severity(one)) is not None)
        worst = min((one for one in found if one is not Severity.INFO), key=lambda one: one.rank, default=None)
        span = f", {min(addresses)} to {max(addresses)}" if len(cut) > 1 and addresses else ""
        yield Part(root_name(tree) + span, rows, worst)


def root_name(tree: Tree) -> str:
    """The directory of the root bus in sysfs, ``pci0000:00``."""
    domain, bus = tree[0].node[:2]
    return f"pci{domain:04x}:{bus:02x}"
