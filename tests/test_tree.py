# SPDX-License-Identifier: GPL-2.0-or-later
"""Trees of files: the running machine is trusted, a directory is not, and both answer alike."""

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from iommud.errors import IommudError, SourceError, visible
from iommud.files import LINK_LIMIT, ConfigFile, Tree, find_machine
from iommud.tree import DirectoryTree, LiveTree

FUNCTION = "sys/devices/pci0000:00/0000:00:01.0"
LISTED = "sys/bus/pci/devices/0000:00:01.0"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine with one function, below a directory beside which lies something that is none of its business."""
    root = tmp_path / "machine"
    function = root / FUNCTION
    for place in (function, root / "sys/bus/pci/devices", root / "sys/kernel/iommu_groups/4", root / "proc"):
        place.mkdir(parents=True)
    (root / LISTED).symlink_to("../../../devices/pci0000:00/0000:00:01.0")
    (function / "iommu_group").symlink_to("../../../kernel/iommu_groups/4")
    (function / "vendor").write_bytes(b"0x8086\n")
    (function / "config").write_bytes(bytes(range(256)))
    (root / "proc/version").write_bytes(b"Linux version 6.12\n")
    (tmp_path / "secret").write_bytes(b"secret")
    return root


def live(machine: Path) -> Tree:
    return LiveTree(str(machine / "sys"), str(machine / "proc"))


def captured(machine: Path) -> Tree:
    return DirectoryTree(str(machine))


def captured_sysfs(machine: Path) -> Tree:
    return DirectoryTree(str(machine / "sys"), sysfs_only=True)


both = pytest.mark.parametrize("tree_of", [live, captured])
every = pytest.mark.parametrize("tree_of", [live, captured, captured_sysfs])
TreeOf = Callable[[Path], Tree]


@every
def test_a_function_is_read_through_its_link(tree_of: TreeOf, machine: Path) -> None:
    tree = tree_of(machine)

    assert tree.list("sys/bus/pci/devices") == ["0000:00:01.0"]
    assert tree.link(LISTED) == "../../../devices/pci0000:00/0000:00:01.0"
    assert tree.resolve(LISTED) == FUNCTION
    assert tree.resolve(f"{LISTED}/iommu_group") == "sys/kernel/iommu_groups/4"
    assert tree.list(LISTED) == ["config", "iommu_group", "vendor"]
    assert tree.read(f"{LISTED}/vendor") == b"0x8086\n"
    assert tree.text(f"{LISTED}/vendor") == "0x8086"
    assert tree.list("sys") == ["bus", "devices", "kernel"]


@every
@pytest.mark.parametrize(
    "path", ["sys/nothing", f"{FUNCTION}/nothing", f"{FUNCTION}/vendor/below", f"{LISTED}/no/way", "etc", "a\0b"]
)
def test_what_is_absent_is_none(tree_of: TreeOf, machine: Path, path: str) -> None:
    tree = tree_of(machine)

    assert tree.list(path) is None
    assert tree.read(path) is None
    assert tree.text(path) is None
    assert tree.link(path) is None
    assert tree.resolve(path) is None
    assert tree.config(path) is None
    assert not tree.exists(path)


@every
def test_a_file_is_no_directory_and_a_directory_is_no_file(tree_of: TreeOf, machine: Path) -> None:
    tree = tree_of(machine)

    assert tree.list(f"{FUNCTION}/vendor") is None
    assert tree.read(FUNCTION) is None
    assert tree.text("sys") is None
    assert tree.link(FUNCTION) is None
    assert tree.link("sys") is None


@every
def test_a_link_that_leads_nowhere_exists(tree_of: TreeOf, machine: Path) -> None:
    (machine / FUNCTION / "driver").symlink_to("../../../bus/pci/drivers/gone")
    tree = tree_of(machine)

    assert tree.exists(f"{LISTED}/driver")
    assert tree.link(f"{LISTED}/driver") == "../../../bus/pci/drivers/gone"
    assert tree.resolve(f"{LISTED}/driver") is None


@both
def test_procfs_lies_beside_sysfs(tree_of: TreeOf, machine: Path) -> None:
    tree = tree_of(machine)

    assert tree.list("") == ["proc", "sys"]
    assert tree.text("proc/version") == "Linux version 6.12"
    assert tree.list("proc") == ["version"]


def test_sysfs_alone_has_no_procfs(machine: Path) -> None:
    tree = captured_sysfs(machine)

    assert tree.list("") == ["sys"]
    assert tree.list("proc") is None
    assert tree.read("proc/version") is None
    assert tree.read("version") is None
    assert tree.exists("sys")
    assert not tree.exists("proc")


def test_a_machine_without_procfs_lacks_only_that(machine: Path) -> None:
    tree = LiveTree(str(machine / "sys"), str(machine / "nowhere"))

    assert tree.text("proc/version") is None
    assert tree.list("sys/bus") == ["pci"]


@every
@pytest.mark.parametrize(("limit", "expected"), [(0, b""), (1, b"\0"), (256, bytes(range(256)))])
def test_a_file_is_read_up_to_the_limit(tree_of: TreeOf, machine: Path, limit: int, expected: bytes) -> None:
    assert tree_of(machine).read(f"{LISTED}/config", limit) == expected


@every
@pytest.mark.parametrize("size", [0, 4095, 4096, 4097, 200_000])
def test_a_file_longer_than_a_page_is_read_to_its_end(tree_of: TreeOf, machine: Path, size: int) -> None:
    (machine / "sys/fdt").write_bytes(b"x" * size)

    assert tree_of(machine).read("sys/fdt") == b"x" * size


@both
def test_a_file_of_procfs_that_comes_in_short_pieces_is_read_to_its_end(tree_of: TreeOf, machine: Path) -> None:
    text = "".join(f"module_{number} 16384 0 - Live 0x0000000000000000\n" for number in range(2000))
    (machine / "proc/modules").write_text(text, encoding="utf-8")

    assert tree_of(machine).text("proc/modules") == text.rstrip("\n")


@pytest.mark.parametrize("tree", [LiveTree(), DirectoryTree("/")], ids=["live", "directory"])
def test_the_files_of_a_real_procfs_are_read_whole_although_they_claim_no_size(tree: Tree) -> None:
    assert Path("/proc/version").stat().st_size == 0
    assert tree.read("proc/version") == Path("/proc/version").read_bytes()
    assert len((tree.text("proc/cpuinfo") or "").splitlines()) > 4


@every
def test_text_that_is_not_utf_8_is_readable_all_the_same(tree_of: TreeOf, machine: Path) -> None:
    (machine / FUNCTION / "label").write_bytes(b"\xff port\n\n")

    assert tree_of(machine).text(f"{FUNCTION}/label") == "\ufffd port"


@every
def test_names_that_cannot_be_printed_are_left_out(tree_of: TreeOf, machine: Path) -> None:
    place = os.fsencode(machine / "sys/kernel/iommu_groups/4")
    for name in (b"\xff", b"\x1b[2J", b"new\nline", "\u202e".encode(), "é".encode()):
        (Path(os.fsdecode(place)) / os.fsdecode(name)).touch()

    assert tree_of(machine).list("sys/kernel/iommu_groups/4") == ["é"]


@every
def test_a_link_that_is_not_utf_8_can_be_written_to_any_report(tree_of: TreeOf, machine: Path) -> None:
    (machine / FUNCTION / "driver").symlink_to(os.fsdecode(b"../\xff"))
    (machine / FUNCTION / "module").symlink_to("../é")
    tree = tree_of(machine)

    assert tree.link(f"{FUNCTION}/driver") == "../\ufffd"
    assert tree.link(f"{FUNCTION}/module") == "../é"


@every
def test_config_space_is_read_at_positions(tree_of: TreeOf, machine: Path) -> None:
    config = tree_of(machine).config(f"{LISTED}/config")

    assert config is not None
    with config:
        assert config.size == 256
        assert config.read(0, 4) == bytes([0, 1, 2, 3])
        assert config.read(0x34, 1) == b"\x34"
        assert config.read(254, 4) == bytes([254, 255])
        assert config.read(256, 4) == b""


@every
def test_config_space_is_given_back_when_it_has_been_read(tree_of: TreeOf, machine: Path) -> None:
    tree = tree_of(machine)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names alone, and the cheapest way to them
    for _ in range(3):
        config = tree.config(f"{LISTED}/config")
        assert config is not None
        config.close()

    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - as above


def test_config_space_of_a_device_that_went_away_is_empty(machine: Path) -> None:
    # Reading a directory fails as reading the registers of a removed device does: the open file gives an error.
    config: ConfigFile | None = live(machine).config(FUNCTION)

    assert config is not None
    with config:
        assert config.read(0, 4) == b""


def test_a_file_that_opens_but_cannot_be_read_is_none() -> None:
    # Nothing is mapped at address 0 of a process, so its memory gives EIO there.
    assert DirectoryTree("/proc/self").read("mem") is None


@pytest.mark.parametrize(
    "target",
    ["../../../../../secret", "/proc/self/environ", "../../../../machine/../secret", "../" * 30 + "etc/passwd"],
)
@pytest.mark.parametrize("tree_of", [captured, captured_sysfs])
def test_no_link_is_followed_out_of_a_directory(tree_of: TreeOf, machine: Path, target: str) -> None:
    (machine / FUNCTION / "label").symlink_to(target)
    (machine / FUNCTION / "outside").symlink_to(target.rpartition("/")[0])
    tree = tree_of(machine)

    for path in (f"{FUNCTION}/label", f"{FUNCTION}/outside/{target.rpartition('/')[2]}"):
        assert tree.read(path) is None
        assert tree.config(path) is None
        assert tree.resolve(path) is None
    assert tree.list(f"{FUNCTION}/outside") is None
    assert tree.link(f"{FUNCTION}/label") == target


@pytest.mark.parametrize("path", ["../secret", "sys/../../secret", "..", "sys/..", "sys/", f"{LISTED}/../../x", "."])
def test_no_path_leads_out_of_a_directory(machine: Path, path: str) -> None:
    assert captured(machine).read(path) is None


def test_a_path_with_dots_is_resolved_after_the_links_before_them(machine: Path) -> None:
    tree = captured(machine)

    assert tree.resolve(f"{LISTED}/../") == "sys/devices/pci0000:00"
    assert tree.list(f"{LISTED}/..") == ["0000:00:01.0"]
    assert tree.resolve(".") == ""
    assert tree.resolve("..") is None


@every
def test_links_that_lead_in_circles_end_nowhere(tree_of: TreeOf, machine: Path) -> None:
    (machine / FUNCTION / "a").symlink_to("b")
    (machine / FUNCTION / "b").symlink_to("a")
    (machine / FUNCTION / "self").symlink_to("self/self")
    tree = tree_of(machine)

    for path in (f"{FUNCTION}/a", f"{FUNCTION}/a/vendor", f"{FUNCTION}/self"):
        assert tree.resolve(path) is None
        assert tree.read(path) is None


@every
@pytest.mark.parametrize(("links", "found"), [(LINK_LIMIT, True), (LINK_LIMIT + 1, False)])
def test_as_many_links_are_followed_as_the_kernel_follows(
    tree_of: TreeOf, machine: Path, links: int, found: bool
) -> None:
    for number in range(links):
        (machine / FUNCTION / f"l{number}").symlink_to(f"l{number + 1}" if number + 1 < links else "vendor")
    tree = tree_of(machine)

    assert (tree.resolve(f"{FUNCTION}/l0") is not None) == found
    assert (tree.text(f"{FUNCTION}/l0") == "0x8086") == found


def test_a_fifo_a_socket_or_a_device_is_never_waited_for(machine: Path) -> None:
    os.mkfifo(machine / FUNCTION / "config_fifo")
    (machine / FUNCTION / "linked").symlink_to("config_fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        before = Path.cwd()
        os.chdir(machine)  # the path of a socket may have no more than 107 bytes
        listener.bind("sys/socket")
        os.chdir(before)
    (machine / FUNCTION / "plugged").symlink_to("../../../socket")
    tree = captured(machine)
    begun = time.monotonic()

    for path in (f"{FUNCTION}/config_fifo", f"{FUNCTION}/linked", "sys/socket", f"{FUNCTION}/plugged"):
        assert tree.read(path) is None
        assert tree.config(path) is None
    assert DirectoryTree("/dev").read("zero") is None
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("name", "problem"),
    [("nowhere", "No such file or directory"), ("secret", "Not a directory"), ("a\0b", "no file can have this name")],
)
def test_a_root_that_is_no_directory_is_named(machine: Path, name: str, problem: str) -> None:
    root = f"{machine.parent}/{name}"

    for make in (DirectoryTree, LiveTree):
        with pytest.raises(SourceError) as caught:
            make(root)
        assert caught.value.source == root
        assert caught.value.problem == problem


def test_a_root_may_itself_be_reached_by_a_link(machine: Path) -> None:
    (machine.parent / "link").symlink_to("machine")
    (machine.parent / "sysfs").symlink_to("machine/sys")

    assert DirectoryTree(f"{machine.parent}/link").text(f"{LISTED}/vendor") == "0x8086"
    assert LiveTree(f"{machine.parent}/sysfs").text(f"{LISTED}/vendor") == "0x8086"
    assert LiveTree(f"{machine.parent}/sysfs").resolve(LISTED) == FUNCTION
    assert DirectoryTree(f"{machine.parent}/sysfs", sysfs_only=True).resolve(LISTED) == FUNCTION


@pytest.mark.parametrize(
    ("tree", "name", "is_live"),
    [
        (LiveTree(), "this machine", True),
        (LiveTree("/sys", name="host-1"), "host-1", True),
        (LiveTree("/"), "/", True),
        (DirectoryTree("/"), "/", False),
        (DirectoryTree("/", name="capture"), "capture", False),
    ],
)
def test_a_tree_knows_its_name_and_whether_it_is_live(tree: Tree, name: str, is_live: bool) -> None:
    assert tree.name == name
    assert tree.live == is_live


def test_a_machine_is_not_found_through_a_link(machine: Path) -> None:
    (machine.parent / "capture").mkdir()
    (machine.parent / "capture/host").symlink_to("../machine")

    with pytest.raises(SourceError, match="no sys/bus/pci in it"):
        find_machine(DirectoryTree(f"{machine.parent}/capture"))


def test_two_machines_side_by_side_are_one_too_many(tmp_path: Path) -> None:
    for host in ("host-1", "host-2"):
        (tmp_path / host / "sys/bus/pci").mkdir(parents=True)

    with pytest.raises(SourceError, match="more than one machine in it: host-1, host-2"):
        find_machine(DirectoryTree(str(tmp_path)))


def test_reading_ten_thousand_attributes_of_a_live_machine_takes_less_than_a_second(machine: Path) -> None:
    tree = live(machine)
    begun = time.process_time()
    for _ in range(10_000):
        tree.read(f"{LISTED}/vendor")

    assert time.process_time() - begun < 1


def test_a_live_machine_is_opened_read_and_closed_and_nothing_else(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = live(machine)
    with monkeypatch.context() as patch:
        patch.setattr("iommud.tree.os", SimpleNamespace(open=os.open, read=os.read, close=os.close))
        content = tree.read(f"{LISTED}/vendor")

    assert content == b"0x8086\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0000:00:01.0 é", "0000:00:01.0 é"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("two\nlines\r", r"two\nlines\r"),
        ("\u202eevil", r"\u202eevil"),
        ("\udcff", r"\udcff"),
        ("\x9b\x7f\0", r"\x9b\x7f\x00"),
    ],
)
def test_no_name_can_drive_a_terminal(text: str, expected: str) -> None:
    assert visible(text) == expected


def test_a_source_error_is_one_line_of_source_path_and_problem() -> None:
    error = SourceError("a.tar", "a name\nwith ..", path="../x")

    assert isinstance(error, IommudError)
    assert str(error) == r"a.tar: ../x: a name\nwith .."
    assert (error.source, error.path, error.problem) == ("a.tar", "../x", "a name\nwith ..")


def test_a_source_error_shortens_what_nobody_would_read() -> None:
    assert str(SourceError("x" * 5000, "no such file")) == "x" * 299 + "…: no such file"
