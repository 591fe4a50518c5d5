# SPDX-License-Identifier: GPL-2.0-or-later
"""Laws of the closure on random machines, with the kernel's own procedure as second opinion."""

from collections import defaultdict
from dataclasses import replace

from hypothesis import assume, event, given, target
from hypothesis import strategies as st

from iommud.address import Address
from iommud.model.acs import AcsState
from iommud.model.groups import Rule, Tie, closure
from iommud.model.quirks import Quirks
from iommud.pci import NOT_READ, Wanted, _acs_decides
from iommud.plan import plan_reads
from iommud.snapshot import PciFunction
from tests.kernel_oracle import Device, KernelOracle
from tests.machines import Machine, refines
from tests.strategies import machines, orders, subsets

ivrs_tables = st.booleans()


def state(ivrs: bool, unknown: bool | None = None) -> AcsState:
    return AcsState(ivrs_present=ivrs, unknown=unknown)


def oracle(machine: Machine, ivrs: bool) -> KernelOracle:
    return KernelOracle(
        machine.snapshot(), machine.version, ivrs=ivrs, logged=machine.logged, ivrs_aliases=machine.firmware
    )


def list_order(kernel: KernelOracle) -> list[Address]:
    return list(kernel.devices)


def parents_first(kernel: KernelOracle, wanted: list[Address]) -> list[Address]:
    """The wanted order, bent so that what lies above a function comes before it."""
    done: dict[Address, None] = {}

    def take(address: Address) -> None:
        device = kernel.devices[address]
        above = KernelOracle._bridge_above(device.bus)
        for parent in (above, device.real):
            if parent is not None and parent.address not in done:
                take(parent.address)
        done.setdefault(address)

    for address in wanted:
        take(address)
    return list(done)


def buses_whole(kernel: KernelOracle) -> list[Address]:
    """The order of the list, but virtual functions stand before what lies below their bus.

    What lies below a bridge without a group may join a sibling of the bridge, if that has a group by then.
    Virtual functions come later than that on a real machine.
    """

    def depth(device: Device | None) -> int:
        return -1 if device is None else 1 + max(depth(KernelOracle._bridge_above(device.bus)), depth(device.real))

    return sorted(kernel.devices, key=lambda one: depth(kernel.devices[one]))


def exposed_slots(kernel: KernelOracle) -> list[list[Device]]:
    """The functions without isolation of each slot in which some carry the multifunction mark and some do not.

    Only a marked function looks for siblings, and groups that exist are never merged. So here, and here only,
    what comes out depends on the order even if parents come first.
    """
    slots: dict[tuple[int, int], list[Device]] = defaultdict(list)
    for device in kernel.devices.values():
        if not kernel.acs(device):
            slots[id(device.bus), device.devfn >> 3].append(device)
    return [slot for slot in slots.values() if len({device.multifunction for device in slot}) == 2]


def list_order_decides(kernel: KernelOracle) -> bool:
    """Whether even the order of the kernel's list may leave such a slot apart.

    Either an unmarked function comes after a marked one, or one of them is also the alias of another function.
    """
    for slot in exposed_slots(kernel):
        marks = [device.multifunction for device in slot]
        if marks != sorted(marks) or any(_has_alias(kernel, device) for device in slot):
            return True
    return False


def _has_alias(kernel: KernelOracle, device: Device) -> bool:
    others = (one for one in kernel.devices.values() if one.bus is device.bus and one is not device)
    return any(kernel.aliases(device, one) for one in others)


@given(machines(), ivrs_tables)
def test_the_expected_groups_partition_the_functions(machine: Machine, ivrs: bool) -> None:
    expected = machine.model(state(ivrs)).expected().groups
    members = [address for group in expected for address in group]
    assert sorted(members) == sorted(machine.functions)
    assert all(expected)
    assert list(expected) == sorted(expected, key=min)


@given(machines(), ivrs_tables, st.data())
def test_adding_a_tie_never_splits_a_group(machine: Machine, ivrs: bool, data: st.DataObject) -> None:
    found = machine.model(state(ivrs)).expected()
    addresses = st.sampled_from(sorted(machine.functions))
    extra = Tie(data.draw(addresses), data.draw(addresses), Rule.DMA_ALIAS)
    more = closure([*found.ties, extra], machine.functions)
    assert refines(found.groups, more.groups)
    assert any({extra.one, extra.other} <= group for group in more.groups)


@given(machines(firmware_aliases=True), ivrs_tables, st.data())
def test_the_order_of_functions_in_a_snapshot_is_immaterial(machine: Machine, ivrs: bool, data: st.DataObject) -> None:
    shuffled = replace(machine, functions={one: machine.functions[one] for one in data.draw(orders(machine))})
    assert shuffled.groups(state(ivrs)) == machine.groups(state(ivrs))


@given(machines(), ivrs_tables)
def test_the_closure_is_what_the_kernel_arrives_at_in_the_order_of_its_list(machine: Machine, ivrs: bool) -> None:
    kernel = oracle(machine, ivrs)
    groups, expected = kernel.probe(list_order(kernel)), machine.groups(state(ivrs))
    target(float(len(machine.functions)))
    assert groups == expected or (list_order_decides(kernel) and refines(groups, expected))


@given(machines(), ivrs_tables, st.data())
def test_the_closure_is_what_the_kernel_arrives_at_in_any_order_with_parents_first(
    machine: Machine, ivrs: bool, data: st.DataObject
) -> None:
    kernel = oracle(machine, ivrs)
    groups = kernel.probe(parents_first(kernel, data.draw(orders(machine))))
    expected = machine.groups(state(ivrs))
    assert groups == expected or (exposed_slots(kernel) and refines(groups, expected))


@given(machines(firmware_aliases=True), ivrs_tables, st.data())
def test_any_other_order_and_any_unprobed_function_refines_the_closure(
    machine: Machine, ivrs: bool, data: st.DataObject
) -> None:
    kernel = oracle(machine, ivrs)
    never = data.draw(st.just(frozenset[Address]()) | subsets(machine))
    order = [one for one in data.draw(orders(machine)) if one not in never]
    groups = kernel.probe(order)
    event(f"differs from the closure: {groups != machine.groups(state(ivrs), never)}")
    assert refines(groups, machine.groups(state(ivrs)))


@given(machines(), ivrs_tables, st.data())
def test_functions_that_rightly_have_no_group_count_as_never_probed(
    machine: Machine, ivrs: bool, data: st.DataObject
) -> None:
    kernel = oracle(machine, ivrs)
    assume(not list_order_decides(kernel))
    never = data.draw(subsets(machine))
    order = [one for one in buses_whole(kernel) if one not in never]
    assert kernel.probe(order) == machine.groups(state(ivrs), never)


@given(machines(), ivrs_tables, st.data())
def test_with_unread_bytes_the_truth_lies_between_finest_and_coarsest(
    machine: Machine, ivrs: bool, data: st.DataObject
) -> None:
    truth = machine.groups(state(ivrs))
    hidden = data.draw(subsets(machine))
    hide = data.draw(st.sampled_from([Machine.hide_extended, Machine.hide_capabilities, Machine.hide_config]))
    for address in sorted(hidden):
        hide(machine, address)
        machine.logged.pop(address, None)
    finest, coarsest = machine.groups(state(ivrs, True)), machine.groups(state(ivrs, False))
    event(f"undecided: {finest != coarsest}")
    assert refines(finest, coarsest)
    assert refines(finest, truth)
    assert refines(truth, coarsest)


@given(machines(), ivrs_tables, st.data())
def test_what_the_plan_leaves_unread_decides_nothing(machine: Machine, ivrs: bool, data: st.DataObject) -> None:
    never = data.draw(st.just(frozenset[Address]()) | subsets(machine))
    truth = machine.groups(state(ivrs), never)
    planned = plan_reads(list(machine.functions.values()), Quirks.bundled(machine.version))
    for address, function in list(machine.functions.items()):
        machine.functions[address] = as_planned(function, planned.get(address))
    assert machine.groups(state(ivrs, True), never) == truth
    assert machine.groups(state(ivrs, False), never) == truth


def as_planned(function: PciFunction, wanted: Wanted | None) -> PciFunction:
    """The function with no more of its config space than is wanted."""
    if wanted is None or function.is_virtual:
        return replace(function, config=NOT_READ)
    config = function.config
    if not wanted.header and function.address.function:
        config = replace(config, header_type=None, multifunction_bit=None)
    if not wanted.capabilities:
        return replace(function, config=replace(config, is_pcie=None, port_type=None, acs=None, acs_known=False))
    number = function.address.devfn if function.ari_enabled else function.address.function
    if config.is_pcie and not _acs_decides(config, wanted, number):
        config = replace(config, acs=None, acs_known=False)
    return replace(function, config=config if wanted.mpc else replace(config, mpc=None))


@given(machines(firmware_aliases=True), ivrs_tables)
def test_the_walk_gives_the_kernel_s_requester_ids_in_its_order(machine: Machine, ivrs: bool) -> None:
    kernel = oracle(machine, ivrs)
    aliases = machine.aliases()
    for address in machine.functions:
        found = [
            (one.taker, (one.requester_id.domain, one.requester_id.bus, one.requester_id.devfn))
            for one in aliases.of(aliases.topology.functions[address])
        ]
        for devfns_given, devfns in machine.firmware.items():
            kernel.devices[devfns_given].mask |= devfns
        assert found == list(dict.fromkeys(kernel.requester_ids(address)))
