# SPDX-License-Identifier: GPL-2.0-or-later
"""Why: ties, ACS verdicts and missing bytes as sentences with the register values that decided them."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from iommud.address import Address
from iommud.model.acs import AcsBasis, AcsModel, AcsVerdict
from iommud.model.groups import GroupingModel, Rule, Tie
from iommud.model.quirks import AcsRule
from iommud.model.topology import Topology
from iommud.pci import Gap, PortType, acs_names
from iommud.snapshot import PciFunction
from iommud.verdict.findings import Reason

PORT_TYPE_NAMES: Mapping[int, str] = {
    PortType.ENDPOINT: "endpoint",
    PortType.LEGACY_ENDPOINT: "legacy endpoint",
    PortType.ROOT_PORT: "root port",
    PortType.UPSTREAM_PORT: "switch upstream port",
    PortType.DOWNSTREAM_PORT: "switch downstream port",
    PortType.PCIE_TO_PCI_BRIDGE: "PCIe-to-PCI bridge",
    PortType.PCI_TO_PCIE_BRIDGE: "PCI-to-PCIe bridge",
    PortType.ROOT_COMPLEX_INTEGRATED_ENDPOINT: "root complex integrated endpoint",
    PortType.EVENT_COLLECTOR: "root complex event collector",
}

GAP_TEXTS: Mapping[Gap, str] = {
    Gap.NO_CONFIG: "its config space is not in this snapshot",
    Gap.ASLEEP: "it sleeps, and reading would wake it",
    Gap.RESTRICTED: "only the first 64 bytes of its config space could be read",
    Gap.TRUNCATED: "its config space ends before the bytes needed",
    Gap.ALL_ONES: "it did not answer: config space reads as all ones",
    Gap.VANISHED: "it disappeared while it was read",
}

REMEDIES: Mapping[Gap, str] = {
    Gap.NO_CONFIG: "take a capture that holds the config attributes",
    Gap.ASLEEP: "run again with --wake, or while the device is in use",
    Gap.RESTRICTED: "run as root (CAP_SYS_ADMIN)",
    Gap.TRUNCATED: "take the capture again, as root",
    Gap.ALL_ONES: "check that the device is present and powered",
    Gap.VANISHED: "run again",
}


def describe_type(acs: AcsModel, function: PciFunction) -> str:
    """What kind of function it is, in the specification's words."""
    is_pcie = acs.topology.is_pcie(function)
    if is_pcie is False:
        return "conventional PCI bridge" if function.is_bridge else "conventional PCI function"
    if function.is_virtual:
        return "virtual function"
    port_type = acs.topology.port_type(function)
    if port_type is None:
        if is_pcie is None and not function.is_bridge:
            return "PCI function"
        return "bridge of unknown type" if function.is_bridge else "PCIe function"
    return PORT_TYPE_NAMES.get(port_type, f"port of type {port_type}")


def acs_text(acs: AcsModel, function: PciFunction, verdict: AcsVerdict | None = None) -> str:
    """Why a function is isolated or not, with its register values."""
    verdict = verdict or acs.verdict(function)
    word = {True: "isolated", False: "not isolated", None: "isolation unknown"}[verdict.isolated]
    return f"{word}: {_basis_text(acs, function, verdict)}{_gated_text(acs, function, verdict)}"


def _basis_text(acs: AcsModel, function: PciFunction, verdict: AcsVerdict) -> str:
    if verdict.basis is AcsBasis.FLAGS:
        return _flags_text(acs, function)
    if verdict.basis is AcsBasis.QUIRK and verdict.row is not None:
        return _quirk_text(function, verdict)
    if verdict.basis is AcsBasis.UNKNOWN:
        return GAP_TEXTS[verdict.gap] if verdict.gap else "its type or registers are not known"
    kind = describe_type(acs, function)
    return {
        AcsBasis.NOT_PCIE: f"{kind}, which has no ACS",
        AcsBasis.PORT_TYPE: f"{kind}, to which ACS does not apply",
        AcsBasis.NO_CAPABILITY: f"{kind} without an ACS capability",
        AcsBasis.LONE_FUNCTION: f"{kind}, the only function of its device",
        AcsBasis.OVERRIDE: "pcie_acs_override on the command line vouches for it",
    }[verdict.basis]


def _flags_text(acs: AcsModel, function: PciFunction) -> str:
    registers = function.config.acs
    if registers is None:  # pragma: no cover - a verdict by flags has flags
        return "ACS"
    needed = acs.needed_flags(function, registers)
    control = 0 if acs.state.control_cleared else registers.control
    values = f"ACS capability 0x{registers.capability:04x}, control 0x{control:04x}"
    if not needed:
        return f"{values}: it implements no flag that must be set"
    missing = needed & ~control
    return f"{values} lacks {acs_names(missing)}" if missing else f"{values} has all of {acs_names(needed)}"


def _quirk_text(function: PciFunction, verdict: AcsVerdict) -> str:
    row = verdict.row
    source = row.source if row else ""
    text = f"the kernel's device table says so ({source})"
    if row and row.rule is AcsRule.INTEL_PCH and function.config.mpc is not None:
        return f"{text}, MPC register 0x{function.config.mpc:08x}"
    if row and row.rule is AcsRule.INTEL_SPT_PCH and function.config.acs is not None:
        registers = function.config.acs
        return f"{text}, ACS capability 0x{registers.capability:08x}, control 0x{registers.control:08x}"
    return text


def _gated_text(acs: AcsModel, function: PciFunction, verdict: AcsVerdict) -> str:
    devices = {(function.vendor, function.device)}
    if verdict.row is not None:
        devices.add((verdict.row.vendor, verdict.row.device))
    return gated_text(acs.topology, devices)


def gated_text(topology: Topology, devices: AbstractSet[tuple[int | None, int | None]]) -> str:
    """What to add to a verdict on devices that other kernels, of the same series even, may judge otherwise."""
    if devices.isdisjoint(topology.quirks.gated):
        return ""
    major, minor = topology.quirks.version
    return f" (by the device tables of {major}.{minor}; stable releases differ here)"


@dataclass(frozen=True, slots=True)
class Explainer:
    """Turns the ties of one grouping into reasons, and finds the chain of ties between two functions."""

    model: GroupingModel
    ties: tuple[Tie, ...]
    _neighbours: dict[Address, list[Tie]] = field(default_factory=dict)

    def reason(self, tie: Tie) -> Reason:
        """The sentence for one tie."""
        return _SENTENCES[tie.rule](self.model, tie)

    def chain(self, start: Address, goals: Container[Address]) -> tuple[Tie, ...] | None:
        """A shortest chain of ties from one function to any of the others; None if nothing joins them."""
        came: dict[Address, Tie | None] = {start: None}
        reached = next((here for here in self._walk(start, came) if here in goals), None)
        return None if reached is None else self._back(reached, came)

    def chains(self, start: Address, places: Mapping[Address, int]) -> Mapping[int, tuple[Tie, ...]]:
        """A shortest chain from one function into each place that ties join it to, its own place among them."""
        came: dict[Address, Tie | None] = {start: None}
        first: dict[int, Address] = {}
        for here in self._walk(start, came):
            if here in places:
                first.setdefault(places[here], here)
        return {place: self._back(reached, came) for place, reached in first.items()}

    def _walk(self, start: Address, came: dict[Address, Tie | None]) -> Iterator[Address]:
        """What ties join to a function, nearest first; ``came`` gets the tie by which each was reached."""
        waiting = deque([start])
        while waiting:
            here = waiting.popleft()
            yield here
            for tie in self._ties_at(here):
                there = tie.other if tie.one == here else tie.one
                if there not in came:
                    came[there] = tie
                    waiting.append(there)

    def _ties_at(self, address: Address) -> Sequence[Tie]:
        if not self._neighbours:
            for tie in self.ties:
                self._neighbours.setdefault(tie.one, []).append(tie)
                self._neighbours.setdefault(tie.other, []).append(tie)
        return self._neighbours.get(address, ())

    @staticmethod
    def _back(end: Address, came: Mapping[Address, Tie | None]) -> tuple[Tie, ...]:
        chain: list[Tie] = []
        here = end
        while (tie := came[here]) is not None:
            chain.append(tie)
            here = tie.other if tie.one == here else tie.one
        return tuple(reversed(chain))


def _alias_bridge(model: GroupingModel, tie: Tie) -> Reason:
    bridge = model.topology.functions[tie.other]
    requester = model.aliases.bridge_alias(bridge)
    kind = describe_type(model.acs, bridge)
    text = f"{tie.one} lies below {tie.other}, a {kind} that passes its requests on as {requester}"
    text += gated_text(model.topology, {(bridge.vendor, bridge.device)})
    return Reason(text, "pci_for_each_dma_alias(); PCIe to PCI/PCI-X Bridge Specification r1.0, sec 2.3")


def _unprotected_path(model: GroupingModel, tie: Tie) -> Reason:
    bridge = model.topology.functions[tie.other]
    blocker = model.acs.blocker(bridge) or bridge
    where = "which is" if blocker is bridge else f"and above it {blocker.address} is"
    text = f"{tie.one} lies below {tie.other}, {where} {acs_text(model.acs, blocker)}"
    return Reason(text, "pci_acs_path_enabled(); PCIe r3.1, sec 6.12.1.1")


def _real_dma_device(_model: GroupingModel, tie: Tie) -> Reason:
    return Reason(f"requests of {tie.one} carry the requester ID of {tie.other}", "pci_real_dma_dev()")


def _dma_alias(model: GroupingModel, tie: Tie) -> Reason:
    one, other = (model.topology.functions[address] for address in (tie.one, tie.other))
    if other.address.devfn in model.aliases.mask(one):
        gated = gated_text(model.topology, {(one.vendor, one.device)})
        return Reason(f"{tie.one} also sends as {tie.other}{gated}", "pci_devs_are_dma_aliases()")
    text = f"{tie.one} may also send as {tie.other}: its aliases stand in its own memory"
    return Reason(text, "quirk_switchtec_ntb_dma_alias()")


def _multifunction(model: GroupingModel, tie: Tie) -> Reason:
    one, other = (model.topology.functions[address] for address in (tie.one, tie.other))
    text = (
        f"{tie.one} and {tie.other} are functions of one device; the first is "
        f"{acs_text(model.acs, one)}; the second is {acs_text(model.acs, other)}"
    )
    return Reason(text, "get_pci_function_alias_group(); PCIe r3.1, sec 6.12.1.2")


def _ungrouped_bridge(_model: GroupingModel, tie: Tie) -> Reason:
    text = f"no bridge above {tie.one} has a group, and the search from the last of them finds {tie.other}"
    return Reason(text, "get_pci_function_alias_group()")


_SENTENCES = {
    Rule.ALIAS_BRIDGE: _alias_bridge,
    Rule.UNPROTECTED_PATH: _unprotected_path,
    Rule.REAL_DMA_DEVICE: _real_dma_device,
    Rule.DMA_ALIAS: _dma_alias,
    Rule.MULTIFUNCTION: _multifunction,
    Rule.UNGROUPED_BRIDGE: _ungrouped_bridge,
}
