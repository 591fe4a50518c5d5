# SPDX-License-Identifier: GPL-2.0-or-later
"""Laws of rebuilding: a guest of QEMU is rebuilt as itself, and groups survive where no loss is told."""

from __future__ import annotations

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from iommud.reproduce.models import Version
from iommud.reproduce.parts import OmissionKind, Reproduction
from iommud.reproduce.plan import reproduce
from iommud.verdict.pipeline import check
from tests.guest.topology import TOPOLOGIES
from tests.machines import Machine
from tests.reproduce.emulated import guest, guest_of, shapes
from tests.reproduce.plausible import plausible
from tests.strategies import machines

LOSSES = {OmissionKind.ISOLATION, OmissionKind.UNKNOWN, OmissionKind.FUNCTION}
QEMUS: tuple[Version, ...] = ((7, 2), (10, 0), (11, 1))


def rebuilt(machine: Machine, qemu: Version = (10, 0)) -> Reproduction:
    return reproduce(check(machine.snapshot()), qemu)


def arguments(found: Reproduction) -> list[str]:
    return [one.argument for one in found.devices if one.argument is not None]


# That an IOMMU passes a root bus by, or that there are virtual functions, is no matter of topology alone.
DECLARED = [name for name in TOPOLOGIES if "sriov" not in name and "bypass" not in name]


@pytest.mark.parametrize("name", DECLARED)
def test_a_topology_of_the_lab_is_rebuilt_as_it_was_declared(name: str) -> None:
    declared = [device.argument() for device in TOPOLOGIES[name]]
    found = rebuilt(guest(declared))

    assert shapes(arguments(found)) == shapes(declared)
    assert all(captured == there for captured, there in found.addresses.items())


@given(machine=machines(), qemu=st.sampled_from(QEMUS))
def test_every_function_is_carried_over_or_told_of(machine: Machine, qemu: Version) -> None:
    found = rebuilt(machine, qemu)
    told = {one for omission in found.omissions for one in omission.functions}

    assert set(machine.functions) <= set(found.addresses) | told
    assert len(set(found.addresses.values())) == len(found.addresses)


@given(machine=machines(), qemu=st.sampled_from(QEMUS))
def test_the_guest_has_each_function_where_it_was_foretold(machine: Machine, qemu: Version) -> None:
    found = rebuilt(machine, qemu)
    there = guest_of(found)

    assert set(found.addresses.values()) <= set(there.functions)
    for one in found.devices:
        if one.address is not None:
            assert one.address in there.functions


@given(machine=machines(), qemu=st.sampled_from(QEMUS))
def test_a_rebuilt_machine_is_rebuilt_as_itself(machine: Machine, qemu: Version) -> None:
    first = rebuilt(machine, qemu)
    second = rebuilt(guest(arguments(first), first.architecture), qemu)

    assert shapes(arguments(second)) == shapes(arguments(first))
    assert all(captured == there for captured, there in second.addresses.items())


@given(machine=plausible(), qemu=st.sampled_from(QEMUS))
def test_groups_survive_where_no_loss_is_told(machine: Machine, qemu: Version) -> None:
    found = rebuilt(machine, qemu)
    lost = {one for omission in found.omissions if omission.kind in LOSSES for one in omission.functions}
    event("whole" if not lost else "with losses")
    if lost:
        return
    kept = frozenset(found.addresses.values())
    wanted = {frozenset(found.addresses[one] for one in group) for group in machine.groups()}
    there = {group & kept for group in guest_of(found).groups()} - {frozenset()}

    assert there == wanted


@given(machine=plausible(), qemu=st.sampled_from(QEMUS))
def test_a_plausible_machine_is_carried_over_whole(machine: Machine, qemu: Version) -> None:
    found = rebuilt(machine, qemu)

    assert set(found.addresses) == set(machine.functions)
    assert not [one for one in found.omissions if one.kind in LOSSES]


@given(machine=plausible())
def test_a_tree_keeps_its_form(machine: Machine) -> None:
    found = rebuilt(machine)
    there = guest_of(found)
    for captured, address in found.addresses.items():
        above = machine.functions[captured].upstream

        assert there.functions[address].upstream == (None if above is None else found.addresses[above])
