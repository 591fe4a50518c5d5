# SPDX-License-Identifier: GPL-2.0-or-later
"""Which functions sleep, so that reading their config space would wake hardware.

``pci_config_pm_runtime_get()``, drivers/pci/pci.c, resumes the bridge above a function before each access, and the
function itself where it is in D3cold.
"""

from __future__ import annotations

from collections.abc import Mapping

from iommud.address import Address
from iommud.files import Tree


class Sleep:
    """Power states of one machine, each read at most once and only when asked for."""

    def __init__(self, tree: Tree, paths: Mapping[Address, str], *, wake: bool) -> None:
        self._tree = tree
        self._paths = paths
        self._wake = wake
        self._runtime: dict[Address, str | None] = {}

    def would_wake(self, address: Address, upstream: Address | None) -> bool:
        """Whether a read would wake the function or the bridge above it; never with ``wake``."""
        if self._wake:
            return False
        return self._in_d3cold(address) or (
            upstream is not None
            and self._runtime_status(upstream) == "suspended"
            and self._runtime_status(address) != "active"
        )

    def _in_d3cold(self, address: Address) -> bool:
        state = self._text(address, "power_state")
        if state is not None:
            return state == "D3cold"
        # Kernels before 5.12 do not show the state: a suspended function may be in D3cold if that is allowed.
        return self._runtime_status(address) == "suspended" and self._text(address, "d3cold_allowed") != "0"

    def _runtime_status(self, address: Address) -> str | None:
        if address not in self._runtime:
            self._runtime[address] = self._text(address, "power/runtime_status")
        return self._runtime[address]

    def _text(self, address: Address, attribute: str) -> str | None:
        path = self._paths.get(address)
        return None if path is None else self._tree.text(f"{path}/{attribute}")
