"""The house has floors: agent over detectors and editors, those over store. No stairs up."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "agent": {"agent", "detectors", "editors", "store"},
    "detectors": {"detectors", "store"},
    "editors": {"editors", "store"},
    "store": {"store"},
}
HEAVY = {
    "accelerate",
    "apscheduler",
    "chromadb",
    "feedparser",
    "langchain",
    "langchain_chroma",
    "langchain_core",
    "numpy",
    "pydantic",
    "rich",
    "safetensors",
    "scipy",
    "sentence_transformers",
    "sklearn",
    "sqlalchemy",
    "torch",
    "trafilatura",
    "transformers",
}
MODULES = [path for room in MAY_IMPORT for path in sorted((ROOT / room).rglob("*.py"))]


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """The top-level packages that some nodes import."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they lead"
            found.add((node.module or "").partition(".")[0])
    return found


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when a module is imported: none in functions, none for typing."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from at_import(child)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_four_rooms_are_there() -> None:
    assert {named(path).partition("/")[0] for path in MODULES} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_no_import_runs_upward_or_sideways(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    rooms = imported(ast.walk(ast.parse(path.read_text("utf-8")))) & set(MAY_IMPORT)
    assert rooms <= MAY_IMPORT[room]


LIGHT = [
    *sorted((ROOT / "detectors").rglob("*.py")),
    *sorted((ROOT / "agent" / "commands").rglob("*.py")),
    ROOT / "agent" / "cli.py",
    ROOT / "editors" / "registry.py",
    ROOT / "store" / "records.py",
]


@pytest.mark.parametrize("path", LIGHT, ids=named)
def test_nothing_heavy_is_imported_where_it_must_be_light(path: Path) -> None:
    assert not imported(at_import(ast.parse(path.read_text("utf-8")))) & HEAVY


def test_building_the_command_line_loads_nothing_heavy() -> None:
    code = "import sys, agent.cli as c; c.build(); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "typer" in loaded
    assert not loaded & HEAVY
