# SPDX-License-Identifier: GPL-2.0-or-later
"""Families of prometheus-client as bytes, in both formats at once.

prometheus-client writes any family in several schemes of escaping, which takes five times as long, and that time lies
between an event and the metrics that tell of it. What is written here is the same to the byte.
"""

from __future__ import annotations

from functools import lru_cache

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

__all__ = ["exposition", "expositions"]

_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n"})
_QUOTED_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", '"': '\\"'})


def exposition(*collectors: Collector, openmetrics: bool) -> bytes:
    """What collectors give, in OpenMetrics 1.0.0 or in the text format 0.0.4."""
    return expositions(*collectors)[openmetrics]


def expositions(*collectors: Collector) -> tuple[bytes, bytes]:
    """What collectors give, in the text format 0.0.4 and in OpenMetrics 1.0.0; no two may give the same family.

    Gauges, counters and histograms only, without the times at which they were made.
    """
    text: list[str] = []
    openmetrics: list[str] = []
    for collector in collectors:
        for family in collector.collect():
            samples = "".join(map(_line, family.samples))
            text += (_head(family, "_total" if family.type == "counter" else "", _ESCAPES), samples)
            openmetrics += (_head(family, "", _QUOTED_ESCAPES), samples)
    return "".join(text).encode(), "".join((*openmetrics, "# EOF\n")).encode()


def _head(family: Family, suffix: str, escapes: dict[int, str]) -> str:
    name = family.name + suffix
    return f"# HELP {name} {family.documentation.translate(escapes)}\n# TYPE {name} {family.type}\n"


def _line(sample: Sample) -> str:
    value = floatToGoString(sample.value)  # type: ignore[no-untyped-call] # has no annotations
    return f"{sample.name}{_labels(sample.labels)} {value}\n"


def _labels(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join([f'{name}="{_escaped(labels[name])}"' for name in sorted(labels)]) + "}"


@lru_cache(maxsize=4096)  # the same groups and findings at each look
def _escaped(value: str) -> str:
    return value.translate(_QUOTED_ESCAPES)
