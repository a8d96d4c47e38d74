"""A memory as an edit delta: attached to a model and taken off again, the weights untouched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from editors.generation import Memory
from editors.model import ChatModel


@dataclass(frozen=True)
class MemoryDelta:
    """By the protocol of ``editors.deltas``. The memory's contents are texts, which the ledger
    keeps: there are no tensors."""

    memory: Memory

    @property
    def parameters_added(self) -> int:
        return 0

    def apply(self, model: ChatModel) -> Callable[[], None]:
        """Let the memory answer; the newest of several does."""
        model.memories.append(self.memory)
        return lambda: _take_off(model, self.memory)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {}


def _take_off(model: ChatModel, memory: Memory) -> None:
    """Remove this very memory: an equal one may be attached too."""
    at = next(i for i, one in enumerate(model.memories) if one is memory)
    del model.memories[at]
