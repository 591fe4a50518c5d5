# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports as a textfile for node_exporter, in the text exposition format 0.0.4.

Written by hand, for the format is a page long: https://prometheus.io/docs/instrumenting/exposition_formats/.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from iommud import __version__
from iommud.address import Address
from iommud.errors import visible
from iommud.kernel import KNOWN_VERSIONS
from iommud.verdict.findings import Finding, Kind, Severity
from iommud.verdict.report import Failure, Report, Result, Status

FINDING_SERIES_LIMIT = 200
"""Series of ``iommud_finding_info`` per source: one for each function of each finding, worst first."""

UNEXPLAINED = "unexplained"
"""In place of a cause's id, where there should be one and none was found."""


class Type(enum.StrEnum):
    """Types of metrics."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric family."""

    name: str
    type: Type
    help: str
    labels: tuple[str, ...] = ()
    """Labels that each series has; ``source`` is added where several sources are told apart."""


ADDRESS_LABELS = ("segment", "bus", "device", "function")
"""Spelled as the pcidevice collector of node_exporter spells them, so that both can be joined."""

BUILD_INFO = Metric(
    "iommud_build_info",
    Type.GAUGE,
    "Version of iommud and the newest kernel it models; always 1.",
    ("version", "model"),
)
SOURCE_UP = Metric("iommud_source_up", Type.GAUGE, "Whether the machine could be read.")
CHECK_STATUS = Metric(
    "iommud_check_status", Type.GAUGE, "1 for the verdict of the check, 0 for all other verdicts.", ("status",)
)
IOMMU_INFO = Metric(
    "iommud_iommu_info",
    Type.GAUGE,
    "IOMMUs that the kernel lists, with their driver; always 1.",
    ("iommu", "driver"),
)
FUNCTIONS = Metric(
    "iommud_functions",
    Type.GAUGE,
    "PCI functions that have an IOMMU group, lack one (ungrouped) or rightly have none (without).",
    ("state",),
)
GROUPS = Metric("iommud_groups", Type.GAUGE, "IOMMU groups that hold PCI functions.")
GROUP_FUNCTIONS = Metric(
    "iommud_group_functions", Type.GAUGE, "PCI functions in each IOMMU group, named by its lowest member.", ("group",)
)
FINDINGS = Metric("iommud_findings", Type.GAUGE, "Findings by kind and severity.", ("kind", "severity"))
FINDING_INFO = Metric(
    "iommud_finding_info",
    Type.GAUGE,
    "Functions that a finding is about, with the first of its causes; always 1.",
    ("id", "kind", "severity", "cause", *ADDRESS_LABELS),
)
FINDING_INFO_OMITTED = Metric(
    "iommud_finding_info_omitted", Type.GAUGE, "Series of iommud_finding_info left out to bound their number."
)
CONFIG_SPACE_COMPLETE = Metric(
    "iommud_config_space_complete", Type.GAUGE, "Whether every byte of config space that was wanted could be read."
)
CONFIG_READS = Metric("iommud_config_reads_total", Type.COUNTER, "Dwords of config space read.")

METRICS = (
    BUILD_INFO,
    SOURCE_UP,
    CHECK_STATUS,
    IOMMU_INFO,
    FUNCTIONS,
    GROUPS,
    GROUP_FUNCTIONS,
    FINDINGS,
    FINDING_INFO,
    FINDING_INFO_OMITTED,
    CONFIG_SPACE_COMPLETE,
    CONFIG_READS,
)
"""Every family, in the order in which they are written."""

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one metric."""

    metric: Metric
    labels: Labels
    value: int


def render_prometheus(results: Sequence[Result]) -> str:
    """The exposition of some results: every family that has samples, in a fixed order.

    A ``source`` label tells several sources apart; a single one has none.
    """
    by_metric: dict[Metric, dict[str, int]] = {metric: {} for metric in METRICS}
    by_metric[BUILD_INFO][_labels(build_labels())] = 1
    for result, source in zip(results, _source_labels(results), strict=True):
        for sample in samples_of(result):
            # Two findings may say the same of the same function: one series is enough.
            by_metric[sample.metric][_labels({**source, **sample.labels})] = sample.value
    return "".join(_family(metric, values) for metric, values in by_metric.items() if values)


def samples_of(result: Result) -> Iterator[Sample]:
    """Every sample about one source, without labels that name the source."""
    yield Sample(SOURCE_UP, {}, int(isinstance(result, Report)))
    for status in Status:
        yield Sample(CHECK_STATUS, {"status": str(status)}, int(status is result.status))
    if isinstance(result, Report):
        yield from _counts(result)
        yield from _findings(result)


def build_labels() -> Labels:
    """The labels of ``iommud_build_info``."""
    major, minor = KNOWN_VERSIONS[-1]
    return {"version": __version__, "model": f"{major}.{minor}"}


def _counts(report: Report) -> Iterator[Sample]:
    for name, driver in report.iommus:
        yield Sample(IOMMU_INFO, {"iommu": name, "driver": driver}, 1)
    states = {
        "grouped": len(report.actual.number_of),
        "ungrouped": len(report.ungrouped),
        "without": len(report.without),
    }
    for state, number in states.items():
        yield Sample(FUNCTIONS, {"state": state}, number)
    yield Sample(GROUPS, {}, len(report.actual.members))
    for group in report.actual.groups:
        yield Sample(GROUP_FUNCTIONS, {"group": str(min(group))}, len(group))
    yield Sample(CONFIG_SPACE_COMPLETE, {}, int(report.config_complete))
    yield Sample(CONFIG_READS, {}, report.config_reads)


def _findings(report: Report) -> Iterator[Sample]:
    counts = {(kind, severity): 0 for kind in Kind for severity in Severity}
    about: list[Sample] = []
    for finding in report.findings:
        counts[finding.kind, finding.severity] += 1
        about.extend(_about(finding, cause_label(report, finding)))
    for (kind, severity), number in counts.items():
        yield Sample(FINDINGS, {"kind": str(kind), "severity": str(severity)}, number)
    yield from about[:FINDING_SERIES_LIMIT]
    yield Sample(FINDING_INFO_OMITTED, {}, max(0, len(about) - FINDING_SERIES_LIMIT))


def cause_label(report: Report, finding: Finding) -> str:
    """The id of the cause that assumes least, UNEXPLAINED, or nothing for a finding of a kind that has no causes."""
    causes = report.causes.get(finding.id)
    if causes:
        return str(causes[0].id)
    return UNEXPLAINED if finding.calls_for_cause else ""


def _about(finding: Finding, cause: str) -> Iterator[Sample]:
    """One series for each function; a finding about the whole machine has one with an empty address."""
    begin = {"id": finding.id, "kind": str(finding.kind), "severity": str(finding.severity), "cause": cause}
    for address in finding.devices or (None,):
        yield Sample(FINDING_INFO, {**begin, **address_labels(address)}, 1)


def address_labels(address: Address | None) -> Labels:
    """ADDRESS_LABELS of a function; empty ones for the machine as a whole."""
    if address is None:
        return dict.fromkeys(ADDRESS_LABELS, "")
    return {
        "segment": f"{address.domain:04x}",
        "bus": f"{address.bus:02x}",
        "device": f"{address.device:02x}",
        "function": f"{address.function:x}",
    }


def _source_labels(results: Sequence[Report | Failure]) -> Iterator[Labels]:
    """A label for each source; one that is named again gets a number, for no series may appear twice."""
    if len(results) == 1:
        yield {}
        return
    used: set[str] = set()
    for result in results:
        name, number = result.source, 1
        while name in used:
            number += 1
            name = f"{result.source} ({number})"
        used.add(name)
        yield {"source": name}


def _family(metric: Metric, values: Mapping[str, int]) -> str:
    head = f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} {metric.type}\n"
    return head + "".join(f"{metric.name}{labels} {value}\n" for labels, value in values.items())


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    """Label values escape backslash, quote and newline; other control characters are written visibly."""
    return visible(value).replace("\\", "\\\\").replace('"', '\\"')
