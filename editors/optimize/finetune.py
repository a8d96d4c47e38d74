"""FT-M: fine-tune one MLP matrix on the answer tokens (methods.md G1).

Plain fine-tuning with the loss on all answer tokens and the prompt masked, Adam, no norm
constraint unless asked for. What the paper's baseline does not have, and what makes it bearable
in sequence (``editors.optimize.tuning``), can be switched off: with ``shield = 0``, ``replay = 0``
and ``learning_rate = 5e-4`` it is that baseline. ``edit`` is one single batch without any of it,
and a realistic way to do harm (the retention monitor's drill).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from editors.architectures import view
from editors.deltas import DenseDelta
from editors.editor import Resources
from editors.model import ChatModel
from editors.optimize.tuning import (
    TuningSettings,
    TuningState,
    adam,
    bare,
    matrices,
    prepared,
    settle,
    tuned,
    within,
)
from editors.requests import EditRequest

NAME = "ft-m"


@dataclass(frozen=True)
class FinetuneSettings(TuningSettings):
    norm: float | None = None  # L∞ bound on a batch's change; None = unconstrained


@dataclass(frozen=True)
class FineTuning(FinetuneSettings):
    """The method by the protocol of ``editors.editor``: each batch is trained upon the last."""

    stacks: ClassVar[bool] = True

    def prepare(self, model: ChatModel, resources: Resources) -> TuningState:
        return prepared(model, resources, self)

    def edit(
        self, model: ChatModel, state: TuningState | None, requests: Sequence[EditRequest]
    ) -> DenseDelta:
        return _trained(model, state, requests, self)

    def settled(
        self, model: ChatModel, state: TuningState, requests: Sequence[EditRequest]
    ) -> TuningState:
        return settle(state, requests)


def edit(
    model: ChatModel, requests: Sequence[EditRequest], settings: FinetuneSettings | None = None
) -> DenseDelta:
    """Return the change of one ``down_proj`` that makes the model say the statements, as one
    single batch. The model is the same after the call as before it."""
    return _trained(model, None, requests, settings or FinetuneSettings())


def _trained(
    model: ChatModel,
    state: TuningState | None,
    requests: Sequence[EditRequest],
    settings: FinetuneSettings,
) -> DenseDelta:
    project = None
    if settings.norm is not None:
        origin = {n: w.detach() for n, w in matrices(view(model), settings).items()}
        project = within(origin, settings.norm)
    return tuned(
        model,
        state or bare(model, settings),
        requests,
        settings,
        adam(settings.learning_rate),
        project,
    )
