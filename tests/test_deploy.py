# SPDX-License-Identifier: GPL-2.0-or-later
"""Container image and Kubernetes manifests.

The image is built, and run in a chroot, with ``IOMMUD_TEST_IMAGE=1``: it takes about some minutes, root, mmdebstrap and
a network. All else is quick and needs nothing.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped] # carries no types
import pytest
import yaml

from tests.containerfile import Builder, Image, parse

ROOT = Path(__file__).parent.parent
CONTAINERFILE = ROOT / "deploy" / "Containerfile"
VERSIONS = ("1.33", "1.35", "1.37")
FOUNDING = ROOT / "tests/fixtures/captures/6.1bug-amd64-virtio-at-0x3-seed-vga-builtin-q7.2.tar.gz"


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((ROOT / "deploy" / name).read_text(encoding="utf-8")))


def of_kind(kind: str) -> Any:
    return next(one for one in documents("daemonset.yaml") if one["kind"] == kind)


def container() -> Any:
    return of_kind("DaemonSet")["spec"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", documents("daemonset.yaml"), ids=lambda one: one["kind"])
def test_kubernetes_knows_every_field_of_the_manifests(manifest: Any, version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


def test_a_field_that_kubernetes_does_not_know_would_be_noticed() -> None:
    manifest = of_kind("DaemonSet")
    manifest["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)


def test_the_container_has_one_capability_and_a_root_that_it_cannot_write() -> None:
    context = container()["securityContext"]

    assert context["capabilities"] == {"drop": ["ALL"], "add": ["SYS_ADMIN"]}
    assert context["readOnlyRootFilesystem"] is True
    assert context["privileged"] is False


def test_the_capability_is_one_of_the_initial_user_namespace() -> None:
    pod = of_kind("DaemonSet")["spec"]["template"]["spec"]

    assert pod["hostUsers"] is True
    assert container()["securityContext"]["runAsUser"] == 0


def test_sysfs_of_the_machine_is_mounted_read_only_where_the_program_looks() -> None:
    volumes = {volume["name"]: volume for volume in of_kind("DaemonSet")["spec"]["template"]["spec"]["volumes"]}
    mounts = {mount["name"]: mount for mount in container()["volumeMounts"]}

    assert volumes["sys"]["hostPath"]["path"] == "/sys"
    assert mounts["sys"]["readOnly"] is True
    assert f"--path.sysfs={mounts['sys']['mountPath']}" in container()["args"]
    assert f"--runtime-directory={mounts['run']['mountPath']}" in container()["args"]


def test_the_probes_ask_for_what_the_server_answers() -> None:
    probes = {name: container()[name]["httpGet"]["path"] for name in ("livenessProbe", "readinessProbe")}

    assert probes == {"livenessProbe": "/-/healthy", "readinessProbe": "/-/ready"}


def test_one_port_is_listened_on_probed_scraped_and_allowed() -> None:
    (port,) = container()["ports"]
    annotations = of_kind("DaemonSet")["spec"]["template"]["metadata"]["annotations"]
    (endpoint,) = documents("podmonitor.yaml")[0]["spec"]["podMetricsEndpoints"]
    (ingress,) = of_kind("NetworkPolicy")["spec"]["ingress"]

    assert f"--web.listen-address=:{port['containerPort']}" in container()["args"]
    assert annotations["prometheus.io/port"] == str(port["containerPort"])
    assert endpoint["port"] == port["name"]
    assert [one["port"] for one in ingress["ports"]] == [port["containerPort"]]


def test_the_pod_monitor_finds_the_pods() -> None:
    (monitor,) = documents("podmonitor.yaml")
    labels = of_kind("DaemonSet")["spec"]["template"]["metadata"]["labels"]

    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert monitor["metadata"]["namespace"] == of_kind("DaemonSet")["metadata"]["namespace"]


def test_the_image_and_the_manifest_start_the_program_in_the_same_way() -> None:
    command = next(json.loads(one.rest) for one in parse(CONTAINERFILE) if one.word == "CMD")

    assert container()["args"] == command


def test_a_recipe_with_a_step_that_is_not_known_is_refused(tmp_path: Path) -> None:
    recipe = tmp_path / "Containerfile"
    recipe.write_text("FROM docker.io/library/debian:trixie-slim\nADD https://example.org/x /x\n", encoding="utf-8")

    with pytest.raises(ValueError, match="line 2: ADD is not known"):
        Builder(tmp_path, lambda _: None, lambda _, root: root.mkdir()).build(recipe)


def checkout(destination: Path) -> None:
    """What `COPY . /src` sees: the files of the repository, without what was made in it."""
    ignored = shutil.ignore_patterns(".git", ".venv", ".cache", "__pycache__", "mutants", "build", "dist")
    shutil.copytree(ROOT, destination, ignore=ignored, symlinks=True)


def debian(suite: str, root: Path) -> None:
    """A base image like Debian's slim one."""
    script = ["mmdebstrap", "--variant=minbase", "--quiet", suite, str(root), "http://deb.debian.org/debian"]
    subprocess.run(script, check=True, capture_output=True, timeout=600)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    if os.environ.get("IOMMUD_TEST_IMAGE") != "1":
        pytest.skip("set IOMMUD_TEST_IMAGE=1 to build the image: some minutes, root, mmdebstrap and a network")
    return Builder(tmp_path_factory.mktemp("image"), checkout, debian).build(CONTAINERFILE)


def test_the_image_starts_the_program(image: Image) -> None:
    assert image.run(*image.entry_point, "--version").stdout.startswith("iommud ")


def test_the_image_judges_a_machine(image: Image) -> None:
    shutil.copy(FOUNDING, image.root / "tmp")

    done = image.run(*image.entry_point, "check", f"/tmp/{FOUNDING.name}", check=False)  # noqa: S108 - the image's own

    assert done.returncode == 1
    assert "isolation-split" in done.stdout


def test_the_image_has_what_watching_needs(image: Image) -> None:
    program = "import pyudev, watchdog.observers; print(pyudev.Context().run_path)"
    assert image.run("/opt/iommud/bin/python", "-c", program).stdout


def test_the_image_understands_the_options_that_it_is_started_with(image: Image) -> None:
    options = image.run(*image.entry_point, image.command[0], "--help").stdout
    given = [option.partition("=")[0] for option in image.command[1:]]

    assert [option for option in given if option not in options] == []


def test_the_image_carries_neither_the_source_nor_a_way_to_build_it(image: Image) -> None:
    assert not (image.root / "src").exists()
    assert not (image.root / "var/lib/apt/lists/lock").exists()
    assert list(image.root.glob("opt/iommud/lib/python*/site-packages/pip")) == []


def test_the_comment_of_the_recipe_shows_a_command_line_with_the_same_restrictions() -> None:
    text = CONTAINERFILE.read_text(encoding="utf-8")
    command = re.search(r"#     (podman run (?:.*\\\n#\s+)*.*)\n", text)
    assert command
    words = shlex.split(re.sub(r"\\\n#", "", command[1]))

    assert {"--cap-drop=all", "--cap-add=SYS_ADMIN", "--read-only"} <= set(words)
    assert "/sys:/host/sys:ro" in words
