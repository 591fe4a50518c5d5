# SPDX-License-Identifier: GPL-2.0-or-later
"""Release strings of distributions, and the stable release behind each."""

import pytest

from iommud.kernel import Kernel, identify, parse_release, requested

DEBIAN = (
    "Linux version 6.1.0-50-amd64 (debian-kernel@lists.debian.org) (gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0, "
    "GNU ld (GNU Binutils for Debian) 2.40) #1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-07-02)"
)
UBUNTU = (
    "Linux version 6.8.0-45-generic (buildd@lcy02) (x86_64-linux-gnu-gcc-13 (Ubuntu 13.2.0-23ubuntu4) 13.2.0) "
    "#45-Ubuntu SMP PREEMPT_DYNAMIC (Ubuntu 6.8.0-45.45-generic 6.8.12)"
)


@pytest.mark.parametrize(
    ("release", "version", "stable"),
    [
        ("6.12.95+deb12-amd64", (6, 12), 95),
        ("5.14.0-503.el9", (5, 14), None),
        ("5.14.0-503.11.1.el9_5.x86_64", (5, 14), None),
        ("6.8.0-45-generic", (6, 8), None),
        ("6.1.0-rpi7-rpi-v8", (6, 1), None),
        ("6.1.0-50-amd64", (6, 1), None),
        ("6.9.10-zen1-1-zen", (6, 9), 10),
        ("6.5.13-3-pve", (6, 5), 13),
        ("7.3.4+deb13-arm64", (7, 3), 4),
        ("7.0.0-rc1", (7, 0), None),
        ("6.6.48", (6, 6), 48),
        ("6.6", (6, 6), None),
        ("v6.12", (6, 12), None),
        ("  6.12.1\n", (6, 12), 1),
    ],
)
def test_a_release_string_gives_its_version(release: str, version: tuple[int, int], stable: int | None) -> None:
    kernel = parse_release(release)

    assert kernel is not None
    assert (kernel.version, kernel.stable) == (version, stable)


@pytest.mark.parametrize("release", ["", "next", "-6.1", "six", "6", "6.x"])
def test_what_does_not_begin_with_a_version_is_none(release: str) -> None:
    assert parse_release(release) is None


@pytest.mark.parametrize(
    ("release", "line", "stable"),
    [
        ("6.1.0-50-amd64", DEBIAN, 176),
        (None, DEBIAN, 176),
        ("6.8.0-45-generic", UBUNTU, 12),
        ("6.12.95+deb12-amd64", DEBIAN, 95),
        ("6.1.0-50-amd64", None, None),
    ],
)
def test_the_version_line_tells_the_stable_release(release: str | None, line: str | None, stable: int | None) -> None:
    assert identify(release, line).stable == stable


@pytest.mark.parametrize(("release", "line"), [(None, None), ("unknown", None), (None, "no such thing")])
def test_an_unreadable_release_means_the_newest_model(release: str | None, line: str | None) -> None:
    kernel = identify(release, line)

    assert not kernel.readable
    assert kernel.version == (7, 3)


def test_kernels_of_the_nvidia_flavour_may_group_otherwise() -> None:
    assert identify("6.14.0-1007-nvidia-64k", None).downstream is not None
    assert identify("6.14.0-generic", None).downstream is None


@pytest.mark.parametrize(("text", "shown"), [("6.12.95+deb12-amd64", "6.12.95"), ("6.8.0-45-generic", "6.8")])
def test_a_kernel_is_shown_by_its_version(text: str, shown: str) -> None:
    assert str(requested(text)) == shown


def test_versions_are_ordered() -> None:
    assert requested("6.15").at_least(6, 15)
    assert not requested("6.12.95").at_least(6, 15)
    assert requested("7.0").at_least(6, 15)


@pytest.mark.parametrize("text", ["new", "", "6"])
def test_a_kernel_that_is_asked_for_and_cannot_be_read_is_the_newest_one(text: str) -> None:
    assert requested(text) == Kernel(text=text, version=(7, 3), stable=None, readable=False)


def test_kernels_are_values() -> None:
    assert requested("6.1") == Kernel(text="6.1", version=(6, 1), stable=None)
