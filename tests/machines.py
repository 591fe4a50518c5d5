# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines built in code, so that a test shows its topology: each method adds one function to a snapshot.

A function lands below the bridge that was given its bus with ``to=``, or on a root bus where no bridge has it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from iommud.address import Address
from iommud.kernel import Version, requested
from iommud.model.acs import CURRENT, AcsModel, AcsState
from iommud.model.aliases import Aliases
from iommud.model.groups import GroupingModel
from iommud.model.quirks import Quirks
from iommud.model.topology import Topology
from iommud.pci import AcsRegisters, ConfigFacts, Gap, PortType
from iommud.snapshot import PciFunction, Snapshot

ON = AcsRegisters(0x5F, 0x1D)
OFF = AcsRegisters(0x5F, 0)
EMPTY = AcsRegisters(0, 0)
PLAIN = "1234:11e8"
"""An id that no table names."""

Partition = frozenset[frozenset[Address]]


def partition(text: str) -> Partition:
    """Groups written as ``00:02.0 | 01:00.0 02:01.0``."""
    return frozenset(frozenset(map(Address.parse, part.split())) for part in text.split("|"))


def refines(finer: Iterable[frozenset[Address]], coarser: Iterable[frozenset[Address]]) -> bool:
    """Whether every group of the one lies within a group of the other."""
    home = {address: group for group in coarser for address in group}
    return all(group <= home[min(group)] for group in finer)


def _line(function: PciFunction) -> str:
    """What decides about one function, for the report of a failed test."""
    config = function.config
    found = [f"{function.address} {function.vendor:04x}:{function.device:04x}"]
    found += [f"to={function.secondary_bus:02x}"] if function.secondary_bus is not None else []
    found += [f"type={config.port_type} pcie={config.is_pcie} mf={config.multifunction_bit}"]
    found += [f"acs={config.acs.capability:02x}/{config.acs.control:02x}"] if config.acs else []
    for name in ("upstream", "physfn", "host_parent", "driver", "ari_enabled", "subsystem_device"):
        found += [f"{name}={getattr(function, name)}"] if getattr(function, name) else []
    found += [f"gap={config.gap}"] if config.gap else []
    return " ".join(found)


@dataclass(repr=False)
class Machine:
    """A machine under construction."""

    kernel: str = "6.12"
    functions: dict[Address, PciFunction] = field(default_factory=dict)
    logged: dict[Address, frozenset[int]] = field(default_factory=dict)
    """Alias devfns that the log tells of, and only the log: those of Switchtec bridges."""
    firmware: dict[Address, frozenset[int]] = field(default_factory=dict)
    """Alias devfns that IVRS gives."""
    buses: dict[tuple[int, int], Address] = field(default_factory=dict)
    hosts: dict[int, Address] = field(default_factory=dict)
    """Domains that lie inside a PCI function."""

    def __repr__(self) -> str:
        lines = [f"Linux {self.kernel}", *(_line(one) for _, one in sorted(self.functions.items()))]
        for name, masks in (("logged", self.logged), ("IVRS", self.firmware)):
            lines += [f"{one} {name} aliases {[hex(devfn) for devfn in mask]}" for one, mask in masks.items()]
        return "\n".join(lines)

    def add(
        self,
        name: str | Address,
        port_type: int | None,
        *,
        to: int | None = None,
        acs: AcsRegisters | None = None,
        mf: bool = False,
        ids: str = PLAIN,
        subsystem: str | None = None,
        mpc: int | None = None,
        **facts: Any,
    ) -> Address:
        """Add a function of which all is known; ``port_type`` None makes it conventional.

        Other facts are fields of PciFunction.
        """
        address = Address.parse(name) if isinstance(name, str) else name
        config = ConfigFacts(
            header_type=1 if to is not None else 0,
            multifunction_bit=mf,
            is_pcie=port_type is not None,
            port_type=port_type,
            acs=acs,
            acs_known=True,
            mpc=mpc,
        )
        vendor, device = (int(part, 16) for part in ids.split(":"))
        function = PciFunction(
            address=address,
            vendor=vendor,
            device=device,
            upstream=self.buses.get(address[:2]),
            host_parent=self.hosts.get(address.domain),
            secondary_bus=to,
            config=config,
        )
        if subsystem is not None:
            first, second = (int(part, 16) for part in subsystem.split(":"))
            function = replace(function, subsystem_vendor=first, subsystem_device=second)
        if to is not None:
            self.buses[address.domain, to] = address
        self.functions[address] = replace(function, **facts)
        return address

    def root_port(self, name: str, *, to: int, acs: AcsRegisters | None = None, **facts: Any) -> Address:
        return self.add(name, PortType.ROOT_PORT, to=to, acs=acs, **facts)

    def switch_upstream(self, name: str, *, to: int, **facts: Any) -> Address:
        return self.add(name, PortType.UPSTREAM_PORT, to=to, **facts)

    def switch_downstream(self, name: str, *, to: int, acs: AcsRegisters | None = None, **facts: Any) -> Address:
        return self.add(name, PortType.DOWNSTREAM_PORT, to=to, acs=acs, **facts)

    def pcie_to_pci(self, name: str, *, to: int, **facts: Any) -> Address:
        return self.add(name, PortType.PCIE_TO_PCI_BRIDGE, to=to, **facts)

    def pci_to_pcie(self, name: str, *, to: int, **facts: Any) -> Address:
        return self.add(name, PortType.PCI_TO_PCIE_BRIDGE, to=to, **facts)

    def pci_bridge(self, name: str, *, to: int, **facts: Any) -> Address:
        return self.add(name, None, to=to, **facts)

    def endpoint(self, name: str, **facts: Any) -> Address:
        return self.add(name, PortType.ENDPOINT, **facts)

    def rciep(self, name: str, **facts: Any) -> Address:
        return self.add(name, PortType.ROOT_COMPLEX_INTEGRATED_ENDPOINT, **facts)

    def conventional(self, name: str, **facts: Any) -> Address:
        return self.add(name, None, **facts)

    def vf(self, name: str | Address, *, of: str | Address, **facts: Any) -> Address:
        """A virtual function: beside its physical one in sysfs, whatever its bus number."""
        pf = Address.parse(of) if isinstance(of, str) else of
        physical = self.functions[pf]
        ids = facts.pop("ids", f"{physical.vendor:04x}:{physical.device:04x}")
        # sysfs shows the identity that the kernel keeps; the function's own config space is not looked at.
        return self.add(
            name,
            PortType.ENDPOINT,
            ids=ids,
            physfn=pf,
            upstream=physical.upstream,
            host_parent=physical.host_parent,
            config=ConfigFacts(),
            **facts,
        )

    def vmd(self, name: str, *, domain: int, ids: str = "8086:201d", **facts: Any) -> Address:
        """A function with a host bridge inside: what comes in that domain lies below it."""
        address = self.rciep(name, ids=ids, **facts)
        self.hosts[domain] = address
        return address

    def change(self, name: str | Address, **facts: Any) -> None:
        """Replace facts of a function that is there already."""
        address = Address.parse(name) if isinstance(name, str) else name
        self.functions[address] = replace(self.functions[address], **facts)

    def hide_extended(self, name: str | Address) -> None:
        """Take away what lies beyond 256 bytes of config space."""
        self._hide(name, acs=None, acs_known=False, gap=Gap.TRUNCATED)

    def hide_capabilities(self, name: str | Address) -> None:
        """Leave what is read without CAP_SYS_ADMIN: the header, and link attributes that betray PCIe."""
        address = Address.parse(name) if isinstance(name, str) else name
        self.change(address, has_link=self.functions[address].config.is_pcie)
        gone = {"is_pcie": None, "port_type": None, "acs": None, "acs_known": False, "mpc": None}
        self._hide(address, gap=Gap.RESTRICTED, **gone)

    def hide_config(self, name: str | Address) -> None:
        """Leave nothing of the config space, and no link attributes."""
        self.change(name, config=ConfigFacts(gap=Gap.NO_CONFIG), has_link=None)

    def _hide(self, name: str | Address, **facts: Any) -> None:
        address = Address.parse(name) if isinstance(name, str) else name
        config = replace(self.functions[address].config, **facts)
        self.change(address, config=config)

    @property
    def version(self) -> Version:
        return requested(self.kernel).version

    def snapshot(self) -> Snapshot:
        """The facts as a snapshot; its functions stand in the order in which they were added."""
        return Snapshot(source="built", functions=tuple(self.functions.values()))

    def topology(self) -> Topology:
        return Topology.of(self.snapshot(), Quirks.bundled(self.version))

    def acs(self, state: AcsState = CURRENT) -> AcsModel:
        return AcsModel(self.topology(), state)

    def aliases(self) -> Aliases:
        return Aliases(self.topology(), self.firmware, self.logged)

    def model(self, state: AcsState = CURRENT, never: Collection[Address] = ()) -> GroupingModel:
        """The model, told which functions rightly have no group."""
        topology = self.topology()
        aliases = Aliases(topology, self.firmware, self.logged)
        return GroupingModel(AcsModel(topology, state), aliases, lambda address: address not in never)

    def groups(self, state: AcsState = CURRENT, never: Collection[str | Address] = ()) -> Partition:
        """The expected groups, without the functions that rightly have none."""
        gone = {Address.parse(one) if isinstance(one, str) else one for one in never}
        expected = self.model(state, gone).expected()
        return frozenset(expected.restricted_to(lambda address: address not in gone))
