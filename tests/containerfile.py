# SPDX-License-Identifier: GPL-2.0-or-later
"""Carry out a Containerfile without a container engine: base images by mmdebstrap, steps in a chroot.

It knows the instructions that ``deploy/Containerfile`` uses, and refuses others instead of skipping them.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

_TRUSTED = Path("/etc/ssl/certs/ca-certificates.crt")
_BASE = re.compile(r"docker\.io/library/debian:(\w+)-slim")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: its word, the rest of the line, and the line number."""

    word: str
    rest: str
    line: int


@dataclass(slots=True)
class Image:
    """A stage: its root filesystem, and what the container would be started with."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    entry_point: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program in the root filesystem, as root. Raises CalledProcessError when ``check`` and it fails."""
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
        return subprocess.run(
            ["chroot", str(self.root), *command],
            env=environment | self.environment,
            capture_output=True,
            text=True,
            check=check,
            timeout=600,
        )


def parse(path: Path) -> list[Instruction]:
    """The instructions of a Containerfile, with continued lines joined."""
    found: list[Instruction] = []
    pending = ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("#") or not (pending or line.strip()):
            continue
        pending += line.removesuffix("\\")
        if not line.endswith("\\"):
            word, _, rest = pending.strip().partition(" ")
            found.append(Instruction(word, rest.strip(), number))
            pending = ""
    return found


class Builder:
    """Builds the stages of a Containerfile below a directory, from a context directory."""

    def __init__(self, directory: Path, context: Callable[[Path], None], base: Callable[[str, Path], None]) -> None:
        self._directory = directory
        self._context = context
        self._base = base
        self._stages: dict[str, Image] = {}

    def build(self, path: Path) -> Image:
        """The last stage. Raises ValueError for an instruction that is not known."""
        image: Image | None = None
        for one in parse(path):
            if one.word == "FROM":
                image = self._begin(one)
            elif image is None:
                raise ValueError(f"{path}:{one.line}: {one.word} before FROM")
            else:
                self._carry_out(one, image)
        if image is None:
            raise ValueError(f"{path}: no FROM")
        return image

    def _begin(self, one: Instruction) -> Image:
        name, _, stage = one.rest.partition(" AS ")
        base = _BASE.fullmatch(name)
        if base is None:
            raise ValueError(f"line {one.line}: {name}: no base image that is known here")
        image = Image(self._directory / f"stage-{len(self._stages)}")
        self._base(base[1], image.root)
        self._stages[stage or str(len(self._stages))] = image
        return image

    def _carry_out(self, one: Instruction, image: Image) -> None:
        match one.word:
            case "RUN":
                self._run(one.rest, image)
            case "COPY":
                self._copy(one, image)
            case "ENV":
                name, _, value = one.rest.partition("=")
                image.environment[name] = value
            case "ENTRYPOINT":
                image.entry_point = json.loads(one.rest)
            case "CMD":
                image.command = json.loads(one.rest)
            case "EXPOSE" | "STOPSIGNAL" | "USER":
                pass
            case _:
                raise ValueError(f"line {one.line}: {one.word} is not known here")

    def _run(self, step: str, image: Image) -> None:
        """Run a step that trusts whom this machine trusts, as builders behind a proxy do; nothing of that stays."""
        trusted = image.root / "run" / "trusted.pem"
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(_TRUSTED, trusted)
            step = f"export PIP_CERT=/run/{trusted.name}; {step}"
        try:
            image.run("sh", "-c", step)
        finally:
            trusted.unlink(missing_ok=True)

    def _copy(self, one: Instruction, image: Image) -> None:
        *options, source, target = one.rest.split()
        destination = image.root / target.lstrip("/")
        if not options:
            self._context(destination)
            return
        stage = self._stages[options[0].removeprefix("--from=")]
        origin = stage.root / source.lstrip("/")
        destination.parent.mkdir(parents=True, exist_ok=True)
        if origin.is_dir() and not origin.is_symlink():
            shutil.copytree(origin, destination, symlinks=True)
        else:
            shutil.copy2(origin, destination, follow_symlinks=False)
