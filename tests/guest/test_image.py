# SPDX-License-Identifier: GPL-2.0-or-later
"""The initramfs: its form, the order of modules, the packages of a suite."""

from __future__ import annotations

import lzma
import os
import re
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.guest.cells import SMOKE
from tests.guest.cpio import Entry, archive, character_device, directory, entries_of, link, regular, with_parents
from tests.guest.debian import Apt, Package, Suite, Unavailable, numbers, packages_in
from tests.guest.image import forget_old
from tests.guest.machine import Architecture
from tests.guest.modules import ModuleTree, decompressed, depends, load_order, module_name
from tests.guest.plan import steps_of
from tests.guest.steps import init_script
from tests.guest.supplies import kernel_pattern


def parsed(data: bytes) -> dict[str, tuple[int, bytes]]:
    """Read a newc archive by its definition: path -> mode and content."""
    found: dict[str, tuple[int, bytes]] = {}
    position = 0
    while True:
        assert data[position : position + 6] == b"070701"
        fields = [int(data[position + 6 + 8 * i : position + 14 + 8 * i], 16) for i in range(13)]
        name = data[position + 110 : position + 110 + fields[11] - 1].decode()
        start = (position + 110 + fields[11] + 3) & ~3
        if name == "TRAILER!!!":
            assert len(data) == start
            return found
        found[name] = (fields[1], data[start : start + fields[6]])
        position = (start + fields[6] + 3) & ~3


PATHS = st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=4).map("/".join)


@given(st.dictionaries(PATHS, st.binary(max_size=20), max_size=8))
def test_an_archive_gives_back_the_files_that_were_put_in(files: dict[str, bytes]) -> None:
    placed = {path: content for path, content in files.items() if not any(p.startswith(f"{path}/") for p in files)}
    found = parsed(archive(regular(path, content) for path, content in placed.items()))

    assert {path: content for path, (mode, content) in found.items() if stat.S_ISREG(mode)} == placed


@given(st.lists(PATHS, max_size=8))
def test_every_directory_comes_once_and_before_what_lies_in_it(paths: list[str]) -> None:
    order = [entry.path for entry in with_parents(regular(path, b"") for path in paths)]

    assert len(set(order)) == len(order)
    for position, path in enumerate(order):
        above = path.rpartition("/")[0]
        assert not above or above in order[:position]


def test_every_kind_of_entry_has_its_mode() -> None:
    found = parsed(
        archive([directory("d"), regular("f", b"x", 0o755), link("l", "/target"), character_device("c", 5, 1)])
    )

    assert found["d"][0] == stat.S_IFDIR | 0o755
    assert found["f"] == (stat.S_IFREG | 0o755, b"x")
    assert found["l"] == (stat.S_IFLNK | 0o777, b"/target")
    assert stat.S_ISCHR(found["c"][0])


def test_archives_end_on_a_boundary_so_that_another_can_follow() -> None:
    assert len(archive([Entry("odd", stat.S_IFREG, b"123")])) % 4 == 0


def test_a_tree_is_taken_with_links_and_without_what_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "lib/test").mkdir(parents=True)
    (tmp_path / "lib/test/left").write_text("out")
    (tmp_path / "lib/kept").write_text("in")
    (tmp_path / "lib/program").write_text("run")
    (tmp_path / "lib/program").chmod(0o755)
    (tmp_path / "link").symlink_to("lib")
    found = {one.path: one for one in entries_of(tmp_path, below="usr", skip=frozenset({"test"}))}

    assert set(found) == {"usr/lib/kept", "usr/lib/program", "usr/link"}
    assert stat.S_ISLNK(found["usr/link"].mode)
    assert found["usr/lib/program"].mode & 0o777 == 0o755


@pytest.mark.parametrize(
    ("path", "name"),
    [("drivers/virtio-iommu.ko.xz", "virtio_iommu"), ("e1000.ko", "e1000"), ("a/i2c-i801.ko.zst", "i2c_i801")],
)
def test_a_module_is_known_by_its_name_with_underscores(path: str, name: str) -> None:
    assert module_name(path) == name


@pytest.mark.parametrize(
    ("info", "found"),
    [
        (b"license=GPL\0depends=virtio-ring,virtio\0retpoline=Y\0", ("virtio_ring", "virtio")),
        (b"\0depends=\0", ()),
        (b"\0softdepends=x\0", ()),
    ],
)
def test_what_a_module_needs_is_read_from_it(info: bytes, found: tuple[str, ...]) -> None:
    assert depends(info) == found


def test_a_module_is_loaded_after_what_it_needs_and_once() -> None:
    needs = {"ahci": ("libahci", "libata"), "libahci": ("libata",), "libata": ("scsi_mod",), "scsi_mod": ()}

    assert load_order(["ahci", "libata", "built_in"], needs.get) == ("scsi_mod", "libata", "libahci", "ahci")


def test_modules_that_need_each_other_are_loaded_nevertheless() -> None:
    assert set(load_order(["a"], {"a": ("b",), "b": ("a",)}.get)) == {"a", "b"}


def test_compressed_modules_are_found_and_decompressed(tmp_path: Path) -> None:
    (tmp_path / "drivers").mkdir()
    (tmp_path / "drivers/virtio-iommu.ko.xz").write_bytes(lzma.compress(b"\0depends=virtio\0"))
    tree = ModuleTree(tmp_path)

    assert tree.depends_on("virtio_iommu") == ("virtio",)
    assert tree.read("virtio") is None
    assert tree.depends_on("virtio") is None


def test_a_module_that_is_not_compressed_stays_as_it_is() -> None:
    assert decompressed(b"\x7fELF") == b"\x7fELF"


def test_packages_keep_their_epoch_and_their_plus_signs() -> None:
    uris = (
        "Reading package lists...\n"
        "'http://x/q/qemu_7.2%2bdfsg_amd64.deb' qemu_1%3a7.2+dfsg_amd64.deb 100 SHA256:0\n"
        "'http://x/l/libc6_2.36_amd64.deb' libc6_2.36_amd64.deb 100 SHA256:0\n"
    )

    assert packages_in(uris) == [Package("qemu", "1:7.2+dfsg"), Package("libc6", "2.36")]


@pytest.mark.parametrize(
    ("suite", "wanted"),
    [
        (Suite("sid", "amd64"), ["sid"]),
        (Suite("bookworm", "amd64"), ["bookworm", "bookworm-security"]),
        (Suite("bookworm", "arm64", security=False), ["bookworm"]),
        (Suite("trixie-backports", "amd64"), ["trixie", "trixie-security", "trixie-backports"]),
    ],
)
def test_a_suite_has_the_sources_that_it_needs(suite: Suite, wanted: list[str]) -> None:
    assert [line.split()[3] for line in suite.sources().splitlines()] == wanted


def test_only_the_newest_states_are_kept(tmp_path: Path) -> None:
    for age in range(6):
        path = tmp_path / f"iommud-{age}.cpio"
        path.touch()
        os.utime(path, (1000 - age, 1000 - age))
    (tmp_path / "python.cpio").touch()
    forget_old(tmp_path, "iommud-*.cpio")

    assert {path.name for path in tmp_path.iterdir()} == {"python.cpio", *(f"iommud-{age}.cpio" for age in range(3))}


def test_the_packages_of_an_unpacked_tree_need_no_network(tmp_path: Path) -> None:
    tree = tmp_path / "trees/linux-sid-amd64"
    tree.mkdir(parents=True)
    (tree / ".complete").write_text("linux 1\n")

    assert Apt(Suite("sid", "amd64"), tmp_path).unpacked(("linux",), "linux") == tree
    assert not (tmp_path / "apt").exists()


def test_the_init_is_a_script_that_a_shell_can_parse(tmp_path: Path) -> None:
    for cell in SMOKE.values():
        script = tmp_path / "init"
        script.write_text(init_script(steps_of(cell, lambda _: ()), "ttyS1"))
        subprocess.run(["sh", "-n", script], check=True)


NAMES = [
    "linux-image-6.18.9+deb13-amd64",
    "linux-image-6.18.15+deb13-amd64",
    "linux-image-6.18.15+deb13-rt-amd64",
    "linux-image-6.18.15+deb13-cloud-amd64",
    "linux-image-6.18.15+deb13-amd64-unsigned",
    "linux-image-6.16.3+deb13-amd64",
    "linux-modules-6.18.15+deb13-amd64",
]


@pytest.mark.parametrize(
    ("part", "release", "found"),
    [
        ("image", "6.18.", ["linux-image-6.18.9+deb13-amd64", "linux-image-6.18.15+deb13-amd64"]),
        ("image", "6.16.3+", ["linux-image-6.16.3+deb13-amd64"]),
        ("(image|modules)", "6.18.15+deb13", ["linux-image-6.18.15+deb13-amd64", "linux-modules-6.18.15+deb13-amd64"]),
        ("image", "6.17.", []),
    ],
)
def test_a_release_is_found_among_the_packages_of_a_suite(part: str, release: str, found: list[str]) -> None:
    pattern = kernel_pattern(part, release, Architecture.AMD64)

    assert sorted(filter(re.compile(pattern).search, NAMES), key=numbers) == found


def test_without_apt_the_lab_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(Unavailable, match=r"there is no apt-get here: .* Debian's packages"):
        Apt(Suite("bookworm", "amd64"), tmp_path).unpacked(["python3"], "python")


def test_what_is_unpacked_is_found_again_without_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "trees" / "python-bookworm-amd64"
    kept.mkdir(parents=True)
    (kept / ".complete").touch()
    monkeypatch.setenv("PATH", str(tmp_path))

    assert Apt(Suite("bookworm", "amd64"), tmp_path).unpacked(["python3"], "python") == kept
