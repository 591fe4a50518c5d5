# SPDX-License-Identifier: GPL-2.0-or-later
"""Text made safe for HTML and SVG, and the marks and colours that the page and the drawing share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

from iommud.address import Address
from iommud.errors import visible
from iommud.render.forest import Row
from iommud.render.stylesheet import COLOURS
from iommud.render.view import View
from iommud.verdict.findings import Finding, Kind, Severity

SIGNS = {Severity.CRITICAL: "!", Severity.WARNING: "!", Severity.INFO: "i"}
_SHAPES = {
    Severity.CRITICAL: "M0-8.5 8.5 7H-8.5z",
    Severity.WARNING: "M0-8.5 8.5 0 0 8.5-8.5 0z",
    Severity.INFO: "M-7 0a7 7 0 1 0 14 0a7 7 0 1 0-14 0z",
}
"""Triangle, diamond and circle: severities differ by shape as well as by colour and sign."""

MORE = "".join(f'<circle class="dot gx" cx="{at}" cy="8" r="1.75"/>' for at in (3, 8, 13))
"""The sign of a row that counts, for legends; 16 units wide and high."""


def esc(text: object) -> str:
    """Foreign text for element content and quoted attributes: no markup, no control or invisible characters."""
    return escape(visible(str(text)))


def anchor(finding: Finding) -> str:
    """The name of a finding's place on the page; ids consist of letters, digits, ``:``, ``.`` and ``-``."""
    return "finding-" + quote(finding.id, safe=":.-")


def sign_of(finding: Finding) -> str:
    """The character inside a finding's mark."""
    return "?" if finding.kind is Kind.UNDECIDABLE else SIGNS[finding.severity]


def mark_svg(severity: Severity, sign: str, at: tuple[float, float] = (0, 0)) -> str:
    """A mark as SVG content, 17 units wide around a point."""
    drop = 5 if severity is Severity.CRITICAL else 4
    return (
        f'<g class="mark {severity}" transform="translate({at[0]:g} {at[1]:g})">'
        f'<path d="{_SHAPES[severity]}"/><text text-anchor="middle" y="{drop}">{sign}</text></g>'
    )


def mark_html(severity: Severity, sign: str) -> str:
    """The mark as a picture of its own, for running text; the words beside it say the same."""
    return (
        '<svg class="icon" width="20" height="20" viewBox="-10 -10 20 20" aria-hidden="true">'
        f"{mark_svg(severity, sign)}</svg>"
    )


@dataclass(frozen=True, slots=True)
class Palette:
    """The class of colour of each group of the kernel, by its number."""

    classes: Mapping[int, str]

    @classmethod
    def of(cls, view: View, trees: Iterable[Iterable[Row]]) -> Palette:
        """Colours in the order in which groups appear in the tree, so that neighbours differ."""
        addresses = (row.address for tree in trees for row in tree)
        numbers = (view.number(one) for one in addresses if one is not None)
        order = list(dict.fromkeys(number for number in numbers if number is not None))
        return cls({number: f"g{index % COLOURS}" for index, number in enumerate(order)})

    def of_number(self, number: int | None) -> str:
        """The class of a group; ``gx`` for none."""
        return "gx" if number is None else self.classes.get(number, "gx")

    def of_function(self, view: View, address: Address) -> str:
        """The class of a function's group."""
        return self.of_number(view.number(address))
