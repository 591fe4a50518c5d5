# SPDX-License-Identifier: GPL-2.0-or-later
"""Reports, the daemon's counters and the process as collectors of prometheus-client.

The table of families is in ``iommud.render.prometheus`` (those of a single check) and ``iommud.daemon.families``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from iommud.daemon import families
from iommud.daemon.activity import BOUNDS, TRIGGERS, Activity, Durations
from iommud.daemon.uevents import ACTIONS
from iommud.errors import visible
from iommud.render.prometheus import (
    BUILD_INFO,
    CONFIG_READS,
    SOURCE_UP,
    Metric,
    Type,
    address_labels,
    build_labels,
    samples_of,
)
from iommud.verdict.findings import Kind, Severity
from iommud.verdict.report import Report, Result

__all__ = ["ActivityCollector", "ProcessCollector", "ReportCollector", "started_at"]

Values = dict[tuple[str, ...], float]
"""Series of one family: values of its labels, and what was measured. No series can be there twice."""

_FAMILIES: Mapping[Type, type[GaugeMetricFamily | CounterMetricFamily]] = {
    Type.GAUGE: GaugeMetricFamily,
    Type.COUNTER: CounterMetricFamily,
}


@dataclass(frozen=True, eq=False)
class ReportCollector(Collector):
    """A result, as it was found at one moment."""

    result: Result
    taken_at: float | None
    """Unix seconds; None: the machine was never read."""
    activity: Activity
    function_groups: bool = False
    stale_after: float = 900.0
    """Age in seconds from which the result counts as stale."""

    def collect(self) -> Iterable[Family]:
        """All families about the machine that have series."""
        found: dict[Metric, Values] = {metric: {} for metric in families.ABOUT_THE_MACHINE}
        found[BUILD_INFO][_values(BUILD_INFO, build_labels())] = 1
        for sample in samples_of(self.result):
            found[sample.metric][_values(sample.metric, sample.labels)] = sample.value
        found[SOURCE_UP] = {(): float(self.activity.readable)}
        found[CONFIG_READS] = {(): float(self.activity.config_reads)}
        found[families.STALE_AFTER] = {(): self.stale_after}
        if isinstance(self.result, Report):
            found[families.FINDINGS_ACCEPTED] = _accepted(self.result)
            found[families.FUNCTION_GROUP] = _function_groups(self.result) if self.function_groups else {}
        if self.taken_at is not None:
            found[families.SNAPSHOT_TIMESTAMP] = {(): self.taken_at}
        return (_family(metric, values) for metric, values in found.items() if values)


def _accepted(report: Report) -> Values:
    counts: Values = {(kind, severity): 0 for kind in Kind for severity in Severity}
    for one in report.accepted:
        counts[one.finding.kind, one.finding.severity] += 1
    return counts


def _function_groups(report: Report) -> Values:
    return {
        (*address_labels(address).values(), str(min(group))): 1
        for group in report.actual.groups
        for address in sorted(group)
    }


@dataclass(frozen=True, eq=False)
class ActivityCollector(Collector):
    """What the daemon has done."""

    activity: Callable[[], Activity]

    def collect(self) -> Iterator[Family]:
        """All families about the daemon that have series."""
        now = self.activity()
        found: dict[Metric, Values] = {
            families.SNAPSHOTS: {(one,): now.snapshots.get(one, 0) for one in TRIGGERS},
            families.UEVENTS: {(one,): now.uevents.get(one, 0) for one in sorted({*ACTIONS, "other"})},
            families.WATCH_SOURCE_UP: {(name,): float(up) for name, up in now.sources.items()},
            families.ACCEPT_FILE_VALID: {} if now.accept_file_valid is None else {(): float(now.accept_file_valid)},
        }
        single = {
            families.START_TIME: now.started_at,
            families.SNAPSHOT_ERRORS: now.snapshot_errors,
            families.SNAPSHOTS_RETAKEN: now.snapshots_retaken,
            families.MONITOR_OVERRUNS: now.monitor_overruns,
            families.MONITOR_RESTARTS: now.monitor_restarts,
            families.STATE_WRITE_ERRORS: now.state_write_errors,
        }
        found.update({metric: {(): value} for metric, value in single.items()})
        for metric in families.ABOUT_THE_DAEMON:
            if metric is families.SNAPSHOT_DURATION:
                yield _histogram(metric, now.durations)
            elif found[metric]:
                yield _family(metric, found[metric])


class ProcessCollector(Collector):
    """Memory, CPU time and files of this process.

    prometheus-client's own needs ``/proc/stat``, which ``ProcSubset=pid`` hides.
    """

    def collect(self) -> Iterator[Family]:
        """The families that can be read."""
        values = _process()
        return (_family(metric, {(): values[metric]}) for metric in families.PROCESS if metric in values)


@cache  # or the clock's corrections would look like restarts
def started_at() -> float:
    """When this process started, in Unix seconds; without procfs, when this was asked first."""
    try:
        with open("/proc/self/stat", "rb") as stat:  # noqa: PTH123 - as below
            ticks = int(stat.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError):
        return time.time()
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return round(time.time() - age, 2)


def _process() -> dict[Metric, float]:
    """What proc(5) tells of this process; without procfs nothing."""
    try:
        with open("/proc/self/stat", "rb") as stat, open("/proc/self/limits", "rb") as limits:  # noqa: PTH123 - at each scrape
            fields = stat.read().rpartition(b")")[2].split()
            most = next(line.split()[3] for line in limits if line.startswith(b"Max open files"))
        files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - as above
    except (OSError, StopIteration, IndexError):
        return {}
    ticks = os.sysconf("SC_CLK_TCK")
    return {
        families.CPU_SECONDS: (int(fields[11]) + int(fields[12])) / ticks,
        families.MAX_FDS: float(most) if most.isdigit() else float("inf"),
        families.OPEN_FDS: files - 1,  # but for the one that listed them
        families.RESIDENT_MEMORY: int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
        families.PROCESS_START: started_at(),
        families.VIRTUAL_MEMORY: int(fields[20]),
    }


def _values(metric: Metric, labels: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(labels[name] for name in metric.labels)


def _family(metric: Metric, values: Values) -> Family:
    family = _FAMILIES[metric.type](metric.name, metric.help, labels=metric.labels)
    for labels, value in values.items():
        family.add_metric([visible(label) for label in labels], value)
    return family


def _histogram(metric: Metric, durations: Durations) -> Family:
    bounds = [*(repr(bound) for bound in BOUNDS), "+Inf"]
    buckets = [(bound, float(count)) for bound, count in zip(bounds, durations.cumulative, strict=True)]
    return HistogramMetricFamily(metric.name, metric.help, buckets=buckets, sum_value=durations.sum)
