"""SERAC: a memory of edits, a scope classifier, a counterfactual model (Mitchell et al. 2022; M1).

Nothing in the weights moves. A question's scope beta is measured against every stored edit
(``editors.memory.scope_head``, trained on the requests in a moment). Where the largest is at
least one half, the counterfactual model answers: here the base model itself, told the edit
(methods.md M1, port (a)). All other questions are answered by the model as it is. Of edits with
the same scope the newest wins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from editors.generation import Generation
from editors.memory.attached import MemoryDelta
from editors.memory.scope_head import HeadSettings, RadialHead, lessons, train_head
from editors.memory.similarity import Cached, best
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
from editors.question_embeddings import Asked
from editors.requests import EditRequest
from editors.runtime import Turns

NAME = "serac"


@dataclass(frozen=True)
class SeracSettings(HeadSettings, TextSettings):
    least: float = 0.5  # β from which on a question is in scope, 0..1 (paper)
    siblings: int = 4  # times that a request's question is about another subject, out of scope


@dataclass(frozen=True)
class Record:
    """A stored edit: what it says, how it is asked for (unit embeddings (n, width)), and its
    number in time."""

    statement: str
    wordings: torch.Tensor
    number: int


class Scopes:
    """Which record a question asks for, and how surely. The records' order says nothing.

    Args:
        embed: makes the embeddings.
        head: the trained scope; None without records.
        records: the stored edits.
    """

    def __init__(self, embed: Cached, head: RadialHead | None, records: Sequence[Record]) -> None:
        self.embed, self.head = embed, head
        self.records = tuple(sorted(records, key=lambda record: record.number))
        owners = [at for at, record in enumerate(self.records) for _ in record.wordings]
        self._owner = torch.tensor(owners, dtype=torch.long)
        self._wordings = torch.cat([r.wordings for r in self.records]) if self.records else None

    def of(self, asked: Sequence[Asked]) -> list[tuple[Record, float] | None]:
        """Return for each question the record with the largest beta; None without records."""
        if self.head is None or self._wordings is None or not asked:
            return [None] * len(asked)
        betas = self.head.beta(self.embed.once(asked), self._wordings)
        at = self._owner.expand(len(asked), -1)
        by_record = betas.new_zeros(len(asked), len(self.records))
        by_record = by_record.scatter_reduce(1, at, betas, "amax")
        return [(self.records[number], beta) for number, beta in map(best, by_record)]


def scopes(
    state: TextState, requests: Sequence[EditRequest], settings: HeadSettings, siblings: int
) -> Scopes:
    """Return the scopes of requests, with the head trained on them.

    Args:
        state: of the run.
        requests: oldest first.
        settings: of the head's training.
        siblings: as in ``SeracSettings``.
    """
    if not requests:
        return Scopes(state.embed, None, ())
    strangers = [*outside(state, requests, siblings), *everyday()]
    learned = lessons(requests, strangers)
    head = train_head(state.embed(learned.texts), learned, settings, state.seed)
    return Scopes(
        state.embed,
        head,
        tuple(
            Record(request.statement, state.embed(wordings(request)), number)
            for number, request in enumerate(requests)
        ),
    )


@dataclass(frozen=True)
class Serac(SeracSettings, TextEditor):
    """The method by the protocol of ``editors.editor``."""

    def edit(
        self, model: ChatModel, state: TextState, requests: Sequence[EditRequest]
    ) -> MemoryDelta:
        """Train the scope on all requests, and return their memory."""
        found = scopes(state, requests, self, self.siblings)
        return MemoryDelta(SeracMemory(found, self.least))


@dataclass(frozen=True)
class SeracMemory:
    """By the protocol of ``editors.generation.Memory``: scopes, and the least beta."""

    scopes: Scopes
    least: float

    def answer(
        self,
        model: ChatModel,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        progress: Progress | None,
    ) -> list[Generation]:
        """Continue prompts, those in scope with their edit told."""
        turns = Turns(model)
        found = self.scopes.of([asked_of(model, turns, prompt) for prompt in prompts])
        ways = [
            Way(clarified(model, turns, prompt, one[0].statement))
            if one is not None and one[1] >= self.least
            else None
            for prompt, one in zip(prompts, found, strict=True)
        ]
        return answered(model, prompts, ways, max_new_tokens, progress)
