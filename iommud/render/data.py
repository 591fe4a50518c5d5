# SPDX-License-Identifier: GPL-2.0-or-later
"""What ``tree`` and ``groups`` show, as values for JSON."""

from __future__ import annotations

from typing import Any

from iommud.address import Address
from iommud.model.acs import AcsModel
from iommud.render.json import SCHEMA_VERSION
from iommud.snapshot import PciFunction
from iommud.verdict.reasons import acs_text, describe_type
from iommud.verdict.report import Analysis, Report


def tree_data(report: Report) -> dict[str, Any]:
    """Every function with its place, type, isolation, actual and expected group."""
    if report.analysis is None:
        raise ValueError("this report was stripped of its analysis")
    expected = {address: group for group in report.expected or () for address in group}
    return {
        "schema_version": SCHEMA_VERSION,
        "source": report.source,
        "status": report.status.value,
        "functions": [_function(report, report.analysis, one, expected) for one in report.analysis.snapshot.functions],
    }


def groups_data(report: Report) -> dict[str, Any]:
    """The kernel's groups by number, and the functions that have none."""
    numbered = sorted(report.actual.members.items())
    return {
        "schema_version": SCHEMA_VERSION,
        "source": report.source,
        "status": report.status.value,
        "groups": [{"number": number, "devices": _sorted(members)} for number, members in numbered],
        "ungrouped": _sorted(report.ungrouped),
        "without": [
            {"device": str(address), "reason": excuse.reason, "evidence": excuse.evidence.value}
            for address, excuse in report.without
        ],
    }


def _function(
    report: Report, analysis: Analysis, function: PciFunction, expected: dict[Address, frozenset[Address]]
) -> dict[str, Any]:
    acs = analysis.explainer.model.acs
    group = expected.get(function.address)
    return {
        "address": str(function.address),
        "vendor": _hexadecimal(function.vendor, 4),
        "device": _hexadecimal(function.device, 4),
        "class": _hexadecimal(function.class_code, 6),
        "driver": function.driver,
        "upstream": None if function.upstream is None else str(function.upstream),
        "physfn": None if function.physfn is None else str(function.physfn),
        "type": describe_type(acs, function),
        "acs": _acs(acs, function),
        "group": report.actual.number_of.get(function.address),
        "expected": None if group is None else _sorted(group),
        "findings": [one.id for one in report.findings if function.address in one.devices],
    }


def _acs(acs: AcsModel, function: PciFunction) -> dict[str, Any]:
    registers = function.config.acs
    return {
        "isolated": acs.verdict(function).isolated,
        "why": acs_text(acs, function),
        "capability": None if registers is None else registers.capability,
        "control": None if registers is None else registers.control,
    }


def _sorted(addresses: frozenset[Address] | tuple[Address, ...]) -> list[str]:
    return [str(address) for address in sorted(addresses)]


def _hexadecimal(number: int | None, digits: int) -> str | None:
    return None if number is None else f"{number:0{digits}x}"
