# SPDX-License-Identifier: GPL-2.0-or-later
"""The Python interface: what ``import iommud`` offers, and that it costs nothing until it is used."""

import subprocess
import sys
from pathlib import Path

import pytest

import iommud
from iommud import Address, Kind, Severity, SourceError, Status, check, read_sysfs
from iommud.kernel import requested
from tests.trees import TreeWriter, config_space

FIXTURES = Path(__file__).parent / "fixtures"
THREAD = FIXTURES / "captures" / "6.1bug-amd64-virtio-at-0x3-seed-vga-builtin-q7.2.tar.gz"


def test_two_calls_lead_from_a_capture_to_its_findings() -> None:
    report = check(read_sysfs(str(THREAD)))

    assert report.status is Status.FINDINGS
    assert [(one.kind, one.severity, min(one.devices)) for one in report.findings] == [
        (Kind.ISOLATION_SPLIT, Severity.CRITICAL, Address.parse("00:02.0")),
        (Kind.UNGROUPED, Severity.CRITICAL, Address.parse("01:00.0")),
    ]


def test_every_name_that_is_offered_is_there() -> None:
    assert all(getattr(iommud, name) is not None for name in iommud.__all__)
    assert sorted(iommud.__all__) == iommud.__all__


def test_other_names_are_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'iommud' has no attribute 'nonsense'"):
        _ = iommud.nonsense


def test_importing_the_package_loads_nothing_but_itself() -> None:
    script = "import sys, iommud; print(sorted(name for name in sys.modules if name.startswith('iommud')))"

    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert shown.stdout.strip() == "['iommud']"


@pytest.mark.parametrize("missing", ["nothing-here", "nothing-here.tar.gz"])
def test_a_source_that_is_not_there_is_an_error_that_names_it(missing: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError) as error:
        read_sysfs(str(tmp_path / missing))

    assert str(error.value) == f"{tmp_path / missing}: No such file or directory"


def test_the_mounts_of_this_machine_may_lie_elsewhere(tmp_path: Path) -> None:
    writer = TreeWriter(tmp_path)
    writer.write("proc/sys/kernel/osrelease", "6.6.1\n")
    writer.function("0000:00:03.0", driver="e1000e")

    snapshot = read_sysfs(sysfs=str(tmp_path / "sys"), procfs=str(tmp_path / "proc"))

    assert snapshot.kernel_release == "6.6.1"
    assert [one.driver for one in snapshot.functions] == ["e1000e"]


def test_the_kernel_decides_what_is_read(tmp_path: Path) -> None:
    """Tables of a later kernel vouch for more functions, whose registers then nobody needs."""
    writer = TreeWriter(tmp_path)
    for number in range(2):
        config = config_space(0, (0x1D, 0x1D), multifunction=True)
        writer.function(f"0000:00:03.{number}", "17cb:0115", config=config)

    old, new = (read_sysfs(str(tmp_path), kernel=requested(version)) for version in ("5.10", "6.1"))

    assert old.config_reads > new.config_reads == 0
