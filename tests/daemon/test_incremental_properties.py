# SPDX-License-Identifier: GPL-2.0-or-later
"""The law of the incremental reader: whatever happened to a machine, its snapshot is the one of a new reader."""

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iommud.address import Address
from iommud.daemon.incremental import IncrementalReader
from iommud.daemon.memory import reached_by
from iommud.files import Tree
from iommud.pci import Gap
from iommud.snapshot import Complaint, Snapshot
from iommud.sysfs import take_snapshot
from iommud.tree import DirectoryTree, LiveTree
from tests.daemon.machine_on_disk import later
from tests.unpacking import open_fixture

CAPTURES = Path(__file__).parent.parent / "fixtures/captures"
NAMES = ["6.12-amd64-intel-switch-q7.2", "6.12-amd64-intel-sriov-igb-q10.0", "6.12-amd64-intel-rp-multi-noacs-q7.2"]
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the files lie in a directory made for them alone
ACS = 0x000D
WANTED = re.compile(
    r"^(\./)?(proc/version|proc/sys/kernel/osrelease|sys/class/iommu/|sys/kernel/iommu_groups/|sys/bus/pci/devices/"
    r"|sys/devices/.*/(uevent|vendor|device|class|config|iommu_group|physfn|secondary_bus_number|ari_enabled"
    r"|0000:[^/]*|dmar[0-9])$)"
)
MAY_CLOSE = {Gap.ALL_ONES, Gap.VANISHED, Gap.NO_CONFIG, Gap.ASLEEP}


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory in memory if there is one: a disk makes hundreds of files thirty times as slowly."""
    if not os.access(SHARED_MEMORY, os.W_OK):
        yield tmp_path_factory.mktemp("captures")
        return
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def unpacked(memory: Path) -> dict[str, Path]:
    """Of some captures what a snapshot reads, unpacked once; each example works on a copy."""
    roots = {name: memory / name for name in NAMES}
    for name, root in roots.items():
        with open_fixture(CAPTURES / f"{name}.tar.gz") as archive:
            for member in archive:
                if WANTED.search(member.name) and not member.isdir():
                    archive.extract(member, root)
    return roots


@dataclass(frozen=True)
class Edit:
    """One change of a machine: what, and draws that choose where.

    It gives the function of which the kernel would send an event, if that is the only way to know of it.
    """

    what: Callable[["Editor", int, int], Address | None]
    first: int
    second: int


class Editor:
    """Changes an unpacked capture, as hardware and kernel would and worse."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bus = root / "sys/bus/pci/devices"
        self.groups = root / "sys/kernel/iommu_groups"

    def function(self, draw: int) -> Path | None:
        """The directory of one function, or None if there is none left."""
        links = sorted(self.bus.iterdir())
        link = links[draw % len(links)] if links else None
        return link.resolve() if link is not None and link.exists() else None

    def write(self, path: Path, content: bytes) -> None:
        new = path.with_name("new")
        new.write_bytes(content)
        later(new)
        new.replace(path)  # the copies share their files

    def link(self, path: Path, target: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(os.path.relpath(target, path.parent))


def unplug(editor: Editor, first: int, _: int) -> None:
    directory = editor.function(first)
    if directory is not None:
        shutil.rmtree(directory)
        for link in editor.bus.iterdir():
            if not link.exists():
                link.unlink()


def leave_the_bus(editor: Editor, first: int, _: int) -> None:
    directory = editor.function(first)
    if directory is not None:
        (editor.bus / directory.name).unlink()


def appear(editor: Editor, first: int, second: int) -> None:
    """A copy of one function as a neighbour of it."""
    directory = editor.function(first)
    if directory is None:
        return
    new = directory.with_name(f"{directory.name[:-1]}{second % 8}")
    if not new.exists():
        new.mkdir()
        for entry in directory.iterdir():
            if entry.is_symlink() or entry.is_file():
                os.link(entry, new / entry.name, follow_symlinks=False)
        editor.link(editor.bus / new.name, new)


def take_the_place_of(editor: Editor, first: int, second: int) -> None:
    """Another function at the same address: ids and config space of one become those of another."""
    old, new = editor.function(first), editor.function(second)
    for name in ("uevent", "vendor", "device", "class", "config"):
        if old is not None and new is not None and (new / name).exists():
            editor.write(old / name, (new / name).read_bytes())


def acs_position(space: bytearray) -> int | None:
    position = 0x100
    for _ in range(64):
        header = int.from_bytes(space[position : position + 4], "little")
        if header & 0xFFFF == ACS:
            return position
        position = header >> 20
        if position < 0x100:
            return None
    return None


def set_acs_control(editor: Editor, first: int, second: int) -> None:
    directory = editor.function(first)
    if directory is None or not (directory / "config").exists():
        return
    space = bytearray((directory / "config").read_bytes())
    position = acs_position(space)
    if position is not None:
        space[position + 6] = second & 0x7F
        editor.write(directory / "config", bytes(space))


def lose_config(editor: Editor, first: int, second: int) -> None:
    directory = editor.function(first)
    if directory is not None:
        space = (directory / "config").read_bytes() if (directory / "config").exists() else bytes(64)
        editor.write(directory / "config", space[: (0, 64, 256)[second % 3]])


def stop_answering(editor: Editor, first: int, _: int) -> None:
    directory = editor.function(first)
    if directory is not None:
        editor.write(directory / "config", b"\xff" * 4096)


def join_a_group(editor: Editor, first: int, second: int) -> None:
    directory = editor.function(first)
    if directory is not None:
        group = editor.groups / str(second % 8)
        for member in editor.groups.glob(f"*/devices/{directory.name}"):
            member.unlink()
        editor.link(group / "devices" / directory.name, directory)
        editor.link(directory / "iommu_group", group)


def list_in_a_group_only(editor: Editor, first: int, second: int) -> None:
    directory = editor.function(first)
    if directory is not None:
        editor.link(editor.groups / str(second % 8) / "devices" / directory.name, directory)


def bind(editor: Editor, first: int, second: int) -> Address | None:
    directory = editor.function(first)
    if directory is not None and (directory / "uevent").exists():
        lines = [one for one in (directory / "uevent").read_text().splitlines() if not one.startswith("DRIVER=")]
        driver = [f"DRIVER=driver-{second}"] if second % 2 else []
        editor.write(directory / "uevent", "\n".join([*driver, *lines, ""]).encode())
    return None if directory is None else Address.parse(directory.name)


def renumber(editor: Editor, first: int, second: int) -> Address | None:
    directory = editor.function(first)
    if directory is not None and (directory / "secondary_bus_number").exists():
        editor.write(directory / "secondary_bus_number", f"{second}\n".encode())
    return None if directory is None else Address.parse(directory.name)


def add_an_iommu(editor: Editor, first: int, second: int) -> None:
    directory = editor.function(first)
    if directory is not None:
        iommu = editor.root / f"sys/class/iommu/dmar{second % 4}"
        if not iommu.is_symlink():
            editor.link(iommu / "devices" / directory.name, directory)


EDITS = [
    unplug,
    leave_the_bus,
    appear,
    take_the_place_of,
    set_acs_control,
    lose_config,
    stop_answering,
    join_a_group,
    list_in_a_group_only,
    bind,
    renumber,
    add_an_iommu,
]
edits = st.builds(Edit, what=st.sampled_from(EDITS), first=st.integers(0, 40), second=st.integers(0, 255))
seldom = st.sampled_from([False, False, False, True])
rounds = st.lists(st.tuples(st.lists(edits, min_size=1, max_size=3), seldom), min_size=1, max_size=6)


def as_live(root: Path) -> Tree:
    return LiveTree(str(root / "sys"), str(root / "proc"))


def as_capture(root: Path) -> Tree:
    return DirectoryTree(str(root))


@pytest.mark.parametrize("tree_of", [as_live, as_capture])
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(rounds=rounds)
def test_a_snapshot_equals_the_one_of_a_new_reader(
    name: str, tree_of: Callable[[Path], Tree], unpacked: dict[str, Path], rounds: list[tuple[list[Edit], bool]]
) -> None:
    with tempfile.TemporaryDirectory(dir=unpacked[name].parent) as directory:
        root = Path(directory, "machine")
        shutil.copytree(unpacked[name], root, symlinks=True, copy_function=os.link)
        editor = Editor(root)
        reader = IncrementalReader(partial(tree_of, root), suspended=float)
        reader.snapshot()
        for edits_of_round, full in rounds:
            events = [edit.what(editor, edit.first, edit.second) for edit in edits_of_round]
            snapshot = reader.snapshot([one for one in events if one is not None], full=full)
            fresh = take_snapshot(tree_of(root))

            assert without_tears(snapshot) == without_tears(fresh)
            if not any(one.config.gap in MAY_CLOSE for one in fresh.functions):
                assert reader.snapshot().config_reads == 0


def without_tears(snapshot: Snapshot) -> Snapshot:
    """The snapshot without its cost; a bus that for ever lists what is not there looks torn each time."""
    kept = tuple(one for one in snapshot.contradictions if one.complaint is not Complaint.CHANGED_WHILE_READ)
    return replace(snapshot, contradictions=kept, config_reads=0)


@st.composite
def hierarchies(draw: st.DrawFn) -> dict[Address, str]:
    """Functions in directories of one another, below two root buses."""
    paths: dict[Address, str] = {}
    for index in range(draw(st.integers(1, 30))):
        address = Address.parse(f"0000:{index:02x}:00.0")
        above = draw(st.sampled_from(["sys/devices/pci0000:00", "sys/devices/pci0000:80", *paths.values()]))
        paths[address] = f"{above}/{address}"
    return paths


@given(hierarchies(), st.data())
def test_events_reach_the_sum_of_what_each_of_them_reaches(paths: dict[Address, str], data: st.DataObject) -> None:
    touched = data.draw(st.sets(st.sampled_from(sorted(paths))))

    assert reached_by(touched, paths) == frozenset().union(*(reached_by({one}, paths) for one in touched))


@given(hierarchies(), st.data())
def test_an_event_reaches_the_ports_above_and_all_below_but_no_other_root_bus(
    paths: dict[Address, str], data: st.DataObject
) -> None:
    touched = data.draw(st.sampled_from(sorted(paths)))
    reached = reached_by({touched}, paths)
    place = paths[touched]

    assert {one for one, path in paths.items() if f"{place}/".startswith(f"{path}/")} <= reached
    assert {one for one, path in paths.items() if path.startswith(f"{place}/")} <= reached
    assert {paths[one].split("/")[2] for one in reached} == {place.split("/")[2]}
