# SPDX-License-Identifier: GPL-2.0-or-later
"""One of two states that are compared: what a report says, taken from a Report or from its JSON document."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from iommud.address import Address
from iommud.model.groups import Group
from iommud.redact import redact_cmdline
from iommud.snapshot import PciFunction, Snapshot
from iommud.verdict.findings import Finding
from iommud.verdict.report import Analysis, Report
from iommud.verdict.survey import Firmware

__all__ = ["KnownFinding", "Machine", "State", "parameters_of"]

SCHEMA_VERSION = 1
"""Of the JSON documents that can be read."""


@dataclass(frozen=True, slots=True)
class KnownFinding:
    """What both forms of a report say of a finding, and two states are compared by."""

    id: str
    kind: str
    severity: str
    devices: tuple[Address, ...]
    causes: tuple[str, ...]
    """The summary of each cause, to be read after "because"."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What only a snapshot tells, and a JSON report does not hold."""

    functions: Mapping[Address, PciFunction]
    parameters: frozenset[str] | None
    """Words of the kernel command line, with values that are nobody's business blanked; None: not in the snapshot."""
    firmware: Mapping[str, object]
    """What each firmware description says, by its name; None: it has none. One that could not be read is absent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is compared of one state of a machine. Group numbers are no part of it."""

    source: str
    kernel: str | None
    """Release; None: unknown."""
    status: str
    groups: frozenset[Group]
    expected: frozenset[Group] | None
    """None: not decidable, or not judged."""
    ungrouped: frozenset[Address] = frozenset()
    """Functions without a group that should have one."""
    without: Mapping[Address, str] = field(default_factory=dict)
    """Functions that rightly have none, and why."""
    iommus: frozenset[tuple[str, str]] = frozenset()
    """Name and driver of each."""
    findings: tuple[KnownFinding, ...] = ()
    others: frozenset[Address] = frozenset()
    """Functions of which nothing else here speaks."""
    complete: bool = True
    """Whether every function of the machine is known."""
    machine: Machine | None = None
    """None: this state comes from a JSON report."""

    @classmethod
    def of(cls, report: Report) -> State:
        """The state that a report with its analysis describes."""
        machine = None if report.analysis is None else _machine(report.analysis)
        return cls(
            source=report.source,
            kernel=report.kernel.text or None,
            status=report.status.value,
            groups=frozenset(report.actual.groups),
            expected=None if report.expected is None else frozenset(report.expected),
            ungrouped=frozenset(report.ungrouped),
            without={address: excuse.reason for address, excuse in report.without},
            iommus=frozenset(report.iommus),
            findings=tuple(_finding(report, one) for one in report.findings),
            others=frozenset() if machine is None else frozenset(machine.functions),
            complete=machine is not None,
            machine=machine,
        )

    @classmethod
    def of_document(cls, document: object, source: str) -> State:
        """The state that a JSON report describes; ``source`` names it.

        Raises ValueError, with the problem in one line, for what is no report, a report of another version of the
        schema, or that of a source that could not be read.
        """
        found = _require(document, dict, "the document")
        if found.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(f"no report of iommud check with schema_version {SCHEMA_VERSION}")
        if found.get("status") == "error":
            raise ValueError("the report of a source that could not be read")
        return _of_report(found, source)

    @property
    def grouped(self) -> frozenset[Address]:
        """Functions that have a group."""
        return frozenset[Address]().union(*self.groups)

    @property
    def functions(self) -> frozenset[Address]:
        """All functions that are known of."""
        return self.grouped.union(self.ungrouped, self.without, self.others)


def _machine(analysis: Analysis) -> Machine:
    snapshot = analysis.snapshot
    functions = {one.address: one for one in snapshot.functions}
    return Machine(functions, parameters_of(snapshot), _descriptions(analysis.platform.firmware, snapshot))


def parameters_of(snapshot: Snapshot) -> frozenset[str] | None:
    """Words of the kernel command line, with values that are nobody's business blanked; None: not in the snapshot."""
    return None if snapshot.cmdline is None else frozenset(redact_cmdline(snapshot.cmdline).split())


def _descriptions(firmware: Firmware, snapshot: Snapshot) -> dict[str, object]:
    """By meaning, not by bytes: a capture has blanked serial numbers of which no group depends.

    Without the directory of tables nothing is known; a table that is listed and could not be read is unknown too.
    """
    parsed = {"DMAR": firmware.dmar, "IVRS": firmware.ivrs, "IORT": firmware.iort, "VIOT": firmware.viot}
    found: dict[str, object] = {}
    if snapshot.table_names is not None:
        unread = snapshot.table_names - snapshot.tables.keys()
        found = {f"ACPI table {name}": table for name, table in parsed.items() if name not in unread}
    if snapshot.device_tree is not None:
        found["device tree"] = firmware.host_bridges
    return found


def _finding(report: Report, finding: Finding) -> KnownFinding:
    causes = tuple(one.summary for one in report.causes.get(finding.id, ()))
    devices = tuple(sorted(finding.devices))
    return KnownFinding(finding.id, finding.kind.value, finding.severity.value, devices, causes)


def _of_report(found: dict[str, Any], source: str) -> State:
    groups = _require(found.get("groups"), dict, "groups")
    iommu = _require(found.get("iommu"), dict, "iommu")
    expected = groups.get("expected")
    without = [_require(one, dict, "groups.without") for one in _list(groups, "without")]
    state = State(
        source=source,
        kernel=None if found.get("kernel") is None else _require(found["kernel"], str, "kernel"),
        status=_require(found.get("status"), str, "status"),
        groups=_partition(groups.get("actual"), "groups.actual"),
        expected=None if expected is None else _partition(expected, "groups.expected"),
        ungrouped=frozenset(_addresses(groups.get("ungrouped"), "groups.ungrouped")),
        without={_address(one.get("device")): _text(one, "reason") for one in without},
        iommus=frozenset((_text(one, "name"), _text(one, "driver")) for one in _list(iommu, "instances")),
        findings=tuple(_read_finding(one) for one in _list(found, "findings")),
    )
    number = _require(found.get("functions"), int, "functions")
    return _with_completeness(state, number)


def _with_completeness(state: State, number: int) -> State:
    """A report names functions that have a group or where one is missing; on a machine not judged that is not all."""
    return replace(state, complete=len(state.functions) == number)


def _read_finding(value: object) -> KnownFinding:
    found = _require(value, dict, "findings")
    causes = tuple(_text(one, "summary") for one in _list(found, "causes"))
    devices = tuple(sorted(_addresses(found.get("devices"), "devices of a finding")))
    return KnownFinding(_text(found, "id"), _text(found, "kind"), _text(found, "severity"), devices, causes)


def _require(value: Any, kind: type, name: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{name} is not what a report has there")  # noqa: TRY004 - the input is wrong, not the caller
    return value


def _list(found: object, name: str) -> list[Any]:
    value: list[Any] = _require(_require(found, dict, name).get(name), list, name)
    return value


def _text(found: object, name: str) -> str:
    value: str = _require(_require(found, dict, name).get(name), str, name)
    return value


def _address(value: object) -> Address:
    return Address.parse(_require(value, str, "an address"))


def _addresses(value: object, name: str) -> list[Address]:
    return [_address(one) for one in _require(value, list, name)]


def _partition(value: object, name: str) -> frozenset[Group]:
    """Groups, none of them empty and no function in two. Raises ValueError otherwise."""
    found = [frozenset(_addresses(one, name)) for one in _require(value, list, name)]
    if not all(found):
        raise ValueError(f"{name} has a group without members")
    if sum(map(len, found)) != len(frozenset[Address]().union(*found)):
        raise ValueError(f"{name} has a function in two groups")
    return frozenset(found)
