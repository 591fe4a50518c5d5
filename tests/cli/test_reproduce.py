# SPDX-License-Identifier: GPL-2.0-or-later
"""``iommud reproduce``: its formats, options and exit statuses."""

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.cli.running import SWITCH, THREAD, call

Capture = pytest.CaptureFixture[str]


def data(capsys: Capture, *arguments: str) -> Any:
    assert call("reproduce", *arguments, "--format", "json") == 0
    text = capsys.readouterr().out
    assert text.count("\n") == 1
    return json.loads(text)


def test_text_is_a_script_with_comments_first(capsys: Capture) -> None:
    assert call("reproduce", THREAD) == 0
    lines = capsys.readouterr().out.splitlines()
    first = next(number for number, line in enumerate(lines) if not line.startswith("#"))

    assert lines[first] == "qemu-system-x86_64 \\"
    assert all(line.startswith("  ") and line.endswith(" \\") for line in lines[first + 1 : -1])
    assert lines[-1] == '  "$@"'


def test_values_name_each_device_and_where_the_guest_has_it(capsys: Capture) -> None:
    found = data(capsys, SWITCH)
    ports = [one for one in found["devices"] if one["model"] == "xio3130-downstream"]

    assert found["addresses"]["0000:03:00.0"] == "0000:03:00.0"
    assert [one["captured"] for one in ports] == [f"0000:02:0{number}.0" for number in range(4)]
    assert all(one["argument"] in found["command"] for one in ports)
    assert found["not_carried_over"] == []


def test_an_archive_comes_from_standard_input_too(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(Path(SWITCH).read_bytes())))

    assert data(capsys, "-")["iommu"] == "intel"


def test_the_command_goes_into_a_file(capsys: Capture, tmp_path: Path) -> None:
    assert call("reproduce", SWITCH, "-o", str(tmp_path / "machine.sh")) == 0

    assert capsys.readouterr().out == ""
    assert (tmp_path / "machine.sh").read_text(encoding="utf-8").endswith('"$@"\n')


@pytest.mark.parametrize(("text", "version"), [("7.2", "7.2"), ("11", "11.0"), ("10.0.13", "10.0")])
def test_a_version_of_qemu_is_read(text: str, version: str, capsys: Capture) -> None:
    assert data(capsys, SWITCH, "--qemu", text)["qemu"] == version


@pytest.mark.parametrize("text", ["", "new", "6.2", "10.x", "-1"])
def test_a_version_that_is_none_or_not_known_is_a_usage_error(text: str, capsys: Capture) -> None:
    assert call("reproduce", SWITCH, "--qemu", text) == 2

    assert "--qemu" in capsys.readouterr().err


def test_a_source_that_cannot_be_read_gives_status_4(capsys: Capture, tmp_path: Path) -> None:
    assert call("reproduce", str(tmp_path / "missing.tar.gz")) == 4

    assert "missing.tar.gz" in capsys.readouterr().err


def test_no_name_of_a_file_becomes_a_command(capsys: Capture, tmp_path: Path) -> None:
    odd = tmp_path / "a\ntouch gone\n.tar.gz"
    odd.write_bytes(Path(SWITCH).read_bytes())

    assert call("reproduce", str(odd)) == 0
    assert "a?touch gone?.tar.gz" in capsys.readouterr().out.splitlines()[0]
