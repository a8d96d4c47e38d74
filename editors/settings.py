"""What can be set about a method, read from its source: name, default, unit, note.

A setting is a field of the method's dataclass, and the comment beside it says what it is, in which
unit, and where its default comes from. That comment is the one place where this stands; it is
read from the file, so that listing settings imports no method, and torch not with it.
"""

from __future__ import annotations

import ast
import io
import tokenize
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from editors.requests import EditorError


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        default: as it is written in the source ("0.75", "None").
        kind: its type ("float", "int | None").
        note: meaning, unit and source.
    """

    name: str
    default: str
    kind: str
    note: str


def settings(dotted: str) -> tuple[Setting, ...]:
    """Return the settings of a class, those that it inherits first.

    Args:
        dotted: module and class ("editors.local.memit.Memit"); "" has no settings.

    Raises EditorError where there is no such class.
    """
    return tuple(_of_class(dotted).values()) if dotted else ()


def _of_class(dotted: str) -> dict[str, Setting]:
    module, _, name = dotted.rpartition(".")
    text = _source(module)
    tree = ast.parse(text)
    found = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name]
    if not found:
        raise EditorError(f"there is no class {name} in {module}")
    known: dict[str, Setting] = {}
    homes = _homes(tree, module)
    for base in found[0].bases:
        if isinstance(base, ast.Name) and homes.get(base.id, "").startswith("editors."):
            known |= _of_class(f"{homes[base.id]}.{base.id}")
    notes = _comments(text)
    for node in found[0].body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            kind = ast.unparse(node.annotation)
            if kind.startswith("ClassVar") or node.value is None:
                continue
            at = node.target.id
            note = _note(notes, node) or (known[at].note if at in known else "")
            known[at] = Setting(at, _written(node.value, homes), kind, note)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            known.pop(node.targets[0].id, None)  # what a method fixes is no setting of it
    return known


def _source(module: str) -> str:
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.origin:
        raise EditorError(f"there is no module {module}")
    return Path(spec.origin).read_text(encoding="utf-8")


def _homes(tree: ast.Module, module: str) -> dict[str, str]:
    """Return the module of every name that is made or imported here."""
    homes = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            homes[node.name] = module
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            homes[node.targets[0].id] = module
        if isinstance(node, ast.ImportFrom) and node.module:
            homes |= {alias.asname or alias.name: node.module for alias in node.names}
    return homes


def _written(value: ast.expr, homes: dict[str, str]) -> str:
    """Return a default as it is written, a constant's value in place of its name."""
    if isinstance(value, ast.Name) and homes.get(value.id, "").startswith("editors."):
        for node in ast.parse(_source(homes[value.id])).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == value.id:
                return ast.unparse(node.value)
    return ast.unparse(value)


def _comments(text: str) -> dict[int, str]:
    """Return the comments by line number."""
    return {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    }


def _note(notes: dict[int, str], node: ast.AnnAssign) -> str:
    """Return the comment on the field's lines."""
    lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
    return " ".join(notes[line] for line in lines if line in notes)
