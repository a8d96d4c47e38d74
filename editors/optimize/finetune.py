"""FT-M: fine-tune one MLP matrix on the answer tokens (methods.md G1).

Plain fine-tuning with the loss on all answer tokens and the prompt masked. Without a norm
constraint it forgets quickly; it stands here as the baseline that others are measured
against, and as a realistic way to do harm (the retention monitor's drill).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from editors.deltas import DenseDelta
from editors.editor import Resources
from editors.model import ChatModel
from editors.requests import EditRequest

NAME = "ft-m"


@dataclass(frozen=True)
class FinetuneSettings:
    layer: float = 0.7  # which layer's down_proj, as a share of the depth
    learning_rate: float = 5e-4  # Adam (Modifying Memories' reference setting)
    steps: int = 25  # full-batch steps
    norm: float | None = None  # L∞ bound on the change; None = unconstrained


@dataclass(frozen=True)
class FineTuning(FinetuneSettings):
    """The method by the protocol of ``editors.editor``: each batch is trained upon the last."""

    stacks: ClassVar[bool] = True

    def prepare(self, model: ChatModel, resources: Resources) -> None:
        return None

    def edit(self, model: ChatModel, state: None, requests: Sequence[EditRequest]) -> DenseDelta:
        return edit(model, requests, self)

    def settled(self, model: ChatModel, state: None, requests: Sequence[EditRequest]) -> None:
        return None


def edit(
    model: ChatModel, requests: Sequence[EditRequest], settings: FinetuneSettings | None = None
) -> DenseDelta:
    """Return the change of one ``down_proj`` that makes the model say the statements.

    The model is the same after the call as before it.
    """
    settings = settings or FinetuneSettings()
    layer = min(int(settings.layer * len(model.layers)), len(model.layers) - 1)
    linear = model.layers[layer].mlp.down_proj
    name = f"model.layers.{layer}.mlp.down_proj.weight"
    original = linear.weight
    if not requests:
        return DenseDelta({name: torch.zeros_like(original)})
    ids, mask, targets = _batch(model, requests)
    trained = nn.Parameter(original.detach().clone())
    optimiser = torch.optim.Adam([trained], lr=settings.learning_rate)
    linear.weight = trained
    try:
        for _ in range(settings.steps):
            logits = model.model(ids, attention_mask=mask).logits[:, :-1]
            at = targets[:, 1:] >= 0
            loss = nn.functional.cross_entropy(logits[at], targets[:, 1:][at])
            (trained.grad,) = torch.autograd.grad(loss, trained)
            optimiser.step()
            if settings.norm is not None:
                with torch.no_grad():
                    trained.copy_(trained.clamp(original - settings.norm, original + settings.norm))
    finally:
        linear.weight = original
    return DenseDelta({name: (trained - original).detach()})


def _batch(
    model: ChatModel, requests: Sequence[EditRequest]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokenise what each request is to say: ids, mask and labels (-100 = none).

    A question is answered with the statement and the end of the turn, a plain prompt is
    continued with the object.
    """
    stop = min(model.stop_ids)
    rows = []
    for request in requests:
        for question in request.questions:
            prompt = model.encode(model.render(question))
            rows.append((prompt, [*model.encode_answer(request.statement), stop]))
        for text in request.prompts:
            rows.append((model.encode(text), model.encode_answer(f" {request.new}")))
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    targets = torch.full((len(rows), width), -100, dtype=torch.long)
    for row, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor([*prompt, *answer])
        mask[row, :end] = 1
        targets[row, len(prompt) : end] = torch.tensor(answer)
    return ids.to(model.device), mask.to(model.device), targets.to(model.device)
