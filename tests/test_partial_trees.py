# SPDX-License-Identifier: GPL-2.0-or-later
"""A capture may lack anything: what it lacks makes no machine look worse than it is, and nothing breaks."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from iommud import check
from iommud.archive import open_source
from iommud.files import READ_LIMIT, ConfigFile, Stamp, Tree
from iommud.sysfs import take_snapshot
from iommud.verdict.findings import Kind, Severity

FIXTURES = Path(__file__).parent / "fixtures"
RIGHT = [
    "captures/6.12-amd64-intel-random-2-q7.2.tar.gz",
    "captures/6.12-amd64-intel-sriov-igb-q10.0.tar.gz",
    "captures/6.12-amd64-virtio-seed-rp-q10.0.tar.gz",
    "captures/6.12-arm64-smmuv3-seed-rp-q7.2.tar.gz",
    "captures/7.3-amd64-amd-seed-q7.2.tar.gz",
    "machines/precision5820.tar.gz",
    "machines/romed8-2t.tar.gz",
]


class Without:
    """A tree from which some files and directories are gone."""

    live = False

    def __init__(self, tree: Tree, gone: frozenset[str]) -> None:
        self._tree = tree
        self._gone = gone
        self.name = tree.name

    def _is_gone(self, path: str) -> bool:
        while path:
            if path in self._gone:
                return True
            path = path.rpartition("/")[0]
        return False

    def list(self, path: str) -> list[str] | None:
        names = None if self._is_gone(path) else self._tree.list(path)
        return None if names is None else [name for name in names if f"{path}/{name}" not in self._gone]

    def read(self, path: str, limit: int = READ_LIMIT) -> bytes | None:
        return None if self._is_gone(path) else self._tree.read(path, limit)

    def text(self, path: str) -> str | None:
        return None if self._is_gone(path) else self._tree.text(path)

    def link(self, path: str) -> str | None:
        return None if self._is_gone(path) else self._tree.link(path)

    def resolve(self, path: str) -> str | None:
        return None if self._is_gone(path) else self._tree.resolve(path)

    def exists(self, path: str) -> bool:
        return not self._is_gone(path) and self._tree.exists(path)

    def stamp(self, path: str) -> Stamp | None:
        return None if self._is_gone(path) else self._tree.stamp(path)

    def config(self, path: str) -> ConfigFile | None:
        return None if self._is_gone(path) else self._tree.config(path)


def below(tree: Tree, path: str) -> Iterator[str]:
    for name in tree.list(path) or ():
        place = f"{path}/{name}"
        yield place
        if tree.link(place) is None:
            yield from below(tree, place)


def paths_that_may_lack(tree: Tree) -> list[str]:
    """Everything but the PCI bus itself and the groups: a group that is gone is a defect, not a gap."""
    found = (*below(tree, "sys"), *below(tree, "proc"))
    return [path for path in found if "iommu_group" not in path and not path.startswith("sys/bus/pci")]


TREES = {name: open_source(str(FIXTURES / name)) for name in RIGHT}
PATHS = {name: paths_that_may_lack(tree) for name, tree in TREES.items()}


@pytest.mark.parametrize("share", [3, 10, 50])
@pytest.mark.parametrize("name", RIGHT)
def test_a_machine_that_is_right_gets_no_critical_finding_from_what_is_missing(name: str, share: int) -> None:
    for seed in range(12):
        random = Random(seed)  # noqa: S311 - a test that can be repeated, no secret
        gone = frozenset(path for path in PATHS[name] if random.randrange(share) == 0)

        report = check(take_snapshot(Without(TREES[name], gone)))

        assert not [one.id for one in report.findings if one.severity is Severity.CRITICAL], seed


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize(
    "attribute", ["config", "uevent", "vendor", "class", "secondary_bus_number", "driver", "physfn", "max_link_width"]
)
def test_an_attribute_that_is_missing_everywhere_splits_nothing(name: str, attribute: str) -> None:
    gone = frozenset(path for path in PATHS[name] if path.endswith(f"/{attribute}"))

    report = check(take_snapshot(Without(TREES[name], gone)))

    assert not {one.kind for one in report.findings} & {Kind.ALIAS_SPLIT, Kind.ISOLATION_SPLIT, Kind.NO_GROUPS}
