# SPDX-License-Identifier: GPL-2.0-or-later
"""Read a machine, live or captured, into a Snapshot: the only reader of sysfs and procfs.

Reading is frugal. Identity comes from ``uevent``, one file for five attributes; config space is read dword by
dword and only where the plan asks for it; nothing that sleeps is touched unless the caller insists.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache

from iommud.address import Address
from iommud.consistency import contradictions
from iommud.files import Tree
from iommud.functions import FunctionReader
from iommud.kernel import Kernel, identify
from iommud.model.quirks import Quirks
from iommud.model.topology import BusId
from iommud.pci import Gap
from iommud.plan import plan_reads
from iommud.power import Sleep
from iommud.snapshot import Complaint, Contradiction, IommuGroup, PciFunction, Snapshot

DEVICES = "sys/bus/pci/devices"
_GROUPS = "sys/kernel/iommu_groups"
_IOMMUS = "sys/class/iommu"
_TABLES = "sys/firmware/acpi/tables"
_READ_TABLES = ("DMAR", "IORT", "IVRS", "VIOT")
_TABLE_LIMIT = 1 << 20
_named = lru_cache(maxsize=1 << 15)(Address.from_name)
"""Each name stands in the bus, in a group and at an IOMMU, and again in the next snapshot of a watched machine."""


def take_snapshot(
    tree: Tree,
    *,
    kernel: Kernel | None = None,
    wake: bool = False,
    thorough: bool = False,
    reader: FunctionReader | None = None,
    known_groups: Mapping[int, IommuGroup] | None = None,
) -> Snapshot:
    """Take a snapshot of a machine.

    ``kernel`` overrides the kernel found, ``wake`` reads sleeping functions too, ``thorough`` reads registers
    that people want to see although no verdict needs them. ``reader`` is another reader of functions, new and of the
    same tree. ``known_groups`` is as for ``read_groups``.
    """
    release = tree.text("proc/sys/kernel/osrelease")
    version_line = tree.text("proc/version")
    found = kernel or identify(release, version_line)
    reader = reader or FunctionReader(tree)
    sleep = Sleep(tree, reader.paths, wake=wake or reader.woken)
    functions, vanished = identities(tree, reader, sleep)
    quirks = Quirks.bundled(found.version)
    planned = plan_reads(functions, quirks, thorough=thorough)
    functions = [reader.with_config(one, planned.get(one.address), sleep) for one in functions]
    functions = _with_link_attributes(functions, reader)
    groups = read_groups(tree, known_groups)
    return Snapshot(
        source=tree.name,
        functions=tuple(functions),
        groups=groups or {},
        groups_listed=groups is not None,
        iommus=read_iommus(tree),
        kernel_release=release,
        kernel_version=version_line,
        cmdline=tree.text("proc/cmdline"),
        tables=_tables(tree),
        table_names=_table_names(tree),
        device_tree=tree.read("sys/firmware/fdt"),
        log=_log_if_needed(tree, functions, quirks),
        contradictions=vanished + contradictions(functions, groups or {}, groups_listed=groups is not None),
        config_reads=reader.config_reads,
    )


def _log_if_needed(tree: Tree, functions: list[PciFunction], quirks: Quirks) -> tuple[str, ...] | None:
    """The kernel log, where a function's aliases stand in its own memory: only the log lists them outside."""
    ids = {(one.vendor, one.device) for one in functions}
    if not any(quirks.aliases_in_memory(vendor, device) for vendor, device in ids):
        return None
    from iommud.kernel_log import read_kernel_log  # noqa: PLC0415 - few machines have such a function

    return read_kernel_log(tree)


def with_evidence(tree: Tree, snapshot: Snapshot) -> Snapshot:
    """The snapshot with what tells causes: the kernel log, and the names of the loaded modules."""
    from iommud.kernel_log import read_kernel_log  # noqa: PLC0415 - machines that are right never need it

    lines = tree.text("proc/modules")
    modules = None if lines is None else tuple(line.split(maxsplit=1)[0] for line in lines.splitlines() if line.split())
    return replace(snapshot, modules=modules, log=snapshot.log or read_kernel_log(tree))


def identities(tree: Tree, reader: FunctionReader, sleep: Sleep) -> tuple[list[PciFunction], tuple[Contradiction, ...]]:
    """All functions with their place in the hierarchy, without config space, and those that are gone by now."""
    functions: list[PciFunction] = []
    vanished: list[Contradiction] = []
    for name in tree.list(DEVICES) or ():
        address = _named(name)
        if address is None:
            continue
        function = reader.identity(address, f"{DEVICES}/{name}")
        if function is None:
            detail = "it disappeared while the machine was read"
            vanished.append(Contradiction(Complaint.CHANGED_WHILE_READ, (address,), detail))
        else:
            functions.append(function)
    functions.sort(key=lambda one: one.address)
    return _with_bus_numbers(functions, reader, sleep), tuple(vanished)


def _with_bus_numbers(functions: list[PciFunction], reader: FunctionReader, sleep: Sleep) -> list[PciFunction]:
    """Read the bus numbers of bridges, and place functions whose path is not in the snapshot by them."""
    bridges = {function.upstream for function in functions if function.upstream is not None}
    numbered = [
        reader.with_bus_numbers(one, sleep)
        if one.is_bridge or one.class_code is None or one.address in bridges
        else one
        for one in functions
    ]
    below: dict[BusId, Address] = {
        (one.address.domain, one.secondary_bus): one.address for one in numbered if one.secondary_bus
    }
    return [
        replace(one, upstream=_by_number(one, below)) if one.root is None and one.upstream is None else one
        for one in numbered
    ]


def _by_number(function: PciFunction, below: Mapping[BusId, Address]) -> Address | None:
    placed = function.address if function.physfn is None else function.physfn
    return below.get((placed.domain, placed.bus))


def _with_link_attributes(functions: list[PciFunction], reader: FunctionReader) -> list[PciFunction]:
    """Where config space was wanted and silent, tell PCIe functions by their link attributes.

    The kernel makes these for every PCIe function. A capture of another maker that has them for no function at all
    did not keep them, and one that lacks a function's config file may lack more of it: there absence says nothing.
    """
    silent = {one.address for one in functions if one.config.gap is not None and one.config.is_pcie is None}
    if not silent:
        return functions
    kept = reader.whole or any(reader.has_link(one.address) for one in functions)
    return [_told_by_links(one, reader, kept=kept) if one.address in silent else one for one in functions]


def _told_by_links(function: PciFunction, reader: FunctionReader, *, kept: bool) -> PciFunction:
    absent_tells = kept and (reader.whole or function.config.gap is not Gap.NO_CONFIG)
    return replace(function, has_link=reader.has_link(function.address) or (False if absent_tells else None))


def read_groups(tree: Tree, known: Mapping[int, IommuGroup] | None = None) -> dict[int, IommuGroup] | None:
    """The groups by number; None: the machine shows none, not even that there are none.

    A group that has the members of the ``known`` one with its number is taken for that one, and its name is not read:
    a group is named before it gets members (``vfio_noiommu_group_alloc()``, drivers/vfio/group.c).
    """
    names = tree.list(_GROUPS)
    if names is None:
        return None
    before = known or {}
    return {int(name): _group(tree, name, before.get(int(name))) for name in names if re.fullmatch(r"[0-9]{1,9}", name)}


def _group(tree: Tree, name: str, known: IommuGroup | None) -> IommuGroup:
    entries = tree.list(f"{_GROUPS}/{name}/devices") or []
    addresses = [(entry, _named(entry)) for entry in entries]
    members = tuple(sorted(address for _, address in addresses if address is not None))
    others = tuple(entry for entry, address in addresses if address is None)
    if known is not None and known.members == members and known.others == others:
        return known
    return IommuGroup(number=int(name), members=members, others=others, name=tree.text(f"{_GROUPS}/{name}/name"))


def read_iommus(tree: Tree) -> dict[str, tuple[Address, ...]] | None:
    """The functions that each IOMMU lists; None: the machine shows no IOMMUs, not even that there are none."""
    names = tree.list(_IOMMUS)
    if names is None:
        return None
    return {name: _addresses(tree.list(f"{_IOMMUS}/{name}/devices") or ()) for name in names}


def _addresses(names: Iterable[str]) -> tuple[Address, ...]:
    return tuple(sorted(found for name in names if (found := _named(name)) is not None))


def _tables(tree: Tree) -> dict[str, bytes]:
    contents = {name: tree.read(f"{_TABLES}/{name}", _TABLE_LIMIT) for name in _READ_TABLES}
    return {name: content for name, content in contents.items() if content}


def _table_names(tree: Tree) -> frozenset[str] | None:
    names = tree.list(_TABLES)
    return None if names is None else frozenset(names)
