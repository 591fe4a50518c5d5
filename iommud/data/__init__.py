# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables that ship with iommud: device quirks as tab-separated text, known defects as TOML, each with its source."""

from __future__ import annotations

from pathlib import Path


def data_text(name: str) -> str:
    """The text of a bundled file. Raises OSError if the installation lacks it."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def data_names(directory: str) -> tuple[str, ...]:
    """The names of the files in a bundled directory, sorted. Raises OSError if the installation lacks it."""
    return tuple(sorted(path.name for path in (Path(__file__).parent / directory).iterdir()))
