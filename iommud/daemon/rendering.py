# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports turned into publications, without rendering again what has not changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

from iommud.daemon.activity import Activity
from iommud.daemon.metrics import ReportCollector, exposition
from iommud.daemon.publication import Publication
from iommud.names import Names
from iommud.render.json import render_json
from iommud.render.page import PageOptions, render_page
from iommud.render.style import Style
from iommud.render.text import render_failure_text, render_text
from iommud.render.view import wanted_names
from iommud.verdict.report import EXIT_UNREADABLE, FailOn, Report, Result

__all__ = ["Forms", "Renderer"]

_STYLE = Style(unicode=True)


@dataclass(frozen=True, slots=True)
class Forms:
    """One result in the forms that people and programs read."""

    json: bytes
    text: bytes
    page: bytes


class Renderer:
    """Makes publications of results; to be used by one thread."""

    def __init__(
        self,
        activity: Callable[[], Activity],
        *,
        here: bool,
        fail_on: FailOn = FailOn.WARNING,
        require_iommu: bool = False,
        function_groups: bool = False,
    ) -> None:
        """``here``: the reports are about the machine that this process runs on."""
        self._activity = activity
        self._options = PageOptions(machine=os.uname().nodename if here else "")
        self._fail_on = fail_on
        self._require_iommu = require_iommu
        self._function_groups = function_groups
        self._generation = 0
        self._names: tuple[frozenset[tuple[int, int]], Names | None] = (frozenset(), None)
        self._last: tuple[Result, Forms] | None = None

    def publication(self, result: Result, taken_at: float) -> Publication:
        """A result, found at so many Unix seconds, in all forms."""
        self._generation += 1
        forms = self._forms(result)
        exit_status = EXIT_UNREADABLE
        if isinstance(result, Report):
            exit_status = result.exit_status(self._fail_on, require_iommu=self._require_iommu)
        read_at = taken_at if isinstance(result, Report) else None
        collector = ReportCollector(result, read_at, self._activity(), self._function_groups)
        return Publication(
            generation=self._generation,
            taken_at=taken_at,
            status=result.status.value,
            exit_status=exit_status,
            json=forms.json,
            text=forms.text,
            page=forms.page,
            metrics=exposition(collector, openmetrics=False),
            openmetrics=exposition(collector, openmetrics=True),
        )

    def _forms(self, result: Result) -> Forms:
        # Whoever finds nothing new passes the same report again.
        if self._last is None or self._last[0] is not result:
            self._last = (result, self._render(result))
        return self._last[1]

    def _render(self, result: Result) -> Forms:
        names = self._names_for(result) if isinstance(result, Report) else None
        text = (
            render_text(result, style=_STYLE, names=names)
            if isinstance(result, Report)
            else render_failure_text(result, style=_STYLE)
        )
        page = render_page(result, names=names, options=self._options)
        return Forms(f"{render_json(result)}\n".encode(), _encoded(text), _encoded(page))

    def _names_for(self, report: Report) -> Names | None:
        """Names of the functions, looked up again only when there are other functions."""
        wanted = frozenset(wanted_names([report]))
        if wanted != self._names[0]:
            self._names = (wanted, Names.load(wanted))
        return self._names[1]


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def with_activity(publication: Publication, metrics: bytes, openmetrics: bytes) -> Publication:
    """The publication with further metrics after its own."""
    own = publication.openmetrics.removesuffix(b"# EOF\n")
    return replace(publication, metrics=publication.metrics + metrics, openmetrics=own + openmetrics)
