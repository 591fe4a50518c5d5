# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel releases: which mainline and stable version stands behind a distribution's string."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

_RELEASE = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?(.*)", re.DOTALL)
_DEBIAN_STABLE = re.compile(r"\bDebian (\d+)\.(\d+)\.(\d+)-")
_UBUNTU_STABLE = re.compile(r"\(Ubuntu [^()]*? (\d+)\.(\d+)\.(\d+)\)")
_RELEASE_IN_VERSION = re.compile(r"Linux version (\S+)")
_EL = re.compile(r"\.el\d+")

Version = tuple[int, int]

KNOWN_VERSIONS: tuple[Version, ...] = ((5, 10), (6, 1), (6, 12), (7, 3))
"""The kernels whose tables and behaviour were compared; rows are gated by these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A kernel as the model sees it."""

    text: str
    """The release string it was read from; empty if there was none."""
    version: Version
    """Major and minor number."""
    stable: int | None
    """Number of the stable release, None where the release string does not tell it."""
    readable: bool = True
    """False: the string was missing or unreadable, and ``version`` is the newest that is modelled."""
    downstream: str | None = None
    """Why this kernel may group by another algorithm, or None."""

    def at_least(self, major: int, minor: int) -> bool:
        """Whether the version is the given mainline version or later."""
        return self.version >= (major, minor)

    def __str__(self) -> str:
        stable = "" if self.stable is None else f".{self.stable}"
        return f"{self.version[0]}.{self.version[1]}{stable}"


def parse_release(text: str) -> Kernel | None:
    """Read a release string such as ``6.12.95+deb12-amd64``; None if no version begins it."""
    match = _RELEASE.fullmatch(text.strip())
    if match is None:
        return None
    version = (int(match[1]), int(match[2]))
    return Kernel(text=text.strip(), version=version, stable=_stable(match), downstream=_downstream(text))


def _stable(match: re.Match[str]) -> int | None:
    """The third number, unless the distribution keeps it at 0 as the name of an ABI."""
    if match[3] is None:
        return None
    abi_name = match[3] == "0" and match[4].startswith("-")
    return None if abi_name or _EL.search(match[4]) else int(match[3])


def _downstream(release: str) -> str | None:
    # Kernels of the -nvidia flavour carry an unmerged series that groups by reachability instead.
    if "-nvidia" in release:
        return "kernels of the -nvidia flavour group by another, unmerged algorithm"
    return None


def identify(release: str | None, version_line: str | None) -> Kernel:
    """The kernel behind ``uname -r`` and ``/proc/version``; the newest modelled one if neither can be read."""
    if release is None and version_line is not None and (found := _RELEASE_IN_VERSION.search(version_line)):
        release = found[1]
    text = version_line if release is None else release
    kernel = parse_release(text or "")
    return _unreadable(text or "") if kernel is None else _with_stable(kernel, version_line or "")


def _unreadable(text: str) -> Kernel:
    """A kernel of which only the name is known is judged as the newest modelled one."""
    return Kernel(text=text.strip(), version=KNOWN_VERSIONS[-1], stable=None, readable=False)


def _with_stable(kernel: Kernel, version_line: str) -> Kernel:
    """Debian 12 and Ubuntu name an ABI in ``uname -r``; only the version line holds the stable release."""
    for pattern in (_DEBIAN_STABLE, _UBUNTU_STABLE):
        for found in pattern.finditer(version_line):
            # The compiler's package version has the same form; only the kernel's own version fits.
            if (int(found[1]), int(found[2])) == kernel.version:
                return replace(kernel, stable=int(found[3]))
    return kernel


def requested(text: str) -> Kernel:
    """The kernel that a person named; the newest modelled one if the text does not begin with a version."""
    return parse_release(text) or _unreadable(text)
