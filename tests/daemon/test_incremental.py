# SPDX-License-Identifier: GPL-2.0-or-later
"""Snapshots of a watched machine: what is read again and when, and what is said of one that does not stand still."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from iommud import check, read_sysfs
from iommud.address import Address
from iommud.archive import open_source
from iommud.daemon.incremental import IncrementalReader, time_suspended
from iommud.errors import SourceError
from iommud.files import Tree
from iommud.pci import AcsRegisters, Gap
from iommud.snapshot import Complaint, PciFunction, Snapshot
from iommud.sysfs import take_snapshot
from iommud.verdict.findings import Kind
from tests.daemon.machine_on_disk import (
    ACS_OFF,
    ACS_ON,
    LEFT,
    OTHER_PORT,
    PORT,
    RIGHT,
    ROOT_PORT,
    VIRTUAL_MACHINE_DISK,
    MachineOnDisk,
    WatchedTree,
)
from tests.trees import config_space

WITH_ACS = {PORT, OTHER_PORT, LEFT, RIGHT}


class Watch:
    """A machine on disk and the reader that watches it."""

    def __init__(self, root: Path) -> None:
        self.machine = MachineOnDisk(root)
        self.opened: Counter[Address] = Counter()
        self.changes = 0
        self.suspended = 0.0
        self.disturb: Callable[[Address], None] | None = None
        self.listed: Callable[[str], None] | None = None
        self.read: Callable[[str], None] | None = None
        self.reader = IncrementalReader(self.tree, changes=lambda: self.changes, suspended=lambda: self.suspended)

    def tree(self) -> Tree:
        tree = WatchedTree.of(self.machine, self.opened)
        tree.disturb = self.disturb
        tree.listed = self.listed
        tree.when_read = self.read
        return tree

    def snapshot(self, *touched: Address, full: bool = False) -> Snapshot:
        """The next snapshot; ``opened`` then tells what was read for it."""
        self.opened.clear()
        return self.reader.snapshot(touched, full=full)

    def fresh(self) -> Snapshot:
        return take_snapshot(WatchedTree.of(self.machine))


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    watch = Watch(tmp_path)
    watch.snapshot()
    return watch


def function(snapshot: Snapshot, address: Address) -> PciFunction:
    return next(one for one in snapshot.functions if one.address == address)


def control(snapshot: Snapshot, address: Address) -> int:
    acs = function(snapshot, address).config.acs
    assert acs is not None
    return acs.control


def facts(snapshot: Snapshot) -> Snapshot:
    return replace(snapshot, config_reads=0)


def test_the_first_snapshot_reads_what_any_other_reader_reads(tmp_path: Path) -> None:
    watch = Watch(tmp_path)

    assert watch.snapshot() == watch.fresh()
    assert set(watch.opened) == WITH_ACS
    assert watch.reader.config_reads == watch.fresh().config_reads > 0


def test_an_archive_whose_files_have_no_identity_is_read_as_by_any_other_reader() -> None:
    capture = Path(__file__).parents[1] / "fixtures/captures/6.12-amd64-intel-switch-q7.2.tar.gz"
    reader = IncrementalReader(lambda: open_source(str(capture), sysfs="/sys", procfs="/proc"), changes=lambda: 0)

    assert check(reader.snapshot((), full=True)).findings == check(read_sysfs(str(capture))).findings


def test_config_space_of_known_functions_is_not_read_again(watch: Watch) -> None:
    reads = watch.reader.config_reads

    again = watch.snapshot()

    assert facts(again) == facts(watch.fresh())
    assert again.config_reads == 0
    assert watch.reader.config_reads == reads
    assert not watch.opened


def test_facts_are_shared_between_snapshots(watch: Watch) -> None:
    watch.machine.write("sys/firmware/acpi/tables/DMAR", b"DMAR" + bytes(44))
    first = watch.snapshot()
    watch.machine.move(LEFT, 3)
    second = watch.snapshot()
    kept = [one for one in second.functions if one.address != LEFT]

    assert all(one is function(first, one.address) for one in kept)
    assert second.groups[0] is first.groups[0]
    assert second.tables is first.tables
    assert function(second, LEFT).group == 3


def test_a_function_that_appears_is_read_and_no_other(watch: Watch) -> None:
    watch.machine.function(
        "0000:00:1d.0/0000:02:00.0", "1234:1111", "060400", config=config_space(5, header=1), secondary_bus_number="3"
    )

    snapshot = watch.snapshot(Address.parse("0000:02:00.0"))

    assert function(snapshot, Address.parse("0000:02:00.0")).config.port_type == 5
    assert facts(snapshot) == facts(watch.fresh())
    # The ports above an event may have been reset: one dword is read of theirs.
    assert watch.opened == {Address.parse("0000:02:00.0"): 1, OTHER_PORT: 1}


def test_a_neighbour_that_appears_makes_a_lone_function_worth_reading(watch: Watch) -> None:
    watch.machine.function("0000:00:02.1", "1af4:1001", "010000", config=config_space())

    snapshot = watch.snapshot()

    assert facts(snapshot) == facts(watch.fresh())
    assert set(watch.opened) == {VIRTUAL_MACHINE_DISK, Address.parse("0000:00:02.1")}


def test_a_function_that_went_is_forgotten(watch: Watch) -> None:
    watch.machine.remove(RIGHT)
    snapshot = watch.snapshot()

    assert facts(snapshot) == facts(watch.fresh())
    assert RIGHT not in watch.reader._known


def another_file(machine: MachineOnDisk, content: bytes) -> None:
    machine.write("new", content)
    (machine.root / "new").replace(machine.place(LEFT) / "config")


def as_another_object(machine: MachineOnDisk) -> None:
    another_file(machine, config_space(0, ACS_OFF, multifunction=True))


def with_other_ids(machine: MachineOnDisk) -> None:
    machine.write(f"{machine.place(LEFT)}/uevent", "PCI_CLASS=20000\nPCI_ID=15B3:1017\n")


def of_another_size(machine: MachineOnDisk) -> None:
    (machine.place(LEFT) / "config").write_bytes(config_space(0, None, size=256))


def below_another_port(machine: MachineOnDisk) -> None:
    machine.remove(LEFT)
    machine.function("0000:00:1d.0/0000:01:00.0", "1234:1111", config=config_space(0, ACS_OFF, multifunction=True))


@pytest.mark.parametrize("replaced", [as_another_object, of_another_size, below_another_port])
def test_a_function_that_was_replaced_is_read_anew(replaced: Callable[[MachineOnDisk], None], watch: Watch) -> None:
    replaced(watch.machine)

    snapshot = watch.snapshot()

    assert facts(snapshot) == facts(watch.fresh())
    assert watch.opened == {LEFT: 1}


@pytest.mark.parametrize(("touched", "full"), [((LEFT,), False), ((RIGHT,), False), ((), True)])
def test_identity_that_changes_in_place_is_seen_by_an_event_there_or_next_to_it_and_in_full(
    touched: tuple[Address, ...], full: bool, watch: Watch
) -> None:
    with_other_ids(watch.machine)
    assert function(watch.snapshot(), LEFT).vendor == 0x1234, "the kernel never does that without an event"

    snapshot = watch.snapshot(*touched, full=full)

    assert facts(snapshot) == facts(watch.fresh())
    assert function(snapshot, LEFT).vendor == 0x15B3


def test_bus_numbers_of_the_ports_above_an_event_are_read_again_and_no_others(watch: Watch) -> None:
    for port in (PORT, OTHER_PORT):
        watch.machine.write(f"{watch.machine.place(port)}/subordinate_bus_number", "9\n")

    snapshot = watch.snapshot(LEFT)

    assert function(snapshot, PORT).subordinate_bus == 9
    assert function(snapshot, OTHER_PORT).subordinate_bus == 2
    assert facts(watch.snapshot(full=True)) == facts(watch.fresh())


def move(machine: MachineOnDisk) -> None:
    machine.move(LEFT, 3)


def bind(machine: MachineOnDisk) -> None:
    link = machine.place(LEFT) / "driver"
    link.unlink(missing_ok=True)
    link.symlink_to("../../../../bus/pci/drivers/vfio-pci")
    machine.write(f"{machine.place(LEFT)}/uevent", "DRIVER=vfio-pci\nPCI_CLASS=20000\nPCI_ID=1234:1111\n")


@pytest.mark.parametrize("change", [move, bind])
def test_a_link_that_changes_is_seen_at_once_though_no_event_tells(
    change: Callable[[MachineOnDisk], None], watch: Watch
) -> None:
    change(watch.machine)

    assert facts(watch.snapshot()) == facts(watch.fresh())
    assert watch.reader.retakes == 0


def test_a_quick_look_reads_no_identity_that_is_known(watch: Watch) -> None:
    read: list[str] = []
    watch.read = read.append
    watch.snapshot(VIRTUAL_MACHINE_DISK)

    assert {path.split("/")[-2] for path in read if path.startswith("sys/devices/")} == {str(VIRTUAL_MACHINE_DISK)}


def test_a_look_that_seems_torn_is_taken_again_with_every_identity(watch: Watch) -> None:
    watch.machine.write(f"{watch.machine.place(OTHER_PORT)}/secondary_bus_number", "7\n")
    watch.machine.write(f"{watch.machine.place(OTHER_PORT)}/subordinate_bus_number", "7\n")
    watch.machine.function("0000:00:1d.0/0000:07:00.0", "1234:1111", "010000", config=config_space())

    snapshot = watch.snapshot()

    assert facts(snapshot) == facts(watch.fresh())
    assert watch.reader.retakes == 1


def test_acs_control_that_changes_without_a_word_is_seen_by_the_next_full_snapshot(watch: Watch) -> None:
    watch.machine.set_control(PORT, 0)

    assert control(watch.snapshot(), PORT) == ACS_ON[1], "nothing happened that could have changed it"
    assert control(watch.snapshot(full=True), PORT) == 0
    assert facts(watch.snapshot()) == facts(watch.fresh())


def test_a_full_snapshot_reads_one_dword_of_each_function_with_acs(watch: Watch) -> None:
    snapshot = watch.snapshot(full=True)

    assert facts(snapshot) == facts(watch.fresh())
    assert snapshot.config_reads == len(WITH_ACS)
    assert watch.opened == dict.fromkeys(WITH_ACS, 1)


@pytest.mark.parametrize(
    ("touched", "reached"),
    [
        (PORT, {PORT, LEFT, RIGHT}),
        (LEFT, {PORT, LEFT, RIGHT}),
        (OTHER_PORT, {OTHER_PORT}),
        (VIRTUAL_MACHINE_DISK, set()),
        (Address.parse("0000:07:00.0"), set()),
    ],
)
def test_an_event_has_acs_control_read_wherever_a_reset_can_have_come_by(
    touched: Address, reached: set[Address], watch: Watch
) -> None:
    for address in WITH_ACS:
        watch.machine.set_control(address, 0)

    snapshot = watch.snapshot(touched)

    assert set(watch.opened) == reached
    assert {one for one in WITH_ACS if control(snapshot, one) == 0} == reached


def test_events_are_answered_once(watch: Watch) -> None:
    watch.snapshot(LEFT)
    watch.snapshot()

    assert not watch.opened


def test_a_machine_that_was_suspended_is_read_as_fully_as_after_lost_events(watch: Watch) -> None:
    watch.machine.set_control(LEFT, 0)
    watch.suspended = 3600.0

    assert control(watch.snapshot(), LEFT) == 0
    watch.machine.set_control(LEFT, 0x1D)
    assert control(watch.snapshot(), LEFT) == 0, "it was suspended once"


def test_the_time_suspended_does_not_pass_while_the_machine_runs() -> None:
    assert 0 <= time_suspended() == pytest.approx(time_suspended(), abs=0.1)


def test_the_wide_registers_of_sunrise_point_are_read_again(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    watch.machine.function("0000:00:1b.0", "8086:a167", "060400", config=wide_acs(), secondary_bus_number="9")
    port = Address.parse("0000:00:1b.0")
    assert function(watch.snapshot(), port).config.acs == AcsRegisters(0x1F, 0x1D, wide=True)

    watch.machine.poke(port, 0x108, b"\0\0\0\0")

    assert control(watch.snapshot(port), port) == 0


def wide_acs() -> bytes:
    space = bytearray(config_space(ROOT_PORT, (0x1F, 0), header=1))
    space[0x108:0x10C] = (0x1D).to_bytes(4, "little")
    return bytes(space)


def test_the_port_configuration_of_intel_root_ports_is_read_again(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    watch.machine.function(
        "0000:00:1b.0", "8086:9c90", "060400", config=config_space(ROOT_PORT, header=1), secondary_bus_number="9"
    )
    port = Address.parse("0000:00:1b.0")
    assert function(watch.snapshot(), port).config.mpc == 0

    watch.machine.poke(port, 0xD8, b"\0\0\0\4")

    assert function(watch.snapshot(port), port).config.mpc == 0x04000000


@pytest.mark.parametrize("full", [False, True])
def test_a_function_that_fell_asleep_keeps_its_facts_and_is_not_woken(full: bool, watch: Watch) -> None:
    watch.machine.write(f"{watch.machine.place(LEFT)}/power_state", "D3cold\n")

    snapshot = watch.snapshot(LEFT, full=full)

    assert control(snapshot, LEFT) == ACS_ON[1]
    assert LEFT not in watch.opened
    assert function(watch.fresh(), LEFT).config.gap is Gap.ASLEEP


def test_a_function_that_slept_is_read_as_soon_as_it_is_awake(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    state = f"{watch.machine.place(LEFT)}/power_state"
    watch.machine.write(state, "D3cold\n")
    assert function(watch.snapshot(), LEFT).config.gap is Gap.ASLEEP
    watch.machine.write(state, "D0\n")

    assert facts(watch.snapshot()) == facts(watch.fresh())
    assert watch.opened == {LEFT: 1}


@pytest.mark.parametrize(
    ("space", "gap", "times"),
    [
        (b"\xff" * 4096, Gap.ALL_ONES, 2),
        (b"", Gap.VANISHED, 2),
        (config_space(0, ACS_ON, multifunction=True)[:64], Gap.RESTRICTED, 1),
    ],
)
def test_only_a_gap_that_may_close_is_looked_at_again(space: bytes, gap: Gap, times: int, tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    (watch.machine.place(LEFT) / "config").write_bytes(space)
    total: Counter[Address] = Counter()
    for _ in range(2):
        assert function(watch.snapshot(), LEFT).config.gap is gap
        total += watch.opened

    assert total[LEFT] == times
    assert total[RIGHT] == 1


def test_a_function_that_stops_answering_is_noticed_by_the_next_look(watch: Watch) -> None:
    watch.machine.poke(LEFT, 0, b"\xff" * 4096)

    assert function(watch.snapshot(LEFT), LEFT).config.gap is Gap.ALL_ONES


class Disturbance:
    """Changes the machine while it is read: on each of the first ``times`` attempts, as one function is opened."""

    def __init__(self, watch: Watch, change: Callable[[int], None], times: int = 1) -> None:
        self._change = change
        self._left = times
        watch.disturb = self
        watch.machine.write("new", config_space(0, ACS_ON, multifunction=True))
        (watch.machine.root / "new").replace(watch.machine.place(RIGHT) / "config")

    def __call__(self, address: Address) -> None:
        if address == RIGHT and self._left:
            self._left -= 1
            self._change(self._left)


def test_a_snapshot_torn_by_a_change_is_taken_again(watch: Watch) -> None:
    Disturbance(watch, lambda _: watch.machine.move(LEFT, 3))

    snapshot = watch.snapshot()

    assert facts(snapshot) == facts(watch.fresh())
    assert not snapshot.contradictions
    assert (watch.reader.retakes, watch.reader.torn) == (1, 0)


def test_a_function_that_vanishes_under_the_read_is_gone(watch: Watch) -> None:
    Disturbance(watch, lambda _: watch.machine.remove(RIGHT))

    snapshot = watch.snapshot()

    assert RIGHT not in {one.address for one in snapshot.functions}
    assert facts(snapshot) == facts(watch.fresh())
    assert watch.reader.retakes == 1


def test_the_whole_bus_may_vanish_under_the_read(watch: Watch) -> None:
    def vanish(_: int) -> None:
        for address in (PORT, OTHER_PORT, VIRTUAL_MACHINE_DISK):
            watch.machine.remove(address)

    Disturbance(watch, vanish)
    snapshot = watch.snapshot()

    assert snapshot.functions == ()
    assert facts(snapshot) == facts(watch.fresh())


def always_moving(watch: Watch) -> Callable[[int], None]:
    def change(left: int) -> None:
        watch.machine.move(LEFT, 10 + left)
        later = config_space(0, ACS_ON, multifunction=True)
        watch.machine.write("new", later)
        (watch.machine.root / "new").replace(watch.machine.place(RIGHT) / "config")

    return change


def test_a_snapshot_torn_twice_says_so(watch: Watch) -> None:
    Disturbance(watch, always_moving(watch), times=2)

    snapshot = watch.snapshot()

    assert Complaint.CHANGED_WHILE_READ in {one.complaint for one in snapshot.contradictions}
    assert Kind.INCONSISTENT in {one.kind for one in check(snapshot).findings}
    assert (watch.reader.retakes, watch.reader.torn) == (1, 1)


def test_the_machine_is_consistent_again_once_it_stands_still(watch: Watch) -> None:
    Disturbance(watch, always_moving(watch), times=2)
    watch.snapshot()

    snapshot = watch.snapshot()

    assert facts(snapshot) == facts(watch.fresh())
    assert not snapshot.contradictions


def test_events_that_came_meanwhile_have_it_taken_again(watch: Watch) -> None:
    def event(_: int) -> None:
        watch.changes += 1

    Disturbance(watch, event)
    watch.snapshot()

    assert (watch.reader.retakes, watch.reader.torn) == (1, 0)


def test_a_contradiction_that_stays_is_the_machines_own(watch: Watch) -> None:
    (watch.machine.root / f"sys/kernel/iommu_groups/2/devices/{LEFT}").unlink()

    first = watch.snapshot()
    assert [one.complaint for one in first.contradictions] == [Complaint.LINK_WITHOUT_MEMBERSHIP]
    assert (watch.reader.retakes, watch.reader.torn) == (1, 0)

    assert watch.snapshot().contradictions == first.contradictions
    assert watch.reader.retakes == 1, "it is known by now"


def sends(watch: Watch, number: int) -> None:
    """Let the kernel's count of uevents be so many."""
    watch.machine.write("sys/kernel/uevent_seqnum", f"{number}\n")


def appear_once_listed(watch: Watch, *, silently: bool) -> None:
    """Have an IOMMU appear as soon as all of them were listed, which nothing else in the machine tells of."""

    def appear(path: str) -> None:
        if path == "sys/class/iommu":
            watch.listed = None
            watch.machine.write("sys/class/iommu/dmar0/devices/.keep", "")
            sends(watch, 7 if silently else 8)

    sends(watch, 7)
    watch.listed = appear


@pytest.mark.parametrize(
    ("full", "silently", "retakes"), [(False, True, 0), (False, False, 1), (True, True, 1), (True, False, 1)]
)
def test_lists_are_compared_unless_the_kernel_was_silent_and_the_snapshot_is_a_quick_one(
    full: bool, silently: bool, retakes: int, watch: Watch
) -> None:
    appear_once_listed(watch, silently=silently)
    watch.snapshot(full=full)

    assert watch.reader.retakes == retakes


def test_a_torn_membership_is_noticed_though_the_kernel_was_silent(watch: Watch) -> None:
    sends(watch, 7)
    Disturbance(watch, lambda _: watch.machine.move(LEFT, 3))

    assert facts(watch.snapshot()) == facts(watch.fresh())
    assert (watch.reader.retakes, watch.reader.torn) == (1, 0)


def test_the_name_of_a_group_is_read_with_new_members_and_in_full(watch: Watch) -> None:
    name = watch.machine.root / "sys/kernel/iommu_groups/4/name"
    name.write_text("vfio-noiommu\n")

    assert watch.snapshot().groups[4].name is None
    assert watch.snapshot(full=True).groups[4].name == "vfio-noiommu"
    name.write_text("other\n")
    watch.machine.move(LEFT, 4)
    assert watch.snapshot().groups[4].name == "other"


def test_the_reads_of_both_attempts_count(watch: Watch) -> None:
    Disturbance(watch, lambda _: watch.machine.move(LEFT, 3))
    before = watch.reader.config_reads

    assert watch.snapshot(full=True).config_reads == watch.reader.config_reads - before > len(WITH_ACS)


def test_evidence_is_read_of_the_machine_as_it_is_then(watch: Watch) -> None:
    watch.machine.write("proc/modules", "vfio 65536 0 - Live 0x0\nigb 1 0\n")

    assert watch.reader.with_evidence(watch.snapshot()).modules == ("vfio", "igb")


def test_a_machine_that_cannot_be_read_any_more_gives_no_evidence(watch: Watch) -> None:
    snapshot = watch.snapshot()
    (watch.machine.root / "sys").rename(watch.machine.root / "away")

    assert watch.reader.with_evidence(snapshot) is snapshot


def test_a_machine_that_cannot_be_read_is_an_error_and_read_fully_afterwards(watch: Watch) -> None:
    sysfs = watch.machine.root / "sys"
    sysfs.rename(watch.machine.root / "away")
    with pytest.raises(SourceError, match="No such file"):
        watch.snapshot(LEFT)
    (watch.machine.root / "away").rename(sysfs)
    watch.machine.set_control(LEFT, 0)

    assert control(watch.snapshot(), LEFT) == 0
