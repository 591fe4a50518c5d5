# SPDX-License-Identifier: GPL-2.0-or-later
"""The page's light colours as ``#rrggbb``, for pictures that another program draws."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping

from iommud.render.markup import Palette
from iommud.render.stylesheet import HUES
from iommud.verdict.findings import Severity

INK, SOFT, LINE, PANEL = "#1b1f24", "#57606a", "#8a929b", "#f5f7f9"
SEVERITIES: Mapping[Severity, str] = {
    Severity.CRITICAL: "#b3141d",
    Severity.WARNING: "#855200",
    Severity.INFO: "#0a58a6",
}
_TINT = 0.14


def strong(css_class: str) -> str:
    """The colour of a group's lines, by its class in the stylesheet."""
    return SOFT if css_class == "gx" else _hex(*_parts(css_class))


def pale(css_class: str) -> str:
    """The colour of a group's area."""
    return PANEL if css_class == "gx" else _hex(*(1 - _TINT + _TINT * part for part in _parts(css_class)))


def of_group(palette: Palette, number: int | None) -> tuple[str, str]:
    """Strong and pale colour of a group."""
    css_class = palette.of_number(number)
    return strong(css_class), pale(css_class)


def _parts(css_class: str) -> tuple[float, float, float]:
    return colorsys.hls_to_rgb(HUES[int(css_class[1:])] / 360, 0.44, 0.65)


def _hex(*parts: float) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in parts)
