# SPDX-License-Identifier: GPL-2.0-or-later
"""Pictures of machines: what is drawn, what is counted, ties with their reasons, in SVG, Graphviz and Mermaid."""

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iommud import check
from iommud.address import Address
from iommud.errors import visible
from iommud.model.groups import Rule, Tie
from iommud.render import mermaid, sheet
from iommud.render.dot import quoted, render_dot
from iommud.render.fold import Detail, fitting, folded_words
from iommud.render.forest import Row
from iommud.render.mermaid import render_mermaid
from iommud.render.scene import Scene
from iommud.render.sheet import render_svg
from iommud.render.view import View
from iommud.snapshot import IommuGroup, Snapshot
from iommud.verdict.findings import Kind, Severity
from iommud.verdict.report import Report
from iommud.verdict.scope import Excuse
from iommud.verdict.service import Evidence
from tests import strategies
from tests.machines import ON, Machine
from tests.render.samples import (
    ALIAS_SPLIT,
    FIXTURES,
    FOUNDING,
    NAMES,
    NO_GROUPS,
    SRIOV,
    SWITCH,
    WORKSTATION,
    at,
    finding,
    hostile,
    no_iommu,
    report_of,
)
from tests.render.test_page import large

SVG = "{http://www.w3.org/2000/svg}"
DOT = shutil.which("dot")
CAPTURES = sorted(path.name.removesuffix(".tar.gz") for path in FIXTURES.glob("*/*.tar.gz"))
RENDERERS: dict[str, Callable[..., str]] = {
    "svg": render_svg,
    "dot": render_dot,
    "mmd": lambda report, **more: render_mermaid(report, **more).text,
}
EVERY_FORMAT = pytest.mark.parametrize("form", list(RENDERERS))


def crowded(virtual: int = 63, ports: int = 40) -> Machine:
    """A network card with many virtual functions, and many root ports with a drive each; every one isolated."""
    one = Machine()
    one.add("00:01.0", 4, to=1, acs=ON)
    card = one.add("01:00.0", 0, driver="ice")
    for number in range(1, virtual + 1):
        one.add(f"01:{number // 8:02x}.{number % 8}", 0, physfn=card, ids="8086:1889", acs=ON)
    for port in range(ports):
        one.add(f"00:{2 + port // 8:02x}.{port % 8}", 4, to=2 + port, acs=ON, ids="8086:2030", mf=True)
        one.add(f"{2 + port:02x}:00.0", 0, ids="144d:a808", driver="nvme")
    return one


def grouped(machine: Machine, **numbers: int | None) -> Report:
    """The report on a machine that the kernel has grouped as expected, but for some functions."""
    bare = replace(machine.snapshot(), source="built", iommus={"dmar0": ()}, kernel_release="6.12.1")
    bare = replace(bare, table_names=frozenset({"DMAR"}), groups_listed=True, cmdline="quiet")
    expected = sorted(machine.groups(), key=min)
    found = {address: number for number, group in enumerate(expected) for address in sorted(group)}
    known = {
        address: numbers.get(f"at_{address}".replace(":", "_").replace(".", "_"), n) for address, n in found.items()
    }
    functions = tuple(replace(one, group=known[one.address]) for one in bare.functions)
    places: dict[int, list[Address]] = {}
    for address, number in known.items():
        if number is not None:
            places.setdefault(number, []).append(address)
    groups = {number: IommuGroup(number=number, members=tuple(members)) for number, members in places.items()}
    return check(replace(bare, functions=functions, groups=groups))


def rows_of(report: Report, detail: Detail) -> list[Row]:
    return list(Scene.of(report, NAMES, detail).rows)


def addresses(rows: list[Row]) -> list[Address]:
    return sorted(address for row in rows for address in row.members)


def drawn(report: Report, **more: Any) -> ET.Element:
    return ET.fromstring(render_svg(report, names=NAMES, **more))  # noqa: S314 - the program's own output


def titles(root: ET.Element, kind: str) -> list[str]:
    """The titles of the elements of a class."""
    return [str(one.findtext(f"{SVG}title")) for one in root.iter() if kind in one.get("class", "").split()]


def attribute(text: str, name: str) -> list[str]:
    """The values of an attribute in the language of Graphviz, as they are written."""
    return re.findall(rf'{name}="((?:[^"\\]|\\.)*)"', text)


def parsed(text: str) -> str:
    """What Graphviz understands of a graph, or fails on."""
    assert DOT is not None
    done = subprocess.run([DOT, "-Tdot"], input=text, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def well_formed(text: str) -> None:
    """The grammar of what is written here: strings closed, brackets paired, one statement on each line."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "S", text)
    assert '"' not in bare
    assert bare.startswith("digraph iommud {")
    assert bare.endswith("}\n")
    assert bare.count("{") == bare.count("}")
    for line in bare.splitlines()[1:-1]:
        assert re.fullmatch(r" +(\w+ -> \w+|node|edge|n\d+|subgraph \w+ \{|\}|)( ?\[?(\w+=[\w.]+ ?)*\]?)", line), line


@pytest.mark.parametrize("name", CAPTURES)
@pytest.mark.parametrize("detail", list(Detail))
def test_every_function_has_a_row_or_is_counted_by_one(name: str, detail: Detail) -> None:
    report = report_of(name)
    assert report.analysis is not None
    rows = rows_of(report, detail)

    assert addresses(rows) == sorted(report.analysis.explainer.model.topology.functions)
    assert detail is not Detail.WHOLE or not any(row.tops for row in rows)


@given(strategies.machines())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_any_machine_gives_sound_pictures_of_all_of_its_functions(machine: Machine) -> None:
    report = check(replace(machine.snapshot(), iommus={"dmar0": ()}))
    for detail in Detail:
        root = drawn(report, detail=detail)
        rows = rows_of(report, detail)

        assert addresses(rows) == sorted(machine.functions)
        assert len(titles(root, "fn")) + len(titles(root, "fold")) == sum(bool(row.members) for row in rows)
        well_formed(render_dot(report, detail=detail))
        flowchart_is_sound(render_mermaid(report, detail=detail).text)


def flowchart_is_sound(text: str) -> None:
    """Every name is declared once, and labels hold nothing but letters, safe signs, codes and line breaks."""
    body = text.split("\n---\n", 1)[1].splitlines()
    declared = [found[1] for line in body if (found := re.match(r" +(n\d+)[\[({]", line))]
    used = {name for line in body if re.search(r"---|===|\.-", line) for name in re.findall(r"\bn\d+\b", line)}

    assert body[0] == "flowchart LR"
    assert len(declared) == len(set(declared))
    assert used <= set(declared)
    assert sum("subgraph" in line for line in body) == sum(line.strip() == "end" for line in body)
    for label in re.findall(r'"([^"]*)"', "\n".join(body)):
        assert re.fullmatch(r"(?:[\w .,:()\[\]/+-]|#\d+;|<br>)*", label, re.ASCII), label


def test_siblings_that_are_alike_are_counted_on_a_large_machine() -> None:
    report = grouped(crowded())
    rows = Scene.of(report).rows
    words = [folded_words(View.of(report), row) for row in rows if row.tops]

    assert words == [
        "62 more virtual functions, a group each (43 to 104)",
        "39 more root ports, 78 functions with those below, a group each",
    ]


def test_a_small_machine_is_drawn_whole() -> None:
    assert fitting(96) is Detail.WHOLE
    assert fitting(97) is Detail.ALIKE
    assert not any(row.tops for row in Scene.of(grouped(crowded(virtual=20, ports=20))).rows)


def test_what_is_told_of_a_row_that_counts_are_its_group_and_its_findings() -> None:
    report = grouped(crowded())
    view = View.of(report)
    virtual = tuple(one for one in report.actual.number_of if one.bus == 1 and one.devfn)
    together = replace(report, actual=replace(report.actual, number_of=dict.fromkeys(virtual, 7)))
    gone = replace(report, actual=replace(report.actual, number_of={virtual[0]: 7}))
    none = replace(report, actual=replace(report.actual, number_of={}))
    several = replace(report, actual=replace(report.actual, number_of={one: one.device for one in virtual}))
    row = Row(virtual[0], 1, None, virtual, virtual)

    assert folded_words(View.of(together), row) == "63 more virtual functions, group 7"
    assert folded_words(View.of(gone), row) == "63 more virtual functions, in 1 group, 62 without"
    assert folded_words(View.of(none), row) == "63 more virtual functions, no group"
    assert folded_words(View.of(several), row) == "63 more virtual functions, in 8 groups (0 to 7)"
    found = replace(view, findings={virtual[3]: (finding(Kind.UNISOLATED, Severity.INFO, "01:00.3"),)})
    assert folded_words(found, row).endswith(", unisolated")


@pytest.mark.parametrize(
    ("kind", "severity"), [(Kind.UNISOLATED, Severity.INFO), (Kind.ALIAS_SPLIT, Severity.CRITICAL)]
)
def test_a_function_with_a_finding_is_not_counted_among_those_without(kind: Kind, severity: Severity) -> None:
    report = grouped(crowded())
    one = at("01:02.3")
    wrong = replace(report, findings=(finding(kind, severity, str(one)),))
    for detail in (Detail.ALIKE, Detail.QUIET):
        own = [row.address for row in rows_of(wrong, detail)]

        assert one in own
        assert at("01:00.1") in own


def test_what_has_the_same_finding_is_counted_with_its_mark() -> None:
    report = grouped(crowded())
    virtual = [str(one) for one in report.actual.number_of if one.bus == 1 and one.devfn]
    wrong = replace(report, findings=tuple(finding(Kind.UNGROUPED, Severity.CRITICAL, one) for one in virtual))
    root = drawn(wrong)
    fold = next(one for one in root.iter() if one.get("class") == "fold critical")

    assert "62 more virtual functions, a group each (43 to 104), ungrouped" in "".join(fold.itertext())
    assert fold.find(f".//{SVG}g[@class='mark critical']") is not None


def test_functions_are_alike_only_if_their_groups_lie_alike() -> None:
    machine = Machine()
    for port in range(40):
        machine.add(f"00:{1 + port:02x}.0" if port < 31 else f"00:{port - 30:02x}.1", 4, to=1 + port, acs=ON, mf=True)
        for number in range(3):
            machine.add(f"{1 + port:02x}:00.{number}", 0, mf=True)
    right = grouped(machine)
    apart = grouped(machine, at_0000_09_00_1=900, at_0000_09_00_2=900)

    assert [len(row.tops) for row in rows_of(right, Detail.ALIKE) if row.tops] == [39]
    assert [len(row.tops) for row in rows_of(apart, Detail.ALIKE) if row.tops] == [38]


def test_ties_have_the_reason_as_their_title() -> None:
    report = report_of(WORKSTATION)
    assert report.analysis is not None
    explainer = report.analysis.explainer
    root = drawn(report, detail=Detail.WHOLE)

    assert sorted(titles(root, "tie")[1:]) != []
    found = {title for title in titles(root, "tie") if title != "None"}
    assert found == {explainer.reason(tie).text for tie in explainer.ties}


def test_a_tie_that_the_kernel_did_not_follow_says_so() -> None:
    said = [title for title in titles(drawn(report_of(FOUNDING)), "broken") if title != "None"]

    assert len(said) == 2
    assert all(title.endswith("; yet the kernel has them in different groups") for title in said)
    assert "broken" not in render_svg(report_of(SRIOV)).replace('tie broken"><path/>', "").partition("</style>")[2]


def test_a_tie_to_a_function_that_rightly_has_no_group_is_whole() -> None:
    report = report_of(FOUNDING)
    excused = replace(report, without=tuple((one, Excuse("known", Evidence.SYSFS)) for one in report.actual.number_of))

    assert [edge.broken for edge in Scene.of(report).edges.all].count(True) == 2
    assert not any(edge.broken for edge in Scene.of(excused).edges.all)


def test_ties_to_a_row_that_counts_are_one() -> None:
    machine = Machine()
    machine.add("00:01.0", 4, to=1)
    card = machine.add("01:00.0", 0)
    for number in range(1, 120):
        machine.add(f"01:{number // 8:02x}.{number % 8}", 0, physfn=card, ids="8086:1889")
    report = grouped(machine)
    found = [title for title in titles(drawn(report), "tie") if title != "None"]

    assert len(found) == 3
    assert sum(", and 117 more ties like this one" in title for title in found) == 1


def test_a_tie_between_two_parts_leaves_both(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    for number in range(8):
        machine.add(f"00:1f.{number}", None, mf=True)
    monkeypatch.setattr(sheet, "PART", 2)
    report = grouped(machine)
    root = drawn(report)
    heights = [int(panel.get("height", "")) for panel in root.findall(f"{SVG}svg")]
    paths = [str(path.get("d")) for panel in root.findall(f"{SVG}svg") for path in panel.iter(f"{SVG}path")]

    assert len(heights) > 2
    assert any(re.match(r"M\d+ 0V", path) for path in paths)
    assert any(path.endswith(f"V{height}") for path in paths for height in heights)


def test_ties_that_overlap_lie_in_lanes_of_their_own_until_there_are_too_many() -> None:
    machine = Machine()
    for number in range(60):
        machine.add(f"00:{number // 2:02x}.{number % 2}", None)
    ties = tuple(Tie(Address(0, 0, 15 + number, 0), Address(0, 0, number, 0), Rule.DMA_ALIAS) for number in range(14))
    report = grouped(machine)
    assert report.analysis is not None
    explainer = replace(report.analysis.explainer, ties=ties)
    report = replace(report, analysis=replace(report.analysis, explainer=explainer))
    lanes = {title.group(1) for title in re.finditer(r'class="hit" d="M\d+ \d+H(\d+)q', render_svg(report))}

    assert len(lanes) == 8


def test_a_large_machine_stands_in_columns_about_as_high_as_each_other_but_for_the_last() -> None:
    report = large(60)
    root = drawn(report)
    panels = [
        (int(one.get("x", "")), int(one.get("y", "")) + int(one.get("height", ""))) for one in root.findall(f"{SVG}svg")
    ]
    ends = {x: max(end for at, end in panels if at == x) for x, _ in panels}
    *full, last = (ends[x] for x in sorted(ends))

    assert len(full) > 1
    assert max(full) < 1.3 * min(full)
    assert last <= max(full)
    assert 0.8 < int(root.get("width", "")) / int(root.get("height", "")) < 2.5


def test_findings_about_the_machine_as_a_whole_stand_at_the_top() -> None:
    report = report_of(NO_GROUPS)
    machine = replace(report, findings=(*report.findings, finding(Kind.UNDECIDABLE, Severity.WARNING)))
    said = "The groups of this machine could not be judged."

    assert said in "".join(drawn(machine).itertext())
    assert f"warning undecidable: {said}" in render_dot(machine)


@pytest.mark.skipif(DOT is None, reason="Graphviz is not installed")
@pytest.mark.parametrize("name", [FOUNDING, SRIOV, SWITCH, NO_GROUPS, WORKSTATION, "precision5820"])
def test_graphviz_draws_each_group_as_a_cluster_with_its_members(name: str) -> None:
    report = report_of(name)
    text = render_dot(report, names=NAMES)
    understood = parsed(text)

    well_formed(text)
    several = {number for number, members in report.actual.members.items() if len(members) > 1}
    assert {int(number) for number in re.findall(r"subgraph cluster_(\d+)", understood)} == several


@pytest.mark.skipif(DOT is None, reason="Graphviz is not installed")
@given(st.text())
@settings(max_examples=30, deadline=None)
def test_graphviz_shows_foreign_strings_as_they_are(text: str) -> None:
    assert DOT is not None
    graph = f"graph {{ n [label={quoted(text)}] }}"
    done = subprocess.run([DOT, "-Tsvg"], input=graph, capture_output=True, text=True, timeout=60, check=True)
    root = ET.fromstring(re.sub(r"<!DOCTYPE[^>]*>", "", done.stdout))  # noqa: S314 - written by Graphviz just now
    shown = "".join(str(one.text or "") for one in root.iter(f"{SVG}text"))

    assert shown.replace("\xa0", " ").strip() == visible(text).replace("\xa0", " ").strip()


@pytest.mark.parametrize("form", list(RENDERERS))
def test_foreign_strings_stay_text(form: str) -> None:
    text = RENDERERS[form](hostile())

    assert "<script" not in text or form == "dot"
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "evil" in text


def test_strings_of_graphviz_hold_no_escapes_and_no_references() -> None:
    assert quoted('a"b\\N &amp; \n') == '"a\\"b\\\\N &amp;amp; \\\\n"'
    well_formed(render_dot(hostile()))


def test_ties_in_graphviz_have_rule_and_reason() -> None:
    text = render_dot(report_of(FOUNDING))
    reasons = [one for one in attribute(text, "tooltip") if "yet the kernel" in one]

    assert len(reasons) == 2 * 2  # of the line, and of its label
    assert "path without ACS" in attribute(text, "label")
    assert text.count("style=dotted") == 2


@pytest.mark.parametrize("detail", [None, Detail.WHOLE])
def test_a_flowchart_too_large_for_mermaid_says_so(detail: Detail | None) -> None:
    flowchart = render_mermaid(grouped(crowded(virtual=250, ports=200)), detail=detail)

    if detail is None:
        assert (flowchart.notice, len(flowchart.text) < mermaid.MAX_TEXT) == ("", True)
    else:
        assert "raise maxTextSize and maxEdges" in flowchart.notice
        assert f"%% {flowchart.notice}\n" in flowchart.text


def test_a_machine_too_large_for_mermaid_is_drawn_in_less_detail_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mermaid, "MAX_EDGES", 5)
    report = grouped(crowded())
    small = render_mermaid(report)
    monkeypatch.setattr(mermaid, "MAX_EDGES", 1)
    never = render_mermaid(report)

    assert "--all shows everything" in small.notice
    assert "raise maxTextSize and maxEdges" in never.notice
    assert small.text.partition("flowchart")[2].count("[") <= never.text.count("[")


@pytest.mark.parametrize("report", [check(Snapshot(source="empty")), replace(no_iommu(), analysis=None)])
@EVERY_FORMAT
def test_without_functions_a_picture_has_a_headline_only(form: str, report: Report) -> None:
    text = RENDERERS[form](report)

    assert "No IOMMU is in use" in text
    assert "0000:00" not in text


def test_an_edge_of_a_report_without_the_analysis_has_the_rule_only() -> None:
    edge = Scene.of(report_of(FOUNDING)).edges.all[0]

    assert edge.title(View.of(replace(report_of(FOUNDING), analysis=None))) == edge.words


@pytest.mark.parametrize("name", [FOUNDING, ALIAS_SPLIT, SRIOV])
@EVERY_FORMAT
def test_the_picture_of_a_capture_stays_as_it_is(form: str, name: str, golden: Callable[[str, str], None]) -> None:
    text = RENDERERS[form](report_of(name), names=NAMES)
    golden(f"render/graph/{name}.{form}", re.sub(r"<style>.*?</style>", "<style></style>", text))


def test_the_picture_in_the_documentation_is_the_one_that_is_drawn(request: pytest.FixtureRequest) -> None:
    place = FIXTURES.parent.parent / "docs" / "images" / "graph-founding.svg"
    text = render_svg(report_of(FOUNDING), names=NAMES)

    if request.config.getoption("--update-golden"):
        place.write_text(text, encoding="utf-8")
    assert place.read_text(encoding="utf-8") == text
