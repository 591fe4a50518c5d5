# SPDX-License-Identifier: GPL-2.0-or-later
"""What changes would newly allow or forbid, together and each alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from iommud.render.style import PLAIN
from iommud.render.whatif import render_what_if, what_if_data
from iommud.snapshot import Snapshot
from iommud.verdict.pipeline import judge
from iommud.whatif.changes import ImpossibleChangeError
from iommud.whatif.comparison import Freedom, Shift, Standing, WhatIf, standings, what_if
from iommud.whatif.imagined import Imagined
from iommud.whatif.prediction import predict
from tests.firmware.test_dmar import dmar, drhd, rmrr, scope
from tests.machines import OFF, ON, Machine
from tests.verdict.seen import seen, thread
from tests.whatif.imagining import at, captured, change, imagined

RMRR = {"DMAR": dmar(drhd(flags=1), rmrr(scope(1, 0, (2, 0), (0, 0)), segment=0, base=0x1000, limit=0x1FFF))}


def two_nics(acs: object = OFF) -> Machine:
    """A switch with two cards below one root port."""
    machine = Machine(kernel="6.12")
    machine.root_port("00:02.0", to=1, acs=acs, driver="pcieport", class_code=0x060400)  # type: ignore[arg-type]
    machine.switch_upstream("01:00.0", to=2, driver="pcieport", class_code=0x060400)
    for number in range(2):
        machine.switch_downstream(f"02:0{number}.0", to=3 + number, acs=ON, driver="pcieport", class_code=0x060400)
        machine.endpoint(f"0{number + 3}:00.0", driver="e1000e", class_code=0x020000)
    return machine


def asked(snapshot: Snapshot, *changes: str) -> WhatIf:
    return what_if(judge(snapshot), [change(text) for text in changes])


def shifts(found: WhatIf) -> list[tuple[str, Freedom, Freedom, bool | None]]:
    return [(str(one.address)[5:], one.before.freedom, one.after.freedom, one.allows) for one in found.together.shifts]


def test_a_port_that_becomes_isolated_frees_what_lies_below() -> None:
    found = asked(seen(two_nics()), "acs on")

    assert shifts(found) == [
        ("03:00.0", Freedom.TOGETHER, Freedom.ALONE, True),
        ("04:00.0", Freedom.TOGETHER, Freedom.ALONE, True),
    ]
    assert found.together.shifts[0].before.companions == ("0000:04:00.0",)


def test_a_port_that_is_no_longer_isolated_ties_it() -> None:
    assert shifts(asked(seen(two_nics(ON)), "acs off=00:02.0")) == [
        ("03:00.0", Freedom.ALONE, Freedom.TOGETHER, False),
        ("04:00.0", Freedom.ALONE, Freedom.TOGETHER, False),
    ]


def test_a_switch_that_turns_requests_round_makes_its_cards_unsafe() -> None:
    found = asked(seen(two_nics(ON)), "acs off=02:00.0")

    assert shifts(found) == [
        ("03:00.0", Freedom.ALONE, Freedom.UNSAFE, False),
        ("04:00.0", Freedom.ALONE, Freedom.UNSAFE, False),
    ]
    assert "can reach the other ports of the switch" in (found.together.shifts[0].after.why or "")


def test_the_freedom_of_a_function_that_moves_is_compared_with_where_it_was() -> None:
    machine = two_nics(None)
    machine.root_port("00:03.0", to=8, acs=ON)
    found = asked(seen(machine), "move 03:00.0=00:03.0")

    assert [(str(one.origin), str(one.address), one.after.freedom) for one in found.together.shifts] == [
        ("0000:04:00.0", "0000:04:00.0", Freedom.ALONE),
        ("0000:03:00.0", "0000:08:00.0", Freedom.ALONE),
    ]
    assert "0000:08:00.0 (now 0000:03:00.0): safe alone" in render_what_if(found, style=PLAIN)


def test_what_is_taken_out_is_neither_allowed_nor_forbidden() -> None:
    assert shifts(asked(seen(two_nics()), "without 03:00.0")) == [("04:00.0", Freedom.TOGETHER, Freedom.ALONE, True)]


def test_memory_that_firmware_keeps_holds_a_whole_group_until_its_function_is_gone() -> None:
    machine = Machine(kernel="6.12")
    machine.root_port("00:02.0", to=1, acs=ON, driver="pcieport", class_code=0x060400)
    for number in range(2):
        machine.endpoint(f"01:00.{number}", mf=True, acs=OFF, class_code=0x020000, driver="e1000e")
    snapshot = replace(seen(machine), tables=RMRR)

    freedoms = {str(address)[5:]: one for address, one in standings(predict(Imagined.of(judge(snapshot)))).items()}
    assert freedoms["01:00.1"].freedom is Freedom.REFUSED
    assert shifts(asked(snapshot, "acs on")) == [("01:00.1", Freedom.REFUSED, Freedom.ALONE, True)]
    assert "handed to nobody" in render_what_if(asked(snapshot, "acs on"), style=PLAIN)


def test_each_change_is_told_alone_too() -> None:
    found = asked(seen(two_nics()), "acs on=00:02.0", "without 03:00.0", "kernel 6.18.3")

    assert [len(step.changes) for step in found.alone] == [1, 1, 1]
    text = render_what_if(found, style=PLAIN)
    assert "ACS on at 0000:00:02.0: 1 change of groups, 2 functions freer" in text
    assert "kernel 6.18.3: nothing" in text
    assert asked(seen(two_nics()), "acs on").alone == ()


def test_a_change_that_others_make_possible_has_no_answer_alone() -> None:
    found = asked(seen(two_nics()), "without 03:00.0", "move 04:00.0=02:00.0")

    assert [str(step.changes[0]) for step in found.alone] == ["without 0000:03:00.0"]
    assert "0000:04:00.0 moved to 0000:02:00.0: not possible alone" in render_what_if(found, style=PLAIN)


def test_changes_that_cannot_be_made_together_are_an_error() -> None:
    with pytest.raises(ImpossibleChangeError, match="is not on the PCI bus"):
        asked(seen(two_nics()), "without 03:00.0", "acs on=03:00.0")


def test_what_was_not_read_is_not_known_before_and_after() -> None:
    machine = two_nics()
    machine.hide_extended("00:02.0")
    found = asked(seen(machine), "kernel 6.18.3")

    assert not found.decided
    assert found.together.shifts == ()
    assert {one.freedom for one in standings(found.before).values()} == {Freedom.UNKNOWN}
    assert "with the changes, facts are missing" in render_what_if(found, style=PLAIN)
    assert what_if_data(found)["before"]["coarsest"] is not None


def test_a_gap_that_a_change_closes_is_neither_more_nor_less() -> None:
    machine = two_nics()
    machine.hide_extended("00:02.0")
    found = asked(seen(machine), "cmdline intel_iommu=off")

    assert {(before, after, allows) for _, before, after, allows in shifts(found)} == {
        (Freedom.UNKNOWN, Freedom.NONE, None)
    }
    assert "no group; before not known" in render_what_if(found, style=PLAIN)


@pytest.mark.parametrize(
    ("before", "after", "allows"),
    [
        (Freedom.NONE, Freedom.UNSAFE, None),
        (Freedom.UNSAFE, Freedom.TOGETHER, True),
        (Freedom.NONE, Freedom.ALONE, True),
        (Freedom.ALONE, Freedom.REFUSED, False),
        (Freedom.UNKNOWN, Freedom.ALONE, None),
        (Freedom.ALONE, Freedom.UNKNOWN, None),
    ],
)
def test_freedom_has_steps(before: Freedom, after: Freedom, allows: bool | None) -> None:
    assert Shift(at("00:03.0"), at("00:03.0"), Standing(before), Standing(after)).allows is allows


def test_where_the_kernel_has_other_groups_these_are_told() -> None:
    found = what_if(captured("6.1-arm64-smmuv3-two-e1000-rp-q7.2"), [change("acs on")])

    assert [one.change.value for one in found.deviations] == ["grew"]
    assert asked(seen(thread(ON), "00:02.0 | 01:00.0 02:00.0"), "acs on").deviations == ()


def test_bridges_have_no_freedom() -> None:
    assert set(standings(predict(imagined(two_nics())))) == {at("03:00.0"), at("04:00.0")}


def test_numbers_of_groups_that_nobody_made_are_not_told() -> None:
    found = what_if(captured("6.12-amd64-virtio-two-e1000-rp-q10.0"), [change("order bottom-up")])

    assert "shares requester ID" in (found.together.shifts[0].after.why or "")
    assert "(group" not in render_what_if(found, style=PLAIN)
