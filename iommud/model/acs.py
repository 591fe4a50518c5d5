# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether Access Control Services isolate a function: ``pci_acs_enabled()`` and ``pci_acs_path_enabled()``."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from iommud.address import Address
from iommud.model.quirks import AcsRow, AcsRule, DeviceList
from iommud.model.topology import Topology
from iommud.pci import ACS_EC, ACS_SV, REQUIRED_ACS, AcsRegisters, Gap, PortType
from iommud.snapshot import PciFunction

MPC_ACS_BIT = 1 << 26
"""IRBNCE: set in the MPC register when the kernel switches PCH isolation on (``INTEL_MPC_REG_IRBNCE``)."""


class AcsBasis(enum.Enum):
    """What decided a verdict."""

    QUIRK = "device table"
    NOT_PCIE = "conventional PCI"
    PORT_TYPE = "port type"
    FLAGS = "ACS flags"
    NO_CAPABILITY = "no ACS capability"
    LONE_FUNCTION = "single function"
    OVERRIDE = "pcie_acs_override"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class AcsVerdict:
    """Whether a function is isolated, and what decided it. ``isolated`` None: the snapshot cannot tell."""

    isolated: bool | None
    basis: AcsBasis
    row: AcsRow | None = None
    gap: Gap | None = None


class Override(enum.StrEnum):
    """Tokens of the out-of-tree ``pcie_acs_override=`` parameter that name kinds of ports."""

    DOWNSTREAM = "downstream"
    MULTIFUNCTION = "multifunction"


@dataclass(frozen=True, slots=True, kw_only=True)
class AcsState:
    """Which state of the ACS registers to judge by, and what to take for facts that are missing."""

    unknown: bool | None = None
    """What an undecidable verdict counts as: True gives the finest closure, False the coarsest."""
    control_cleared: bool = False
    """Judge as if no ACS control bit were set: the state before the kernel switches ACS on."""
    ivrs_present: bool | None = None
    """Whether the machine has an IVRS table, which one device rule asks for."""
    override: frozenset[Override] = frozenset()
    override_ids: frozenset[tuple[int, int]] = frozenset()
    """Vendor and device ids that ``pcie_acs_override=id:vvvv:dddd`` names."""


CURRENT = AcsState()

_ALONE_OR_FLAGS = frozenset(
    {
        PortType.ENDPOINT,
        PortType.LEGACY_ENDPOINT,
        PortType.UPSTREAM_PORT,
        PortType.ROOT_COMPLEX_INTEGRATED_ENDPOINT,
    }
)
_NEVER = frozenset({PortType.PCIE_TO_PCI_BRIDGE, PortType.PCI_TO_PCIE_BRIDGE, PortType.EVENT_COLLECTOR})
_ALWAYS_FLAGS = frozenset({PortType.ROOT_PORT, PortType.DOWNSTREAM_PORT})


@dataclass(frozen=True, slots=True)
class AcsModel:
    """Verdicts for the functions of one topology in one state of the registers; each is computed once."""

    topology: Topology
    state: AcsState = CURRENT
    _verdicts: dict[Address, AcsVerdict] = field(default_factory=dict)
    _paths: dict[Address, bool] = field(default_factory=dict)
    unknown: set[Address] = field(default_factory=set)
    """Functions of which something was asked that the snapshot does not tell."""

    def verdict(self, function: PciFunction) -> AcsVerdict:
        """The verdict of ``pci_acs_enabled(dev, REQ_ACS_FLAGS)`` with its basis."""
        found = self._verdicts.get(function.address)
        if found is None:
            found = self._judge(function)
            self._verdicts[function.address] = found
        return found

    def isolated(self, function: PciFunction) -> bool:
        """The verdict as a decision: an unknown one counts as the state says (False if it says nothing)."""
        isolated = self.verdict(function).isolated
        if isolated is None:
            self.unknown.add(function.address)
            return bool(self.state.unknown)
        return isolated

    def multifunction(self, function: PciFunction) -> bool:
        """``pdev->multifunction``; unknown counts as the opposite of what unknown isolation counts as."""
        known = self.topology.multifunction(function)
        if known is None:
            self.unknown.add(function.address)
            return not self.state.unknown
        return known

    def path_isolated(self, bridge: PciFunction) -> bool:
        """``pci_acs_path_enabled()`` from a bridge to the root bus."""
        known = self._paths.get(bridge.address)
        if known is not None:
            return known
        for one in reversed((bridge, *self.topology.above(bridge))):
            above = self.topology.above(one)
            # A circle in a contradictory snapshot never reaches the root: nothing there is isolated.
            clear = not above or self._paths.get(above[0].address, False)
            self._paths[one.address] = clear and self.isolated(one)
        return self._paths[bridge.address]

    def blocker(self, bridge: PciFunction) -> PciFunction | None:
        """The nearest bridge, from this one up to the root, that is not isolated; None if the path is."""
        for one in (bridge, *self.topology.above(bridge)):
            if not self.isolated(one):
                return one
        return None

    def _judge(self, function: PciFunction) -> AcsVerdict:
        verdict = self._by_device_table(function)
        if verdict is None:
            verdict = self._by_port_type(function)
        if verdict.basis is AcsBasis.NO_CAPABILITY and self._overridden(function):
            return AcsVerdict(True, AcsBasis.OVERRIDE)
        return verdict

    def _by_device_table(self, function: PciFunction) -> AcsVerdict | None:
        """``pci_dev_specific_acs_enabled()``: the first row that applies decides."""
        if function.vendor is None or function.device is None:
            return AcsVerdict(None, AcsBasis.UNKNOWN, gap=Gap.NO_CONFIG)
        for row in self.topology.quirks.acs_rows(function.vendor, function.device):
            outcome = _outcome(self, function, row.rule)
            if outcome is _Outcome.UNKNOWN:
                return AcsVerdict(None, AcsBasis.UNKNOWN, row, function.config.gap)
            if outcome is not _Outcome.NOT_APPLICABLE:
                return AcsVerdict(outcome is _Outcome.ISOLATED, AcsBasis.QUIRK, row)
        return None

    def _by_port_type(self, function: PciFunction) -> AcsVerdict:
        """The switch of ``pci_acs_enabled()``, drivers/pci/pci.c."""
        is_pcie = self.topology.is_pcie(function)
        if is_pcie is False:
            # Conventional PCI has no notion of isolation; "this can hardly be enabled" in the kernel's terms.
            return AcsVerdict(False, AcsBasis.NOT_PCIE)
        port_type = self.topology.port_type(function)
        if is_pcie is None or port_type is None:
            return AcsVerdict(None, AcsBasis.UNKNOWN, gap=function.config.gap)
        if port_type in _NEVER:
            # PCIe r3.1, sec 6.12.1: ACS is not applicable to bridges and event collectors.
            return AcsVerdict(False, AcsBasis.PORT_TYPE)
        if port_type in _ALWAYS_FLAGS:
            return self._port_flags(function)
        if port_type in _ALONE_OR_FLAGS:
            # PCIe r3.1, sec 6.12.1.2 and 6.12.1.3: ACS concerns the functions of a multi-function device.
            return self._alone_or_flags(function)
        return AcsVerdict(True, AcsBasis.PORT_TYPE)

    def _port_flags(self, function: PciFunction) -> AcsVerdict:
        """The flag test of a root or downstream port (PCIe r3.1, sec 6.12.1.1).

        Below a bridge of unknown type a downstream port may have been "corrected" into an endpoint, which
        passes without flags where it is a single function.
        """
        verdict = self._flags(function)
        if function.address not in self.topology.doubtful or verdict.isolated or self.topology.multifunction(function):
            return verdict
        return AcsVerdict(None, AcsBasis.UNKNOWN, gap=self.topology.above(function)[0].config.gap)

    def _alone_or_flags(self, function: PciFunction) -> AcsVerdict:
        multifunction = self.topology.multifunction(function)
        if multifunction is False:
            return AcsVerdict(True, AcsBasis.LONE_FUNCTION)
        verdict = self._flags(function)
        if multifunction is None and not verdict.isolated:
            return AcsVerdict(None, AcsBasis.UNKNOWN, gap=function.config.gap)
        return verdict

    def _flags(self, function: PciFunction) -> AcsVerdict:
        """``pci_acs_flags_enabled()``."""
        config = function.config
        if not config.acs_known:
            return AcsVerdict(None, AcsBasis.UNKNOWN, gap=config.gap)
        if config.acs is None:
            return AcsVerdict(False, AcsBasis.NO_CAPABILITY)
        control = 0 if self.state.control_cleared else config.acs.control
        return AcsVerdict(self._flags_set(function, config.acs, control), AcsBasis.FLAGS)

    def _flags_set(self, function: PciFunction, acs: AcsRegisters, control: int) -> bool:
        needed = self.needed_flags(function, acs)
        return control & needed == needed

    def needed_flags(self, function: PciFunction, acs: AcsRegisters) -> int:
        """The flags that must be set: the required ones that the capability implements.

        A flag missing from the Capability register is hard-wired to the safe behaviour, Egress Control excepted:
        ``pci_acs_flags_enabled()``, drivers/pci/pci.c.
        """
        capability = acs.capability
        if _listed(self, function, DeviceList.ACS_WITHOUT_SOURCE_VALIDATION):
            capability &= ~ACS_SV
        return REQUIRED_ACS & (capability | ACS_EC)

    def _overridden(self, function: PciFunction) -> bool:
        """What the out-of-tree override grants to a PCIe function without an ACS capability."""
        if (function.vendor, function.device) in self.state.override_ids:
            return True
        port_type = self.topology.port_type(function)
        if port_type in _ALWAYS_FLAGS:
            return Override.DOWNSTREAM in self.state.override
        return (
            port_type in _ALONE_OR_FLAGS
            and Override.MULTIFUNCTION in self.state.override
            and self.topology.multifunction(function) is True
        )


class _Outcome(enum.Enum):
    ISOLATED = enum.auto()
    NOT_ISOLATED = enum.auto()
    NOT_APPLICABLE = enum.auto()
    UNKNOWN = enum.auto()


def _always(_model: AcsModel, _function: PciFunction) -> _Outcome:
    return _Outcome.ISOLATED


def _amd_sb(model: AcsModel, function: PciFunction) -> _Outcome:
    """``pci_quirk_amd_sb_acs()``: multifunction, on the root bus, and the machine has an IVRS table."""
    if not model.topology.on_root_bus(function):
        return _Outcome.NOT_APPLICABLE
    multifunction = model.topology.multifunction(function)
    if multifunction is False or model.state.ivrs_present is False:
        return _Outcome.NOT_APPLICABLE
    if multifunction is None or model.state.ivrs_present is None:
        return _Outcome.UNKNOWN
    return _Outcome.ISOLATED


def _listed(model: AcsModel, function: PciFunction, name: DeviceList) -> bool:
    return model.topology.quirks.listed(name, function.vendor, function.device)


def _cavium(model: AcsModel, function: PciFunction) -> _Outcome:
    """``pci_quirk_cavium_acs()``."""
    if _listed(model, function, DeviceList.CAVIUM_ROOT_PORT):
        return _Outcome.ISOLATED
    return _Outcome.NOT_APPLICABLE


def _intel_pch(model: AcsModel, function: PciFunction) -> _Outcome:
    """``pci_quirk_intel_pch_acs()``: isolated where the kernel switched the chipset's own feature on.

    The kernel remembers that in a flag; what can be seen from outside is the bit it sets in the port.
    """
    if not _listed(model, function, DeviceList.INTEL_PCH_ROOT_PORT):
        return _Outcome.NOT_APPLICABLE
    if function.config.mpc is None:
        return _Outcome.UNKNOWN
    enabled = function.config.mpc & MPC_ACS_BIT and not model.state.control_cleared
    return _Outcome.ISOLATED if enabled else _Outcome.NOT_ISOLATED


def _intel_spt_pch(model: AcsModel, function: PciFunction) -> _Outcome:
    """``pci_quirk_intel_spt_pch_acs()``: standard rule on registers that are dwords."""
    if not _listed(model, function, DeviceList.INTEL_SPT_PCH_ROOT_PORT):
        return _Outcome.NOT_APPLICABLE
    config = function.config
    if not config.acs_known:
        return _Outcome.UNKNOWN
    if config.acs is None:
        return _Outcome.NOT_APPLICABLE
    needed = REQUIRED_ACS & (config.acs.capability | ACS_EC)
    control = 0 if model.state.control_cleared else config.acs.control
    return _Outcome.ISOLATED if control & needed == needed else _Outcome.NOT_ISOLATED


def _zhaoxin(model: AcsModel, function: PciFunction) -> _Outcome:
    """``pci_quirk_zhaoxin_pcie_ports_acs()``: a port off the list is not isolated, whatever its ACS says."""
    if _listed(model, function, DeviceList.ZHAOXIN_PORT):
        return _Outcome.ISOLATED
    return _Outcome.NOT_ISOLATED


def _wangxun(model: AcsModel, function: PciFunction) -> _Outcome:
    """``pci_quirk_wangxun_nic_acs()``: a device off the list is not isolated, virtual functions included."""
    if _listed(model, function, DeviceList.WANGXUN_NIC):
        return _Outcome.ISOLATED
    return _Outcome.NOT_ISOLATED


_ROOT_PORTS = frozenset({PortType.ROOT_PORT})
_INTEGRATED = frozenset({PortType.ROOT_COMPLEX_INTEGRATED_ENDPOINT})

_RULES: Mapping[AcsRule, Callable[[AcsModel, PciFunction], _Outcome]] = {
    AcsRule.ALWAYS: _always,
    AcsRule.MF_ENDPOINT: _always,
    AcsRule.AMD_SB: _amd_sb,
    AcsRule.INTEL_RCIEP: _always,
    AcsRule.ROOT_PORT_ONLY: _always,
    AcsRule.CAVIUM_RP: _cavium,
    AcsRule.INTEL_PCH: _intel_pch,
    AcsRule.INTEL_SPT_PCH: _intel_spt_pch,
    AcsRule.ZHAOXIN_PORTS: _zhaoxin,
    AcsRule.WANGXUN_NIC: _wangxun,
}
# The rules that apply to PCIe functions of certain port types only; the others ask for no type.
_RULE_TYPES: Mapping[AcsRule, frozenset[PortType]] = {
    AcsRule.INTEL_RCIEP: _INTEGRATED,
    AcsRule.ROOT_PORT_ONLY: _ROOT_PORTS,
    AcsRule.CAVIUM_RP: _ROOT_PORTS,
    AcsRule.INTEL_PCH: _ROOT_PORTS,
    AcsRule.INTEL_SPT_PCH: _ROOT_PORTS,
    AcsRule.ZHAOXIN_PORTS: _ALWAYS_FLAGS,
}


def _outcome(model: AcsModel, function: PciFunction, rule: AcsRule) -> _Outcome:
    """What the rule of a matching row answers; not applicable where the port type is none of the rule's."""
    port_types = _RULE_TYPES.get(rule)
    if port_types is None:
        return _RULES[rule](model, function)
    if model.topology.is_pcie(function) is False:
        return _Outcome.NOT_APPLICABLE
    port_type = model.topology.port_type(function)
    if port_type is None or (port_type in port_types and function.address in model.topology.doubtful):
        return _Outcome.UNKNOWN
    return _RULES[rule](model, function) if port_type in port_types else _Outcome.NOT_APPLICABLE
