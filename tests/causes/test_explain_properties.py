# SPDX-License-Identifier: GPL-2.0-or-later
"""Random machines that suffer from one or two known causes: the answer holds a true one, or none at all.

The machines have an SMMUv3 and a kernel before 6.15, so that both the order of probing and ACS at grouping time
matter. What they did is played by the oracle of the tests.
"""

from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from iommud import Report, check
from iommud.address import Address
from iommud.causes.cause import CauseId
from iommud.causes.explain import proofs_of
from iommud.causes.facts import Facts
from iommud.causes.world import switched
from iommud.snapshot import IommuGroup, Snapshot
from tests.causes.test_explain import IORT, SMMU
from tests.kernel_oracle import KernelOracle
from tests.machines import Machine
from tests.strategies import machines, orders

WHOLE = frozenset({CauseId.PROBE_ORDER, CauseId.ACS_CHANGED_SINCE})
NEVER = frozenset({CauseId.NEVER_JOINED})
"""What a right kernel is blamed for where its own order does not lead to the closure."""


@dataclass(frozen=True)
class Sick:
    """What is seen of a machine, and what is wrong with it."""

    snapshot: Snapshot
    truth: frozenset[CauseId]


def as_seen(machine: Machine, numbers: dict[Address, int]) -> Snapshot:
    members: dict[int, list[Address]] = {}
    for address, number in numbers.items():
        members.setdefault(number, []).append(address)
    functions = (
        replace(one, root=(one.address.domain, 0), group=numbers[one.address], driver=one.driver or "some")
        for one in machine.snapshot().functions
    )
    return replace(
        machine.snapshot(),
        functions=tuple(sorted(functions, key=lambda one: one.address)),
        groups={n: IommuGroup(number=n, members=tuple(sorted(found))) for n, found in members.items()},
        groups_listed=True,
        iommus={SMMU: ()},
        tables=IORT,
        kernel_release=machine.kernel,
        log=(),
    )


def numbered(order: list[Address], groups: frozenset[frozenset[Address]]) -> dict[Address, int]:
    """Groups numbered as they were begun."""
    home = {one: group for group in groups for one in group}
    begun = list(dict.fromkeys(home[one] for one in order))
    return {one: begun.index(home[one]) for one in order}


@st.composite
def sick(draw: st.DrawFn) -> Sick:
    machine = draw(machines())
    machine.kernel = "6.12"
    truth = draw(st.sampled_from([{CauseId.PROBE_ORDER}, {CauseId.ACS_CHANGED_SINCE}, WHOLE]))
    machine.logged.clear()
    then = dict(machine.functions)
    if CauseId.ACS_CHANGED_SINCE in truth:
        on = draw(st.booleans())
        for one in draw(st.lists(st.sampled_from(sorted(then)), unique=True, max_size=3)):
            then[one] = switched(then[one], on=on)
    order = (
        draw(orders(machine)) if CauseId.PROBE_ORDER in truth else sorted(then, key=lambda a: parents_first(machine, a))
    )
    past = replace(machine.snapshot(), functions=tuple(then.values()))
    groups = KernelOracle(past, (6, 12)).probe(order)
    return Sick(as_seen(machine, numbered(order, groups)), frozenset(truth))


def parents_first(machine: Machine, address: Address) -> tuple[bool, int, Address]:
    return (machine.functions[address].is_virtual, depth(machine, address), address)


def depth(machine: Machine, address: Address) -> int:
    one = machine.functions[address]
    above = one.upstream or one.host_parent
    return 0 if above is None else 1 + depth(machine, above)


@given(sick())
def test_the_answer_holds_a_true_cause_or_is_unexplained(machine: Sick) -> None:
    report = check(machine.snapshot)
    named = {cause.id for found in report.causes.values() for cause in found}

    for found in report.causes.values():
        assert {cause.id for cause in found} & (machine.truth | NEVER) or not found
    assert named <= WHOLE | NEVER


@given(sick())
def test_no_cause_is_named_that_does_not_reproduce(machine: Sick) -> None:
    """The order of each proof, given to the oracle with ACS as the proof has it, makes the groups that are seen."""
    report = check(machine.snapshot)
    assert report.analysis is not None
    facts = Facts(report, report.analysis)
    for finding in (one for one in report.findings if one.calls_for_cause):
        for world, proof in proofs_of(facts, finding):
            then = {one.address: one for one in machine.snapshot.functions}
            for names, on in ((world.acs.on, True), (world.acs.off, False)):
                then |= {one: switched(then[one], on=on) for one in names}
            past = replace(machine.snapshot, functions=tuple(then.values()))
            groups = KernelOracle(past, (6, 12)).probe(proof.order)

            assert groups == observed(report, proof.order)


def observed(report: Report, order: tuple[Address, ...]) -> frozenset[frozenset[Address]]:
    found: dict[int, set[Address]] = {}
    for one in order:
        found.setdefault(report.actual.number_of[one], set()).add(one)
    return frozenset(map(frozenset, found.values()))


@given(machines())
def test_a_machine_whose_groups_are_right_has_no_causes(machine: Machine) -> None:
    machine.kernel = "6.12"
    machine.logged.clear()
    order = sorted(machine.functions, key=lambda one: parents_first(machine, one))
    groups = KernelOracle(machine.snapshot(), (6, 12)).probe(order)
    report = check(as_seen(machine, numbered(order, groups)))
    wrong = {one.id for one in report.findings if one.calls_for_cause}

    assert {one: [cause.id for cause in found] for one, found in report.causes.items()} == {
        one: [CauseId.NEVER_JOINED] for one in wrong
    }
