# SPDX-License-Identifier: GPL-2.0-or-later
"""The status page: what it says of each report, that it is sound HTML, and that foreign text stays text."""

import colorsys
import datetime as dt
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommud import check
from iommud.address import Address
from iommud.causes.cause import CauseId
from iommud.render import page_groups, page_topology, stylesheet
from iommud.render.age import AGE_TOKEN, age_html, age_line, age_words
from iommud.render.forest import forest, split
from iommud.render.markup import esc
from iommud.render.page import MEANINGS, PageOptions, render_page
from iommud.render.page_causes import CAUSE_MEANINGS
from iommud.snapshot import IommuGroup, Snapshot
from iommud.verdict.findings import Kind, Severity
from iommud.verdict.report import Acceptance, Failure, Report
from tests.render.samples import (
    ALIAS_SPLIT,
    FIXTURES,
    FOUNDING,
    HEALTHY,
    NAMES,
    NO_GROUPS,
    SRIOV,
    SWITCH,
    WORKSTATION,
    cause,
    explained,
    finding,
    foreign,
    hostile,
    merged,
    no_iommu,
    report_of,
    undecidable,
    unexplained,
    with_findings,
)

VOID = {"meta", "link", "br", "input"}
CAPTURES = sorted(path.name.removesuffix(".tar.gz") for path in FIXTURES.glob("*/*.tar.gz"))
BUILT: dict[str, Callable[[], Report | Failure]] = {
    "undecidable": undecidable,
    "merged": merged,
    "no iommu": no_iommu,
    "foreign": foreign,
    "hostile": hostile,
    "empty": lambda: check(Snapshot(source="empty")),
    "unreadable": lambda: Failure("some.tar.gz", "some.tar.gz: holds no PCI bus"),
}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    text: str = ""


@dataclass
class Reader(HTMLParser):
    """Reads a page strictly: what is opened is closed, in the right order."""

    elements: list[Element] = field(default_factory=list)
    open: list[Element] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), f"an attribute of <{tag}> is given twice"
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element.text += data

    def all(self, tag: str, css_class: str = "") -> list[Element]:
        return [
            one
            for one in self.elements
            if one.tag == tag and (not css_class or css_class in one.attributes.get("class", "").split())
        ]


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert not reader.open
    return reader


def page_of(report: Report | Failure) -> Reader:
    return read(render_page(report, names=NAMES))


def sample(name: str) -> Report | Failure:
    return BUILT[name]() if name in BUILT else report_of(name)


EVERY = pytest.mark.parametrize("name", [*CAPTURES, *BUILT])


@EVERY
def test_the_page_is_sound_html_with_nothing_from_elsewhere(name: str) -> None:
    page = page_of(sample(name))
    ids = Counter(one.attributes["id"] for one in page.elements if "id" in one.attributes)
    used = [one.attributes["href"] for one in page.elements if "href" in one.attributes]
    labels = " ".join(one.attributes.get("aria-labelledby", "") for one in page.elements).split()

    assert max(ids.values()) == 1
    assert {link[1:] for link in used if link.startswith("#")} <= set(ids)
    assert set(labels) <= set(ids)
    assert all(re.match(r"#|data:image/svg|report\.|metrics$", link) for link in used)
    assert not {"script", "iframe", "object", "img", "form"} & {one.tag for one in page.elements}
    assert not [
        one for one in page.elements if any(n.startswith("on") or n in ("style", "src") for n in one.attributes)
    ]


@EVERY
def test_the_page_has_landmarks_a_language_and_headings_in_order(name: str) -> None:
    page = page_of(sample(name))
    levels = [int(one.tag[1]) for one in page.elements if re.fullmatch(r"h[1-6]", one.tag)]

    assert [len(page.all(tag)) for tag in ("header", "nav", "main", "footer", "h1")] == [1] * 5
    assert page.all("html")[0].attributes["lang"] == "en"
    assert page.all("a")[0].attributes["href"] == "#main"
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(svg.attributes.get("aria-hidden") or svg.attributes.get("role") for svg in outer_svgs(page))
    assert all(th.attributes.get("scope") for th in page.all("th"))


def outer_svgs(page: Reader) -> list[Element]:
    return [one for one in page.all("svg") if "y" not in one.attributes]


@EVERY
def test_the_age_has_its_place_once(name: str) -> None:
    assert render_page(sample(name)).count(AGE_TOKEN) == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (HEALTHY, "All groups are as expected"),
        (WORKSTATION, "Nothing is wrong"),
        (ALIAS_SPLIT, "1 finding to look at"),
        (FOUNDING, "2 findings to look at"),
        ("undecidable", "The expected groups cannot be decided"),
        ("no iommu", "No IOMMU is in use"),
        ("unreadable", "The machine could not be read"),
    ],
)
def test_the_verdict_stands_in_words_at_the_top_and_in_the_title(name: str, words: str) -> None:
    page = page_of(sample(name))

    assert page.all("h2")[0].text.lstrip("!i?") == words
    assert page.all("title")[0].text.endswith("iommud")
    assert name == "unreadable" or page.all("title")[0].text.startswith(words)


def test_each_finding_has_its_severity_reasons_id_and_an_explanation() -> None:
    report = report_of(FOUNDING)
    page = page_of(report)
    articles = page.all("article")

    assert len(articles) == len(report.findings)
    for article, one in zip(articles, report.findings, strict=True):
        assert article.text.startswith("!" + one.severity)
        assert one.id in article.text
        assert all(reason.text in article.text for reason in one.reasons[:6])
        assert all(str(device) in article.text for device in one.devices)
        assert MEANINGS[one.kind] in page.all("dl", "meanings")[0].text


def test_the_explanations_can_lie_elsewhere() -> None:
    options = PageOptions(findings_url="https://wiki.example.org/findings/")
    links = [one.attributes["href"] for one in read(render_page(report_of(FOUNDING), options=options)).all("a")]

    assert "https://wiki.example.org/findings/isolation-split.md" in links


def test_each_finding_says_why_by_which_evidence_and_what_to_do() -> None:
    report = report_of(FOUNDING)
    page = page_of(report)

    for article, one in zip(page.all("article"), report.findings, strict=True):
        causes = report.causes[one.id]
        assert causes
        assert article.text.count("Because") == len(causes)
        for why in causes:
            assert f"Because {why.summary}." in article.text
            assert all(line in article.text for line in why.evidence)
            assert f"What to do: {why.remedy}." in article.text
            assert CAUSE_MEANINGS[why.id] in page.all("dl", "meanings")[1].text
    assert "viot-alias-bug (basis: replay, since Linux 5.14, until Linux 6.4," in page.all("article")[0].text
    assert "#cause-viot-alias-bug" in [one.attributes["href"] for one in page.all("a")]


def test_a_finding_that_should_have_a_cause_and_has_none_is_not_explained() -> None:
    said = "Not explained: no cause that iommud knows gives exactly these groups."

    assert said in page_of(unexplained()).all("article")[0].text
    assert "Not explained" not in page_of(report_of(FOUNDING)).all("main")[0].text
    without = with_findings(finding(Kind.INCONSISTENT, Severity.WARNING, "00:1f.0"))
    assert "Not explained" not in page_of(without).all("article")[0].text


@EVERY
def test_a_page_of_its_own_leads_nowhere_and_lets_nothing_in(name: str) -> None:
    text = render_page(sample(name), names=NAMES, options=PageOptions(alone=True))
    page = read(text)
    policy = next(one.attributes for one in page.all("meta") if "http-equiv" in one.attributes)
    digest = b64encode(sha256(page.all("style")[0].text.encode()).digest()).decode()

    assert AGE_TOKEN not in text
    assert page.all("nav") == []
    assert all(one.attributes["href"].startswith(("#", "data:")) for one in page.elements if "href" in one.attributes)
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert policy["content"].startswith(f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:;")
    assert text.index("Content-Security-Policy") < text.index("<style>")


def test_causes_are_shown_of_accepted_findings_too() -> None:
    report = explained(cause(CauseId.LATE_ACS, summary="it came late"))
    accepted = (Acceptance(report.findings[0], "known", dt.date(2030, 1, 31)),)
    page = page_of(replace(report, findings=(), accepted=accepted))

    assert "Because it came late." in page.all("article")[0].text
    assert CAUSE_MEANINGS[CauseId.LATE_ACS] in page.all("dl", "meanings")[1].text


def test_foreign_strings_in_a_cause_stay_text_and_long_evidence_is_cut() -> None:
    text = render_page(explained(cause(), cause(CauseId.LATE_ACS, evidence=())))

    assert "<script" not in text
    assert "and 3 further lines, in the JSON report" in read(text).all("article")[0].text
    assert text.index('id="cause-late-acs"') < text.index('id="cause-probe-order"')


def test_causes_can_be_explained_elsewhere() -> None:
    options = PageOptions(causes_url="https://wiki.example.org/causes/", causes_suffix=".html")
    page = read(render_page(report_of(FOUNDING), options=options))

    assert "https://wiki.example.org/causes/viot-alias-bug.html" in [one.attributes["href"] for one in page.all("a")]


def test_every_cause_is_explained() -> None:
    assert set(CAUSE_MEANINGS) == set(CauseId)


def test_every_kind_of_finding_is_explained() -> None:
    assert set(MEANINGS) == set(Kind)


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("severity", list(Severity))
def test_every_kind_and_severity_can_be_shown(kind: Kind, severity: Severity) -> None:
    page = page_of(with_findings(finding(kind, severity, "00:1f.0", "00:02.0", reasons=9)))

    assert page.all("article")[0].attributes["class"] == f"finding {severity}"
    assert "and 3 further reasons" in page.all("article")[0].text


def test_a_finding_about_many_devices_lists_the_first_and_counts_the_rest() -> None:
    many = [f"{bus:02x}:00.0" for bus in range(30)]
    page = page_of(with_findings(finding(Kind.UNGROUPED, Severity.CRITICAL, *many)))

    assert "and 6 more" in page.all("article")[0].text


def test_accepted_findings_stay_in_sight_with_their_reason() -> None:
    report = report_of(FOUNDING)
    accepted = [Acceptance(one, "known <b>", dt.date(2030, 1, 31)) for one in report.findings]
    page = page_of(replace(report, findings=(), accepted=tuple(accepted)))

    assert page.all("h2")[0].text == "Nothing is wrong beyond what is accepted"
    assert "None besides the accepted ones." in page.all("main")[0].text
    assert [one.attributes["class"] for one in page.all("article")] == ["finding critical accepted"] * 2
    assert "Accepted until 2030-01-31: known <b>" in page.all("article")[0].text


def test_the_machine_goes_by_the_name_that_it_is_given() -> None:
    page = read(render_page(report_of(HEALTHY), options=PageOptions(machine="host <1>")))

    assert "host <1>" in page.all("header")[0].text
    assert "host <1>" in page.all("title")[0].text


def test_what_the_machine_has_stands_in_numbers() -> None:
    facts = page_of(report_of(FOUNDING)).all("dl", "facts")[0].text

    for words in ("Functions9", "5 in groups; 1 should have a group", "Groups3", "not as the kernel has it"):
        assert words in facts
    assert "incomplete" in page_of(undecidable()).all("dl", "facts")[0].text


def test_groups_stand_beside_the_expected_ones() -> None:
    tables = {one.text for one in page_of(report_of(FOUNDING)).all("table")}

    assert any(text.startswith("Groups not as expected") and "with 0000:" in text for text in tables)
    assert any("function without a group that should have one" in text for text in tables)


def test_a_merged_group_tells_into_what_it_could_be_cut() -> None:
    text = page_of(merged()).all("table")[0].text

    assert "0000:00:03.0: alone" in text
    assert "0000:00:04.0: alone" in text


def test_every_member_of_every_group_is_listed() -> None:
    report = report_of(SRIOV)
    listed = " ".join(one.text for one in page_of(report).all("table"))

    assert all(str(address) in listed for address in report.actual.number_of)


def test_functions_rightly_without_a_group_are_listed_with_the_reason() -> None:
    report = report_of(HEALTHY)
    main = page_of(report_of(NO_GROUPS)).all("main")[0].text

    assert "1 function rightly without a group" in main
    assert all(excuse.reason in page_of(report).all("main")[0].text for _, excuse in report.without)


@pytest.mark.parametrize("name", ["hostile", "unreadable"])
def test_foreign_strings_stay_text(name: str) -> None:
    result = sample(name)
    if isinstance(result, Failure):
        result = Failure("<script>a", '\x1b[31m"<script>&\u202e')
    text = render_page(result)

    assert "<script" not in text
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", text)
    assert "script>" in read(text).all("main")[0].text


@given(st.text())
def test_escaped_text_holds_no_markup_and_reads_the_same(text: str) -> None:
    escaped = esc(text)

    assert not set("<>\"'") & set(escaped)
    assert escaped.isprintable()
    assert escaped.encode("utf-8").decode("utf-8") == escaped
    if text.isprintable():
        assert read(f"<p>{escaped}</p>").all("p")[0].text == text


def large(copies: int) -> Report:
    """Copies of a machine, each in a domain of its own."""
    analysis = report_of(SWITCH).analysis
    assert analysis is not None
    one = analysis.snapshot

    def moved(address: Address | None, domain: int) -> Address | None:
        return None if address is None else address._replace(domain=domain)

    functions = [
        replace(
            each,
            address=each.address._replace(domain=domain),
            upstream=moved(each.upstream, domain),
            root=(domain, 0),
            group=None if each.group is None else each.group + 100 * domain,
        )
        for domain in range(copies)
        for each in one.functions
    ]
    groups = {
        group.number + 100 * domain: IommuGroup(
            number=group.number + 100 * domain,
            members=tuple(member._replace(domain=domain) for member in group.members),
        )
        for domain in range(copies)
        for group in one.groups.values()
    }
    return check(replace(one, functions=tuple(functions), groups=groups, tables={}, log=None))


def test_a_large_machine_is_folded_with_the_first_parts_open() -> None:
    page = page_of(large(40))
    folds = page.all("details")
    drawn = [one for one in folds if "pci" in one.text[:3]]

    assert len(drawn) == 40
    assert 1 < sum("open" in one.attributes for one in drawn) < 10
    assert len(page.all("svg", "tree")) == 40


def test_what_is_alike_is_counted_on_a_large_machine_and_the_legend_says_how() -> None:
    machine = report_of("precision5820")
    text = page_of(machine).all("main")[0].text

    assert "7 more root complex integrated endpoints, a group each (2 to 8)" in text
    assert "more like the one before" in text
    assert "more like the one before" not in page_of(report_of(SRIOV)).all("main")[0].text


def test_parts_with_something_wrong_are_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_topology, "OPEN_LIMIT", 1)
    monkeypatch.setattr(page_topology, "PART", 2)
    page = page_of(report_of(FOUNDING))
    drawn = [one for one in page.all("details") if one.text.startswith("pci")]

    assert len(drawn) > 2
    assert all(("open" in one.attributes) == (" critical" in one.text.partition("group")[2]) for one in drawn)


def test_a_page_does_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_topology, "DRAWN_LIMIT", 100)
    monkeypatch.setattr(page_groups, "ROWS_LIMIT", 50)
    monkeypatch.setattr(page_groups, "MEMBERS_LIMIT", 1)
    report = large(40)
    page = page_of(report)

    assert 1 < len(page.all("svg", "tree")) < 10
    assert "Not drawn: the machine is too large" in page.all("main")[0].text
    assert len(page.all("tr")) < 2 * (50 + 1) + 10
    assert "more, in the JSON report" in page.all("main")[0].text


def test_a_tree_is_cut_between_subtrees_only() -> None:
    report = report_of(WORKSTATION)
    assert report.analysis is not None
    for tree in forest(report.analysis.explainer.model.topology):
        parts = split(tree, 5)

        assert [row for part in parts for row in part] == list(tree[1:])
        assert all(part[0].depth == 1 for part in parts)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0 seconds"),
        (0.9, "0 seconds"),
        (1, "1 second"),
        (59.9, "59 seconds"),
        (60, "1 minute"),
        (3599, "59 minutes"),
        (3600, "1 hour"),
        (86399, "23 hours"),
        (86400, "1 day"),
        (1e9, "11574 days"),
    ],
)
def test_an_age_is_told_in_its_largest_unit(seconds: float, words: str) -> None:
    assert age_words(seconds) == words


def test_a_stale_report_is_told_from_a_fresh_one_by_words_and_looks() -> None:
    assert age_line(61, stale=False) == "This report is 1 minute old."
    assert age_line(61, stale=True) == "Stale: this report is 1 minute old, and the collector has not renewed it."
    assert 'class="stale"' in age_html(61, stale=True)
    assert 'class="age"' in age_html(61, stale=False)


def luminance(colour: tuple[float, float, float]) -> float:
    """Relative luminance (WCAG 2.2)."""
    parts = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in colour)
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), parts, strict=True))


def contrast(one: tuple[float, float, float], other: tuple[float, float, float]) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def scheme(text: str) -> dict[str, str]:
    return dict(part.strip().split(":", 1) for part in text.replace("\n", "").split(";") if part.strip())


def colour(text: str) -> tuple[float, float, float]:
    digits = text[1:] if len(text) == 7 else "".join(2 * digit for digit in text[1:])
    red, green, blue = (int(digits[index : index + 2], 16) / 255 for index in (0, 2, 4))
    return red, green, blue


@pytest.mark.parametrize("name", ["_LIGHT", "_DARK"])
def test_all_text_has_enough_contrast(name: str) -> None:
    values = scheme(getattr(stylesheet, name))
    found = {key.removeprefix("--"): colour(value) for key, value in values.items() if value.startswith("#")}
    tint, depth = float(values["--tint"]), float(values["--depth"].rstrip("%")) / 100
    areas = []
    for hue in stylesheet.HUES:
        pure = colorsys.hls_to_rgb(hue / 360, depth, 0.65)
        red, green, blue = (tint * p + (1 - tint) * q for p, q in zip(pure, found["paper"], strict=True))
        areas.append((red, green, blue))
    grounds = [found["paper"], found["panel"], *areas]

    for text in ("ink", "soft", "critical", "warning", "info", "link"):
        assert min(contrast(found[text], ground) for ground in grounds) >= 4.5, text
    for text in ("critical", "warning", "info", "good"):
        assert contrast(found["ink"], found[f"{text}-bg"]) >= 4.5
        assert contrast(found["soft"], found[f"{text}-bg"]) >= 4.5
    for mark in ("critical", "warning", "info"):
        assert contrast(found["on-mark"], found[mark]) >= 4.5
