# SPDX-License-Identifier: GPL-2.0-or-later
"""Where sysfs contradicts itself: every complaint, and what is no contradiction."""

from typing import Any

import pytest

from iommud.address import Address
from iommud.consistency import contradictions
from iommud.snapshot import IommuGroup, PciFunction
from tests.machines import Machine


def function(name: str, *, upstream: str | None = None, physfn: str | None = None, **facts: Any) -> PciFunction:
    return PciFunction(
        address=Address.parse(name),
        upstream=None if upstream is None else Address.parse(upstream),
        physfn=None if physfn is None else Address.parse(physfn),
        **facts,
    )


def group(number: int, *names: str) -> IommuGroup:
    return IommuGroup(number=number, members=tuple(map(Address.parse, names)))


def complaints(functions: list[PciFunction], *groups: IommuGroup, groups_listed: bool = True) -> list[str]:
    found = contradictions(functions, {one.number: one for one in groups}, groups_listed=groups_listed)
    return [f"{one.complaint} {' '.join(str(device)[5:] for device in one.devices)}: {one.detail}" for one in found]


@pytest.mark.parametrize(
    ("functions", "groups", "complaint"),
    [
        (
            [function("00:03.0", group=4)],
            [group(4)],
            "link-without-membership 00:03.0: its link names group 4, whose directory does not list it",
        ),
        (
            [function("00:03.0"), function("00:04.0", group=4)],
            [group(4, "00:03.0", "00:04.0")],
            "membership-without-link 00:03.0: group 4 lists it, but it has no iommu_group link",
        ),
        (
            [function("00:03.0", group=4)],
            [group(5, "00:03.0"), group(4, "00:03.0")],
            "in-two-groups 00:03.0: groups 4 and 5 both list it",
        ),
        (
            [function("00:03.0", group=4)],
            [group(4, "00:03.0", "00:09.0")],
            "member-not-listed 00:09.0: group 4 lists it, the PCI bus does not",
        ),
        (
            [function("01:00.0", upstream="00:02.0"), function("01:00.1", upstream="00:02.0")],
            [],
            "upstream-not-listed 01:00.0 01:00.1: they lie below 0000:00:02.0, which is not on the PCI bus",
        ),
        (
            [function("00:02.0", secondary_bus=2, root=(0, 0)), function("01:00.0", upstream="00:02.0")],
            [],
            "bus-number-disagrees 00:02.0 01:00.0: below 0000:00:02.0 with secondary bus 02 lies 0000:01:00.0",
        ),
        (
            [function("40:00.0", root=(0, 0))],
            [],
            "bus-number-disagrees 40:00.0: it lies on root bus 0000:00",
        ),
        (
            [function("00:02.0", secondary_bus=5, subordinate_bus=4)],
            [],
            "bus-range-reversed 00:02.0: its subordinate bus 04 is below its secondary bus 05",
        ),
        (
            [function("00:02.0", secondary_bus=5), function("00:03.0", secondary_bus=5)],
            [],
            "bus-claimed-twice 00:02.0 00:03.0: both claim secondary bus 05",
        ),
        (
            [function("01:10.0", physfn="01:00.0")],
            [],
            "physfn-not-listed 01:10.0: its physical function 0000:01:00.0 is not on the PCI bus",
        ),
    ],
)
def test_each_contradiction_has_a_name_and_a_sentence(
    functions: list[PciFunction], groups: list[IommuGroup], complaint: str
) -> None:
    assert complaints(functions, *groups) == [complaint]


def test_a_machine_that_agrees_with_itself_has_none() -> None:
    functions = [
        function("00:02.0", secondary_bus=1, subordinate_bus=3, root=(0, 0), group=0),
        function("01:00.0", upstream="00:02.0", root=(0, 0), group=1),
        function("02:10.0", upstream="00:02.0", physfn="01:00.0", root=(0, 0), group=2),
        function("00:04.0", secondary_bus=0, subordinate_bus=0, root=(0, 0)),
        function("00:05.0", secondary_bus=0, subordinate_bus=0, root=(0, 0)),
        function("0001:00:02.0", secondary_bus=1, subordinate_bus=1, root=(1, 0)),
        function("00:06.0", secondary_bus=None, root=(0, 0)),
    ]

    assert complaints(functions, group(0, "00:02.0"), group(1, "01:00.0"), group(2, "02:10.0")) == []


def test_below_a_bridge_without_a_known_bus_number_any_number_will_do() -> None:
    assert complaints([function("00:02.0"), function("05:00.0", upstream="00:02.0")]) == []


def test_a_virtual_function_may_have_a_bus_number_of_its_own() -> None:
    physical = function("00:02.0", root=(0, 0))

    assert complaints([physical, function("01:00.0", physfn="00:02.0", root=(0, 0))]) == []


def test_a_capture_without_links_is_no_contradiction() -> None:
    assert complaints([function("00:03.0"), function("00:04.0")], group(4, "00:03.0", "00:04.0")) == []


def test_links_without_the_directory_of_groups_are_no_contradiction() -> None:
    assert complaints([function("00:03.0", group=4)], groups_listed=False) == []


def test_they_come_in_the_order_of_the_functions_concerned() -> None:
    functions = [function("00:09.0", group=7), function("00:03.0", group=4)]

    assert [one[:31] for one in complaints(functions)] == [
        "link-without-membership 00:03.0",
        "link-without-membership 00:09.0",
    ]


def test_machines_built_for_other_tests_are_sound() -> None:
    machine = Machine()
    machine.root_port("00:02.0", to=1)
    machine.endpoint("01:00.0")
    machine.vf("01:00.1", of="01:00.0")

    assert complaints(list(machine.functions.values())) == []
