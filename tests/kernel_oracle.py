# SPDX-License-Identifier: GPL-2.0-or-later
"""A second opinion on groups: the kernel's procedure followed step by step, one probed function after another.

Nothing of ``iommud.model`` is used. Buses, port types, quirk tables, aliases and ACS are read again from the
snapshot and the data files, in the kernel's terms, so that one misreading does not prove itself right.
It answers only for snapshots that hold every fact it asks for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping

from iommud.address import Address
from iommud.data import data_text
from iommud.snapshot import PciFunction, Snapshot

SV, RR, CR, UF, EC = 0x01, 0x04, 0x08, 0x10, 0x20


def _table(name: str, version: tuple[int, int]) -> list[dict[str, str]]:
    lines = [line.split("\t") for line in data_text(name).splitlines() if not line.startswith("#")]
    rows = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    return [row for row in rows if _number(row["since"]) <= version < _number(row["until"], (99, 0))]


def _number(text: str, absent: tuple[int, int] = (0, 0)) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return absent if text == "-" else (int(major), int(minor))


@dataclasses.dataclass(eq=False)
class Bus:
    """``struct pci_bus``: root buses have no parent, virtual buses have a parent but no bridge."""

    parent: Bus | None
    bridge: Device | None


@dataclasses.dataclass(eq=False)
class Device:
    """``struct pci_dev`` after its fixups ran."""

    facts: PciFunction
    bus: Bus
    type: int = 0
    multifunction: bool = False
    mask: set[int] = dataclasses.field(default_factory=set)
    flags: set[str] = dataclasses.field(default_factory=set)
    real: Device | None = None
    group: int | None = None

    @property
    def address(self) -> Address:
        return self.facts.address

    @property
    def devfn(self) -> int:
        return self.address.device * 8 + self.address.function

    @property
    def pcie(self) -> bool:
        return bool(self.facts.physfn or self.facts.config.is_pcie)


class KernelOracle:
    """One kernel on one machine; ``probe`` may be called again and starts from nothing each time."""

    def __init__(
        self,
        snapshot: Snapshot,
        version: tuple[int, int],
        *,
        ivrs: bool = False,
        logged: Mapping[Address, Collection[int]] | None = None,
        ivrs_aliases: Mapping[Address, Collection[int]] | None = None,
    ) -> None:
        self.ivrs = ivrs
        self.ivrs_aliases = ivrs_aliases or {}
        self.acs_rows = _table("acs.tsv", version)
        self.alias_rows = _table("dma-alias.tsv", version)
        self.lists = _table("device-lists.tsv", version)
        self.devices = self._scan({one.address: one for one in snapshot.functions})
        for address, devfns in (logged or {}).items():
            self.devices[address].mask |= set(devfns)

    def _scan(self, facts: Mapping[Address, PciFunction]) -> dict[Address, Device]:
        """Devices in the order of the kernel's list: a bus is scanned before the buses below it."""
        waiting = sorted(facts.values(), key=lambda one: (one.physfn is not None, one.address))
        found: dict[Address, Device] = {}
        buses: dict[tuple[int, int], Bus] = {}
        while waiting:
            ready = [one for one in waiting if self._parents(one) <= found.keys()]
            assert ready, "paths run in a circle"
            for one in ready:
                bus = self._bus(one, found, buses)
                found[one.address] = self._set_up(Device(one, bus), found)
            waiting = [one for one in waiting if one.address not in found]
        return found

    @staticmethod
    def _parents(one: PciFunction) -> set[Address]:
        return {parent for parent in (one.upstream, one.physfn, one.host_parent) if parent is not None}

    @staticmethod
    def _bus(one: PciFunction, found: Mapping[Address, Device], buses: dict[tuple[int, int], Bus]) -> Bus:
        key = (one.address.domain, one.address.bus)
        if key not in buses:
            if one.physfn is not None:
                buses[key] = Bus(found[one.physfn].bus, None)
            elif one.upstream is not None:
                bridge = found[one.upstream]
                buses[key] = Bus(bridge.bus, bridge)
            else:
                buses[key] = Bus(None, None)
        return buses[key]

    def _set_up(self, dev: Device, found: Mapping[Address, Device]) -> Device:
        facts, config = dev.facts, dev.facts.config
        dev.type = 0 if facts.physfn else (config.port_type or 0)
        upstream = dev.bus.bridge
        if upstream is not None and upstream.pcie:
            wrong_down = dev.type == 6 and upstream.type in (4, 6, 8)
            wrong_up = dev.type == 5 and upstream.type == 5
            if wrong_down or wrong_up:
                dev.type = 0
        number = dev.devfn if facts.ari_enabled else facts.address.function
        dev.multifunction = not facts.physfn and (bool(config.multifunction_bit) or number > 0)
        for row in self.alias_rows:
            self._fix_up(dev, row)
        if facts.host_parent is not None:
            host = found[facts.host_parent]
            if host.facts.driver == "vmd" or self._listed("vmd", host):
                dev.real = host
        return dev

    def _fix_up(self, dev: Device, row: Mapping[str, str]) -> None:
        facts = dev.facts
        if (int(row["vendor"], 16), int(row["device"], 16)) != (facts.vendor, facts.device):
            return
        subsystem = f"{facts.subsystem_vendor or 0:04x}:{facts.subsystem_device or 0:04x}"
        if row["subsystem"] not in ("-", subsystem):
            return
        kind, _, value = row["effect"].partition("=")
        if kind != "flag":
            dev.mask |= self._fixed_mask(dev, kind, value)
        elif value != "PCIE_BRIDGE_ALIAS" or self._takes_bridge_alias(dev):
            dev.flags.add(value)

    @staticmethod
    def _fixed_mask(dev: Device, kind: str, value: str) -> set[int]:
        if kind == "function":
            return {dev.devfn & 0xF8 | int(value)} if dev.devfn & 7 != int(value) else set()
        if kind == "devfns":
            return {int(part, 16) for part in value.split(",")}
        if kind == "functions-of-every-slot":
            return {one for one in range(256) if one & 7 in (0, 4)}
        # The mask of the last kind stands in the device's memory; what the log tells of it is added later.
        return set(range(256)) if kind == "devfn-range" else set()

    @staticmethod
    def _takes_bridge_alias(dev: Device) -> bool:
        above = dev.bus.bridge
        return bool(above and dev.facts.config.header_type == 1 and not dev.pcie and above.pcie and above.type != 7)

    def _listed(self, name: str, dev: Device) -> bool:
        vendor, device = dev.facts.vendor, dev.facts.device or 0
        rows = (row for row in self.lists if row["list"] == name and int(row["vendor"], 16) == vendor)
        return any(int(row["first"], 16) <= device <= int(row["last"], 16) for row in rows)

    def acs(self, dev: Device) -> bool:
        for row in self.acs_rows:
            if int(row["vendor"], 16) == dev.facts.vendor and row["device"] in ("any", f"{dev.facts.device:04x}"):
                answer = self._quirk(row["rule"], dev)
                if answer is not None:
                    return answer
        if not dev.pcie or dev.type in (7, 8, 10):
            return False
        if dev.type in (4, 6):
            return self._flags(dev)
        if dev.type in (0, 1, 5, 9) and dev.multifunction:
            return self._flags(dev)
        return True

    def _flags(self, dev: Device) -> bool:
        acs = dev.facts.config.acs
        if acs is None:
            return False
        broken = SV if self._listed("acs-without-source-validation", dev) else 0
        needed = (SV | RR | CR | UF) & ((acs.capability & ~broken) | EC)
        return needed & ~acs.control == 0

    def _quirk(self, rule: str, dev: Device) -> bool | None:
        """True, false, or None: the row does not apply."""
        if rule in ("always", "mf-endpoint"):
            return True
        if rule == "amd-sb":
            return True if dev.multifunction and dev.bus.parent is None and self.ivrs else None
        if rule == "wangxun-nic":
            return self._listed("wangxun-nic", dev)
        if rule == "intel-rciep":
            return True if dev.pcie and dev.type == 9 else None
        if rule == "zhaoxin-ports":
            return self._listed("zhaoxin-port", dev) if dev.pcie and dev.type in (4, 6) else None
        if not dev.pcie or dev.type != 4:
            return None
        return self._root_port_quirk(rule, dev)

    def _root_port_quirk(self, rule: str, dev: Device) -> bool | None:
        if rule == "root-port-only":
            return True
        if rule == "cavium-rp":
            return True if self._listed("cavium-root-port", dev) else None
        if rule == "intel-pch":
            if not self._listed("intel-pch-root-port", dev):
                return None
            assert dev.facts.config.mpc is not None
            return bool(dev.facts.config.mpc >> 26 & 1)
        assert rule == "intel-spt-pch", rule
        acs = dev.facts.config.acs
        if acs is None or not self._listed("intel-spt-pch-root-port", dev):
            return None
        return (SV | RR | CR | UF) & (acs.capability | EC) & ~acs.control == 0

    def path(self, bridge: Device | None) -> bool:
        while bridge is not None:
            if not self.acs(bridge):
                return False
            bridge = self._bridge_above(bridge.bus)
        return True

    @staticmethod
    def _bridge_above(bus: Bus | None) -> Device | None:
        while bus is not None and bus.bridge is None:
            bus = bus.parent
        return None if bus is None else bus.bridge

    def walk(self, dev: Device, call: Callable[[Device, tuple[int, int, int]], bool]) -> bool:
        """Call back with each device that takes an alias, and the alias, until a call says to stop."""
        first = dev.real or dev
        domain, number = first.address.domain, first.address.bus
        if call(first, (domain, number, first.devfn)):
            return True
        for devfn in sorted(first.mask):
            if call(first, (domain, number, devfn)):
                return True
        bridge = self._bridge_above(first.bus)
        while bridge is not None:
            if "BRIDGE_XLATE_ROOT" in bridge.flags:
                return False
            alias = self._alias_of(bridge)
            if alias is not None and call(bridge, alias):
                return True
            bridge = self._bridge_above(bridge.bus)
        return False

    @staticmethod
    def _alias_of(bridge: Device) -> tuple[int, int, int] | None:
        domain, bus = bridge.address.domain, bridge.address.bus
        below = (domain, bridge.facts.secondary_bus or 0, 0)
        if not bridge.pcie:
            return below if "PCIE_BRIDGE_ALIAS" in bridge.flags else (domain, bus, bridge.devfn)
        if bridge.type == 7:
            return None if "PCI_BRIDGE_NO_ALIAS" in bridge.flags else below
        return (domain, bus, bridge.devfn) if bridge.type == 8 else None

    def requester_ids(self, address: Address) -> list[tuple[Address, tuple[int, int, int]]]:
        found: list[tuple[Address, tuple[int, int, int]]] = []

        def note(dev: Device, alias: tuple[int, int, int]) -> bool:
            found.append((dev.address, alias))
            return False

        self.walk(self.devices[address], note)
        return found

    @staticmethod
    def aliases(one: Device, other: Device) -> bool:
        in_masks = other.devfn in one.mask or one.devfn in other.mask
        return in_masks or one.real is other or other.real is one

    def probe(self, order: Iterable[Address]) -> frozenset[frozenset[Address]]:
        """The groups after these functions were probed in this order; others stay without a group."""
        fixed = {address: set(dev.mask) for address, dev in self.devices.items()}
        groups: dict[int, set[Address]] = {}
        for address in order:
            dev = self.devices[address]
            # The driver copies the alias from its table when it meets the device, not before.
            dev.mask |= set(self.ivrs_aliases.get(address, ()))
            found = self._device_group(dev)
            dev.group = len(groups) if found is None else found
            groups.setdefault(dev.group, set()).add(address)
        for address, dev in self.devices.items():
            dev.group, dev.mask = None, fixed[address]
        return frozenset(map(frozenset, groups.values()))

    def _device_group(self, dev: Device) -> int | None:
        last = dev

        def has_group(taker: Device, _alias: tuple[int, int, int]) -> bool:
            nonlocal last
            last = taker
            return taker.group is not None

        if self.walk(dev, has_group):
            return last.group
        bridge = self._bridge_above(last.bus)
        while bridge is not None and not self.path(bridge):
            last = bridge
            if last.group is not None:
                return last.group
            bridge = self._bridge_above(last.bus)
        visited: set[int] = set()
        found = self._alias_search(last, visited)
        return self._function_search(last, visited) if found is None else found

    def _alias_search(self, dev: Device, visited: set[int]) -> int | None:
        if dev.devfn in visited:
            return None
        visited.add(dev.devfn)
        if dev.group is not None:
            return dev.group
        for other in self.devices.values():
            if other is dev or other.bus is not dev.bus or not self.aliases(dev, other):
                continue
            for search in (self._alias_search, self._function_search):
                found = search(other, visited)
                if found is not None:
                    return found
        return None

    def _function_search(self, dev: Device, visited: set[int]) -> int | None:
        if not dev.multifunction or self.acs(dev):
            return None
        for other in self.devices.values():
            same_slot = other.bus is dev.bus and other.devfn >> 3 == dev.devfn >> 3
            if other is dev or not same_slot or self.acs(other):
                continue
            found = self._alias_search(other, visited)
            if found is not None:
                return found
        return None
