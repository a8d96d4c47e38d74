"""Compiled memory by the protocol of ``editors.editor``.

Apart from ``editors.memory.compiled``, whose settings the versions of the daemon record: here
stands only what a run of many batches needs besides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from editors.deltas import MlpExpansion
from editors.editor import Resources
from editors.key_statistics import KeyStatistics, kept_statistics
from editors.memory import compiled
from editors.memory.compiled import CompiledSettings
from editors.model import ChatModel
from editors.requests import EditRequest


@dataclass
class CompiledState:
    """Key statistics of the layer, and what the unedited model answered so far: both are
    constant, so that a batch asks only what no batch before it asked."""

    statistics: KeyStatistics
    answers: dict[str, str]


@dataclass(frozen=True)
class CompiledMemory(CompiledSettings):
    """The method: every delta carries all requests so far, computed from the base weights."""

    stacks: ClassVar[bool] = False
    tunable: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "threshold": (0.5, 0.6),
        "layer": (0.65, 0.75),
    }

    def prepare(self, model: ChatModel, resources: Resources) -> CompiledState:
        """Measure the key statistics, or read them from the cache."""
        return CompiledState(self._statistics(model, resources), {})

    def edit(
        self, model: ChatModel, state: CompiledState, requests: Sequence[EditRequest]
    ) -> MlpExpansion:
        """Compile all requests together; ``model`` is the unedited one."""

        def ask(questions: Sequence[str]) -> list[str]:
            missing = sorted(set(questions) - set(state.answers))
            if missing:
                state.answers.update((r.question, r.text) for r in model.answer(missing))
            return [state.answers[question] for question in questions]

        return compiled.edit(model, requests, state.statistics, self, ask=ask)

    def settled(
        self, model: ChatModel, state: CompiledState, requests: Sequence[EditRequest]
    ) -> CompiledState:
        return state

    def _statistics(self, model: ChatModel, resources: Resources) -> KeyStatistics:
        layer = compiled.layer_of(model, self)
        return kept_statistics(
            model, resources.texts, layer, self.statistics_tokens, resources.cache
        )
