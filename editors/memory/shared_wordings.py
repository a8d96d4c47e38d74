"""What else asks for an edit's fact, and what does not, taken from the other edits' wordings.

Edits that ask the same of different subjects ("The mother tongue of X is", "Y spoke the language")
lend one another their wordings, the subject put in place; edits that ask something else give
questions on the same subject that must be left alone. Which is which, a scope's head says
(``relation_match``). Pure, given the embeddings: equal requests give equal wordings.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from editors.memory import wording
from editors.memory.relation_match import HEAD, RelationMatch, load
from editors.question_embeddings import Asked, Embed
from editors.requests import EditRequest

T = TypeVar("T")

ALIKE, UNLIKE = 0.8, 0.05
"""Probabilities from which on two wordings ask the same, and up to which they do not."""
_OPEN = 0.3  # from which on a wording may well ask for what another edit edits


@dataclass(frozen=True)
class Lent:
    """Wordings for one request, its subject (or another one) in place.

    Attributes:
        alike: others' wordings that ask for the same fact.
        beside: what asks something else about the same subject.
        elsewhere: what asks the same about other subjects, whose answer is not edited.
    """

    alike: tuple[Asked, ...] = ()
    beside: tuple[Asked, ...] = ()
    elsewhere: tuple[Asked, ...] = ()


def lent_where_known(
    requests: Sequence[EditRequest],
    embed: Embed | None,
    *,
    alike: int,
    beside: int,
    elsewhere: int,
) -> list[Lent]:
    """Return ``lent`` by the head that is shipped; nothing where no embeddings are at hand."""
    if embed is None:
        return [Lent() for _ in requests]
    return lent(
        requests,
        lambda texts: embed([Asked(text, chat=False) for text in texts]),
        load(HEAD),
        alike=alike,
        beside=beside,
        elsewhere=elsewhere,
    )


def lent(
    requests: Sequence[EditRequest],
    embed: Callable[[Sequence[str]], torch.Tensor],
    head: RelationMatch,
    *,
    alike: int,
    beside: int,
    elsewhere: int,
) -> list[Lent]:
    """Return for each request what the others lend it, at most so many of each sort."""
    masked = [_masked(request) for request in requests]
    texts = sorted({text for own in masked for text, _ in own})
    if len(texts) < 2:
        return [Lent() for _ in requests]
    number = {text: at for at, text in enumerate(texts)}
    vectors = embed(texts)
    sure = torch.stack([head.alike(vector, vectors) for vector in vectors])
    # Chat questions are lent to chat questions, plain prompts to plain prompts.
    asked = sorted({(number[text], chat) for own in masked for text, chat in own})
    owners = _owners(requests, masked, number)
    found = []
    for request, own in zip(requests, masked, strict=True):
        if not own:
            found.append(Lent())
            continue
        chats = {chat for _, chat in own}
        near = sure[[number[text] for text, _ in own]].amax(0)
        mine = {(number[text], chat) for text, chat in own}
        open_ = [pair for pair in asked if pair[1] in chats and pair not in mine]
        same = sorted((p for p in open_ if near[p[0]] >= ALIKE), key=lambda p: -float(near[p[0]]))
        same = same[:alike]
        apart = [pair for pair in open_ if near[pair[0]] <= UNLIKE]
        subjects = [
            subject
            for subject, asks in owners.items()
            if subject != request.subject and float(near[sorted(asks)].max()) < _OPEN
        ]
        forms = sorted(mine) + same
        apart = _drawn(apart, beside, request.id, lambda pair: texts[pair[0]])
        others = [
            (_drawn(forms, 1, f"{request.id} {subject}", lambda pair: texts[pair[0]])[0], subject)
            for subject in _drawn(subjects, elsewhere, request.id, str)
        ]
        found.append(
            Lent(
                tuple(_asked(texts, pair, request.subject) for pair in same),
                tuple(_asked(texts, pair, request.subject) for pair in apart),
                tuple(_asked(texts, pair, subject) for pair, subject in others),
            )
        )
    return found


def _masked(request: EditRequest) -> list[tuple[str, bool]]:
    """Return a request's wordings with its subject masked, each with whether it is a question."""
    if not request.subject:
        return []
    names = [wording.name_of(request.subject)]
    pairs = [(text, True) for text in request.questions]
    pairs += [(text, False) for text in request.prompts]
    made = [(wording.mask(text, names), chat) for text, chat in pairs]
    return [(text, chat) for text, chat in made if text]


def _drawn(items: Sequence[T], most: int, seed: str, name: Callable[[T], str]) -> list[T]:
    """Draw at most so many, by digest: as items come, few of those drawn are drawn no more."""

    def rank(item: T) -> bytes:
        return hashlib.sha256(f"{seed} {name(item)}".encode()).digest()

    return sorted(items, key=rank)[:most]


def _owners(
    requests: Sequence[EditRequest],
    masked: Sequence[Sequence[tuple[str, bool]]],
    number: dict[str, int],
) -> dict[str, set[int]]:
    """Return by subject which wordings are edited of it."""
    found: dict[str, set[int]] = {}
    for request, own in zip(requests, masked, strict=True):
        if own:
            found.setdefault(request.subject, set()).update(number[text] for text, _ in own)
    return found


def _asked(texts: Sequence[str], pair: tuple[int, bool], subject: str) -> Asked:
    masked = re.compile(rf"\b{wording.MASK}\b")
    return Asked(masked.sub(lambda _: subject, texts[pair[0]], count=1), pair[1])
