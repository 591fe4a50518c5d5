# SPDX-License-Identifier: GPL-2.0-or-later
"""``iommud vfio``: answers, commands and exit statuses."""

import json
from pathlib import Path
from typing import Any

import pytest

from iommud import check, read_sysfs
from iommud.address import Address
from iommud.render.style import PLAIN
from iommud.render.vfio import assignment_data, assignments_data, render_assignment, render_assignments
from iommud.verdict.hazards import Hazard
from iommud.verdict.vfio import assignment_of, assignments
from tests.cli.running import BELOW, FIXTURES, PORT, THREAD, call, machine
from tests.trees import config_space
from tests.verdict.seen import seen, thread
from tests.verdict.test_vfio import RMRR

Machines = dict[str, str]
Capture = pytest.CaptureFixture[str]
HEALTHY = str(FIXTURES / "captures" / "6.12-amd64-intel-seed-q7.2.tar.gz")
DOCUMENT = FIXTURES.parent.parent / "docs" / "vfio.md"


def data(capsys: Capture, *arguments: str) -> Any:
    call("vfio", *arguments, "--format", "json")
    text = capsys.readouterr().out
    assert text.count("\n") == 1
    return json.loads(text)


@pytest.mark.parametrize(
    ("name", "status", "answer"),
    [
        ("right", 0, "yes: after the commands below"),
        ("split", 1, "no: not safe"),
        ("bare port", 0, "yes: after the commands below"),
        ("idle", 1, "no: 0000:01:00.0 has no group: "),
        ("restricted", 3, "unknown: facts are missing"),
        ("unreadable", 4, ""),
    ],
)
def test_the_status_follows_from_the_answer(
    name: str, status: int, answer: str, machines: Machines, capsys: Capture
) -> None:
    assert call("vfio", "01:00.0", "--source", machines[name]) == status
    assert answer in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "status"), [("right", 0), ("split", 1), ("merged", 0), ("idle", 0), ("restricted", 3), ("unreadable", 4)]
)
def test_the_status_of_all_groups_tells_if_one_is_unsafe(name: str, status: int, machines: Machines) -> None:
    assert call("vfio", "--source", machines[name]) == status


def test_the_commands_are_whole_lines(capsys: Capture) -> None:
    assert call("vfio", "02:00.0", "--source", HEALTHY) == 0

    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    first = lines.index("Commands, for root")
    assert lines[first + 1 :] == [
        "modprobe vfio-pci",
        "echo vfio-pci > /sys/bus/pci/devices/0000:02:00.0/driver_override",
        "echo 0000:02:00.0 > /sys/bus/pci/devices/0000:02:00.0/driver/unbind",
        "echo 0000:02:00.0 > /sys/bus/pci/drivers/vfio-pci/bind",
    ]


def test_what_comes_along_is_listed_and_bridges_are_left_alone(capsys: Capture) -> None:
    call("vfio", "02:00.0", "--source", HEALTHY)

    text = capsys.readouterr().out
    assert "with 2 others" in text
    assert text.count("bridge, left alone") == 2


def test_an_unsafe_assignment_says_who_shares_the_requester_id(capsys: Capture) -> None:
    assert call("vfio", "02:00.0", "--source", THREAD) == 1

    text = capsys.readouterr().out
    assert "0000:02:00.0 shares requester ID 0000:02:00.0 with 0000:01:00.0 (no group)" in text
    assert "Commands, for root, once the above is settled" in text


def test_without_a_function_each_group_has_one_line(capsys: Capture) -> None:
    assert call("vfio", "--source", THREAD) == 1

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["0", "1"]
    assert lines[1].endswith("blocked by 0000:02:00.0 (e1000), unsafe (requester-id-without-group and not-isolated)")


def test_what_could_not_be_decided_stands_in_the_line_of_its_group(machines: Machines, capsys: Capture) -> None:
    call("vfio", "--source", machines["restricted"])

    assert capsys.readouterr().out.endswith("blocked by 0000:01:00.0 (e1000e), not certain\n")


def test_a_machine_with_nothing_to_assign_says_so(machines: Machines, capsys: Capture) -> None:
    assert call("vfio", "--source", machines["idle"]) == 0
    assert capsys.readouterr().out.startswith("no group holds anything that could be assigned: ")


def test_the_data_hold_what_the_text_says(capsys: Capture) -> None:
    one = data(capsys, "02:00.0", "--source", THREAD)

    assert (one["schema_version"], one["asked"], one["answer"]) == (1, "0000:02:00.0", "no")
    assert {danger["hazard"] for danger in one["dangers"]} == {"requester-id-without-group", "not-isolated"}
    assert one["commands"][0] == "modprobe vfio-pci"
    groups = data(capsys, "--source", THREAD)["groups"]
    assert [group["group"] for group in groups] == [0, 1]
    assert groups[1]["blockers"] == [{"address": "0000:02:00.0", "driver": "e1000"}]


@pytest.mark.parametrize(("kernel", "status"), [("5.10", 0), ("6.1", 1)])
def test_the_kernel_named_decides_by_which_rule(kernel: str, status: int, tmp_path: Path, capsys: Capture) -> None:
    writer = machine(tmp_path)
    port = config_space(4, header=1)
    numbers = {"secondary_bus_number": "1", "subordinate_bus_number": "1"}
    writer.function(PORT, "1b36:000c", "060400", config=port, driver="shpchp", max_link_width="1", **numbers)
    writer.function(BELOW, "8086:10d3", driver="e1000e", max_link_width="1")
    writer.group(0, PORT, BELOW)

    assert call("vfio", "01:00.0", "--source", str(tmp_path), "--kernel", kernel) == status
    assert ("blocked by 0000:00:02.0 (shpchp)" in capsys.readouterr().out) is bool(status)


@pytest.mark.parametrize("text", ["nonsense", "05:00.0"])
def test_a_function_that_is_not_there_is_wrong_usage(text: str, capsys: Capture) -> None:
    assert call("vfio", text, "--source", THREAD) == 2
    assert capsys.readouterr().out == ""


def test_the_name_of_a_driver_cannot_reach_the_terminal(tmp_path: Path, capsys: Capture) -> None:
    writer = machine(tmp_path)
    writer.function("0000:00:03.0", driver="evil\x1b[2J")
    writer.function("0000:00:04.0", driver="e1000e")
    writer.group(0, "0000:00:03.0", "0000:00:04.0")

    for arguments in (["00:04.0"], ["00:03.0"], []):
        call("vfio", *arguments, "--source", str(tmp_path))
        assert "\x1b" not in capsys.readouterr().out


def test_the_document_shows_what_is_printed_where_no_names_are_known() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    report, thread = check(read_sysfs(HEALTHY)), check(read_sysfs(THREAD))
    assert report.analysis is not None
    functions = report.analysis.explainer.model.topology.functions
    one = assignment_data(report, assignment_of(report, Address.parse("02:00.0")))

    assert f"```text\n{render_assignment(one, functions, style=PLAIN)}```" in text
    assert f"```text\n{render_assignments(assignments_data(thread, assignments(thread)), style=PLAIN)}```" in text


@pytest.mark.parametrize("hazard", Hazard)
def test_the_document_explains_every_hazard(hazard: Hazard) -> None:
    assert f"| `{hazard}` |" in DOCUMENT.read_text(encoding="utf-8")


def test_a_group_that_firmware_keeps_on_the_host_says_so() -> None:
    snapshot = seen(thread(), "00:02.0 01:00.0 02:00.0", tables=RMRR, table_names=frozenset(RMRR))
    report = check(snapshot)
    functions = {one.address: one for one in snapshot.functions}
    found = assignment_data(report, assignment_of(report, Address.parse("02:00.0")))

    text = render_assignment(found, functions, style=PLAIN)
    lines = render_assignments(assignments_data(report, assignments(report)), style=PLAIN)

    kept = "firmware keeps memory 0x1000 to 0x1fff mapped for 0000:00:02.0 (DMAR: RMRR, mapped one to one)"
    assert found["refusal"] == kept
    assert f"assignable  no: {kept}" in text
    assert "Commands" not in text
    assert "0000:02:00.0: refused (reserved memory), blocked by 0000:02:00.0 (e1000)" in lines
