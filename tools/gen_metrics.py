# SPDX-License-Identifier: GPL-2.0-or-later
"""Write docs/metrics.md from the program's own table of metrics.

usage: python -m tools.gen_metrics [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from iommud.causes.cause import CauseId
from iommud.daemon import families
from iommud.daemon.activity import BOUNDS, TRIGGERS
from iommud.daemon.uevents import ACTIONS
from iommud.render.prometheus import FINDING_SERIES_LIMIT, METRICS, UNEXPLAINED, Metric, Type
from iommud.verdict.findings import Kind, Severity
from iommud.verdict.report import Status

DOCUMENT = Path(__file__).parent.parent / "docs" / "metrics.md"

NOUGHT_INCLUDED = len(Kind) * len(Severity)
FIXED: dict[Metric, int] = {
    families.SNAPSHOT_DURATION: len(BOUNDS) + 3,
    families.SNAPSHOTS: len(TRIGGERS),
    families.UEVENTS: len(ACTIONS) + 1,
    families.WATCH_SOURCE_UP: 2,
    families.FINDINGS_ACCEPTED: NOUGHT_INCLUDED,
    next(one for one in METRICS if one.name == "iommud_findings"): NOUGHT_INCLUDED,
    next(one for one in METRICS if one.name == "iommud_check_status"): len(Status),
    next(one for one in METRICS if one.name == "iommud_functions"): 3,
}
"""Series of the families that have another number than one, and always the same."""
GROWING = {
    "iommud_iommu_info": "I",
    "iommud_group_functions": "G",
    "iommud_finding_info": f"min(P, {FINDING_SERIES_LIMIT})",
    "iommud_function_group": "F, only with `--metrics.function-groups`",
}
"""Series of the families whose number depends on the machine."""


def constant() -> int:
    """Series that every machine has."""
    return sum(FIXED.get(metric, 1) for metric in families.ALL if metric.name not in GROWING)


def most_series(*, iommus: int, groups: int, concerned: int, grouped: int = 0) -> int:
    """The most series that one machine can have; ``grouped`` only if each function has one of its own."""
    return constant() + iommus + groups + min(concerned, FINDING_SERIES_LIMIT) + grouped


def document() -> str:
    """The whole page."""
    return "".join(f"{line}\n" for line in _lines())


def _lines() -> Iterator[str]:
    yield from _INTRODUCTION.format(limit=FINDING_SERIES_LIMIT).splitlines()
    yield from _section("About the machine", families.ABOUT_THE_MACHINE)
    yield ""
    yield "`iommud check --format prometheus` writes these, as far as a single check knows them."
    yield from _section("About the daemon", families.ABOUT_THE_DAEMON)
    yield from _section("About the process that answers", families.PROCESS)
    yield from _values()
    yield from _CARDINALITY.format(
        constant=constant(), limit=FINDING_SERIES_LIMIT, kinds=len(Kind), severities=len(Severity), both=NOUGHT_INCLUDED
    ).splitlines()


def _section(title: str, metrics: Sequence[Metric]) -> Iterator[str]:
    yield ""
    yield f"## {title}"
    yield ""
    yield "| metric | type | labels | series | what it says |"
    yield "|---|---|---|---|---|"
    for metric in metrics:
        labels = ", ".join(f"`{one}`" for one in metric.labels if metric.type is not Type.HISTOGRAM)
        yield f"| `{metric.name}` | {metric.type} | {labels} | {_series(metric)} | {metric.help} |"


def _series(metric: Metric) -> str:
    return GROWING.get(metric.name, str(FIXED.get(metric, 1)))


def _values() -> Iterator[str]:
    yield ""
    yield "## Values of labels"
    yield ""
    values = {
        "kind": Kind,
        "severity": Severity,
        "status": Status,
        "state": ("grouped", "ungrouped", "without"),
        "trigger": TRIGGERS,
        "action": sorted({*ACTIONS, "other"}),
        "source": ("uevents", "groups"),
        "cause": (*CauseId, UNEXPLAINED),
    }
    for name, possible in values.items():
        yield f"- `{name}`: {', '.join(f'`{one}`' for one in possible)}"
    yield "  ([what they mean](causes/README.md)): the first of the finding's causes, which assumes least;"
    yield f"  `{UNEXPLAINED}` if none was found, empty if the finding is of a sort that has no causes"
    yield "- `segment`, `bus`, `device`, `function`: an address as node_exporter's `node_pcidevice_info` spells it, so"
    yield "  that the two can be joined on these four; all empty for a finding about the machine as a whole"
    yield "- `group`: the address of the group's lowest member, so that another numbering changes no series"
    yield "- `id`: of a finding; it stays the same as long as the finding is about the same functions"


_INTRODUCTION = """\
# Metrics

This page is made by `python -m tools.gen_metrics` from the table that the program itself uses.

`GET /metrics` answers in the text format 0.0.4, or in OpenMetrics 1.0.0 to a client that prefers it. Under systemd the
collector's metrics lie in its runtime directory as well, as `metrics.prom` and `metrics.openmetrics`; they are those of
its last look at the machine, and `iommud-web.service` adds what is about its own process.
"""
_CARDINALITY = """
## How many series there are

One machine has at most

    {constant} + I + G + min(P, {limit}) + F

series, where I is the number of its IOMMUs, G that of its IOMMU groups, P the number of pairs of a finding and a
function that it is about, and F the number of functions in groups, which counts only with `--metrics.function-groups`.
The {constant} are the same everywhere: {both} are `iommud_findings`, one for each of {kinds} kinds and {severities}
severities, as many are `iommud_findings_accepted`, and the rest is in the tables above. Nothing that a user, a guest or
a device can name makes a series: names of IOMMUs come from the kernel, and there are as many as IOMMUs. A finding has
one value of `cause` at a time, so that label adds none.

What `iommud_finding_info` leaves out is counted in `iommud_finding_info_omitted`; it keeps the worst findings.
`iommud_findings` counts them all.
"""


def main() -> int:
    """Write the page, or with --check compare it."""
    if "--check" in sys.argv[1:]:
        return int(DOCUMENT.read_text(encoding="utf-8") != document())
    DOCUMENT.write_text(document(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
