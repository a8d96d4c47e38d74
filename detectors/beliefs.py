"""What the model believes: every phrasing of every slot, asked in one go."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from detectors.answers import named
from detectors.judge import same
from detectors.relations import ASKED, Registry
from store.records import Belief, Reply, Slot


class Asker(Protocol):
    """Something that answers questions: the model, handed down by the running system."""

    @property
    def model(self) -> str:
        """The identity of the model that answers."""

    def ask(self, questions: Sequence[str]) -> Sequence[Reply]:
        """Answer every question on its own, in order, free-running."""


def ask_beliefs(
    asker: Asker,
    slots: Sequence[tuple[Slot, str]],
    registry: Registry,
    now: datetime,
    phrasings: int = ASKED,
) -> list[Belief]:
    """Return one belief for each ``(slot, title)``, in order.

    The first ``phrasings`` questions of the registry are asked, all slots in one call so that
    the asker can batch them. Raises ValueError when an answer is missing.
    """
    asked = [
        registry.questions(slot.relation, slot.subject, title)[:phrasings] for slot, title in slots
    ]
    questions = [question for group in asked for question in group]
    replies = list(asker.ask(questions)) if questions else []
    if len(replies) != len(questions):
        raise ValueError(f"{len(questions)} questions got {len(replies)} replies; ask again")
    beliefs, start = [], 0
    for (slot, _), group in zip(slots, asked, strict=True):
        own = tuple(replies[start : start + len(group)])
        start += len(group)
        beliefs.append(
            Belief(
                subject=slot.subject,
                relation=slot.relation,
                replies=own,
                model=asker.model,
                asked=now,
                agreement=agreement(own, registry[slot.relation].object_type),
            )
        )
    return beliefs


def agreement(replies: Sequence[Reply], object_type: str) -> float:
    """Return the share of replies that name the value named most often (0 when none names any)."""
    groups = groups_of([named(reply.text, object_type) for reply in replies], object_type)
    return max((len(group) for group in groups), default=0) / len(replies) if replies else 0.0


def groups_of(names: Sequence[str], object_type: str) -> list[list[str]]:
    """Group the spellings of the same value; empty names belong to no group."""
    groups: list[list[str]] = []
    for name in filter(None, names):
        home = next((g for g in groups if same(g[0], name, object_type)), None)
        if home is None:
            groups.append([name])
        else:
            home.append(name)
    return groups


__all__ = ["Asker", "agreement", "ask_beliefs", "groups_of", "named"]
