"""Exports beside the GGUF: a Hugging Face folder, and a Modelfile for Ollama."""

from __future__ import annotations

from pathlib import Path

from agent.exporting import delta_of, edits_of, provenance_of
from agent.progress import Progress
from agent.workspace import Workspace
from editors.gguf import container
from editors.hf_export import HfExport, export_hf
from editors.model_files import ModelError
from editors.modelfile import modelfile
from store.files import Files
from store.records import Edit, Version

DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
MODELFILE = "Modelfile"


def export_folder(
    ws: Workspace, version: Version | None, out: Path, type: str, progress: Progress
) -> HfExport:
    """Write a version (None: the base model) as a Hugging Face folder.

    Args:
        type: of ``DTYPES``, or "same".

    Raises ModelError, StoreError; then nothing is left of it.
    """
    if type != "same" and type not in DTYPES:
        raise ModelError(f"--type {type}: use same, {', '.join(DTYPES)}")
    import torch

    delta = delta_of(ws, version)
    edits = edits_of(ws, version)
    with progress.stage("writing the folder", None):
        return export_hf(
            ws.model,
            [delta] if delta else [],
            out,
            getattr(torch, DTYPES[type]) if type != "same" else None,
            card=card(ws.model.name, version, edits),
            provenance={key: str(value) for key, value in provenance_of(ws, version).items()},
        )


def export_modelfile(ws: Workspace, gguf: Path, force: bool = False) -> Path:
    """Write the Modelfile of an exported GGUF beside it, and return where.

    Raises ModelError: there is no such file, it is of another model, or its template cannot be
    said in a Modelfile.
    """
    if not gguf.is_file():
        raise ModelError(f"{gguf} does not exist; write it first: corrigenda export gguf {gguf}")
    file = container.read(gguf)
    base = file.get("corrigenda.base")
    if base is not None and base != ws.base_hash:
        raise ModelError(f"{gguf} was made of another base model; set model.path back")
    path = gguf.parent / MODELFILE
    if path.exists() and not force:
        raise ModelError(f"{path} exists; move it away, or --force")
    text = modelfile(ws.model, gguf.name, file.get("general.license"))
    Files().replace(path, text.encode())
    return path


def card(name: str, version: Version | None, edits: list[Edit]) -> str:
    """Return what stands in a folder's README: what the model is, and what was corrected. Pure."""
    lines = [f"# {name}, corrected", ""]
    if version is None:
        return "\n".join([f"# {name}", "", "The base model, without corrections.", ""])
    lines.append(
        f"{len(edits)} corrections by corrigenda, version {version.id}, over the base model with "
        f"sha256 {version.base_hash}."
    )
    lines += ["", "| subject | asked | was | is |", "|---|---|---|---|"]
    for edit in edits:
        cells = (edit.subject, edit.title or edit.relation, edit.old, edit.new)
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join([*lines, ""])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
