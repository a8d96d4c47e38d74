"""RAG over the edits: the statements most like the question stand in the prompt (baseline).

Plain retrieval, without scope and without a guide: whatever is asked, the ``passages`` nearest
statements are told. It is what every memory has to be better than (design.md §5.6); the row
"retrieval" of the tables retrieves from the evidence store instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

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
    wordings,
)
from editors.model import ChatModel
from editors.question_embeddings import Asked
from editors.requests import EditRequest
from editors.runtime import Turns

NAME = "rag"


@dataclass(frozen=True)
class RagSettings(TextSettings):
    passages: int = 3  # statements that are told, the nearest one last


@dataclass(frozen=True)
class Rag(RagSettings, TextEditor):
    """The method by the protocol of ``editors.editor``."""

    scoped: ClassVar[bool] = False

    def edit(
        self, model: ChatModel, state: TextState, requests: Sequence[EditRequest]
    ) -> MemoryDelta:
        """Return the memory of all requests' statements; of a question asked before, the newest
        answer's."""
        newest = {tuple(wordings(request)): request.statement for request in requests}
        statements = tuple(dict.fromkeys(newest.values()))
        # A statement is compared as what it is, and asked as it would be in chat: a retriever
        # has nothing but the documents.
        index = Index(state.embed, [[Asked(s, True), Asked(s, False)] for s in statements])
        return MemoryDelta(RagMemory(index, statements, self.passages))


@dataclass(frozen=True)
class RagMemory:
    """By the protocol of ``editors.generation.Memory``: statements, and how many are told."""

    index: Index
    statements: tuple[str, ...]
    passages: int

    def answer(
        self,
        model: ChatModel,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        progress: Progress | None,
    ) -> list[Generation]:
        """Continue prompts, each after the nearest statements."""
        turns = Turns(model)
        near = self.index.likeness([asked_of(model, turns, prompt) for prompt in prompts])
        ways = [
            Way(clarified(model, turns, prompt, told)) if (told := self._told(row)) else None
            for prompt, row in zip(prompts, near, strict=True)
        ]
        return answered(model, prompts, ways, max_new_tokens, progress)

    def _told(self, near: torch.Tensor) -> str:
        """Return what is told: the nearest statements, the nearest one last."""
        best = near.argsort(descending=True, stable=True)[: self.passages].tolist()
        return " ".join(self.statements[at] for at in reversed(best))
