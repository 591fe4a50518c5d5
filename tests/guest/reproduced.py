# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests by ``iommud reproduce``: from a capture to a command line, to a boot, and to groups that are compared."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from iommud.address import Address
from iommud.api import check_sysfs
from iommud.reproduce.bridges import BRIDGE_IDS
from iommud.reproduce.models import MODELS
from iommud.reproduce.parts import Architecture as Emulated
from iommud.reproduce.parts import Device as Planned
from iommud.reproduce.parts import Iommu as Wanted
from iommud.reproduce.parts import Reproduction
from iommud.reproduce.plan import reproduce
from iommud.verdict.report import Report
from tests.guest.boot import Outcome
from tests.guest.judge import Result
from tests.guest.machine import Architecture, Cell, Firmware, Iommu
from tests.guest.steps import EnableVirtualFunctions
from tests.guest.topology import Device, Devices

FIXTURES = Path(__file__).parent.parent / "fixtures"
VERSIONS: Mapping[str, tuple[int, int]] = {"7.2": (7, 2), "10": (10, 0), "11": (11, 1)}
# Grouping by Intel's and AMD's drivers asks for no other driver, and some never end their probe in such guests.
GROUPED_WITHOUT_DRIVERS = frozenset({Wanted.INTEL, Wanted.AMD})
VIRTIO_IOMMU = "virtio-iommu-pci"


@dataclass(frozen=True, slots=True, kw_only=True)
class Given(Device):
    """A device in the words of the reproduction."""

    text: str

    def argument(self) -> str:
        """The value of ``-device``."""
        return self.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt(Cell):
    """A guest by the command line of a reproduction."""

    given: Devices = ()

    @property
    def devices(self) -> Devices:
        """The devices of the reproduction, but for an IOMMU that the cell itself brings."""
        return self.given


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A capture to rebuild, and what to boot in its place."""

    fixture: str
    """Its name below tests/fixtures, without ``.tar.gz``."""
    kernel: str
    """A name of `tests.guest.supplies.KERNELS`."""
    qemu: str = "10"
    reason: str = ""
    """Why the groups are not equal, where they are not; to be read in docs/reproduce.md."""

    @property
    def path(self) -> Path:
        """The archive."""
        return FIXTURES / f"{self.fixture}.tar.gz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """What came of a trial; plain values, kept as JSON between runs."""

    fixture: str
    captured_kernel: str
    iommu: str
    kernel: str
    qemu: str
    functions: int
    carried: int
    omissions: Mapping[str, int] = field(default_factory=dict)
    """Kind of omission to the number of functions concerned."""
    misplaced: tuple[str, ...] = ()
    """Functions that the guest does not have where they were foretold."""
    groups: int = 0
    """How many captured groups have members that were carried over."""
    ungrouped: int = 0
    """How many functions without a group that should have one were carried over."""
    equal: bool | None = None
    """Whether the guest's groups are the captured ones. None: the guest gave no answer."""
    differences: tuple[str, ...] = ()
    words: str = ""
    """Why there is no answer."""

    @classmethod
    def decode(cls, line: str) -> Outcomes:
        """The outcome of a line of JSON."""
        members = json.loads(line)
        lists = {name: tuple(members[name]) for name in ("misplaced", "differences")}
        return cls(**{**members, **lists})

    def encode(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))


def report_of(path: Path) -> Report:
    """The report on a capture, with all registers."""
    return check_sysfs(str(path), thorough=True)


def plan_of(trial: Trial) -> Reproduction:
    """The reproduction of a trial's capture."""
    return reproduce(report_of(trial.path), VERSIONS[trial.qemu])


def cell_of(trial: Trial, found: Reproduction) -> Rebuilt:
    """The guest to boot. The lab adds what every guest of its own has: console, channel, kernel and initramfs."""
    arm = found.architecture is Emulated.AARCH64
    own = {Wanted.VIRTIO: Iommu.VIRTIO, Wanted.SMMUV3: Iommu.SMMUV3}.get(found.iommu, Iommu.NONE)
    slots = [one.address.device for one in found.devices if one.model == VIRTIO_IOMMU and one.address is not None]
    large = found.functions > 20
    return Rebuilt(
        kernel=trial.kernel,
        topology=f"rebuilt-{trial.fixture.rpartition('/')[2]}",
        iommu=own,
        architecture=Architecture.ARM64 if arm else Architecture.AMD64,
        firmware=Firmware.DEVICE_TREE if found.device_tree else Firmware.ACPI,
        qemu=trial.qemu,
        parameters=found.parameters,
        iommu_slot=slots[0] if slots else 1,
        steps=tuple(EnableVirtualFunctions(count) for count in sorted(set(found.virtual_functions.values()))[:1]),
        given=tuple(_given(found)),
        memory=1024 if large else None,
        seconds=600 if large else 200,
    )


def _given(found: Reproduction) -> Iterator[Given]:
    wanted = {"igb", "nvme"} if found.virtual_functions else set()
    for one in found.devices:
        if one.argument is not None and one.model != VIRTIO_IOMMU:
            driven = found.iommu not in GROUPED_WITHOUT_DRIVERS or one.model in wanted
            yield Given(model=one.model if driven else "", text=one.argument)


def outcome_of(trial: Trial, found: Reproduction, result: Result, keep: Path) -> Outcomes:
    """Compare the groups of a guest that was booted with those of the capture that it stands for."""
    captured = report_of(trial.path)
    omissions = {one.kind.value: 0 for one in found.omissions}
    for one in found.omissions:
        omissions[one.kind.value] += max(1, len(one.functions))
    guest = report_of(keep / result.cell / "end.tar.gz") if result.outcome == Outcome.DONE else None
    differences = tuple(differing(captured, guest, found.addresses)) if guest is not None else ()
    return Outcomes(
        fixture=trial.fixture,
        captured_kernel=captured.kernel.text,
        iommu=found.iommu.value,
        kernel=result.kernel,
        qemu=result.qemu,
        functions=found.functions,
        carried=len(found.addresses),
        omissions=omissions,
        misplaced=tuple(misplaced(found, guest)) if guest is not None else (),
        groups=len(moved_groups(captured, found.addresses)),
        ungrouped=sum(one in found.addresses for one in captured.ungrouped),
        equal=None if guest is None else not differences,
        differences=differences,
        words="" if guest is not None else result.summary,
    )


def moved_groups(captured: Report, addresses: Mapping[Address, Address]) -> frozenset[frozenset[Address]]:
    """The captured groups in the guest's addresses; what was not carried over drops out."""
    moved = (frozenset(addresses[one] for one in group if one in addresses) for group in captured.actual.groups)
    return frozenset(group for group in moved if group)


def differing(captured: Report, guest: Report, addresses: Mapping[Address, Address]) -> Iterator[str]:
    """Every difference between the groups, in the guest's addresses.

    Functions of the guest that stand for nothing are left out, and those that in the capture are rightly without a
    group: whether their stand-ins have one is an omission that the reproduction tells.
    """
    wanted = moved_groups(captured, addresses)
    members = frozenset(one for group in wanted for one in group)
    there = frozenset(group & members for group in guest.actual.groups if group & members)
    yield from (f"only in the capture: {_texts(group)}" for group in sorted(wanted - there, key=min))
    yield from (f"only in the guest: {_texts(group)}" for group in sorted(there - wanted, key=min))
    for one in captured.ungrouped:
        if one in addresses and addresses[one] in guest.actual.number_of:
            yield f"without a group in the capture only: {addresses[one]}"


def misplaced(found: Reproduction, guest: Report) -> Iterator[str]:
    """Functions that are not where they were foretold, or are not what was asked for."""
    assert guest.analysis
    there = {one.address: (one.vendor, one.device) for one in guest.analysis.snapshot.functions}
    ids: dict[str, tuple[int, int]] = {**BRIDGE_IDS, **{one.name: one.ids for one in MODELS}}
    for one in found.devices:
        if one.address is not None and not _is_there(one, there, ids):
            yield f"{one.address} {one.model}: {there.get(one.address, 'nothing')}"
    planned = {one.address for one in found.devices}
    virtual = [one for one in found.addresses.values() if one not in planned]
    yield from (f"{one} virtual function: nothing" for one in virtual if one not in there)


def _is_there(
    one: Planned, there: Mapping[Address, tuple[int | None, int | None]], ids: Mapping[str, tuple[int, int]]
) -> bool:
    assert one.address
    return one.address in there and ids.get(one.model, there[one.address]) == there[one.address]


def _texts(group: Iterable[Address]) -> str:
    return " ".join(str(one) for one in sorted(group))


def _capture(name: str, kernel: str, qemu: str = "10", reason: str = "") -> Trial:
    return Trial(fixture=f"captures/{name}", kernel=kernel, qemu=qemu, reason=reason)


def _machine(name: str, kernel: str = "6.12", reason: str = "") -> Trial:
    return Trial(fixture=f"machines/{name}", kernel=kernel, reason=reason)


TRIALS: tuple[Trial, ...] = (
    _capture("5.10-amd64-intel-seed-q7.2", "5.10", "7.2"),
    _capture("6.1-amd64-intel-two-e1000-rp-q7.2", "6.1", "11"),
    _capture("6.12-amd64-intel-seed-q7.2", "6.12"),
    _capture("6.12-amd64-intel-dmi-bridge-q7.2", "6.12"),
    _capture("6.12-amd64-intel-pci-bridge-nested-q7.2", "6.12"),
    _capture("6.12-amd64-intel-pxb-bypass-q7.2", "6.12"),
    _capture("6.12-amd64-intel-random-2-q7.2", "6.12"),
    _capture("6.12-amd64-intel-rc-multifunction-q7.2", "6.12"),
    _capture("6.12-amd64-intel-rp-multi-noacs-q7.2", "6.12", "11"),
    _capture("6.12-amd64-intel-sriov-igb-q10.0", "6.12"),
    _capture("6.12-amd64-intel-sriov-nvme-q7.2", "6.12", "7.2"),
    _capture("6.12-amd64-intel-switch-q7.2", "6.12"),
    _capture("6.12-amd64-intel-switch-noacs-q7.2", "6.12"),
    _capture("7.3-amd64-intel-seed-rp-q7.2", "7.3"),
    _capture("6.1-amd64-amd-seed-q7.2", "6.1"),
    _capture("6.12-amd64-amd-two-e1000-rp-q7.2", "6.12"),
    _capture("7.3-amd64-amd-seed-q7.2", "7.3"),
    _capture("6.12-amd64-virtio-vnet-bridge-q7.2", "6.12"),
    _capture("7.3-amd64-virtio-rp-config-acs-q7.2", "7.3"),
    _capture("7.3-amd64-virtio-two-e1000-rp-q10.0", "7.3"),
    _capture("6.1-arm64-smmuv3-two-e1000-rp-q7.2", "6.1"),
    _capture("6.12-arm64-smmuv3-seed-rp-q7.2", "6.12"),
    _capture("6.12-arm64-smmuv3-two-e1000-rp-acpi-q7.2", "6.12"),
    _capture("7.3-arm64-smmuv3-two-e1000-rp-q7.2", "7.3"),
    _capture("6.12-arm64-virtio-seed-q7.2", "6.12"),
    _machine("framework-12gen-adl"),
    _machine("precision5820"),
    _machine("supermicrow580"),
    _machine("tx2540m1"),
    _machine("romed8-2t"),
    _machine("x670e-aorus-xtreme"),
    _machine("adlink-altra-devplatform"),
)
