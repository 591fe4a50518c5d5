# SPDX-License-Identifier: GPL-2.0-or-later
"""Imports go one way: the core never learns that files, processes or networks exist."""

import ast
import enum
import graphlib
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "iommud"


class Kind(enum.Enum):
    PURE = "takes and returns values"
    TABLES = "reads the files of its own package, the same on every machine"
    IO = "touches the machine"


PURE, TABLES, IO = Kind

# Lowest first: a module imports only from lines above its own, or from its own line without a cycle.
# `x.*` stands for the package x and all that it holds. A module named before a pattern keeps its own line.
LAYERS = (
    ("data", TABLES),
    ("errors", PURE),
    ("address", PURE),
    ("pci", PURE),
    ("kernel", PURE),
    ("firmware.*", PURE),
    ("snapshot", PURE),
    ("consistency", PURE),
    ("model", PURE),
    ("model.quirks", PURE),
    ("plan", PURE),
    ("model.topology", PURE),
    ("model.aliases", PURE),
    ("model.acs", PURE),
    ("model.groups", PURE),
    ("verdict", PURE),
    ("verdict.survey", PURE),
    ("verdict.service", PURE),
    ("verdict.firmware_words", PURE),
    ("verdict.scope", PURE),
    ("verdict.actual", PURE),
    ("verdict.findings", PURE),
    ("verdict.reasons", PURE),
    ("verdict.compare", PURE),
    ("verdict.isolation", PURE),
    ("causes", PURE),
    ("causes.cause", PURE),
    ("verdict.report", PURE),
    ("verdict.hazards", PURE),
    ("verdict.vfio", PURE),
    ("causes.*", PURE),
    ("verdict.pipeline", PURE),
    ("names", IO),
    ("capture_note", PURE),
    ("redact", PURE),
    ("verdict.state", PURE),
    ("verdict.circumstances", PURE),
    ("verdict.difference", PURE),
    ("verdict.expectation", PURE),
    ("whatif.*", PURE),
    ("redact_config", PURE),
    ("decompress", PURE),
    ("tarstream", PURE),
    ("credentials", PURE),
    ("files", IO),
    ("members", IO),
    ("tree", IO),
    ("archive", IO),
    ("kernel_log", IO),
    ("power", IO),
    ("functions", IO),
    ("sysfs", IO),
    ("gather", IO),
    ("capture", IO),
    ("api", IO),
    ("reproduce.*", PURE),
    ("render.*", PURE),
    ("daemon.*", IO),
    ("guest.*", IO),
    ("cli.*", IO),
    ("__init__", IO),
    ("__main__", IO),
)
# How a pure module would reach the machine.
MACHINE = {
    "asyncio",
    "multiprocessing",
    "os",
    "pathlib",
    "shutil",
    "socket",
    "subprocess",
    "tempfile",
    "time",
}
# Libraries that cost start-up time, and the layers that may load them at once; elsewhere a function does.
HEAVY = {
    "prometheus_client": {"daemon.*"},
    "pyudev": {"daemon.*"},
    "tornado": {"daemon.*"},
    "typer": {"cli.*"},
    "watchdog": {"daemon.*"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One name that an import statement asks for, in full: `iommud.pci.Acs` or `os.path`."""

    name: str
    line: int
    top_level: bool


def module_name(path: Path) -> str:
    """`pci` for iommud/pci.py, `cli` for iommud/cli/__init__.py, `__init__` for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def layer_of(module: str) -> int:
    """The line of LAYERS that places a module; one that is in none stands at the very end."""
    lines = (
        index
        for index, (pattern, _) in enumerate(LAYERS)
        if module == pattern.removesuffix(".*") or fnmatchcase(module, pattern)
    )
    return next(lines, len(LAYERS))


PLACED = [module for module in MODULES if layer_of(module) < len(LAYERS)]


def runs_at_once(node: ast.AST) -> Iterator[ast.AST]:
    """The statements that run when the module is imported, types-only blocks and functions left out."""
    for child in ast.iter_child_nodes(node):
        types_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not types_only and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from runs_at_once(child)


def names_in(node: ast.AST, package: list[str]) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=module, names=names, level=level):
            base = [*package[: len(package) - level + 1], *([module] if module else [])] if level else [module or ""]
            return [".".join([*base, alias.name]) for alias in names]
        case _:
            return []


def imports_of(module: str) -> list[Import]:
    path = MODULES[module]
    code = ast.parse(path.read_text(encoding="utf-8"))
    at_once = set(runs_at_once(code))
    package = ["iommud", *path.relative_to(PACKAGE).parent.parts]
    return [
        Import(name=name, line=getattr(node, "lineno", 0), top_level=node in at_once)
        for node in ast.walk(code)
        for name in names_in(node, package)
    ]


def own_target(name: str) -> str | None:
    """The module of iommud that an import reaches; None: another library, or the version (a constant)."""
    root, *parts = name.split(".")
    if root != "iommud" or parts == ["__version__"]:
        return None
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in MODULES), "__init__")


def test_every_module_has_its_place() -> None:
    assert not set(MODULES) - set(PLACED), "add these to LAYERS in tests/test_imports.py"


@pytest.mark.parametrize("module", PLACED)
def test_a_module_imports_only_from_layers_above_it(module: str) -> None:
    targets = [(own_target(use.name), use.line) for use in imports_of(module)]
    wrong = [
        f"iommud/{module}, line {line}: {target}"
        for target, line in targets
        if target is not None and layer_of(target) > layer_of(module)
    ]

    assert not wrong


def test_no_modules_import_each_other() -> None:
    graph = {module: {own_target(use.name) for use in imports_of(module)} - {None, module} for module in MODULES}
    order = graphlib.TopologicalSorter(graph)

    order.prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("module", PLACED)
def test_a_pure_module_does_not_reach_the_machine(module: str) -> None:
    if LAYERS[layer_of(module)][1] is not PURE:
        return
    uses = imports_of(module)
    targets = {target for use in uses if (target := own_target(use.name)) is not None}

    assert not {use.name for use in uses if use.name.split(".")[0] in MACHINE}
    assert not {target for target in targets & set(PLACED) if LAYERS[layer_of(target)][1] is IO}


@pytest.mark.parametrize("module", PLACED)
def test_heavy_libraries_are_loaded_where_they_are_needed_only(module: str) -> None:
    layer = LAYERS[layer_of(module)][0]
    loaded = {use.name.split(".")[0] for use in imports_of(module) if use.top_level}

    assert not {name for name in loaded & HEAVY.keys() if layer not in HEAVY[name]}


def test_importing_the_package_loads_none_of_its_modules() -> None:
    assert not [use.name for use in imports_of("__init__") if use.top_level and own_target(use.name) is not None]
