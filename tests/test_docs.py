# SPDX-License-Identifier: GPL-2.0-or-later
"""The documents say what the program does: names exist, links lead somewhere, examples give what they show."""

from __future__ import annotations

import doctest
import enum
import importlib
import pickle
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iommud import Kind, Report, Severity, check, read_sysfs
from iommud.archive import open_source
from iommud.model.groups import Rule
from iommud.model.quirks import AcsRule, Quirks
from iommud.pci import Gap
from iommud.snapshot import Complaint
from iommud.sysfs import take_snapshot
from iommud.verdict.expectation import Expectation, with_deviations
from iommud.verdict.reasons import GAP_TEXTS, REMEDIES
from tests.unpacking import unpack

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
CAPTURES = ROOT / "tests" / "fixtures" / "captures"
FOUNDING = "6.1bug-amd64-virtio-at-0x3-seed-vga-builtin-q7.2"
PAGES = sorted(DOCS.rglob("*.md"))
KINDS = list(Kind)

HEADINGS = [
    "What it means",
    "What can go wrong",
    "Verify it by hand",
    "A real example",
    "What to do",
    "What is not this finding",
    "References",
]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def page_of(kind: Kind) -> str:
    return text_of(DOCS / "findings" / f"{kind}.md")


def fenced(text: str, language: str) -> list[str]:
    """The blocks of one language, without the indentation they have in a list."""
    blocks = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return [re.sub(f"^{indent}", "", block, flags=re.MULTILINE) for indent, block in blocks]


def without_blocks(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


def headings(text: str) -> list[str]:
    return re.findall(r"^## (.+)$", without_blocks(text), re.MULTILINE)


def anchors(text: str) -> set[str]:
    found = re.findall(r"^#+ (.+)$", without_blocks(text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_page_with_all_its_parts(kind: Kind) -> None:
    text = page_of(kind)

    assert text.splitlines()[0] == f"# {kind}"
    assert headings(text) == HEADINGS
    assert re.search(r"^Severity: (critical|warning|info)\b", text, re.MULTILINE)


def test_there_is_no_page_of_a_kind_that_does_not_exist() -> None:
    pages = {path.stem for path in (DOCS / "findings").glob("*.md")}

    assert pages == {*map(str, Kind), "README"}


def test_the_index_lists_every_kind_in_the_order_of_the_vocabulary() -> None:
    rows = re.findall(r"^\| \[`([\w-]+)`\]\(([\w-]+)\.md\) \|", text_of(DOCS / "findings" / "README.md"), re.MULTILINE)

    assert rows == [(str(kind), str(kind)) for kind in Kind]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_leads_to_a_document_and_a_heading_that_exist(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", without_blocks(text_of(page)))
    broken = []
    for link in links:
        name, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = page if not name else page.parent / name
        if not target.is_file() or (anchor and anchor not in anchors(text_of(target))):
            broken.append(link)

    assert not broken


def test_every_picture_is_shown_in_a_document() -> None:
    shown = re.findall(r"!\[[^]]+\]\((?:docs/)?images/([^)]+)\)", "".join(map(text_of, [ROOT / "README.md", *PAGES])))

    assert sorted(shown) == sorted(path.name for path in (DOCS / "images").iterdir())


def resolve(dotted: str) -> Any:
    """The object behind a dotted name: the longest part that is a module, and attributes from there."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise AttributeError(dotted)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_name_of_iommud_in_a_document_can_be_imported(page: Path) -> None:
    shipped = {path.name for directory in ("systemd", "monitoring") for path in (ROOT / directory).iterdir()}
    names = set(re.findall(r"`(iommud(?:\.\w+)+)[`(]", text_of(page))) - shipped
    missing = []
    for name in names:
        try:
            resolve(name)
        except AttributeError:
            missing.append(name)

    assert not missing


def test_a_name_that_does_not_exist_would_be_noticed() -> None:
    with pytest.raises(AttributeError):
        resolve("iommud.model.groups.GroupingModel.no_such_rule")


@pytest.mark.parametrize(
    ("vocabulary", "page"),
    [
        (Rule, "model.md"),
        (AcsRule, "model.md"),
        (Complaint, "findings/inconsistent.md"),
    ],
)
def test_a_page_that_explains_a_vocabulary_explains_all_of_it(vocabulary: type[enum.StrEnum], page: str) -> None:
    text = text_of(DOCS / page)

    assert [value for value in vocabulary if f"`{value}`" not in text] == []


@pytest.mark.parametrize("gap", Gap)
def test_the_page_of_undecidable_gives_the_remedy_that_the_program_gives(gap: Gap) -> None:
    assert f"| {GAP_TEXTS[gap]} | {REMEDIES[gap]} |" in page_of(Kind.UNDECIDABLE)


def test_the_version_table_counts_the_rows_that_each_version_has() -> None:
    text = text_of(DOCS / "model.md")
    tables = [Quirks.bundled(version) for version in ((5, 10), (6, 1), (6, 12), (7, 3))]
    acs = " | ".join(str(sum(map(len, one.acs.values()))) for one in tables)
    aliases = " | ".join(str(sum(map(len, one.aliases.values()))) for one in tables)

    assert f"| rows of the ACS device table | {acs} |" in text
    assert f"| rows of alias fixups | {aliases} |" in text


@pytest.mark.parametrize("kind", KINDS)
def test_the_commands_of_a_page_are_shell_that_parses(kind: Kind) -> None:
    blocks = fenced(page_of(kind), "sh")

    assert blocks
    for block in blocks:
        subprocess.run(["sh", "-n"], input=block, text=True, check=True)


def unpacked(name: str, directory: Path) -> Path:
    unpack(CAPTURES / f"{name}.tar.gz", directory)
    return directory


def as_captured(_machine: Path) -> None:
    """The example is the capture as it is."""


def with_acs_switched_on(machine: Path) -> None:
    """Set SV, RR, CR and UF in the ACS Control register of the four ports; their capability is at 0x148."""
    for path in machine.glob("sys/devices/pci0000:00/0000:00:02.*/config"):
        content = bytearray(path.read_bytes())
        assert content[0x148] == 0x0D
        content[0x14E:0x150] = (0x1D).to_bytes(2, "little")
        path.write_bytes(content)


def without_a_membership(machine: Path) -> None:
    (machine / "sys/kernel/iommu_groups/3/devices/0000:02:00.0").unlink()


def read_without_root(machine: Path) -> None:
    for path in machine.glob("sys/devices/**/config"):
        path.write_bytes(path.read_bytes()[:64])


EXAMPLES: dict[Kind, tuple[str, Callable[[Path], None]]] = {
    Kind.ALIAS_SPLIT: ("6.12-amd64-virtio-seed-rp-parallel-q7.2", as_captured),
    Kind.ISOLATION_SPLIT: (FOUNDING, as_captured),
    Kind.NO_GROUPS: ("7.3-amd64-virtio-two-e1000-q7.2", as_captured),
    Kind.UNGROUPED: ("6.12-arm64-smmuv3-two-e1000-rp-acpi-q7.2", as_captured),
    Kind.MERGED: ("7.3-amd64-virtio-rp-config-acs-q7.2", with_acs_switched_on),
    Kind.UNISOLATED: ("6.12-amd64-intel-switch-q7.2", as_captured),
    Kind.INCONSISTENT: ("6.12-amd64-intel-seed-rp-q7.2", without_a_membership),
    Kind.UNDECIDABLE: ("6.12-amd64-intel-seed-rp-q7.2", read_without_root),
    Kind.UNEXPECTED: ("6.12-amd64-intel-seed-q7.2", as_captured),
}
WANTED = "02:00.0\n"


def example_of(kind: Kind, directory: Path) -> Report:
    name, change = EXAMPLES[kind]
    machine = unpacked(name, directory)
    change(machine)
    report = check(read_sysfs(str(machine)))
    if kind is not Kind.UNEXPECTED:
        return report
    assert not report.findings
    return with_deviations(report, Expectation.of_list(WANTED, "wanted.txt"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_of_a_page_is_what_iommud_says_of_the_capture_it_names(kind: Kind, tmp_path: Path) -> None:
    report = example_of(kind, tmp_path)
    section = page_of(kind).partition("## A real example")[2].partition("\n## ")[0]
    quoted = re.findall(r"^> (.+)$", section, re.MULTILINE)
    reasons = [reason.text for finding in report.findings if finding.kind is kind for reason in finding.reasons]

    assert f"`{EXAMPLES[kind][0]}`" in section
    assert quoted
    assert [one for one in quoted if one not in reasons] == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_has_a_severity_and_an_exit_status_that_the_index_gives_its_kind(
    kind: Kind, tmp_path: Path
) -> None:
    report = example_of(kind, tmp_path)
    index = text_of(DOCS / "findings" / "README.md")
    row = next(line for line in index.splitlines() if line.startswith(f"| [`{kind}`]"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    alone = report.filtered(only=[kind])

    assert all(str(finding.severity) in cells[2] for finding in alone.findings)
    assert str(alone.exit_status()) in cells[3]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if EXAMPLES[kind][1] is as_captured])
def test_the_groups_that_a_page_shows_are_those_of_the_capture(kind: Kind, tmp_path: Path) -> None:
    machine = unpacked(EXAMPLES[kind][0], tmp_path)
    section = page_of(kind).partition("## A real example")[2].partition("\n## ")[0]
    shown = re.findall(r"^/sys/kernel/iommu_groups/\S+/devices/\S+$", section, re.MULTILINE)

    assert [path for path in shown if not (machine / path[1:]).is_symlink()] == []


@pytest.mark.parametrize("name", ["7.3-amd64-virtio-rp-config-acs-q7.2", "6.12-amd64-intel-seed-rp-q7.2"])
def test_the_captures_that_pages_alter_have_no_finding_as_they_are(name: str) -> None:
    assert check(read_sysfs(str(CAPTURES / f"{name}.tar.gz"))).findings == ()


def test_the_captures_that_pages_mention_are_in_the_repository() -> None:
    # The page of the big run names guests, of which few captures are kept.
    pages = [page for page in PAGES if page.name != "kernel-matrix.md"]
    mentioned = {
        name for page in pages for name in re.findall(r"`(?:\S*/)?(\d[\w.]*-\w+-[\w.-]+-q\d[\d.]*\d)", text_of(page))
    }

    assert {EXAMPLES[kind][0] for kind in KINDS} <= mentioned
    assert [name for name in mentioned if not (CAPTURES / f"{name}.tar.gz").is_file()] == []


def test_the_notebook_session_gives_what_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    session = "\n".join(fenced(text_of(DOCS / "api.md"), "pycon"))
    example = doctest.DocTestParser().get_doctest(session, {}, "docs/api.md", "docs/api.md", 0)
    said: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)

    result = runner.run(example, out=said.append)

    assert result.attempted > 20
    assert not result.failed, "".join(said)


def test_the_table_of_report_fields_is_complete() -> None:
    text = text_of(DOCS / "api.md")
    table = text.partition("## Report\n")[2].partition("| method |")[0]
    named_there = set(re.findall(r"`(\w+)[`.]", table))

    assert set(Report.__slots__) | {"status"} <= named_there


def test_a_report_survives_pickling_as_the_document_promises() -> None:
    report = check(read_sysfs(str(CAPTURES / f"{FOUNDING}.tar.gz")))

    assert pickle.loads(pickle.dumps(report)).findings == report.findings  # noqa: S301 - made one line above


def test_the_severities_that_the_index_explains_are_those_that_exist() -> None:
    index = text_of(DOCS / "findings" / "README.md")

    assert [severity for severity in Severity if severity not in index] == []


class Recorder:
    """A machine that remembers which files were asked for."""

    def __init__(self, tree: Any) -> None:
        self._tree = tree
        self.asked: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._tree, name)
        if not callable(found):
            return found

        def remembering(path: str, *rest: Any) -> Any:
            self.asked.add(path)
            return found(path, *rest)

        return remembering


def pattern_of(path: str) -> str:
    """How the document writes the path of a file that was read."""
    function = re.match(r"sys/devices/.*/[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]/(.+)$", path)
    if function:
        return f"`BDF/{function[1]}`"
    path = re.sub(r"(iommu_groups)/\d+", r"\1/N", path)
    path = re.sub(r"(class/iommu)/[^/]+", r"\1/*", path)
    return f"`/{path}`" if "/" in path else f"`{path}`"


@pytest.mark.parametrize("name", [FOUNDING, "6.12-amd64-intel-sriov-igb-q10.0", "6.12-arm64-smmuv3-seed-rp-q7.2"])
@pytest.mark.parametrize("restricted", [False, True])
def test_every_file_that_is_read_stands_in_the_document(name: str, restricted: bool, tmp_path: Path) -> None:
    machine = unpacked(name, tmp_path)
    if restricted:
        read_without_root(machine)
    recorder: Any = Recorder(open_source(str(machine), sysfs="/sys", procfs="/proc"))
    take_snapshot(recorder)
    text = text_of(DOCS / "reading.md")
    asked = {path for path in recorder.asked if not re.search(r"devices/\d{4}:..:..\..$", path)}
    undocumented = {
        path
        for path in asked
        if pattern_of(path) not in text
        and not (path.startswith("sys/firmware/acpi/tables/") and f"`{path.rpartition('/')[2]}`" in text)
    }

    assert len(asked) > 20
    assert undocumented == set()
