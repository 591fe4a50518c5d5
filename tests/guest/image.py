# SPDX-License-Identifier: GPL-2.0-or-later
"""The initramfs of a guest: busybox, Debian's Python, iommud's wheel with its dependencies, modules, and an init.

It is put together from three archives: the part with iommud is made once for each state of the sources, the part
with the modules once for each kernel, and the init for each cell.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tests.guest.cpio import Entry, archive, character_device, directory, entries_of, link, regular
from tests.guest.debian import Unavailable, fingerprint
from tests.guest.machine import AMD64, Architecture
from tests.guest.supplies import Kernel, Supplies, library_path

ROOT = Path(__file__).parent.parent.parent
SOURCES = ("iommud", "pyproject.toml", "README.md", "LICENSE")
PYTHON_VERSION = "3.11"
PYTHON = f"python{PYTHON_VERSION}"
# Parts of the standard library that no program of ours loads, and tables of locales.
NOT_NEEDED = frozenset(
    {"test", "idlelib", "lib2to3", "ensurepip", "pydoc_data", "tkinter", "turtledemo", "gconv", "audit", "perl-base"}
    | {"__pycache__", "pip", "pygments", "systemd", "security", "engines-3", "sitecustomize.py"}
)
# Below the directories of libraries, what is no library that Python loads.
NO_LIBRARIES = frozenset({PYTHON, "python3", "tmpfiles.d", "udev", "dpkg", "valgrind", "terminfo"})
KEPT_STATES = 3
PLATFORMS = {Architecture.AMD64: "x86_64", Architecture.ARM64: "aarch64"}


def source_digest(root: Path = ROOT) -> str:
    """A digest of everything that the wheel is made of."""
    digest = hashlib.sha256()
    for name in SOURCES:
        top = root / name
        files = [top] if top.is_file() else sorted(path for path in top.rglob("*") if path.is_file())
        for path in files:
            if "__pycache__" not in path.parts:
                digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def base_archives(supplies: Supplies, architecture: Architecture) -> tuple[Path, ...]:
    """The parts of the initramfs that all guests of an architecture share. Raises Unavailable."""
    python = supplies.python(architecture)
    images = supplies.cache / "images"
    name = f"{architecture}-{fingerprint(python)}"
    interpreter = images / f"python-{name}.cpio"
    program = images / f"iommud-{name}-{source_digest()}.cpio"
    _made(interpreter, lambda staging: _interpreter(supplies, architecture, staging))
    if _made(program, lambda staging: _program(supplies, architecture, staging)):
        forget_old(images, f"iommud-{architecture}-*.cpio")
    return interpreter, program


def forget_old(directory: Path, pattern: str) -> None:
    """Remove all but the newest few of what was made from other states of the sources."""
    newest_first = sorted(directory.glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in newest_first[KEPT_STATES:]:
        path.unlink(missing_ok=True)


def _made(path: Path, entries: Callable[[Path], Iterable[Entry]]) -> bool:
    """Make an archive if there is none; whether that was so. It is there whole or not at all."""
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".making-") as making:
        staging = Path(making, "staging")
        staging.mkdir()
        whole = Path(making, "archive")
        whole.write_bytes(archive(entries(staging)))
        whole.rename(path)
    return True


def modules_archive(kernel: Kernel, names: Iterable[str]) -> bytes:
    """The modules of those names that this kernel has, as an archive."""
    found = ((name, kernel.modules.read(name)) for name in names)
    return archive(regular(f"modules/{name}.ko", content) for name, content in found if content is not None)


def init_archive(script: str) -> bytes:
    """The guest's init and the console that the kernel opens for it."""
    nodes = [character_device("dev/console", 5, 1), character_device("dev/null", 1, 3)]
    return archive([*nodes, regular("init", script.encode(), 0o755)])


def _interpreter(supplies: Supplies, architecture: Architecture, staging: Path) -> Iterator[Entry]:
    """Busybox, and Python with its library, byte-compiled."""
    tree = supplies.python(architecture)
    ignore = shutil.ignore_patterns(*NOT_NEEDED)
    for version in (PYTHON, "python3"):
        if (tree / "usr/lib" / version).exists():
            shutil.copytree(tree / "usr/lib" / version, staging / "usr/lib" / version, ignore=ignore, symlinks=True)
    _compile(supplies.python(AMD64), staging)
    yield from (directory(path) for path in ("proc", "sys", "dev", "tmp", "root", "run"))
    yield regular("bin/busybox", supplies.busybox(architecture), 0o755)
    yield regular(f"usr/bin/{PYTHON}", (tree / "usr/bin" / PYTHON).read_bytes(), 0o755)
    # The guest's PATH is bin/ alone, where busybox puts its links.
    yield link(f"bin/{PYTHON}", f"/usr/bin/{PYTHON}")
    yield from entries_of(staging)
    for libraries in ("lib", "lib64", "usr/lib"):
        yield from entries_of(tree / libraries, below=libraries, skip=NOT_NEEDED | NO_LIBRARIES)


def _program(supplies: Supplies, architecture: Architecture, staging: Path) -> Iterator[Entry]:
    """What pip installs of iommud for the guest, byte-compiled."""
    with tempfile.TemporaryDirectory() as building:
        _install(supplies, architecture, staging / "opt/iommud", build_wheel(supplies, Path(building)))
    _compile(supplies.python(AMD64), staging)
    yield from entries_of(staging)


def build_wheel(supplies: Supplies, building: Path) -> Path:
    """The wheel of iommud, built from the checkout into a directory of its own; the builder is fetched once."""
    builder = supplies.cache / "builder"
    if not builder.exists():
        _pip("install", "--quiet", "--target", str(builder), "hatchling", "editables")
    for name in SOURCES:
        _copy(ROOT / name, building / name)
    options = ("--no-build-isolation", "--no-deps", "--wheel-dir", str(building / "wheels"))
    _pip("wheel", "--quiet", *options, str(building), path=builder)
    return next((building / "wheels").glob("iommud-*.whl"))


def _install(supplies: Supplies, architecture: Architecture, target: Path, wheel: Path) -> None:
    """The wheel and its dependencies for the guest's Python, whatever this machine is."""
    kept = download_wheels(supplies, architecture, wheel)
    options = [*_pip_options(architecture, PYTHON_VERSION), "--no-index", f"--find-links={kept}", f"--target={target}"]
    _pip("install", "--quiet", "--no-compile", *options, str(wheel))


def download_wheels(supplies: Supplies, architecture: Architecture, wheel: Path, version: str = PYTHON_VERSION) -> Path:
    """A directory with the wheels that a wheel of iommud needs in a guest; fetched once."""
    suffix = "" if version == PYTHON_VERSION else f"-{version}"
    kept = supplies.cache / "wheels" / f"{architecture}{suffix}"
    if not kept.exists():
        _pip("download", "--quiet", *_pip_options(architecture, version), "--dest", str(kept), str(wheel))
        for own in kept.glob("iommud-*.whl"):
            own.unlink()
    return kept


def _pip_options(architecture: Architecture, version: str) -> list[str]:
    """What makes pip choose wheels for the guest."""
    machine = PLATFORMS[architecture]
    platforms = [f"--platform={tag}_{machine}" for tag in ("manylinux2014", "manylinux_2_28", "manylinux_2_34")]
    return ["--only-binary=:all:", f"--python-version={version}", "--implementation=cp", *platforms]


def _compile(python: Path, staging: Path) -> None:
    """Bytecode that needs no look at its source: the guest would spend most of its time compiling."""
    loader = str(python / "lib64/ld-linux-x86-64.so.2")
    command = [loader, "--library-path", library_path(python), str(python / "usr/bin" / PYTHON), "-m", "compileall"]
    quietly = ["-q", "-q", "-j", "2", "--invalidation-mode", "unchecked-hash", "-s", str(staging), "-p", "/"]
    environment = {"PYTHONHOME": str(python / "usr"), "PATH": os.environ["PATH"]}
    subprocess.run([*command, *quietly, str(staging)], env=environment, check=False, stdout=subprocess.DEVNULL)


def _pip(*arguments: str, path: Path | None = None) -> None:
    extra = {"PYTHONPATH": str(path)} if path else {}
    command = [sys.executable, "-m", "pip", *arguments]
    done = subprocess.run(command, env={**os.environ, **extra}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"pip {arguments[0]}: {done.stderr.strip()[-500:]}")


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)
