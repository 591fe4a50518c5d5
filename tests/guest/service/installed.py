# SPDX-License-Identifier: GPL-2.0-or-later
"""A disk on which iommud is installed as docs/install.md says: in a guest, from a wheel, without a network."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.guest.debian import Unavailable
from tests.guest.image import ROOT, build_wheel, download_wheels, source_digest
from tests.guest.machine import AMD64
from tests.guest.service.documented import allow_plain, socket_drop_in
from tests.guest.service.guest import Guest, guest_of
from tests.guest.service.machine import Machine
from tests.guest.service.rootfs import Base, base_disk, python_of
from tests.guest.supplies import Supplies

KERNEL = "6.12"
RELEASE = ("tools/install.sh", "systemd", "monitoring", "docs", "README.md", "LICENSE")
PLACE = "/srv/iommud"
MODULE = f"{PLACE}/dummy.ko"
"""A kernel module that nothing has loaded, for the check that a service cannot load it."""
FROM_WHEELS, WHEEL = "PIP_NO_INDEX=1 PIP_FIND_LINKS=wheels", "wheels/iommud-*.whl"
DROP_INS = "/etc/systemd/system/iommud-web.socket.d"
MIB = 1 << 20
INSTALL_SECONDS = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """A disk with iommud in place."""

    disk: Path
    suite: str
    python: str
    systemd: str
    """Version, in its own words."""
    seconds: float
    """How long tools/install.sh took in the guest."""
    digest: str


def installed_disk(supplies: Supplies, suite: str) -> Installed:
    """The disk for this state of the sources, made if there is none. Raises Unavailable and GuestError."""
    base = base_disk(supplies, suite, KERNEL)
    digest = hashlib.sha256(f"{base.digest} {source_digest()} {release_digest()}".encode()).hexdigest()[:12]
    disk = base.disk.with_name(f"{base.disk.stem}-iommud-{digest}.raw")
    facts = disk.with_suffix(".json")
    if not facts.exists():
        with tempfile.TemporaryDirectory(dir=disk.parent, prefix=".making-") as making:
            found = _install(supplies, base, Path(making))
            Path(making, "disk").rename(disk)
        for old in disk.parent.glob(f"{base.disk.stem}-iommud-*"):
            if old != disk:
                old.unlink()
        facts.write_text(json.dumps(found))
    return Installed(disk=disk, suite=suite, digest=digest, **json.loads(facts.read_text()))


def kept_disk(supplies: Supplies, suite: str) -> Installed:
    """The disk that was made last, of whatever state of the sources. Raises Unavailable if there is none."""
    disks = (supplies.cache / "service").glob(f"{suite}-*-iommud-*.raw")
    newest = max(disks, key=lambda path: path.stat().st_mtime, default=None)
    if newest is None:
        raise Unavailable(f"no disk with {suite} and iommud has been made yet")
    digest = newest.stem.rpartition("-")[2]
    return Installed(disk=newest, suite=suite, digest=digest, **json.loads(newest.with_suffix(".json").read_text()))


def release_digest() -> str:
    """A digest of what a release has beside the wheel, and of how it is installed here."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in _release_files():
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _release_files() -> Iterator[Path]:
    for name in RELEASE:
        top = ROOT / name
        yield from [top] if top.is_file() else sorted(path for path in top.rglob("*") if path.is_file())


def _install(supplies: Supplies, base: Base, directory: Path) -> dict[str, object]:
    disk, archive = directory / "disk", directory / "release"
    copy_disk(base.disk, disk)
    _write_release(supplies, base.suite, archive)
    machine = Machine(kernel=KERNEL, disks=(disk, archive), memory=1024)
    with guest_of(
        supplies, machine, keep=supplies.cache / "results" / f"service-{base.suite}" / "install.log"
    ) as guest:
        return _install_in(guest)


def _install_in(guest: Guest) -> dict[str, object]:
    guest.run(f"mkdir {PLACE} && tar -C {PLACE} -xf /dev/vdb && chmod +x {PLACE}/tools/install.sh")
    started = time.monotonic()
    guest.run(f"cd {PLACE} && {FROM_WHEELS} tools/install.sh install {WHEEL}", seconds=INSTALL_SECONDS)
    seconds = round(time.monotonic() - started, 1)
    document = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    guest.write(f"{DROP_INS}/override.conf", socket_drop_in(document))
    guest.run("systemctl daemon-reload")
    guest.run(allow_plain(document), seconds=240)
    found = {
        "seconds": seconds,
        "python": guest.run("/opt/iommud/bin/python -c 'import platform; print(platform.python_version())'").strip(),
        "systemd": guest.run("systemctl --version").split(")")[0].split("(")[-1],
    }
    guest.run("sync")
    guest.power_off()
    return found


def _write_release(supplies: Supplies, suite: str, path: Path) -> None:
    """What a release holds, with a directory of wheels: a tar archive that is a disk."""
    version = python_of(suite)
    with tempfile.TemporaryDirectory() as building, tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        wheel = build_wheel(supplies, Path(building))
        wheels = download_wheels(supplies, AMD64, wheel, version)
        for one in (wheel, *sorted(wheels.glob("*.whl"))):
            archive.add(one, f"wheels/{one.name}", filter=_of_root)
        for file in _release_files():
            archive.add(file, str(file.relative_to(ROOT)), filter=_of_root)
        module = supplies.kernel(KERNEL, AMD64).modules.read("dummy") or b""
        entry = tarfile.TarInfo("dummy.ko")
        entry.size = len(module)
        archive.addfile(entry, io.BytesIO(module))
    with path.open("r+b") as disk:
        disk.truncate(-(-path.stat().st_size // MIB) * MIB)


def _of_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def copy_disk(source: Path, target: Path) -> None:
    """Copy a disk; what it does not use stays unused."""
    with contextlib.suppress(FileNotFoundError):
        target.unlink()
    with source.open("rb") as old, target.open("wb") as new:
        while block := old.read(MIB):
            if block.count(0) == len(block):
                new.seek(len(block), 1)
            else:
                new.write(block)
        new.truncate(source.stat().st_size)
    shutil.copymode(source, target)
