# SPDX-License-Identifier: GPL-2.0-or-later
"""What another kernel release changes besides its tables: when ACS is asked for, and the defects it has."""

from __future__ import annotations

from collections.abc import Iterator

from iommud.causes.defects import Component, Defect, defects
from iommud.errors import visible
from iommud.kernel import Kernel
from iommud.verdict.survey import Platform

_LATE_BACKPORT = "acs-late-stable-backport"


def acs_in_time(platform: Platform) -> bool | None:
    """Whether the kernel has ACS on before it makes groups; None: the platform is not known.

    Some stable releases ask too late on every platform.
    """
    in_time = platform.acs_before_grouping
    late = _late_backport().affects(platform.kernel.version, platform.kernel.stable)
    return False if in_time and late is True and platform.kernel.readable else in_time


def kernel_notes(kernel: Kernel) -> Iterator[str]:
    """What a prediction for this release does not take into account."""
    text = visible(kernel.text)
    if not kernel.readable:
        version = ".".join(str(number) for number in kernel.version)
        yield f"the kernel version {text!r} is unreadable; predicted as {version}, the newest modelled"
        return
    if _late_backport().affects(kernel.version, kernel.stable) is None:
        yield f"some releases of {kernel.version[0]}.{kernel.version[1]} ask for ACS too late; name the stable release"
    if any(one.component is Component.KERNEL and _has(one, kernel) for one in defects()):
        yield f"known defects of this release are not simulated: see iommud defects --affecting {kernel}"


def _has(defect: Defect, kernel: Kernel) -> bool:
    simulated = defect.id.startswith("acs-late-")
    return not simulated and defect.affects(kernel.version, kernel.stable) is True


def _late_backport() -> Defect:
    return next(one for one in defects() if one.id == _LATE_BACKPORT)
