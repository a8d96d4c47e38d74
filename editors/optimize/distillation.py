"""Low-rank distillation: what the memory tier says, learned by a change of low rank.

The memory tier is the teacher: on an edit's questions it says the fact, on everything else it is
the unedited model. The student learns both (context distillation; Padmanabhan et al. 2023,
"Propagating knowledge updates to LMs through distillation"), as LoRA changes of the MLP output
matrices of several layers (Hu et al. 2022): the answers as they are told, neighbours and everyday
text by their distribution (KL). Every call trains from the unedited weights on all requests, so
that nothing piles up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from editors.architectures import view
from editors.deltas import DenseDelta
from editors.editor import Resources
from editors.model import ChatModel
from editors.optimize.parameters import LowRank
from editors.optimize.tuning import TuningSettings, TuningState, adam, matrices, prepared, tuned
from editors.requests import EditRequest

NAME = "distillation"


@dataclass(frozen=True)
class DistillationSettings(TuningSettings):
    layer: float = 0.5
    layers: int = 8
    learning_rate: float = 2e-3
    steps: int = 300
    keep: float = 1.0  # weight of the KL to the unedited model
    shield: float = 0.0  # a shield is for whole matrices
    replay: int = 0  # every call trains on all requests anyway
    rank: int = 16  # of each matrix's change
    scale: float = 2.0  # of the change, as in LoRA
    seed: int = 0  # of the drawn half of each change


@dataclass(frozen=True)
class Distillation(DistillationSettings):
    """The method by the protocol of ``editors.editor``: all requests, from the base weights."""

    stacks: ClassVar[bool] = False

    def prepare(self, model: ChatModel, resources: Resources) -> TuningState:
        return prepared(model, resources, self)

    def edit(
        self, model: ChatModel, state: TuningState, requests: Sequence[EditRequest]
    ) -> DenseDelta:
        shown = view(model)
        change = LowRank(shown, matrices(shown, self), self.rank, self.scale, self.seed)
        optimise = adam(self.learning_rate)
        return tuned(model, state, requests, self, optimise, parameters=change)

    def settled(
        self, model: ChatModel, state: TuningState, requests: Sequence[EditRequest]
    ) -> TuningState:
        return state
