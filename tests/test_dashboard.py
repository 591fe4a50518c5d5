# SPDX-License-Identifier: GPL-2.0-or-later
"""The Grafana dashboard: its layout, and each of its expressions on a real Prometheus that scrapes real daemons."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from iommud.daemon import families
from tests.daemon.daemons import FOUNDING, VICTIM, Capture, daemon
from tests.prometheus import Server, eventually, prometheus_over

DASHBOARD = Path(__file__).parent.parent / "monitoring" / "grafana-dashboard.json"
EXPORTED = {metric.name for metric in families.ALL}
PORT = "0000:00:02.0"
"""A function of the healthy machine that is alone in its group."""
SCRAPE_INTERVAL = 1
"""Seconds between two scrapes of the servers here."""

_METRIC = re.compile(r"\b(?:iommud|process)_\w+")
_LABEL_VALUES = re.compile(r"label_values\((.+), *(\w+)\)")


def metrics_in(expression: str) -> set[str]:
    """The families that an expression names; series of a histogram count as their family."""
    return {re.sub(r"_bucket$|_sum$|_count$", "", name) for name in _METRIC.findall(expression)}


def dashboard() -> Any:
    return json.loads(DASHBOARD.read_text(encoding="utf-8"))


def queried_variables() -> list[dict[str, Any]]:
    return [variable for variable in dashboard()["templating"]["list"] if variable["type"] == "query"]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def expressions() -> list[tuple[str, str]]:
    """Title and expression of every query of the dashboard."""
    return [(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]


EXPRESSIONS = expressions()
IDS = [f"{title} {number}" for number, (title, _) in enumerate(EXPRESSIONS)]
every_expression = pytest.mark.parametrize(("title", "expression"), EXPRESSIONS, ids=IDS)
of_a_machine = pytest.mark.parametrize(("title", "expression"), [one for one in EXPRESSIONS if "$instance" in one[1]])

GREW = "Groups that grew since yesterday"
EMPTY_ON_THE_FIRST_DAY = {GREW}
"""Compares with the day before, which a server that was started for a test has not seen."""
EMPTY_ON_A_HEALTHY_MACHINE = {"Functions with findings", "Findings over time"}


def test_the_dashboard_names_metrics_that_are_exported() -> None:
    queries = [variable["definition"] for variable in queried_variables()]
    named = set().union(*(metrics_in(text) for text in (*queries, *(one for _, one in EXPRESSIONS))))

    assert named - EXPORTED == set()
    assert len(named) > 15


def test_the_dashboard_shows_a_fleet_and_one_machine_chosen_by_variables() -> None:
    rows = [panel["title"] for panel in dashboard()["panels"] if panel["type"] == "row"]
    variables = [variable["name"] for variable in dashboard()["templating"]["list"]]
    used = set(re.findall(r"\$(\w+)", " ".join(one for _, one in EXPRESSIONS))) - {"__rate_interval"}

    assert rows == ["Fleet", "Machine: $instance"]
    assert variables == ["datasource", "job", "kind", "instance"]
    assert used == {"job", "kind", "instance"}


def test_panels_neither_overlap_nor_share_a_number() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        columns, lines = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        assert columns.stop <= 24
        for cell in itertools.product(columns, lines):
            assert taken.setdefault(cell, panel["title"]) == panel["title"]
    numbers = [panel["id"] for panel in dashboard()["panels"]]

    assert len(set(numbers)) == len(numbers)


def test_every_panel_asks_the_data_source_that_was_chosen() -> None:
    sources = {target["datasource"]["uid"] for panel in panels() for target in panel["targets"]}

    assert sources == {"${datasource}"}


def test_only_what_looks_a_day_back_may_be_empty() -> None:
    assert {title for title, expression in EXPRESSIONS if "offset 1d" in expression} >= EMPTY_ON_THE_FIRST_DAY
    assert {title for title, _ in EXPRESSIONS} >= EMPTY_ON_A_HEALTHY_MACHINE


@dataclass(frozen=True)
class Fleet:
    """A Prometheus, and the daemons that it scrapes: one of a healthy machine, one of a machine with findings."""

    server: Server
    healthy: str
    broken: str

    def choices(self, variable: Mapping[str, Any], chosen: Mapping[str, str]) -> list[str]:
        """What Grafana would offer for a variable, by the same question to Prometheus."""
        match = _LABEL_VALUES.fullmatch(variable["definition"])
        assert match is not None
        found: list[str] = self.server.get(f"label/{match[2]}/values", **{"match[]": resolved(match[1], chosen)})
        return found

    def chosen(self, instance: str, *, everything: bool) -> dict[str, str]:
        """A value for each variable: ``everything`` takes "All" where there is one, else each choice by its name."""
        values: dict[str, str] = {}
        for variable in queried_variables():
            choices = self.choices(variable, values)
            assert choices, variable["name"]
            if not variable["multi"]:
                assert instance in choices
                values[variable["name"]] = instance
            elif everything:
                values[variable["name"]] = variable["allValue"]
            else:
                values[variable["name"]] = f"({'|'.join(map(re.escape, choices))})".replace("\\", "\\\\")
        return values

    def ask(self, expression: str, instance: str = "", *, everything: bool = True) -> list[float]:
        """The values that an expression gives with a machine chosen, the broken one unless told otherwise."""
        text = resolved(expression, self.chosen(instance or self.broken, everything=everything))
        return [float(one["value"][1]) for one in self.server.query(text)]


def resolved(expression: str, values: Mapping[str, str]) -> str:
    """An expression as Grafana sends it: with the variables' values, and a rate interval of four scrapes."""
    known = {"__rate_interval": f"{4 * SCRAPE_INTERVAL}s", **values}
    return re.sub(r"\$(\w+)", lambda match: known[match[1]], expression)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A Prometheus that has scraped two daemons often enough for rates, on machines that they look at all the time."""
    directory = tmp_path_factory.mktemp("fleet")
    facts: dict[str, Any] = {"watch_groups": True, "poll_interval": 1.0, "reconcile_interval": 0.5}
    with (
        daemon(Capture(directory / "healthy"), **facts) as healthy,
        daemon(Capture(directory / "broken", FOUNDING), **facts) as broken,
        prometheus_over([healthy.target, broken.target], directory) as server,
    ):
        eventually(lambda: server.query("count(count_over_time(iommud_groups[1m]) >= 6) == 2") or None)
        yield Fleet(server, healthy.target, broken.target)


@every_expression
@pytest.mark.parametrize("everything", [True, False], ids=["all", "by name"])
def test_every_expression_of_the_dashboard_gives_numbers_on_a_prometheus_that_scrapes_daemons(
    fleet: Fleet, title: str, expression: str, everything: bool
) -> None:
    found = fleet.ask(expression, everything=everything)

    assert not any(map(math.isnan, found))
    assert bool(found) == (title not in EMPTY_ON_THE_FIRST_DAY)


@of_a_machine
def test_a_healthy_machine_lacks_what_is_about_findings_and_nothing_else(
    fleet: Fleet, title: str, expression: str
) -> None:
    assert bool(fleet.ask(expression, fleet.healthy)) == (title not in EMPTY_ON_A_HEALTHY_MACHINE)


@pytest.mark.parametrize(
    ("title", "values"),
    [
        ("Machines", [2]),
        ("With critical findings", [1]),
        ("With warning findings", [0]),
        ("With info findings", [0]),
        ("Without data", [0]),
        ("Stale", [0]),
        ("Config space incomplete", [0]),
        ("Without an IOMMU", [0]),
        ("Machines with findings, by severity", [1]),
        ("Machines with findings, worst first", [2000]),
        ("Versions", [2]),
        ("Causes", [1]),
    ],
)
def test_the_fleet_view_counts_the_machines_and_finds_the_one_with_findings(
    fleet: Fleet, title: str, values: list[float]
) -> None:
    (expression,) = [text for name, text in EXPRESSIONS if name == title]

    assert fleet.ask(expression) == values


def test_the_machine_view_shows_the_machine_that_was_chosen(fleet: Fleet) -> None:
    texts = dict(EXPRESSIONS)

    assert fleet.ask(texts["Critical"], fleet.broken) == [2]
    assert fleet.ask(texts["Critical"], fleet.healthy) == [0]
    assert fleet.ask(texts["Groups"], fleet.broken) == [3]
    assert sum(fleet.ask(texts["Functions"], fleet.broken)) == 9
    assert fleet.ask(texts["Age of the report"], fleet.broken)[0] < 30


def test_the_functions_with_findings_stand_there_with_their_causes(fleet: Fleet) -> None:
    text = resolved(dict(EXPRESSIONS)["Functions with findings"], fleet.chosen(fleet.broken, everything=True))

    assert {one["metric"]["cause"] for one in fleet.server.query(text)} == {"viot-alias-bug"}


def test_what_looks_back_sees_a_group_that_has_grown_and_a_machine_that_has_gone(tmp_path: Path) -> None:
    grew, gone = (next(text for name, text in EXPRESSIONS if name == title) for title in (GREW, "Without data"))
    back = 4
    assert "offset 1d" in grew
    assert "offset 1d" in gone

    def ask(expression: str) -> list[dict[str, Any]]:
        sooner = re.sub(r"offset 1[hd]", f"offset {back}s", expression)
        return server.query(resolved(sooner, {"job": ".+", "kind": ".+"}))

    capture = Capture(tmp_path / "machine")
    with (
        daemon(capture) as stays,
        prometheus_over([stays.target], tmp_path) as server,
    ):
        eventually(lambda: server.query(f"iommud_groups offset {back}s") or None)
        assert ask(grew) == []
        assert [one["value"][1] for one in ask(gone)] == ["0"]
        capture.join(VICTIM, PORT)
        (series,) = eventually(lambda: ask(grew) or None)
        assert (series["metric"]["group"], series["value"][1]) == (PORT, "1")
        stays.process.terminate()
        eventually(lambda: [one for one in ask(gone) if one["value"][1] == "1"] or None)
