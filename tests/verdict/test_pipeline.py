# SPDX-License-Identifier: GPL-2.0-or-later
"""Facts beside the topology that change what is expected: aliases in the log, the ACS override."""

import pytest

from iommud import check
from iommud.verdict.report import Report
from tests.machines import ON, Machine
from tests.verdict.seen import seen


def kinds(report: Report) -> list[str]:
    return [one.kind.value for one in report.findings]


def behind_switchtec() -> Machine:
    machine = Machine()
    machine.root_port("00:02.0", to=1, acs=ON)
    machine.endpoint("01:00.0", ids="11f8:8531")
    machine.endpoint("01:01.0")
    return machine


ALIAS = "pci 0000:01:00.0: Enabling fixed DMA alias to 01.0"


@pytest.mark.parametrize(
    ("log", "split"),
    [
        (["unrelated", ALIAS], True),
        (["pci 0000:01:00.0: Enabling fixed DMA alias to 04.0"], False),
        (["pci 0000:01:1f.9: Enabling fixed DMA alias to 01.0"], False),
    ],
)
def test_aliases_in_the_log_count_where_no_table_has_them(log: list[str], split: bool) -> None:
    report = check(seen(behind_switchtec(), "00:02.0 | 01:00.0 | 01:01.0", log=tuple(log)))

    assert ("alias-split" in kinds(report)) is split


def test_what_the_override_did_not_change_is_not_mentioned() -> None:
    machine = Machine()
    machine.root_port("00:02.0", to=1)
    machine.endpoint("01:00.0")
    machine.root_port("00:03.0", to=2, acs=ON)
    machine.endpoint("02:00.0")
    groups = "00:02.0 | 01:00.0 | 00:03.0 | 02:00.0"

    report = check(seen(machine, groups, cmdline="pcie_acs_override=downstream"))

    (found,) = report.findings
    assert (found.kind, [str(one)[5:] for one in found.devices]) == ("unisolated", ["00:02.0", "01:00.0"])


def test_the_override_may_name_devices() -> None:
    machine = Machine()
    machine.root_port("00:02.0", to=1, ids="8086:1234")
    machine.endpoint("01:00.0")

    report = check(seen(machine, "00:02.0 | 01:00.0", cmdline="pcie_acs_override=id:8086:1234"))

    assert (report.status, kinds(report)) == ("ok", ["unisolated"])
