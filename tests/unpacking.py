# SPDX-License-Identifier: GPL-2.0-or-later
"""Unpack fixtures: our own archives, whose links climb inside their tree."""

from __future__ import annotations

import tarfile
from pathlib import Path


def open_fixture(path: Path | str) -> tarfile.TarFile:
    """An archive of ours opened for unpacking; it is trusted, by Pythons that ask for that and by those that cannot.

    Debian 12's Python has no extraction filters yet, and those that have warn where none is chosen.
    """
    archive = tarfile.open(path)  # noqa: SIM115 - the caller closes it
    if hasattr(tarfile, "fully_trusted_filter"):
        archive.extraction_filter = staticmethod(tarfile.fully_trusted_filter)
    return archive


def unpack(path: Path | str, directory: Path | str) -> None:
    """Unpack a whole archive of ours."""
    with open_fixture(path) as archive:
        archive.extractall(directory)  # noqa: S202 - a fixture of our own
