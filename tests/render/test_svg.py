# SPDX-License-Identifier: GPL-2.0-or-later
"""The drawing of the topology: every function once, in the area of its group, the wrong ones marked."""

import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest

from iommud import check
from iommud.address import Address
from iommud.render.fold import Detail
from iommud.render.forest import forest
from iommud.render.markup import Palette
from iommud.render.sheet import render_svg
from iommud.render.svg import Drawing
from iommud.render.view import View
from iommud.snapshot import PciFunction, Snapshot
from iommud.verdict.report import Report
from tests.render.samples import (
    ALIAS_SPLIT,
    FIXTURES,
    FOUNDING,
    HEALTHY,
    NAMES,
    SRIOV,
    SWITCH,
    WORKSTATION,
    at,
    hostile,
    no_iommu,
    report_of,
)

SVG = "{http://www.w3.org/2000/svg}"
CAPTURES = sorted(path.name.removesuffix(".tar.gz") for path in FIXTURES.glob("*/*.tar.gz"))


def parsed(report: Report) -> ET.Element:
    drawing = render_svg(report, names=NAMES, detail=Detail.WHOLE)
    return ET.fromstring(drawing)  # noqa: S314 - the program's own output


def functions(root: ET.Element) -> dict[str, ET.Element]:
    """The drawn functions by address."""
    drawn = [one for one in root.iter() if "fn" in one.get("class", "").split()]
    return {str(one.findtext(f"{SVG}text/{SVG}tspan")): one for one in drawn}


def text(element: ET.Element) -> str:
    """What is seen of an element, without its title."""
    return " ".join("".join(one.itertext()) for one in element.iter(f"{SVG}text"))


@pytest.mark.parametrize("name", CAPTURES)
def test_every_function_is_drawn_once_in_a_document_of_its_own(name: str) -> None:
    report = report_of(name)
    root = parsed(report)

    assert report.analysis is not None
    assert sorted(functions(root)) == sorted(map(str, report.analysis.explainer.model.topology.functions))
    assert len(root.findall(f".//{SVG}tspan[@class='addr']")) == len(functions(root))
    assert int(root.get("width", "0")) > 200


@pytest.mark.parametrize("name", [FOUNDING, ALIAS_SPLIT, SRIOV, WORKSTATION])
def test_the_areas_are_the_groups(name: str) -> None:
    report = report_of(name)
    found: dict[int, set[str]] = {}
    for panel in parsed(report).findall(f"{SVG}svg"):
        rows = {address: float(one.find(f"{SVG}text").get("y", "")) for address, one in functions(panel).items()}  # type: ignore[union-attr] # each has one
        for area in (one for one in panel if re.fullmatch(r"g\d+", one.get("class", ""))):
            rectangle, number = area.find(f"{SVG}rect"), area.findtext(f"{SVG}text")
            assert rectangle is not None
            top = float(rectangle.get("y", ""))
            bottom = top + float(rectangle.get("height", ""))
            found.setdefault(int(str(number)), set()).update(one for one, y in rows.items() if top < y < bottom)

    assert found == {number: set(map(str, members)) for number, members in report.actual.members.items()}


def test_members_of_a_group_have_its_colour_wherever_they_are() -> None:
    report = report_of(WORKSTATION)
    view = View.of(report)
    assert report.analysis is not None
    palette = Palette.of(view, forest(report.analysis.explainer.model.topology))

    for members in report.actual.members.values():
        assert len({palette.of_function(view, one) for one in members}) == 1


def test_a_wrong_function_is_marked_by_shape_sign_frame_and_words() -> None:
    found = functions(parsed(report_of(ALIAS_SPLIT)))
    marked = {address for address, one in found.items() if one.find(f".//{SVG}g[@class='mark critical']") is not None}

    assert marked == {str(one) for finding in report_of(ALIAS_SPLIT).findings for one in finding.devices}
    for address in marked:
        assert "!" in text(found[address])
        assert "alias-split: expected with 0000:" in text(found[address])
        assert found[address].find(f".//{SVG}rect[@class='halo']") is not None
        assert "critical: alias-split" in str(found[address].findtext(f"{SVG}title"))
    assert not any("expected" in text(one) for address, one in found.items() if address not in marked)


def test_a_remark_has_a_mark_and_a_word_and_no_frame() -> None:
    found = functions(parsed(report_of(SWITCH)))
    marked = [one for one in found.values() if one.find(f".//{SVG}g[@class='mark info']") is not None]

    assert len(marked) == 4
    assert all("unisolated" in text(one) and one.find(f".//{SVG}rect[@class='halo']") is None for one in marked)


def test_functions_without_a_group_are_told_apart_by_whether_they_should_have_one() -> None:
    labels = [one.text for one in parsed(report_of(FOUNDING)).iter(f"{SVG}text") if "none" in one.get("class", "")]

    assert sorted(map(str, labels)) == ["-"] * 3 + ["none"]


def test_bridges_functions_and_virtual_functions_have_shapes_of_their_own() -> None:
    report = report_of(SRIOV)
    view = View.of(report)
    for address, drawn in functions(parsed(report)).items():
        glyph = next(one for one in drawn if "dot" in one.get("class", "").split())
        function = view.functions[at(address)]

        assert glyph.tag.removeprefix(SVG) == ("rect" if function.is_bridge else "circle")
        assert ("ring" in glyph.get("class", "").split()) == function.is_virtual


def test_the_drawing_follows_the_colour_scheme_of_its_reader() -> None:
    drawing = render_svg(report_of(HEALTHY))

    assert "@media (prefers-color-scheme:dark)" in drawing
    assert not re.search(r"""(href|src|style)=|url\(|@import""", drawing)


def test_foreign_strings_stay_text() -> None:
    drawing = render_svg(hostile())

    assert "<script" not in drawing
    assert "\\x1b[31mred\\n<script>" in text(parsed(hostile()))


@pytest.mark.parametrize("report", [check(Snapshot(source="empty")), replace(no_iommu(), analysis=None)])
def test_without_functions_or_without_the_analysis_there_is_a_headline_only(report: Report) -> None:
    root = parsed(report)

    assert functions(root) == {}
    assert text(root).startswith("No IOMMU is in use")


def test_functions_that_lie_below_each_other_are_drawn_all_the_same() -> None:
    ring = [
        PciFunction(
            address=Address(0, bus, 0, 0), upstream=Address(0, 3 - bus, 0, 0), secondary_bus=3 - bus, root=(0, 0)
        )
        for bus in (1, 2)
    ]

    assert len(functions(parsed(check(Snapshot(source="ring", functions=tuple(ring)))))) == 2


def test_a_drawing_inside_a_page_is_named_and_leads_to_the_findings() -> None:
    report = report_of(FOUNDING)
    view = View.of(report)
    assert report.analysis is not None
    trees = forest(report.analysis.explainer.model.topology)
    drawing = Drawing(view, trees[0], Palette.of(view, trees), "Functions <below>", links=True).inline("x")
    root = ET.fromstring(drawing)  # noqa: S314 - the program's own output

    assert root.get("aria-labelledby") == "x-t x-d"
    assert root.findtext("title") == "Functions <below>"
    assert "9 functions in 3 groups" in str(root.findtext("desc"))
    assert {str(one.get("href")).partition(":")[0] for one in root.iter("a")} == {
        "#finding-isolation-split",
        "#finding-ungrouped",
    }
