# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine as somebody imagines it: the facts of a snapshot with changes made to them, and what was assumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from iommud.address import Address
from iommud.kernel import Kernel
from iommud.model.acs import Override
from iommud.model.quirks import Quirks
from iommud.model.topology import Topology
from iommud.snapshot import PciFunction, Snapshot
from iommud.verdict.actual import ActualGroups
from iommud.verdict.report import Report
from iommud.verdict.scope import Scope
from iommud.verdict.survey import Platform, Usage, survey
from iommud.whatif.changes import ImpossibleChangeError, Order

_NONE: frozenset[Address] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Imagined:
    """The facts that groups are predicted from. Without any change they are those of the snapshot."""

    snapshot: Snapshot
    """Its groups are those that the kernel made of the machine as it was, under the addresses of now."""
    kernel: Kernel
    platform: Platform
    seated: frozenset[Address] = _NONE
    """Functions that have a group although there is an excuse for having none: they keep it."""
    unprobed: frozenset[Address] = _NONE
    """Functions that the IOMMU's driver would never be asked about."""
    override: frozenset[Override] = frozenset()
    override_ids: frozenset[tuple[int, int]] = frozenset()
    order: Order | None = None
    """None: every bridge before what lies below it."""
    origins: Mapping[Address, Address] = field(default_factory=dict)
    """For functions whose address is another than before: the one they had."""
    notes: tuple[str, ...] = ()
    """What was assumed, and what has no effect, as sentences."""

    @classmethod
    def of(cls, report: Report) -> Imagined:
        """The machine of a report as it is.

        Raises ImpossibleChangeError if the report holds no analysis, or the machine could not be judged.
        """
        if report.analysis is None:
            raise ImpossibleChangeError(f"the report on {report.source} does not hold what a prediction needs")
        if not report.judged:
            raise ImpossibleChangeError(f"{report.source}: groups cannot be predicted: {report.usage_reason}")
        snapshot, platform = report.analysis.snapshot, report.analysis.platform
        state = report.analysis.explainer.model.acs.state
        machine = cls(
            snapshot=snapshot,
            kernel=report.kernel,
            platform=platform,
            override=state.override,
            override_ids=state.override_ids,
        )
        scope = machine.scope(machine.topology())
        grouped = ActualGroups.of(snapshot).number_of
        seated = (one.address for one in snapshot.functions if one.address in grouped and scope.excuse(one) is not None)
        return replace(machine, seated=frozenset(seated))

    @property
    def in_use(self) -> bool:
        """Whether an IOMMU would be in use."""
        return self.platform.usage is not Usage.NOT_USED

    def topology(self) -> Topology:
        """The functions with their relations, by the device tables of the kernel."""
        return Topology.of(self.snapshot, Quirks.bundled(self.kernel.version))

    def scope(self, topology: Topology) -> Scope:
        """Who rightly has no group; a function that changed its place is no evidence for others there."""
        grouped = frozenset(ActualGroups.of(self.snapshot).number_of)
        return Scope.of(topology, self.platform, self.snapshot, grouped - self.origins.keys())

    def joins(self, topology: Topology) -> Callable[[Address], bool]:
        """Whether a function would have a group."""
        scope, functions = self.scope(topology), topology.functions

        def joining(address: Address) -> bool:
            if address in self.unprobed or not self.in_use:
                return False
            return address in self.seated or scope.excuse(functions[address]) is None

        return joining

    def function(self, address: Address) -> PciFunction:
        """The function with this address. Raises ImpossibleChangeError if there is none."""
        found = next((one for one in self.snapshot.functions if one.address == address), None)
        if found is None:
            raise ImpossibleChangeError(f"{address} is not on the PCI bus of {self.snapshot.source}")
        return found

    def noted(self, *notes: str) -> Imagined:
        """The machine with more notes, each once."""
        return replace(self, notes=tuple(dict.fromkeys((*self.notes, *notes))))

    def altered(self, functions: Mapping[Address, PciFunction]) -> Imagined:
        """The machine with other facts of some functions, none of which changes its place."""
        found = tuple(functions.get(one.address, one) for one in self.snapshot.functions)
        return replace(self, snapshot=replace(self.snapshot, functions=found))

    def surveyed(self, *, kernel: Kernel | None = None, cmdline: str | None = None) -> Imagined:
        """The machine with another kernel or command line, and its IOMMUs looked at anew."""
        snapshot = self.snapshot if cmdline is None else replace(self.snapshot, cmdline=cmdline)
        known = kernel or self.kernel
        return replace(self, snapshot=snapshot, kernel=known, platform=survey(snapshot, known))
