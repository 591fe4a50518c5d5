# SPDX-License-Identifier: GPL-2.0-or-later
"""This machine, and what is left of it without privileges."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from iommud import read_sysfs
from tests.cli.running import command, documents, environment, machine, port_and_endpoint, run
from tests.trees import config_space

CHECKOUT = Path(__file__).parents[2]
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all")


def as_nobody(*arguments: str) -> subprocess.CompletedProcess[str]:
    # Coverage stays out: nobody may not write its data.
    found = environment() | {"PYTHONPATH": str(CHECKOUT), "HOME": "/nonexistent"}
    return subprocess.run(
        [*NOBODY, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={name: value for name, value in found.items() if not name.startswith("COVERAGE_")},
        timeout=60,
    )


def why_not() -> str | None:
    """Why a process cannot become nobody here, or None."""
    if os.geteuid() != 0:
        return "only root can become somebody else"
    if shutil.which("setpriv") is None:
        return "setpriv is not installed"
    if as_nobody(sys.executable, "-c", "import typer, iommud.cli").returncode:
        return "nobody may not read this Python or this checkout"
    return None


REASON = why_not()
needs_nobody = pytest.mark.skipif(REASON is not None, reason=REASON or "")
needs_pci = pytest.mark.skipif(not Path("/sys/bus/pci/devices").is_dir(), reason="this machine has no PCI bus in sysfs")


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory for a machine that everybody may look into; those of pytest are closed to others."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        if as_nobody("test", "-x", name).returncode:
            pytest.skip("nobody may not look into the directory for temporary files")
        yield Path(name) / "machine"


@needs_pci
def test_this_machine_can_be_checked() -> None:
    answer = run("check", "--format", "json")

    (document,) = documents(answer.stdout)
    assert answer.returncode in (0, 1, 3)
    assert "Traceback" not in answer.stderr
    assert document["functions"] == len(os.listdir("/sys/bus/pci/devices"))  # noqa: PTH208 - a name for each is enough


@needs_pci
@needs_nobody
def test_this_machine_can_be_checked_by_anybody() -> None:
    answer = as_nobody(*command("check", "--format", "json"))

    (document,) = documents(answer.stdout)
    wanted = any(one.config.is_pcie is not None for one in read_sysfs().functions)
    assert answer.returncode in (0, 1, 3)
    assert answer.stderr == ""
    assert document["config_space"]["complete"] is not wanted


@needs_nobody
@pytest.mark.parametrize("verb", [["check"], ["tree", "--source"], ["groups", "--source"]])
def test_files_that_may_not_be_read_are_missing_facts(verb: list[str], root: Path) -> None:
    writer = machine(root)
    port_and_endpoint(writer, config_space(4, (0x5F, 0x1D), header=1))
    writer.write("sys/firmware/acpi/tables/DMAR", b"DMAR")
    for secret in (*root.rglob("config"), root / "sys/firmware/acpi/tables/DMAR"):
        secret.chmod(0)

    answer = as_nobody(*command(*verb, str(root)))

    assert "Traceback" not in answer.stderr
    assert answer.returncode == (1 if verb == ["check"] else 0)


@needs_nobody
def test_without_rights_the_answer_is_undecidable_and_says_so(root: Path) -> None:
    writer = machine(root)
    port_and_endpoint(writer, config_space(4, (0x5F, 0x1D), header=1))
    for number, path in enumerate(("0000:00:02.0", "0000:00:02.0/0000:01:00.0")):
        writer.group(number, path)
    for secret in root.rglob("config"):
        secret.chmod(0)

    answer = as_nobody(*command("check", "--format", "json", str(root)))

    assert answer.returncode == 3
    assert json.loads(answer.stdout)["status"] == "undecidable"
