# SPDX-License-Identifier: GPL-2.0-or-later
"""Pictures and pages from the command line: ``iommud graph``, and ``iommud check --format html``."""

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from iommud.render import mermaid
from tests.cli.running import SWITCH, THREAD, call, run

Machines = dict[str, str]
Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("form", "start"),
    [("svg", "<svg "), ("dot", "digraph iommud {"), ("mermaid", '---\ntitle: "2 findings to look at')],
)
def test_a_picture_goes_to_standard_output(form: str, start: str, capsys: Capture) -> None:
    assert call("graph", THREAD, "--format", form) == 0

    answer = capsys.readouterr()
    assert answer.out.startswith(start)
    assert "0000:02:00.0" in answer.out
    assert answer.err == ""


def test_a_picture_is_svg_unless_told_otherwise_and_the_source_may_be_an_option(capsys: Capture) -> None:
    call("graph", THREAD)
    first = capsys.readouterr().out
    call("graph", "--source", THREAD, "--format", "svg")

    assert capsys.readouterr().out == first
    assert ET.fromstring(first).tag.endswith("svg")  # noqa: S314 - the program's own output


def test_a_picture_may_go_into_a_file(tmp_path: Path, capsys: Capture) -> None:
    target = tmp_path / "x.svg"

    assert call("graph", THREAD, "-o", str(target)) == 0
    assert capsys.readouterr().out == ""
    assert target.read_text().startswith("<svg ")


def test_all_draws_what_is_counted_otherwise(capsys: Capture) -> None:
    source = str(Path(THREAD).parent.parent / "machines" / "precision5820.tar.gz")
    drawn = []
    for more in ((), ("--all",)):
        call("graph", source, "-f", "dot", *more)
        drawn.append(capsys.readouterr().out)

    assert ("7 more" in drawn[0], "7 more" in drawn[1]) == (True, False)
    assert drawn[1].count("fillcolor") > drawn[0].count("fillcolor")


def test_a_flowchart_that_mermaid_will_not_draw_is_told_of(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(mermaid, "MAX_EDGES", 1)

    assert call("graph", THREAD, "-f", "mermaid") == 0
    answer = capsys.readouterr()
    assert answer.err.startswith("iommud: ")
    assert "raise maxTextSize and maxEdges" in answer.err
    assert f"%% {answer.err.removeprefix('iommud: ')}" in answer.out


def test_a_source_that_cannot_be_read_gives_no_picture(machines: Machines, tmp_path: Path, capsys: Capture) -> None:
    target = tmp_path / "x.svg"

    assert call("graph", machines["unreadable"], "-o", str(target)) == 4
    assert capsys.readouterr().err == f"iommud: {machines['unreadable']}: No such file or directory\n"
    assert not target.exists()


def test_a_format_that_is_no_picture_is_wrong_usage(capsys: Capture) -> None:
    assert call("graph", THREAD, "--format", "png") == 2
    assert "png" in capsys.readouterr().err


def test_the_page_of_a_check_is_one_file_with_the_exit_status_of_the_check(tmp_path: Path, capsys: Capture) -> None:
    target = tmp_path / "report.html"

    assert call("check", THREAD, "--format", "html", "-o", str(target)) == 1
    text = target.read_text()
    assert capsys.readouterr().err == ""
    assert text.startswith("<!DOCTYPE html>")
    assert "Content-Security-Policy" in text
    assert "report.json" not in text


@pytest.mark.parametrize("options", [("--ignore", "unisolated"), ("--only", "alias-split")])
def test_the_page_leaves_out_what_is_not_asked_for(options: tuple[str, str], capsys: Capture) -> None:
    assert call("check", SWITCH, "--format", "html", *options) == 0
    assert "<article" not in capsys.readouterr().out


def test_a_page_is_about_one_machine(capsys: Capture) -> None:
    assert call("check", THREAD, SWITCH, "--format", "html") == 2

    answer = capsys.readouterr()
    assert answer.out == ""
    assert "html is a page about one machine" in answer.err


def test_a_machine_that_cannot_be_read_has_a_page_that_says_so(machines: Machines, capsys: Capture) -> None:
    assert call("check", machines["unreadable"], "--format", "html") == 4

    answer = capsys.readouterr()
    assert "The machine could not be read" in answer.out
    assert answer.err == f"iommud: {machines['unreadable']}: No such file or directory\n"


def test_what_draws_is_loaded_only_where_something_is_drawn() -> None:
    code = (
        "import sys; from iommud.cli import main\n"
        f"try: main(['check', {THREAD!r}])\n"
        "finally: print([one for one in sys.modules if one.split('.')[-1] in"
        " ('svg', 'sheet', 'dot', 'mermaid', 'page', 'drawing', 'fold')], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, "[]\n")


def test_an_archive_may_come_from_standard_input() -> None:
    with Path(THREAD).open("rb") as stream:
        piped = run("graph", "-", stdin=stream)

    assert piped.returncode == 0
    assert piped.stdout.startswith("<svg ")
