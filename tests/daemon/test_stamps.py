# SPDX-License-Identifier: GPL-2.0-or-later
"""When a file still is the one that was read: in sysfs as long as its device lives, on disk until it changes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from iommud.archive import open_source
from iommud.files import Tree
from iommud.tree import DirectoryTree, LiveTree
from tests.daemon.machine_on_disk import later

PLACE = "sys/devices/pci0000:00/0000:00:01.0"
REAL = sorted(Path("/sys/bus/pci/devices").glob("*/config"))
CAPTURE = Path(__file__).parent.parent / "fixtures/captures/6.12-amd64-intel-seed-q7.2.tar.gz"


def live(root: Path) -> Tree:
    return LiveTree(str(root / "sys"), str(root / "proc"))


def captured(root: Path) -> Tree:
    return DirectoryTree(str(root))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / PLACE / "config"
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(256))
    return path


def as_it_was(_: Path) -> None:
    pass


def read(path: Path) -> None:
    path.read_bytes()


def write(path: Path) -> None:
    path.write_bytes(bytes(256))
    later(path)


def grow(path: Path) -> None:
    path.write_bytes(bytes(4096))


def replace(path: Path) -> None:
    path.with_name("new").write_bytes(bytes(256))
    path.with_name("new").replace(path)


@pytest.mark.parametrize("tree_of", [live, captured])
@pytest.mark.parametrize(
    ("happens", "same"), [(as_it_was, True), (read, True), (write, False), (grow, False), (replace, False)]
)
def test_a_file_on_disk_is_the_same_until_it_changes(
    happens: Callable[[Path], None], same: bool, tree_of: Callable[[Path], Tree], config: Path, tmp_path: Path
) -> None:
    before = tree_of(tmp_path).stamp(f"{PLACE}/config")
    happens(config)

    assert before is not None
    assert (tree_of(tmp_path).stamp(f"{PLACE}/config") == before) is same


@pytest.mark.parametrize("tree_of", [live, captured])
def test_what_is_no_regular_file_has_no_stamp(tree_of: Callable[[Path], Tree], config: Path, tmp_path: Path) -> None:
    config.with_name("link").symlink_to("config")
    tree = tree_of(tmp_path)

    assert tree.stamp(f"{PLACE}/nothing") is None
    assert tree.stamp(f"{PLACE}/link") is None
    assert tree.stamp(PLACE) is None
    assert tree.stamp(f"{PLACE}/a\0b") is None


def test_a_capture_is_not_left_through_a_link(config: Path, tmp_path: Path) -> None:
    (tmp_path / "root/sys").mkdir(parents=True)
    (tmp_path / "root/sys/out").symlink_to(config.parent)

    assert DirectoryTree(str(tmp_path / "root")).stamp("sys/out/config") is None


def test_the_files_of_an_archive_have_no_stamps() -> None:
    tree = open_source(str(CAPTURE))
    name = (tree.list("sys/bus/pci/devices") or [""])[0]

    assert tree.read(f"sys/bus/pci/devices/{name}/config")
    assert tree.stamp(f"sys/bus/pci/devices/{name}/config") is None


@pytest.mark.skipif(not REAL, reason="needs a PCI function")
def test_the_times_of_a_file_in_sysfs_are_no_part_of_its_stamp() -> None:
    found = REAL[0].stat()

    assert LiveTree().stamp(str(REAL[0]).lstrip("/")) == (found.st_dev, found.st_ino, found.st_size)
