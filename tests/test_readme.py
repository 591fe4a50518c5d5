# SPDX-License-Identifier: GPL-2.0-or-later
"""The README shows what iommud prints, and its commands give the answers that it names."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from iommud import check, read_sysfs
from iommud.render.style import Style
from iommud.render.text import render_text
from iommud.verdict.report import Report

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
SHOWN = re.compile(r"<!-- output: check (\S+) -->\n```text\n(.*?)```\n<!-- end -->", re.DOTALL)


def report_of(path: str) -> Report:
    return check(read_sysfs(str(ROOT / path)))


def test_the_output_shown_is_the_output_printed(request: pytest.FixtureRequest) -> None:
    text = README.read_text(encoding="utf-8")
    found = SHOWN.search(text)
    assert found is not None
    printed = render_text(report_of(found[1]), style=Style())

    if request.config.getoption("--update-golden"):
        README.write_text(text[: found.start(2)] + printed + text[found.end(2) :], encoding="utf-8")
    else:
        assert found[2] == printed


PICTURES: list[tuple[str, Callable[[Report], bool]]] = [
    ("6.1bug-amd64-virtio-at-0x3-seed-vga-builtin-q7.2", lambda report: len(report.findings) == 2),
    ("6.12-amd64-intel-seed-q7.2", lambda report: not report.findings),
    ("6.12-arm64-smmuv3-seed-rp-q7.2", lambda report: not report.findings),
    ("6.1v-amd64-virtio-vnet-bridge-q7.2", lambda report: report.findings[0].kind == "alias-split"),
    ("7.3-amd64-virtio-two-e1000-rp-q10.0", lambda report: report.findings[0].kind == "no-groups"),
]


@pytest.mark.parametrize(("name", "holds"), PICTURES)
def test_the_pictures_of_the_thread_are_as_the_readme_says(name: str, holds: Callable[[Report], bool]) -> None:
    assert f"iommud check {name}.tar.gz" in README.read_text(encoding="utf-8")
    assert holds(report_of(f"tests/fixtures/captures/{name}.tar.gz"))
