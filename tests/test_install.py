# SPDX-License-Identifier: GPL-2.0-or-later
"""``tools/install.sh`` in a root of its own: it installs, upgrades, keeps what people changed, and leaves no trace."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "tools" / "install.sh"
UNITS = "usr/local/lib/systemd/system"
Install = Callable[..., subprocess.CompletedProcess[str]]


def make_wheel(directory: Path, version: str) -> Path:
    """A wheel of the package as it lies here, with no dependencies and without the tools that build wheels."""
    path = directory / f"iommud-{version}-py3-none-any.whl"
    about = f"iommud-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        for file in sorted((ROOT / "iommud").rglob("*")):
            if file.is_file() and file.suffix != ".pyc":
                wheel.write(file, file.relative_to(ROOT))
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: iommud\nVersion: {version}\n")
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{about}/entry_points.txt", "[console_scripts]\niommud = iommud.cli:main\n")
        # The dependencies are those of the environment that the tests run in.
        wheel.writestr("dependencies-of-the-tests.pth", "".join(f"{path}\n" for path in site.getsitepackages()))
        wheel.writestr(f"{about}/RECORD", "")
    return path


def environment() -> dict[str, str]:
    """No network, and no settings of whoever runs the tests."""
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    return kept | {
        "HOME": "/nonexistent",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "PIP_NO_CACHE_DIR": "1",
    }


def run_script(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPT), "--root", str(root), "--python", sys.executable, *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def installed(root: Path, *arguments: str) -> Path:
    done = run_script(root, *arguments)
    assert done.returncode == 0, done.stderr
    return root


def tree(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_wheel(tmp_path_factory.mktemp("wheel"), "0.9.0")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """A root that has what a Debian system has, and iommud."""
    root = tmp_path_factory.mktemp("root")
    for directory in ("etc/default", "etc/systemd/system", "usr/local/bin", "opt", "var/lib", "run"):
        (root / directory).mkdir(parents=True)
    (root / "etc/default/cron").write_text("", encoding="utf-8")
    return installed(root, "install", str(wheel))


@pytest.fixture
def root(pristine: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pristine, tmp_path / "root", symlinks=True)


def test_the_program_lies_where_the_units_call_it(root: Path) -> None:
    program = root / "opt/iommud/bin/iommud"
    version = subprocess.run(
        [root / "opt/iommud/bin/python", "-m", "iommud", "--version"],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )

    assert version.stdout.startswith("iommud ")
    assert os.access(program, os.X_OK)
    assert (root / "usr/local/bin/iommud").readlink() == Path("/opt/iommud/bin/iommud")
    for unit in ("iommud.service", "iommud-web.service", "iommud-check.service"):
        assert "ExecStart=/opt/iommud/bin/iommud " in (root / UNITS / unit).read_text(encoding="utf-8")


def test_nothing_that_was_installed_knows_where_it_was_built(root: Path, pristine: Path) -> None:
    built = str(pristine).encode()
    knowing = [path for path in (root / "opt").rglob("*") if path.is_file() and built in path.read_bytes()]

    assert knowing == []


def test_units_and_defaults_are_those_of_the_repository(root: Path) -> None:
    units = {path.name: path.read_bytes() for path in (ROOT / "systemd").iterdir() if path.name != "iommud.default"}

    assert {path.name: path.read_bytes() for path in (root / UNITS).iterdir()} == units
    assert (root / "etc/default/iommud").read_bytes() == (ROOT / "systemd/iommud.default").read_bytes()


def test_the_environment_has_no_means_to_install_more_into_it(root: Path) -> None:
    assert list((root / "opt/iommud").rglob("site-packages/pip")) == []


@pytest.mark.skipif(shutil.which("systemctl") is None, reason="systemctl enables units; there is none")
def test_the_collector_and_the_socket_are_enabled_and_the_check_is_not(root: Path) -> None:
    enabled = {path.name for path in (root / "etc/systemd/system").glob("*.wants/*")}

    assert enabled == {"iommud.service", "iommud-web.service", "iommud-web.socket"}


def test_removal_leaves_nothing_of_it(root: Path) -> None:
    (root / "var/lib/private/iommud").mkdir(parents=True)
    (root / "var/lib/iommud").symlink_to("private/iommud")
    (root / "run/private/iommud").mkdir(parents=True)
    (root / "run/iommud").symlink_to("private/iommud")
    (root / "etc/default/iommud").write_text('IOMMUD_OPTIONS="--log.format json"\n', encoding="utf-8")

    installed(root, "remove")

    assert tree(root) == {
        *("etc", "etc/default", "etc/default/cron", "etc/systemd", "etc/systemd/system"),
        *("usr", "usr/local", "usr/local/bin", "opt", "var", "var/lib", "run"),
    }


def test_drop_ins_that_somebody_wrote_stay_and_are_named(root: Path) -> None:
    drop_in = root / "etc/systemd/system/iommud-web.socket.d/override.conf"
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text("[Socket]\nListenStream=9798\n", encoding="utf-8")

    done = run_script(root, "remove")

    assert drop_in.exists()
    assert str(drop_in.parent) in done.stderr


def test_an_upgrade_replaces_the_program_and_keeps_what_was_changed(root: Path, tmp_path: Path) -> None:
    shipped = root / "opt/iommud/share/iommud/systemd/iommud.default"
    shipped.write_text("# an older release\n", encoding="utf-8")
    (root / "etc/default/iommud").write_text("# mine\n", encoding="utf-8")
    (root / "opt/iommud/left-behind").touch()

    done = run_script(root, "upgrade", str(make_wheel(tmp_path, "0.9.1")))

    assert {path.name for path in (root / "opt/iommud").rglob("iommud-*.dist-info")} == {"iommud-0.9.1.dist-info"}
    assert {path.name for path in (root / "opt").iterdir()} == {"iommud"}
    assert not (root / "opt/iommud/left-behind").exists()
    assert (root / "etc/default/iommud").read_text(encoding="utf-8") == "# mine\n"
    assert (root / "etc/default/iommud.new").read_bytes() == (ROOT / "systemd/iommud.default").read_bytes()
    assert "/etc/default/iommud.new" in done.stderr
    installed(root, "remove")
    assert not (root / "usr/local/lib").exists(), "the first installation made it"


def test_an_upgrade_replaces_defaults_that_nobody_changed_and_leaves_a_program_that_is_not_ours(
    root: Path, wheel: Path
) -> None:
    for path in ("opt/iommud/share/iommud/systemd/iommud.default", "etc/default/iommud"):
        (root / path).write_text("# an older release\n", encoding="utf-8")
    command = root / "usr/local/bin/iommud"
    command.unlink()
    command.write_text("#!/bin/sh\n", encoding="utf-8")

    done = run_script(root, "upgrade", str(wheel))

    assert (root / "etc/default/iommud").read_bytes() == (ROOT / "systemd/iommud.default").read_bytes()
    assert not (root / "etc/default/iommud.new").exists()
    assert "not ours" in done.stderr
    installed(root, "remove")
    assert command.read_text(encoding="utf-8") == "#!/bin/sh\n"


def test_a_version_that_does_not_start_changes_nothing(root: Path, tmp_path: Path) -> None:
    before = tree(root)
    broken = tmp_path / "iommud-9.0.0-py3-none-any.whl"
    broken.write_bytes(b"no archive")

    done = run_script(root, "upgrade", str(broken))

    assert done.returncode != 0
    assert tree(root) == before


def test_an_upgrade_that_was_cut_off_between_its_renames_is_mended(root: Path) -> None:
    (root / "opt/iommud").rename(root / "opt/iommud.old")

    installed(root, "remove")

    assert not (root / "opt/iommud.old").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        ((), 2, "usage: install.sh"),
        (("destroy",), 2, "usage: install.sh"),
        (("install", "one", "two"), 2, "usage: install.sh"),
        (("remove",), 1, "not installed"),
        (("upgrade",), 1, "not installed"),
        (("install", "no-such-wheel.whl"), 1, "no such wheel"),
        (("--python", "/bin/false", "install"), 1, "no Python >= 3.11"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    tmp_path: Path, arguments: tuple[str, ...], status: int, says: str
) -> None:
    done = run_script(tmp_path, *arguments)

    assert done.returncode == status
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_for_a_container_the_program_is_installed_alone_and_removed_by_the_copy_that_it_brings(
    tmp_path: Path, wheel: Path
) -> None:
    root = installed(tmp_path / "root", "--no-units", "install", str(wheel))
    copy = shutil.copy(root / "opt/iommud/share/iommud/install.sh", tmp_path)

    assert {path.name for path in root.iterdir()} == {"opt", "usr"}
    assert not (root / UNITS).exists()
    subprocess.run([copy, "--root", str(root), "remove"], check=True, capture_output=True, env=environment())
    assert tree(root) == set(), "removal takes away the directories that installation had to make"
