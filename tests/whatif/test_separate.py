# SPDX-License-Identifier: GPL-2.0-or-later
"""The smallest sets of changes that get two functions apart: found, complete, and true on the whole machine."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from iommud.address import Address
from iommud.kernel import requested
from iommud.model.acs import Override
from iommud.verdict.pipeline import check, judge
from iommud.verdict.report import Report
from iommud.whatif.apply import apply_all
from iommud.whatif.candidates import Class, candidates
from iommud.whatif.changes import BootKernel, Change, ImpossibleChangeError, Move, OverrideAcs, Slot, SwitchAcs
from iommud.whatif.imagined import Imagined
from iommud.whatif.part import part_of
from iommud.whatif.prediction import Groups, groups_of, predict
from iommud.whatif.separate import LARGEST, Separation, Verdict, between, separate
from iommud.whatif.steps import steps
from tests.machines import OFF, ON, Machine
from tests.strategies import machines
from tests.verdict.seen import seen, thread
from tests.whatif.imagining import at, captured


def asked(report: Report, one: str, other: str) -> Separation:
    return separate(report, at(one), at(other))


def of(machine: Machine, one: str, other: str, groups: str = "") -> Separation:
    return asked(judge(seen(machine, groups)), one, other)


def told(found: Separation) -> list[tuple[str, list[str], bool]]:
    """Class, changes and whether it is real, of each answer."""
    return [(one.kind.value, [str(change) for change in one.changes], one.real) for one in found.answers]


def test_a_port_whose_acs_is_off_takes_one_parameter() -> None:
    found = of(thread(OFF), "00:02.0", "02:00.0")

    assert found.verdict is Verdict.POSSIBLE
    assert told(found) == [("software", ["ACS on at 0000:00:02.0"], True)]
    assert steps(found.answers[0].changes, "quiet") == (
        "add to the kernel command line: pci=config_acs=111x1@0000:00:02.0",
    )


def test_before_6_11_the_parameter_takes_another_kernel_too() -> None:
    found = of(thread(OFF, kernel="6.1"), "00:02.0", "02:00.0")

    assert told(found) == [("software", ["kernel 6.12", "ACS on at 0000:00:02.0"], True)]
    assert steps(found.answers[0].changes, None)[0] == "run Linux 6.12 or later"


def test_a_flag_that_the_command_line_took_away_is_given_back_by_leaving_that_out() -> None:
    cmdline = "quiet pci=noats,disable_acs_redir=00:02.0"
    found = asked(judge(seen(thread(OFF, kernel="6.1"), cmdline=cmdline)), "00:02.0", "02:00.0")

    assert told(found) == [("software", ["ACS on at 0000:00:02.0"], True)]
    assert steps(found.answers[0].changes, cmdline)[0] == (
        "take pci=disable_acs_redir=00:02.0 off the kernel command line"
    )


def two_levels(acs: object, below: object) -> Machine:
    machine = Machine(kernel="6.12")
    machine.root_port("00:02.0", to=1, acs=acs)  # type: ignore[arg-type] # ACS registers or None
    machine.switch_upstream("01:00.0", to=2)
    machine.switch_downstream("02:00.0", to=3, acs=below)  # type: ignore[arg-type] # ACS registers or None
    machine.switch_downstream("02:01.0", to=4, acs=ON)
    machine.endpoint("03:00.0")
    return machine


def test_two_ports_in_a_row_take_two_parameters_in_one() -> None:
    found = of(two_levels(OFF, OFF), "00:02.0", "03:00.0")

    assert ("software", ["ACS on at 0000:00:02.0"], True) in told(found)
    deep = of(two_levels(OFF, OFF), "02:00.0", "03:00.0")
    assert told(deep)[0] == ("software", ["ACS on at 0000:00:02.0", "ACS on at 0000:02:00.0"], True)
    assert steps(deep.answers[0].changes, "") == (
        "add to the kernel command line: pci=config_acs=111x1@0000:00:02.0;111x1@0000:02:00.0",
    )


def test_a_card_goes_into_another_slot_where_no_software_helps() -> None:
    machine = thread(None)
    machine.root_port("00:03.0", to=3, acs=ON)
    machine.root_port("00:04.0", to=4, acs=ON, mf=True)
    machine.root_port("00:05.0", to=5, acs=None)
    found = of(machine, "00:02.0", "02:00.0")

    assert found.verdict is Verdict.POSSIBLE
    assert told(found) == [
        ("hardware", ["0000:01:00.0 moved to 0000:00:03.0"], True),
        ("hardware", ["0000:01:00.0 moved to 0000:00:04.0"], True),
        ("hardware", ["0000:01:00.0 moved to 0000:00:05.0"], True),
    ]
    assert steps(found.answers[0].changes, "") == ("put the device at 0000:01:00.0 into a slot below 0000:00:03.0",)


def test_ports_that_are_alike_are_named_though_only_three_are_tried() -> None:
    machine = thread(None)
    for number in range(3, 10):
        machine.root_port(f"00:{number:02x}.0", to=number, acs=ON)
    found = of(machine, "00:02.0", "02:00.0")

    moves = [one.changes[0] for one in found.answers]
    assert sorted(move.slot.below for move in moves if isinstance(move, Move) and move.slot.below) == [
        at(f"00:{number:02x}.0") for number in range(3, 10)
    ]
    assert found.complete
    assert found.tried < 10


def test_two_devices_that_have_to_change_places_do() -> None:
    machine = Machine(kernel="7.3")
    machine.root_port("00:01.0", to=1, acs=None)
    machine.pcie_to_pci("01:00.0", to=2)
    machine.conventional("02:01.0")
    machine.root_port("00:02.0", to=3, acs=ON)
    machine.endpoint("03:00.0")
    found = of(machine, "00:01.0", "01:00.0")

    assert found.verdict is Verdict.IMPOSSIBLE
    assert of(machine, "01:00.0", "02:01.0").verdict is Verdict.IMPOSSIBLE


def test_what_only_pretends_comes_without_being_an_answer() -> None:
    found = of(thread(None), "00:02.0", "02:00.0")

    assert found.verdict is Verdict.IMPOSSIBLE
    assert told(found) == [("pretence", ["a patched kernel with pcie_acs_override=downstream"], False)]
    assert found.answers[0].hazard == "only pcie_acs_override keeps these apart; no hardware isolates them"
    assert "pcie_acs_override patch: pcie_acs_override=downstream" in steps(found.answers[0].changes, "")[0]


def on_hardware(report: Report) -> Report:
    """The same machine with devices of another vendor, so that nothing tells of a hypervisor."""
    assert report.analysis is not None
    snapshot = report.analysis.snapshot
    functions = tuple(replace(one, vendor=0x1234, subsystem_vendor=0x1234) for one in snapshot.functions)
    return judge(replace(snapshot, functions=functions), report.kernel)


def test_other_groups_in_a_switch_without_acs_are_no_isolation() -> None:
    found = asked(on_hardware(captured("6.12-amd64-intel-switch-q7.2")), "02:00.0", "03:00.0")

    assert found.verdict is Verdict.IMPOSSIBLE
    assert [one[0] for one in told(found)] == ["hardware", "pretence"]
    assert "requests from below can reach the other ports" in (found.answers[0].hazard or "")


def test_in_a_guest_a_hypervisor_can_put_a_device_on_the_root_bus_where_nothing_else_separates() -> None:
    report = captured("6.1-arm64-smmuv3-two-e1000-rp-q7.2")
    found = asked(report, "02:01.0", "02:02.0")

    assert told(found) == [
        ("hypervisor", ["0000:02:01.0 moved to 0000:00:01.0"], True),
        ("hypervisor", ["0000:02:02.0 moved to 0000:00:01.0"], True),
    ]
    assert steps(found.answers[0].changes, None) == (
        "have the hypervisor put the device at 0000:02:01.0 on the root bus, for instance at 0000:00:01.0",
    )
    assert asked(on_hardware(report), "02:01.0", "02:02.0").verdict is Verdict.IMPOSSIBLE
    assert {one.kind for one in asked(report, "00:02.0", "02:02.0").answers} == {Class.SOFTWARE}


def test_a_root_bus_without_a_free_slot_is_no_answer() -> None:
    machine = Machine()
    for device in range(32):
        machine.add(f"00:{device:02x}.0", None, to=1 if device == 1 else None, ids="1b36:0001")
    machine.add("01:01.0", None)
    machine.add("01:02.0", None)

    assert of(machine, "01:01.0", "01:02.0").verdict is Verdict.IMPOSSIBLE


@pytest.mark.parametrize(
    ("name", "one", "other", "verdict"),
    [
        ("6.12-amd64-intel-seed-q7.2", "00:1f.2", "00:1f.3", Verdict.IMPOSSIBLE),
        ("6.1-arm64-smmuv3-two-e1000-rp-q7.2", "02:01.0", "02:02.0", Verdict.POSSIBLE),
        ("6.1-arm64-smmuv3-two-e1000-rp-q7.2", "00:02.0", "02:02.0", Verdict.POSSIBLE),
        ("6.12-amd64-intel-pci-bridge-nested-q7.2", "01:01.0", "02:01.0", Verdict.POSSIBLE),
        ("6.12-amd64-intel-switch-q7.2", "03:00.0", "04:00.0", Verdict.APART),
        ("romed8-2t", "42:00.0", "42:00.1", Verdict.IMPOSSIBLE),
        ("6.12-arm64-virtio-seed-q7.2", "00:01.0", "00:02.0", Verdict.NO_GROUP),
    ],
)
def test_the_answer_on_captured_machines(name: str, one: str, other: str, verdict: Verdict) -> None:
    assert asked(captured(name), one, other).verdict is verdict


def test_that_they_are_apart_and_yet_meet_is_said() -> None:
    apart = asked(captured("6.12-amd64-intel-switch-q7.2"), "03:00.0", "04:00.0")
    clean = of(thread(ON), "00:02.0", "02:00.0", "00:02.0 | 01:00.0 02:00.0")

    assert "can reach the other ports" in apart.because[0]
    assert (clean.verdict, clean.because) == (Verdict.APART, ())


def test_that_the_kernel_joined_them_without_need_is_said_with_the_cause() -> None:
    snapshot = seen(thread(ON, kernel="6.12.80"), "00:02.0 01:00.0 02:00.0")
    found = separate(check(snapshot), at("00:02.0"), at("02:00.0"))

    assert found.verdict is Verdict.MERGED
    assert "the kernel has them in one group" in found.because[0]
    assert "update within the stable series" in found.because[1]


def test_that_they_are_apart_by_mistake_is_said() -> None:
    found = of(thread(OFF), "00:02.0", "02:00.0", "00:02.0 01:00.0 | 02:00.0")

    assert found.verdict is Verdict.POSSIBLE
    assert "although nothing isolates them (finding alias-split:" in found.notes[0]


def test_what_was_not_read_leaves_it_open() -> None:
    machine = thread(ON)
    machine.hide_extended("00:02.0")
    found = of(machine, "00:02.0", "02:00.0")

    assert found.verdict is Verdict.UNDECIDED
    assert "0000:00:02.0" in found.because[0]


def test_a_function_without_a_group_has_nothing_to_leave() -> None:
    machine = thread(ON)
    machine.conventional("00:00.2", class_code=0x080600)

    assert of(machine, "00:00.2", "00:02.0").because == ("0000:00:00.2 has no group: it is the IOMMU itself",)


def test_at_its_limit_a_search_says_that_it_is_not_complete() -> None:
    found = separate(judge(seen(thread(None))), at("00:02.0"), at("02:00.0"), limit=0)

    assert (found.verdict, found.complete, found.tried) == (Verdict.UNDECIDED, False, 0)


def large(ports: int) -> Machine:
    """Ports that are not isolated, each with a bridge and four conventional functions, and as many empty ones."""
    machine = Machine(kernel="7.3")
    for number in range(ports):
        domain, place = divmod(number, 30)
        name = Address(domain, 0, place + 1, 0)
        machine.root_port(str(name), to=2 * place + 1, acs=None)
        machine.pcie_to_pci(f"{domain:04x}:{2 * place + 1:02x}:00.0", to=2 * place + 2)
        for device in range(4):
            machine.conventional(f"{domain:04x}:{2 * place + 2:02x}:{device:02x}.0")
        machine.root_port(str(Address(domain, 0x80, place + 1, 0)), to=0x81 + place, acs=ON)
    return machine


def test_of_a_large_machine_only_what_counts_is_looked_at() -> None:
    machine = large(70)
    report = judge(seen(machine))
    one, other = at("0000:00:01.0"), at("0000:02:00.0")
    whole = Imagined.of(report)
    part = part_of(whole, one, other, groups_of(whole))
    found = separate(report, one, other)

    assert len(machine.functions) > 400 > len(part.machine.snapshot.functions)
    assert not part.complete
    assert found.verdict is Verdict.POSSIBLE
    assert not found.complete
    assert {one.kind for one in found.answers} == {Class.HARDWARE}


def test_of_functions_that_cannot_be_moved_apart_the_other_ports_are_no_matter() -> None:
    machine = large(70)
    machine.endpoint("0000:80:1f.0", mf=True)
    machine.endpoint("0000:80:1f.1", mf=True)

    assert of(machine, "80:1f.0", "80:1f.1").complete


def holds(machine: Imagined, changes: tuple[Change, ...], ends: tuple[Address, Address]) -> bool:
    """Whether the changes put the two into different groups."""
    try:
        after = apply_all(machine, changes)
    except ImpossibleChangeError:
        return False
    now = {old: new for new, old in after.origins.items()}
    return groups_of(after).together(*(now.get(end, end) for end in ends)) is False


def isolates(machine: Imagined, changes: tuple[Change, ...], ends: tuple[Address, Address]) -> bool:
    """Whether they hold, and nothing that is known can pass between the two."""
    return holds(machine, changes, ends) and between(predict(apply_all(machine, changes)).report, *ends) is None


def tied(groups: Groups) -> list[tuple[Address, Address]]:
    return [pair for group in groups.finest for pair in combinations(sorted(group), 2)]


@given(machines(), st.data())
@settings(max_examples=40)
def test_every_answer_separates_and_none_is_larger_than_need_be(machine: Machine, data: st.DataObject) -> None:
    report = judge(seen(machine))
    before = Imagined.of(report)
    groups = groups_of(before)
    pairs = tied(groups)
    assume(pairs)
    ends = data.draw(st.sampled_from(pairs))
    found = separate(report, *ends, limit=150)
    event(found.verdict.value)

    for answer in found.answers:
        assert holds(before, answer.changes, ends)
        assert len(answer.changes) <= LARGEST
        fewer = (tuple(one) for size in range(1, len(answer.changes)) for one in combinations(answer.changes, size))
        if answer.real and not any(isinstance(one, BootKernel) for one in answer.changes):
            assert not any(isolates(before, one, ends) for one in fewer)


def switchable() -> st.SearchStrategy[Machine]:
    """A chain of ports and switches with ACS on, off or absent, a card at its end and empty ports beside it."""

    @st.composite
    def build(draw: st.DrawFn) -> Machine:
        registers = st.sampled_from([ON, OFF, OFF, None])
        machine = Machine(kernel=draw(st.sampled_from(["6.1", "6.12", "7.3"])))
        machine.root_port("00:01.0", to=1, acs=draw(registers), mf=draw(st.booleans()))
        bus = 1
        for _ in range(draw(st.integers(0, 2))):
            machine.switch_upstream(f"{bus:02x}:00.0", to=bus + 1)
            machine.switch_downstream(f"{bus + 1:02x}:00.0", to=bus + 2, acs=draw(registers))
            bus += 2
        for number in range(draw(st.integers(1, 2))):
            machine.endpoint(f"{bus:02x}:00.{number}", mf=True, acs=draw(registers))
        for number in range(draw(st.integers(0, 2))):
            machine.root_port(f"00:0{number + 2}.0", to=0x20 + number, acs=draw(registers))
        return machine

    return build()


@given(switchable(), st.data())
@settings(max_examples=60)
def test_no_smaller_set_than_the_answers_was_overlooked(machine: Machine, data: st.DataObject) -> None:
    report = judge(seen(machine))
    before = Imagined.of(report)
    groups = groups_of(before)
    pairs = tied(groups)
    assume(pairs)
    ends = data.draw(st.sampled_from(pairs))
    found = separate(report, *ends)
    switches = [SwitchAcs(True, one.address) for one in before.snapshot.functions if one.config.acs == OFF]
    kernels: list[Change] = [BootKernel(requested("7.3"))] if machine.kernel != "7.3" else []
    usable = [*kernels, *switches]
    least = next(
        (
            size
            for size in range(1, LARGEST + 1)
            for chosen in combinations(usable, size)
            if _possible(chosen, machine.kernel) and isolates(before, tuple(chosen), ends)
        ),
        None,
    )
    software = [len(one.changes) for one in found.answers if one.kind is Class.SOFTWARE and one.real]

    assert found.complete
    assert min(software, default=None) == least
    event(f"{least} changes")


def _possible(chosen: tuple[Change, ...], kernel: str) -> bool:
    switching = any(isinstance(one, SwitchAcs) for one in chosen)
    return not switching or kernel != "6.1" or any(isinstance(one, BootKernel) for one in chosen)


def test_a_change_is_a_candidate_only_where_it_can_be_made() -> None:
    machine = two_levels(OFF, None)
    machine.endpoint("03:00.1", mf=True, acs=OFF)
    report = judge(seen(machine))
    before = Imagined.of(report)
    ends = (at("00:02.0"), at("03:00.0"))
    found = candidates(part_of(before, *ends, groups_of(before)), *ends, ())

    assert [str(one.change) for one in found if one.kind is Class.SOFTWARE] == [
        "ACS on at 0000:00:02.0",
        "kernel 7.0",
        "kernel 7.3",
    ]
    assert {one.change for one in found if one.kind is Class.PRETENCE} == {
        OverrideAcs(frozenset({Override.DOWNSTREAM})),
        OverrideAcs(frozenset({Override.MULTIFUNCTION})),
        OverrideAcs(frozenset({Override.DOWNSTREAM, Override.MULTIFUNCTION})),
    }
    assert {one.change for one in found if one.kind is Class.HARDWARE} == {
        Move(at("03:00.0"), Slot(below=at("02:01.0")))
    }


def test_virtual_functions_are_moved_with_their_physical_one_unless_that_is_the_other() -> None:
    machine = Machine(kernel="7.3")
    machine.root_port("00:02.0", to=1, acs=None)
    machine.endpoint("01:00.0")
    machine.vf("01:10.0", of="01:00.0")
    machine.root_port("00:03.0", to=2, acs=ON)

    assert told(of(machine, "00:02.0", "01:10.0"))[0] == ("hardware", ["0000:01:00.0 moved to 0000:00:03.0"], True)
    assert of(machine, "01:00.0", "01:10.0").verdict is Verdict.IMPOSSIBLE


def test_a_parameter_that_cannot_be_read_names_nobody() -> None:
    snapshot = seen(thread(OFF, kernel="6.1"), cmdline="pci=config_acs=nonsense")

    assert len(asked(judge(snapshot), "00:02.0", "02:00.0").answers[0].changes) == 2


def test_a_shared_requester_id_is_what_lies_between() -> None:
    machine = thread(ON)
    machine.conventional("02:01.0")
    report = judge(seen(machine, "00:02.0 | 01:00.0 02:00.0 | 02:01.0"))

    assert "share requester ID 0000:02:00.0" in (between(report, at("02:00.0"), at("02:01.0")) or "")
    assert between(report, at("00:02.0"), at("02:01.0")) is None
