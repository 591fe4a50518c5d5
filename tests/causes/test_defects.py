# SPDX-License-Identifier: GPL-2.0-or-later
"""The files of known defects are well formed, and say of each release whether it has the defect."""

import re

import pytest

from iommud.causes.cause import CauseId
from iommud.causes.defects import Component, Defect, defect, defects, read_defect
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
        ("late-probe-warning", (6, 16), 1, None),
        ("nvidia-reachability-groups", (6, 14), 0, False),
    ],
)
def test_a_release_has_a_defect_or_not_or_that_is_not_known(
    name: str, version: tuple[int, int], stable: int | None, has: bool | None
) -> None:
    assert defect(name).affects(version, stable) is has


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
