# SPDX-License-Identifier: GPL-2.0-or-later
"""``iommud what-if`` and ``iommud explain --separate``: what they print, and with which status they leave."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iommud.whatif.comparison import Freedom
from iommud.whatif.separate import Verdict
from tests.cli.running import FIXTURES, call

Machines = dict[str, str]
Capture = pytest.CaptureFixture[str]
Golden = Callable[[str, str], None]
CAPTURES = FIXTURES / "captures"
DOCUMENT = FIXTURES.parent.parent / "docs" / "what-if.md"

SRIOV = "6.12-amd64-intel-sriov-igb-q10.0"
SEED = "6.12-amd64-intel-seed-q7.2"
SEED_RP = "6.12-amd64-intel-seed-rp-q7.2"
SMMU = "6.1-arm64-smmuv3-two-e1000-rp-q7.2"
SWITCH = "6.12-amd64-intel-switch-q7.2"
CASES = [
    ("acs-off", SRIOV, ["--acs", "off"]),
    ("acs-on-hypothetical", SEED, ["--acs", "on=00:02.0"]),
    ("override", SEED, ["--acs-override", "downstream,multifunction"]),
    ("kernel", SMMU, ["--kernel", "7.3.4"]),
    ("kernel-and-move", SMMU, ["--kernel", "7.3.4", "--move", "02:02.0=01:00.0/05.0"]),
    ("without", SRIOV, ["--without", "01:00.0"]),
    ("cmdline", SEED_RP, ["--cmdline", "pci=disable_acs_redir=00:02.0 iommu=pt"]),
    ("off", SEED, ["--cmdline", "intel_iommu=off"]),
    ("probe-order", "6.12-amd64-virtio-two-e1000-rp-q10.0", ["--probe-order", "bottom-up"]),
]
PAIRS = [
    (SMMU, "00:02.0", "02:02.0", 0),
    (SMMU, "02:01.0", "02:02.0", 0),
    (SEED, "00:02.0", "02:00.0", 0),
    (SEED, "00:1f.2", "00:1f.3", 1),
    (SWITCH, "02:00.0", "03:00.0", 0),
    (SWITCH, "03:00.0", "04:00.0", 0),
]


def printed(capsys: Capture, *arguments: str, status: int = 0) -> str:
    assert call(*arguments) == status
    return capsys.readouterr().out


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The captures by their bare names, so that what is printed does not depend on where the checkout lies."""
    monkeypatch.chdir(CAPTURES)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("name", "capture", "options"), CASES, ids=[one[0] for one in CASES])
@pytest.mark.parametrize("format_", ["text", "json", "markdown"])
def test_the_answer_is_what_it_was(
    name: str, capture: str, options: list[str], format_: str, golden: Golden, capsys: Capture
) -> None:
    text = printed(capsys, "what-if", f"{capture}.tar.gz", *options, "--format", format_)

    if format_ == "json":
        text = json.dumps(json.loads(text), indent=1) + "\n"
    suffix = {"text": "txt", "json": "json", "markdown": "md"}[format_]
    golden(f"what-if/{name}.{suffix}", text)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("capture", "one", "other", "status"), PAIRS)
def test_the_way_to_separate_two_is_what_it_was(
    capture: str, one: str, other: str, status: int, golden: Golden, capsys: Capture
) -> None:
    arguments = ["explain", one, other, "--separate", "--source", f"{capture}.tar.gz"]
    name = f"separate/{capture}-{one}-{other}".replace(":", ".")

    golden(f"{name}.txt", printed(capsys, *arguments, status=status))
    data = json.loads(printed(capsys, *arguments, "--format", "json", status=status))
    golden(f"{name}.json", json.dumps(data["separate"], indent=1) + "\n")


def document(capsys: Capture, *arguments: str, status: int = 0) -> Any:
    text = printed(capsys, *arguments, "--format", "json", status=status)
    assert text.count("\n") == 1
    return json.loads(text)


def test_separating_adds_to_the_explanation_and_takes_nothing_away(capsys: Capture) -> None:
    plain = ["explain", "00:02.0", "02:00.0", "--source", str(CAPTURES / f"{SEED}.tar.gz")]
    before = document(capsys, *plain)
    found = document(capsys, *plain, "--separate")

    assert found.pop("separate")["computed"] is True
    assert found == before


@pytest.mark.parametrize(
    ("options", "status"),
    [
        (["--acs", "on"], 0),
        (["--source", "MACHINE", "--acs", "on"], 0),
        ([], 2),
        (["--acs", "perhaps"], 2),
        (["--acs", "on=nowhere"], 2),
        (["--acs", "on=09:00.0"], 2),
        (["--acs-override", "upstream"], 2),
        (["--acs-override", "none"], 0),
        (["--acs-override", "downstream,id:8086:10d3"], 0),
        (["--kernel", "nonsense"], 2),
        (["--kernel", "6.8.0-nvidia"], 2),
        (["--without", "nowhere"], 2),
        (["--without", "09:00.0"], 2),
        (["--move", "01:00.0"], 2),
        (["--move", "01:00.0=nowhere"], 2),
        (["--move", "01:00.0=00:02.0/01.0"], 2),
        (["--cmdline", "pci=config_acs=9"], 2),
        (["--cmdline", "  "], 2),
        (["--probe-order", "sideways"], 2),
        (["--probe-order", "top-down", "--cmdline", "quiet", "--without", "01:00.0", "--kernel", "6.18"], 0),
    ],
)
def test_changes_that_make_no_sense_are_wrong_usage(
    options: list[str], status: int, machines: Machines, capsys: Capture
) -> None:
    given = [machines["right"] if word == "MACHINE" else word for word in options]
    source = [] if "--source" in options else [machines["right"]]

    assert call("what-if", *source, *given) == status
    captured = capsys.readouterr()
    assert bool(captured.out) is (status == 0)
    assert bool(captured.err) is (status != 0)


@pytest.mark.parametrize(
    ("name", "status"), [("right", 0), ("split", 0), ("restricted", 3), ("unreadable", 4), ("idle", 0)]
)
def test_the_status_tells_whether_it_could_be_computed(
    name: str, status: int, machines: Machines, capsys: Capture
) -> None:
    assert call("what-if", machines[name], "--acs", "on") == status
    if name == "restricted":
        assert "as it is, facts are missing: between 0000:00:02.0 | 0000:01:00.0 and" in capsys.readouterr().out


@pytest.mark.parametrize("verb", [["what-if", "--acs", "on"], ["explain", "00:02.0", "01:00.0", "--separate"]])
def test_a_machine_that_is_not_judged_is_no_base_for_a_prediction(
    verb: list[str], machines: Machines, tmp_path: Path, capsys: Capture
) -> None:
    place = tmp_path / "foreign"
    shutil.copytree(machines["right"], place, symlinks=True)
    (place / "proc/sys/kernel/osrelease").write_text("6.8.0-1-nvidia\n")

    assert call(*verb, "--source", str(place)) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "groups cannot be predicted" in err


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        ("right", 0, "They are in different groups already."),
        ("split", 0, "They can be separated."),
        ("restricted", 3, "It cannot be told."),
        ("idle", 1, "There is nothing to separate."),
        ("unreadable", 4, ""),
    ],
)
def test_the_status_of_separating_follows_from_the_answer(
    name: str, status: int, said: str, machines: Machines, capsys: Capture
) -> None:
    assert call("explain", "00:02.0", "01:00.0", "--separate", "--source", machines[name]) == status
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("names", [["00:02.0"], ["00:02.0", "00:02.0"], ["00:02.0", "05:00.0"], ["00:02.0", "x"]])
def test_two_functions_that_are_there_are_what_can_be_separated(
    names: list[str], machines: Machines, capsys: Capture
) -> None:
    assert call("explain", *names, "--separate", "--source", machines["right"]) == 2
    assert capsys.readouterr().out == ""


def test_the_answer_can_go_to_a_file(machines: Machines, tmp_path: Path, capsys: Capture) -> None:
    target = tmp_path / "answer.md"

    assert call("what-if", machines["right"], "--acs", "off", "-f", "markdown", "-o", str(target)) == 0
    assert capsys.readouterr().out == ""
    assert target.read_text(encoding="utf-8").startswith("## IOMMU groups, computed\n")


def test_what_somebody_types_cannot_reach_the_terminal(machines: Machines, capsys: Capture) -> None:
    for format_ in ("text", "markdown", "json"):
        call("what-if", machines["right"], "--cmdline", "evil\x1b[2J", "--format", format_)
        assert "\x1b" not in capsys.readouterr().out


def test_long_lists_are_cut_in_text_and_never_in_json(capsys: Capture) -> None:
    source = str(FIXTURES / "machines" / "precision5820.tar.gz")
    short, long = (printed(capsys, "what-if", source, "--cmdline", "intel_iommu=off", *more) for more in ([], ["-v"]))

    assert "more (--verbose)" in short
    assert "more (--verbose)" not in long
    assert len(document(capsys, "what-if", source, "--cmdline", "intel_iommu=off")["together"]["changed"]) > 40


def test_checking_does_not_load_what_imagining_needs() -> None:
    script = (
        "import sys; from iommud.cli import main\n"
        "try: main(['check', '--help'])\n"
        "finally: print([name for name in sys.modules if name.startswith('iommud.whatif')], file=sys.stderr)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)

    assert found.stderr.strip().endswith("[]")


@pytest.mark.parametrize("word", [*Freedom, *Verdict])
def test_the_document_explains_every_word_of_an_answer(word: str) -> None:
    assert f"`{word}`" in DOCUMENT.read_text(encoding="utf-8")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "arguments",
    [
        ["what-if", f"{SRIOV}.tar.gz", "--acs", "off=00:02.0"],
        ["explain", "00:02.0", "02:02.0", "--separate", "--source", f"{SMMU}.tar.gz"],
    ],
)
def test_the_document_shows_what_is_printed(arguments: list[str], capsys: Capture) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")

    assert f"```text\n{printed(capsys, *arguments)}```" in text
