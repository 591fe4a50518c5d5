# SPDX-License-Identifier: GPL-2.0-or-later
"""What is kept of the members of an archive: the files that iommud reads, within a limit of memory.

What becomes of the odd members that an archive may have:

- refused, because no tool that captures a machine writes them and each is an attack on one that unpacks:
absolute
  names, names with ``..``, names that are not UTF-8 or could not be printed, sparse files, hard links out of
  the archive or to nothing in it, a file where there is a directory, anything below a file or a link;
- harmless and ignored: devices and FIFOs, all files that iommud does not read (``names_read_in``);
- harmless and kept: links that lead out of the tree, round in circles or nowhere; they resolve to None;
- taken as tar takes it: of several files with one name the last one counts.
"""

from __future__ import annotations

import sys
from collections.abc import Container, Iterable
from typing import NamedTuple, TypeAlias

from iommud.errors import ArchiveError
from iommud.files import MACHINE_DEPTH
from iommud.tarstream import Kind, Limits, Member, TarStream

__all__ = ["ATTRIBUTES", "Collector", "Directory", "Node", "Padded", "names_read_in", "node_at"]

ATTRIBUTES = frozenset(
    # of a PCI function (Documentation/ABI/testing/sysfs-bus-pci)
    "ari_enabled boot_vga broken_parity_status class config "  # noqa: SIM905 - a list would fill a page
    "consistent_dma_mask_bits current_link_speed "
    "current_link_width d3cold_allowed device dma_mask_bits driver_override enable irq "
    "max_link_speed max_link_width modalias msi_bus numa_node power_state reset_method resource revision "
    "secondary_bus_number sriov_drivers_autoprobe sriov_numvfs sriov_offset sriov_stride sriov_totalvfs "
    "sriov_vf_device sriov_vf_total_msix subordinate_bus_number subsystem_device subsystem_vendor uevent "
    "vendor waiting_for_supplier "
    # of its directory power/ (Documentation/ABI/testing/sysfs-devices-power)
    "control runtime_enabled runtime_status "
    # of the ACPI object behind it (Documentation/ABI/testing/sysfs-bus-acpi), and of a slot
    "address adr hid path removable status sun uid "
    # of an IOMMU (Documentation/ABI/testing/sysfs-class-iommu-{intel,amd}-iommu)
    "cap domains_supported domains_used ecap features version "
    # of a VMD endpoint's and a host controller's driver
    "remapped_nvme".split()
)
"""Names of the files that iommud reads below ``sys/devices`` and ``sys/bus/pci``; others are not kept."""


class _Every(Container[str]):
    """All names."""

    def __contains__(self, name: object) -> bool:
        return True


_NAMES_READ_IN: dict[str, Container[str]] = {
    "": frozenset({"dmesg.txt", "iommud-capture.json", "meta.json"}),
    "proc": frozenset({"cmdline", "modules", "version"}),
    "proc/sys": (),
    "proc/sys/kernel": frozenset({"osrelease"}),
    "sys": (),
    "sys/bus": (),
    "sys/class": (),
    "sys/kernel": (),
    "sys/firmware": frozenset({"fdt"}),
    "sys/firmware/acpi": (),
    "sys/firmware/acpi/tables": _Every(),  # six of them are read, but which others there are is a fact too
}
_NAMES_READ_BELOW: dict[str, Container[str]] = {
    "sys/bus/pci": ATTRIBUTES,
    "sys/devices": ATTRIBUTES,
    "sys/class/iommu": ATTRIBUTES,
    "sys/kernel/iommu_groups": frozenset({"name", "reserved_regions", "type"}),
}


def names_read_in(directory: str) -> Container[str] | None:
    """Names of the files that iommud reads in a directory; None: it has no use for the directory at all.

    This is the one place that decides what an archive keeps in memory: of a directory that is not None, these
    files, all links and the directory itself. A reader of a new attribute adds its name above, or archives
    will lack it.
    """
    names = _NAMES_READ_IN.get(directory)
    if names is not None:
        return names
    top = "/".join(directory.split("/", 3)[:3])
    return _NAMES_READ_BELOW.get(top) or _NAMES_READ_BELOW.get("/".join(directory.split("/", 2)[:2]))


class Padded(NamedTuple):
    """A file that ends in zeros, which need not be stored: most of 4 KiB of configuration space."""

    head: bytes
    size: int


Directory: TypeAlias = "dict[str, Node]"
Node: TypeAlias = "bytes | Padded | str | Directory"
"""A file, a file that ends in zeros, the target of a link, or a directory."""

# Bytes charged against Limits.kept beside what sys.getsizeof tells of a name or a file: an entry of a
# directory that holds many, and an empty directory that gets its first entry (CPython 3.11).
_ENTRY_COST = 80
_DIRECTORY_COST = 240
_SHARED_LONGEST = 32
_REMEMBERED = 1024


class _Place(NamedTuple):
    """A directory of the archive: its components, and the names to keep in it (None: nothing)."""

    components: tuple[str, ...]
    names: Container[str] | None


class Collector:
    """Keeps what iommud reads of the members of one archive, as nested dictionaries in ``root``."""

    def __init__(self, limits: Limits) -> None:
        self.root: Directory = {}
        self._limits = limits
        self._left = limits.kept
        # Neighbours lie in one directory, so few places need to be remembered.
        self._places: dict[str, _Place] = {}
        self._shared: dict[bytes, bytes] = {}  # vendor IDs and such, which most functions have in common

    def add(self, member: Member, stream: TarStream) -> None:
        """Keep a member if iommud reads it. Raises ArchiveError if the archive is to be refused for it."""
        if member.kind is Kind.DIRECTORY:
            place = self._place(member.name, member.name)
            if place.names is not None:
                self._directory(place.components)
            return
        parent, slash, name = member.name.rpartition("/")
        place = self._place(parent + slash, member.name)
        if len(member.name) > self._limits.path or name in {"", ".", ".."} or not name.isprintable():
            _components(member.name, self._limits, member.name)
            raise ArchiveError("no file can have this name", path=member.name)
        if member.kind is Kind.HARD_LINK:
            self._hard_link(place, name, member)
        elif place.names is None:
            return
        elif member.kind is Kind.SYMBOLIC_LINK:
            self._charge(sys.getsizeof(member.target))
            self._put(place, name, member.target)
        elif member.kind is Kind.FILE and name in place.names:
            self._put(place, name, self._file(stream.content()))

    def _place(self, path: str, blamed: str) -> _Place:
        place = self._places.get(path)
        if place is None:
            components = _components(path, self._limits, blamed)
            place = _Place(components, _names_below_any_root(components))
            if len(self._places) == _REMEMBERED:
                self._places.clear()
            self._places[path] = place
        return place

    def _put(self, place: _Place, name: str, node: bytes | Padded | str) -> None:
        directory = self._directory(place.components)
        if isinstance(directory.get(name), dict):
            raise ArchiveError("a directory, and then something else", path="/".join((*place.components, name)))
        self._charge(_ENTRY_COST + (0 if name in _SHARED_NAMES else sys.getsizeof(name)))
        directory[_SHARED_NAMES.get(name, name)] = node

    def _directory(self, components: tuple[str, ...]) -> Directory:
        directory = self.root
        for depth, name in enumerate(components, 1):
            below = directory.get(name)
            if below is None:
                self._charge(_DIRECTORY_COST + sys.getsizeof(name))
                below = directory[name] = {}
            if not isinstance(below, dict):
                raise ArchiveError("a file or a link, and then a directory", path="/".join(components[:depth]))
            directory = below
        return directory

    def _hard_link(self, place: _Place, name: str, member: Member) -> None:
        target = _components(member.target, self._limits, member.target)
        if place.names is None or name not in place.names:
            return
        node = node_at(self.root, target)
        if node is None or isinstance(node, dict):
            problem = f"a hard link to {member.target}, which the archive does not hold"
            raise ArchiveError(problem, path=member.name)
        self._put(place, name, node)

    def _file(self, content: bytes) -> bytes | Padded:
        if len(content) <= _SHARED_LONGEST:
            shared = self._shared.get(content)
            if shared is not None:
                return shared
            if len(self._shared) < _REMEMBERED:
                self._shared[content] = content
        head = content.rstrip(b"\0")
        self._charge(sys.getsizeof(head))
        return content if len(content) - len(head) < _SHARED_LONGEST else Padded(head, len(content))

    def _charge(self, cost: int) -> None:
        self._left -= cost
        if self._left < 0:
            raise ArchiveError(f"more than {self._limits.kept >> 20} MiB to be kept in memory")


_SHARED_NAMES = {name: name for name in ATTRIBUTES}


def _components(path: str, limits: Limits, blamed: str) -> tuple[str, ...]:
    """The components of a name in an archive. Raises ArchiveError unless it stays below the root."""
    components = tuple(name for name in path.split("/") if name not in {"", "."})
    if path.startswith("/"):
        raise ArchiveError("an absolute name", path=blamed)
    if ".." in components:
        raise ArchiveError("a name with ..", path=blamed)
    if not path.isprintable():
        raise ArchiveError("a name with control characters", path=blamed)
    if len(path) > limits.path or len(components) > limits.depth:
        problem = f"a name of {len(path)} characters, {len(components)} directories deep"
        raise ArchiveError(problem, path=blamed)
    return components


def _names_below_any_root(components: tuple[str, ...]) -> Container[str] | None:
    """``names_read_in`` while it is not known yet below which directories the machine, or its sysfs, lies."""
    for depth in range(min(MACHINE_DEPTH, len(components)) + 1):
        path = "/".join(components[depth:])
        for candidate in (path, f"sys/{path}") if path else ("",):
            names = names_read_in(candidate)
            if names is not None:
                return names
    return None


def node_at(root: Directory, components: Iterable[str]) -> Node | None:
    """What lies at a path without links; None: nothing."""
    node: Node | None = root
    for name in components:
        if not isinstance(node, dict):
            return None
        node = node.get(name)
    return node
