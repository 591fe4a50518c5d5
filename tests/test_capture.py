# SPDX-License-Identifier: GPL-2.0-or-later
import gzip
import io
import json
import lzma
import os
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Literal, Self, cast

import pytest

from iommud import capture
from iommud.archive import ArchiveTree, open_source, read_archive
from iommud.capture import Compression, capture_to_path, compression_of, write_capture
from iommud.capture_note import NOTE_PATH, CaptureNote, CaptureSummary, LeftOut
from iommud.errors import SourceError
from iommud.files import ConfigFile, Tree
from iommud.kernel_log import read_kernel_log
from iommud.pci import Gap
from iommud.snapshot import Snapshot
from iommud.sysfs import take_snapshot
from iommud.tree import DirectoryTree, LiveTree
from iommud.verdict.pipeline import check
from iommud.verdict.report import Report
from tests.trees import TreeWriter, config_space

FIXTURES = Path(__file__).parent / "fixtures"
MACHINES = [
    "captures/6.1bug-amd64-virtio-at-0x3-seed-vga-builtin-q7.2",
    "captures/6.12-arm64-virtio-seed-q7.2",
    "captures/6.12-arm64-smmuv3-two-e1000-rp-acpi-q7.2",
    "captures/6.12-amd64-intel-sriov-igb-q10.0",
    "captures/6.12-amd64-intel-rc-multifunction-q7.2",
    "machines/precision5820",
]
COMPRESSIONS: list[Compression] = ["gz", "xz", None]


def captured(
    tree: Tree, *, wake: bool = False, compression: Compression = None, log: tuple[str, ...] | None = None
) -> bytes:
    stream = io.BytesIO()
    write_capture(tree, stream, wake=wake, compression=compression, log=log or read_kernel_log(tree))
    return stream.getvalue()


def opened(archive: bytes) -> ArchiveTree:
    return cast("ArchiveTree", open_source("-", stdin=io.BytesIO(archive)))


def snapshot(tree: Tree, *, wake: bool = False) -> Snapshot:
    return replace(take_snapshot(tree, wake=wake), source="here")


def report(tree: Tree, *, wake: bool = False) -> Report:
    """The report without its evidence, which holds the bytes that were read and so also those that get blanked."""
    return replace(check(snapshot(tree, wake=wake)), analysis=None)


def members(archive: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {member.name: member for member in tar.getmembers()}


@pytest.fixture
def writer(tmp_path: Path) -> TreeWriter:
    return TreeWriter(tmp_path / "machine")


def tree_of(writer: TreeWriter) -> DirectoryTree:
    return DirectoryTree(str(writer.root))


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest) -> Tree:
    return open_source(str(FIXTURES / f"{request.param}.tar.gz"))


def test_a_check_of_the_capture_equals_a_check_on_the_spot(machine: Tree) -> None:
    copy = opened(captured(machine))

    assert report(copy) == report(machine)
    assert snapshot(copy).functions == snapshot(machine).functions


def test_a_capture_of_a_capture_is_the_same_bytes(machine: Tree) -> None:
    first = captured(machine)

    assert captured(opened(first)) == first


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_two_captures_of_one_state_are_the_same_bytes(compression: Compression) -> None:
    source = str(FIXTURES / f"{MACHINES[0]}.tar.gz")

    assert captured(open_source(source), compression=compression) == captured(
        open_source(source), compression=compression
    )


@pytest.mark.parametrize("compression", ["gz", "xz"])
def test_every_compression_holds_the_same_archive(compression: Literal["gz", "xz"]) -> None:
    tree = open_source(str(FIXTURES / f"{MACHINES[0]}.tar.gz"))
    archive = captured(tree, compression=compression)
    plain = {"gz": gzip.decompress, "xz": lzma.decompress}[compression](archive)

    assert plain == captured(tree)


def test_the_members_have_no_owner_and_no_time_and_stand_in_order(machine: Tree) -> None:
    found = members(captured(machine))

    assert {(one.uid, one.gid, one.uname, one.gname, one.mtime) for one in found.values()} == {(0, 0, "", "", 0)}
    assert {one.mode for one in found.values()} <= {0o644, 0o755, 0o777}
    assert [name.split("/") for name in found] == sorted(name.split("/") for name in found)


def test_gzip_adds_neither_a_name_nor_a_time() -> None:
    header = captured(open_source(str(FIXTURES / f"{MACHINES[0]}.tar.gz")), compression="gz")[:10]

    assert header[3] == 0
    assert header[4:8] == bytes(4)


def test_all_that_is_written_is_kept_when_it_is_read(machine: Tree) -> None:
    archive = captured(machine)
    tree = read_archive(io.BytesIO(archive), "copy")

    assert [name for name in members(archive) if not tree.exists(name)] == []


def test_this_machine_is_captured_as_it_is_checked() -> None:
    try:
        tree = open_source()
    except SourceError:
        pytest.skip("no PCI bus here")
    copy = opened(captured(tree))

    assert report(copy) == report(open_source())
    assert captured(copy) == captured(open_source())


SECRETS = {
    "a LUKS UUID": "0a1b2c3d-4e5f-6789-abcd-ef0123456789",
    "a MAC address": "52:54:00:ab:cd:ef",
    "a host name": "alices-host",
    "a serial number": "S3Z9NB0K",
    "a PCIe serial number": "serial#!",
    "vital data": "VPD!",
    "a DMI string": "PowerEdge",
    "a user": "alice",
}


@pytest.fixture
def private(writer: TreeWriter) -> TreeWriter:
    """A machine that holds each of SECRETS in every place where it could lie."""
    space = bytearray(config_space(0, multifunction=True))
    space[0x41] = 0x80
    space[0x80:0x88] = b"\x03\0\x34\x92" + b"VPD!"
    space[0x100:0x10C] = (0x1_0003).to_bytes(4, "little") + b"serial#!"
    secret = " ".join(SECRETS.values())
    place = writer.function("0000:00:02.0", config=bytes(space))
    for name in ("vpd", "serial", "label", "acpi_index", "net/eth0/address", "rom"):
        writer.write(f"{place}/{name}", secret)
    writer.write(f"{place}/uevent", f"PCI_ID=8086:100E\nOWNER={secret}\n")
    for name in ("product_serial", "board_serial"):
        writer.write(f"sys/class/dmi/id/{name}", secret)
    writer.write("proc/sys/kernel/hostname", "alices-host\n")
    writer.write("proc/sys/kernel/osrelease", "6.12.1\n")
    writer.write("proc/version", "Linux version 6.12.1 (alice@alices-host) (gcc) #1\n")
    uuid, mac = SECRETS["a LUKS UUID"], SECRETS["a MAC address"]
    writer.write("proc/cmdline", f"quiet root=UUID={uuid} ip=::::alices-host:eth0 BOOTIF={mac} iommu=pt {uuid}\n")
    writer.write(
        "dmesg.txt",
        f"[ 0.0] Linux version 6.12.1 (alice@alices-host) iommu\n[ 0.0] Command line: root=UUID={uuid} iommu=pt\n"
        f"[ 0.1] DMAR: BIOS vendor: Dell; Product Version: PowerEdge\n[ 0.2] iommu: eth0 {mac} of {uuid}\n"
        "[ 0.3] vfio: SerialNumber: S3Z9NB0K\n[ 0.4] systemd[1]: alices-host has an iommu\n",
    )
    writer.write("sys/firmware/acpi/tables/MSDM", secret)
    return writer


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS.keys())
def test_no_secret_survives_anywhere_in_a_capture(private: TreeWriter, secret: str) -> None:
    archive = captured(tree_of(private))

    assert secret.encode() not in archive


def test_the_secrets_were_there_to_be_found(private: TreeWriter) -> None:
    files = [path for path in private.root.rglob("*") if path.is_file()]
    whole = b"".join(path.read_bytes() for path in files)

    assert [name for name, secret in SECRETS.items() if secret.encode() not in whole] == []


def test_blanking_is_told(private: TreeWriter) -> None:
    tree = tree_of(private)
    summary = write_capture(tree, io.BytesIO(), log=read_kernel_log(tree))

    assert (summary.serial_numbers, summary.vital_data, summary.parameters) == (1, 1, 4)
    assert "blanked: the serial numbers of 1 function" in summary.sentences()
    assert "blanked: 4 values on the kernel command line" in summary.sentences()


def test_a_check_of_the_capture_of_a_private_machine_equals_one_on_the_spot(private: TreeWriter) -> None:
    assert report(opened(captured(tree_of(private)))) == report(tree_of(private))


def sleeping_machine(writer: TreeWriter) -> None:
    on = (0x1F, 0x1D)
    port = writer.function(
        "0000:00:01.0", class_code="060400", config=config_space(4, on), power__runtime_status="active"
    )
    writer.write(f"{port}/secondary_bus_number", "1\n")
    for number in (0, 1):
        writer.function(
            f"0000:00:01.0/0000:01:00.{number}",
            config=config_space(0, on, multifunction=True),
            power_state="D3cold",
            current_link_speed="2.5 GT/s PCIe",
        )
    writer.group(0, "0000:00:01.0")
    writer.group(1, "0000:00:01.0/0000:01:00.0", "0000:00:01.0/0000:01:00.1")


def test_a_sleeping_function_has_no_config_space_in_the_capture_and_is_asleep_there_too(writer: TreeWriter) -> None:
    sleeping_machine(writer)
    tree = tree_of(writer)
    stream = io.BytesIO()
    summary = write_capture(tree, stream, compression=None)
    copy = opened(stream.getvalue())
    asleep = "sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0"

    assert summary.asleep == 2
    assert summary.left_out == {LeftOut.SLEEPING, LeftOut.KERNEL_LOG}
    assert not copy.exists(f"{asleep}/config")
    assert copy.text(f"{asleep}/current_link_speed") == ""
    assert report(copy) == report(tree)
    assert captured(copy) == stream.getvalue()


def test_a_sleeping_function_is_read_on_demand(writer: TreeWriter) -> None:
    sleeping_machine(writer)
    copy = opened(captured(tree_of(writer), wake=True))

    assert copy.exists("sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/config")
    assert report(copy, wake=True) == report(tree_of(writer), wake=True)


@pytest.mark.parametrize("size", [0, 64, 128, 255, 256, 300, 4096, 5000])
def test_a_config_space_of_any_length_gives_the_same_verdict(writer: TreeWriter, size: int) -> None:
    space = config_space(4, (0x1F, 0x1D)).ljust(5000, b"\0")[:size]
    writer.function("0000:00:01.0", class_code="060400", config=space)
    writer.group(0, "0000:00:01.0")

    assert report(opened(captured(tree_of(writer)))) == report(tree_of(writer))


class _Claimed:
    """A config space that claims one size and gives another, as those of sysfs do without CAP_SYS_ADMIN."""

    def __init__(self, size: int, inner: ConfigFile) -> None:
        self.size = size
        self.read, self.close = inner.read, inner.close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ClaimingTree(DirectoryTree):
    """A directory whose config spaces all claim to have ``claimed`` bytes."""

    claimed = 4096

    def config(self, path: str) -> ConfigFile | None:
        inner = super().config(path)
        return None if inner is None else cast("ConfigFile", _Claimed(self.claimed, inner))


def test_a_space_that_ends_early_is_not_taken_for_one_without_extended_registers(writer: TreeWriter) -> None:
    place = writer.function("0000:00:01.0", class_code="060400", config=config_space(4, size=256))
    archive = captured(ClaimingTree(str(writer.root)))

    assert members(archive)[f"{place}/config"].size == 257
    assert snapshot(opened(archive)).functions == snapshot(ClaimingTree(str(writer.root))).functions


def test_of_a_restricted_space_the_header_is_written(writer: TreeWriter) -> None:
    place = writer.function("0000:00:01.0", class_code="060400", config=config_space(4, size=64))
    tree = ClaimingTree(str(writer.root))
    summary = write_capture(tree, io.BytesIO())
    archive = captured(tree)

    assert summary.headers_only == 1
    assert any("root" in sentence for sentence in summary.sentences())
    assert members(archive)[f"{place}/config"].size == 64


def test_empty_directories_that_mean_something_are_kept(writer: TreeWriter) -> None:
    for path in ("sys/kernel/iommu_groups/7/devices", "sys/class/iommu", "sys/firmware/acpi/tables"):
        (writer.root / path).mkdir(parents=True)
    copy = opened(captured(tree_of(writer)))

    assert copy.list("sys/kernel/iommu_groups/7/devices") == []
    assert copy.list("sys/class/iommu") == []
    assert copy.list("sys/firmware/acpi/tables") == []
    assert copy.list("sys/bus/pci/devices") == []


def test_what_the_machine_lacks_the_capture_lacks(writer: TreeWriter) -> None:
    copy = opened(captured(tree_of(writer)))

    assert copy.list("sys/kernel/iommu_groups") is None
    assert copy.list("sys/class/iommu") is None
    assert copy.text("proc/cmdline") is None
    assert copy.read("dmesg.txt") is None


def test_iommus_are_kept_with_their_registers_and_the_functions_they_list(writer: TreeWriter) -> None:
    writer.write("sys/devices/virtual/iommu/dmar0/intel-iommu/cap", "d2008c222f0686\n")
    writer.write("sys/devices/virtual/iommu/dmar0/intel-iommu/domains_used", "7\n")
    writer.link("sys/devices/virtual/iommu/dmar0/devices/0000:00:02.0", writer.function("0000:00:02.0"))
    writer.link("sys/class/iommu/dmar0", "sys/devices/virtual/iommu/dmar0")
    copy = opened(captured(tree_of(writer)))

    assert copy.text("sys/class/iommu/dmar0/intel-iommu/cap") == "d2008c222f0686"
    assert copy.read("sys/class/iommu/dmar0/intel-iommu/domains_used") is None
    assert snapshot(copy).iommus == snapshot(tree_of(writer)).iommus != {}


def test_tables_are_kept_whole_if_they_are_about_iommus_and_by_name_otherwise(writer: TreeWriter) -> None:
    writer.write("sys/firmware/acpi/tables/DMAR", b"DMAR table")
    writer.write("sys/firmware/acpi/tables/SSDT1", b"secret")
    copy = opened(captured(tree_of(writer)))

    assert copy.read("sys/firmware/acpi/tables/DMAR") == b"DMAR table"
    assert copy.read("sys/firmware/acpi/tables/SSDT1") == b""


def test_a_broken_device_tree_is_left_out_and_said_so(writer: TreeWriter) -> None:
    writer.write("sys/firmware/fdt", b"\xd0\x0d\xfe\xed serial")
    stream = io.BytesIO()
    summary = write_capture(tree_of(writer), stream, compression=None)
    copy = opened(stream.getvalue())

    assert LeftOut.DEVICE_TREE in summary.left_out
    assert "left out: the device tree, which is broken" in summary.sentences()
    assert copy.read("sys/firmware/fdt") is None
    assert captured(copy) == stream.getvalue()


def test_a_capture_of_a_live_machine_says_that_it_is_complete(writer: TreeWriter) -> None:
    writer.function("0000:00:02.0", config=config_space(size=64))
    live = LiveTree(str(writer.root / "sys"), str(writer.root / "proc"))
    copy = opened(captured(live))
    note = CaptureNote.decode(copy.read(NOTE_PATH))

    assert note == CaptureNote(complete=True, left_out=frozenset({LeftOut.KERNEL_LOG}))
    assert captured(copy) == captured(live)


def test_a_capture_of_a_copy_does_not_claim_to_be_complete(writer: TreeWriter) -> None:
    copy = opened(captured(tree_of(writer)))

    assert CaptureNote.decode(copy.read(NOTE_PATH)) == CaptureNote(
        complete=False, left_out=frozenset({LeftOut.KERNEL_LOG})
    )


@pytest.mark.parametrize(
    "content",
    [None, b"", b"no json", b"[]", b'{"format": 2}', b"[" * 100_000, b"\xff"],
    ids=["absent", "empty", "garbage", "a list", "of the future", "nested", "binary"],
)
def test_a_note_that_is_none_is_ignored(content: bytes | None) -> None:
    assert CaptureNote.decode(content) is None


def test_a_note_with_unknown_words_keeps_those_it_knows() -> None:
    facts = {"format": 1, "complete": "yes", "left_out": ["kernel-log", "alice", 7]}

    assert CaptureNote.decode(json.dumps(facts).encode()) == CaptureNote(
        complete=False, left_out=frozenset({LeftOut.KERNEL_LOG})
    )
    assert CaptureNote.decode(b'{"format": 1, "left_out": 5}') == CaptureNote(complete=False)


def test_a_machine_that_contradicts_itself_is_captured_as_far_as_it_fits(writer: TreeWriter) -> None:
    place = writer.function("0000:00:02.0", config=config_space(size=256))
    (writer.root / "sys/bus/pci/devices/0000:00:03.0").symlink_to("../../../devices/virtual/loop")
    (writer.root / "sys/bus/pci/devices/0000:00:04.0").symlink_to("../../../proc")
    (writer.root / place / "driver").symlink_to("\x1b[31m")
    # A function whose path runs through a link of another, and one that lies inside a file.
    (writer.root / place / "physfn").symlink_to("../0000:00:05.0")
    inside = f"../../../devices/{place.removeprefix('sys/devices/')}/physfn/0000:00:06.0"
    (writer.root / "sys/bus/pci/devices/0000:00:06.0").symlink_to(inside)
    writer.function("sys/bus/pci/devices/0000:00:07.0/0000:00:08.0")
    copy = opened(captured(tree_of(writer)))

    assert copy.link(f"{place}/physfn") == "../0000:00:05.0"
    assert copy.link(f"{place}/driver") is None
    assert len(snapshot(copy).functions) == len(snapshot(tree_of(writer)).functions)


def test_names_too_long_for_a_plain_header_are_written_too(writer: TreeWriter) -> None:
    deep = "/".join(f"0000:{number:02x}:00.0" for number in range(30))
    place = writer.function(deep)
    copy = opened(captured(tree_of(writer)))

    assert copy.text(f"{place}/uevent") == (writer.root / place / "uevent").read_text().rstrip("\n")
    assert report(copy) == report(tree_of(writer))


@pytest.mark.parametrize(
    ("name", "compression"),
    [("a.tar.gz", "gz"), ("a.TGZ", "gz"), ("a.tar.xz", "xz"), ("a.txz", "xz"), ("a.tar", None), ("a", "gz")],
)
def test_the_name_of_a_capture_tells_its_compression(name: str, compression: Compression) -> None:
    assert compression_of(name) == compression


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tar.xz", "a.tar"])
def test_a_capture_in_a_file_can_be_opened_by_its_name(writer: TreeWriter, tmp_path: Path, name: str) -> None:
    writer.function("0000:00:02.0", config=config_space())
    output = tmp_path / name
    summary = capture_to_path(tree_of(writer), str(output))

    assert isinstance(summary, CaptureSummary)
    assert report(open_source(str(output))) == report(tree_of(writer))
    assert sorted(tmp_path.iterdir()) == sorted([output, writer.root])


def test_a_capture_replaces_an_older_one_also_behind_a_link(writer: TreeWriter, tmp_path: Path) -> None:
    output = tmp_path / "old.tar"
    output.write_bytes(b"old")
    (tmp_path / "link.tar").symlink_to("old.tar")
    capture_to_path(tree_of(writer), str(tmp_path / "link.tar"))

    assert (tmp_path / "link.tar").is_symlink()
    assert output.read_bytes() == captured(tree_of(writer))


class Full(io.RawIOBase):
    """A stream on a disk that is full after the first bytes."""

    def writable(self) -> bool:
        return True

    def write(self, _data: object) -> int:
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_full_disk_is_an_error_of_the_system_for_a_stream(writer: TreeWriter, compression: Compression) -> None:
    with pytest.raises(OSError, match="No space left"):
        write_capture(tree_of(writer), cast("BinaryIO", Full()), compression=compression)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_capture_that_fails_leaves_nothing_behind_and_the_old_one_in_place(
    writer: TreeWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    output = tmp_path / "old.tar"
    output.write_bytes(b"old")

    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(capture, "write_capture", fail)
    with pytest.raises((SourceError, KeyboardInterrupt)):
        capture_to_path(tree_of(writer), str(output))

    assert output.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == sorted([output, writer.root])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_device_is_written_as_it_stands_and_a_full_one_is_a_clear_error(writer: TreeWriter) -> None:
    with pytest.raises(SourceError) as caught:
        capture_to_path(tree_of(writer), "/dev/full")

    assert str(caught.value) == "/dev/full: cannot be written: No space left on device"
    capture_to_path(tree_of(writer), os.devnull)
    assert not Path(os.devnull).is_file()


@pytest.mark.parametrize(
    ("name", "problem"),
    [("absent/a.tar", "No such file or directory"), (".", "Is a directory"), ("a\0b", "no file can have this name")],
)
def test_an_output_that_cannot_be_written_is_a_clear_error(
    writer: TreeWriter, tmp_path: Path, name: str, problem: str
) -> None:
    with pytest.raises(SourceError, match=f"cannot be written: {problem}"):
        capture_to_path(tree_of(writer), f"{tmp_path}/{name}")


class Standard:
    """Standard output with a buffer, on a terminal or not."""

    def __init__(self, buffer: io.RawIOBase | io.BytesIO, *, terminal: bool = False) -> None:
        self.buffer = buffer
        self.isatty = lambda: terminal


def test_a_dash_is_standard_output(writer: TreeWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", Standard(stream))
    capture_to_path(tree_of(writer), "-")
    monkeypatch.undo()

    assert gzip.decompress(stream.getvalue()) == captured(tree_of(writer))


def test_a_terminal_gets_no_archive(writer: TreeWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Standard(io.BytesIO(), terminal=True))
    with pytest.raises(SourceError, match="not for a terminal"):
        capture_to_path(tree_of(writer), "-")


def test_a_closed_pipe_is_left_to_the_caller(writer: TreeWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb", buffering=0) as stream:
        monkeypatch.setattr(sys, "stdout", Standard(stream))
        with pytest.raises(BrokenPipeError):
            capture_to_path(tree_of(writer), "-")


def test_what_was_woken_for_a_capture_counts_as_read(tmp_path: Path) -> None:
    machine = TreeWriter(tmp_path / "machine")
    for number in ("1", "2"):
        machine.function(
            f"0000:00:03.{number}", config=config_space(0, (0x1D, 0x1D)), power_state="D3cold", max_link_width="1"
        )
    tree = DirectoryTree(str(machine.root))

    asleep, woken = io.BytesIO(), io.BytesIO()
    write_capture(tree, asleep)
    write_capture(tree, woken, wake=True)

    gaps = [
        {one.config.gap for one in take_snapshot(read_archive(io.BytesIO(stream.getvalue()), "x")).functions}
        for stream in (asleep, woken)
    ]
    assert gaps == [{Gap.ASLEEP}, {None}]
