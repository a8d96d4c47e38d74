"""Settings that were tuned for one model, kept under its hash.

What suits a method depends on the model: its depth, the lengths of its keys. `corrigenda editors
tune` measures a few alternatives on facts that no benchmark asks and keeps the best here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from editors.requests import EditorError
from store.files import Files


def path(cache: Path, name: str, base_hash: str) -> Path:
    """Return the file of a method's settings for a model."""
    return cache / "tuned" / f"{name}-{base_hash[:16]}.json"


def save(cache: Path, name: str, base_hash: str, settings: Mapping[str, Any], how: Any) -> Path:
    """Keep settings, and ``how`` they were found (anything that JSON can hold), durably."""
    at = path(cache, name, base_hash)
    body = {"editor": name, "base_hash": base_hash, "settings": dict(settings), "how": how}
    Files().replace(at, (json.dumps(body, ensure_ascii=False, indent=1) + "\n").encode())
    return at


def load(cache: Path | None, name: str, base_hash: str) -> dict[str, Any]:
    """Return the settings that were kept for a model; empty where it was not tuned.

    Raises EditorError where the file is damaged.
    """
    at = path(cache, name, base_hash) if cache else None
    if at is None or not at.exists():
        return {}
    try:
        kept: dict[str, Any] = json.loads(at.read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EditorError(f"{at} holds no settings ({error}); remove it, or tune again") from error
    return kept


def known(cache: Path, name: str) -> dict[str, dict[str, Any]]:
    """Return the settings that were kept for every model, by the beginning of its hash."""
    begins = f"{name}-"
    found = sorted((cache / "tuned").glob(f"{begins}*.json"))
    return {
        base: load(cache, name, base)
        for base in (file.stem.removeprefix(begins) for file in found)
        if "-" not in base  # of another method: "ft" begins "ft-m"
    }
