# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian packages of any suite and architecture, unpacked into a cache without root and without touching the host.

Each suite has an apt of its own: its sources, its lists, and an empty dpkg status, so that apt names every package
that something needs. What is unpacked once is found again without the network.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
ARCHIVE = "http://deb.debian.org/debian"
SECURITY = "http://deb.debian.org/debian-security"
# The lists of an oldoldstable security suite may be past their date; their signatures are still checked.
APT_OPTIONS = {"APT::Install-Recommends": "false", "Acquire::Languages": "none", "Acquire::Check-Valid-Until": "false"}

Chooser = Callable[[str], bool]


class Unavailable(Exception):  # noqa: N818 - it is an answer of the lab, not a defect
    """Something that a guest needs cannot be had; the text is apt's own."""


@dataclass(frozen=True, slots=True)
class Suite:
    """One suite as an apt of its own sees it."""

    name: str
    """``bookworm``, ``trixie-backports``, ``sid``: packages come from here where it has them."""
    architecture: str
    security: bool = True
    """Whether its security updates are a source too; some of a suite past its life are listed and gone."""

    @property
    def release(self) -> str:
        """The suite without ``-backports``."""
        return self.name.removesuffix("-backports")

    def sources(self) -> str:
        """The lines of sources.list."""
        lines = [f"deb [signed-by={KEYRING}] {ARCHIVE} {self.release} main"]
        if self.security and self.release != "sid":
            lines.append(f"deb [signed-by={KEYRING}] {SECURITY} {self.release}-security main")
        if self.name != self.release:
            lines.append(f"deb [signed-by={KEYRING}] {ARCHIVE} {self.name} main")
        return "".join(f"{line}\n" for line in lines)


def cache_directory() -> Path:
    """Where all that is fetched and made lives: below $XDG_CACHE_HOME, outside the repository."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base, "iommud", "guest")


@dataclass(frozen=True, slots=True)
class Package:
    """A package in one version."""

    name: str
    version: str


class Apt:
    """The apt of one suite. Nothing is asked of the network before something is missing from the cache."""

    def __init__(self, suite: Suite, cache: Path) -> None:
        self.suite = suite
        self.cache = cache
        self.state = cache / "apt" / f"{suite.name}-{suite.architecture}"
        self._fresh = False

    def unpacked(
        self, names: Iterable[str], label: str, *, wanted: Chooser = lambda _: True, alone: bool = False
    ) -> Path:
        """The packages and all that they depend on, as one tree; ``wanted`` leaves some of those out by name.

        ``alone``: the packages without what they depend on, which a suite may no longer have for an old release.
        Raises Unavailable with apt's words.
        """
        names = tuple(names)
        tree = self._tree(label)
        if self.tree(label) is None:
            packages = [one for one in self._packages(names, alone=alone) if wanted(one.name)]
            if not packages:
                raise Unavailable(f"{self.suite.name} has no package for {' '.join(names)}")
            tree.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=tree.parent, prefix=".unpacking-") as unpacking:
                self._unpack(packages, Path(unpacking))
                shutil.rmtree(tree, ignore_errors=True)
                Path(unpacking, "tree").rename(tree)
        return tree

    def tree(self, label: str) -> Path | None:
        """The tree of that label, if it has been unpacked."""
        return self._tree(label) if (self._tree(label) / ".complete").exists() else None

    def _tree(self, label: str) -> Path:
        return self.cache / "trees" / f"{label}-{self.suite.name}-{self.suite.architecture}"

    def named(self, pattern: str) -> list[str]:
        """The packages whose name matches an extended regular expression, those with the highest numbers last.

        Raises Unavailable if the suite has none.
        """
        self._update()
        lines = self._run("apt-cache", "search", "--names-only", pattern).splitlines()
        if not lines:
            raise Unavailable(f"{self.suite.name} has no package like {pattern}")
        return sorted((line.partition(" ")[0] for line in lines), key=numbers)

    def archives(self, names: Iterable[str], label: str) -> Path:
        """A directory with the packages and all that they depend on, as they come. Raises Unavailable."""
        directory = self.cache / "archives" / f"{label}-{self.suite.name}-{self.suite.architecture}"
        if not (directory / ".complete").exists():
            packages = self._packages(tuple(names))
            directory.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".fetching-") as fetching:
                fresh = Path(fetching, "archives")
                fresh.mkdir()
                self._run("apt-get", "download", *(f"{one.name}={one.version}" for one in packages), directory=fresh)
                (fresh / ".complete").write_text("".join(f"{one.name} {one.version}\n" for one in packages))
                shutil.rmtree(directory, ignore_errors=True)
                fresh.rename(directory)
        return directory

    def _packages(self, names: tuple[str, ...], *, alone: bool = False) -> list[Package]:
        """The packages and, unless they are wanted alone, all that they depend on."""
        self._update()
        verb = "download" if alone else "install"
        return packages_in(self._run("apt-get", "--yes", "--print-uris", verb, *names))

    def _unpack(self, packages: list[Package], directory: Path) -> None:
        """Make ``tree`` in a directory of our own, complete or not at all."""
        names = [f"{one.name}={one.version}" for one in packages]
        tree, archives = directory / "tree", directory / "archives"
        tree.mkdir()
        archives.mkdir()
        self._run("apt-get", "download", *names, directory=archives)
        for archive in sorted(archives.glob("*.deb")):
            _dpkg_deb(archive, tree)
        (tree / ".complete").write_text("".join(f"{one.name} {one.version}\n" for one in packages))

    def _update(self) -> None:
        if self._fresh:
            return
        for directory in ("lists/partial", "cache/archives/partial", "empty"):
            (self.state / directory).mkdir(parents=True, exist_ok=True)
        (self.state / "status").touch()
        (self.state / "sources.list").write_text(self.suite.sources())
        self._run("apt-get", "update")
        self._fresh = True

    def _run(self, *command: str, directory: Path | None = None) -> str:
        if shutil.which(command[0]) is None:
            raise Unavailable(f"there is no {command[0]} here: the lab's kernels and emulators are Debian's packages")
        done = subprocess.run(
            [command[0], *self._options(), *command[1:]],
            cwd=directory or self.state,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "LC_ALL": "C", "APT_CONFIG": "/dev/null", "DEBIAN_FRONTEND": "noninteractive"},
        )
        if done.returncode:
            raise Unavailable(_errors(done.stderr) or f"{' '.join(command[:2])} ended with {done.returncode}")
        return done.stdout

    def _options(self) -> list[str]:
        settings = {
            **APT_OPTIONS,
            "APT::Architecture": self.suite.architecture,
            "APT::Architectures::": self.suite.architecture,
            "APT::Sandbox::User": "",
            "Dir::State": str(self.state),
            "Dir::State::lists": str(self.state / "lists"),
            "Dir::State::status": str(self.state / "status"),
            "Dir::Cache": str(self.state / "cache"),
            "Dir::Etc::sourcelist": str(self.state / "sources.list"),
            "Dir::Etc::sourceparts": str(self.state / "empty"),
            "Dir::Etc::preferencesparts": str(self.state / "empty"),
            "Debug::NoLocking": "true",
        }
        if self.suite.name != self.suite.release:
            settings["APT::Default-Release"] = self.suite.name
        return [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]


def packages_in(uris: str) -> list[Package]:
    """The packages in what ``apt-get --print-uris`` says: its second column is ``name_version_architecture.deb``."""
    files = re.findall(r"^'[^']+' (\S+)\.deb ", uris, re.MULTILINE)
    return [Package(*unquote(one).split("_")[:2]) for one in files]


def numbers(name: str) -> list[int]:
    """The numbers in the name of a package, to order releases by."""
    return [int(number) for number in re.findall(r"\d+", name)]


def packages_of(tree: Path) -> dict[str, str]:
    """Name and version of the packages of a tree."""
    return dict(line.split(" ", 1) for line in (tree / ".complete").read_text(encoding="utf-8").splitlines())


def fingerprint(tree: Path) -> str:
    """What a tree was unpacked from, in a few digits."""
    return hashlib.sha256((tree / ".complete").read_bytes()).hexdigest()[:12]


def _dpkg_deb(archive: Path, tree: Path) -> None:
    done = subprocess.run(["dpkg-deb", "-x", archive, tree], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"{archive.name}: {done.stderr.strip()}")


def _errors(text: str) -> str:
    """The errors among what apt says, on one line."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("W:")]
    return " ".join(line for line in lines if line.startswith("E:")) or " ".join(lines[-3:])
