# SPDX-License-Identifier: GPL-2.0-or-later
"""The groups as the well-known shell loop prints them, but sorted, complete and with what is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from iommud.address import Address
from iommud.render.marks import MARK_WIDTH, complaint, machine_lines, mark
from iommud.render.style import Role, Style, role_of
from iommud.render.view import Naming, View, class_words
from iommud.render.words import belongs
from iommud.verdict.findings import Kind
from iommud.verdict.report import Report


def render_groups(report: Report, *, style: Style, names: Naming | None = None) -> str:
    """One line per function, by group number and address, as text that ends in a newline.

    Functions without a group follow: first those that should have one, then those that rightly have none, with the
    reason. A mark stands before each function that a finding is about.
    """
    view = View.of(report, names)
    lines = [*machine_lines(view, style), *_grouped(view, style), *_ungrouped(view, style)]
    return "".join(f"{line}\n" for line in lines)


def _grouped(view: View, style: Style) -> Iterator[str]:
    members = view.report.actual.members
    wide = _width(view)
    for number in sorted(members):
        for address in sorted(members[number]):
            yield from _line(view, f"IOMMU Group {number:>{wide}}", address, complaint(view, address), style)


def _width(view: View) -> int:
    return max((len(str(number)) for number in view.report.actual.members), default=1)


def _ungrouped(view: View, style: Style) -> Iterator[str]:
    """Whoever has no group: wrongly, rightly, and where nothing was judged."""
    lead = f"IOMMU Group {'-':>{_width(view)}}"
    should = set(view.report.ungrouped)
    for address in view.report.ungrouped:
        yield from _line(view, lead, address, _should(view, address), style)
    for address, excuse in view.report.without:
        yield from _line(view, lead, address, f"rightly none: {excuse.reason} (evidence: {excuse.evidence})", style)
    for address in _others(view, should):
        yield from _line(view, lead, address, "not judged", style)


def _should(view: View, address: Address) -> str:
    """Where an ungrouped function belongs; said once for the whole machine if nothing has a group."""
    if any(one.kind is Kind.NO_GROUPS for one in view.findings.get(address, ())):
        return ""
    return complaint(view, address) or f"should have one: expected {belongs(view, address)}"


def _others(view: View, should: Iterable[Address]) -> list[Address]:
    known = {*should, *view.excuses, *view.report.actual.number_of}
    return [one for one, function in view.functions.items() if one not in known and function.present]


def _line(view: View, lead: str, address: Address, remark: str, style: Style) -> Iterator[str]:
    used = len(lead) + MARK_WIDTH + len(str(address)) + 3
    what = style.cut(style.clean(_what(view, address)), used=used, tail=style.clean(view.tail(address)))
    yield f"{lead} {mark(view, address, style)} {address} {what}".rstrip()
    if remark:
        severity = view.severity(address)
        role = Role.QUIET if severity is None else role_of(severity)
        indent = " " * used
        for line in style.wrapped(style.clean(remark), first=indent):
            yield indent + style.paint(line[used:], role)


def _what(view: View, address: Address) -> str:
    """Class, vendor and device as ``lspci -nn`` puts them."""
    function = view.functions.get(address)
    if function is None or function.class_code is None:
        return view.name(address)
    begin = f"{class_words(function, view.names)} [{function.class_code >> 8:04x}]"
    name = view.name(address, kind=False)
    return f"{begin}: {name}" if name else f"{begin}:"
