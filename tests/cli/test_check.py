# SPDX-License-Identifier: GPL-2.0-or-later
"""``iommud check``: sources, filters and formats."""

import json
import subprocess
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import jsonschema
import pytest

from iommud.cli import checking
from iommud.cli.options import CheckFormat
from iommud.data import data_text
from iommud.render.style import Style
from tests.cli.running import SWITCH, THREAD, call, command, documents, environment, run

Machines = dict[str, str]
Capture = pytest.CaptureFixture[str]


def kinds(capsys: Capture) -> list[str]:
    (document,) = documents(capsys.readouterr().out)
    return [finding["kind"] for finding in document["findings"]]


@pytest.mark.parametrize(
    ("options", "left", "status"),
    [
        ([], ["isolation-split", "ungrouped"], 1),
        (["--only", "ungrouped"], ["ungrouped"], 1),
        (["--only", "ungrouped", "--only", "isolation-split"], ["isolation-split", "ungrouped"], 1),
        (["--only", "merged"], [], 0),
        (["--ignore", "ungrouped"], ["isolation-split"], 1),
        (["--ignore", "ungrouped=01:00.0"], ["isolation-split"], 1),
        (["--ignore", "ungrouped=0000:01:00.0"], ["isolation-split"], 1),
        (["--ignore", "ungrouped=02:00.0"], ["isolation-split", "ungrouped"], 1),
        (["--ignore", "isolation-split=02:00.0"], ["ungrouped"], 1),
        (["--ignore", "ungrouped", "--ignore", "isolation-split"], [], 0),
        (["--only", "ungrouped", "--ignore", "ungrouped"], [], 0),
    ],
)
def test_filters_leave_findings_out_of_list_status_and_exit_alike(
    options: list[str], left: list[str], status: int, capsys: Capture
) -> None:
    assert call("check", THREAD, "--format", "json", *options) == status

    (document,) = documents(capsys.readouterr().out)
    assert [finding["kind"] for finding in document["findings"]] == left
    assert document["status"] == ("findings" if left else "ok")


def test_what_could_not_be_judged_can_be_left_out_too(machines: Machines, capsys: Capture) -> None:
    assert call("check", machines["restricted"], "--ignore", "undecidable", "--format", "json") == 0
    assert kinds(capsys) == []


@pytest.mark.parametrize("form", ["text", "markdown", "prometheus"])
def test_filters_hold_in_every_format(form: str, capsys: Capture) -> None:
    call("check", THREAD, "--format", form, "--only", "ungrouped")

    answer = capsys.readouterr().out
    if form == "prometheus":
        assert 'iommud_findings{kind="isolation-split",severity="critical"} 0' in answer
        assert 'iommud_findings{kind="ungrouped",severity="critical"} 1' in answer
    else:
        assert "ungrouped" in answer
        assert "isolation-split" not in answer


@pytest.mark.parametrize("jobs", ["1", "4"])
def test_every_source_gives_its_line_of_json_in_the_order_given(jobs: str, machines: Machines) -> None:
    names = ["split", "unreadable", "right", "restricted", "idle", "merged", "unreadable", "split"]

    answer = run("check", "--format", "json", "--jobs", jobs, *(machines[name] for name in names))

    found = documents(answer.stdout)
    assert (answer.returncode, answer.stderr) == (4, "")
    assert [one["source"] for one in found] == [machines[name] for name in names]
    words = ["findings", "error", "ok", "undecidable", "no-iommu", "ok", "error", "findings"]
    assert [one["status"] for one in found] == words
    schema = json.loads(data_text("report.schema.json"))
    for document in found:
        jsonschema.validate(document, schema)


@pytest.mark.parametrize("form", ["text", "json", "markdown", "prometheus"])
def test_processes_change_nothing_of_the_answer(form: str, machines: Machines) -> None:
    sources = [machines[name] for name in ("split", "right", "unreadable", "restricted", "idle")]

    one, four = (run("check", "--format", form, "--jobs", jobs, *sources) for jobs in ("1", "4"))

    assert (one.returncode, one.stdout, one.stderr) == (four.returncode, four.stdout, four.stderr)


def test_sources_may_be_given_by_option_too(machines: Machines, capsys: Capture) -> None:
    call("check", machines["right"], "--source", machines["idle"], "--source", machines["split"], "--format", "json")

    found = [one["source"] for one in documents(capsys.readouterr().out)]
    assert found == [machines["right"], machines["idle"], machines["split"]]


def test_text_names_the_source_only_among_several(machines: Machines, capsys: Capture) -> None:
    call("check", machines["split"])
    alone = capsys.readouterr().out
    call("check", machines["split"], machines["right"])
    both = capsys.readouterr().out

    assert alone.startswith("findings: 1 critical;")
    assert f"{machines['split']}: findings: 1 critical;" in both
    assert f"\n\n{machines['right']}: ok" in both


def test_an_unreadable_source_is_one_line_on_standard_error(machines: Machines) -> None:
    answer = run("check", machines["unreadable"], machines["right"])

    assert answer.returncode == 4
    assert answer.stderr == f"iommud: {machines['unreadable']}: No such file or directory\n"
    assert "ok" in answer.stdout


def test_a_directory_without_a_pci_bus_is_no_machine(tmp_path: Path) -> None:
    answer = run("check", str(tmp_path), "--format", "json")

    (document,) = documents(answer.stdout)
    assert (answer.returncode, document["status"], document["groups"]) == (4, "error", None)
    assert document["error"] == f"{tmp_path}: no sys/bus/pci in it"


@pytest.mark.parametrize("archive", [THREAD, SWITCH])
def test_standard_input_may_be_an_archive(archive: str) -> None:
    with Path(archive).open("rb") as stream:
        answer = run("check", "-", "--format", "json", stdin=stream)
    named = run("check", archive, "--format", "json")

    (piped,), (direct,) = documents(answer.stdout), documents(named.stdout)
    assert (answer.returncode, piped.pop("source")) == (named.returncode, "-")
    assert direct.pop("source") == archive
    assert piped == direct


def test_standard_input_keeps_its_place_among_processes(machines: Machines) -> None:
    with Path(THREAD).open("rb") as stream:
        answer = run(
            *("check", "--format", "json", "--jobs", "4"),
            *(machines["right"], machines["idle"], "-", machines["merged"], machines["split"]),
            stdin=stream,
        )

    assert [one["status"] for one in documents(answer.stdout)] == ["ok", "no-iommu", "findings", "ok", "findings"]


def test_standard_input_that_is_no_archive_is_an_unreadable_source() -> None:
    answer = run("check", "-", input="this is no archive, but it is long enough to be looked at" * 20)

    assert (answer.returncode, answer.stdout) == (4, "")
    assert answer.stderr.startswith("iommud: -: ")
    assert answer.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["split", "right"])
def test_sysfs_and_procfs_may_be_mounted_elsewhere(name: str, machines: Machines, capsys: Capture) -> None:
    root = machines[name]

    status = call("check", "--path.sysfs", f"{root}/sys", "--path.procfs", f"{root}/proc", "--format", "json")

    (document,) = documents(capsys.readouterr().out)
    assert status == (1 if name == "split" else 0)
    assert document["kernel"] == "6.12.1"


def test_a_sysfs_without_a_pci_bus_is_unreadable(tmp_path: Path, capsys: Capture) -> None:
    assert call("check", "--path.sysfs", str(tmp_path)) == 4
    assert "iommud: " in capsys.readouterr().err


def test_another_kernel_may_be_asked_for(machines: Machines, capsys: Capture) -> None:
    assert call("check", machines["right"], "--kernel", "5.14.0-503.el9", "--format", "json") == 0

    (document,) = documents(capsys.readouterr().out)
    assert document["model"]["kernel"] == "5.14"


def test_markdown_comes_with_a_heading_for_each_source(machines: Machines, capsys: Capture) -> None:
    call("check", machines["split"], machines["right"], "--format", "markdown")

    headings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("## ")]
    assert headings == ["## IOMMU groups: findings", "## IOMMU groups: ok"]


def test_prometheus_joins_sources_in_one_exposition(machines: Machines, capsys: Capture) -> None:
    assert call("check", machines["split"], machines["unreadable"], "--format", "prometheus") == 4

    answer = capsys.readouterr().out
    assert answer.count("# TYPE iommud_source_up gauge") == 1
    assert f'iommud_source_up{{source="{machines["split"]}"}} 1' in answer
    assert f'iommud_source_up{{source="{machines["unreadable"]}"}} 0' in answer


def test_prometheus_has_no_source_label_for_one_machine(machines: Machines, capsys: Capture) -> None:
    call("check", machines["split"], "--format", "prometheus")

    assert "iommud_source_up 1" in capsys.readouterr().out


def test_quiet_says_nothing_of_a_machine_that_is_right(machines: Machines, capsys: Capture) -> None:
    assert call("check", machines["right"], "--quiet") == 0
    assert capsys.readouterr().out == ""

    assert call("check", machines["split"], "--quiet") == 1
    assert capsys.readouterr().out.startswith("findings: ")


def test_verbose_adds_the_evidence(machines: Machines, capsys: Capture) -> None:
    call("check", machines["split"])
    short = capsys.readouterr().out
    call("check", machines["split"], "--verbose")
    long = capsys.readouterr().out

    assert long.startswith(short.splitlines()[0])
    assert "config" in long
    assert len(long) > len(short)


def test_a_machine_without_config_space_rights_is_told_the_remedy(machines: Machines, capsys: Capture) -> None:
    assert call("check", machines["restricted"]) == 3
    assert "run as root" in capsys.readouterr().out


def test_a_process_that_dies_costs_no_answer(machines: Machines) -> None:
    dead: Future[checking.Outcome] = Future()
    dead.set_exception(BrokenProcessPool("no memory"))
    options = checking.CheckOptions(
        sysfs="/sys",
        procfs="/proc",
        kernel=None,
        format=CheckFormat.TEXT,
        selection=checking.selection([], [], "warning"),
        require_iommu=False,
        wake=False,
        verbose=False,
        quiet=False,
        style=Style(colour=False, unicode=True, width=None),
        output=None,
        jobs=None,
    )

    assert checking._awaited(machines["split"], dead, options).exit_status == 1


def test_colours_and_options_do_not_disturb_a_pipeline_of_checks(machines: Machines) -> None:
    first = subprocess.Popen(
        command("capture", machines["split"], "-o", "-"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    second = subprocess.run(
        command("check", "-", "--format", "json"),
        stdin=first.stdout,
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
        timeout=60,
    )
    first.communicate()

    assert (first.returncode, second.returncode) == (0, 1)
    assert [one["kind"] for one in documents(second.stdout)[0]["findings"]] == ["isolation-split"]
