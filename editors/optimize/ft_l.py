"""FT-L: fine-tune one MLP matrix within a bound (Zhu et al. 2020, "Modifying Memories"; G1).

``min L(θ; E)  s.t.  ‖θ − θ₀‖ ≤ ε``, kept by projection after every step: L∞ by clamping every
entry, or L2 of each matrix. θ₀ is the *unedited* matrix, so that the bound holds for all
batches of a run together. The loss is the negative log-likelihood of all answer tokens.
``single_position`` is a popular toolkit's loss, every answer token scored at the last prompt
position: wrong for answers of several tokens, here for comparison only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from editors.deltas import DenseDelta
from editors.editor import Resources
from editors.model import ChatModel
from editors.optimize.tuning import (
    TuningSettings,
    TuningState,
    adam,
    prepared,
    settle,
    tuned,
    within,
)
from editors.requests import EditRequest

NAME = "ft-l"


@dataclass(frozen=True)
class BoundedSettings(TuningSettings):
    bound: float = 5e-2  # ε (reference for GPT2-XL: 5e-4, one edit, layer 0)
    kind: str = "max"  # "max": L∞ over the entries; "l2": Euclidean norm of each matrix
    single_position: bool = False  # the toolkit's loss, for comparison


@dataclass(frozen=True)
class BoundedFineTuning(BoundedSettings):
    """The method by the protocol of ``editors.editor``."""

    stacks: ClassVar[bool] = True

    def prepare(self, model: ChatModel, resources: Resources) -> TuningState:
        return prepared(model, resources, self)

    def edit(
        self, model: ChatModel, state: TuningState, requests: Sequence[EditRequest]
    ) -> DenseDelta:
        return tuned(
            model,
            state,
            requests,
            self,
            adam(self.learning_rate),
            within(state.base, self.bound, self.kind),
            single=self.single_position,
        )

    def settled(
        self, model: ChatModel, state: TuningState, requests: Sequence[EditRequest]
    ) -> TuningState:
        return settle(state, requests)
