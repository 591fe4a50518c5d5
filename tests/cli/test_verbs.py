# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs that show one machine, and the one that captures it."""

import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import THREAD, call, command, documents, environment, run

Machines = dict[str, str]
Capture = pytest.CaptureFixture[str]


def shown(capsys: Capture, *arguments: str) -> str:
    assert call(*arguments) == 0
    return capsys.readouterr().out


def data(capsys: Capture, *arguments: str) -> Any:
    text = shown(capsys, *arguments, "--format", "json")
    assert text.count("\n") == 1
    return json.loads(text)


def test_the_tree_shows_every_function_with_its_group(capsys: Capture) -> None:
    text = shown(capsys, "tree", "--source", THREAD)

    for name in ("00:02.0", "01:00.0", "02:00.0", "00:1f.3"):
        assert name in text


def test_the_tree_as_data_nests_functions_below_their_bridges(capsys: Capture) -> None:
    assert "0000:02:00.0" in json.dumps(data(capsys, "tree", "--source", THREAD))


@pytest.mark.parametrize("verb", ["tree", "groups", "graph"])
def test_the_source_is_an_argument_or_an_option(verb: str, capsys: Capture) -> None:
    assert shown(capsys, verb, THREAD) == shown(capsys, verb, "--source", THREAD)


@pytest.mark.parametrize("verb", ["tree", "groups", "graph", "capture", "reproduce", "what-if"])
def test_two_sources_are_wrong_usage(verb: str, capsys: Capture) -> None:
    assert call(verb, THREAD, "--source", THREAD) == 2
    assert "not twice" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("verb", ["tree", "groups", "capture", "reproduce", "what-if", "graph", "defects"])
def test_every_format_can_be_asked_for_in_short(verb: str, capsys: Capture) -> None:
    assert call(verb, "--help") == 0
    assert "--format, -f" in capsys.readouterr().out.replace("-f, --format", "--format, -f")


def test_groups_lists_the_functions_without_one_too(capsys: Capture) -> None:
    text = shown(capsys, "groups", "--source", THREAD)

    assert "01:00.0" in text
    assert "no group" in text.lower() or "ungrouped" in text.lower()
    assert "0000:01:00.0" in json.dumps(data(capsys, "groups", "--source", THREAD))


@pytest.mark.parametrize("name", ["02:00.0", "0000:02:00.0"])
def test_addresses_may_leave_domain_0000_out(name: str, capsys: Capture) -> None:
    assert shown(capsys, "explain", name, "--source", THREAD).startswith("0000:02:00.0")


def test_explain_tells_what_joins_two_functions(capsys: Capture) -> None:
    text = shown(capsys, "explain", "00:02.0", "02:00.0", "--source", THREAD)

    assert "0000:01:00.0" in text


def test_explain_as_data_is_one_document(capsys: Capture) -> None:
    assert "0000:02:00.0" in json.dumps(data(capsys, "explain", "02:00.0", "--source", THREAD))
    assert "0000:02:00.0" in json.dumps(data(capsys, "explain", "02:00.0", "00:02.0", "--source", THREAD))


@pytest.mark.parametrize("names", [["05:00.0"], ["02:00.0", "05:00.0"]])
def test_a_function_that_is_not_there_cannot_be_explained(names: list[str], capsys: Capture) -> None:
    assert call("explain", *names, "--source", THREAD) == 2

    answer = capsys.readouterr()
    assert answer.out == ""
    assert f"0000:05:00.0 is not on the PCI bus of {THREAD}" in answer.err


@pytest.mark.parametrize("verb", [["tree"], ["graph"], ["groups"], ["explain", "00:02.0"], ["capture", "-o", "-"]])
def test_every_verb_names_a_source_that_it_cannot_read(verb: list[str], machines: Machines, capsys: Capture) -> None:
    assert call(*verb, "--source", machines["unreadable"]) == 4

    answer = capsys.readouterr()
    assert (answer.out, answer.err) == ("", f"iommud: {machines['unreadable']}: No such file or directory\n")


@pytest.mark.parametrize("verb", [["tree"], ["groups"], ["explain", "00:02.0"]])
def test_every_verb_reads_archives_from_standard_input(verb: list[str]) -> None:
    with Path(THREAD).open("rb") as stream:
        piped = run(*verb, "--source", "-", stdin=stream)

    assert (piped.returncode, piped.stdout) == (0, run(*verb, "--source", THREAD).stdout)


@pytest.mark.parametrize("verb", [["tree"], ["groups"], ["explain", "00:02.0"]])
def test_every_verb_reads_mounts_elsewhere(verb: list[str], machines: Machines, capsys: Capture) -> None:
    root = machines["split"]

    elsewhere = shown(capsys, *verb, "--path.sysfs", f"{root}/sys", "--path.procfs", f"{root}/proc")

    assert elsewhere == shown(capsys, *verb, "--source", root)


@pytest.mark.parametrize("verb", [["tree"], ["graph"], ["groups"], ["explain", "00:02.0"]])
def test_verbs_that_show_show_machines_without_rights_too(verb: list[str], machines: Machines, capsys: Capture) -> None:
    for name in ("restricted", "idle", "merged" if verb[0] != "explain" else "right"):
        assert shown(capsys, *verb, "--source", machines[name])


@pytest.mark.parametrize("name", ["split", "right", "restricted", "idle", "bare port", "merged"])
def test_a_capture_gives_the_answer_of_the_machine(name: str, machines: Machines, tmp_path: Path) -> None:
    target = str(tmp_path / "x.tar.gz")

    assert call("capture", "-o", target, machines[name], "--quiet") == 0

    direct, captured = (run("check", source, "--format", "json") for source in (machines[name], target))
    (one,), (other,) = documents(direct.stdout), documents(captured.stdout)
    assert direct.returncode == captured.returncode
    assert (one.pop("source"), other.pop("source")) == (machines[name], target)
    assert one == other


def test_a_capture_says_what_it_left_out(machines: Machines, tmp_path: Path, capsys: Capture) -> None:
    target = str(tmp_path / "x.tar.gz")

    assert call("capture", "-o", target, "--source", machines["split"]) == 0
    assert f"{target}:" in capsys.readouterr().err

    assert call("capture", "-o", target, machines["split"], "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["output"] == target

    assert call("capture", "-o", target, machines["split"], "--quiet") == 0
    assert capsys.readouterr() == ("", "")


def test_a_capture_goes_into_a_pipe_where_no_file_is_named(machines: Machines, tmp_path: Path) -> None:
    done = subprocess.run(
        command("capture", machines["split"], "--format", "json"),
        capture_output=True,
        check=True,
        cwd=tmp_path,
        env=environment() | {"PYTHONPATH": str(Path(__file__).parents[2])},
        timeout=60,
    )

    archive = tmp_path / "piped.tar.gz"
    archive.write_bytes(done.stdout)
    with tarfile.open(archive) as tar:
        assert any(name.endswith("uevent") for name in tar.getnames())
    assert list(tmp_path.iterdir()) == [archive]
