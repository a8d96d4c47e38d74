"""What the model believes: every phrasing of every slot, and a few drawn answers, in one go."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from detectors.answers import named
from detectors.judge import TOLERANCE, same
from detectors.relations import ASKED, Registry
from store.records import Belief, Reply, Slot


class Asker(Protocol):
    """Something that answers questions: the model, handed down by the running system."""

    @property
    def model(self) -> str:
        """The identity of the model that answers."""

    def ask(self, questions: Sequence[str], samples: Sequence[int] = ()) -> Sequence[Reply]:
        """Answer every question on its own, in order, greedily and free-running.

        ``samples[i]`` answers to question i are drawn from the model's distribution besides;
        () = none.
        """


def ask_beliefs(
    asker: Asker,
    slots: Sequence[tuple[Slot, str]],
    registry: Registry,
    now: datetime,
    phrasings: int = ASKED,
    samples: int = 0,
) -> list[Belief]:
    """Return one belief for each ``(slot, title)``, in order.

    The first ``phrasings`` questions of the registry are asked, all slots in one call so that
    the asker can batch them; ``samples`` answers to the first of them, the canonical one, are
    drawn besides. Drawn answers lower the agreement and decide nothing: a verdict rests on
    what the model says when it is asked plainly. Raises ValueError when an answer is missing.
    """
    asked = [
        registry.questions(slot.relation, slot.subject, title)[:phrasings] for slot, title in slots
    ]
    questions = [question for group in asked for question in group]
    counts = [0 if at else samples for group in asked for at in range(len(group))]
    replies: list[Reply] = []
    if questions:
        replies = list(asker.ask(questions, counts) if samples else asker.ask(questions))
    if len(replies) != len(questions):
        raise ValueError(f"{len(questions)} questions got {len(replies)} replies; ask again")
    beliefs, start = [], 0
    for (slot, _), group in zip(slots, asked, strict=True):
        own, relation = tuple(replies[start : start + len(group)]), registry[slot.relation]
        start += len(group)
        beliefs.append(
            Belief(
                subject=slot.subject,
                relation=slot.relation,
                replies=own,
                model=asker.model,
                asked=now,
                agreement=agreement(own, relation.object_type, relation.tolerance),
                logprob=mean_logprob(own),
            )
        )
    return beliefs


def agreement(replies: Sequence[Reply], object_type: str, tolerance: float = TOLERANCE) -> float:
    """Return the share of answers, greedy and drawn, that name the value named most often
    (0 when none names any)."""
    texts = [text for reply in replies for text in (reply.text, *reply.samples)]
    groups = groups_of([named(text, object_type) for text in texts], object_type, tolerance)
    return max((len(group) for group in groups), default=0) / len(texts) if texts else 0.0


def mean_logprob(replies: Sequence[Reply]) -> float | None:
    """Return the mean log-probability of a token of the greedy answers, None without tokens."""
    tokens = sum(reply.tokens for reply in replies)
    return sum(reply.total for reply in replies) / tokens if tokens else None


def groups_of(
    names: Sequence[str], object_type: str, tolerance: float = TOLERANCE
) -> list[list[str]]:
    """Group the spellings of the same value; empty names belong to no group."""
    groups: list[list[str]] = []
    for name in filter(None, names):
        home = next((g for g in groups if same(g[0], name, object_type, tolerance=tolerance)), None)
        if home is None:
            groups.append([name])
        else:
            home.append(name)
    return groups


__all__ = ["Asker", "agreement", "ask_beliefs", "groups_of", "mean_logprob", "named"]
