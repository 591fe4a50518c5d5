# SPDX-License-Identifier: GPL-2.0-or-later
"""A reproduction as a command for the shell, and as values for JSON."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from iommud.address import Address
from iommud.render.json import SCHEMA_VERSION
from iommud.reproduce.parts import Architecture, Device, Omission, Reproduction

CONVENIENCES = ("-accel", "kvm", "-accel", "tcg", "-smp", "2", "-m", "2G")
"""Nothing that groups depend on."""
PROCESSOR: Mapping[Architecture, tuple[str, ...]] = {Architecture.X86_64: (), Architecture.AARCH64: ("-cpu", "max")}
"""The aarch64 board's own default has 32 bits."""
BARE = ("-nodefaults", "-no-user-config", "-display", "none", "-serial", "mon:stdio")
_WIDTH = 100
_LISTED = 6


def render_reproduction(found: Reproduction) -> str:
    """A shell script: what it stands for and what it lacks as comments, then one command, an option on each line."""
    comments = [*_head(found), *_table(found), *_missing(found), *_steps(found)]
    return "".join(f"{line}\n" for line in (*(_comment(one) for one in comments), *_command(found)))


def _comment(text: str) -> str:
    """A line that stays a comment whatever a capture or its file is called."""
    return f"# {''.join(one if one.isprintable() else '?' for one in text)}".rstrip()


def command_of(found: Reproduction) -> tuple[str, ...]:
    """The emulator with all its arguments."""
    return (found.binary, *BARE, *CONVENIENCES, *PROCESSOR[found.architecture], *found.arguments)


def _head(found: Reproduction) -> Iterator[str]:
    kernel = f"Linux {found.kernel}, " if found.kernel else ""
    yield f"{found.source}: {kernel}{found.functions} functions, {len(found.addresses)} of them carried over"
    yield f"for QEMU {_version(found)}; {_iommu(found)}"
    yield "save it as a script, and call it with -kernel, -initrd and -append, or with a disk"
    if found.architecture is Architecture.AARCH64 and not found.device_tree:
        yield "ACPI on aarch64 needs UEFI: add -bios QEMU_EFI.fd"
    if found.parameters:
        yield f"on the kernel command line: {' '.join(found.parameters)}"
    yield ""


def _iommu(found: Reproduction) -> str:
    return "no IOMMU" if found.iommu == "none" else f"{found.iommu} IOMMU"


def _version(found: Reproduction) -> str:
    return ".".join(str(number) for number in found.qemu)


def _table(found: Reproduction) -> Iterator[str]:
    yield f"{'captured':<14}{'guest':<14}{'model':<20}stands for"
    for one in found.devices:
        if one.address is not None:
            captured = "-" if one.captured is None else str(one.captured)
            same = " (the same)" if one.exact else ""
            yield f"{captured:<14}{one.address!s:<14}{one.model:<20}{one.about}{same}"
    taken = {one.captured for one in found.devices}
    for captured_at, guest in found.addresses.items():
        if captured_at not in taken:
            yield f"{captured_at!s:<14}{guest!s:<14}{'virtual function':<20}enabled after boot, see below"
    yield ""


def _missing(found: Reproduction) -> Iterator[str]:
    if not found.omissions:
        return
    yield "not carried over:"
    for one in found.omissions:
        yield from textwrap.wrap(f"- {one.kind}: {_sentence(one)}", _WIDTH, subsequent_indent="  ")
    yield ""


def _sentence(omission: Omission) -> str:
    if not omission.functions:
        return omission.text
    more = len(omission.functions) - _LISTED
    listed = ", ".join(str(one) for one in omission.functions[:_LISTED])
    return f"{listed}{f' and {more} more' if more > 0 else ''}: {omission.text}"


def _steps(found: Reproduction) -> Iterator[str]:
    commands = steps_after_boot(found)
    if commands:
        yield "in the guest, once the driver is bound:"
        yield from (f"  {one}" for one in commands)
        yield ""


def steps_after_boot(found: Reproduction) -> tuple[str, ...]:
    """Commands for the guest: virtual functions are enabled there."""
    return tuple(
        f"echo {count} >/sys/bus/pci/devices/{address}/sriov_numvfs"
        for address, count in found.virtual_functions.items()
    )


def _command(found: Reproduction) -> Iterator[str]:
    yield f"{found.binary} \\"
    for option in _options(command_of(found)[1:]):
        yield f"  {option} \\"
    yield '  "$@"'


def _options(arguments: Iterable[str]) -> Iterator[str]:
    """Options with their values; none of them has more than one."""
    line: list[str] = []
    for word in arguments:
        if word.startswith("-") and line:
            yield " ".join(line)
            line = []
        line.append(shlex.quote(word))
    yield " ".join(line)


def reproduction_data(found: Reproduction) -> dict[str, Any]:
    """Everything as plain values."""
    return {
        "schema_version": SCHEMA_VERSION,
        "source": found.source,
        "kernel": found.kernel,
        "qemu": _version(found),
        "architecture": found.architecture.value,
        "firmware": "device-tree" if found.device_tree else "acpi",
        "iommu": found.iommu.value,
        "functions": found.functions,
        "command": list(command_of(found)),
        "machine": list(found.machine),
        "devices": [_device(one) for one in found.devices],
        "addresses": {str(captured): str(guest) for captured, guest in found.addresses.items()},
        "kernel_parameters": list(found.parameters),
        "after_boot": list(steps_after_boot(found)),
        "not_carried_over": [
            {"kind": one.kind.value, "text": one.text, "functions": _texts(one.functions)} for one in found.omissions
        ],
    }


def _device(one: Device) -> dict[str, Any]:
    return {
        "model": one.model,
        "captured": None if one.captured is None else str(one.captured),
        "guest": None if one.address is None else str(one.address),
        "argument": one.argument,
        "about": one.about,
        "same": one.exact,
    }


def _texts(addresses: Iterable[Address]) -> list[str]:
    return [str(one) for one in addresses]
