# SPDX-License-Identifier: GPL-2.0-or-later
"""Recompute the IOMMU groups of a Linux machine, compare them with the kernel's, and say what is wrong and why.

    >>> from iommud import check, read_sysfs
    >>> report = check(read_sysfs("capture.tar.gz"))
    >>> report.status
    <Status.FINDINGS: 'findings'>

The names below are loaded when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iommud.address import Address as Address
    from iommud.api import read_sysfs as read_sysfs
    from iommud.errors import SourceError as SourceError
    from iommud.snapshot import Snapshot as Snapshot
    from iommud.verdict.findings import Finding as Finding
    from iommud.verdict.findings import Kind as Kind
    from iommud.verdict.findings import Severity as Severity
    from iommud.verdict.pipeline import check as check
    from iommud.verdict.report import Report as Report
    from iommud.verdict.report import Status as Status

__version__ = "0.1.0"

_HOMES = {
    "Address": "address",
    "Finding": "verdict.findings",
    "Kind": "verdict.findings",
    "Report": "verdict.report",
    "Severity": "verdict.findings",
    "Snapshot": "snapshot",
    "SourceError": "errors",
    "Status": "verdict.report",
    "check": "verdict.pipeline",
    "read_sysfs": "api",
}

__all__ = [
    "Address",
    "Finding",
    "Kind",
    "Report",
    "Severity",
    "Snapshot",
    "SourceError",
    "Status",
    "__version__",
    "check",
    "read_sysfs",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
