"""Key statistics: what ordinary text looks like to one layer's MLP (methods.md §3.3).

For compiled memory the key is the MLP's *input* (hidden size wide), so a few thousand
tokens already give a well-conditioned second moment. Computed once per model, layer and
text, and cached by the caller under the model's hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import torch

from editors.model import ChatModel
from editors.requests import EditorError
from editors.trunk import mlp_inputs

MIN_TOKENS = 500


@dataclass(frozen=True)
class KeyStatistics:
    """Uncentred second moment (hidden, hidden) and mean (hidden,) of MLP inputs, float64."""

    layer: int
    moment: torch.Tensor
    mean: torch.Tensor
    tokens: int

    def tensors(self) -> dict[str, torch.Tensor]:
        return {
            "moment": self.moment,
            "mean": self.mean,
            "layer_tokens": torch.tensor([self.layer, self.tokens]),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, torch.Tensor]) -> KeyStatistics:
        layer, tokens = tensors["layer_tokens"].tolist()
        return cls(layer, tensors["moment"], tensors["mean"], tokens)


def key_statistics(
    model: ChatModel,
    texts: Sequence[str],
    layer: int,
    max_tokens: int = 8192,
    window: int = 256,
    chat_weight: float = 0.5,
) -> KeyStatistics:
    """Measure the MLP inputs of ``layer`` on plain texts and on everyday chat.

    Plain texts are cut into windows of tokens. Chat is what the model itself answers to
    ``everyday_questions.txt``: tokens of a chat look unlike running text, and a gate that
    never saw them opens on them (measured: docs/log.md). ``chat_weight`` is chat's share.

    Raises:
        EditorError: the texts hold fewer than ``MIN_TOKENS`` tokens.
    """
    windows: list[list[int]] = []
    left = max_tokens
    for text in texts:
        ids = model.encode(text)[:left]
        windows += [ids[at : at + window] for at in range(0, len(ids), window)]
        left -= len(ids)
        if left <= 0:
            break
    if max_tokens - left < MIN_TOKENS:
        raise EditorError(
            f"key statistics need at least {MIN_TOKENS} tokens of ordinary text, got "
            f"{max_tokens - left}; install the demo extra or set consolidation.statistics to a text"
        )
    running = mlp_inputs(model, windows, layer).double()
    chat = mlp_inputs(model, everyday_chat(model), layer).double()
    text_weight = 1 - chat_weight
    return KeyStatistics(
        layer,
        text_weight * (running.T @ running) / len(running)
        + chat_weight * (chat.T @ chat) / len(chat),
        text_weight * running.mean(0) + chat_weight * chat.mean(0),
        len(running) + len(chat),
    )


def everyday_chat(model: ChatModel) -> list[list[int]]:
    """Return the model's own everyday conversations as token sequences."""
    source = resources.files("editors").joinpath("everyday_questions.txt")
    questions = source.read_text(encoding="utf-8").split("\n")
    replies = model.answer([q for q in questions if q.strip()], max_new_tokens=40)
    return [model.encode(model.render(r.question)) + model.encode_answer(r.text) for r in replies]
