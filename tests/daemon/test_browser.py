# SPDX-License-Identifier: GPL-2.0-or-later
"""The status page in a real browser: what is seen, at which width, in which colours, and by keyboard alone."""

import asyncio
import struct
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from iommud.daemon.publication import save
from iommud.render.page import PageOptions, render_page
from tests.daemon.browser import CHROMIUM, Tab, browser
from tests.daemon.serving import ROOT, Running, publication, running
from tests.render.samples import FOUNDING, NAMES, report_of
from tests.render.test_page import large

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (apt install chromium)")

IMAGES = ROOT / "docs" / "images"
TOP_OF_GROUPS = "document.querySelector('[aria-labelledby=groups]').getBoundingClientRect().top"
"""Where a picture for the documents ends: below are tables and explanations."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with the page of a guest that has two findings."""
    directory = tmp_path_factory.mktemp("runtime")
    options = PageOptions(machine="guest-17.example.org")
    page = render_page(report_of(FOUNDING), names=NAMES, options=options).encode()
    save(publication(page=page, taken_at=time.time() - 20), directory)
    with running(directory=str(directory)) as found:
        yield found


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with the page of a machine of some 500 functions, whose collector has gone."""
    directory = tmp_path_factory.mktemp("runtime")
    page = render_page(large(40), names=NAMES).encode()
    save(publication(page=page, taken_at=time.time() - 7200), directory)
    with running(directory=str(directory)) as found:
        yield found


def visit(server: Running, profile: Path, look: Callable[[Tab], Awaitable[Any]], path: str = "/") -> tuple[Any, Tab]:
    """Open a page, look at it, and hand back what was seen."""

    async def go() -> tuple[Any, Tab]:
        async with browser(profile) as tab:
            await tab.resize(1100, 900)
            await tab.open(f"http://{server.names[0]}{path}")
            return await look(tab), tab

    return asyncio.run(go())


def test_the_findings_are_seen_and_nothing_is_complained_of(server: Running, tmp_path: Path) -> None:
    async def look(tab: Tab) -> str:
        return str(await tab.evaluate("document.body.innerText"))

    seen, tab = visit(server, tmp_path, look)

    for words in ("2 findings to look at", "isolation-split", "ungrouped", "guest-17.example.org", "seconds old"):
        assert words in seen
    for words in ("Because the kernel wrote", "What to do: run Linux 6.4", "viot-alias-bug", "What these causes mean"):
        assert words in seen
    assert tab.complaints == []
    assert {url.split("/")[2] for url in tab.requests if not url.startswith("data:")} == {server.names[0]}


def test_the_style_applies_under_its_policy(server: Running, tmp_path: Path) -> None:
    async def look(tab: Tab) -> list[str]:
        found = []
        for scheme in ("light", "dark"):
            await tab.prefer(scheme)
            found.append(await tab.evaluate("getComputedStyle(document.body).backgroundColor"))
        return found

    seen, _ = visit(server, tmp_path, look)

    assert seen == ["rgb(255, 255, 255)", "rgb(20, 23, 27)"]


def test_a_script_that_got_into_the_page_would_not_run(server: Running, tmp_path: Path) -> None:
    async def look(tab: Tab) -> Any:
        await tab.evaluate(
            "let s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s); 0"
        )
        return await tab.evaluate("window.ran === undefined")

    seen, tab = visit(server, tmp_path, look)

    assert seen is True
    assert "Content Security Policy" in " ".join(tab.complaints)


def test_a_page_of_its_own_is_styled_and_asks_for_nothing(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(render_page(report_of(FOUNDING), names=NAMES, options=PageOptions(alone=True)), encoding="utf-8")

    async def go() -> tuple[str, Tab]:
        async with browser(tmp_path / "profile") as tab:
            await tab.open(page.as_uri())
            return str(await tab.evaluate("getComputedStyle(document.querySelector('.verdict')).borderLeftStyle")), tab

    style, tab = asyncio.run(go())

    assert style == "solid"
    assert tab.complaints == []
    assert {url.partition(":")[0] for url in tab.requests} <= {"file", "data"}


@pytest.mark.parametrize("width", [360, 480, 800, 1600])
def test_no_width_makes_the_page_scroll_sideways(crowded: Running, tmp_path: Path, width: int) -> None:
    async def look(tab: Tab) -> Any:
        await tab.resize(width, 800)
        await tab.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        return await tab.evaluate("document.documentElement.scrollWidth")

    seen, _ = visit(crowded, tmp_path, look)

    assert seen <= width


def test_addresses_and_marks_are_in_sight_on_a_narrow_screen(server: Running, tmp_path: Path) -> None:
    async def look(tab: Tab) -> Any:
        await tab.resize(360, 800)
        return await tab.evaluate(
            "[...document.querySelectorAll('svg.tree .addr')].map(one => one.getBoundingClientRect().right)"
        )

    seen, _ = visit(server, tmp_path, look)

    assert len(seen) == 9
    assert max(seen) <= 360


def test_a_keyboard_is_enough(server: Running, tmp_path: Path) -> None:
    async def look(tab: Tab) -> list[str]:
        found = []
        for _ in range(40):
            await tab.press("Tab")
            found.append(
                await tab.evaluate(
                    "(e => e.getAttribute('href') || e.tagName.toLowerCase() + '.' + e.className)"
                    "(document.activeElement)"
                )
            )
        return found

    seen, _ = visit(server, tmp_path, look)

    assert seen[:2] == ["#main", "report.json"]
    assert any(link.startswith("#means-") for link in seen)
    assert any(link.startswith("#cause-") for link in seen)
    assert any(link.startswith("#finding-") for link in seen)
    assert {"summary.", "div.drawing"} <= set(seen)


def test_a_marked_function_leads_to_its_finding(server: Running, tmp_path: Path) -> None:
    async def look(tab: Tab) -> Any:
        await tab.evaluate("document.querySelector('a.fn').focus()")
        await tab.press("Enter")
        return await tab.evaluate("document.querySelector(':target').className")

    seen, _ = visit(server, tmp_path, look)

    assert seen == "finding critical"


def test_the_drawing_and_the_tables_have_names_for_those_who_do_not_see_them(server: Running, tmp_path: Path) -> None:
    async def look(tab: Tab) -> set[tuple[str, str]]:
        tree = (await tab.call("Accessibility.getFullAXTree"))["nodes"]
        values = ((node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if "role" in node)
        return set(values)

    seen, _ = visit(server, tmp_path, look)
    roles = {role for role, _ in seen}

    assert {"banner", "main", "navigation", "contentinfo", "heading", "region", "article", "table"} <= roles
    assert ("region", "Functions below pci0000:00, drawing") in seen
    assert ("region", "Topology") in seen
    assert all(name for role, name in seen if role in ("region", "link", "navigation", "heading"))


def test_a_stale_report_of_a_large_machine_says_so(crowded: Running, tmp_path: Path) -> None:
    async def look(tab: Tab) -> str:
        return str(await tab.evaluate("document.querySelector('.verdict').innerText"))

    seen, tab = visit(crowded, tmp_path, look)

    assert "Stale: this report is 2 hours old" in seen
    assert tab.complaints == []


def colours_of(png: bytes) -> int:
    """Different bytes in the picture's data: a blank one has hardly any."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    data, at = b"", 8
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        if kind == b"IDAT":
            data += png[at + 8 : at + 8 + length]
        at += 12 + length
    return len(set(zlib.decompress(data)))


@pytest.mark.parametrize(
    ("name", "scheme", "width"), [("light", "light", 1000), ("dark", "dark", 1000), ("narrow", "light", 360)]
)
def test_a_picture_can_be_taken(
    server: Running, tmp_path: Path, request: pytest.FixtureRequest, name: str, scheme: str, width: int
) -> None:
    async def look(tab: Tab) -> tuple[bytes, bytes]:
        await tab.prefer(scheme)
        await tab.resize(width, 800)
        await tab.resize(width, round(await tab.evaluate(TOP_OF_GROUPS)))
        return await tab.picture(), await tab.picture("webp")

    (seen, small), _ = visit(server, tmp_path, look)

    assert colours_of(seen) > 100
    if request.config.getoption("--update-golden"):
        IMAGES.mkdir(parents=True, exist_ok=True)
        (IMAGES / f"status-{name}.webp").write_bytes(small)
