# SPDX-License-Identifier: GPL-2.0-or-later
"""Laws of imagined machines, on random ones."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import assume, event, given
from hypothesis import strategies as st

from iommud.address import Address
from iommud.pci import PortType
from iommud.snapshot import PciFunction
from iommud.verdict.findings import Kind
from iommud.verdict.pipeline import judge
from iommud.whatif.apply import apply, apply_all
from iommud.whatif.changes import Change, ImpossibleChangeError, Move, Order, ProbeInOrder, Slot, SwitchAcs, TakeOut
from iommud.whatif.comparison import what_if
from iommud.whatif.imagined import Imagined
from iommud.whatif.prediction import groups_of, predict
from tests.machines import Machine, refines
from tests.strategies import machines
from tests.verdict.seen import seen
from tests.whatif.imagining import imagined

WRONG = {Kind.ALIAS_SPLIT, Kind.ISOLATION_SPLIT, Kind.UNGROUPED, Kind.MERGED, Kind.NO_GROUPS}


def all_join(machine: Imagined) -> bool:
    """Whether every function has a group: without one, a bridge makes the rule look sideways."""
    joins = machine.joins(machine.topology())
    return all(joins(one.address) for one in machine.snapshot.functions)


@given(machines())
def test_without_a_change_the_groups_are_those_that_check_expects(machine: Machine) -> None:
    report = judge(seen(machine))
    prediction = predict(Imagined.of(report))

    assert prediction.groups == (report.expected if report.expected is not None else report.finest)
    assert prediction.coarsest == report.coarsest


@given(machines())
def test_nothing_is_wrong_with_predicted_groups(machine: Machine) -> None:
    assert not {one.kind for one in predict(imagined(machine)).report.findings} & WRONG


@given(machines(), st.booleans())
def test_a_change_that_changes_nothing_moves_no_function(machine: Machine, on: bool) -> None:
    report = judge(seen(machine))
    once = apply(Imagined.of(report), SwitchAcs(on))
    settled = judge(replace(once.snapshot, groups={}, contradictions=()))
    found = what_if(settled, [SwitchAcs(on)])

    assert found.together.difference.same
    assert found.together.shifts == ()


@given(machines())
def test_acs_switched_on_never_joins_and_switched_off_never_separates(machine: Machine) -> None:
    before = imagined(machine)
    assume(all_join(before))
    groups = groups_of(before)
    on, off = (groups_of(apply(before, SwitchAcs(state))) for state in (True, False))

    assert refines(on.finest, groups.finest)
    assert refines(groups.finest, off.finest)
    assert refines(on.coarsest, groups.coarsest)
    assert refines(groups.coarsest, off.coarsest)
    event("separates" if on != groups else "the same")


@given(machines(), st.sampled_from(Order))
def test_no_order_joins_what_the_right_one_keeps_apart(machine: Machine, order: Order) -> None:
    before = imagined(machine)
    assume(all_join(before))

    assert refines(groups_of(apply(before, ProbeInOrder(order))).finest, groups_of(before).finest)


@given(machines(), st.data())
def test_what_is_taken_out_joins_nobody_that_stays(machine: Machine, data: st.DataObject) -> None:
    before = imagined(machine)
    assume(all_join(before))
    one = data.draw(st.sampled_from(sorted(machine.functions)))
    after = apply(before, TakeOut(one))
    left = {function.address for function in after.snapshot.functions}
    stayed = [group & left for group in groups_of(before).finest if group & left]

    assert one not in left
    assert refines(groups_of(after).finest, stayed)


BRIDGES = {None, *(PortType(number) for number in (4, 5, 6, 7, 8))}
"""Port types of what is made to be a bridge; random machines have others with a bus below."""
INTEGRATED = {PortType.LEGACY_ENDPOINT, PortType.ROOT_COMPLEX_INTEGRATED_ENDPOINT}


def possible_moves(machine: Imagined, first: int) -> list[tuple[Move, Imagined]]:
    """Where the first device that finds room below some bridge can go, with the machine that this gives."""
    functions = machine.snapshot.functions
    bridges = {one.address for one in functions if one.secondary_bus is not None and one.config.port_type in BRIDGES}
    for one in (*functions[first:], *functions[:first]):
        if one.ari_enabled or one.upstream not in bridges:
            continue
        tried = (
            (move, attempt(machine, move)) for move in (Move(one.address, Slot(below=to)) for to in sorted(bridges))
        )
        found = [(move, after) for move, after in tried if after is not None and after.origins]
        if found:
            return found
    return []


def attempt(machine: Imagined, move: Move) -> Imagined | None:
    try:
        return apply(machine, move)
    except ImpossibleChangeError:
        return None


@given(machines(), st.data())
def test_a_move_within_a_domain_and_the_way_back_leave_everything_as_it_was(
    machine: Machine, data: st.DataObject
) -> None:
    before = imagined(machine)
    moves = possible_moves(before, data.draw(st.integers(0, len(machine.functions))))
    if not moves:
        return
    there, away = data.draw(st.sampled_from(moves))
    now = {old: new for new, old in away.origins.items()}[there.address]
    back = attempt(away, Move(now, Slot(at=there.address)))
    # Another domain may have other bus numbers left; and where random machines put a device, a real one need not fit.
    if back is None or now.domain != there.address.domain:
        return
    event("there and back")

    assert [placed(one) for one in back.snapshot.functions] == [placed(one) for one in before.snapshot.functions]
    assert groups_of(back) == groups_of(before)
    assert back.origins == {}


def placed(function: PciFunction) -> PciFunction:
    """All but what a move to a root bus or away from it settles: integrated endpoints are there, and nowhere else."""
    raw = function.config.port_type
    config = replace(function.config, port_type=PortType.ENDPOINT if raw in INTEGRATED else raw)
    return replace(function, config=config)


@given(machines(), st.data())
def test_a_move_keeps_every_function_and_gives_each_an_address_of_its_own(
    machine: Machine, data: st.DataObject
) -> None:
    before = imagined(machine)
    addresses = sorted(machine.functions)
    one = data.draw(st.sampled_from(addresses))
    slot = Slot.parse(str(data.draw(st.sampled_from(addresses).map(lambda each: each.with_devfn(each.devfn ^ 8)))))
    try:
        after = apply(before, Move(one, slot))
    except ImpossibleChangeError:
        return

    names = [each.address for each in after.snapshot.functions]
    assert len(set(names)) == len(names) == len(addresses)
    assert {after.origins.get(name, name) for name in names} == set(addresses)
    links = {each.upstream for each in after.snapshot.functions if each.upstream is not None}
    assert links <= set(names)


@given(machines(), st.data())
def test_several_changes_are_made_one_after_the_other(machine: Machine, data: st.DataObject) -> None:
    before = imagined(machine)
    addresses: list[Address] = sorted(machine.functions)
    changes: list[Change] = [SwitchAcs(True), TakeOut(data.draw(st.sampled_from(addresses))), SwitchAcs(False)]

    one_by_one = before
    for change in changes:
        one_by_one = apply(one_by_one, change)
    assert apply_all(before, changes) == one_by_one
