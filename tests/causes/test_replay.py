# SPDX-License-Identifier: GPL-2.0-or-later
"""The step-by-step replay agrees with the oracle of the tests, and with the closure when parents come first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommud.address import Address
from iommud.causes.replay import replayed
from tests.kernel_oracle import KernelOracle
from tests.machines import ON, Machine, Partition, partition, refines
from tests.strategies import machines, orders, subsets
from tests.verdict.seen import thread


def groups_of(machine: Machine, order: list[Address]) -> Partition:
    found: dict[int, set[Address]] = {}
    for address, number in replayed(machine.model(), order).items():
        found.setdefault(number, set()).add(address)
    return frozenset(map(frozenset, found.values()))


@pytest.mark.parametrize(
    ("order", "without_acs", "with_acs"),
    [
        ("00:02.0 01:00.0 02:00.0", "00:02.0 01:00.0 02:00.0", "00:02.0 | 01:00.0 02:00.0"),
        ("02:00.0 01:00.0 00:02.0", "00:02.0 | 01:00.0 | 02:00.0", "00:02.0 | 01:00.0 | 02:00.0"),
        ("01:00.0 00:02.0 02:00.0", "00:02.0 | 01:00.0 02:00.0", "00:02.0 | 01:00.0 02:00.0"),
        ("00:02.0 02:00.0", "00:02.0 02:00.0", "00:02.0 | 02:00.0"),
        ("02:00.0 00:02.0", "00:02.0 | 02:00.0", "00:02.0 | 02:00.0"),
    ],
)
def test_the_founding_topology_groups_as_its_order_says(order: str, without_acs: str, with_acs: str) -> None:
    addresses = [Address.parse(word) for word in order.split()]

    assert groups_of(thread(), addresses) == partition(without_acs)
    assert groups_of(thread(ON), addresses) == partition(with_acs)


@given(st.data())
def test_any_order_of_any_functions_gives_what_the_oracle_gives(data: st.DataObject) -> None:
    machine = data.draw(machines(firmware_aliases=data.draw(st.booleans())))
    never = data.draw(subsets(machine))
    order = [one for one in data.draw(orders(machine)) if one not in never]
    oracle = KernelOracle(machine.snapshot(), machine.version, logged=machine.logged, ivrs_aliases=machine.firmware)

    assert groups_of(machine, order) == oracle.probe(order)


@given(st.data())
def test_no_order_gives_coarser_groups_than_the_closure(data: st.DataObject) -> None:
    machine = data.draw(machines())
    order = data.draw(orders(machine))

    assert refines(groups_of(machine, order), machine.groups())
