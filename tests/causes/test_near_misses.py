# SPDX-License-Identifier: GPL-2.0-or-later
"""Causes that look alike are told apart, and every finding has its own."""

import pytest

from iommud import Kind, Severity, check
from iommud.causes.cause import CauseId
from tests.causes.test_explain import DT, SMMU, VIOT, VIRTIO, ids, port_and_nic, without_port_driver
from tests.machines import ON, Machine
from tests.verdict.seen import seen, thread


def two_ports(kernel: str) -> Machine:
    machine = port_and_nic(ON, kernel)
    machine.root_port("00:03.0", to=2, acs=ON, driver="pcieport", class_code=0x060400)
    machine.endpoint("02:00.0", driver="e1000e", class_code=0x020000)
    return machine


def test_of_two_merged_groups_each_has_a_cause_that_names_its_own_port() -> None:
    report = check(seen(two_ports("7.3"), "00:02.0 01:00.0 | 00:03.0 02:00.0"))
    told = [[cause.summary.partition(" was ")[0] for cause in report.causes[one.id]] for one in report.findings]

    assert [one.kind for one in report.findings] == [Kind.MERGED, Kind.MERGED]
    assert told == [["ACS of 0000:00:02.0"], ["ACS of 0000:00:03.0"]]


@pytest.mark.parametrize(
    ("kernel", "facts", "severity", "cause"),
    [
        ("6.12.80", {}, Severity.WARNING, CauseId.LATE_ACS),
        ("6.12", {"iommu": SMMU, **DT}, Severity.INFO, CauseId.LATE_ACS),
        ("6.12", {"iommu": "smmu.0x00000000fd800000"}, Severity.INFO, CauseId.FOREIGN_DRIVER),
    ],
)
def test_a_merged_group_has_its_cause_whatever_its_severity(
    kernel: str, facts: dict[str, object], severity: Severity, cause: CauseId
) -> None:
    report = check(seen(two_ports(kernel), "00:02.0 01:00.0 | 00:03.0 | 02:00.0", **facts))  # type: ignore[arg-type] # facts of any kind
    (finding,) = report.findings

    assert (finding.kind, finding.severity) == (Kind.MERGED, severity)
    assert cause in {one.id for one in report.causes[finding.id]}


@pytest.mark.parametrize(
    ("machine", "groups", "named"),
    [
        (without_port_driver(), "02:00.0", "bridges-not-probed"),
        (thread(kernel="6.1"), "00:02.0 02:00.0", "viot-alias-bug"),
    ],
)
def test_a_missing_port_driver_and_the_viot_bug_are_told_apart_by_the_port_above(
    machine: Machine, groups: str, named: str
) -> None:
    machine.kernel = "6.1"
    report = check(seen(machine, groups, iommu=VIRTIO, tables=VIOT))

    assert ids(report) == {named}


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("DMAR-IR: Failed to enable interrupt remapping", "iommu-driver-missing"),
        ("AMD-Vi: Unable to use IRQ remapping", "iommu-driver-missing"),
        ("DMAR: Failed to map: timeout", "iommu-driver-refused"),
        ("arm-smmu-v3 arm-smmu-v3.0.auto: probe with driver arm-smmu-v3 failed with error -22", "iommu-driver-refused"),
        ("platform arm-smmu-v3.0.auto: deferred probe pending: waiting for clock", "iommu-driver-deferred"),
    ],
)
def test_what_the_log_says_of_interrupts_is_not_taken_for_the_iommus_failure(line: str, cause: str) -> None:
    report = check(seen(port_and_nic(ON), iommu=None, tables=VIOT, log=(line,)))

    assert ids(report) == {cause}


@pytest.mark.parametrize("kernel", ["6.14.11", "6.16.4", "6.17", "7.3"])
def test_a_virtio_iommu_without_groups_is_no_lookup_failure_outside_of_6_15_to_6_16_3(kernel: str) -> None:
    report = check(seen(port_and_nic(ON, kernel), iommu=VIRTIO, tables=VIOT))

    assert "virtio-instance-lookup" not in ids(report)


@pytest.mark.parametrize("kernel", ["6.15.0", "6.15.11", "6.16.0", "6.16.3", "6.16-rc1"])
def test_a_virtio_iommu_without_groups_is_one_within(kernel: str) -> None:
    report = check(seen(port_and_nic(ON, kernel), iommu=VIRTIO, tables=VIOT))

    assert "virtio-instance-lookup" in ids(report)
