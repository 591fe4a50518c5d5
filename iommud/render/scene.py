# SPDX-License-Identifier: GPL-2.0-or-later
"""What every picture of a machine is made of: rows in some detail, ties between them, colours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from iommud.render.edges import Edges
from iommud.render.fold import Detail, Tree, fitting, folded
from iommud.render.forest import Row, forest
from iommud.render.markup import Palette
from iommud.render.view import Naming, View
from iommud.verdict.report import Report


@dataclass(frozen=True, slots=True)
class Scene:
    """One machine, ready to be drawn."""

    view: View
    trees: tuple[Tree, ...]
    edges: Edges
    palette: Palette
    detail: Detail

    @classmethod
    def of(cls, report: Report, names: Naming | None = None, detail: Detail | None = None) -> Scene:
        """A report as rows and edges, in the detail that suits its size; no rows without the analysis behind it."""
        view = View.of(report, names)
        whole = forest(report.analysis.explainer.model.topology) if report.analysis is not None else ()
        detail = fitting(len(view.functions)) if detail is None else detail
        trees = folded(view, whole, detail)
        edges = Edges.of(view, (row for tree in trees for row in tree))
        return cls(view, trees, edges, Palette.of(view, trees), detail)

    @property
    def rows(self) -> Iterator[Row]:
        """All rows, in the order of the trees."""
        return (row for tree in self.trees for row in tree)

    @property
    def counted(self) -> int:
        """Functions that have no row of their own."""
        return sum(len(row.folded) for row in self.rows)
