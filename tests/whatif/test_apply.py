# SPDX-License-Identifier: GPL-2.0-or-later
"""What each change does to a machine, what it assumes, and what no machine can undergo."""

from __future__ import annotations

from dataclasses import replace

import pytest

from iommud.kernel import requested
from iommud.snapshot import IommuGroup
from iommud.verdict.pipeline import judge
from iommud.whatif.apply import apply
from iommud.whatif.changes import ImpossibleChangeError
from iommud.whatif.imagined import Imagined
from tests.machines import OFF, ON, Machine, partition
from tests.verdict.seen import seen, thread
from tests.whatif.imagining import after, at, captured, change, found, imagined, of_snapshot

SEED = "00:02.0 01:00.0 02:00.0"
APART = "00:02.0 | 01:00.0 02:00.0"


def nic(acs: object = OFF, **facts: object) -> Machine:
    """A NIC with two functions below a port, and an empty port beside it."""
    machine = Machine(**{"kernel": "6.12", **facts})  # type: ignore[arg-type] # a kernel, as a word
    machine.root_port("00:02.0", to=1, acs=acs, driver="pcieport", class_code=0x060400)  # type: ignore[arg-type]
    for name in ("01:00.0", "01:00.1"):
        machine.endpoint(name, mf=True, class_code=0x020000, driver="igb", acs=OFF)
    machine.root_port("00:03.0", to=2, acs=ON, driver="pcieport", class_code=0x060400)
    return machine


@pytest.mark.parametrize(
    ("acs", "changes", "groups"),
    [
        (OFF, ["acs on"], APART),
        (OFF, ["acs on=00:02.0"], APART),
        (ON, ["acs off"], SEED),
        (ON, ["acs off=00:02.0"], SEED),
        (None, ["acs on"], SEED),
        (None, ["acs off=00:02.0"], SEED),
        (None, ["acs on=00:02.0"], APART),
        (None, ["override downstream"], APART),
        (None, ["override multifunction"], SEED),
        (OFF, ["override downstream"], SEED),
        (OFF, ["cmdline pci=config_acs=111x1@00:02.0"], APART),
        (OFF, ["cmdline pci=config_acs=11101@pci:1234:11e8"], APART),
        (ON, ["cmdline pci=config_acs=111x0@00:02.0"], SEED),
        (ON, ["cmdline pci=disable_acs_redir=00:02.0"], SEED),
        (OFF, ["kernel 5.10", "cmdline pci=config_acs=111x1@00:02.0"], SEED),
        (OFF, ["acs on", "acs off"], SEED),
        (OFF, ["acs off", "acs on"], APART),
        (ON, ["kernel 6.12.80"], SEED),
        (ON, ["kernel 6.12.83"], APART),
        (ON, ["kernel 7.3"], APART),
        (ON, ["kernel 6.12.80", "kernel 6.12.83"], APART),
        (ON, ["cmdline iommu=pt intel_iommu=on"], APART),
        (None, ["cmdline pcie_acs_override=downstream"], APART),
        (None, ["cmdline pcie_acs_override=downstream", "override "], SEED),
    ],
)
def test_the_founding_topology_under_a_change(acs: object, changes: list[str], groups: str) -> None:
    prediction = after(imagined(thread(acs)), *changes)

    assert found(prediction) == partition(groups)
    assert prediction.coarsest is None


@pytest.mark.parametrize(
    ("changes", "groups"),
    [
        (["acs on=01:00.0"], "00:02.0 | 01:00.0 | 01:00.1 | 00:03.0"),
        (["acs on=00:02.0"], "00:02.0 | 01:00.0 01:00.1 | 00:03.0"),
        (["without 01:00.1"], "00:02.0 | 01:00.0 | 00:03.0"),
        (["without 01:00.0"], "00:02.0 | 00:03.0"),
        (["without 00:02.0"], "00:03.0"),
        (["move 01:00.0=00:03.0"], "00:02.0 | 00:03.0 | 02:00.0 02:00.1"),
        (["move 01:00.1=02:00.1"], "00:02.0 | 00:03.0 | 02:00.0 02:00.1"),
        (["move 01:00.0=00:03.0/00.0"], "00:02.0 | 00:03.0 | 02:00.0 02:00.1"),
        (["override multifunction"], "00:02.0 | 01:00.0 01:00.1 | 00:03.0"),
    ],
)
def test_a_card_with_two_functions_under_a_change(changes: list[str], groups: str) -> None:
    start = ["acs on=00:02.0"] if "on=01:00.0" in changes[0] or len(changes[0]) < 20 or "override" in changes[0] else []

    assert found(after(imagined(nic(ON)), *start, *changes)) == partition(groups)


def notes(*changes: str, acs: object = OFF) -> str:
    return " / ".join(after(imagined(thread(acs)), *changes).machine.notes)


@pytest.mark.parametrize(
    ("acs", "text", "said"),
    [
        (None, "acs on=00:02.0", "computed for hardware in its place that has one"),
        (None, "acs off=00:02.0", "nothing is switched off there"),
        (OFF, "override downstream", "isolates nothing"),
        (OFF, "kernel 6.1", "some releases of 6.1 ask for ACS too late"),
        (OFF, "kernel 6.12.80", "asks for ACS only after it made groups"),
        (OFF, "kernel 6.18.3", "iommud defects --affecting 6.18.3"),
        (OFF, "cmdline quiet", "no effect of quiet on groups is modelled"),
        (OFF, "cmdline iommu=pt", "no effect of iommu=pt"),
        (OFF, "cmdline pci=nomsi", "no effect of pci=nomsi"),
        (OFF, "cmdline pci=config_acs=1@00:1c.0", "which is no function of this machine"),
        (None, "cmdline pci=config_acs=1@00:02.0", "no effect at 0000:00:02.0, which has no ACS"),
        (ON, "cmdline pci=config_acs=1@00:02.0", "which flags firmware leaves on at 0000:00:02.0 is not known"),
        (OFF, "order bottom-up", "another order cannot happen"),
        (OFF, "without 01:00.0", "with 0000:01:00.0 go 0000:02:00.0"),
    ],
)
def test_what_was_assumed_and_what_does_nothing_is_said(acs: object, text: str, said: str) -> None:
    assert said in notes(text, acs=acs)


def test_a_change_with_nothing_to_assume_says_nothing() -> None:
    assert notes("acs on") == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("acs on=00:09.0", "0000:00:09.0 is not on the PCI bus"),
        ("acs on=01:00.0", "ACS cannot be switched at 0000:01:00.0: PCIe-to-PCI bridge"),
        ("acs off=02:00.0", "ACS cannot be switched at 0000:02:00.0: conventional PCI function"),
        ("without 03:00.0", "is not on the PCI bus"),
        ("kernel 6.18.0-nvidia", "cannot be predicted"),
        ("cmdline pci=config_acs=2@00:02.0", "is no setting like"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused(text: str, said: str) -> None:
    with pytest.raises(ImpossibleChangeError, match=said):
        apply(imagined(thread(OFF)), change(text))


def test_virtual_functions_go_with_their_physical_one_and_alone_without_it() -> None:
    machine = nic(ON)
    machine.vf("01:10.0", of="01:00.0")
    machine.vf("01:10.2", of="01:00.0")
    before = imagined(machine)

    assert found(after(before, "without 01:10.0")) == partition("00:02.0 | 01:00.0 01:00.1 | 01:10.2 | 00:03.0")
    assert found(after(before, "without 01:00.1")) == partition("00:02.0 | 01:00.0 | 01:10.0 | 01:10.2 | 00:03.0")
    assert found(after(before, "without 01:00.0")) == partition("00:02.0 | 00:03.0")
    with pytest.raises(ImpossibleChangeError, match="whose ACS the kernel never looks at"):
        apply(before, change("acs on=01:10.0"))


def test_a_vmd_endpoint_takes_its_domain_along() -> None:
    machine = nic(ON)
    machine.vmd("00:05.0", domain=0x10000)
    machine.add(at("10000:00:00.0"), 0)

    assert found(after(imagined(machine), "without 00:05.0")) == partition("00:02.0 | 01:00.0 01:00.1 | 00:03.0")


def test_the_iommu_itself_cannot_be_taken_out_nor_moved() -> None:
    machine = nic(ON, kernel="7.3")
    machine.conventional("00:01.0", ids="1af4:1057")
    before = imagined(machine, iommu="0000:00:01.0")

    for text in ("without 00:01.0", "move 00:01.0=00:09.0"):
        with pytest.raises(ImpossibleChangeError, match="is the IOMMU itself"):
            apply(before, change(text))


def unread() -> Imagined:
    machine = thread(OFF)
    machine.hide_extended("00:02.0")
    return imagined(machine)


def test_what_was_not_read_stays_open_and_is_not_guessed() -> None:
    for text in ("acs on", "acs on=00:02.0", "acs off=00:02.0", "cmdline pci=config_acs=111x1@00:02.0"):
        prediction = after(unread(), text)

        assert found(prediction) == partition(APART)
        assert prediction.coarsest is not None
        assert frozenset(prediction.coarsest) == partition(SEED)
        assert prediction.certain == ()


def test_that_a_capability_is_not_known_is_said() -> None:
    said = " ".join(after(unread(), "acs on=00:02.0", "cmdline pci=config_acs=1@00:02.0").machine.notes)

    assert "whether 0000:00:02.0 has an ACS capability is not known" in said
    assert "that pci=config_acs= could set is not known" in said


def test_flags_that_firmware_decides_leave_the_groups_open() -> None:
    prediction = after(imagined(thread(ON)), "cmdline pci=config_acs=1@00:02.0")

    assert prediction.coarsest is not None
    # Without an IOMMU nobody has touched them: they stand in the register as firmware left them.
    idle = imagined(thread(ON), iommu=None, table_names=frozenset({"DMAR"}), cmdline="")
    assert after(idle, "cmdline pci=config_acs=1@00:02.0 intel_iommu=on").coarsest is None


@pytest.mark.parametrize(
    ("iommu", "text", "off"),
    [
        ("dmar0", "intel_iommu=off", True),
        ("dmar0", "iommu=off", True),
        ("dmar0", "amd_iommu=off", False),
        ("ivhd0", "amd_iommu=off", True),
        ("ivhd0", "intel_iommu=off", False),
        ("smmu3.0x0000000009050000", "iommu=off", False),
    ],
)
def test_a_switch_takes_all_groups_where_it_is_meant_for_the_driver(iommu: str, text: str, off: bool) -> None:
    prediction = after(imagined(thread(ON), APART, iommu=iommu), f"cmdline {text}")

    assert found(prediction) == (frozenset() if off else partition(APART))
    assert prediction.report.in_use is not off


def test_an_iommu_that_is_switched_on_gives_groups_and_switches_acs_on() -> None:
    idle = imagined(thread(OFF), iommu=None, table_names=frozenset({"DMAR"}), cmdline="quiet")

    assert found(after(idle)) == frozenset()
    prediction = after(idle, "cmdline intel_iommu=on")
    assert found(prediction) == partition(APART)
    assert "an IOMMU in use asks for ACS wherever it exists" in prediction.machine.notes
    assert found(after(idle, "cmdline intel_iommu=on pci=disable_acs_redir=00:02.0")) == partition(SEED)


def test_what_a_switch_does_to_an_unknown_driver_is_not_guessed() -> None:
    with pytest.raises(ImpossibleChangeError, match="names no IOMMU driver"):
        apply(imagined(thread(ON), APART, iommu=None), change("cmdline iommu=off"))


FIRMWARE = "7.3-arm64-smmuv3-two-e1000-rp-q7.2"
"""SMMUv3 described by a device tree."""


def test_without_the_port_driver_bridges_have_no_group_where_groups_wait_for_drivers() -> None:
    old, new = (Imagined.of(captured(name)) for name in ("6.1-arm64-smmuv3-two-e1000-rp-q7.2", FIRMWARE))

    assert found(after(old, "cmdline pcie_ports=compat")) == partition("01:00.0 02:01.0 02:02.0")
    assert found(after(new, "cmdline pcie_ports=compat")) == found(after(new))
    assert found(after(imagined(thread(ON)), "cmdline pcie_ports=compat")) == partition(APART)


@pytest.mark.parametrize(
    ("before", "kernel", "like"),
    [
        ("6.1-arm64-smmuv3-two-e1000-rp-q7.2", "7.3.4", FIRMWARE),
        (FIRMWARE, "6.1.176", "6.1-arm64-smmuv3-two-e1000-rp-q7.2"),
        ("6.12-arm64-virtio-seed-q7.2", "7.3.4", "7.3-arm64-virtio-seed-q7.2"),
        ("5.10-amd64-intel-seed-q7.2", "6.12.95", "6.12-amd64-intel-seed-q7.2"),
        ("6.12-amd64-intel-seed-rp-q7.2", "7.3.4", "7.3-amd64-intel-seed-rp-q7.2"),
        ("7.3-amd64-intel-seed-rp-q7.2", "6.12.95", "6.12-amd64-intel-seed-rp-q7.2"),
        ("6.1-amd64-amd-seed-q7.2", "7.3.4", "7.3-amd64-amd-seed-q7.2"),
    ],
)
def test_another_kernel_gives_what_the_model_expects_of_a_guest_that_booted_it(
    before: str, kernel: str, like: str
) -> None:
    expected = captured(like).expected

    assert expected is not None
    assert found(after(Imagined.of(captured(before)), f"kernel {kernel}")) == frozenset(expected)


def test_which_drivers_would_match_is_not_known_where_no_function_has_a_group() -> None:
    before = Imagined.of(captured("7.3-arm64-virtio-seed-q7.2"))

    assert any("no function has a group now" in note for note in after(before, "kernel 6.12.95").machine.notes)
    assert not any("no function has a group now" in note for note in after(before, "kernel 6.18.3").machine.notes)


def test_orders_other_than_the_right_one_split_where_drivers_decide() -> None:
    before = Imagined.of(captured("6.12-amd64-virtio-two-e1000-rp-q10.0"))
    alone = [group for group in after(before, "order bottom-up").groups if len(group) == 1]

    assert found(after(before, "order top-down")) == found(after(before))
    assert {at("01:00.0"), at("02:01.0"), at("02:02.0")} <= frozenset().union(*alone)
    assert found(after(before, "order bridges-last")) != found(after(before))
    assert not any("cannot happen" in note for note in after(before, "order bottom-up").machine.notes)


def test_whether_the_order_matters_is_not_known_without_the_platform() -> None:
    machine = imagined(thread(OFF), SEED, iommu=None)

    assert "is not known" in " ".join(after(machine, "order top-down").machine.notes)
    assert "is not known" in " ".join(after(machine, "cmdline pcie_ports=compat").machine.notes)


def test_whether_another_kernel_asks_for_acs_in_time_is_not_guessed() -> None:
    late = imagined(thread(ON, kernel="6.12.80"), SEED)
    assert found(after(late, "kernel 6.12.83")) == partition(APART)

    unknown = imagined(thread(ON), APART, iommu=None)
    assert found(after(unknown, "kernel 6.18.3")) == partition(APART)


def test_a_kernel_that_cannot_be_read_is_the_newest_and_that_is_said() -> None:
    assert "is unreadable; predicted as" in notes("kernel nonsense")


def test_a_function_that_has_a_group_in_spite_of_an_excuse_keeps_it() -> None:
    machine = thread(ON)
    machine.conventional("00:00.0", ids="8086:402f", class_code=0x088000)
    before = imagined(machine, "00:00.0 | 00:02.0 | 01:00.0 02:00.0")

    assert at("00:00.0") in before.seated
    assert frozenset({at("00:00.0")}) in found(after(before, "acs off"))
    assert after(before, "without 00:00.0").machine.seated == frozenset()


def test_no_iommu_groups_stay_what_they_are() -> None:
    snapshot = seen(thread(ON), "00:02.0 | 01:00.0")
    artificial = IommuGroup(number=7, members=(at("02:00.0"),), name="vfio-noiommu")
    functions = tuple(replace(one, group=7) if one.address == at("02:00.0") else one for one in snapshot.functions)
    before = of_snapshot(replace(snapshot, functions=functions, groups={**snapshot.groups, 7: artificial}))

    assert found(after(before)) == partition(APART)


def test_members_that_are_no_pci_functions_stay_with_the_first_member_of_their_group() -> None:
    snapshot = seen(thread(OFF), SEED)
    group = replace(snapshot.groups[0], others=("platform-device",))
    before = of_snapshot(replace(snapshot, groups={0: group}))
    snapshot = after(before, "acs on").report.analysis.snapshot  # type: ignore[union-attr] # it was just made

    assert [one.others for one in snapshot.groups.values()] == [("platform-device",), ()]


def test_a_machine_that_is_not_judged_cannot_be_imagined_otherwise() -> None:
    foreign = judge(seen(thread(ON), APART, iommu="s390-iommu.1"))
    stripped = replace(judge(seen(thread(ON), APART)), analysis=None)

    with pytest.raises(ImpossibleChangeError, match="cannot be predicted"):
        Imagined.of(foreign)
    with pytest.raises(ImpossibleChangeError, match="does not hold"):
        Imagined.of(stripped)


def test_a_kernel_named_by_its_numbers_is_the_release() -> None:
    assert requested("6.18").version == (6, 18)
