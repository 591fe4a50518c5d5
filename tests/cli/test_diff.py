# SPDX-License-Identifier: GPL-2.0-or-later
"""``iommud diff``: what it reads, how it prints, and its exit status, which is that of diff(1)."""

import json
from pathlib import Path

import pytest

from tests.cli.running import FIXTURES, SWITCH, THREAD, call, machine, port_and_endpoint, run
from tests.trees import config_space

Machines = dict[str, str]
Capture = pytest.CaptureFixture[str]
NO_ACS = str(FIXTURES / "captures" / "6.12-amd64-intel-switch-noacs-q7.2.tar.gz")


def report(source: str, path: Path) -> str:
    path.write_text(run("check", source, "--format", "json").stdout, encoding="utf-8")
    return str(path)


def renumbered(root: Path) -> str:
    """The machine ``right`` after a reboot that gave its groups other numbers."""
    writer = machine(root)
    port_and_endpoint(writer, config_space(4, (0x5F, 0x1D), header=1))
    writer.group(5, "0000:00:02.0")
    writer.group(3, "0000:00:02.0/0000:01:00.0")
    return str(root)


@pytest.mark.parametrize(
    ("before", "after", "status"),
    [("right", "right", 0), ("right", "bare port", 1), ("bare port", "right", 1), ("right", "split", 1)],
)
def test_the_status_is_0_for_the_same_and_1_for_a_difference(
    before: str, after: str, status: int, machines: Machines
) -> None:
    assert call("diff", machines[before], machines[after]) == status


def test_other_group_numbers_are_the_same(machines: Machines, tmp_path: Path) -> None:
    assert call("diff", machines["right"], renumbered(tmp_path / "later")) == 0


@pytest.mark.parametrize("which", [("unreadable", "right"), ("right", "unreadable")])
def test_a_source_that_cannot_be_read_is_trouble_named_in_one_line(
    which: tuple[str, str], machines: Machines, capsys: Capture
) -> None:
    assert call("diff", *(machines[name] for name in which)) == 2

    assert capsys.readouterr() == ("", f"iommud: {machines['unreadable']}: No such file or directory\n")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "no JSON"),
        ("{}", "schema_version"),
        ("{}\n{}\n", "one by one"),
        ('{"a":' * 100_000, "deeply"),
        ('{"schema_version":1,"status":"error"}', "could not be read"),
        ('{"schema_version":1,"groups":null}', "groups is not what a report has there"),
        ('{"schema_version":' + "1" * 5000 + "}", "digits"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_a_file_that_is_no_report_is_trouble_named_in_one_line(
    content: str, problem: str, machines: Machines, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "report.json"
    path.write_text(content, encoding="utf-8")

    assert call("diff", machines["right"], str(path)) == 2

    answer = capsys.readouterr()
    assert answer.out == ""
    assert answer.err.startswith(f"iommud: {path}: ")
    assert problem in answer.err
    assert answer.err.count("\n") == 1


def test_bytes_that_are_no_text_are_trouble(machines: Machines, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(b'{"source": "\xff"}')

    assert call("diff", str(path), machines["right"]) == 2
    assert "no UTF-8" in capsys.readouterr().err


def test_a_report_stands_for_its_machine(tmp_path: Path) -> None:
    kept = report(SWITCH, tmp_path / "before.json")

    assert call("diff", kept, SWITCH) == 0
    assert call("diff", kept, NO_ACS) == 1
    assert call("diff", kept, report(NO_ACS, tmp_path / "after.json")) == 1


@pytest.mark.parametrize("name", ["right", "split", "restricted", "idle", "bare port", "merged"])
def test_a_capture_is_the_same_state_as_its_machine(
    name: str, machines: Machines, tmp_path: Path, capsys: Capture
) -> None:
    target = str(tmp_path / "x.tar.gz")
    assert call("capture", "-o", target, machines[name], "--quiet") == 0

    assert call("diff", machines[name], target, "--format", "json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["circumstances"], document["not_compared"]) == ([], [])


def test_a_report_can_come_through_a_pipe(tmp_path: Path) -> None:
    kept = report(SWITCH, tmp_path / "before.json")
    piped = run("diff", "-", NO_ACS, "--format", "json", input=Path(kept).read_text(encoding="utf-8"))

    assert piped.returncode == 1
    assert json.loads(piped.stdout)["before"]["source"] == "-"


def test_an_archive_can_come_through_a_pipe() -> None:
    with Path(SWITCH).open("rb") as stream:
        assert run("diff", "-", SWITCH, stdin=stream).returncode == 0


def test_only_one_side_can_be_standard_input(capsys: Capture) -> None:
    assert call("diff", "-", "-") == 2
    assert "Usage: iommud diff" in capsys.readouterr().err


def test_without_a_second_state_it_is_this_machine(machines: Machines) -> None:
    mounts = ["--path.sysfs", f"{machines['right']}/sys", "--path.procfs", f"{machines['right']}/proc"]

    assert call("diff", machines["right"], *mounts) == 0
    assert call("diff", machines["bare port"], *mounts) == 1


def test_text_says_why_before_it_says_what(capsys: Capture) -> None:
    assert call("diff", SWITCH, NO_ACS) == 1

    text = capsys.readouterr().out
    assert text.startswith("different: 1 change of groups, ")
    assert text.index("ACS control of 0000:00:02.0 is absent") < text.index("joined: ")


def test_json_is_one_line_with_groups_functions_and_findings(capsys: Capture) -> None:
    assert call("diff", SWITCH, NO_ACS, "--format", "json") == 1

    text = capsys.readouterr().out
    document = json.loads(text)
    assert text.count("\n") == 1
    assert document["schema_version"] == 1
    assert not document["same"]
    assert [one["change"] for one in document["groups"]] == ["joined"]
    assert document["groups"][0]["as_expected"]
    assert ("acs", True) in [(one["subject"], one["bears"]) for one in document["circumstances"]]
    assert document["functions"] == {"lost": [], "gained": [], "gone": [], "appeared": []}


def test_markdown_has_a_heading(capsys: Capture) -> None:
    assert call("diff", SWITCH, THREAD, "--format", "markdown") == 1
    assert capsys.readouterr().out.startswith("## IOMMU groups: different: ")


def test_quiet_says_nothing_where_nothing_differs(machines: Machines, capsys: Capture) -> None:
    assert call("diff", machines["right"], machines["right"], "--quiet") == 0
    assert capsys.readouterr() == ("", "")


def test_the_answer_goes_into_a_file(machines: Machines, tmp_path: Path, capsys: Capture) -> None:
    target = tmp_path / "difference.txt"

    assert call("diff", machines["right"], machines["bare port"], "-o", str(target)) == 1
    assert capsys.readouterr().out == ""
    assert target.read_text(encoding="utf-8").startswith("different: ")
    assert call("diff", machines["right"], machines["split"], "-o", str(tmp_path / "nowhere" / "x")) == 2


def test_an_answer_that_nobody_can_take_is_no_difference(machines: Machines) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        answer = run("diff", machines["right"], machines["split"], stdout=full)

    assert (answer.returncode, answer.stderr.count("\n")) == (4, 1)


def test_help_names_its_own_exit_statuses(capsys: Capture) -> None:
    assert call("diff", "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "0 the same functions, groups and findings; 1 different; 2 trouble" in text


def test_the_example_of_the_document_is_what_is_printed(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FIXTURES / "captures")
    names = [f"6.1{build}-amd64-virtio-seed-builtin-q7.2.tar.gz" for build in ("bug", "fix")]

    assert call("diff", *names) == 1
    page = (FIXTURES.parents[1] / "docs" / "diff.md").read_text(encoding="utf-8")
    assert f"```text\n{capsys.readouterr().out}```\n" in page


def test_colour_comes_when_it_is_asked_for(machines: Machines, capsys: Capture) -> None:
    assert call("diff", machines["right"], machines["bare port"], "--color", "always") == 1
    assert "\x1b[" in capsys.readouterr().out
