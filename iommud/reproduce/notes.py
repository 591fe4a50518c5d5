# SPDX-License-Identifier: GPL-2.0-or-later
"""Collects what cannot be carried over, function by function, and tells it sentence by sentence."""

from __future__ import annotations

from dataclasses import dataclass, field

from iommud.address import Address
from iommud.reproduce.parts import Omission, OmissionKind


@dataclass(frozen=True, slots=True)
class Notes:
    """What was left out so far; the same sentence about several functions is one omission."""

    _found: dict[tuple[OmissionKind, str], list[Address]] = field(default_factory=dict)

    def add(self, kind: OmissionKind, text: str, *functions: Address) -> None:
        """Add one omission."""
        self._found.setdefault((kind, text), []).extend(functions)

    def omissions(self) -> tuple[Omission, ...]:
        """All of them, by kind and then in the order of their first function."""
        order = list(OmissionKind)
        found = [
            Omission(kind=kind, text=text, functions=tuple(sorted(set(functions))))
            for (kind, text), functions in self._found.items()
        ]
        return tuple(sorted(found, key=lambda one: (order.index(one.kind), one.functions, one.text)))
