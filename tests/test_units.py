# SPDX-License-Identifier: GPL-2.0-or-later
"""The units: systemd understands them, they ask for no more than they need, and say why where they ask for it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from iommud.sysfs import _READ_TABLES

SYSTEMD = Path(__file__).parent.parent / "systemd"
SERVICES = ("iommud.service", "iommud-web.service", "iommud-check.service")
UNITS = (*SERVICES, "iommud-web.socket", "iommud-check.timer")
PROGRAM = "/opt/iommud/bin/iommud"

EXPOSURE = {"iommud.service": 8, "iommud-web.service": 3, "iommud-check.service": 11}
"""Highest exposure that `systemd-analyze security` may find, in tenths."""

analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze (Debian: apt-get install systemd)"
)


def text_of(unit: str) -> str:
    return (SYSTEMD / unit).read_text(encoding="utf-8")


def settings(unit: str) -> list[tuple[str, str]]:
    """Every assignment of a unit, in order; the same name may come several times."""
    lines = [line for line in text_of(unit).splitlines() if line and line[0] not in "#;["]
    return [(name, value) for name, _, value in (line.partition("=") for line in lines)]


def values(unit: str, name: str) -> list[str]:
    return [value for named, value in settings(unit) if named == name]


def comments(unit: str) -> str:
    return "\n".join(line for line in text_of(unit).splitlines() if line.startswith("#"))


def security(unit: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", *options, str(SYSTEMD / unit)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@analyze
def test_systemd_understands_every_line(tmp_path: Path) -> None:
    for unit in UNITS:
        # The program is not installed here; `true` is a program that is.
        (tmp_path / unit).write_text(text_of(unit).replace(PROGRAM, str(shutil.which("true"))), encoding="utf-8")
    command = ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / unit) for unit in UNITS)]

    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    complaints = [line for line in done.stderr.splitlines() if "iommud" in line]
    assert complaints == []
    assert done.returncode == 0, done.stderr


@analyze
def test_a_line_that_systemd_does_not_understand_would_be_noticed(tmp_path: Path) -> None:
    unit = tmp_path / "iommud.service"
    unit.write_text("[Service]\nExecStart=/bin/true\nProtectEverything=yes\n", encoding="utf-8")

    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False)

    assert "iommud.service:3" in done.stderr


@analyze
@pytest.mark.parametrize("unit", SERVICES)
def test_the_exposure_of_a_service_is_bounded(unit: str) -> None:
    done = security(unit, f"--threshold={EXPOSURE[unit]}")

    assert done.returncode == 0, done.stdout.splitlines()[-1]
    assert security(unit, "--threshold=1").returncode != 0, "the threshold is not looked at"


@analyze
@pytest.mark.parametrize("unit", SERVICES)
def test_every_protection_that_is_left_out_has_its_reason_in_a_comment(unit: str) -> None:
    table = json.loads(security(unit, "--json=short").stdout)
    missing = [row["name"] for row in table if not row["set"] and row["exposure"] not in (None, "0.0")]
    # "RestrictAddressFamilies=~AF_UNIX" is explained by its family, "User=/DynamicUser=" by the latter.
    words = {name: re.findall(r"\w+", name)[-1] for name in missing}

    assert missing
    assert {name: word for name, word in words.items() if word not in comments(unit)} == {}


@pytest.mark.parametrize(
    ("unit", "capabilities"),
    [("iommud.service", "CAP_SYS_ADMIN"), ("iommud-check.service", "CAP_SYS_ADMIN"), ("iommud-web.service", "")],
)
def test_a_service_has_the_capability_to_read_config_space_or_none(unit: str, capabilities: str) -> None:
    assert values(unit, "CapabilityBoundingSet") == [capabilities]
    assert ("pci_read_config" in comments(unit) or "see iommud.service" in comments(unit)) == bool(capabilities)


@pytest.mark.parametrize("unit", SERVICES)
def test_no_service_can_reach_the_network(unit: str) -> None:
    assert values(unit, "PrivateNetwork") == ["yes"]
    assert values(unit, "IPAddressDeny") == ["any"]
    assert "AF_INET" not in " ".join(values(unit, "RestrictAddressFamilies"))


def test_the_server_runs_in_a_user_namespace_and_the_collector_does_not() -> None:
    assert values("iommud-web.service", "PrivateUsers") == ["yes"]
    assert values("iommud.service", "PrivateUsers") == []


def test_neither_of_the_two_services_takes_the_other_with_it() -> None:
    binding = {"Requires", "Requisite", "BindsTo", "PartOf", "Conflicts"}
    bound = {unit: [value for name, value in settings(unit) if name in binding] for unit in SERVICES}

    assert bound == {"iommud.service": [], "iommud-web.service": ["iommud-web.socket"], "iommud-check.service": []}


def test_the_runtime_directory_outlives_the_collector_and_is_mounted_for_the_server() -> None:
    assert values("iommud.service", "RuntimeDirectory") == ["iommud"]
    assert values("iommud.service", "RuntimeDirectoryPreserve") == ["yes"]
    assert "-/run/private/iommud:/run/iommud" in values("iommud-web.service", "BindReadOnlyPaths")
    assert "--runtime-directory=/run/iommud" in values("iommud-web.service", "ExecStart")[0]


@pytest.mark.parametrize("unit", ["iommud.service", "iommud-check.service"])
def test_a_credential_whose_file_is_missing_has_a_value_in_its_place(unit: str) -> None:
    loaded = [value.partition(":")[0] for value in values(unit, "LoadCredential")]

    assert loaded
    assert values(unit, "SetCredential") == [f"{name}:absent" for name in loaded]


def test_the_tables_handed_out_are_those_that_iommud_reads() -> None:
    tables = [value for value in values("iommud.service", "LoadCredential") if value.startswith("acpi-")]

    assert tables == [f"acpi-{name}:/sys/firmware/acpi/tables/{name}" for name in _READ_TABLES]


def test_the_server_listens_on_loopback_alone() -> None:
    assert values("iommud-web.socket", "ListenStream") == ["127.0.0.1:9798"]


@pytest.mark.parametrize(("unit", "variable"), [*zip(SERVICES, ["", "_WEB", "_CHECK"], strict=True)])
def test_the_options_of_each_service_have_their_variable_in_the_defaults(unit: str, variable: str) -> None:
    name = f"IOMMUD{variable}_OPTIONS"

    assert values(unit, "EnvironmentFile") == ["-/etc/default/iommud"]
    assert values(unit, "ExecStart")[0].endswith(f" ${name}")
    assert f"{name}=" in values(unit, "Environment"), "an unset variable is a warning in the journal at each start"
    assert f'\n{name}=""\n' in text_of("iommud.default")


def options_of(verb: str) -> set[str]:
    command = [sys.executable, "-m", "iommud", verb, "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, cwd=SYSTEMD.parent).stdout
    return set(re.findall(r"(?<!\S)--[\w.-]*\w\b(?!-)", text)) - {"--help"}


@pytest.mark.parametrize(("unit", "verb"), [*zip(SERVICES, ["run", "serve", "check"], strict=True)])
def test_the_program_has_every_option_that_a_unit_or_the_defaults_give_it(unit: str, verb: str) -> None:
    section = text_of("iommud.default").partition(f", {unit}")[2].partition("OPTIONS=")[0]
    given = re.findall(r"--[\w.-]+", values(unit, "ExecStart")[0]) + re.findall(r"--[\w.-]+", section)

    assert given
    assert set(given) - options_of(verb) == set()


@pytest.mark.parametrize(("unit", "verb"), [("iommud.service", "run"), ("iommud-web.service", "serve")])
def test_the_defaults_mention_every_option_of_the_daemon(unit: str, verb: str) -> None:
    section = text_of("iommud.default").partition(f", {unit}")[2].partition("OPTIONS=")[0]
    settled = {"--runtime-directory", "--state-directory", "--web", "--no-web", "--watch.uevents", "--watch.groups"}
    elsewhere = {option for option in options_of(verb) if option.startswith("--web.")} if verb == "run" else set()

    assert options_of(verb) - settled - elsewhere - {"--web.listen-address"} - set(section.split()) == set()


def test_findings_are_no_failure_of_the_check() -> None:
    assert values("iommud-check.service", "SuccessExitStatus") == ["1 3"]
