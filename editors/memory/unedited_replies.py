"""What the unedited model says to the questions of edits: it is constant, and asked for once."""

from __future__ import annotations

from collections.abc import Sequence

from editors.model import ChatModel
from editors.requests import EditRequest

REPLY_TOKENS = 24
"""How far a reply that must stand is looked at."""


def questions_of(requests: Sequence[EditRequest]) -> list[str]:
    """Return what is to be asked for requests: their questions, and what must stay."""
    return sorted({q for r in requests for q in (*r.questions, *r.neighbours)})


def complete(replies: dict[str, str], model: ChatModel, requests: Sequence[EditRequest]) -> None:
    """Ask for the replies by question that are not known yet."""
    missing = [question for question in questions_of(requests) if question not in replies]
    found = model.answer(missing, max_new_tokens=REPLY_TOKENS)
    replies.update((reply.question, reply.text) for reply in found)
