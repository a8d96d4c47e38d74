"""Extra neurons in a layer's gated MLP: what T-Patcher and CaliNet share.

They are bias-free and of the MLP's own kind, so that they widen its matrices and travel in a
weight file (``deltas.MlpExpansion``). In the last layer nothing attends to what they write:
there a neuron trained on an answer's tokens does in a free run exactly what it was trained to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from editors.architectures import ModelView
from editors.capture import keys_at
from editors.deltas import MlpExpansion
from editors.generation import shared_prefix
from editors.key_statistics import everyday_questions
from editors.model import ChatModel
from editors.requests import EditorError
from editors.trunk import Trunk, label_logits, mlp_inputs, resume, with_values


@dataclass(frozen=True)
class Block:
    """Neurons beside an MLP: gate and up (neurons, hidden), down (hidden, neurons)."""

    gate: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor

    def delta(self, layer: int) -> MlpExpansion:
        """Return the expansion that holds them, detached and in float32."""
        gate, up, down = (t.detach().float().cpu() for t in (self.gate, self.up, self.down))
        return MlpExpansion(layer, gate, up, down.contiguous())


def layer_at(shown: ModelView, share: float) -> int:
    """Return the layer at a share of the depth (1: the last), which must be one that widens.

    Raises EditorError: its MLP has no gate and up projection of its own.
    """
    layer = min(int(share * len(shown.layers)), len(shown.layers) - 1)
    mlp: Any = shown.module(layer, "mlp")
    if not all(hasattr(mlp, name) for name in ("gate_proj", "up_proj", "down_proj")):
        raise EditorError(
            f"the MLPs of {shown.chat.name} cannot be widened: neurons need a gate and an up "
            "projection of their own"
        )
    return layer


def activations(
    shown: ModelView, layer: int, inputs: torch.Tensor, gate: torch.Tensor, up: torch.Tensor
) -> torch.Tensor:
    """Return the neurons' activations (…, neurons) on MLP inputs (…, hidden), with the MLP's own
    activation function."""
    mlp: Any = shown.module(layer, "mlp")
    made: torch.Tensor = mlp.act_fn(inputs @ gate.to(inputs).T) * (inputs @ up.to(inputs).T)
    return made


def block_logits(
    shown: ModelView, trunk: Trunk, block: Block
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return ``trunk.label_logits`` with a block beside the trunk layer's MLP."""
    made = activations(shown, trunk.layer, trunk.mlp_inputs, block.gate, block.up)
    values = trunk.values + made @ block.down.to(made).T
    return label_logits(
        shown, resume(shown, trunk, with_values(shown, trunk, values)), trunk.targets
    )


def ordinary_inputs(
    model: ChatModel, texts: Sequence[str], layer: int, tokens: int, width: int = 256
) -> torch.Tensor:
    """Return what a layer's MLP sees on everyday questions and ordinary text: (at most
    ``tokens``, hidden), float32; ``width`` tokens of a text at most."""
    asked = [model.encode(model.render(q)) for q in everyday_questions()]
    # What all of them begin with would be most of the memory, and says the same every time.
    begin = shared_prefix(asked)
    places = [list(range(begin, len(ids))) for ids in asked]
    found = [keys_at(model, asked, [layer], places, part="mlp")[0].float()]
    kept, count = [], len(found[0])
    for ids in (model.encode(text)[:width] for text in texts):
        if count >= tokens:
            break
        kept.append(ids)
        count += len(ids)
    if kept:
        found.append(mlp_inputs(model, kept, layer).float())
    return torch.cat(found)[:tokens]
