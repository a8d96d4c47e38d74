"""The memory tier as an editor, so that `bench edit` measures it like any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from editors.editor import Resources
from editors.memory.attached import MemoryDelta
from editors.memory.relation_match import HEAD, load
from editors.memory.scope import Fact, Meaning, Scope
from editors.memory.tier import MemoryTier
from editors.model import ChatModel
from editors.question_embeddings import Asked
from editors.requests import EditorError, EditRequest

NAME = "memory"


@dataclass(frozen=True)
class MemorySettings:
    threshold: float = 0.2  # least probability that a prompt asks what a wording does (docs/log.md)


@dataclass(frozen=True)
class Memory(MemorySettings):
    """The method by the protocol of ``editors.editor``; the state is the scope of all facts so
    far, into which only new ones are read."""

    stacks: ClassVar[bool] = False

    def prepare(self, model: ChatModel, resources: Resources) -> Scope:
        """Load what compares wordings. Raises EditorError where there are no embeddings."""
        if resources.embed is None:
            raise EditorError(
                "the memory tier compares wordings by sentence embeddings, and there are none: "
                "install corrigenda[demo] or set embedding.path"
            )
        embed = resources.embed

        def vectors(texts: Sequence[str]) -> torch.Tensor:
            return embed([Asked(text, chat=False) for text in texts])

        head = load(HEAD)
        return Scope(Meaning(vectors, lambda: head, self.threshold))

    def edit(self, model: ChatModel, state: Scope, requests: Sequence[EditRequest]) -> MemoryDelta:
        """Return all requests' facts as a memory; those that are known are not read again."""
        known = {fact.id for fact in state.facts()}
        state.add(fact_of(request) for request in requests if request.id not in known)
        for gone in known - {request.id for request in requests}:
            state.remove(gone)
        return MemoryDelta(MemoryTier(state))

    def settled(self, model: ChatModel, state: Scope, requests: Sequence[EditRequest]) -> Scope:
        return state


def fact_of(request: EditRequest) -> Fact:
    """Return what is remembered of a request."""
    return Fact(
        id=request.id,
        names=(request.subject,) if request.subject else (),
        wordings=(*request.questions, *request.prompts),
        new=request.new,
        statement=request.statement,
        former=(request.old,) if request.old else (),
    )
