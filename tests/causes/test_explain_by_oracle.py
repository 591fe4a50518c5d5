# SPDX-License-Identifier: GPL-2.0-or-later
"""Of machines that the oracle made sick the answer holds a true cause or none, and its replays are the oracle's too."""

from collections import Counter

from hypothesis import given

from iommud import Report, check
from iommud.address import Address
from iommud.causes.cause import CauseId
from iommud.causes.explain import proofs_of
from iommud.causes.facts import Facts
from iommud.causes.search import Proof
from iommud.causes.world import World, switched
from tests.causes.sick import OverriddenKernel, Sick, chained, sick_machines
from tests.kernel_oracle import KernelOracle
from tests.machines import Partition

ALWAYS = frozenset({CauseId.NEVER_JOINED})
"""What a kernel is rightly blamed for that did nothing but follow its own list."""


@given(sick_machines())
def test_the_answer_holds_a_true_cause_or_none_and_the_oracle_reproduces_what_it_is_named_for(machine: Sick) -> None:
    report = check(machine.snapshot)

    for found in report.causes.values():
        assert {cause.id for cause in found} & (machine.illness.truth | ALWAYS)
    if report.analysis is not None:
        _hold_against_the_oracle(machine, report)


@given(chained())
def test_what_chains_of_aliases_leave_apart_is_always_explained(machine: Sick) -> None:
    report = check(machine.snapshot)
    wrong = [one.id for one in report.findings if one.calls_for_cause]

    assert [{cause.id for cause in report.causes[one]} for one in wrong] == [ALWAYS for _ in wrong]


def _hold_against_the_oracle(machine: Sick, report: Report) -> None:
    assert report.analysis is not None
    facts = Facts(report, report.analysis)
    for finding in (one for one in report.findings if one.calls_for_cause):
        for world, proof in proofs_of(facts, finding):
            kernel = _kernel(machine, world)

            assert kernel.probe(proof.order) == _observed(report, proof.order)
            assert all(_is_left_out(kernel, world, proof, one) for one in proof.without)


def _kernel(machine: Sick, world: World) -> OverriddenKernel:
    then = {one.address: one for one in machine.snapshot.functions}
    if world.acs.cleared:
        then = {address: switched(one, on=False) for address, one in then.items()}
    for names, on in ((world.acs.on, True), (world.acs.off, False)):
        then |= {one: switched(then[one], on=on) for one in names}
    kernel = machine.kernel(list(then.values()))
    kernel.overrides = world.acs.override
    for one in getattr(world.acs, "alone", ()):
        kernel.devices[one].multifunction = False
    return kernel


def _is_left_out(kernel: KernelOracle, world: World, proof: Proof, address: Address) -> bool:
    """Whether the world says of a function without a group why it has none, and the oracle's streams bear it out."""
    if world.abandons or address in world.unprobed or address in world.refused:
        return True
    streams = [requester for _, requester in kernel.requester_ids(address)]
    owned = {requester for one in proof.order for _, requester in kernel.requester_ids(one)}
    return (world.stream_twice and max(Counter(streams).values()) > 1) or (
        world.stream_taken and bool(owned & set(streams))
    )


def _observed(report: Report, order: tuple[Address, ...]) -> Partition:
    found: dict[int, set[Address]] = {}
    for one in order:
        found.setdefault(report.actual.number_of[one], set()).add(one)
    return frozenset(map(frozenset, found.values()))
