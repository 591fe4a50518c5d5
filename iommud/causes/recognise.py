# SPDX-License-Identifier: GPL-2.0-or-later
"""Which known defects a report shows, and which ones lines of a log tell of."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from iommud.causes.cause import CauseId
from iommud.causes.defects import Component, Defect, Signs, defects
from iommud.pci import CLASS_PCI_BRIDGE
from iommud.verdict.report import Analysis, Report


def shown(report: Report) -> tuple[Defect, ...]:
    """The defects that a report with causes is recognised to show, by id."""
    return tuple(one for one in defects() if _may_have(report, one) and _shows(report, one))


def told(lines: Iterable[str]) -> tuple[Defect, ...]:
    """The defects that lines of a log tell of alone: the kernel's, a console's or the hypervisor's."""
    kept = tuple(lines)
    return tuple(one for one in defects() if one.signs == Signs(log=one.signs.log) and _said(one.signs, kept))


def _may_have(report: Report, one: Defect) -> bool:
    """Only the kernel's release is known; no report tells QEMU's, and downstream kernels have none."""
    kernel = report.kernel
    if one.component is not Component.KERNEL:
        return True
    return kernel.readable and one.affects(kernel.version, kernel.stable) is not False


def _shows(report: Report, one: Defect) -> bool:
    named: set[CauseId] = {cause.id for found in report.causes.values() for cause in found}
    if one.causes and not named & set(one.causes):
        return False
    asked = [test for name, test in _TESTS.items() if getattr(one.signs, name)]
    if not asked:
        return bool(one.causes)
    analysis = report.analysis
    return analysis is not None and all(test(one.signs, report, analysis) for test in asked)


def _said(signs: Signs, lines: Iterable[str]) -> bool:
    return signs.log is not None and any(re.search(signs.log, line) for line in lines)


def _log(signs: Signs, _report: Report, analysis: Analysis) -> bool:
    return _said(signs, analysis.snapshot.log or ())


def _cmdline(signs: Signs, _report: Report, analysis: Analysis) -> bool:
    return re.search(signs.cmdline or "", analysis.snapshot.cmdline or "") is not None


def _devices(signs: Signs, _report: Report, analysis: Analysis) -> bool:
    there = {f"{one.vendor:04x}:{one.device or 0:04x}" for one in analysis.snapshot.functions}
    return bool(there & set(signs.devices))


def _firmware(signs: Signs, _report: Report, analysis: Analysis) -> bool:
    return analysis.platform.firmware.id_mapping == signs.firmware


def _drivers(signs: Signs, _report: Report, analysis: Analysis) -> bool:
    return any(one in signs.drivers for one in analysis.platform.drivers)


def _finding(signs: Signs, report: Report, _analysis: Analysis) -> bool:
    return any(one.kind == signs.finding for one in report.findings)


def _open_by_rule(signs: Signs, _report: Report, analysis: Analysis) -> bool:
    acs = analysis.explainer.model.acs
    ports = (one for one in analysis.snapshot.functions if (one.class_code or 0) >> 8 == CLASS_PCI_BRIDGE)
    verdicts = map(acs.verdict, ports)
    return any(one.row is not None and one.row.rule == signs.open_by_rule and one.isolated is False for one in verdicts)


_TESTS: dict[str, Callable[[Signs, Report, Analysis], bool]] = {
    "log": _log,
    "cmdline": _cmdline,
    "devices": _devices,
    "firmware": _firmware,
    "drivers": _drivers,
    "finding": _finding,
    "open_by_rule": _open_by_rule,
}
