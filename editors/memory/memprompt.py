"""MemPrompt: a memory of clarifications, appended to the question (Madaan et al. 2022; M4).

Who is not understood says so once; what was meant is kept under the question as its key, and
stands behind the question the next time. Here the clarification is the fact's statement. Keys are
compared as the paper does, both ways: (a) by edit distance of the normalised questions, (b) by
their embeddings. In a question about another subject few letters are others, so that both limits
are measured on what must find nothing: neighbours, other subjects, everyday questions.

What the paper's model says of its own understanding is left out: an editor is given the fact.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from editors.generation import Generation
from editors.memory.attached import MemoryDelta
from editors.memory.similarity import Index
from editors.memory.texts import (
    Progress,
    TextEditor,
    TextSettings,
    TextState,
    Way,
    answered,
    asked_of,
    clarified,
    everyday,
    outside,
    wordings,
)
from editors.model import ChatModel
from editors.requests import EditRequest
from editors.runtime import Turns

NAME = "memprompt"
_BUCKETS = 64  # of letters that are counted together
_STOP_WORDS = frozenset(("a", "an", "and", "are", "for", "in", "is", "of", "the", "to", "was"))


@dataclass(frozen=True)
class MemPromptSettings(TextSettings):
    distance: int = 6  # least edit distance at which a key is another one, letters (paper)
    stop_words: bool = False  # leave words like "the" out of the keys (paper: optional)
    strangers: float = 0.05  # share of what must find nothing that may, by embedding
    siblings: int = 4  # times that a request's question is about another subject


@dataclass(frozen=True)
class MemPrompt(MemPromptSettings, TextEditor):
    """The method by the protocol of ``editors.editor``."""

    def edit(
        self, model: ChatModel, state: TextState, requests: Sequence[EditRequest]
    ) -> MemoryDelta:
        """Return the memory of all requests' clarifications."""
        beside = outside(state, requests, self.siblings)
        index = Index(state.embed, [wordings(request) for request in requests], beside)
        keys = Keys.of(
            [[one.text for one in wordings(request)] for request in requests],
            [one.text for one in beside],
            self.distance,
            self.stop_words,
        )
        least = index.calibrated(everyday(), self.strangers)
        statements = tuple(request.statement for request in requests)
        return MemoryDelta(MemPromptMemory(index, keys, statements, least))


def normalised(question: str, stop_words: bool = False) -> str:
    """Return a question as a key: small letters, without brackets' contents and punctuation.

    ``stop_words`` leaves frequent words out too, unless nothing else is there.
    """
    bare = re.sub(r"\([^()]*\)|\[[^\[\]]*\]|\{[^{}]*\}", " ", question.casefold())
    words = re.sub(r"[^\w\s]|_", " ", bare).split()
    kept = [word for word in words if word not in _STOP_WORDS] if stop_words else words
    return " ".join(kept or words)


def edit_distance(one: str, other: str, limit: int) -> int:
    """Return how many letters must be put in, left out or exchanged (Levenshtein); ``limit``
    where it is that or more."""
    if one == other or limit <= 0:
        return 0
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        above, row = row, [i]
        for j, with_letter in enumerate(other, 1):
            exchanged = above[j - 1] + (letter != with_letter)
            row.append(min(exchanged, above[j] + 1, row[j - 1] + 1))
        if min(row) >= limit:
            return limit
    return min(row[-1], limit)


def least_distances(one: Sequence[str], other: Sequence[str]) -> torch.Tensor:
    """Return a lower bound (n, m) of the edit distances, by how often each letter is there: of a
    thousand keys it leaves few to be looked at letter by letter."""
    mine, theirs = _letters(one), _letters(other)
    apart = torch.cdist(mine, theirs, p=1.0)
    return (apart + (mine.sum(1)[:, None] - theirs.sum(1)[None]).abs()) / 2


def _letters(texts: Sequence[str]) -> torch.Tensor:
    rows = torch.zeros(len(texts), _BUCKETS)
    for row, text in zip(rows, texts, strict=True):
        at = torch.tensor([ord(letter) % _BUCKETS for letter in text], dtype=torch.long)
        row += torch.bincount(at, minlength=_BUCKETS)
    return rows


@dataclass(frozen=True)
class Keys:
    """Clarifications' numbers by normalised question.

    Attributes:
        entries: by key the newest clarification's number.
        limit: least edit distance at which a question is another one.
        stop_words: whether keys are without them.
    """

    entries: Mapping[str, int]
    limit: int
    stop_words: bool = False

    @classmethod
    def of(
        cls,
        questions: Sequence[Iterable[str]],
        beside: Iterable[str],
        limit: int,
        stop_words: bool = False,
    ) -> Keys:
        """Return the keys of clarifications, oldest first; a newer one replaces an older one.

        Args:
            questions: of each clarification.
            beside: questions that must find none: they and other clarifications' keys bring
                the limit down to their own distance.
            limit: upper limit.
            stop_words: leave them out.
        """
        entries = {
            normalised(text, stop_words): number
            for number, texts in enumerate(questions)
            for text in texts
        }
        own = list(entries)
        strange = sorted({normalised(text, stop_words) for text in beside} - entries.keys())
        texts = [*own, *strange]
        least = least_distances(own, texts)
        pairs = (least < limit).nonzero()
        # The most alike first: the limit falls, and few of the others need be looked at.
        for at, other in pairs[least[pairs[:, 0], pairs[:, 1]].argsort(stable=True)].tolist():
            if least[at, other] >= limit:
                break
            # A key of the same clarification is no stranger.
            if entries[own[at]] != entries.get(texts[other], -1):
                limit = edit_distance(own[at], texts[other], limit)
        return cls(entries, max(limit, 1), stop_words)

    def find(self, question: str) -> int | None:
        """Return the number of the clarification of the closest key, the newest of equally
        close ones, or None where none is close."""
        key = normalised(question, self.stop_words)
        if key in self.entries:
            return self.entries[key]
        own = list(self.entries)
        close = (least_distances([key], own)[0] < self.limit).nonzero()[:, 0].tolist()
        near = [(edit_distance(key, own[at], self.limit), -self.entries[own[at]]) for at in close]
        distance, number = min(near, default=(self.limit, 0))
        return -number if distance < self.limit else None


@dataclass(frozen=True)
class MemPromptMemory:
    """By the protocol of ``editors.generation.Memory``.

    Attributes:
        index: the questions by embedding.
        keys: the same by spelling, which is looked at first.
        statements: the clarifications.
        least: cosine from which on the index' answer counts.
    """

    index: Index
    keys: Keys
    statements: tuple[str, ...]
    least: float

    def answer(
        self,
        model: ChatModel,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        progress: Progress | None,
    ) -> list[Generation]:
        """Continue prompts, with the clarification of those that have one."""
        turns = Turns(model)
        asked = [asked_of(model, turns, prompt) for prompt in prompts]
        near = self.index.match(asked, self.least)
        found = [
            spelled if (spelled := self.keys.find(one.text)) is not None else at
            for one, at in zip(asked, near, strict=True)
        ]
        ways = [
            Way(clarified(model, turns, prompt, self.statements[at])) if at is not None else None
            for prompt, at in zip(prompts, found, strict=True)
        ]
        return answered(model, prompts, ways, max_new_tokens, progress)
