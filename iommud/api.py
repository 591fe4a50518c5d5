# SPDX-License-Identifier: GPL-2.0-or-later
"""The Python interface: read a machine, check it, get a Report."""

from __future__ import annotations

from functools import partial

from iommud.files import Tree
from iommud.kernel import Kernel
from iommud.snapshot import Snapshot
from iommud.sysfs import take_snapshot, with_evidence
from iommud.tree import open_live
from iommud.verdict.pipeline import check
from iommud.verdict.report import Report


def read_sysfs(
    source: str | None = None,
    *,
    sysfs: str = "/sys",
    procfs: str = "/proc",
    kernel: Kernel | None = None,
    wake: bool = False,
    thorough: bool = False,
    evidence: bool = False,
) -> Snapshot:
    """Read a machine into a Snapshot.

    ``source`` is None for this machine (``sysfs`` and ``procfs`` say where), a directory, an archive, or ``-`` for an
    archive on standard input. ``kernel`` overrides the kernel that the machine names. ``wake`` reads the config space
    of sleeping functions, which wakes them. ``thorough`` reads ACS registers also where no verdict needs them.
    ``evidence`` reads the kernel log and the loaded modules, which only causes are told by.

    Raises SourceError if the source cannot be read or holds no PCI bus.
    """
    tree = _opened(source) if source else open_live(sysfs, procfs)
    snapshot = take_snapshot(tree, kernel=kernel, wake=wake, thorough=thorough)
    return with_evidence(tree, snapshot) if evidence else snapshot


def check_sysfs(
    source: str | None = None,
    *,
    sysfs: str = "/sys",
    procfs: str = "/proc",
    kernel: Kernel | None = None,
    wake: bool = False,
    thorough: bool = False,
) -> Report:
    """Read a machine and check it; the kernel log and the modules are read only if there is something to explain.

    The parameters are those of ``read_sysfs``. Raises SourceError if the source cannot be read or holds no PCI bus.
    """
    tree = _opened(source) if source else open_live(sysfs, procfs)
    snapshot = take_snapshot(tree, kernel=kernel, wake=wake, thorough=thorough)
    return check(snapshot, kernel=kernel, evidence=partial(with_evidence, tree))


def _opened(source: str) -> Tree:
    # Most checks are of the machine itself, and start sooner without the readers of archives.
    from iommud.archive import open_source  # noqa: PLC0415 - see above

    return open_source(source)
