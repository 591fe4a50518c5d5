# SPDX-License-Identifier: GPL-2.0-or-later
"""The comparison of rebuilt guests with their captures, without a boot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from iommud.address import Address
from iommud.verdict.pipeline import check
from tests.guest.machine import Files, qemu_arguments
from tests.guest.rebuilding import table, unexplained
from tests.guest.reproduced import TRIALS, Outcomes, Trial, cell_of, differing, misplaced, plan_of, report_of
from tests.machines import ON
from tests.verdict.seen import seen, thread

EVERY = "00:02.0 | 01:00.0 02:00.0"
SAME = {address: address for address in thread(ON).functions}
SAMPLE = Outcomes(
    fixture="captures/one",
    captured_kernel="6.1",
    iommu="intel",
    kernel="6.12",
    qemu="10.0",
    functions=3,
    carried=3,
    groups=2,
    equal=True,
)


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        (EVERY, []),
        ("00:02.0 01:00.0 02:00.0", ["capture", "capture", "guest"]),
        ("00:02.0 | 01:00.0", ["capture", "guest"]),
    ],
    ids=["equal", "merged", "one without"],
)
def test_every_difference_between_groups_is_told(groups: str, told: list[str]) -> None:
    captured, guest = check(seen(thread(ON), EVERY)), check(seen(thread(ON), groups))

    assert [line.partition(":")[0].removeprefix("only in the ") for line in differing(captured, guest, SAME)] == told


def test_a_group_that_the_capture_lacks_is_a_difference() -> None:
    captured = check(seen(thread(ON), "00:02.0 | 01:00.0"))

    assert list(differing(captured, check(seen(thread(ON), EVERY)), SAME)) == [
        "without a group in the capture only: 0000:02:00.0"
    ]


def test_groups_are_compared_where_the_table_puts_them() -> None:
    guest = thread(ON)
    guest.functions[Address.parse("02:01.0")] = replace(
        guest.functions.pop(Address.parse("02:00.0")), address=Address.parse("02:01.0")
    )
    moved = {**SAME, Address.parse("02:00.0"): Address.parse("02:01.0")}
    found = check(seen(guest, "00:02.0 | 01:00.0 02:01.0"))

    assert not list(differing(check(seen(thread(ON), EVERY)), found, moved))


def test_a_function_that_is_not_where_it_was_foretold_is_told() -> None:
    trial = next(one for one in TRIALS if one.fixture == "captures/6.12-amd64-intel-seed-q7.2")
    plan, guest = plan_of(trial), thread(None)

    assert not list(misplaced(plan, report_of(trial.path)))
    assert len(list(misplaced(plan, check(seen(guest))))) == 7


@pytest.mark.parametrize("trial", TRIALS, ids=[one.fixture for one in TRIALS])
def test_the_guest_has_the_devices_of_the_reproduction(trial: Trial) -> None:
    plan = plan_of(trial)
    words = qemu_arguments(cell_of(trial, plan), Files(qemu=("qemu",), console=Path("console")))
    given = [one.argument for one in plan.devices if one.argument is not None and one.model != "virtio-iommu-pci"]

    assert [word for word in words if word in given] == given
    assert trial.path.exists()


def test_the_table_counts_what_is_equal_and_names_why_another_is_not() -> None:
    trials = [Trial(fixture=f"captures/{name}", kernel="6.12", reason="it raced") for name in ("one", "two")]
    other = replace(SAMPLE, fixture="captures/two", equal=False, differences=("only in the guest: 0000:00:02.0",))
    text = table(trials, {"captures/one": SAMPLE, "captures/two": other})

    assert "1 of 2 have the captured groups" in text
    assert "- `two`: it raced\n" in text
    assert not unexplained(trials, {"captures/two": other})
    assert unexplained([replace(trials[1], reason="")], {"captures/two": other}) == ["two"]


def test_a_result_comes_back_from_its_line() -> None:
    assert Outcomes.decode(SAMPLE.encode()) == SAMPLE
