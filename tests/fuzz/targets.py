# SPDX-License-Identifier: GPL-2.0-or-later
"""What must hold for any bytes whatever, one check for each reader of foreign bytes.

The fuzzer calls a check with what it makes up, `test_replay.py` with what the fuzzer once found worth keeping.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, TypeVar

from iommud.archive import open_source
from iommud.errors import IommudError
from iommud.firmware.acpi import PROBLEM_LIMIT
from iommud.firmware.dmar import Dmar, parse_dmar
from iommud.firmware.fdt import parse_fdt
from iommud.firmware.fdt_pci import host_bridges
from iommud.firmware.fdt_redact import redact_fdt
from iommud.firmware.iort import Iort, parse_iort
from iommud.firmware.ivrs import Ivrs, parse_ivrs
from iommud.firmware.mcfg import Mcfg, parse_mcfg
from iommud.firmware.viot import Viot, parse_viot
from iommud.pci import Gap, Wanted, decode_config
from iommud.redact_config import redact_config
from iommud.sysfs import take_snapshot
from iommud.tarstream import Limits

Check = Callable[[bytes], None]

SECONDS: Final = 5.0
"""Processor time that a check may take, below instrumentation and on a loaded machine too."""
LARGEST: Final = 8192
"""Bytes of the largest input that is made up."""
SMALL: Final = Limits(stream=1 << 20, members=1000, member=1 << 16, kept=1 << 20, xz_memory=1 << 24)
_BLOCK: Final = 512


class _Read(Protocol):
    """What every parser of a table gives."""

    @property
    def problems(self) -> tuple[str, ...]: ...


_Table = TypeVar("_Table", bound=_Read)


def timed(check: Check) -> Check:
    """The check, which fails too if it takes long."""

    def bounded(data: bytes) -> None:
        start = time.process_time()
        check(data)
        taken = time.process_time() - start
        assert taken < SECONDS, f"{len(data)} bytes took {taken:.1f} s"

    return bounded


def table(name: str, parse: Callable[[bytes], _Table], ask: Callable[[_Table, list[int]], None]) -> Check:
    """A parser gives the same twice, names faults as sentences of its table, and what it gives answers questions."""

    def check(data: bytes) -> None:
        found = parse(data)
        assert found == parse(data)
        _sentences(name, found.problems)
        ask(found, _numbers(data))

    return check


def _sentences(name: str, problems: tuple[str, ...]) -> None:
    # Those of the header are counted by themselves, and one says that there are more.
    assert len(problems) <= PROBLEM_LIMIT + 4
    for problem in problems:
        assert problem.startswith(f"{name}: ")
        assert problem.isprintable()


def _numbers(data: bytes) -> list[int]:
    """Requester IDs worth asking for: those in the bytes themselves, and both ends."""
    return [0, 0xFFFF, *(int.from_bytes(data[at : at + 2], "little") for at in range(48, min(len(data), 112), 2))]


def _ask_dmar(found: Dmar, _numbers: list[int]) -> None:
    order = [place for place, _ in found.search_order()]
    assert sorted(order) == list(range(len(found.units)))
    assert all(scope.text.isprintable() for unit in found.units for scope in unit.scopes)


def _ask_ivrs(found: Ivrs, numbers: list[int]) -> None:
    for segment in {0, *(block.segment for block in found.blocks[:4])}:
        for number in numbers:
            assert (found.server(segment, number) is not None) == found.covers(segment, number)
            alias = found.alias_of(segment, number)
            assert alias is None or 0 <= alias <= 0xFFFF


def _ask_iort(found: Iort, numbers: list[int]) -> None:
    for root in found.root_complexes[:8]:
        assert found.node_at(root.offset) is not None
        assert found.root_complex(root.segment) is not None
        for number in numbers:
            stream = root.smmu_stream(number)
            if stream is not None:
                assert 0 <= stream.stream_id <= 0xFFFFFFFF
                assert found.node_at(stream.smmu_offset) is not None
                assert not any(node.reserves_for(-1, stream.stream_id) for node in found.nodes[:8])


def _ask_viot(found: Viot, numbers: list[int]) -> None:
    for number in numbers:
        held = found.range_of(0, number)
        if held is not None:
            assert held.holds(0, number)
            assert 0 <= held.endpoint(0, number) <= 0xFFFFFFFF


def _ask_mcfg(found: Mcfg, _numbers: list[int]) -> None:
    assert all(0 <= one.first_bus <= 0xFF for one in found.allocations)


def device_tree(data: bytes) -> None:
    """A tree gives the same twice, its host bridges answer, and it is blanked for good or refused by name."""
    tree = parse_fdt(data)
    assert [node.path for node in tree.walk()] == [node.path for node in parse_fdt(data).walk()]
    _sentences("FDT", tree.problems)
    for bridge in host_bridges(tree):
        assert all(problem.startswith("FDT: ") for problem in bridge.problems)
        for number in _numbers(data):
            found = bridge.translate(number)
            assert found is None or bridge.iommu_map
    _blanked(data, redact_fdt)


def _blanked(data: bytes, redact: Callable[[bytes], bytes]) -> None:
    refused = ""
    once = data
    try:
        once = redact(data)
    except ValueError as error:
        refused = str(error)
    if refused:
        assert refused.isprintable()
        return
    assert len(once) == len(data)
    assert redact(once) == once


def archive(data: bytes) -> None:
    """An archive gives a snapshot, or an error that names a path and a problem in one line."""
    refused = ""
    try:
        take_snapshot(open_source("-", stdin=io.BytesIO(_with_checksums(data)), limits=SMALL))
    except IommudError as error:
        refused = str(error)
    assert not refused or refused.isprintable()


def _with_checksums(data: bytes) -> bytes:
    """The bytes with right checksums in what looks like headers: chance would never find one."""
    found = bytearray(data)
    for at in range(0, len(found) - _BLOCK + 1, _BLOCK):
        block = found[at : at + _BLOCK]
        if block[257:262] == b"ustar":
            total = sum(block) - sum(block[148:156]) + 8 * 0x20
            found[at + 148 : at + 156] = b"%06o\0 " % total
    return bytes(found)


def config_space(data: bytes) -> None:
    """A config space decodes; blanked it has its length, decodes the same, and stays as it is."""
    content = data.ljust(256, b"\0") if len(data) <= 256 else data[:4096].ljust(4096, b"\0")
    once = redact_config(content)
    assert len(once.content) == len(content)
    assert redact_config(once.content).content == once.content
    # No kernel table and so no plan asks for that register of functions that are not Intel's.
    intel = content[:2] == b"\x86\x80"
    for wanted in (Wanted(), Wanted(every_type=True, wide_acs=True, mpc=intel)):
        for number in (0, 1):
            assert _decoded(content, wanted, number) == _decoded(once.content, wanted, number)


def _decoded(content: bytes, wanted: Wanted, number: int) -> object:
    def read(offset: int) -> int | None:
        word = content[offset : offset + 4]
        return int.from_bytes(word, "little") if len(word) == 4 else None

    return decode_config(
        read, wanted, size=len(content), function_number=number, extended_evidence=False, gap=Gap.TRUNCATED
    )


TARGETS: Final[dict[str, Check]] = {
    "dmar": timed(table("DMAR", parse_dmar, _ask_dmar)),
    "ivrs": timed(table("IVRS", parse_ivrs, _ask_ivrs)),
    "iort": timed(table("IORT", parse_iort, _ask_iort)),
    "viot": timed(table("VIOT", parse_viot, _ask_viot)),
    "mcfg": timed(table("MCFG", parse_mcfg, _ask_mcfg)),
    "fdt": timed(device_tree),
    "tar": timed(archive),
    "config": timed(config_space),
}
"""The check of each target by its name."""

FIXTURES: Final = Path(__file__).parent.parent / "fixtures"
CORPUS: Final = FIXTURES / "fuzz"
"""One directory for each target."""

_SUFFIX: Final = {"fdt": "dtb"}


def seeds(target: str) -> list[Path]:
    """Real inputs to begin with: tables of real machines, where there are any of this kind."""
    return sorted((FIXTURES / "firmware").glob(f"{target}*.{_SUFFIX.get(target, 'aml')}"))
