"""Labelled records as they lie in files: JSON lines, plain or compressed."""

from __future__ import annotations

import json
import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.config import ConfigError
from detectors.entities import normalise
from detectors.relations import Registry, Relation


def read_rows(path: Path, needed: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return the objects of a JSON-lines file (``.xz`` or not), each with the ``needed`` keys.

    Raises ConfigError, one line that names the file, the line and the remedy.
    """
    try:
        content = path.read_bytes()
        text = (lzma.decompress(content) if path.suffix == ".xz" else content).decode()
    except (OSError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as JSON lines: {error}") from error
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path}, line {number} is not JSON: {error}") from error
        missing = [key for key in needed if not isinstance(row, dict) or key not in row]
        if missing:
            raise ConfigError(
                f"{path}, line {number} has no {missing[0]!r}; "
                f"every record needs {', '.join(needed)}"
            )
        rows.append(row)
    if not rows:
        raise ConfigError(f"{path} holds no records")
    return rows


def relation_named(registry: Registry, name: str, subject: str = "") -> Relation | None:
    """Return the relation that data calls ``name``: by id, label, property or title.

    "P35", "head of state", "head_of_state" and "President of Italy" are all one.
    """
    wanted = normalise(name)
    if not wanted:
        return None
    for relation in registry:
        label = normalise(relation.label)
        if wanted in (normalise(relation.id), label) or wanted.startswith(f"{label} "):
            return relation
    takes = [r for r in registry if r.wikidata == name]
    fitting = [r for r in takes if subject and r.takes(subject)]
    if takes:
        return (fitting or takes)[0]
    for title in (name, name.split(" of ")[0]):
        found = registry.relation_of_title(title, subject or None) or registry.relation_of_title(
            title
        )
        if found:
            return registry[found]
    return None


def relation_asked(registry: Registry, question: str, subject: str = "") -> Relation | None:
    """Return the relation whose title stands in a question; the longest title wins."""
    words = f" {normalise(question)} "
    for title in registry.titles():
        if f" {title} " in words:
            found = registry.relation_of_title(title, subject or None)
            if found or not subject:
                return registry[found] if found else None
    return None
