"""Consolidation: from the base weights and the whole ledger to a new version.

Never stacked on the last version: the delta is computed from the base model and all
active edits, so that ``rebuild(base, ledger)`` gives the same version again. What a night has no
time or room for stays in the memory tier.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from agent.cycle import neighbours_of
from agent.progress import Progress
from agent.workspace import Workspace
from agent.writers import Night, Writer, chosen, within_room, writer_of
from editors.deltas import EditDelta
from editors.model import ChatModel
from editors.requests import EditRequest
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
    """A candidate version, its delta, and the edits that it carries."""

    version: Version
    delta: EditDelta
    edits: tuple[Edit, ...]


def consolidate(
    ws: Workspace,
    edits: Sequence[Edit],
    now: datetime,
    progress: Progress,
    clock: Callable[[], float] = time.monotonic,
) -> Consolidated:
    """Compute and store the version that carries ``edits``, from the base weights, or as many
    of them, the earliest, as ``consolidation.minutes`` and ``consolidation.growth`` allow.

    The ledger's order decides the order of work, so that equal ledgers give equal versions.
    """
    wanted = ws.config.consolidation
    editor = chosen(wanted.editor, ws.model)
    writer = writer_of(editor)
    ordered = sorted(edits, key=lambda edit: (edit.created, edit.id))
    night = Night(clock() + 60 * wanted.minutes, clock)
    delta, carried = compute(ws, ordered, writer, progress, room=_room(ws), night=night)
    version = ws.store.versions.save(
        base_hash=ws.model.base_hash,
        editor=editor,
        edit_ids=[edit.id for edit in ordered[:carried]],
        tensors=delta.tensors(),
        settings=writer.settings,
        created=now,
    )
    return Consolidated(version, delta, tuple(ordered[:carried]))


def compute(
    ws: Workspace,
    edits: Sequence[Edit],
    writer: Writer,
    progress: Progress,
    known_on: datetime | None = None,
    room: int | None = None,
    night: Night | None = None,
) -> tuple[EditDelta, int]:
    """Compute the delta that carries ``edits``, in their order, from the base weights and the
    facts as we know them, or knew them at a moment. Store nothing.

    Args:
        room: parameters that may be added; None: any number.
        night: how much time there is; None: any.

    Returns:
        The delta, and how many of the edits, the first ones, it carries.
    """
    requests = [request_of(ws, edit, known_on) for edit in edits]
    if room is not None:
        requests = within_room(writer, ws.model, requests, room)
    return writer.write(ws, requests, progress, night or Night())


def _room(ws: Workspace) -> int:
    """Return how many parameters the configured growth leaves room for."""
    return int(ws.config.consolidation.growth * _size(ws.model))


def _size(model: ChatModel) -> int:
    return sum(parameter.numel() for parameter in model.model.parameters())


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
        subject=edit.subject,
        relation=edit.relation,
    )
