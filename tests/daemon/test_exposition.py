# SPDX-License-Identifier: GPL-2.0-or-later
"""The expositions are those that the client library writes of the same families."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector, CollectorRegistry

from iommud.daemon.exposition import exposition, expositions

LABELS = ("group", "bus", "the_function")
texts = st.text(st.sampled_from('a"\\\nZ0 ü{}=,#') | st.characters(codec="utf-8"), max_size=8)
numbers = st.floats() | st.integers(-(10**20), 10**20)


@dataclass(frozen=True, eq=False)
class Given(Collector):
    """A collector of families that are there already."""

    families: tuple[Family, ...]

    def collect(self) -> Iterable[Family]:
        return self.families


@st.composite
def families(draw: st.DrawFn, name: str) -> Family:
    kinds = [GaugeMetricFamily, CounterMetricFamily, HistogramMetricFamily]
    labels = draw(st.permutations(LABELS))[: draw(st.integers(0, 3))]
    family: Any = draw(st.sampled_from(kinds))(name, draw(texts), labels=labels)
    for _ in range(draw(st.integers(0, 3))):
        values = [draw(texts) for _ in labels]
        if isinstance(family, HistogramMetricFamily):
            counts = sorted(draw(st.lists(st.integers(0, 99), min_size=2, max_size=2)))
            buckets = [("0.5", counts[0]), ("+Inf", counts[1])]
            family.add_metric(values, buckets=buckets, sum_value=draw(st.floats(0, 1e9)))
        else:
            family.add_metric(values, draw(numbers))
    found: Family = family
    return found


collectors = st.tuples(*(st.tuples(families(f"one_{index}")) for index in range(3))).map(
    lambda found: [Given(one) for one in found]
)


@given(collectors)
def test_both_formats_are_those_of_the_client_library(given_: list[Given]) -> None:
    registry = CollectorRegistry(auto_describe=False)
    for one in given_:
        registry.register(one)

    text, openmetrics = expositions(*given_)

    assert text == generate_latest(registry)
    assert openmetrics == generate_openmetrics(registry)  # type: ignore[no-untyped-call] # has no annotations
    assert exposition(*given_, openmetrics=False) == text
    assert exposition(*given_, openmetrics=True) == openmetrics


def test_nothing_is_written_of_nothing() -> None:
    assert expositions() == (b"", b"# EOF\n")
