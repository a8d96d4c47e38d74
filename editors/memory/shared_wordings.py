"""What else asks for an edit's fact, and what does not, taken from the other edits' wordings.

Edits that ask the same of different subjects ("The mother tongue of X is", "Y spoke the language")
lend one another their wordings, the subject put in place; edits that ask something else give
questions on the same subject that must be left alone. Which is which, a scope's head says
(``relation_match``). Pure, given the embeddings: equal requests give equal wordings.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch

from editors.memory import wording
from editors.memory.relation_match import HEAD, load
from editors.question_embeddings import Asked, Embed
from editors.requests import EditRequest

T = TypeVar("T", str, tuple[int, bool])

ALIKE, UNLIKE = 0.8, 0.05
"""Probabilities from which on two wordings ask the same, and up to which they do not."""
_OPEN = 0.3  # from which on a wording may well ask for what another edit edits
FIRST = 256
"""The first requests, which lend to all."""


class Head(Protocol):
    """Tells which wordings ask the same (``relation_match``)."""

    def alike(self, asked: torch.Tensor, known: torch.Tensor) -> torch.Tensor: ...


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
    head: Head,
    *,
    alike: int,
    beside: int,
    elsewhere: int,
) -> list[Lent]:
    """Return for each request what the others lend it, at most so many of each sort.

    Lenders are the requests up to it and the ``FIRST``: what an edit was lent hardly changes as
    others come, so that what was run for it need not be run again.
    """
    masked = [_masked(request) for request in requests]
    if len({text for own in masked for text, _ in own}) < 2:
        return [Lent() for _ in requests]
    ledger = _Ledger(requests, masked, embed, head)
    return [
        ledger.lends(at, alike, beside, elsewhere) if own else Lent()
        for at, own in enumerate(masked)
    ]


class _Ledger:
    """All requests' wordings, and which of them ask the same."""

    def __init__(
        self,
        requests: Sequence[EditRequest],
        masked: Sequence[Sequence[tuple[str, bool]]],
        embed: Callable[[Sequence[str]], torch.Tensor],
        head: Head,
    ) -> None:
        self._requests = requests
        self._texts = sorted({text for own in masked for text, _ in own})
        number = {text: at for at, text in enumerate(self._texts)}
        vectors = embed(self._texts)
        self._sure = torch.stack([head.alike(vector, vectors) for vector in vectors])
        self._own = [{(number[text], chat) for text, chat in own} for own in masked]
        self._asks = [[number[text] for text, _ in own] for own in masked]
        self._strange = told_apart(requests, self._asks, len(self._texts))
        self._asked = _Brought([sorted(own) for own in self._own])
        self._index = torch.tensor([at for at, _ in self._asked.items])
        self._chat = torch.tensor([chat for _, chat in self._asked.items])
        both = zip(requests, masked, strict=True)
        self._named = _Brought([[request.subject] if own else [] for request, own in both])
        self._owner, self._edited = _owners(requests, masked, number, self._named.items)

    def lends(self, at: int, alike: int, beside: int, elsewhere: int) -> Lent:
        """Return what a request that names its subject is lent, at most so many of each sort."""
        request, own = self._requests[at], self._own[at]
        lenders = max(at + 1, FIRST)
        told = self._sure[self._asks[at]].amax(0)
        near = told.masked_fill(self._strange[at], 0.0)
        # Chat questions are lent to chat questions, plain prompts to plain prompts.
        chats = {chat for _, chat in own}
        fit = torch.where(self._chat, True in chats, False in chats)
        fit &= self._asked.since < lenders
        same = [p for p in self._asked.at(fit & (near[self._index] >= ALIKE)) if p not in own]
        same = sorted(same, key=lambda pair: -float(near[pair[0]]))[:alike]
        apart = [p for p in self._asked.at(fit & (near[self._index] <= UNLIKE)) if p not in own]
        return Lent(
            tuple(self._put(pair, request.subject) for pair in same),
            tuple(
                self._put(pair, request.subject) for pair in self._beside(at, apart, told, beside)
            ),
            tuple(
                self._put(_drawn(sorted(own) + same, 1, f"{request.id} {one}", self._text)[0], one)
                for one in self._elsewhere(at, near, lenders, elsewhere)
            ),
        )

    def _beside(
        self, at: int, apart: Sequence[tuple[int, bool]], told: torch.Tensor, most: int
    ) -> list[tuple[int, bool]]:
        """Choose of what asks something else: first what would be taken for the same, if the
        ledger did not know better."""
        request = self._requests[at]
        place = self._named.items.index(request.subject)
        # What another edit says of the subject is its to answer.
        of_subject = set(self._edited[self._owner == place].tolist())
        apart = [pair for pair in apart if pair[0] not in of_subject]
        close = [p for p in apart if self._strange[at, p[0]] and told[p[0]] >= _OPEN]
        clear = [p for p in apart if p not in close]
        first = _drawn(close, most, request.id, self._text)
        return first + _drawn(clear, most - len(first), request.id, self._text)

    def _elsewhere(self, at: int, near: torch.Tensor, lenders: int, most: int) -> list[str]:
        """Choose other subjects. Whoever edits the same of one, now or later, it is not asked of
        that."""
        request = self._requests[at]
        edits = torch.zeros(len(self._named.items))
        edits = edits.scatter_reduce(0, self._owner, near[self._edited], "amax")
        subjects = self._named.at((edits < _OPEN) & (self._named.since < lenders))
        return _drawn([one for one in subjects if one != request.subject], most, request.id, str)

    def _text(self, pair: tuple[int, bool]) -> str:
        return self._texts[pair[0]]

    def _put(self, pair: tuple[int, bool], subject: str) -> Asked:
        """Return a wording with a subject in place of the mask."""
        masked = re.compile(rf"\b{wording.MASK}\b")
        return Asked(masked.sub(lambda _: subject, self._text(pair), count=1), pair[1])


def told_apart(
    requests: Sequence[EditRequest], asks: Sequence[Sequence[int]], wordings: int
) -> torch.Tensor:
    """Return (requests, wordings) bool: which wordings ask something else than a request does,
    as the edits themselves tell, whatever a head says.

    They do where both relations are known and differ, and where the two are answered differently
    of the same subjects more often than alike ("Who is the head of state of X?" and "Who is the
    head of government of X?": nearly one to a head, and to a model of sentences).

    Args:
        asks: by request the numbers of its wordings.
        wordings: how many there are.
    """
    found = torch.zeros(len(requests), wordings, dtype=torch.bool)
    of = torch.zeros(len(requests), wordings)
    for at, own in enumerate(asks):
        of[at, list(own)] = 1.0
    for relation in {request.relation for request in requests} - {""}:
        mine = torch.tensor([request.relation == relation for request in requests])
        known = torch.tensor([request.relation != "" for request in requests])
        found[mine] = (of[known & ~mine] > 0).any(0) & ~(of[mine] > 0).any(0)
    found |= of @ (_answered_differently(requests, asks, wordings) > 0).float() > 0
    return found & (of == 0)


def _answered_differently(
    requests: Sequence[EditRequest], asks: Sequence[Sequence[int]], wordings: int
) -> torch.Tensor:
    """Return (wordings, wordings): of how many subjects more two are answered differently."""
    together: defaultdict[str, list[int]] = defaultdict(list)
    for at, request in enumerate(requests):
        together[request.subject].append(at)
    more = torch.zeros(wordings, wordings)
    for some in together.values():
        for one, other in itertools.product(some, some):
            same = requests[one].new.casefold() == requests[other].new.casefold()
            for asked in set(asks[one]) - set(asks[other]) if one != other else asks[one]:
                more[asked, list(set(asks[other]) - {asked})] += -1.0 if same else 1.0
    return more


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


class _Brought(Generic[T]):
    """What requests bring, each once and in order; ``since`` (n,) which brought it first."""

    def __init__(self, brought: Sequence[Sequence[T]]) -> None:
        since: dict[T, int] = {}
        for at, some in enumerate(brought):
            for one in some:
                since.setdefault(one, at)
        self.items: list[T] = sorted(since)
        self.since = torch.tensor([since[one] for one in self.items], dtype=torch.long)

    def at(self, chosen: torch.Tensor) -> list[T]:
        """Return the items where ``chosen`` (n,) bool is true."""
        return [self.items[at] for at in chosen.nonzero()[:, 0].tolist()]


def _owners(
    requests: Sequence[EditRequest],
    masked: Sequence[Sequence[tuple[str, bool]]],
    number: dict[str, int],
    subjects: Sequence[str],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the numbers of subjects, and of a wording that is edited of each: (pairs,) twice."""
    place = {subject: at for at, subject in enumerate(subjects)}
    pairs = [
        (place[request.subject], number[text])
        for request, own in zip(requests, masked, strict=True)
        for text, _ in own
    ]
    owner, edited = torch.tensor(pairs).T
    return owner, edited
