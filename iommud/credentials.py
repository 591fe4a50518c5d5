# SPDX-License-Identifier: GPL-2.0-or-later
"""Files that a confined service may not open, as the service manager hands them out: credentials (systemd.exec(5)).

A DynamicUser cannot read firmware tables (mode 0400), and ``ProcSubset=pid`` hides the kernel's command line and
release. The unit loads copies of them; a file that the machine lacks is handed out as the word ``absent``.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping

__all__ = ["ABSENT_FILE", "CREDENTIALS", "credentials_of"]

CREDENTIALS: Mapping[str, str] = {
    "proc/cmdline": "cmdline",
    "proc/sys/kernel/osrelease": "osrelease",
    "proc/version": "version",
    **{f"sys/firmware/acpi/tables/{name}": f"acpi-{name}" for name in ("DMAR", "IORT", "IVRS", "VIOT")},
}
"""Name of the credential for each file."""
_DEVICE_TREE = "sys/firmware/fdt"
ABSENT_FILE = b"absent"
"""Content of the copy of a file that is not there."""


def credentials_of(environment: Mapping[str, str]) -> dict[str, str]:
    """Where the copies lie that this service was given: host paths by path in the tree; empty outside of a service."""
    found: dict[str, str] = {}
    directory = environment.get("CREDENTIALS_DIRECTORY")
    if directory:
        found = {path: posixpath.join(directory, name) for path, name in CREDENTIALS.items()}
        runtime = environment.get("RUNTIME_DIRECTORY", "").partition(":")[0]
        if runtime:  # too large for a credential, so the unit copies it there
            found[_DEVICE_TREE] = posixpath.join(runtime, "fdt")
    return found
