# SPDX-License-Identifier: GPL-2.0-or-later
"""What a person has to do for changes: words for the kernel command line, releases, hands on hardware."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from iommud.kernel import Kernel
from iommud.whatif.changes import BootKernel, Change, Move, OverrideAcs, SwitchAcs
from iommud.whatif.parameters import pci_options

_ON = "111x1"
"""UF, CR, RR and SV on, TB as it is: the flags of pci=config_acs= from the right."""


def steps(changes: Sequence[Change], cmdline: str | None) -> tuple[str, ...]:
    """Sentences and parameters, in the order in which they are done; ``cmdline`` is the kernel's as it is."""
    return (*_kernels(changes), *_parameters(changes, cmdline or ""), *_moves(changes))


def _kernels(changes: Sequence[Change]) -> Iterator[str]:
    for change in changes:
        if isinstance(change, BootKernel):
            yield f"run Linux {_release(change.kernel)} or later"


def _release(kernel: Kernel) -> str:
    return ".".join(str(number) for number in kernel.version)


def _parameters(changes: Sequence[Change], cmdline: str) -> Iterator[str]:
    ports = [str(one.address) for one in changes if isinstance(one, SwitchAcs) and one.address is not None]
    if ports:
        there = [f"{option}={value}" for option, value in pci_options(cmdline) if option in _REPLACED]
        for option in there:
            yield f"take pci={option} off the kernel command line"
        yield f"add to the kernel command line: pci=config_acs={';'.join(f'{_ON}@{port}' for port in ports)}"
    for change in changes:
        if isinstance(change, OverrideAcs):
            yield f"add to the command line of a kernel with the pcie_acs_override patch: {change.parameter}"


_REPLACED = ("config_acs", "disable_acs_redir")


def _moves(changes: Sequence[Change]) -> Iterator[str]:
    for change in changes:
        if isinstance(change, Move):
            yield _move(change)


def _move(change: Move) -> str:
    if change.slot.below is None:
        return f"have the hypervisor put the device at {change.address} on the root bus, for instance at {change.slot}"
    return f"put the device at {change.address} into a slot below {change.slot}"
