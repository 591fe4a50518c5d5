# SPDX-License-Identifier: GPL-2.0-or-later
"""Blanks what identifies a machine or its owner in the texts of a capture, which people attach to public reports.

Every function here gives its own result back when it is applied to that, so that a capture of a capture is the same.
"""

from __future__ import annotations

import re

__all__ = [
    "BLANKED",
    "redact_cmdline",
    "redact_log_line",
    "redact_modules",
    "redact_uevent",
    "redact_version",
]

BLANKED = "[blanked]"
"""What stands in the place of a blanked value."""

_KEPT_PREFIXES = (
    # IOMMU, PCI and VFIO: what the report is about
    "iommu",
    "intel_iommu",
    "amd_iommu",
    "arm_smmu",
    "virtio_iommu",
    "pci",
    "vfio",
    # hypervisors, power and the drivers that people assign
    "kvm",
    "acpi",
    "nvme.",
    "nvme_core.",
    "i915.",
    "xe.",
    "amdgpu.",
    "radeon.",
    "nouveau.",
    "nvidia",
    "xen_pciback.",
    "thunderbolt.",
    "vmd.",
)
_KEPT_NAMES = frozenset(
    "amd_pstate apparmor console consoleblank crashkernel default_hugepagesz earlycon earlyprintk efi "  # noqa: SIM905 - a list would fill a page
    "hpet hugepages hugepagesz idle initcall_blacklist init_on_alloc init_on_free intel_idle.max_cstate "
    "intel_pstate intremap ioapic irqaffinity irqpoll isolcpus l1tf lockdown log_buf_len loglevel maxcpus "
    "mce mds mem mem_encrypt mitigations modprobe.blacklist module_blacklist nohz nohz_full nosmt nr_cpus "
    "numa numa_balancing panic preempt processor.max_cstate rcu_nocbs rd.driver.blacklist rd.driver.pre "
    "reboot security selinux smt spectre_v2 swiotlb transparent_hugepage tsc usbcore.autosuspend vga "
    "video x2apic".split()
)
"""Parameters whose values tell nothing of a machine's owner. Of all others the value is blanked, unless it is a
switch or a small number: nobody can list every parameter that takes a disk, a host, an address or a key."""
_SWITCH = re.compile(r"on|off|yes|no|y|n|true|false|auto|force|none|default|-?[0-9]{1,2}")

_WORD = re.compile(r'(?:"[^"]*(?:"|\Z)|[^\s"])+')
"""One parameter: white space parts them, but for what stands in quotes (``next_arg()``, lib/cmdline.c)."""

_UUID = r"(?<![0-9A-Fa-f])[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}(?![0-9A-Fa-f])"
_MAC = r"(?<![0-9A-Fa-f:-])(?:[0-9A-Fa-f]{2}:){5}(?:[0-9A-Fa-f]{2}:){0,2}[0-9A-Fa-f]{2}(?![0-9A-Fa-f:])"
_MAC_WITH_DASHES = _MAC.replace("{2}:", "{2}-")
_IP = r"(?<![0-9.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![0-9])"
_MAIL = r"[\w.+-]+@(?:[\w-]+\.)+[A-Za-z]{2,}"
_IDENTIFIER = re.compile(f"{_UUID}|{_MAC}|{_MAC_WITH_DASHES}|{_IP}|{_MAIL}")
_MANY_DIGITS = re.compile(r"(?:[0-9][^0-9]*){7}")
"""No word that the kernel knows has seven digits; keys and serial numbers have."""
_SERIAL = re.compile(
    r"(\bserial[ _-]?(?:number|num|no)\b\.?+\s*+[:=#]?+\s*+|\bserial\s*[:=#]\s*+)(?!\[blanked\])[^\s,;]+", re.IGNORECASE
)
_PRIVATE_NAME = (
    r"(?:root|rootflags|resume|cryptdevice|(?:rd\.)?luks[\w.]*|rd\.lvm[\w.]*|ip|nfsroot|netroot|BOOTIF|"
    r"hostname|systemd\.hostname|systemd\.machine_id)"
)
_PRIVATE_PARAMETER = re.compile(rf"(?<![\w.])({_PRIVATE_NAME}=)(?!\[blanked\])\S+")
# DMI strings that the kernel adds where firmware is broken: warn_invalid_dmar(), drivers/iommu/intel/dmar.c.
_FIRMWARE_NAMES = re.compile(r"(\b(?:BIOS vendor|Hardware name|DMI):)(?! \[blanked\]$).*", re.IGNORECASE)

_BUILDER = re.compile(r"\([^()]*@[^()]*\)")
_MODULE = re.compile(r"\w+", re.ASCII)
_EVENT_KEYS = frozenset({"DRIVER", "MODALIAS", "PCI_CLASS", "PCI_ID", "PCI_SLOT_NAME", "PCI_SUBSYS_ID"})


def redact_cmdline(text: str) -> str:
    """The kernel command line with every value blanked that is not known to be harmless.

    Parameters of IOMMUs, PCI and VFIO stay to the letter, ``root=…`` becomes ``root=[blanked]``. What follows
    ``--`` goes to the first process and is blanked altogether.
    """
    kernel, dashes, rest = _split_at_dashes(text)
    kept = _WORD.sub(lambda match: _parameter(match[0]), kernel)
    return kept + dashes + _WORD.sub(BLANKED, rest)


def _split_at_dashes(text: str) -> tuple[str, str, str]:
    for match in _WORD.finditer(text):
        if match[0] == "--":
            return text[: match.start()], "--", text[match.end() :]
    return text, "", ""


def _parameter(word: str) -> str:
    name, equals, value = word.partition("=")
    if '"' in name or _IDENTIFIER.search(name) or _MANY_DIGITS.search(name):
        return BLANKED
    if not equals or (_is_harmless(name, value) and '"' not in value):
        return word
    return f"{name}={BLANKED}"


def _is_harmless(name: str, value: str) -> bool:
    # The kernel takes - and _ for the same (parameq(), kernel/params.c).
    name = name.replace("-", "_")
    if name in _KEPT_NAMES or name.startswith(_KEPT_PREFIXES):
        return True
    return _SWITCH.fullmatch(value) is not None and not re.fullmatch(_PRIVATE_NAME, name)


def redact_version(text: str) -> str:
    """The line of ``/proc/version`` without who built the kernel, and where."""
    return _BUILDER.sub(f"({BLANKED})", text)


def redact_log_line(text: str) -> str:
    """A line of the kernel log without serial numbers, MAC and IP addresses, UUIDs and names that DMI gives."""
    # What is blanked may have hidden the edge of its neighbour.
    while (redacted := _redact_log_line_once(text)) != text:
        text = redacted
    return text


def _redact_log_line_once(text: str) -> str:
    text = _FIRMWARE_NAMES.sub(rf"\1 {BLANKED}", text)
    text = _PRIVATE_PARAMETER.sub(rf"\1{BLANKED}", text)
    text = _SERIAL.sub(rf"\1{BLANKED}", text)
    return _IDENTIFIER.sub(BLANKED, text)


def redact_modules(text: str) -> str:
    """``/proc/modules`` in its own form, sorted, with the names alone: addresses and sizes are zeros."""
    names = {line.partition(" ")[0] for line in text.splitlines()}
    kept = sorted(name for name in names if _MODULE.fullmatch(name))
    return "".join(f"{name} 0 0 - Live 0x0000000000000000\n" for name in kept)


def redact_uevent(text: str) -> str:
    """The ``uevent`` of a PCI function with the keys that are the PCI bus's own (``pci_uevent()``)."""
    lines = (line for line in text.splitlines() if line.partition("=")[0] in _EVENT_KEYS)
    return "".join(f"{line}\n" for line in lines)
