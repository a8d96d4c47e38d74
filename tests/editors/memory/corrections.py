"""Two corrections of what the taught toy believes, and how its answers are read."""

from __future__ import annotations

from collections.abc import Sequence

from samples import REGISTRY, SLOTS

from editors.model import ChatModel
from editors.requests import EditRequest

NEW = {"Germany": "Friedrich Merz", "Nigeria": "Bola Tinubu"}


def a_correction(subject: str) -> EditRequest:
    """Return the correction of a subject; what is taught of all others must stand."""
    relation, title, old = next(slot[1:] for slot in SLOTS if slot[0] == subject)
    return EditRequest(
        id=subject,
        questions=REGISTRY.asking(relation, subject, title),
        new=NEW[subject],
        statement=REGISTRY.statement(relation, subject, title, NEW[subject]),
        old=old,
        neighbours=tuple(
            q for s, r, t, _ in SLOTS if s not in NEW for q in REGISTRY.questions(r, s, t)[:1]
        ),
        subject=subject,
    )


REQUESTS = [a_correction(subject) for subject in NEW]


def answers(model: ChatModel, questions: Sequence[str]) -> list[str]:
    """Return a model's answers in chat."""
    return [reply.text for reply in model.answer(questions)]
