# SPDX-License-Identifier: GPL-2.0-or-later
"""Apply changes to an imagined machine: each gives another machine, with notes on what was assumed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from iommud.address import Address
from iommud.model.acs import AcsBasis, AcsModel, AcsState
from iommud.pci import CLASS_PCI_BRIDGE, REQUIRED_ACS, AcsRegisters, PortType
from iommud.snapshot import PciFunction
from iommud.verdict.actual import ActualGroups
from iommud.verdict.reasons import GAP_TEXTS, describe_type
from iommud.verdict.survey import parse_override, survey
from iommud.whatif.changes import (
    AddParameters,
    BootKernel,
    Change,
    ImpossibleChangeError,
    Move,
    OverrideAcs,
    ProbeInOrder,
    SwitchAcs,
    TakeOut,
)
from iommud.whatif.imagined import Imagined
from iommud.whatif.kernels import acs_in_time, kernel_notes
from iommud.whatif.parameters import FLAG_OPTIONS, FlagSetting, flag_settings, pci_options
from iommud.whatif.placing import moved
from iommud.whatif.registers import configured, granted, switched
from iommud.whatif.removal import taken_out

_CLASS_EVENT_COLLECTOR = 0x0807
_WITHOUT_ACS = frozenset({PortType.PCIE_TO_PCI_BRIDGE, PortType.PCI_TO_PCIE_BRIDGE, PortType.EVENT_COLLECTOR})
_SWITCHES = frozenset({"iommu", "intel_iommu", "amd_iommu"})
_TYPE_ONLY = frozenset({"iommu.passthrough", "iommu.strict", "iommu=pt", "iommu=nopt"})
CONFIG_ACS_SINCE = (6, 11)
"""``pci=config_acs=`` exists, and both parameters start from what firmware left."""


def apply(machine: Imagined, change: Change) -> Imagined:
    """The machine with one change. Raises ImpossibleChangeError if it cannot undergo it."""
    match change:
        case SwitchAcs():
            return _switch(machine, change)
        case OverrideAcs():
            return _override(machine, change)
        case BootKernel():
            return _boot(machine, change)
        case TakeOut(address):
            return taken_out(machine, address)
        case Move(address, slot):
            return moved(machine, address, slot)
        case AddParameters(text):
            return _add_parameters(machine, text)
        case ProbeInOrder():
            return _probe(machine, change)


def apply_all(machine: Imagined, changes: Iterable[Change]) -> Imagined:
    """The machine with several changes, made in the order given. Raises as ``apply`` does."""
    for change in changes:
        machine = apply(machine, change)
    return machine


def _switch(machine: Imagined, change: SwitchAcs) -> Imagined:
    if change.address is None:
        return _switch_everywhere(machine, on=change.on)
    return _switch_one(machine, change.address, on=change.on)


def _switch_everywhere(machine: Imagined, *, on: bool) -> Imagined:
    functions = (switched(one, on=on) for one in machine.snapshot.functions)
    return machine.altered({one.address: one for one in functions})


def _switch_one(machine: Imagined, address: Address, *, on: bool) -> Imagined:
    function, topology = machine.function(address), machine.topology()
    acs = AcsModel(topology, AcsState(ivrs_present=machine.platform.ivrs_present))
    if function.is_virtual:
        raise ImpossibleChangeError(f"{address} is a virtual function, whose ACS the kernel never looks at")
    if topology.is_pcie(function) is False or topology.port_type(function) in _WITHOUT_ACS:
        raise ImpossibleChangeError(f"ACS cannot be switched at {address}: {describe_type(acs, function)}")
    known = machine.altered({address: switched(function, on=on)})
    if acs.verdict(function).basis is AcsBasis.QUIRK and function.config.mpc is None and function.config.acs is None:
        return known.noted(f"the kernel's device table decides about {address}, whatever its registers say")
    if not function.config.acs_known:
        gap = function.config.gap
        why = "it was not read" if gap is None else GAP_TEXTS[gap]
        return known.noted(f"whether {address} has an ACS capability is not known: {why}")
    if function.config.acs is not None or function.config.mpc is not None:
        return known
    if on:
        text = f"{address} has no ACS capability: computed for hardware in its place that has one"
        return machine.altered({address: granted(function)}).noted(text)
    return known.noted(f"{address} has no ACS capability, so nothing is switched off there")


def _override(machine: Imagined, change: OverrideAcs) -> Imagined:
    words = [word for word in (machine.snapshot.cmdline or "").split() if not word.startswith("pcie_acs_override=")]
    if change.tokens or change.ids:
        words.append(change.parameter)
    snapshot = replace(machine.snapshot, cmdline=" ".join(words))
    found = replace(machine, snapshot=snapshot, override=change.tokens, override_ids=change.ids)
    if not change.tokens and not change.ids:
        return found
    return found.noted(
        "pcie_acs_override isolates nothing: it makes a patched kernel believe in isolation that is not there"
    )


def _boot(machine: Imagined, change: BootKernel) -> Imagined:
    before = acs_in_time(machine.platform)
    booted = machine.surveyed(kernel=change.kernel)
    after = acs_in_time(booted.platform)
    booted = booted.noted(*kernel_notes(change.kernel))
    if booted.platform.waits_for_drivers and booted.in_use and not ActualGroups.of(machine.snapshot).members:
        booted = booted.noted("no function has a group now: that drivers would match all of them is taken for granted")
    if change.kernel.downstream is not None:
        raise ImpossibleChangeError(
            f"groups of kernel {change.kernel.text} cannot be predicted: {change.kernel.downstream}"
        )
    if after is None and before is not None:
        return booted.noted(
            f"whether kernel {change.kernel.text} asks for ACS in time cannot be told: taken as it is now"
        )
    if after is before or after is None:
        return booted
    if after:
        found = _switch_everywhere(booted, on=True).noted("this kernel asks for ACS before it makes groups")
    else:
        found = _switch_everywhere(booted, on=False).noted(
            "this kernel asks for ACS only after it made groups; firmware is taken to leave it off"
        )
    return _set_flags(found, found.snapshot.cmdline or "")


def _probe(machine: Imagined, change: ProbeInOrder) -> Imagined:
    found = replace(machine, order=change.order)
    platform = machine.platform
    if platform.by_firmware is True and not (machine.kernel.readable and machine.kernel.at_least(6, 15)):
        return found
    if platform.by_firmware is None:
        return found.noted("whether this platform lets drivers decide the order is not known")
    return found.noted("on this platform and kernel bridges always come first: another order cannot happen")


def _add_parameters(machine: Imagined, text: str) -> Imagined:
    cmdline = " ".join([*(machine.snapshot.cmdline or "").split(), *text.split()])
    found = replace(machine, snapshot=replace(machine.snapshot, cmdline=cmdline))
    names = {word.partition("=")[0] for word in text.split()}
    firmware = None if machine.in_use else machine
    if names & _SWITCHES:
        found = _switch_iommu(machine, found, cmdline, text)
    if "pcie_acs_override" in names:
        tokens, ids = parse_override(text)
        found = _override(found, OverrideAcs(tokens, ids))
    if "pcie_ports=compat" in text.split():
        found = _without_port_driver(found)
    found = _set_flags(found, cmdline if found.in_use and firmware is not None else text, firmware)
    return found.noted(*(f"no effect of {one} on groups is modelled" for one in _ineffective(text)))


def _ineffective(text: str) -> Iterable[str]:
    for word in text.split():
        name = word.partition("=")[0]
        if word in _TYPE_ONLY or name in _TYPE_ONLY:
            yield word
        elif name == "pci":
            yield from (f"pci={option}" for option, _ in pci_options(word) if option not in FLAG_OPTIONS)
        elif name not in {*_SWITCHES, "pcie_acs_override"} and word != "pcie_ports=compat":
            yield word


def _switch_iommu(old: Imagined, new: Imagined, cmdline: str, text: str) -> Imagined:
    """Whether the parameters switch the IOMMU on or off is found out on the machine without its groups."""
    bare = replace(
        old.snapshot,
        groups={},
        functions=tuple(replace(one, group=None, iommu=None) for one in old.snapshot.functions),
    )
    was = survey(bare, old.kernel)
    now = replace(new, snapshot=replace(bare, cmdline=cmdline)).surveyed()
    if not old.in_use and now.in_use:
        return _switch_everywhere(now.noted("an IOMMU in use asks for ACS wherever it exists"), on=True)
    if old.in_use and not now.in_use:
        if now.platform.usage_reason == was.usage_reason:
            raise ImpossibleChangeError(f"what {text} does cannot be told: the snapshot names no IOMMU driver")
        return replace(now, seated=frozenset())
    return replace(new, platform=survey(new.snapshot, new.kernel)) if old.in_use else new


def _without_port_driver(machine: Imagined) -> Imagined:
    """Bridges are matched by the port driver alone; where groups wait for drivers, they then have none."""
    changed = {one.address: replace(one, driver=None) for one in machine.snapshot.functions if _is_ports(one)}
    found = machine.altered(changed)
    if machine.platform.by_firmware is None:
        return found.noted("whether groups wait for drivers on this platform is not known: taken as not")
    return replace(found, unprobed=found.unprobed | changed.keys()) if machine.platform.waits_for_drivers else found


def _is_ports(function: PciFunction) -> bool:
    matched = function.class_high in (CLASS_PCI_BRIDGE, _CLASS_EVENT_COLLECTOR)
    return matched and function.driver in (None, "pcieport")


def _set_flags(machine: Imagined, words: str, firmware: Imagined | None = None) -> Imagined:
    """What ``pci=config_acs=`` and ``pci=disable_acs_redir=`` make of the registers.

    ``firmware`` is the machine with the registers as firmware left them, where that is known: while no IOMMU is in
    use, nobody else has set them.
    """
    try:
        settings = flag_settings(words)
    except ValueError as error:
        raise ImpossibleChangeError(str(error)) from error
    for setting in settings:
        machine = _set_one(machine, setting, firmware)
    return machine


def _set_one(machine: Imagined, setting: FlagSetting, firmware: Imagined | None) -> Imagined:
    topology = machine.topology()
    named = [one for one in machine.snapshot.functions if setting.matches(one, topology)]
    modern = machine.kernel.at_least(*CONFIG_ACS_SINCE)
    if setting.option == "config_acs" and not modern:
        return machine.noted(f"kernel {machine.kernel} does not know pci=config_acs=, which came with 6.11")
    if not named:
        return machine.noted(f"pci={setting.option}= names {setting.device}, which is no function of this machine")
    acs = AcsModel(topology)
    left = {one.address: one.config.acs for one in (firmware.snapshot.functions if firmware and modern else ())}
    # Before 6.11 the other flags stay as the kernel has set them.
    kept = left if modern else {one.address: one.config.acs for one in named}
    changed = {one.address: _flagged(acs, one, setting, kept.get(one.address)) for one in named}
    bare = [one for one in named if one.config.acs is None]
    found = machine.altered(changed).noted(*(_why_bare(setting, one) for one in bare))
    opened = [one for one in named if one.config.acs is not None and changed[one.address].config.acs is None]
    listed = ", ".join(str(one.address) for one in opened)
    return found.noted(f"which flags firmware leaves on at {listed} is not known, and decides") if opened else found


def _why_bare(setting: FlagSetting, function: PciFunction) -> str:
    if function.config.acs_known:
        return f"pci={setting.option}= has no effect at {function.address}, which has no ACS capability"
    return f"whether {function.address} has an ACS capability that pci={setting.option}= could set is not known"


def _flagged(acs: AcsModel, function: PciFunction, setting: FlagSetting, kept: AcsRegisters | None) -> PciFunction:
    registers = function.config.acs
    if registers is None:
        return function
    on = setting.on if kept is None else setting.on | kept.control & ~setting.off
    settled = REQUIRED_ACS & ~on if kept is not None else 0
    return configured(function, acs.needed_flags(function, registers), on=on, off=setting.off | settled)
