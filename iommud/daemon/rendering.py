# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports turned into publications, without rendering again what has not changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from iommud.daemon.activity import Activity
from iommud.daemon.exposition import expositions
from iommud.daemon.metrics import ReportCollector
from iommud.daemon.publication import Publication
from iommud.names import Names
from iommud.render.json import render_json
from iommud.render.page import PageOptions, render_page
from iommud.render.style import Style
from iommud.render.text import render_failure_text, render_text
from iommud.render.view import wanted_names
from iommud.verdict.report import EXIT_UNREADABLE, FailOn, Report, Result

__all__ = ["Renderer", "with_activity"]

_STYLE = Style(unicode=True)


@dataclass(slots=True)
class _Forms:
    """What has been rendered of one result: the page comes last, for it takes longest."""

    result: Result
    json: bytes
    text: bytes
    page: bytes | None = None


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
        stale_after: float = 900.0,
    ) -> None:
        """``here``: the reports are about the machine that this process runs on."""
        self._stale_after = stale_after
        self._activity = activity
        self._options = PageOptions(machine=os.uname().nodename if here else "")
        self._fail_on = fail_on
        self._require_iommu = require_iommu
        self._function_groups = function_groups
        self._generation = 0
        self._names: tuple[frozenset[tuple[int, int]], Names | None] = (frozenset(), None)
        self._last: _Forms | None = None

    def publications(self, result: Result, taken_at: float) -> Iterator[Publication]:
        """A result, found at so many Unix seconds, in all forms.

        If it is a new one, then first with the page of the one before, so that metrics need not wait for the page.
        """
        forms, page_before = self._rendered(result)
        metrics, openmetrics = self._exposed(result, taken_at)
        exit_status = EXIT_UNREADABLE
        if isinstance(result, Report):
            exit_status = result.exit_status(self._fail_on, require_iommu=self._require_iommu)
        self._generation += 1
        first = Publication(
            generation=self._generation,
            taken_at=taken_at,
            status=result.status.value,
            exit_status=exit_status,
            json=forms.json,
            text=forms.text,
            page=forms.page or page_before or b"",
            metrics=metrics,
            openmetrics=openmetrics,
            stale_after=self._stale_after,
        )
        if forms.page is not None:
            yield first
            return
        if page_before is not None:
            yield first
            self._generation += 1
        forms.page = _encoded(render_page(result, names=self._names_for(result), options=self._options))
        yield replace(first, generation=self._generation, page=forms.page)

    def _rendered(self, result: Result) -> tuple[_Forms, bytes | None]:
        """JSON and text, and the page of the result before; whoever finds nothing new passes the same result again."""
        last = self._last
        if last is not None and last.result is result:
            return last, None
        names = self._names_for(result)
        text = (
            render_text(result, style=_STYLE, names=names)
            if isinstance(result, Report)
            else render_failure_text(result, style=_STYLE)
        )
        self._last = _Forms(result, f"{render_json(result)}\n".encode(), _encoded(text))
        return self._last, None if last is None else last.page

    def _exposed(self, result: Result, taken_at: float) -> tuple[bytes, bytes]:
        read_at = taken_at if isinstance(result, Report) else None
        report = ReportCollector(result, read_at, self._activity(), self._function_groups, self._stale_after)
        return expositions(report)

    def _names_for(self, result: Result) -> Names | None:
        """Names of the functions, looked up again only when there are other functions."""
        if not isinstance(result, Report):
            return None
        wanted = frozenset(wanted_names([result]))
        if wanted != self._names[0]:
            self._names = (wanted, Names.load(wanted))
        return self._names[1]


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def with_activity(publication: Publication, metrics: bytes, openmetrics: bytes) -> Publication:
    """The publication with further metrics after its own."""
    own = publication.openmetrics.removesuffix(b"# EOF\n")
    return replace(publication, metrics=publication.metrics + metrics, openmetrics=own + openmetrics)
