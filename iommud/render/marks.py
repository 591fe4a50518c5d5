# SPDX-License-Identifier: GPL-2.0-or-later
"""What stands beside a function in lists and trees: its mark, and a line on what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator

from iommud.address import Address
from iommud.model.acs import AcsBasis
from iommud.render.style import Role, Style, mark_of, role_of
from iommud.render.view import PLACED, View
from iommud.render.words import belongs, headline

MARK_WIDTH = 2
ISOLATION_WORDS = {
    AcsBasis.QUIRK: "quirk",
    AcsBasis.NOT_PCIE: "pci",
    AcsBasis.PORT_TYPE: "type",
    AcsBasis.FLAGS: "acs",
    AcsBasis.NO_CAPABILITY: "no-acs",
    AcsBasis.LONE_FUNCTION: "single",
    AcsBasis.OVERRIDE: "override",
    AcsBasis.UNKNOWN: "",
}
"""One word for what decided whether a function is isolated."""
_SIGNS = {True: "+", False: "-", None: "?"}


def isolation_word(view: View, address: Address) -> str:
    """Whether the kernel takes a function for isolated, and by what: ``+acs``, ``-no-acs``, ``?``.

    Empty for a function of which nobody needs to know.
    """
    if view.report.analysis is None or view.unasked(address):
        return ""
    verdict = view.report.analysis.explainer.model.acs.verdict(view.functions[address])
    return _SIGNS[verdict.isolated] + ISOLATION_WORDS[verdict.basis]


def mark(view: View, address: Address, style: Style) -> str:
    """The mark of the worst finding about a function, two columns wide."""
    severity = view.severity(address)
    if severity is None:
        return " " * MARK_WIDTH
    return style.paint(f"{mark_of(severity):<{MARK_WIDTH}}", role_of(severity))


def complaint(view: View, address: Address) -> str:
    """What is wrong with a function's group, ``isolation-split: expected with 0000:01:00.0``; empty if nothing."""
    wrong = next((one for one in view.findings.get(address, ()) if one.kind in PLACED), None)
    return "" if wrong is None else f"{wrong.kind}: expected {belongs(view, address)}"


def machine_lines(view: View, style: Style) -> Iterator[str]:
    """Findings about the machine as a whole, which no single function can carry."""
    for finding in view.report.findings:
        if finding.subject == "machine" or not finding.devices:
            sign = style.paint(f"{mark_of(finding.severity):<{MARK_WIDTH}}", role_of(finding.severity))
            reason = f" {finding.reasons[0].text}" if finding.reasons else ""
            text = style.clean(f"{finding.kind}: {headline(view, finding)}{reason}")
            yield from style.wrapped(text, first=f"{sign} ", rest=" " * (MARK_WIDTH + 1))
    if not view.report.in_use:
        yield from style.wrapped(style.clean(f"no IOMMU is in use: {view.report.usage_reason}"))


def legend(style: Style) -> str:
    """One quiet line that says what the signs mean."""
    return style.paint("!! critical  ! warning  i info   + isolated  - not isolated  ? not known", Role.QUIET)
