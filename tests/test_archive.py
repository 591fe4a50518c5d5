# SPDX-License-Identifier: GPL-2.0-or-later
"""Archives: what is read of them, what is refused, and what either may cost."""

import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iommud.archive import ArchiveTree, open_source, read_archive
from iommud.errors import SourceError
from iommud.files import Tree
from iommud.members import ATTRIBUTES, names_read_in
from iommud.tarstream import Limits
from iommud.tree import DirectoryTree
from tests import hostile_archives as hostile
from tests.hostile_archives import (
    DEVICE,
    END,
    GNU,
    directory,
    file,
    gnu_long,
    hard_link,
    header,
    in_pieces,
    link,
    machine,
    pax,
    pax_record,
)

ROOT = Path(__file__).parent.parent
VENDOR = f"{DEVICE.decode()}/vendor"
LONG_NAME = f"sys/devices/{'n' * 200}/vendor"
ABOVE = b"../" * 20 + b"etc/passwd"


class Pieces(io.RawIOBase):
    """A binary stream that gives one piece of an archive after the other."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._left = b""

    def read(self, size: int = -1) -> bytes:
        if not self._left:
            self._left = next(self._pieces, b"")
        piece, self._left = self._left[:size], self._left[size:]
        return piece


def read(pieces: Iterable[bytes], limits: Limits | None = None) -> Tree:
    return open_source("-", stdin=cast("io.BufferedReader", Pieces(pieces)), limits=limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One archive that somebody might send, and what becomes of it."""

    name: str
    pieces: Callable[[], Iterable[bytes]]
    error: str | None = None
    """What the refusal says; None: the archive is read."""
    holds: dict[str, bytes | None] | None = None
    """What files hold then; None: they cannot be read."""
    limits: Limits | None = None
    heavy: bool = False
    """Needs so much time or memory that it runs, and is measured, in a process of its own."""


def refused(name: str, archive: bytes, error: str, limits: Limits | None = None) -> Case:
    return Case(name=name, pieces=lambda: in_pieces(archive), error=error, limits=limits)


def harmless(name: str, archive: bytes, holds: dict[str, bytes | None]) -> Case:
    return Case(name=name, pieces=lambda: in_pieces(archive), holds=holds)


def bomb(name: str, pieces: Callable[[], Iterable[bytes]], error: str | None, limits: Limits | None = None) -> Case:
    return Case(name=name, pieces=pieces, error=error, limits=limits, heavy=True)


def flipped(archive: bytes, at: int) -> bytes:
    changed = bytearray(archive)
    changed[at] ^= 0x10
    return bytes(changed)


def chain(length: int) -> bytes:
    """Links in the device's directory, each to the next, the last one to ``vendor``."""
    links = (link(DEVICE + b"/l%d" % n, b"l%d" % (n + 1)) for n in range(length - 1))
    return b"".join((*links, link(DEVICE + b"/l%d" % (length - 1), b"vendor")))


SOUND = machine()
OTHER = DEVICE + b"/device"
OTHER_NAME = OTHER.decode()
CASES = [
    refused("an empty file", b"", "an empty file"),
    refused("a short text", b"hello, world\n", "no tar archive"),
    refused("a long text", b"hello, world\n" * 100, "no tar archive"),
    refused("bytes that are no text", bytes(range(256)) * 4, "no tar archive"),
    refused("nothing but zeros", bytes(10240), "an empty archive"),
    refused("bzip2", b"BZh91AY&SY" + bytes(600), "bzip2 is not read"),
    refused("zstd", b"\x28\xb5\x2f\xfd" + bytes(600), "zstd is not read"),
    refused("zip", b"PK\x03\x04" + bytes(600), "zip is not read"),
    refused("no machine in it", file(b"README") + END, "no sys/bus/pci in it"),
    refused(
        "two machines in it",
        directory(b"a/sys/bus/pci") + directory(b"b/sys/bus/pci") + END,
        "more than one machine in it: a, b",
    ),
    # Damage.
    refused("tar that ends in a header", SOUND[:700], "truncated"),
    refused("tar that ends in a file", file(b"x", bytes(4096))[:1024], "truncated"),
    refused("tar that ends after a file", SOUND[: -len(END)], "truncated"),
    refused("gzip that ends early", gzip.compress(SOUND)[:-12], "truncated"),
    refused("gzip without its checksum", gzip.compress(SOUND)[:-8], "truncated"),
    refused("xz that ends early", lzma.compress(SOUND)[:-40], "truncated"),
    refused("gzip with a flipped bit", flipped(gzip.compress(SOUND), -60), "damaged: no sound gzip stream"),
    refused("gzip with a wrong checksum", flipped(gzip.compress(SOUND), -6), "damaged: no sound gzip stream"),
    refused("xz with a flipped bit", flipped(lzma.compress(SOUND), 60), "damaged: no sound xz stream"),
    refused("nothing but the magic of gzip", b"\x1f\x8b", "truncated"),
    refused("gzip of nothing", gzip.compress(b""), "no tar archive"),
    refused("a header with a flipped bit", flipped(machine(file(b"x")), 3 * 512), "a header has a wrong checksum"),
    refused("a size that is no number", machine(header(b"x", size=b"12 apples\0\0\0")), "size that is no num"),
    refused("a negative size", machine(header(b"x", size=b"\xff" * 12)), "size that is no number"),
    refused("a negative octal size", machine(header(b"x", size=b"-0000000001\0")), "size that is no number"),
    refused("a pax size that is no number", machine(pax(pax_record(b"size", b"1e9")), file(b"x")), "that is no number"),
    refused("a pax record of length 0", machine(pax(b"0 a=b\n")), "broken record"),
    refused("a pax record that is too long", machine(pax(b"999 a=b\n")), "broken record"),
    refused("a pax record without a value", machine(pax(b"5 ab\n")), "broken record"),
    refused("a pax record without a length", machine(pax(b"path=x\n")), "broken record"),
    refused("a pax record with a wrong length", machine(pax(b"x a=b\n")), "no number"),
    # Names.
    refused("an absolute name", machine(file(b"/etc/passwd")), "/etc/passwd: an absolute name"),
    refused("an absolute name at the root", machine(file(b"/passwd")), "an absolute name"),
    refused("a name that climbs", machine(file(b"sys/../../x")), "sys/../../x: a name with .."),
    refused("a name that is ..", machine(file(b"sys/..")), "a name with .."),
    refused("a directory that is ..", machine(directory(b"../")), "a name with .."),
    refused("no name", machine(file(b"")), "no file can have this name"),
    refused("a file that is .", machine(file(b"sys/.")), "no file can have this name"),
    refused("a name that is not UTF-8", machine(file(b"sys/\xff\xfe")), "\\xff\\xfe: a name that is not UTF-8"),
    refused("a terminal escape in a name", machine(file(b"sys/\x1b[2Jx")), "\\x1b[2Jx: a name with control"),
    refused("a terminal escape in a directory", machine(file(b"\x1b[2J/x")), "\\x1b[2J/x: a name with control"),
    refused("a newline in a name", machine(file(b"sys/a\nb")), "sys/a\\nb: a name with control characters"),
    refused("a name that is written backwards", machine(file("sys/\u202ex".encode())), "\\u202ex: a name"),
    refused("a NUL in a pax name", machine(pax(pax_record(b"path", b"a\0b")), file(b"x")), "a\\x00b: a name"),
    refused("a name that is too long", machine(gnu_long(b"L", b"sys/" + b"x" * 5000), file(b"x")), "5004 char"),
    refused("a path that is too deep", machine(gnu_long(b"L", b"d/" * 65 + b"x"), file(b"x")), "65 directories"),
    # Members of a kind that no capture has.
    harmless("a device", machine(header(OTHER, kind=b"3")), {OTHER_NAME: None}),
    harmless("a block device", machine(header(OTHER, kind=b"4")), {OTHER_NAME: None}),
    harmless("a FIFO", machine(header(OTHER, kind=b"6")), {OTHER_NAME: None}),
    harmless("a volume label", machine(header(OTHER, kind=b"V", magic=GNU)), {OTHER_NAME: None}),
    harmless("a kind of the future", machine(file(OTHER, b"1", kind=b"Q")), {OTHER_NAME: None}),
    refused("a sparse file", machine(header(OTHER, kind=b"S", size=1 << 40)), "a sparse file, which is not read"),
    refused(
        "a sparse pax file",
        machine(pax(pax_record(b"GNU.sparse.realsize", b"1")), file(OTHER)),
        f"{OTHER_NAME}: a sparse file",
    ),
    refused("a part of a file", machine(header(OTHER, kind=b"M", size=1)), "a part of a file"),
    harmless("a hard link", machine(hard_link(OTHER, VENDOR.encode())), {OTHER_NAME: b"0x8086\n"}),
    harmless("a hard link nobody reads", machine(hard_link(b"sys/x", b"y")), {"sys/x": None}),
    refused("a hard link that climbs", machine(hard_link(OTHER, ABOVE)), "a name with .."),
    refused("an absolute hard link", machine(hard_link(OTHER, b"/etc/passwd")), "/etc/passwd: an absolute name"),
    refused("a hard link to nothing", machine(hard_link(OTHER, b"x/y")), "a hard link to x/y, which the archive"),
    refused("a hard link to a directory", machine(hard_link(OTHER, DEVICE)), "which the archive does not hold"),
    refused("a hard link to itself", machine(hard_link(OTHER, OTHER)), "which the archive does not hold"),
    harmless(
        "files of which nothing is read",
        machine(file(b"usr/share/doc/iommud/README", b"x"), link(b"usr/share/doc/iommud/a", b"b")),
        {"usr/share/doc/iommud/README": None},
    ),
    # One name, several members.
    harmless(
        "the last of several files counts",
        machine(file(OTHER, b"first"), file(OTHER, b"second")),
        {OTHER_NAME: b"second"},
    ),
    harmless("a directory that comes twice", machine(directory(DEVICE), directory(DEVICE)), {VENDOR: b"0x8086\n"}),
    refused("a file where a directory is", machine(directory(OTHER), file(OTHER)), "a directory, and then"),
    refused("a directory where a file is", machine(file(OTHER), directory(OTHER)), "and then a directory"),
    refused(
        "a file below a link",
        machine(link(DEVICE + b"/driver", b"/etc"), file(DEVICE + b"/driver/config")),
        f"{DEVICE.decode()}/driver: a file or a link, and then a directory",
    ),
    # Links.
    harmless("a link out of the tree", machine(link(OTHER, ABOVE)), {OTHER_NAME: None}),
    harmless("an absolute link", machine(link(OTHER, b"/etc/passwd")), {OTHER_NAME: None}),
    harmless("a link to nothing", machine(link(OTHER, b"nothing")), {OTHER_NAME: None}),
    harmless("an empty link", machine(link(OTHER, b"")), {OTHER_NAME: None}),
    harmless("a link to itself", machine(link(OTHER, b"device")), {OTHER_NAME: None}),
    harmless("a link through a file", machine(link(OTHER, b"vendor/../vendor")), {OTHER_NAME: b"0x8086\n"}),
    harmless("a link that is not UTF-8", machine(link(OTHER, b"\xff")), {OTHER_NAME: None}),
    harmless("a terminal escape in a link", machine(link(OTHER, b"\x1b[2J")), {OTHER_NAME: None}),
    harmless(
        "two links that lead to each other",
        machine(link(DEVICE + b"/a", b"b"), link(DEVICE + b"/b", b"a")),
        {f"{DEVICE.decode()}/a": None, f"{DEVICE.decode()}/b/vendor": None},
    ),
    harmless("40 links in a row", machine(chain(40)), {f"{DEVICE.decode()}/l0": b"0x8086\n"}),
    harmless("41 links in a row", machine(chain(41)), {f"{DEVICE.decode()}/l0": None}),
    # More than the archive.
    harmless("junk after the archive", SOUND + b"junk" * 999, {VENDOR: b"0x8086\n"}),
    harmless("junk after gzip", gzip.compress(SOUND) + b"junk" * 999, {VENDOR: b"0x8086\n"}),
    harmless("zeros after xz", lzma.compress(SOUND) + bytes(9999), {VENDOR: b"0x8086\n"}),
    # Limits.
    refused("a file that is too long", machine(header(OTHER, size=1 << 40)), "1099511627776 bytes, more than"),
    refused("a file that lies about its length", machine(header(b"x", size=1 << 40)), "truncated"),
    refused("a name that is too long to be read", machine(header(b"x", kind=b"L", size=1 << 30)), "1073741824 bytes"),
    refused("too many members", SOUND, "more than 1 members", Limits(members=1)),
    refused(
        "too many headers without a member",
        machine(pax(b"", b"g") * 9),
        "more than 9 members",
        Limits(members=9),
    ),
    refused("too much to keep", machine(file(OTHER, b"x" * 9999)), "more than 0 MiB to be", Limits(kept=9999)),
    refused("too much altogether", machine(file(b"x", bytes(9999))), "larger than 0 MiB", Limits(stream=9999)),
    refused("too much after its end", SOUND + bytes(9999), "larger than 0 MiB", Limits(stream=9999)),
    refused("xz with a dictionary of 4 GiB", hostile.xz_with_dictionary(SOUND, 40), "Memory usage limit"),
    bomb("a gzip bomb", hostile.gzip_bomb, "larger than 3072 MiB when decompressed"),
    bomb("an xz bomb", hostile.xz_bomb, "larger than 500 MiB", Limits(stream=500 << 20)),
    bomb("a long-name bomb", lambda: hostile.extension_bomb(b"L"), "419430400 bytes, more than 65536"),
    bomb("a long-link bomb", lambda: hostile.extension_bomb(b"K"), "419430400 bytes, more than 65536"),
    bomb("a pax bomb", lambda: hostile.extension_bomb(b"x"), "419430400 bytes, more than 65536"),
    bomb("a global pax bomb", lambda: hostile.extension_bomb(b"g"), "419430400 bytes, more than 65536"),
    bomb("a million members", lambda: hostile.many_members(10**6), None),
    bomb("100,000 deep directories", lambda: hostile.deep_directories(10**5), "more than 512 MiB to be kept"),
    bomb("empty streams", lambda: hostile.empty_streams(101_000), "more than 100000 compressed streams"),
]


def outcome(case: Case) -> str | None:
    """What the refusal says; None: the archive was read."""
    try:
        read(case.pieces(), case.limits)
    except SourceError as error:
        return str(error)
    return None


@pytest.mark.parametrize("case", [case for case in CASES if not case.heavy], ids=lambda case: case.name)
def test_an_archive_is_refused_in_one_line_or_harmless(case: Case) -> None:
    tracemalloc.start()
    try:
        begun = time.process_time()
        message = outcome(case)
        seconds = time.process_time() - begun
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert (case.error or "") in (message or "")
    assert (message is None) == (case.error is None)
    assert (message or "").isprintable()
    assert seconds < 2
    assert peak < 16 << 20  # the dictionary of xz alone takes 8


@pytest.mark.parametrize("case", [case for case in CASES if case.holds], ids=lambda case: case.name)
def test_a_harmless_archive_holds_what_a_careful_reader_expects(case: Case) -> None:
    tree = read(case.pieces())

    assert case.holds is not None
    assert {path: tree.read(path) for path in case.holds} == case.holds


MEASURE = """
import json, sys, time
from tests.test_archive import CASES, outcome
case = next(case for case in CASES if case.name == sys.argv[1])
begun = time.process_time()
message = outcome(case)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps([message, time.process_time() - begun, int(status["VmHWM"].split()[0]) >> 10]))
"""


@pytest.mark.parametrize("case", [case for case in CASES if case.heavy], ids=lambda case: case.name)
def test_a_bomb_costs_less_than_twenty_seconds_and_600_mib(case: Case) -> None:
    """Measured in a process of its own, without the tracer of a coverage run."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COV")}
    command = [sys.executable, "-W", "error", "-c", MEASURE, case.name]
    result = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=300)
    message, seconds, mebibytes = json.loads(result.stdout)

    assert (case.error or "") in (message or "")
    assert (message is None) == (case.error is None)
    assert seconds < 20
    assert mebibytes < 600


Entry = bytes | str | None
"""A file, the target of a link, or a directory."""


def tar_of(tree: dict[str, Entry], compression: str = "", tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    """The archive that the standard library makes of a tree."""
    buffer = io.BytesIO()
    with tarfile.open(None, f"w:{compression}", buffer, format=tar_format) as archive:  # type: ignore[call-overload] # mypy knows literal modes only
        for path, entry in tree.items():
            info = tarfile.TarInfo(path)
            if isinstance(entry, bytes):
                info.size = len(entry)
            elif isinstance(entry, str):
                info.type, info.linkname = tarfile.SYMTYPE, entry
            else:
                info.type = tarfile.DIRTYPE
            archive.addfile(info, io.BytesIO(entry) if isinstance(entry, bytes) else None)
    return buffer.getvalue()


def write_tree(tree: dict[str, Entry], root: Path) -> None:
    for path, entry in tree.items():
        place = root / path
        (place if entry is None else place.parent).mkdir(parents=True, exist_ok=True)
        if isinstance(entry, bytes):
            place.write_bytes(entry)
        elif isinstance(entry, str):
            place.symlink_to(entry)


DIRECTORY_NAMES = st.sampled_from(["0000:00:01.0", "0000:01:00.0", "é", "n" * 40, "power"])
DIRECTORIES = st.lists(DIRECTORY_NAMES, min_size=1, max_size=4).map(
    lambda names: "/".join(["sys/devices/pci0000:00", *names])
)
FILES = st.sampled_from(["config", "vendor", "uevent"])
CONTENTS = st.binary(max_size=40) | st.builds(
    lambda head, zeros: head + bytes(zeros), st.binary(max_size=9), st.integers(0, 700)
)
LINKS = st.sampled_from(["driver", "iommu_group"])
STEPS = st.sampled_from(["..", ".", "", "0000:00:01.0", "power", "vendor", "driver", "sys", "devices", "pci0000:00"])
TARGETS = st.lists(STEPS, min_size=1, max_size=5).map("/".join).filter(bool)


@st.composite
def trees(draw: st.DrawFn) -> dict[str, Entry]:
    """A machine with few names, so that links often lead somewhere."""
    tree: dict[str, Entry] = {"sys/bus/pci/devices": None, "sys/devices/pci0000:00": None}
    for place in draw(st.lists(DIRECTORIES, min_size=1, max_size=4)):
        tree[place] = None
        tree |= {f"{place}/{name}": draw(CONTENTS) for name in draw(st.sets(FILES))}
        tree |= {f"{place}/{name}": draw(TARGETS) for name in draw(st.sets(LINKS))}
    return tree


def facts(tree: Tree, path: str) -> list[object]:
    """Everything that a tree tells of a path."""
    told: list[object] = [tree.list(path), tree.read(path), tree.text(path), tree.link(path), tree.resolve(path)]
    told += [tree.exists(path), tree.read(path, 0), tree.read(path, 5), tree.read(path, 300)]
    config = tree.config(path)
    if config is not None:
        with config:
            told += [config.size, config.read(0, 4), config.read(2, 64), config.read(config.size, 4)]
    return told


@given(tree=trees())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_a_machine_reads_the_same_as_a_directory_and_from_every_kind_of_archive(tree: dict[str, Entry]) -> None:
    paths = {"", ".", "sys/", "sys/../sys", "..", "nothing", "nothing/vendor", *tree}
    paths |= {f"{path}/{name}" for path in tree for name in ("vendor", "driver", "driver/vendor", "..", "")}
    archives = [
        read([tar_of(tree, "", tarfile.USTAR_FORMAT)]),
        read([tar_of(tree, "gz", tarfile.GNU_FORMAT)]),
        read([tar_of(tree, "xz", tarfile.PAX_FORMAT)]),
    ]
    with tempfile.TemporaryDirectory() as root:
        write_tree(tree, Path(root))
        expected = {path: facts(DirectoryTree(root), path) for path in paths}

    for archive in archives:
        assert {path: facts(archive, path) for path in paths} == expected


@given(
    compression=st.sampled_from(["", "gz", "xz"]),
    flips=st.lists(st.tuples(st.integers(0, 9999), st.integers(0, 255)), max_size=4),
    end=st.integers(0, 9999) | st.none(),
)
def test_a_damaged_archive_is_refused_or_read_but_never_crashes(
    compression: str, flips: list[tuple[int, int]], end: int | None
) -> None:
    archive = bytearray(tar_of({"sys/bus/pci": None, VENDOR: b"0x8086", LONG_NAME: b"1"}, compression))
    for at, value in flips:
        archive[at % len(archive)] = value
    sent = refused("", bytes(archive[:end]), "")

    assert (outcome(sent) or "").isprintable()


@pytest.mark.parametrize("style", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_archives_of_gnu_tar_are_read_in_all_its_formats(style: str, tmp_path: Path) -> None:
    deep = "sys/devices/" + "/".join(["pci0000:00"] * (5 if style == "v7" else 12))
    write_tree({"sys/bus/pci/devices": None, f"{deep}/vendor": b"0x8086\n", f"{deep}/driver": "../e"}, tmp_path)
    command = ["tar", f"--format={style}", "--directory", str(tmp_path), "--create", "."]
    tree = read([subprocess.run(command, check=True, capture_output=True).stdout])

    assert tree.list("sys/bus/pci") == ["devices"]
    assert tree.text(f"{deep}/vendor") == "0x8086"
    assert tree.link(f"{deep}/driver") == "../e"


@pytest.mark.parametrize(
    ("members", "path", "content"),
    [
        (gnu_long(b"L", LONG_NAME.encode()) + file(b"x", b"1"), LONG_NAME, b"1"),
        (pax(pax_record(b"path", b"meta.json") + pax_record(b"mtime", b"1")) + file(b"x", b"2"), "meta.json", b"2"),
        (pax(pax_record(b"path", b"meta.json"), b"X") + file(b"x", b"3"), "meta.json", b"3"),
        (pax(pax_record(b"size", b"1")) + header(b"meta.json", size=9) + b"4".ljust(512, b"\0"), "meta.json", b"4"),
        (pax(pax_record(b"comment", b"of git"), b"g") + file(b"meta.json", b"5"), "meta.json", b"5"),
        (header(b"meta.json", size=hostile.base_256(1)) + b"6".ljust(512, b"\0"), "meta.json", b"6"),
        (header(b"meta.json", size=b"          1\0") + b"7".ljust(512, b"\0"), "meta.json", b"7"),
        (header(b"meta.json", size=bytes(12)), "meta.json", b""),
        (file(b"vendor", b"8", prefix=b"sys/devices/x"), "sys/devices/x/vendor", b"8"),
        (file(b"meta.json", b"9", magic=GNU, prefix=b"12345670123"), "meta.json", b"9"),
        (file(b"meta.json", b"a", kind=b"\0"), "meta.json", b"a"),
        (file(b"meta.json", b"b", kind=b"7"), "meta.json", b"b"),
        (link(b"meta.json", b"x") + file(b"meta.json", b"c"), "meta.json", b"c"),
        (gnu_long(b"K", b"sys/" * 50 + b"..") + link(b"sys/bus/pci/x", b"sys"), "sys/bus/pci/x", None),
    ],
    ids=[
        "a long name of GNU tar", "a pax name", "a Solaris pax name", "a pax size", "a global pax header",
        "a size in base 256", "a size with spaces", "no size", "a POSIX prefix", "times where POSIX has a prefix",
        "a file older than POSIX", "a contiguous file", "a file in place of a link", "a long link of GNU tar",
    ],
)  # fmt: skip
def test_each_way_to_write_a_member_is_understood(members: bytes, path: str, content: bytes | None) -> None:
    assert read(in_pieces(machine(members))).read(path) == content


def test_a_directory_of_archives_older_than_posix_is_a_directory() -> None:
    tree = read([file(b"sys/bus/pci/", kind=b"\0", magic=bytes(8)) + END])

    assert tree.list("sys/bus/pci") == []


@pytest.mark.parametrize("size", [1, 7, 511, 513, 1 << 20])
def test_it_does_not_matter_in_which_pieces_an_archive_comes(size: int) -> None:
    for archive in (SOUND, gzip.compress(SOUND), lzma.compress(SOUND)):
        assert read(in_pieces(archive, size)).text(VENDOR) == "0x8086"


def test_several_compressed_streams_in_a_row_are_one_archive() -> None:
    halves = (SOUND[:700], SOUND[700:])

    for compress in (gzip.compress, lzma.compress):
        assert read([b"".join(compress(half) for half in halves)]).text(VENDOR) == "0x8086"


def test_a_python_without_xz_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    archive = lzma.compress(SOUND)
    monkeypatch.setitem(sys.modules, "lzma", None)

    with pytest.raises(SourceError, match="-: this Python was built without xz"):
        read([archive])


class FailingStream(io.RawIOBase):
    def __init__(self, error: OSError) -> None:
        self._error = error

    def read(self, size: int = -1) -> bytes:  # noqa: ARG002 - the signature of every stream
        raise self._error


@pytest.mark.parametrize(
    ("error", "problem"), [(OSError(5, "Input/output error"), "Input/output error"), (OSError(), "cannot be read")]
)
def test_a_stream_that_fails_is_a_source_that_cannot_be_read(error: OSError, problem: str) -> None:
    with pytest.raises(SourceError, match=f"^x: {problem}$"):
        read_archive(cast("io.BufferedReader", FailingStream(error)), "x")


@pytest.mark.parametrize(
    ("directory_name", "name", "kept"),
    [
        ("", "dmesg.txt", True),
        ("", "README", False),
        ("proc", "version", True),
        ("proc", "kcore", False),
        ("proc/sys/kernel", "osrelease", True),
        ("sys/devices/pci0000:00/0000:00:01.0", "config", True),
        ("sys/devices/pci0000:00/0000:00:01.0", "vpd", False),
        ("sys/devices/pci0000:00/0000:00:01.0/power", "runtime_status", True),
        ("sys/devices/platform/4010000000.pcie/pci0000:00", "uevent", True),
        ("sys/bus/pci/slots/1", "address", True),
        ("sys/class/iommu/dmar0/intel-iommu", "cap", True),
        ("sys/kernel/iommu_groups/7", "type", True),
        ("sys/firmware", "fdt", True),
        ("sys/firmware/acpi/tables", "DMAR", True),
        ("sys/firmware/acpi/tables", "DSDT", True),
    ],
)
def test_the_files_that_iommud_reads_are_kept(directory_name: str, name: str, kept: bool) -> None:
    names = names_read_in(directory_name)

    assert names is not None
    assert (name in names) == kept


@pytest.mark.parametrize("name", ["sys/fs", "sys/bus/usb", "sys/class/dmi", "sys/kernel/slab", "etc", "proc/1"])
def test_directories_without_use_are_not_kept(name: str) -> None:
    assert names_read_in(name) is None


def test_no_attribute_that_names_a_person_or_a_single_device_is_kept() -> None:
    assert not {name for name in ATTRIBUTES if "serial" in name or name in {"vpd", "address_assign_type"}}


def test_zeros_at_the_end_of_configuration_space_need_no_memory() -> None:
    functions = (file(b"sys/devices/pci0000:00/f%d/config" % n, b"\x86\x80" + bytes(4094)) for n in range(100))
    tree = read(in_pieces(machine(*functions)), Limits(kept=100 * 1000))
    config = tree.config("sys/devices/pci0000:00/f99/config")

    assert config is not None
    assert (config.size, config.read(0, 4), config.read(4094, 9)) == (4096, b"\x86\x80\0\0", bytes(2))


def capture(functions: int) -> Iterator[bytes]:
    """An archive with eight members for each function."""
    yield directory(b"sys/bus/pci/devices")
    for number in range(functions):
        place = b"sys/devices/pci0000:%02x/0000:%02x:00.0" % (number, number)
        yield file(place + b"/config", bytes(range(256)))
        yield file(place + b"/uevent", b"PCI_SLOT_NAME=0000:%02x:00.0\n" % number)
        yield b"".join(file(place + b"/" + name, b"0x8086\n") for name in (b"class", b"device", b"vendor"))
        yield link(place + b"/driver", b"../../../bus/pci/drivers/pcieport")
        yield link(place + b"/iommu_group", b"../../../kernel/iommu_groups/%d" % number)
        yield link(b"sys/bus/pci/devices/0000:%02x:00.0" % number, b"../../../devices/pci0000:%02x" % number)
    yield END


def test_a_capture_of_700_members_is_read_in_less_than_40_milliseconds() -> None:
    archive = gzip.compress(b"".join(capture(90)))

    def seconds() -> float:
        begun = time.process_time()
        read([archive])
        return time.process_time() - begun

    assert min(seconds() for _ in range(5)) < 0.04


def test_a_large_capture_is_kept_to_its_last_function() -> None:
    tree = read(capture(3000))

    names = tree.list("sys/bus/pci/devices")
    assert names is not None
    assert len(names) == 3000
    assert tree.text("sys/devices/pci0000:bb7/0000:bb7:00.0/uevent") == "PCI_SLOT_NAME=0000:bb7:00.0"


def test_only_so_many_compressed_streams_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iommud.decompress._STREAM_COUNT_LIMIT", 3)

    assert read([b"".join(gzip.compress(part) for part in in_pieces(SOUND, len(SOUND) // 2))]).exists(VENDOR)
    with pytest.raises(SourceError, match="more than 3 compressed streams"):
        read([gzip.compress(b"") * 4])


def test_an_archive_tree_is_not_live_and_has_the_name_of_its_file(tmp_path: Path) -> None:
    place = tmp_path / "host.tar"
    place.write_bytes(SOUND)
    tree = open_source(str(place))

    assert isinstance(tree, ArchiveTree)
    assert not tree.live
    assert tree.name == str(place)


@pytest.mark.parametrize("wrapper", ["", "./", "host-1/", "./captures/today/host-1/"])
@pytest.mark.parametrize("top", ["sys/", ""], ids=["of a machine", "of its sysfs"])
def test_a_machine_is_found_below_directories_that_wrap_it(wrapper: str, top: str, tmp_path: Path) -> None:
    tree: dict[str, Entry] = {
        f"{wrapper}{top}devices/pci0000:00/0000:00:01.0/vendor": b"0x8086\n",
        f"{wrapper}{top}bus/pci/devices/0000:00:01.0": "../../../devices/pci0000:00/0000:00:01.0",
    }
    write_tree(tree, tmp_path / "root")
    (tmp_path / "root.tar").write_bytes(tar_of(tree))

    for name in ("root", "root.tar"):
        found = open_source(str(tmp_path / name))
        assert found.list("") == ["sys"]
        assert found.list("sys") == ["bus", "devices"]
        assert found.resolve("sys/bus/pci/devices/0000:00:01.0") == DEVICE.decode()
        assert found.text("sys/bus/pci/devices/0000:00:01.0/vendor") == "0x8086"
        assert found.name == str(tmp_path / name)
        assert not found.exists("bus/pci")


@pytest.mark.parametrize("suffix", ["", ".tar"])
def test_a_machine_four_directories_deep_is_not_looked_for(suffix: str, tmp_path: Path) -> None:
    tree: dict[str, Entry] = {"a/b/c/d/sys/bus/pci/devices": None}
    write_tree(tree, tmp_path / "root")
    (tmp_path / "root.tar").write_bytes(tar_of(tree))

    with pytest.raises(SourceError, match=r"root[.tar]*: no sys/bus/pci in it$"):
        open_source(str(tmp_path / f"root{suffix}"))


@pytest.mark.parametrize("source", [None, ""])
def test_without_a_name_the_source_is_the_running_machine(source: str | None, tmp_path: Path) -> None:
    (tmp_path / "bus/pci").mkdir(parents=True)
    tree = open_source(source, sysfs=str(tmp_path))

    assert tree.live
    assert tree.list("sys/bus") == ["pci"]


def test_a_running_machine_without_pci_is_said_to_have_none(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no bus/pci in it"):
        open_source(sysfs=str(tmp_path))


def test_an_archive_may_come_through_a_pipe() -> None:
    reader, writer = os.pipe()
    os.write(writer, SOUND)
    os.close(writer)

    try:
        assert open_source(f"/dev/fd/{reader}").text(VENDOR) == "0x8086"
    finally:
        os.close(reader)


def test_a_dash_is_the_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(SOUND))))

    assert open_source("-").name == "-"


@pytest.mark.parametrize(
    ("source", "problem"), [("nowhere\x1b[2J", r"nowhere\\x1b\[2J: No such file"), ("a\0b", r"a\\x00b: no file can")]
)
def test_a_source_that_cannot_be_opened_is_named_without_driving_the_terminal(source: str, problem: str) -> None:
    with pytest.raises(SourceError, match=problem):
        open_source(source)


def test_the_longest_name_makes_a_message_of_bounded_length() -> None:
    message = outcome(refused("", machine(gnu_long(b"L", b"../" + b"x" * 4000), file(b"x")), ""))

    assert message is not None
    assert len(message) < 400
