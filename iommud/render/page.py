# SPDX-License-Identifier: GPL-2.0-or-later
"""The status page: one HTML document without scripts, with everything that it shows inside it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import quote

from iommud import __version__
from iommud.render.age import AGE_TOKEN
from iommud.render.forest import Row, forest
from iommud.render.markup import Palette, anchor, esc, mark_html, sign_of
from iommud.render.page_causes import causes_block, causes_section
from iommud.render.page_groups import groups_section
from iommud.render.page_topology import topology_section
from iommud.render.stylesheet import PAGE_STYLE
from iommud.render.text import shown_devices
from iommud.render.view import Naming, View
from iommud.render.words import (
    firmware_notes,
    headline,
    kernel_note,
    listing,
    no_iommu_lines,
    plural,
    status_words,
    summary,
)
from iommud.verdict.findings import Finding, Kind, Severity
from iommud.verdict.report import Acceptance, Failure, Report, Result, Status

MEANINGS: Mapping[Kind, str] = {
    Kind.ALIAS_SPLIT: (
        "Functions that share a requester ID sit in different groups. The IOMMU cannot tell them apart, so whoever "
        "owns one group can use what is mapped for the other."
    ),
    Kind.ISOLATION_SPLIT: (
        "Functions sit in different groups although nothing keeps requests from passing directly between them, past "
        "the IOMMU. Handing the groups to different owners gives each access to the other's device."
    ),
    Kind.NO_GROUPS: (
        "An IOMMU is in use, or was asked for, yet no function has a group: nothing restricts what devices can reach, "
        "and none can be handed to a guest."
    ),
    Kind.UNGROUPED: (
        "An IOMMU serves this function, yet it has no group. Its DMA is not set up as that of its neighbours, and it "
        "cannot be handed to a guest."
    ),
    Kind.MERGED: (
        "The kernel put more into one group than its rule asks for. That is safe; it only means that functions must "
        "be handed over together which could go separately."
    ),
    Kind.UNISOLATED: (
        "The kernel's rule keeps these functions apart, and it was followed. Yet requests can pass between them: "
        "think twice before giving them to owners who distrust each other."
    ),
    Kind.INCONSISTENT: (
        "Two places in sysfs that should agree do not. What follows from them may be wrong, so it is not judged "
        "further than they allow."
    ),
    Kind.UNDECIDABLE: (
        "Facts that decide the expected groups could not be read. What is missing, and how to get it, stands with "
        "the finding."
    ),
    Kind.UNEXPECTED: (
        "The groups are not those that somebody wrote down for this machine. Whether the kernel is right is another "
        "question: other findings answer it."
    ),
}
"""Each kind of finding in two sentences; its own page in the documentation tells the rest."""

_REASONS_SHOWN = 6
_LONGEST_RELEASE = 60
_DEVICES_SHOWN = 24
_ICON = "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'><circle cx='4' cy='4' r='4' fill='{}'/></svg>"
_ICON_COLOURS = {Status.OK: "#186a36", Status.FINDINGS: "#b3141d", Status.ERROR: "#b3141d"}
_LINKS = (("report.json", "JSON"), ("report.txt", "text"), ("metrics", "metrics"))


@dataclass(frozen=True, slots=True, kw_only=True)
class PageOptions:
    """What a page shows beside the report."""

    machine: str = ""
    """Name of the machine; empty: the report's source."""
    findings_url: str = ""
    """Where the pages on kinds of findings lie, as ``https://…/findings/``; empty: the page explains them itself."""
    findings_suffix: str = ".md"
    """What follows the kind in such an address."""
    causes_url: str = ""
    """Where the pages on causes lie, as ``https://…/causes/``; empty: the page explains them itself."""
    causes_suffix: str = ".md"
    """What follows the cause in such an address."""
    alone: bool = False
    """A file to attach to a report: no links to other forms, no place for the age, and a policy of its own."""


DEFAULT_OPTIONS = PageOptions()


@dataclass(frozen=True, slots=True)
class _Page:
    view: View
    options: PageOptions
    trees: tuple[tuple[Row, ...], ...]
    palette: Palette

    @property
    def report(self) -> Report:
        return self.view.report

    def body(self) -> Iterator[str]:
        yield '<main id="main">'
        yield from self._verdict()
        yield self._facts()
        yield from self._findings()
        yield from topology_section(self.view, self.trees, self.palette)
        yield from groups_section(self.view, self.palette)
        yield from self._meanings()
        yield from causes_section(self.view)
        yield from self._notes()
        yield "</main>"

    def _verdict(self) -> Iterator[str]:
        status = self.report.status
        worst = min((one.severity for one in self.report.findings), key=lambda one: one.rank, default=None)
        look = "warning" if status is Status.FINDINGS and worst is not Severity.CRITICAL else status.value
        yield f'<section class="verdict is-{look}" aria-labelledby="verdict"><h2 id="verdict">'
        yield _status_icon(status, worst)
        yield f"{esc(status_words(self.report))}</h2><p>{esc(_sentence(summary(self.report)))}</p>"
        if status is Status.NO_IOMMU:
            yield from (f"<p>{esc(line)}</p>" for line in no_iommu_lines(self.report))
        yield f"{AGE_TOKEN}</section>"

    def _facts(self) -> str:
        report = self.report
        expected = report.expected if report.expected is not None else None
        in_groups = len(report.actual.number_of)
        rightly = f"{len(report.without)} rightly without a group" if report.without else "none without a group"
        missing = f"{len(report.ungrouped)} should have a group, " if report.ungrouped else ""
        units = listing([f"{name} ({driver})" for name, driver in report.iommus], 6)
        facts = (
            ("Functions", str(report.functions), f"{in_groups} in groups; {missing}{rightly}"),
            ("Groups", str(len(report.actual.members)), _expected_words(report) if expected is not None else _UNKNOWN),
            ("IOMMUs", str(len(report.iommus)) if report.iommus else "none listed", units),
            ("Kernel", report.kernel.text[:_LONGEST_RELEASE] or "unknown", f"judged by the rules of {report.kernel}"),
            (
                "Config space",
                "complete" if report.config_complete else "incomplete",
                "all that was wanted was read" if report.config_complete else "some bytes could not be read",
            ),
        )
        rows = (f"<div><dt>{esc(a)}</dt><dd>{esc(b)}<small>{esc(c)}</small></dd></div>" for a, b, c in facts)
        return f'<dl class="facts">{"".join(rows)}</dl>'

    def _findings(self) -> Iterator[str]:
        found, accepted = self.report.findings, self.report.accepted
        yield '<section aria-labelledby="findings"><h2 id="findings">Findings</h2>'
        if not found:
            yield f"<p>{'None besides the accepted ones.' if accepted else 'None.'}</p>"
        for finding in found:
            yield from self._finding(finding)
        for one in accepted:
            yield from self._finding(one.finding, one)
        yield "</section>"

    def _finding(self, finding: Finding, acceptance: Acceptance | None = None) -> Iterator[str]:
        look, word = f"{finding.severity}", f"{finding.severity}"
        if acceptance is not None:
            look, word = f"{look} accepted", f"accepted, else {word}"
        yield f'<article class="finding {look}" id="{anchor(finding)}"><h3>'
        yield mark_html(finding.severity, sign_of(finding))
        yield f'<span class="severity">{word}</span> {self._kind_link(finding.kind)}</h3>'
        yield f"<p>{esc(headline(self.view, finding))}</p>"
        if acceptance is not None:
            yield f"<p><b>Accepted until {acceptance.until}:</b> {esc(acceptance.reason)}</p>"
        yield from self._devices(finding)
        yield from _reasons(finding)
        yield from causes_block(self.view, finding, self.options.causes_url, self.options.causes_suffix)
        yield f'<p class="id">{esc(finding.id)}</p></article>'

    def _kind_link(self, kind: Kind) -> str:
        base = self.options.findings_url
        target = f"{base}{kind}{self.options.findings_suffix}" if base else f"#means-{kind}"
        return f'<a href="{esc(target)}">{kind}</a>'

    def _devices(self, finding: Finding) -> Iterator[str]:
        devices = shown_devices(finding)
        if not devices:
            return
        yield '<ul class="plain">'
        for one in devices[:_DEVICES_SHOWN]:
            colour = self.palette.of_function(self.view, one)
            yield f'<li><span class="chip {colour}">{self.view.group_label(one)}</span> <code>{one}</code> '
            yield f'<span class="soft">{esc(self.view.title(one))}</span></li>'
        if len(devices) > _DEVICES_SHOWN:
            yield f"<li>and {len(devices) - _DEVICES_SHOWN} more</li>"
        yield "</ul>"

    def _meanings(self) -> Iterator[str]:
        named = {one.kind for one in self.report.findings} | {one.finding.kind for one in self.report.accepted}
        kinds = [kind for kind in Kind if kind in named]
        if not kinds:
            return
        yield '<section aria-labelledby="meanings"><h2 id="meanings">What these findings mean</h2><dl class="meanings">'
        for kind in kinds:
            yield f'<dt id="means-{kind}">{kind}</dt><dd>{MEANINGS[kind]}</dd>'
        yield "</dl></section>"

    def _notes(self) -> Iterator[str]:
        kernel = kernel_note(self.report)
        notes = (*((kernel,) if kernel else ()), *firmware_notes(self.report))
        yield '<section aria-labelledby="basis"><h2 id="basis">How this was found out</h2><ul>'
        yield f"<li>IOMMU: {esc(self.report.usage_reason)}</li>"
        yield f"<li>Config space: {plural(self.report.config_reads, 'dword')} read</li>"
        yield from (f"<li>{esc(note)}</li>" for note in notes)
        yield "</ul></section>"


_UNKNOWN = "the expected ones cannot be decided"


def render_page(result: Result, *, names: Naming | None = None, options: PageOptions = DEFAULT_OPTIONS) -> str:
    """The page of a report, or of a source that could not be read.

    It holds ``AGE_TOKEN`` once, where whoever serves it puts the age of the report; not so if it is to stand alone.
    """
    page = _page(result, names, options)
    return page.replace(AGE_TOKEN, "") if options.alone else page


def _page(result: Result, names: Naming | None, options: PageOptions) -> str:
    if isinstance(result, Failure):
        return _document(options, result, "cannot be read", _failure(result))
    view = View.of(result, names)
    topology = result.analysis.explainer.model.topology if result.analysis is not None else None
    trees = forest(topology) if topology is not None else ()
    page = _Page(view, options, trees, Palette.of(view, trees))
    return _document(options, result, status_words(result), "".join(page.body()))


def _document(options: PageOptions, result: Result, words: str, body: str) -> str:
    machine = options.machine or result.source
    icon = quote(_ICON.format(_ICON_COLOURS.get(result.status, "#855200")), safe=" '/:=")
    links = " ".join(f'<a href="{path}">{word}</a>' for path, word in _LINKS)
    navigation = "" if options.alone else f'<nav aria-label="Other forms">{links}</nav>'
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">{_policy() if options.alone else ""}'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{esc(words)} · {esc(machine)} · iommud</title>"
        f'<link rel="icon" href="data:image/svg+xml,{icon}"><style>{PAGE_STYLE}</style></head>'
        '<body><a class="skip" href="#main">Skip to the report</a>'
        f"<header><h1>IOMMU groups</h1><p>{esc(machine)}</p>{navigation}</header>"
        f"{body}<footer><p>iommud {__version__}</p></footer></body></html>\n"
    )


def _policy() -> str:
    """What a browser may load for the page, where no server says so: nothing but the style and the icon inside it."""
    digest = b64encode(sha256(PAGE_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    return f'<meta http-equiv="Content-Security-Policy" content="{policy}">'


def _failure(failure: Failure) -> str:
    return (
        '<main id="main"><section class="verdict is-error" aria-labelledby="verdict"><h2 id="verdict">'
        f"{_status_icon(Status.ERROR, Severity.CRITICAL)}The machine could not be read</h2>"
        f"<p>{esc(failure.error)}</p>{AGE_TOKEN}</section></main>"
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _expected_words(report: Report) -> str:
    wrong = set(report.expected or ()) - set(report.actual.members.values())
    if not wrong:
        return "all as expected"
    return (
        f"{plural(len(wrong), 'expected group')} not as the kernel has it"
        if len(wrong) == 1
        else (f"{len(wrong)} expected groups not as the kernel has them")
    )


def _status_icon(status: Status, worst: Severity | None) -> str:
    if status is Status.OK:
        tick = '<path class="tick" d="M-7 0-2 5 7-5"/>'
        return f'<svg class="icon" viewBox="-10 -10 20 20" aria-hidden="true">{tick}</svg>'
    sign = "?" if status is Status.UNDECIDABLE else "i" if status is Status.NO_IOMMU else "!"
    severity = Severity.INFO if status is Status.NO_IOMMU else worst or Severity.WARNING
    return mark_html(severity, sign)


def _reasons(finding: Finding) -> Iterator[str]:
    if not finding.reasons:
        return
    yield "<ul>"
    for reason in finding.reasons[:_REASONS_SHOWN]:
        reference = f" <cite>{esc(reason.reference)}</cite>" if reason.reference else ""
        yield f"<li>{esc(reason.text)}{reference}</li>"
    if len(finding.reasons) > _REASONS_SHOWN:
        yield f"<li>and {plural(len(finding.reasons) - _REASONS_SHOWN, 'further reason')}, in the JSON report</li>"
    yield "</ul>"
