# SPDX-License-Identifier: GPL-2.0-or-later
import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommud import kernel_log
from iommud.kernel_log import read_kernel_log, relevant_lines
from iommud.tree import DirectoryTree, LiveTree

GROUP_LINE = "pci 0000:01:00.0: Adding to iommu group 3"


@pytest.mark.parametrize(
    "line",
    [
        GROUP_LINE,
        "DMAR: IOMMU enabled",
        "AMD-Vi: Interrupt remapping enabled",
        "e1000 0000:02:02.0: stream 512 already in tree from dev 0000:02:01.0",
        "pci 0000:02:01.0: Aliasing StreamID 0x200 (from 0000:02:00.0) unsupported, expect DMA to be broken",
        "pci 0000:03:00.0: Enabling fixed DMA alias to 00.0",
        "pcieport 0000:00:1c.0: Configured ACS to 0x001d",
        "pci 0000:00:1c.0: Intel PCH root port ACS workaround enabled",
        "ACPI: VIOT 0x000000007FFE 000058 (v00 BOCHS  BXPC     00000001 BXPC 00000001)",
        "ACPI: IORT: no mapping",
        "platform 0.pcie: deferred probe pending: wait for supplier",
        "pci 0000:00:02.0: PCI bridge to [bus 01-02]",
        "vfio-pci 0000:01:00.0: enabling device (0000 -> 0003)",
        "pci 0000:00:00.0: correcting type from Upstream Port to Downstream Port",
    ],
)
def test_lines_that_bear_on_groups_are_kept_without_their_timestamps(line: str) -> None:
    assert relevant_lines([f"[    1.234567] {line}\n"]) == (line,)


@pytest.mark.parametrize(
    "line",
    [
        "usb 1-1: SerialNumber: 0123456789",
        "e1000 0000:02:01.0 eth0: (PCI:33MHz:32-bit) 52:54:00:12:34:56",
        "Command line: root=/dev/alice intel_iommu=on",
        "Kernel command line: root=/dev/alice intel_iommu=on",
        'Unknown kernel command line parameters "iommu_secret=alice"',
        "Linux version 6.1.176-lab-viommu (alice@alices-host)",
        "systemd[1]: Starting iommu-setup of alice",
        'audit: type=1400 comm="vfio-user" name="/home/alice"',
        "Hardware name: Dell Inc. iommu/0XYZ, BIOS 1.2",
        "upstream of something else",
    ],
)
def test_lines_about_anything_else_or_about_people_are_not(line: str) -> None:
    assert relevant_lines([line]) == ()


@pytest.mark.parametrize(
    "stamp",
    [
        "[    0.000000] ",
        "[12345.678901][    T1] ",
        "<6>[    0.000000] ",
        "[Sat Jul  5 12:00:00 2026] ",
        "Jul 05 12:00:00 alices-host kernel: ",
        "2026-07-05T12:00:00.123456+0200 alices-host kernel: ",
    ],
)
def test_every_form_of_timestamp_goes(stamp: str) -> None:
    assert relevant_lines([stamp + GROUP_LINE]) == (GROUP_LINE,)


def test_control_characters_become_blanks() -> None:
    assert relevant_lines(["iommu\x1b[31m: red"]) == ("iommu [31m: red",)


PIECES = st.sampled_from(["iommu", "[ 1.0] ", "<6>", "serial: ", "DMI:", "x", " ", "\x07", "a@b.org", "acs"])


@given(lines=st.lists(st.lists(PIECES, max_size=6).map("".join), max_size=4))
def test_filtering_twice_is_filtering_once(lines: list[str]) -> None:
    once = relevant_lines(lines)

    assert relevant_lines(once) == once


def test_a_capture_has_its_log_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "dmesg.txt").write_text(f"[ 0.1] booting\n[ 0.2] {GROUP_LINE}\n")

    assert read_kernel_log(DirectoryTree(str(tmp_path))) == (GROUP_LINE,)


def test_a_capture_without_the_file_has_no_log(tmp_path: Path) -> None:
    assert read_kernel_log(DirectoryTree(str(tmp_path))) is None


def test_the_log_of_this_kernel_says_nothing_of_another_sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_log, "_DEVICE", str(tmp_path))

    assert read_kernel_log(LiveTree(str(tmp_path))) is None


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "kmsg"
    monkeypatch.setattr(kernel_log, "_DEVICE", str(path))
    return path


def test_the_ring_buffer_gives_what_the_kernel_said_and_not_what_programs_said(device: Path) -> None:
    device.write_text(
        f"6,339,5140900,-;{GROUP_LINE}\n SUBSYSTEM=pci\n DEVICE=+pci:0000:01:00.0\n"
        "30,340,5140901,-;systemd: iommu of alice\n"
        "6,341,5140902,-,caller=T1;DMAR: IOMMU enabled\n"
        "garbage\n"
    )

    assert read_kernel_log(LiveTree()) == (GROUP_LINE, "DMAR: IOMMU enabled")


def test_reading_ends_at_the_newest_record_and_goes_on_behind_lost_ones(
    device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.touch()
    answers: list[bytes | OSError] = [
        OSError(errno.EPIPE, "overwritten"),
        f"6,1,1,-;{GROUP_LINE}\n".encode(),
        BlockingIOError(errno.EAGAIN, "none yet"),
    ]

    def read(_descriptor: int, _length: int) -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(os, "read", read)
    lines = read_kernel_log(LiveTree())
    monkeypatch.undo()

    assert lines == (GROUP_LINE,)
    assert not answers


def test_a_log_without_end_is_read_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_log, "_DEVICE", "/dev/zero")

    assert read_kernel_log(LiveTree()) == ()


@pytest.mark.parametrize("kind", ["absent", "directory"])
def test_a_log_that_cannot_be_read_is_none(device: Path, kind: str) -> None:
    if kind == "directory":
        device.mkdir()

    assert read_kernel_log(LiveTree()) is None
