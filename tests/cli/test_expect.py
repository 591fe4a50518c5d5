# SPDX-License-Identifier: GPL-2.0-or-later
"""``iommud check --expect``: wanted groups from a report or a list."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from iommud.data import data_text
from tests.cli.running import SWITCH, THREAD, call, documents, run

Capture = pytest.CaptureFixture[str]


def test_a_machine_is_as_its_own_report_wants_it(tmp_path: Path, capsys: Capture) -> None:
    report = tmp_path / "good.json"
    assert call("check", SWITCH, "--format", "json", "--output", str(report)) == 0

    assert call("check", SWITCH, "--expect", str(report)) == 0
    assert "unexpected" not in capsys.readouterr().out


def test_another_machine_is_not(tmp_path: Path, capsys: Capture) -> None:
    report = tmp_path / "good.json"
    call("check", SWITCH, "--format", "json", "--output", str(report))

    assert call("check", THREAD, "--expect", str(report), "--only", "unexpected", "--format", "json") == 1
    (document,) = documents(capsys.readouterr().out)
    jsonschema.validate(document, json.loads(data_text("report.schema.json")))
    assert {one["kind"] for one in document["findings"]} == {"unexpected"}
    assert all(one["causes"] == [] for one in document["findings"])


@pytest.mark.parametrize("form", ["text", "markdown", "prometheus"])
def test_every_format_tells_a_deviation(form: str, tmp_path: Path, capsys: Capture) -> None:
    wanted = tmp_path / "wanted.txt"
    wanted.write_text("0a:00.0\n00:02.0 02:00.0\n")

    assert call("check", THREAD, SWITCH, "--expect", str(wanted), "--format", form) == 1
    assert "unexpected" in capsys.readouterr().out


def test_a_list_comes_from_standard_input_too() -> None:
    found = run("check", SWITCH, "--expect", "-", input="0a:00.0\n")

    assert found.returncode == 1
    assert "- wants 0000:0a:00.0 in a group of its own" in found.stdout


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"nic\n", "line 1: 'nic' is not a PCI address"),
        (b"02:00.0 02:00.0\n", "line 1: 0000:02:00.0 is named twice"),
        (b"\xff\xfe\x00", "neither a JSON report nor a text"),
        (b'{"schema_version": 99}', "no report of iommud check with schema_version 1"),
        (b"{", "no JSON"),
        (None, "No such file or directory"),
    ],
)
def test_a_file_that_cannot_be_meant_is_wrong_usage_and_named(
    content: bytes | None, problem: str, tmp_path: Path, capsys: Capture
) -> None:
    wanted = tmp_path / "wanted"
    if content is not None:
        wanted.write_bytes(content)

    assert call("check", SWITCH, "--expect", str(wanted)) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"{wanted}" in said
    assert problem in said


@pytest.mark.parametrize("source", [("-",), ("--source", "-"), (SWITCH, "-")])
def test_standard_input_is_read_for_one_thing_only(source: tuple[str, ...], capsys: Capture) -> None:
    assert call("check", *source, "--expect", "-") == 2
    assert "only one thing can come from standard input" in " ".join(capsys.readouterr().err.split())
