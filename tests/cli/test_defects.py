# SPDX-License-Identifier: GPL-2.0-or-later
"""``iommud defects`` lists what is known, tells of one, and picks those of a release."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from iommud.causes.defects import defects
from iommud.cli.knowing import show_defects
from iommud.cli.options import ShowFormat
from iommud.errors import SourceError


def listed(capsys: pytest.CaptureFixture[str], **asked: Any) -> dict[str, Any]:
    arguments = {"name": None, "affecting": None, "qemu": None, **asked}
    assert show_defects(**arguments, format_=ShowFormat.JSON) == 0
    return {one["id"]: one for one in json.loads(capsys.readouterr().out)}


def text(capsys: pytest.CaptureFixture[str], **asked: Any) -> str:
    assert show_defects(**{"name": None, "affecting": None, "qemu": None, **asked}, format_=ShowFormat.TEXT) == 0
    return capsys.readouterr().out


def test_all_are_listed_unless_something_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(listed(capsys)) == {one.id for one in defects()}


def test_one_is_told_whole(capsys: pytest.CaptureFixture[str]) -> None:
    told = text(capsys, name="viot-alias-record")

    assert "introduced: 5.14 (3cf485540e7b)" in told
    assert "fixed: 6.4 (47d26684185d), 5.15.x, 6.1.x, 6.2.x, 6.3.x" in told
    assert "see docs/causes/viot-alias-bug.md" in told


@pytest.mark.parametrize(
    ("asked", "there", "not_there"),
    [
        ({"affecting": "6.12.80"}, "acs-late-stable-backport", "viot-alias-record"),
        ({"affecting": "6.12.83"}, "probe-order", "acs-late-stable-backport"),
        ({"affecting": "7.3"}, "smmuv3-shared-stream", "virtio-iommu-aliased-endpoint"),
        ({"affecting": "7.3", "qemu": "10.0"}, "virtio-iommu-aliased-endpoint", "probe-order"),
        ({"qemu": "10.0"}, "virtio-iommu-aliased-endpoint", "probe-pass-abandoned"),
        ({"affecting": "6.14.0-1004-nvidia"}, "smmuv3-shared-stream", "virtio-iommu-instance-lookup"),
    ],
)
def test_those_of_a_release_are_picked(
    asked: dict[str, str], there: str, not_there: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = listed(capsys, **asked)

    assert there in found
    assert not_there not in found


def test_what_is_not_known_exactly_is_listed_with_that_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert listed(capsys, affecting="6.1.20")["viot-alias-record"]["affects"] is None
    assert "viot-alias-record (perhaps" in text(capsys, affecting="6.1.20")


@pytest.mark.parametrize(
    "asked", [{"name": "no-such"}, {"affecting": "six"}, {"qemu": "ten"}, {"name": "probe-order", "qemu": "10.0"}]
)
def test_what_makes_no_sense_is_wrong_usage(asked: dict[str, str]) -> None:
    with pytest.raises(Exception, match=r".+") as caught:
        show_defects(**{"name": None, "affecting": None, "qemu": None, **asked}, format_=ShowFormat.TEXT)

    assert getattr(caught.value, "exit_code", None) == 2


FIXTURES = Path(__file__).parent.parent / "fixtures"
BUG_LOG = str(FIXTURES / "logs" / "smmuv3-stream-bug.log")


def test_those_that_a_capture_shows_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    capture = str(FIXTURES / "captures" / "7.3-amd64-virtio-two-e1000-q7.2.tar.gz")

    assert set(listed(capsys, seen=capture)) == {"probe-pass-abandoned", "virtio-iommu-aliased-endpoint"}


def test_those_that_a_log_tells_of_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert text(capsys, log=BUG_LOG).startswith("smmuv3-stream-bug\n")


def test_that_nothing_is_recognised_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    capture = str(FIXTURES / "captures" / "6.12-amd64-virtio-seed-q7.2.tar.gz")

    assert text(capsys, seen=capture) == "no known defect is recognised\n"


def test_a_log_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"none\.log"):
        show_defects(None, None, None, ShowFormat.TEXT, log=str(tmp_path / "none.log"))


def test_a_release_and_a_machine_are_not_asked_for_at_once() -> None:
    with pytest.raises(typer.BadParameter, match="one of these"):
        show_defects(None, "6.12", None, ShowFormat.TEXT, log=BUG_LOG)
