# SPDX-License-Identifier: GPL-2.0-or-later
"""Report -> JSON: one document for each source, on one line; docs/json.md describes schema version 1."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from iommud.address import Address
from iommud.causes.cause import Cause
from iommud.model.groups import Group
from iommud.verdict.findings import Finding
from iommud.verdict.report import Acceptance, Failure, Report, Result

SCHEMA_VERSION = 1


def render_json(result: Result) -> str:
    """One line of JSON, without its newline."""
    document = failure_document(result) if isinstance(result, Failure) else report_document(result)
    return json.dumps(document, ensure_ascii=True, separators=(",", ":"))


def failure_document(failure: Failure) -> dict[str, Any]:
    """The document of a source that could not be read."""
    return {
        "schema_version": SCHEMA_VERSION,
        "source": failure.source,
        "kernel": None,
        "status": failure.status.value,
        "error": failure.error,
        "groups": None,
        "findings": [],
    }


def report_document(report: Report) -> dict[str, Any]:
    """The report as values that JSON knows."""
    return {
        "schema_version": SCHEMA_VERSION,
        "source": report.source,
        "kernel": report.kernel.text or None,
        "status": report.status.value,
        "model": {
            "kernel": str(report.kernel),
            "assumed": not report.kernel.readable,
            "judged": report.judged,
        },
        "iommu": {
            "in_use": report.in_use,
            "reason": report.usage_reason,
            "instances": [{"name": name, "driver": driver} for name, driver in report.iommus],
        },
        "config_space": {"complete": report.config_complete, "dwords_read": report.config_reads},
        "functions": report.functions,
        "groups": _groups(report),
        "findings": [_finding(report, one) for one in report.findings],
        **({"accepted": [_accepted(report, one) for one in report.accepted]} if report.accepted else {}),
        "notes": list(report.notes),
    }


def _groups(report: Report) -> dict[str, Any]:
    found: dict[str, Any] = {
        "actual": _partition(report.actual.groups),
        "expected": None if report.expected is None else _partition(report.expected),
        "ungrouped": _addresses(report.ungrouped),
        "without": [
            {"device": str(address), "reason": excuse.reason, "evidence": excuse.evidence.value}
            for address, excuse in report.without
        ],
    }
    if report.finest is not None and report.coarsest is not None:
        found["expected_finest"] = _partition(report.finest)
        found["expected_coarsest"] = _partition(report.coarsest)
    return found


def _finding(report: Report, finding: Finding) -> dict[str, Any]:
    return {
        "id": finding.id,
        "kind": finding.kind.value,
        "severity": finding.severity.value,
        "devices": _addresses(finding.devices),
        "groups": _partition(finding.groups),
        "expected": _partition(finding.expected),
        "reasons": [{"text": one.text, "reference": one.reference} for one in finding.reasons],
        "causes": [_cause(one) for one in report.causes.get(finding.id, ())],
    }


def _cause(cause: Cause) -> dict[str, Any]:
    return {
        "id": cause.id.value,
        "summary": cause.summary,
        "evidence": list(cause.evidence),
        "since": cause.since,
        "until": cause.until,
        "remedy": cause.remedy,
        "basis": cause.basis.value,
    }


def _accepted(report: Report, acceptance: Acceptance) -> dict[str, Any]:
    accepted = {"reason": acceptance.reason, "until": acceptance.until.isoformat()}
    return {**_finding(report, acceptance.finding), "accepted": accepted}


def _addresses(addresses: Iterable[Address]) -> list[str]:
    return [str(address) for address in sorted(addresses)]


def _partition(groups: Iterable[Group]) -> list[list[str]]:
    """Groups in canonical order: each sorted, and all by their lowest member."""
    return [[str(address) for address in members] for members in sorted(sorted(group) for group in groups)]
