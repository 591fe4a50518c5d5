# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables that ship with iommud: device quirks as tab-separated text, one fact a row, each with its source."""

from __future__ import annotations

from pathlib import Path


def data_text(name: str) -> str:
    """The text of a bundled file. Raises OSError if the installation lacks it."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
