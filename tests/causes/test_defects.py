# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of known defects are well formed, and say of each release whether it has the defect."""

import re

import pytest

from iommud.causes.cause import CauseId
from iommud.causes.defects import Change, Component, Defect, defect, defects, read_defect
from iommud.data import data_names

NAMES = [name.removesuffix(".toml") for name in data_names("defects")]
PLAIN = {
    "id": "x",
    "title": "t",
    "component": "kernel",
    "certainty": "list",
    "effect": "e",
    "recognise": "r",
    "do": "d",
    "references": ["f"],
    "causes": [],
}


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_named_by_the_id_in_it_and_leaves_nothing_empty(name: str) -> None:
    found = defect(name)

    assert found.id == name
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    assert found.references
    assert all(text.strip() == text and text for text in (found.title, found.effect, found.recognise, found.do))
    assert all(text.endswith(".") for text in (found.effect, found.recognise, found.do))
    assert not found.title.endswith(".")


@pytest.mark.parametrize("one", defects(), ids=lambda one: one.id)
def test_commits_are_abbreviated_hashes_and_releases_do_not_run_backwards(one: Defect) -> None:
    changes = (*one.introduced, *one.fixed)

    assert all(change.commit is None or re.fullmatch(r"[0-9a-f]{12}", change.commit) for change in changes)
    for begun in one.introduced:
        for ended in one.fixed:
            if begun.version == ended.version and begun.stable is not None and ended.stable is not None:
                assert begun.stable < ended.stable


def test_the_kernels_own_problems_are_all_there() -> None:
    ours = {one.id for one in defects() if one.component is Component.KERNEL}

    assert ours >= {
        "viot-alias-record",
        "probe-order",
        "smmuv3-duplicate-stream",
        "smmuv3-shared-stream",
        "acs-late-device-tree",
        "acs-late-viot",
        "acs-late-stable-backport",
        "acs-quirks-skipped",
        "probe-pass-abandoned",
        "virtio-iommu-instance-lookup",
        "registration-race",
        "groups-never-joined",
        "switch-ports-without-acs",
    }


@pytest.mark.parametrize(
    ("name", "version", "stable", "has"),
    [
        ("viot-alias-record", (5, 10), 223, False),
        ("viot-alias-record", (5, 14), 0, True),
        ("viot-alias-record", (5, 19), 17, True),
        ("viot-alias-record", (6, 1), 5, None),
        ("viot-alias-record", (6, 4), 0, False),
        ("probe-order", (5, 10), None, True),
        ("probe-order", (6, 12), 95, True),
        ("probe-order", (6, 15), 0, False),
        ("registration-race", (6, 14), 0, False),
        ("registration-race", (7, 2), 13, True),
        ("smmuv3-stream-bug", (5, 10), 223, True),
        ("smmuv3-stream-bug", (5, 13), 0, False),
        ("smmuv3-duplicate-stream", (6, 1), 137, True),
        ("smmuv3-duplicate-stream", (6, 1), 138, False),
        ("smmuv3-duplicate-stream", (6, 1), None, None),
        ("smmuv3-duplicate-stream", (6, 8), None, True),
        ("smmuv3-shared-stream", (7, 3), 4, True),
        ("smmuv3-shared-stream", (5, 10), 1, False),
        ("acs-late-stable-backport", (6, 12), 74, False),
        ("acs-late-stable-backport", (6, 12), 75, True),
        ("acs-late-stable-backport", (6, 12), 82, True),
        ("acs-late-stable-backport", (6, 12), 83, False),
        ("acs-late-stable-backport", (6, 12), None, None),
        ("acs-late-stable-backport", (6, 13), 0, False),
        ("acs-late-stable-backport", (7, 3), 4, False),
        ("acs-late-device-tree", (6, 18), 15, True),
        ("acs-late-device-tree", (6, 18), 16, False),
        ("virtio-iommu-instance-lookup", (6, 16), 3, True),
        ("virtio-iommu-instance-lookup", (6, 16), 4, False),
        ("virtio-iommu-instance-lookup", (6, 15), None, True),
        ("late-probe-warning", (6, 15), 0, True),
        ("late-probe-warning", (6, 15), 1, False),
        ("late-probe-warning", (6, 15), None, None),
        ("acs-late-viot", (5, 15), 60, True),
        ("acs-late-viot", (5, 15), 61, False),
        ("acs-late-viot", (5, 17), 3, True),
        ("acs-late-device-tree", (6, 19), 3, None),
        ("acs-late-device-tree", (6, 12), 95, True),
        ("acs-on-breaks-switches", (6, 14), 1, False),
        ("acs-on-breaks-switches", (6, 19), None, True),
        ("acs-quirks-skipped", (6, 10), 9, False),
        ("acs-quirks-skipped", (6, 11), 9, True),
        ("aspeed-bridge-alias", (6, 19), 0, True),
        ("config-acs-parser", (6, 12), 22, True),
        ("config-acs-parser", (6, 12), 23, False),
        ("config-acs-parser", (6, 13), 5, True),
        ("groups-never-joined", (7, 3), 4, True),
        ("probe-pass-abandoned", (6, 16), 2, True),
        ("switch-ports-without-acs", (5, 10), 223, True),
        ("nvidia-reachability-groups", (6, 14), 0, False),
    ],
)
def test_a_release_has_a_defect_or_not_or_that_is_not_known(
    name: str, version: tuple[int, int], stable: int | None, has: bool | None
) -> None:
    assert defect(name).affects(version, stable) is has


KERNEL = [one for one in defects() if one.component is Component.KERNEL]
LAST_MINOR = {5: 19, 6: 19}
"""Of each major number before the newest, the last minor one."""


Release = tuple[tuple[int, int], int | None]


def mainline_before(version: tuple[int, int]) -> tuple[int, int]:
    major, minor = version
    return (major, minor - 1) if minor else (major - 1, LAST_MINOR[major - 1])


@pytest.mark.parametrize("one", KERNEL, ids=lambda one: one.id)
def test_both_sides_of_every_boundary_are_told_apart(one: Defect) -> None:
    for version, stable in _dated(one.introduced):
        assert one.affects(version, stable or 0) is True
        assert one.affects(*_one_before(version, stable)) is False
    for version, stable in _dated(one.fixed):
        assert one.affects(version, stable or 0) is False
        assert one.affects(*_one_before(version, stable)) is not False


def _dated(changes: tuple[Change, ...]) -> list[Release]:
    return [(one.version, one.stable) for one in changes if one.version is not None and not one.somewhere]


def _one_before(version: tuple[int, int], stable: int | None) -> Release:
    return (mainline_before(version), None) if stable is None else (version, stable - 1)


def test_somebody_about_to_upgrade_to_6_16_2_is_told_of_what_awaits() -> None:
    awaits = {one.id for one in KERNEL if one.affects((6, 16), 2)}

    assert awaits == {
        "acs-late-device-tree",
        "acs-on-breaks-switches",
        "aspeed-bridge-alias",
        "groups-never-joined",
        "late-multifunction",
        "probe-pass-abandoned",
        "registration-race",
        "smmuv3-shared-stream",
        "switch-ports-without-acs",
        "virtio-iommu-instance-lookup",
    }


@pytest.mark.parametrize(
    "change",
    [
        {"component": "firmware"},
        {"certainty": "hope"},
        {"causes": ["bad-luck"]},
        {"extra": 1},
        {"fixed": [{"release": "six"}]},
        {"fixed": [{}]},
        {"fixed": [{"release": "6.1", "author": "me"}]},
        {"signs": {"smell": "burnt"}},
        {"signs": {"log": "("}},
    ],
)
def test_a_malformed_file_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        read_defect({**PLAIN, **change})


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ValueError, match="component"):
        read_defect({key: value for key, value in PLAIN.items() if key != "component"})


def test_a_minimal_file_is_read() -> None:
    assert read_defect({**PLAIN, "causes": ["late-acs"]}).causes == (CauseId.LATE_ACS,)
