# SPDX-License-Identifier: GPL-2.0-or-later
"""Two states are compared by the members of groups; what may explain a change is told, and whether it bears on it."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommud.address import Address
from iommud.pci import AcsRegisters, PortType
from iommud.render.difference import difference_document, render_difference, render_difference_markdown
from iommud.render.json import report_document
from iommud.render.style import Style
from iommud.snapshot import PciFunction
from iommud.verdict.circumstances import Subject
from iommud.verdict.difference import Change, Difference, compare
from iommud.verdict.pipeline import check
from iommud.verdict.state import KnownFinding, Machine, State
from tests.render.samples import HOSTILE, at, config, foreign, function, machine, report_of

NAMES = [f"00:{number:02x}.0" for number in range(3, 9)]
FIXED = "6.1fix-amd64-virtio-seed-builtin-q7.2"
BROKEN = "6.1bug-amd64-virtio-seed-builtin-q7.2"


def group(text: str) -> frozenset[Address]:
    return frozenset(at(one) for one in text.split())


def partition(text: str) -> frozenset[frozenset[Address]]:
    return frozenset(group(part) for part in text.split("|") if part.strip())


def state(groups: str, **facts: Any) -> State:
    """A state with groups written as ``00:03.0 00:04.0 | 00:05.0``, in which all NAMES are functions."""
    known: dict[str, Any] = {"source": "built", "kernel": "6.12.95", "status": "ok", "expected": None}
    known["others"] = frozenset(map(at, NAMES))
    return State(groups=partition(groups), **{**known, **facts})


def written(groups: tuple[frozenset[Address], ...]) -> str:
    return " | ".join(" ".join(str(one)[5:] for one in sorted(members)) for members in groups)


@pytest.mark.parametrize(
    ("before", "after", "change", "opposite"),
    [
        ("", "00:03.0", Change.APPEARED, Change.GONE),
        ("00:03.0", "00:03.0 00:04.0", Change.GREW, Change.SHRANK),
        ("00:03.0 00:04.0", "00:03.0 00:05.0", Change.REPLACED, Change.REPLACED),
        ("00:03.0 00:04.0", "00:03.0 | 00:04.0", Change.SPLIT, Change.JOINED),
        ("00:03.0 00:04.0 | 00:05.0", "00:03.0 | 00:04.0 00:05.0", Change.MOVED, Change.MOVED),
    ],
)
def test_a_change_has_a_name_and_the_way_back_the_opposite_one(
    before: str, after: str, change: Change, opposite: Change
) -> None:
    (there,) = compare(state(before), state(after)).groups
    (back,) = compare(state(after), state(before)).groups

    assert (there.change, written(there.before), written(there.after)) == (change, before, after)
    assert (back.change, written(back.before), written(back.after)) == (opposite, after, before)


def test_changes_that_share_no_function_are_told_apart() -> None:
    found = compare(state("00:03.0 | 00:04.0 | 00:05.0 00:06.0"), state("00:03.0 00:04.0 | 00:05.0 | 00:06.0")).groups

    assert [one.change for one in found] == [Change.JOINED, Change.SPLIT]


GROUPINGS = st.dictionaries(st.sampled_from([at(name) for name in NAMES]), st.integers(0, 3))


def grouped(numbers: dict[Address, int], *, complete: bool = True) -> State:
    parts = {number: frozenset(a for a, its in numbers.items() if its == number) for number in numbers.values()}
    return replace(state(""), groups=frozenset(parts.values()), complete=complete)


@given(GROUPINGS, GROUPINGS)
def test_the_changes_lead_from_one_state_to_the_other(old: dict[Address, int], new: dict[Address, int]) -> None:
    before, after = grouped(old), grouped(new)
    found = compare(before, after)

    removed = {one for change in found.groups for one in change.before}
    added = {one for change in found.groups for one in change.after}
    assert (before.groups - removed) | added == after.groups
    assert found.same == (before.groups == after.groups)
    assert set(found.lost) == before.grouped - after.grouped
    assert set(found.gained) == after.grouped - before.grouped


@given(GROUPINGS)
def test_other_group_numbers_are_no_difference(numbers: dict[Address, int]) -> None:
    renumbered = {address: 3 - number for address, number in numbers.items()}

    assert compare(grouped(numbers), grouped(renumbered)).same


def test_a_function_that_left_the_machine_did_not_lose_its_group() -> None:
    others = frozenset(map(at, NAMES[1:]))
    found = compare(state("00:03.0 | 00:04.0"), state("00:04.0", others=others))

    assert (found.gone, found.lost) == ((at("00:03.0"),), ())
    assert compare(found.after, found.before).appeared == (at("00:03.0"),)
    assert compare(found.after, found.before).gained == ()


def test_of_a_state_that_does_not_name_every_function_none_is_called_gone() -> None:
    partial = state("00:04.0", others=frozenset(), complete=False)
    found = compare(state("00:03.0 | 00:04.0"), partial)

    assert (found.gone, found.lost) == ((), (at("00:03.0"),))
    assert compare(partial, found.before).appeared == ()
    assert any("does not name every function" in line for line in found.not_compared)


@pytest.mark.parametrize(
    ("expected", "verdict"), [("00:03.0 00:04.0", True), ("00:03.0 | 00:04.0", False), (None, None)]
)
def test_a_change_says_whether_the_model_expects_what_there_is_now(expected: str | None, verdict: bool | None) -> None:
    after = state("00:03.0 00:04.0", expected=None if expected is None else partition(expected))

    assert compare(state("00:03.0 | 00:04.0"), after).groups[0].as_expected is verdict


def built(groups: str = "", *, functions: tuple[PciFunction, ...] | None = None, **more: Any) -> State:
    found = functions or tuple(function(name, config(PortType.ENDPOINT), driver="e1000e") for name in NAMES)
    return State.of(check(machine(*found, groups=groups or " | ".join(NAMES), **more)))


def subjects(difference: Difference) -> list[tuple[Subject, bool]]:
    return [(one.subject, one.bears) for one in difference.circumstances]


@pytest.mark.parametrize(
    ("facts", "subject", "told"),
    [
        ({"kernel_release": "7.0.1"}, Subject.KERNEL, "the kernel is 7.0.1, and was 6.12.95"),
        ({"cmdline": "quiet iommu=pt"}, Subject.COMMAND_LINE, "the kernel command line has iommu=pt, and had not"),
        ({"cmdline": ""}, Subject.COMMAND_LINE, "the kernel command line has quiet no more"),
        ({"iommus": ("dmar0", "dmar1")}, Subject.IOMMU, "dmar1 (intel) is a new IOMMU"),
    ],
)
def test_what_differs_of_the_machine_explains_nothing_where_the_groups_are_the_same(
    facts: dict[str, Any], subject: Subject, told: str
) -> None:
    found = compare(built(), built(**facts))

    assert found.same
    assert [(one.subject, one.text, one.bears) for one in found.circumstances] == [(subject, told, False)]


def test_what_differs_of_the_machine_may_explain_any_changed_group() -> None:
    joined = f"00:03.0 00:04.0 | {' | '.join(NAMES[2:])}"

    assert subjects(compare(built(), built(joined, kernel_release="7.0.1"))) == [(Subject.KERNEL, True)]


def test_secrets_of_the_command_line_are_not_told() -> None:
    found = compare(built(), built(cmdline="quiet nfsroot=10.0.0.7:/secret"))

    assert "secret" not in json.dumps(difference_document(found))


def port_and_nic(control: int, *, driver: str = "e1000e", ids: int = 0x10D3) -> tuple[PciFunction, ...]:
    port = function("00:02.0", config(PortType.ROOT_PORT, AcsRegisters(0x5F, control)), secondary_bus=1)
    below = function("01:00.0", config(PortType.ENDPOINT), upstream=at("00:02.0"), vendor=0x8086, device=ids)
    alone = function("00:05.0", config(PortType.ENDPOINT), driver=driver)
    return port, below, alone


def test_acs_of_a_bridge_explains_the_groups_below_it_and_the_driver_of_another_slot_does_not() -> None:
    before = built("00:02.0 | 01:00.0 | 00:05.0", functions=port_and_nic(0x1D))
    after = built("00:02.0 01:00.0 | 00:05.0", functions=port_and_nic(0, driver="vfio-pci"))
    found = compare(before, after)

    assert [(one.text, one.bears) for one in found.circumstances] == [
        ("ACS control of 0000:00:02.0 is all off, and was SV+RR+CR+UF", True),
        ("the driver of 0000:00:05.0 is vfio-pci, and was e1000e", False),
    ]
    assert found.groups[0].as_expected


def test_another_device_at_the_same_address_is_told() -> None:
    groups = "00:02.0 | 01:00.0 | 00:05.0"
    before, after = (built(groups, functions=port_and_nic(0x1D, ids=ids)) for ids in (0x10D3, 0x1521))

    assert [one.text for one in compare(before, after).circumstances] == [
        "the device of 0000:01:00.0 is 8086:1521, and was 8086:10d3"
    ]


def test_registers_that_nobody_could_read_are_no_difference() -> None:
    groups = "00:02.0 | 01:00.0 | 00:05.0"
    port, *others = port_and_nic(0x1D)
    hidden = (replace(port, config=replace(port.config, acs=None, acs_known=False)), *others)
    found = compare(built(groups, functions=(port, *others)), built(groups, functions=hidden))

    assert found.circumstances == ()


def test_firmware_is_compared_by_what_it_says_and_not_where_it_could_not_be_read() -> None:
    before = State.of(report_of("6.12-amd64-intel-seed-q7.2"))
    after = State.of(report_of("6.12-amd64-virtio-seed-q7.2"))
    assert before.machine is not None

    texts = [one.text for one in compare(before, after).circumstances if one.subject is Subject.FIRMWARE]
    assert texts == [
        "ACPI table DMAR, as far as it describes IOMMUs, has gone",
        "ACPI table VIOT, as far as it describes IOMMUs, is new",
    ]
    unread = replace(before, machine=replace(before.machine, firmware={}))
    assert Subject.FIRMWARE not in dict(subjects(compare(unread, after)))


def test_a_function_that_firmware_leaves_out_now_is_told() -> None:
    address = at("00:03.0")
    found = compare(state("00:03.0 | 00:04.0"), state("00:04.0", without={address: "no unit serves it"}))

    assert [(one.subject, one.devices, one.bears) for one in found.circumstances] == [(Subject.SCOPE, (address,), True)]
    assert compare(found.after, found.before).circumstances[0].text == "0000:00:03.0 should have a group now"


def test_findings_that_came_and_went_are_told_with_their_causes() -> None:
    found = compare(State.of(report_of(BROKEN)), State.of(report_of(FIXED)))

    assert [one.kind for one in found.findings_appeared] == ["alias-split"]
    assert {one.kind for one in found.findings_cleared} == {"isolation-split", "ungrouped"}
    assert all(one.causes for one in (*found.findings_appeared, *found.findings_cleared))


@pytest.mark.parametrize("name", [BROKEN, FIXED, "6.12-amd64-intel-switch-q7.2", "x670e-aorus-xtreme"])
def test_a_json_report_is_the_same_state_as_the_report(name: str) -> None:
    report = report_of(name)
    read = State.of_document(json.loads(json.dumps(report_document(report))), "report.json")
    found = compare(State.of(report), read)

    assert found.same
    assert found.circumstances == ()
    assert read.complete
    assert any("report.json is a JSON report" in line for line in found.not_compared)


def test_a_json_report_of_a_machine_not_judged_does_not_name_every_function() -> None:
    assert not State.of_document(report_document(foreign()), "report.json").complete


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"schema_version": 2}, "schema_version 1"),
        ({"status": "error"}, "could not be read"),
        ({"groups": None}, "groups is not"),
        ({"kernel": 7}, "kernel is not"),
        ({"functions": "many"}, "functions is not"),
        ({"findings": [{}]}, "is not"),
        ({"groups": {"actual": [[]], "expected": [], "ungrouped": [], "without": []}}, "without members"),
        ({"groups": {"actual": [["00:03.0"], ["00:03.0"]], "ungrouped": [], "without": []}}, "in two groups"),
        ({"groups": {"actual": [["somewhere"]], "ungrouped": [], "without": []}}, "not a PCI address"),
        ({"groups": {"actual": [], "ungrouped": [], "without": ["00:03.0"]}}, "is not"),
    ],
)
def test_a_document_that_is_no_report_is_refused_with_the_problem(change: dict[str, Any], problem: str) -> None:
    document = {**report_document(report_of(FIXED)), **change}

    with pytest.raises(ValueError, match=problem):
        State.of_document(document, "report.json")


@pytest.mark.parametrize("document", [None, [], "text", 7, {}])
def test_other_json_is_refused(document: object) -> None:
    with pytest.raises(ValueError, match="report"):
        State.of_document(document, "report.json")


def test_the_explanation_comes_before_the_list() -> None:
    found = compare(State.of(report_of(BROKEN)), State.of(report_of(FIXED)))
    for text in (render_difference(found, style=Style()), render_difference_markdown(found)):
        places = [text.index(title) for title in ("What may explain it", "Groups\n", "Functions", "Findings")]
        assert places == sorted(places)
        assert "have a group, and had none: 0000:01:00.0" in text


def test_long_lists_are_cut_unless_all_is_asked_for() -> None:
    names = [f"00:{number:02x}.{part}" for number in range(3, 20) for part in range(8)]
    before = state(" | ".join(names), others=frozenset())
    found = compare(before, state("", others=frozenset()))

    short = render_difference(found, style=Style())
    assert "and 96 more (--verbose)" in short
    assert "0000:00:13.7" in render_difference(found, style=Style(), verbose=True)
    assert "0000:00:13.7" not in short


def test_ten_thousand_changed_groups_are_compared_at_once() -> None:
    addresses = [Address(domain, bus, 0, 0) for domain in range(40) for bus in range(250)]
    apart = replace(state(""), groups=frozenset(frozenset({one}) for one in addresses))
    pairs = frozenset(frozenset(addresses[index : index + 2]) for index in range(0, len(addresses), 2))
    started = time.process_time()
    found = compare(apart, replace(apart, groups=pairs))

    assert {one.change for one in found.groups} == {Change.JOINED}
    assert len(found.groups) == 5_000
    assert time.process_time() - started < 3, "seconds; comparing each group with each takes more"


def test_a_circle_of_bridges_does_not_hold_the_comparison_up() -> None:
    one = function("00:03.0", config(PortType.ROOT_PORT), upstream=at("00:04.0"))
    other = function("00:04.0", config(PortType.ROOT_PORT), upstream=at("00:03.0"))
    known = Machine({each.address: each for each in (one, other)}, None, {})
    found = compare(state("00:03.0", machine=known), state("", machine=known, kernel="7.0"))

    assert [each.bears for each in found.circumstances] == [True]


def test_a_finding_of_another_severity_is_new_and_the_old_one_has_cleared() -> None:
    finding = KnownFinding("merged:x:1", "merged", "info", (at("00:03.0"),), ())
    worse = replace(finding, severity="warning")
    found = compare(state("", findings=(finding,)), state("", findings=(worse,)))

    assert (found.findings_appeared, found.findings_cleared) == ((worse,), (finding,))
    assert not found.same


def test_another_explanation_of_the_same_finding_is_no_difference() -> None:
    finding = KnownFinding("merged:x:1", "merged", "info", (at("00:03.0"),), ())

    assert compare(state("", findings=(finding,)), state("", findings=(replace(finding, causes=("of that",)),))).same


def test_foreign_strings_reach_no_terminal_and_no_markup() -> None:
    found = compare(state("", kernel=HOSTILE), state("00:03.0", source=HOSTILE))

    assert "\x1b" not in render_difference(found, style=Style())
    assert "<script>" not in render_difference_markdown(found)
