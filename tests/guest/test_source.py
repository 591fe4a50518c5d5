# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels from source, without building one: what is edited, what is configured, what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guest import source
from tests.guest.debian import Unavailable
from tests.guest.machine import AMD64, ARM64, Architecture
from tests.guest.source import (
    CONFIGURED,
    CONFIGURED_FOR,
    IMAGES,
    KERNELS_FROM_SOURCE,
    MAKE_VARIABLES,
    WITHOUT_VIOT_FIX,
    Edit,
    SuppliesWithSource,
    Tree,
    build,
    wanted_symbols,
    wrap,
)

EDIT = Edit(path="drivers/some.c", present="use(one)", instead="use(other)")


def source_with(text: str, directory: Path) -> Path:
    (directory / "drivers").mkdir()
    (directory / "drivers/some.c").write_text(text)
    return directory


def test_an_edit_changes_its_line_and_nothing_else(tmp_path: Path) -> None:
    tree = source_with("before();\nuse(one);\nafter();\n", tmp_path)

    EDIT.apply(tree)

    assert (tree / "drivers/some.c").read_text() == "before();\nuse(other);\nafter();\n"


@pytest.mark.parametrize("text", ["use(nothing);\n", "use(one);\nuse(one);\n"])
def test_an_edit_whose_line_is_not_there_exactly_once_changes_nothing_and_says_so(text: str, tmp_path: Path) -> None:
    tree = source_with(text, tmp_path)

    with pytest.raises(Unavailable, match=r"drivers/some\.c has 'use\(one\)' \d times, not once"):
        EDIT.apply(tree)
    assert (tree / "drivers/some.c").read_text() == text


def test_an_edit_of_a_file_that_the_source_does_not_have_says_so(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="0 times"):
        EDIT.apply(tmp_path)


def test_the_kernel_with_the_fault_is_the_other_one_with_the_fix_taken_back_and_nothing_else() -> None:
    assert dict(KERNELS_FROM_SOURCE) == {"6.1builtin": (), "6.1bug": (WITHOUT_VIOT_FIX,)}


@pytest.mark.parametrize("architecture", Architecture)
def test_every_architecture_is_configured_with_no_symbol_named_twice(architecture: Architecture) -> None:
    symbols = wanted_symbols(architecture)

    assert len(symbols) == len(set(symbols))
    assert {"VIRTIO_IOMMU", "PCIEPORTBUS", "E1000", "VIRTIO_NET"} <= set(symbols)
    assert CONFIGURED.split()[0] == symbols[0]
    assert set(CONFIGURED_FOR) == set(IMAGES) == set(MAKE_VARIABLES) == set(Architecture)


def test_a_machine_without_a_compiler_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(Unavailable, match=r"apt-get install gcc make binutils perl tar xz-utils"):
        build(tmp_path, AMD64, print)


def test_a_kernel_that_was_built_is_taken_from_the_cache(tmp_path: Path) -> None:
    kept = tmp_path / "kernels/6.1bug-arm64"
    kept.mkdir(parents=True)
    (kept / "release").write_text("6.1.7-lab-bug\n")

    kernel = SuppliesWithSource(tmp_path).kernel("6.1bug", ARM64)

    assert (kernel.release, kernel.image) == ("6.1.7-lab-bug", kept / "image")
    assert kernel.modules.depends_on("e1000") is None


def test_a_kernel_that_was_not_built_is_built_and_what_is_done_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def pretend(cache: Path, architecture: Architecture, say: source.Say, jobs: int) -> None:
        say(f"building with {jobs}")
        (cache / f"kernels/6.1builtin-{architecture}").mkdir(parents=True)
        (cache / f"kernels/6.1builtin-{architecture}/release").write_text("6.1.7\n")

    monkeypatch.setattr(source, "build", pretend)

    assert SuppliesWithSource(tmp_path, said.append, jobs=2).kernel("6.1builtin", AMD64).release == "6.1.7"
    assert said == ["building with 2"]


def test_an_unpacked_tool_runs_with_its_own_libraries_and_the_machines_own_come_first(tmp_path: Path) -> None:
    tools = tmp_path / "to ols"
    (tools / "usr/bin").mkdir(parents=True)
    for name in ("no-such-tool-here", "sh"):
        (tools / "usr/bin" / name).write_text('#!/bin/sh\necho "$LD_LIBRARY_PATH: $*"\n')
        (tools / "usr/bin" / name).chmod(0o755)

    wrap(tools, tmp_path / "wrappers")

    assert [path.name for path in (tmp_path / "wrappers").iterdir()] == ["no-such-tool-here"]
    done = subprocess.run([tmp_path / "wrappers/no-such-tool-here", "a b"], capture_output=True, text=True, check=True)
    assert done.stdout == f"{tools}/usr/lib/x86_64-linux-gnu:{tools}/lib/x86_64-linux-gnu: a b\n"


MAKE = f"""\
#!{sys.executable}
import os, pathlib, sys
words = dict(word.split("=", 1) for word in sys.argv if "=" in word)
output = pathlib.Path(words["O"])
if sys.argv[-1] == "allnoconfig":
    wanted = pathlib.Path(words["KCONFIG_ALLCONFIG"]).read_text()
    (output / ".config").write_text(wanted.replace(os.environ.get("NOT", "-"), "CONFIG_OTHER"))
elif os.environ.get("FAIL"):
    sys.exit("cc: no  space\\nleft")
else:
    image = output / "arch/arm64/boot/Image"
    image.parent.mkdir(parents=True)
    image.write_text("image of " + words["ARCH"])
    (output / "include/config").mkdir(parents=True)
    (output / "include/config/kernel.release").write_text("6.1.7" + words["LOCALVERSION"])
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """A tree whose ``make`` does as the kernel's does, in a moment."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/make").write_text(MAKE)
    (tmp_path / "bin/make").chmod(0o755)
    (tmp_path / "tools/usr/bin").mkdir(parents=True)
    (tmp_path / "linux").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return Tree(source=tmp_path / "linux", output=tmp_path / "output", architecture=ARM64, jobs=2)


def test_a_build_keeps_the_image_its_release_and_its_configuration(tree: Tree, tmp_path: Path) -> None:
    tree.prepare(tmp_path / "tools", tmp_path / "wrappers")
    kept = tree.build("6.1bug")

    assert (kept / "image").read_text() == "image of arm64"
    assert (kept / "release").read_text() == "6.1.7-61bug"
    assert "CONFIG_ARM_SMMU_V3=y" in (kept / "config").read_text().splitlines()


def test_a_source_that_cannot_be_configured_as_wanted_names_what_it_lacks(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOT", "CONFIG_VIRTIO_IOMMU")

    with pytest.raises(Unavailable, match="linux does not let itself be configured with VIRTIO_IOMMU"):
        tree.prepare(tmp_path / "tools", tmp_path / "wrappers")


def test_a_build_that_fails_gives_the_words_of_the_compiler(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIL", "yes")
    tree.prepare(tmp_path / "tools", tmp_path / "wrappers")

    with pytest.raises(Unavailable, match="make Image: cc: no space left"):
        tree.build("6.1bug")


def test_the_machines_own_bison_is_used_with_its_own_data(tree: Tree, tmp_path: Path) -> None:
    shutil.copy(tmp_path / "bin/make", tmp_path / "bin/bison")
    tree.prepare(tmp_path / "tools", tmp_path / "wrappers")

    assert "BISON_PKGDATADIR" not in tree.environment
    assert tree.environment["KBUILD_BUILD_HOST"] == "guest-lab"
