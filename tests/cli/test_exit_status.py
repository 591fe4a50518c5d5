# SPDX-License-Identifier: GPL-2.0-or-later
"""Exit statuses: what each machine gives, what options make of it, and which of several wins."""

import itertools

import pytest

from tests.cli.running import THREAD, call, documents, run

STATUSES = {
    "right": (0, "ok"),
    "merged": (0, "ok"),
    "idle": (0, "no-iommu"),
    "split": (1, "findings"),
    "bare port": (1, "findings"),
    "restricted": (3, "undecidable"),
    "unreadable": (4, "error"),
}


@pytest.mark.parametrize("name", STATUSES)
def test_each_machine_has_its_exit_status_and_its_word(
    name: str, machines: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    status = call("check", machines[name], "--format", "json")

    (document,) = documents(capsys.readouterr().out)
    assert (status, document["status"]) == STATUSES[name]


@pytest.mark.parametrize(
    ("fail_on", "expected"),
    [
        ("critical", {"split": 1, "bare port": 0, "merged": 0, "restricted": 3, "right": 0, "unreadable": 4}),
        ("warning", {"split": 1, "bare port": 1, "merged": 0, "restricted": 3, "right": 0, "unreadable": 4}),
        ("info", {"split": 1, "bare port": 1, "merged": 1, "restricted": 3, "right": 0, "unreadable": 4}),
        ("never", {"split": 0, "bare port": 0, "merged": 0, "restricted": 3, "right": 0, "unreadable": 4}),
    ],
)
def test_fail_on_says_what_gives_1_and_never_hides_what_could_not_be_judged(
    fail_on: str, expected: dict[str, int], machines: dict[str, str]
) -> None:
    assert {name: call("check", machines[name], "--fail-on", fail_on) for name in expected} == expected


def test_without_fail_on_warnings_fail(machines: dict[str, str]) -> None:
    assert call("check", machines["bare port"]) == call("check", machines["bare port"], "--fail-on", "warning") == 1


@pytest.mark.parametrize("name", ["idle", "right", "restricted"])
def test_require_iommu_makes_a_machine_without_one_fail(name: str, machines: dict[str, str]) -> None:
    expected = 1 if name == "idle" else STATUSES[name][0]

    assert call("check", machines[name], "--require-iommu") == expected


def test_require_iommu_holds_under_fail_on_never(machines: dict[str, str]) -> None:
    assert call("check", machines["idle"], "--require-iommu", "--fail-on", "never") == 1


@pytest.mark.parametrize("pair", list(itertools.permutations(("right", "split", "restricted", "unreadable"), 2)))
def test_of_two_sources_the_first_of_4_1_3_0_wins(pair: tuple[str, str], machines: dict[str, str]) -> None:
    found = {STATUSES[name][0] for name in pair}

    assert call("check", *(machines[name] for name in pair)) == next(one for one in (4, 1, 3, 0) if one in found)


@pytest.mark.parametrize("jobs", ["1", "4"])
def test_of_many_sources_the_same_wins_in_processes_of_their_own(jobs: str, machines: dict[str, str]) -> None:
    def status(*names: str) -> int:
        return run("check", "--jobs", jobs, *(machines[name] for name in names)).returncode

    assert status("right", "split", "restricted", "idle", "unreadable", "right") == 4
    assert status("right", "split", "restricted", "idle", "right") == 1
    assert status("right", "restricted", "idle", "right", "merged") == 3
    assert status("right", "idle", "merged", "right") == 0


def test_a_machine_with_a_finding_and_a_gap_fails_by_the_finding(machines: dict[str, str]) -> None:
    assert call("check", THREAD, machines["restricted"]) == 1
    assert call("check", THREAD, machines["restricted"], "--fail-on", "never") == 3


def test_a_kernel_that_cannot_be_read_means_the_newest_model_said_aloud(
    machines: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("check", machines["right"], "--kernel", "mystery") == 0
    assert "'mystery' is unreadable; judged as 7.3, the newest modelled" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "--only", "nonsense"],
        ["check", "--ignore", "nonsense"],
        ["check", "--ignore", "ungrouped=somewhere"],
        ["check", "--fail-on", "sometimes"],
        ["check", "--format", "xml"],
        ["check", "--jobs", "0"],
        ["check", "--color", "blue"],
        ["check", "--nonsense"],
        ["tree", "--format", "prometheus"],
        ["explain"],
        ["explain", "somewhere"],
        ["explain", "00:02.0", "01:00.0", "02:00.0"],
        ["explain", "00:20.0"],
        ["nonsense"],
        [],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2_with_a_word_on_standard_error(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status = call(*arguments)

    answer = capsys.readouterr()
    assert status == 2
    assert "Usage: iommud" in answer.err + answer.out
    assert not arguments or answer.out == ""


def test_help_names_every_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["check", "--help"], ["check", "-h"]):
        assert call(*arguments) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert "0 nothing wrong (also: no IOMMU in use); 1 findings at or above --fail-on; 2 wrong usage;" in text
        assert "3 could not judge; 4 a source could not be read" in text
        assert "the first of 4, 1, 3, 0" in text


def test_the_version_is_one_line() -> None:
    answer = run("--version")

    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.startswith("iommud 0.")
    assert answer.stdout.count("\n") == 1
