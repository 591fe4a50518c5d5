# SPDX-License-Identifier: GPL-2.0-or-later
"""Scenes on a mocked machine: pyudev and the reader as they are, below umockdev, which replaces ``/sys`` and uevents.

usage: umockdev-wrapper python -m tests.daemon.mocked_machine CAPTURE SCENE
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from iommud import check
from iommud.address import Address
from iommud.daemon.incremental import IncrementalReader
from iommud.daemon.uevents import Uevent, UeventSource
from iommud.snapshot import PciFunction, Snapshot
from iommud.tree import LiveTree
from iommud.verdict.findings import Kind
from tests.unpacking import unpack

Scene = Callable[["MockedMachine"], None]


class Testbed:
    """The little that is needed of libumockdev."""

    __test__ = False

    def __init__(self, capture: str) -> None:
        self._library = ctypes.CDLL("libumockdev.so.0")
        self._library.umockdev_testbed_new.restype = ctypes.c_void_p
        self._library.umockdev_testbed_get_root_dir.restype = ctypes.c_char_p
        self._library.umockdev_testbed_get_root_dir.argtypes = [ctypes.c_void_p]
        self._library.umockdev_testbed_uevent.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]
        self._testbed = self._library.umockdev_testbed_new()
        self.root = Path(self._library.umockdev_testbed_get_root_dir(self._testbed).decode()).resolve()
        unpack(capture, self.root)

    def uevent(self, place: Path, action: str) -> None:
        mocked = f"/{place.relative_to(self.root)}"
        self._library.umockdev_testbed_uevent(self._testbed, mocked.encode(), action.encode())

    def close(self) -> None:
        # The directory is removed with the last reference to the testbed.
        ctypes.CDLL("libgobject-2.0.so.0").g_object_unref(ctypes.c_void_p(self._testbed))


class MockedMachine:
    """A capture as ``/sys``, with a source of events and a reader on it."""

    def __init__(self, testbed: Testbed) -> None:
        self._testbed = testbed
        self.source = UeventSource()
        assert self.source.open(), self.source.problem
        self.reader = IncrementalReader(
            lambda: LiveTree("/sys", str(testbed.root / "proc")), changes=lambda: self.source.structural_changes
        )
        self.before = self.reader.snapshot()
        self.function = next(one for one in self.before.functions if self._is_card(one))
        # umockdev redirects what reads, not what makes or removes: that goes to the directory behind /sys.
        self.sys = testbed.root / "sys"
        self.listed = self.sys / f"bus/pci/devices/{self.function.address}"
        self.group = self.sys / f"kernel/iommu_groups/{self.function.group}"
        self.place = self.listed.resolve()

    def _is_card(self, function: PciFunction) -> bool:
        return function.upstream is not None and not function.is_bridge and function.group is not None

    def hear(self, action: str, place: Path | None = None) -> list[Uevent]:
        """Have the kernel send one event, and hear it."""
        self._testbed.uevent(place or self.place, action)
        deadline = time.monotonic() + 5
        while not (found := self.source.drain()) and not self.source.losses and time.monotonic() < deadline:
            time.sleep(0.001)
        return found

    def look(self, events: list[Uevent]) -> Snapshot:
        touched = {one.address for one in events if one.address is not None}
        return self.reader.snapshot(touched)

    def leave_group(self) -> None:
        """Take the function's membership away, both links."""
        (self.group / "devices" / self.place.name).unlink()
        (self.place / "iommu_group").unlink()

    def join_group(self) -> None:
        (self.group / "devices" / self.place.name).symlink_to(os.path.relpath(self.place, self.group / "devices"))
        (self.place / "iommu_group").symlink_to(os.path.relpath(self.group, self.place))

    def unplug(self) -> None:
        (self.group / "devices" / self.place.name).unlink()
        self.listed.unlink()
        shutil.rmtree(self.place)

    def copy_as(self, name: str) -> Path:
        """A function like the one at hand, at another address, with neither driver nor group."""
        place = self.place.with_name(name)
        shutil.copytree(self.place, place, symlinks=True)
        for link in ("iommu_group", "driver"):
            (place / link).unlink(missing_ok=True)
        text = (self.place / "uevent").read_text().replace(self.place.name, name)
        (place / "uevent").write_text("\n".join(one for one in text.split("\n") if not one.startswith("DRIVER=")))
        self.listed.with_name(name).symlink_to(os.path.relpath(place, self.listed.parent))
        return place


def addresses(snapshot: Snapshot) -> set[Address]:
    return {one.address for one in snapshot.functions}


def found(snapshot: Snapshot, address: Address) -> PciFunction:
    return next(one for one in snapshot.functions if one.address == address)


def appear(machine: MockedMachine) -> None:
    """A function is plugged in; it is read, and of the others nothing but ACS Control."""
    name = f"{machine.place.name[:-1]}5"
    place = machine.copy_as(name)
    events = machine.hear("add", place)
    assert events == [Uevent(action="add", address=Address.parse(name))]
    after = machine.look(events)
    assert addresses(after) - addresses(machine.before) == {Address.parse(name)}
    assert after.config_reads < machine.before.config_reads


def bind(machine: MockedMachine) -> None:
    """With IOMMUs that firmware describes a group appears only when a driver is bound."""
    machine.leave_group()
    assert found(machine.look(machine.hear("add")), machine.function.address).group is None
    machine.join_group()
    after = machine.look(machine.hear("bind"))
    assert found(after, machine.function.address).group == machine.function.group
    assert after.groups == machine.before.groups
    assert machine.source.events == {"add": 1, "bind": 1}


def remove(machine: MockedMachine) -> None:
    """A function is pulled out; umockdev wants the event first, the kernel sends it last."""
    events = machine.hear("remove")
    machine.unplug()
    after = machine.look(events)
    assert addresses(machine.before) - addresses(after) == {machine.function.address}
    assert Kind.INCONSISTENT not in {one.kind for one in check(after).findings}


def rename(machine: MockedMachine) -> None:
    """A function turns up at another address."""
    name = f"{machine.place.name[:-1]}6"
    place = machine.copy_as(name)
    machine.unplug()
    events = machine.hear("move", place)
    assert [one.action for one in events] == ["move"]
    after = machine.look(events)
    assert machine.function.address not in addresses(after)
    assert Address.parse(name) in addresses(after)


def killed(machine: MockedMachine) -> None:
    """The monitor is killed: it is replaced, the loss told, and the next event heard."""
    monitor = machine.source._monitor
    assert monitor is not None
    os.close(monitor.fileno())
    machine.hear("change")
    assert (machine.source.restarts, machine.source.losses) == (1, 1)
    assert [one.action for one in machine.hear("bind")] == ["bind"]


def vanish(machine: MockedMachine) -> None:
    """The function disappears between two reads of it: taken again, the machine is whole, without it."""
    original = LiveTree.config

    def pulled(tree: LiveTree, path: str) -> object:
        if machine.place.exists():
            machine.unplug()
        return original(tree, path)

    LiveTree.config = pulled  # type: ignore[assignment, method-assign] # the moment is what the scene is about
    after = machine.reader.snapshot(full=True)
    assert machine.function.address not in addresses(after)
    assert (machine.reader.retakes, machine.reader.torn) == (1, 0)


SCENES: dict[str, Scene] = {one.__name__: one for one in (appear, bind, remove, rename, killed, vanish)}


def main() -> None:
    """Play one scene; an AssertionError says what went wrong."""
    testbed = Testbed(sys.argv[1])
    try:
        SCENES[sys.argv[2]](MockedMachine(testbed))
    finally:
        testbed.close()


if __name__ == "__main__":
    main()
