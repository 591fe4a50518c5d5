# SPDX-License-Identifier: GPL-2.0-or-later
"""The whole session: boot, check, switch off, change the machine, boot, check; results and consoles are kept."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.guest.cells import PLUGGED_BRIDGE
from tests.guest.debian import Unavailable
from tests.guest.service import checks, recovery
from tests.guest.service.guest import Guest, GuestError, guest_of
from tests.guest.service.installed import KERNEL, Installed, copy_disk, installed_disk, kept_disk
from tests.guest.service.machine import Machine
from tests.guest.service.session import (
    COLLECTOR,
    SERVER,
    Check,
    Checked,
    Say,
    Session,
    run_checks,
    scratch,
)
from tests.guest.supplies import Supplies
from tests.guest.topology import Device, Devices, root_port
from tests.prometheus import free_port

SUITES = ("trixie", "bookworm")
# A virtio-iommu, as in the thread that iommud began with: of what hangs behind the conventional bridge it knows
# device 0 alone, so a NIC that is plugged in at another number stays without a group.
DEVICES: Devices = (Device(model="virtio-iommu-pci", slot=1), root_port("rp", 2), PLUGGED_BRIDGE)
MODULES = (
    *("virtio_iommu", "virtio_net", "e1000", "lpc_ich", "i2c_i801", "ahci"),
    *("virtio_blk", "crc32c_generic", "ext4"),
)

FIRST: Mapping[str, Check] = {
    "the services are up": checks.services_are_up,
    "exposure": checks.exposures,
    "control of the probe": checks.probe_can_do_everything_outside,
    "sandbox of the collector": checks.sandbox_of(COLLECTOR),
    "sandbox of the server": checks.sandbox_of(SERVER),
    "scraped by Prometheus": checks.scraped_by_prometheus,
    "status equals check": checks.status_equals_check,
    "costs": checks.costs,
    "hot plug": checks.hot_plug_is_seen,
    "alert": checks.alert_fires_and_resolves,
    "different users": checks.check_as_different_users,
    "daemon as root": checks.daemon_as_root,
    "without the capability": checks.nothing_is_claimed_without_the_capability,
    "reload": recovery.reload_looks_again,
    "restart": recovery.restarts_lose_no_scrape,
    "collector killed": recovery.killed(COLLECTOR),
    "server killed": recovery.killed(SERVER),
    "both stopped": recovery.stopped_processes_are_ended_by_the_watchdog,
    "full directories": recovery.full_directories_are_survived,
    "reboot": recovery.a_reboot_changes_nothing,
}
SECOND: Mapping[str, Check] = {
    "changed since the last boot": recovery.changes_since_the_last_boot_are_told,
    "upgrade": recovery.an_upgrade_loses_no_scrape,
    "remove": recovery.removal_leaves_what_is_documented,
}
NAMES = (*FIRST, *SECOND)


def run_session(
    supplies: Supplies, suite: str, keep: Path, say: Say, only: Sequence[str] = (), *, anew: bool = True
) -> tuple[list[Checked], dict[str, Any]]:
    """All checks of a suite, or some by parts of their names, and what was measured; consoles go to ``keep``.

    ``anew``: iommud is installed as it is now, where that has not been done yet; else the last disk is taken.

    Raises Unavailable if there is no guest to be had.
    """
    keep.mkdir(parents=True, exist_ok=True)
    say(f"a disk with {suite} and iommud: made once for each state of the sources")
    try:
        installed = (installed_disk if anew else kept_disk)(supplies, suite)
    except GuestError as error:
        raise Unavailable(f"iommud could not be installed in the guest: {error}") from error
    figures: dict[str, Any] = {
        "disk": installed.digest,
        "suite": suite,
        "systemd": installed.systemd,
        "python": installed.python,
        "tools/install.sh in the guest, s": installed.seconds,
    }
    with scratch() as directory:
        copy_disk(installed.disk, directory / "disk")
        machine = Machine(
            kernel=KERNEL, disks=(directory / "disk",), devices=DEVICES, modules=MODULES, port=free_port()
        )
        changed = Machine(
            kernel=KERNEL,
            disks=(directory / "disk",),
            devices=(*DEVICES, checks.PLUGGED),
            modules=MODULES,
            port=machine.port,
        )
        results = []
        for number, (one, named) in enumerate(((machine, FIRST), (changed, SECOND)), 1):
            wanted = [(name, check) for name, check in named.items() if not only or any(one in name for one in only)]
            if wanted:
                boot = _Boot(supplies, one, installed, directory, keep / f"console-{number}.log", keep)
                results += boot.run(wanted, figures, say)
    if not only:
        figures["load"] = f"{os.getloadavg()[2]:.0f} on {os.cpu_count()} processors"
    return results, figures


class _Boot:
    """One start of the machine and the checks in it."""

    def __init__(
        self, supplies: Supplies, machine: Machine, installed: Installed, directory: Path, console: Path, keep: Path
    ) -> None:
        self._supplies = supplies
        self._machine = machine
        self._installed = installed
        self._directory = directory
        self._console = console
        self._keep = keep

    def run(self, wanted: list[tuple[str, Check]], figures: dict[str, Any], say: Say) -> list[Checked]:
        """The results of the checks; if the guest does not come up, each of them has failed for that."""
        try:
            with guest_of(self._supplies, self._machine, keep=self._console) as guest:
                session = Session(guest, self._installed, self._directory, self._keep, figures)
                results = run_checks(session, wanted, say)
                self._journal(guest)
                with contextlib.suppress(GuestError):  # it has answered all the same
                    guest.power_off()
        except GuestError as error:
            say(f"the guest: {error}")
            return [Checked(name, False, f"the guest: {error}", 0) for name, _ in wanted]
        return results

    def _journal(self, guest: Guest) -> None:
        with contextlib.suppress(GuestError):
            answer = guest.ask("journalctl -q -b --no-hostname -u 'iommud*' | tail -n 2000")
            self._console.with_suffix(".journal").write_text(answer.output, encoding="utf-8")
