# SPDX-License-Identifier: GPL-2.0-or-later
"""Collects what a capture holds: the files of a machine that ``check`` reads, and those a developer will ask for.

Paths, names and links stay as they are. What identifies the machine is blanked on the way (``iommud.redact``,
``iommud.redact_config``), so nothing else ever sees it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from iommud.address import Address
from iommud.capture_note import NOTE_PATH, CaptureNote, CaptureSummary, LeftOut
from iommud.files import READ_LIMIT, ConfigFile, Tree
from iommud.firmware.fdt_redact import redact_fdt
from iommud.functions import FunctionReader
from iommud.kernel_log import LOG_PATH, relevant_lines
from iommud.members import Directory, Node, Padded, names_read_in
from iommud.pci import CARDBUS_HEADER_SIZE, CONVENTIONAL_CONFIG_SIZE, EXTENDED_CONFIG_SIZE
from iommud.power import Sleep
from iommud.redact import BLANKED, redact_cmdline, redact_modules, redact_uevent, redact_version
from iommud.redact_config import redact_config
from iommud.snapshot import PciFunction
from iommud.sysfs import identities

__all__ = ["gather"]

_DEVICES = "sys/bus/pci/devices"
_GROUPS = "sys/kernel/iommu_groups"
_IOMMUS = "sys/class/iommu"
_TABLES = "sys/firmware/acpi/tables"
_TREE = "sys/firmware/fdt"
_TABLE_NAMES = frozenset({"DMAR", "IORT", "IVRS", "MCFG", "VIOT"})
_TABLE_LIMIT = 1 << 20
_ATTRIBUTE_LIMIT = 4096  # PAGE_SIZE: what sysfs_emit() can give

_PLAIN = (
    "vendor",
    "device",
    "class",
    "revision",
    "subsystem_vendor",
    "subsystem_device",
    "ari_enabled",
    "sriov_numvfs",
    "sriov_totalvfs",
    "power_state",
    "power/runtime_status",
    "d3cold_allowed",
    "reset_method",
    "driver_override",
    "max_link_speed",
)
# Since 6.18 these read config space with the function awake ("PCI/sysfs: Ensure devices are powered for config
# reads"), so of one that sleeps they tell no more than that they exist.
_LINK_STATE = ("current_link_speed", "current_link_width", "max_link_width")
_WAKING = (*_LINK_STATE, "secondary_bus_number", "subordinate_bus_number")
_EXISTENCE_TELLS = frozenset({"sriov_numvfs", "max_link_speed", *_LINK_STATE})
_LINKS = ("driver", "iommu_group", "iommu", "physfn")
_VIRTUAL_FUNCTION = re.compile(r"virtfn[0-9]{1,5}")
_GROUP_ATTRIBUTES = ("name", "reserved_regions", "type")
_IOMMU_ATTRIBUTES = (
    "intel-iommu/cap",
    "intel-iommu/ecap",
    "intel-iommu/version",
    "amd-iommu/cap",
    "amd-iommu/features",
)
_TEXTS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("proc/cmdline", redact_cmdline),
    ("proc/modules", redact_modules),
    ("proc/sys/kernel/osrelease", str),
    ("proc/version", redact_version),
)


def gather(tree: Tree, *, wake: bool = False, log: Iterable[str] | None = None) -> tuple[Directory, CaptureSummary]:
    """The files of a capture, as nested directories in memory, and what is to be said of it.

    ``wake`` reads the config space of sleeping functions too. ``log`` are lines of the kernel log, of which those
    that bear on groups are kept; None: it could not be read.
    """
    return _Gathering(tree).run(wake=wake, log=log)


@dataclass(slots=True)
class _Gathering:
    tree: Tree
    root: Directory = field(default_factory=dict)
    summary: CaptureSummary = field(default_factory=CaptureSummary)
    shared: dict[bytes, bytes] = field(default_factory=dict)
    """Contents that many functions have in common."""

    def run(self, *, wake: bool, log: Iterable[str] | None) -> tuple[Directory, CaptureSummary]:
        source = CaptureNote.decode(self.tree.read(NOTE_PATH))
        self._bus(wake)
        self._groups()
        self._iommus()
        self._tables()
        self._device_tree(source)
        self._proc()
        self._log(log)
        self._note(source, woken=wake or (source is not None and source.woken))
        return self.root, self.summary

    def _bus(self, wake: bool) -> None:
        reader = FunctionReader(self.tree)
        sleep = Sleep(self.tree, reader.paths, wake=wake or reader.woken)
        found = {function.address: function for function in identities(self.tree, reader, sleep)[0]}
        self._put("sys/bus/pci", {})
        names = self.tree.list(_DEVICES)
        if names is not None:
            self._put(_DEVICES, {})
        for name in names or ():
            function = found.get(address) if (address := Address.from_name(name)) is not None else None
            if function is not None:
                self._entry(f"{_DEVICES}/{name}")
                self._function(function, reader.paths.get(function.address), sleep)

    def _function(self, function: PciFunction, path: str | None, sleep: Sleep) -> None:
        self.summary.functions += 1
        if path is None or names_read_in(path) is None:
            return  # it is nowhere, or where no machine has functions
        self._put(path, {})
        asleep = sleep.would_wake(function.address, function.upstream)
        self._put_text(f"{path}/uevent", redact_uevent)
        for name in _PLAIN:
            self._attribute(f"{path}/{name}")
        for name in _WAKING:
            self._attribute(f"{path}/{name}", unread=asleep)
        for name in (*_LINKS, *filter(_VIRTUAL_FUNCTION.fullmatch, self.tree.list(path) or ())):
            self._link(f"{path}/{name}")
        for name in self.tree.list(f"{path}/pci_bus") or ():
            self._put(f"{path}/pci_bus/{name}", {})
        if asleep:
            self.summary.asleep += 1
        else:
            self._config(f"{path}/config")

    def _attribute(self, path: str, *, unread: bool = False) -> None:
        content = None if unread else self.tree.read(path, _ATTRIBUTE_LIMIT)
        if content is None and path.rpartition("/")[2] in _EXISTENCE_TELLS and self.tree.exists(path):
            content = b""
        if content is not None:
            self._put(path, self.shared.setdefault(content, content))

    def _config(self, path: str) -> None:
        file = self.tree.config(path)
        if file is None:
            return
        with file:
            redacted = redact_config(_whole(file))
        content = redacted.content
        self._put(path, Padded(content.rstrip(b"\0"), len(content)))
        self.summary.serial_numbers += redacted.serial_numbers
        self.summary.vital_data += bool(redacted.vital_data)
        self.summary.cut_configs += redacted.cut
        if len(content) > CARDBUS_HEADER_SIZE:
            self.summary.configs += 1
        else:
            self.summary.headers_only += 1

    def _groups(self) -> None:
        names = self.tree.list(_GROUPS)
        if names is not None:
            self._put(_GROUPS, {})
        for name in names or ():
            path = f"{_GROUPS}/{name}"
            self._put(path, {})
            for attribute in _GROUP_ATTRIBUTES:
                self._attribute(f"{path}/{attribute}")
            self._listing(f"{path}/devices")

    def _iommus(self) -> None:
        names = self.tree.list(_IOMMUS)
        if names is not None:
            self._put(_IOMMUS, {})
        for name in names or ():
            entry = f"{_IOMMUS}/{name}"
            self._entry(entry)
            path = self.tree.resolve(entry)
            if path is not None and names_read_in(path) is not None:
                for attribute in _IOMMU_ATTRIBUTES:
                    self._attribute(f"{path}/{attribute}")
                self._listing(f"{path}/devices")

    def _listing(self, path: str) -> None:
        """A directory that lists functions by links of their names."""
        names = self.tree.list(path)
        if names is not None:
            self._put(path, {})
        for name in names or ():
            self._entry(f"{path}/{name}")

    def _entry(self, path: str) -> None:
        """A name that counts whatever lies there: a link, or else a directory."""
        if not self._link(path):
            self._put(path, {})

    def _link(self, path: str) -> bool:
        target = self.tree.link(path)
        if target is None or not target.isprintable() or len(target) > _ATTRIBUTE_LIMIT:
            return False
        self._put(path, target)
        return True

    def _tables(self) -> None:
        """The tables that are read, and of the others the names: which there are is a fact too."""
        names = self.tree.list(_TABLES)
        if names is not None:
            self._put(_TABLES, {})
        for name in names or ():
            path = f"{_TABLES}/{name}"
            content = self.tree.read(path, _TABLE_LIMIT) if name in _TABLE_NAMES else None
            self._put(path, content or b"")

    def _device_tree(self, source: CaptureNote | None) -> None:
        content = self.tree.read(_TREE, READ_LIMIT)
        if content is None:
            if source is not None:
                self.summary.left_out |= source.left_out & {LeftOut.DEVICE_TREE}
            return
        try:
            self._put(_TREE, redact_fdt(content))
        except ValueError:
            self.summary.left_out |= {LeftOut.DEVICE_TREE}

    def _proc(self) -> None:
        for path, redacted in _TEXTS:
            self._put_text(path, redacted)
        cmdline = self.root.get("proc", {})
        text = cmdline.get("cmdline") if isinstance(cmdline, dict) else None
        self.summary.parameters = text.count(BLANKED.encode()) if isinstance(text, bytes) else 0

    def _put_text(self, path: str, redacted: Callable[[str], str]) -> None:
        text = self.tree.text(path)
        if text is not None:
            self._put(path, redacted(text).rstrip("\n").encode() + b"\n")

    def _log(self, log: Iterable[str] | None) -> None:
        if log is None:
            self.summary.left_out |= {LeftOut.KERNEL_LOG}
            return
        lines = relevant_lines(log)
        self.summary.log_lines = len(lines)
        self._put(LOG_PATH, "".join(f"{line}\n" for line in lines).encode())

    def _note(self, source: CaptureNote | None, *, woken: bool) -> None:
        if self.summary.asleep:
            self.summary.left_out |= {LeftOut.SLEEPING}
        # A copy of a machine may have lost attributes on the way, unless it was made by this very code.
        complete = self.tree.live or (source is not None and source.complete)
        self._put(NOTE_PATH, CaptureNote(complete=complete, left_out=self.summary.left_out, woken=woken).encode())

    def _put(self, path: str, node: Node) -> None:
        """Put a node in its place, unless a tree that contradicts itself has something else there already."""
        *parents, name = path.split("/")
        directory = self.root
        for parent in parents:
            below = directory.setdefault(parent, {})
            if not isinstance(below, dict):
                return
            directory = below
        directory.setdefault(name, node)


def _whole(file: ConfigFile) -> bytes:
    """All that can be read of a config space, in a form that ``check`` takes for what it was."""
    limit = CONVENTIONAL_CONFIG_SIZE if file.size == CONVENTIONAL_CONFIG_SIZE else EXTENDED_CONFIG_SIZE
    content = b""
    while len(content) < limit and (piece := file.read(len(content), limit - len(content))):
        content += piece
    if len(content) == CONVENTIONAL_CONFIG_SIZE != file.size:
        # A file of 256 bytes would claim that there is no extended space, where it only could not be read.
        content += b"\0"
    return content
