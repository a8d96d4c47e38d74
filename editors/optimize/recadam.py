"""RecAdam: Adam that recalls where it came from (Chen et al. 2020, "Recall and Learn"; G2).

``λ(t) · L_task + (1 − λ(t)) · γ/2 · ‖θ − θ₀‖²`` with ``λ(t) = 1 / (1 + exp(−κ (t − t₀)))``: the
quadratic term stands in for the loss of the pre-training, and hands over to the task as λ rises.
The two are decoupled, as weight decay is in AdamW::

    θ ← θ − η λ(t) m̂ / (√v̂ + ε)
    θ ← θ − η (1 − λ(t)) γ (θ − θ₀)

The second step only contracts where ``η γ (1 − λ) < 2``; settings that do not are refused.
θ₀ is the model as the batch finds it, earlier edits included: recalling the unedited one would
take them back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from editors.deltas import DenseDelta
from editors.editor import Resources
from editors.model import ChatModel
from editors.optimize.tuning import TuningSettings, TuningState, prepared, settle, tuned
from editors.requests import EditorError, EditRequest

NAME = "recadam"


@dataclass(frozen=True)
class RecAdamSettings(TuningSettings):
    recall: float = 50.0  # γ (paper: 5000, which needs a learning rate below 4e-4)
    slope: float = 0.5  # κ, how steeply the task takes over (paper: 0.05 to 1)
    middle: float = 8.0  # t₀, the step at which both weigh the same (paper: 100 to 1000)


class RecallingAdam(torch.optim.Optimizer):
    """The optimiser; θ₀ is what the parameters are when it is made.

    Raises EditorError where the recall would not contract at the first step.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        recall: float,
        slope: float,
        middle: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        least = weight_of_task(1, slope, middle)
        if lr * recall * (1 - least) >= 2:
            raise EditorError(
                f"recall {recall:g} at learning rate {lr:g} would not contract but diverge: "
                f"keep the learning rate below {2 / (recall * (1 - least)):.2g}"
            )
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps})
        self._recall, self._slope, self._middle = recall, slope, middle

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step with the gradients that the parameters hold."""
        for group in self.param_groups:
            (first, second), lr = group["betas"], group["lr"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = 0
                    state["mean"] = torch.zeros_like(parameter)
                    state["square"] = torch.zeros_like(parameter)
                    state["origin"] = parameter.detach().clone()
                state["step"] += 1
                count, gradient = state["step"], parameter.grad
                state["mean"].lerp_(gradient, 1 - first)
                state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
                deviation = (state["square"] / (1 - second**count)).sqrt_().add_(group["eps"])
                task = weight_of_task(count, self._slope, self._middle)
                parameter.addcdiv_(state["mean"], deviation, value=-lr * task / (1 - first**count))
                apart = parameter - state["origin"]
                parameter.sub_(apart, alpha=lr * (1 - task) * self._recall)


def weight_of_task(step: int, slope: float, middle: float) -> float:
    """Return λ at a step, counted from 1; ``slope`` infinite: 0 before the middle, then 1."""
    if math.isinf(slope):
        return float(step >= middle)
    return 1 / (1 + math.exp(-max(min(slope * (step - middle), 700.0), -700.0)))


@dataclass(frozen=True)
class RecAdam(RecAdamSettings):
    """The method by the protocol of ``editors.editor``."""

    stacks: ClassVar[bool] = True

    def prepare(self, model: ChatModel, resources: Resources) -> TuningState:
        return prepared(model, resources, self)

    def edit(
        self, model: ChatModel, state: TuningState, requests: Sequence[EditRequest]
    ) -> DenseDelta:
        def optimise(trained: list[nn.Parameter]) -> RecallingAdam:
            return RecallingAdam(trained, self.learning_rate, self.recall, self.slope, self.middle)

        return tuned(model, state, requests, self, optimise)

    def settled(
        self, model: ChatModel, state: TuningState, requests: Sequence[EditRequest]
    ) -> TuningState:
        return settle(state, requests)
