# SPDX-License-Identifier: GPL-2.0-or-later
"""Groups and IOMMUs watched by polling: what is noticed, what is not, and what happens when polling dies."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from iommud.daemon.polling import PollingSource

INTERVAL = 0.02
FIRST, SECOND = "0000:00:01.0", "0000:00:02.0"


def group(sysfs: Path, number: int, *members: str) -> Path:
    devices = sysfs / "kernel/iommu_groups" / str(number) / "devices"
    devices.mkdir(parents=True)
    (devices.parent / "type").write_text("DMA\n")
    for member in members:
        (devices / member).symlink_to(f"../../../../devices/pci0000:00/{member}")
    return devices


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    for function in (FIRST, SECOND):
        place = tmp_path / "devices/pci0000:00" / function
        place.mkdir(parents=True)
        (place / "config").write_bytes(bytes(64))
    (tmp_path / "class/iommu").mkdir(parents=True)
    group(tmp_path, 0, FIRST, SECOND)
    group(tmp_path, 1)
    return tmp_path


class Noticed:
    """A callback that can be waited for."""

    def __init__(self) -> None:
        self.times = 0
        self._event = threading.Event()

    def __call__(self) -> None:
        self.times += 1
        self._event.set()

    def within(self, seconds: float = 5) -> bool:
        came = self._event.wait(seconds)
        self._event.clear()
        return came


def after_polls(source: PollingSource, count: int = 3) -> None:
    """Wait until so many more polls are over."""
    wanted = source.polls + count
    deadline = time.monotonic() + 5
    while source.polls < wanted:
        assert time.monotonic() < deadline, "polling has stopped"
        time.sleep(INTERVAL / 2)


@pytest.fixture
def noticed() -> Noticed:
    return Noticed()


@pytest.fixture
def source(sysfs: Path, noticed: Noticed) -> Iterator[PollingSource]:
    source = PollingSource(noticed, sysfs=str(sysfs), interval=INTERVAL)
    source.start()
    yield source
    source.stop()


def a_new_group(sysfs: Path) -> None:
    group(sysfs, 2)


def a_group_gone(sysfs: Path) -> None:
    devices = sysfs / "kernel/iommu_groups/1/devices"
    (devices.parent / "type").unlink()
    devices.rmdir()
    devices.parent.rmdir()


def a_new_member(sysfs: Path) -> None:
    (sysfs / "kernel/iommu_groups/1/devices" / SECOND).symlink_to("elsewhere")


def a_member_gone(sysfs: Path) -> None:
    (sysfs / "kernel/iommu_groups/0/devices" / SECOND).unlink()


def a_move_between_two_groups(sysfs: Path) -> None:
    groups = sysfs / "kernel/iommu_groups"
    os.rename(groups / "0/devices" / FIRST, groups / "1/devices" / FIRST)  # noqa: PTH104 - one system call


def a_member_that_came_back_as_another_object(sysfs: Path) -> None:
    member = sysfs / "kernel/iommu_groups/0/devices" / FIRST
    replacement = member.with_name("new")
    replacement.symlink_to("elsewhere")
    replacement.replace(member)


def a_new_iommu(sysfs: Path) -> None:
    (sysfs / "class/iommu/dmar0/devices").mkdir(parents=True)


def a_function_taken_by_an_iommu(sysfs: Path) -> None:
    place = sysfs / "class/iommu/dmar0/devices"
    place.mkdir(parents=True)
    (place / FIRST).symlink_to("elsewhere")


@pytest.mark.parametrize(
    "change",
    [
        a_new_group,
        a_group_gone,
        a_new_member,
        a_member_gone,
        a_move_between_two_groups,
        a_member_that_came_back_as_another_object,
        a_new_iommu,
        a_function_taken_by_an_iommu,
    ],
)
def test_a_change_of_groups_or_iommus_is_noticed(
    change: Callable[[Path], None], source: PollingSource, sysfs: Path, noticed: Noticed
) -> None:
    after_polls(source)
    assert noticed.times == 0

    change(sysfs)

    assert noticed.within()
    assert source.up


def test_groups_that_appear_only_later_are_noticed(tmp_path: Path, noticed: Noticed) -> None:
    source = PollingSource(noticed, sysfs=f"{tmp_path}/", interval=INTERVAL)
    source.start()
    try:
        after_polls(source)
        assert source.up, "a machine without an IOMMU is watched all the same"

        group(tmp_path, 0, FIRST)

        assert noticed.within()
    finally:
        source.stop()


def test_what_lies_behind_a_members_link_is_not_looked_at(source: PollingSource, sysfs: Path, noticed: Noticed) -> None:
    function = sysfs / "devices/pci0000:00" / FIRST
    (function / "config").write_bytes(bytes(256))
    (function / "driver").symlink_to("elsewhere")
    after_polls(source)

    assert noticed.times == 0


def test_times_of_directories_say_nothing(source: PollingSource, sysfs: Path, noticed: Noticed) -> None:
    os.utime(sysfs / "kernel/iommu_groups/0/devices", (1, 1))
    os.utime(sysfs / "kernel/iommu_groups/0", (1, 1))
    after_polls(source)

    assert noticed.times == 0


def test_a_directory_that_cannot_be_listed_is_a_problem_until_it_can(
    source: PollingSource, noticed: Noticed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr("iommud.daemon.polling.os.scandir", refused)
        after_polls(source)
        assert "Permission denied" in (source.problem or "")
        assert not source.up
    after_polls(source)

    assert source.problem is None
    assert noticed.within(), "what cannot be listed has gone for whoever looks"


@pytest.mark.parametrize("part", ["emitter", "observer"])
def test_polling_that_died_is_started_anew(part: str, source: PollingSource, sysfs: Path, noticed: Noticed) -> None:
    observer = source._observer
    assert observer is not None
    for thread in observer.emitters if part == "emitter" else [observer]:
        thread.stop()
        thread.join(5)
    assert not source.up
    assert source.problem == "polling has ended by itself"
    a_move_between_two_groups(sysfs)

    assert source.check()

    assert source.restarts == 1
    assert noticed.within(), "changes may have been missed"
    a_new_group(sysfs)
    assert noticed.within()


def test_polling_that_lives_is_left_alone(source: PollingSource, noticed: Noticed) -> None:
    observer = source._observer
    source.start()

    assert source.check()
    assert source._observer is observer
    assert (source.restarts, noticed.times) == (0, 0)


def test_a_source_that_was_stopped_is_down_and_ends_its_threads(sysfs: Path, noticed: Noticed) -> None:
    threads = threading.active_count()
    source = PollingSource(noticed, sysfs=str(sysfs), interval=60)
    assert source.problem == "not started"
    source.start()
    started = time.monotonic()

    source.stop()
    source.stop()

    assert time.monotonic() - started < 5, "a long interval does not delay the end"
    assert threading.active_count() == threads
    assert not source.up
    assert not source.check()
