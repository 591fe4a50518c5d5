# SPDX-License-Identifier: GPL-2.0-or-later
"""A result for people: the groups of a guest as sysfs has them, and what iommud says of them."""

from __future__ import annotations

from tests.guest.judge import Result


def picture(title: str, result: Result) -> str:
    """A few lines of text: what was booted, its groups, the functions that miss one, the verdict."""
    head = f"{title}  (Linux {result.kernel or '?'}, QEMU {result.qemu or '?'}, {result.seconds:.0f} s)"
    groups = ["  group: " + " ".join(_short(one) for one in group) for group in result.groups]
    missing = [f"  no group: {_short(one)}" for one in result.ungrouped]
    looks = [f"  {look}" for look in result.looks] if len(result.looks) > 1 else []
    return "\n".join([head, *groups, *missing, *looks, f"  iommud: {result.summary}", ""])


def _short(address: str) -> str:
    return address.removeprefix("0000:")
