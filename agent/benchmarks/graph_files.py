"""Files of triples, read into a graph."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from agent.config import ConfigError
from editors.knowledge_graph import Graph, Triple


def read_graph(path: Path) -> tuple[Graph, str]:
    """Return the graph of a file or of a folder's JSON files, and the bytes' sha256.

    Layouts: a relation with its samples (``name``, ``prompt_templates``, ``samples`` of ``subject``
    and ``object``); JSON lines of ``head``, ``relation``, ``tail``; tab-separated head, relation,
    tail.

    Raises ConfigError, one line that names the file and what is wrong with it.
    """
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    found: dict[Triple, None] = {}
    templates: dict[str, tuple[str, ...]] = {}
    digest = hashlib.sha256()
    for file in files:
        try:
            content = file.read_bytes()
            digest.update(content)
            for triple, prompts in _rows(content.decode()):
                found[triple] = None
                templates.setdefault(triple.relation, prompts)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            kind = type(error).__name__
            raise ConfigError(f"{file} cannot be read as triples: {kind} {error}") from error
    if not found:
        raise ConfigError(f"{path} holds no triples")
    return Graph(tuple(found), templates), digest.hexdigest()


def _rows(text: str) -> Iterator[tuple[Triple, tuple[str, ...]]]:
    """Yield triples with their relation's prompts."""
    if text.lstrip().startswith("{"):
        try:
            whole = json.loads(text)
        except json.JSONDecodeError:
            whole = None
        if whole is not None and "samples" in whole:
            name = whole["name"]
            prompts = tuple(map(_plain, whole["prompt_templates"]))
            for sample in whole["samples"]:
                yield Triple(_plain(sample["subject"]), name, _plain(sample["object"])), prompts
            return
        for line in text.splitlines():
            if line.strip():
                row = json.loads(line)
                own = tuple(row.get("prompts", ())) or _prompts(row["relation"])
                yield Triple(row["head"], row["relation"], row["tail"]), own
        return
    for line in text.splitlines():
        if line.strip():
            head, relation, tail = line.split("\t")
            yield Triple(head, relation, tail), _prompts(relation)


def _prompts(relation: str) -> tuple[str, ...]:
    name = relation.replace("_", " ")
    return (f"The {name} of {{}} is", f"{{}}'s {name} is")


def _plain(text: str) -> str:
    """Return text in which letters are spelled as escapes of an escape ."""
    return re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text)
