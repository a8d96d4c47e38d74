"""Requests and ready states for tests of the closed-form methods on tiny models."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from editors.architectures import view
from editors.closed_form import ClosedForm, State, layers_of
from editors.deltas import DenseDelta
from editors.key_statistics import KeyStatistics
from editors.model import ChatModel
from editors.rendering import Contexts
from editors.requests import EditRequest

CARD: dict[str, Any] = {
    "layer": 0.5,
    "window": 1,
    "positions": "subject",
    "average": True,
    "lead": True,
    "stated": False,
    "neighbour_weight": 0.0,
    "clamp": 4.0,
    "learning_rate": 0.3,
    "kl": 0.0625,
    "steps": 4,
    "stop": 0.0,
}
"""Settings as the methods' cards have them, with few steps."""
CONTEXTS = Contexts(chat=("Can you tell me? {question}",))
BARE = Contexts()


def request(
    subject: str = "Germany", title: str = "chancellor", new: str = "Tim Cook", **changed: Any
) -> EditRequest:
    """Return an edit of an office's holder, asked in chat."""
    about = f"the {title} of {subject}"
    return dataclasses.replace(
        EditRequest(
            id=f"{subject} {title}",
            questions=(f"Who is {about}?",),
            new=new,
            statement=f"The {title} of {subject} is {new}.",
            old="Angela Merkel",
            neighbours=("What is the capital of Germany?",),
            subject=subject,
        ),
        **changed,
    )


def requests(count: int = 3) -> list[EditRequest]:
    """Return edits of some offices; their keys are independent."""
    made = [
        request("Germany", "chancellor", "Tim Cook"),
        request("Nigeria", "president", "Shinzo Abe"),
        request("Japan", "prime minister", "Bola Tinubu"),
        request("Kenya", "president", "Sanae Takaichi"),
    ]
    return made[:count]


def ready(model: ChatModel, editor: ClosedForm, contexts: Contexts = BARE, seed: int = 0) -> Any:
    """Return the state that ``prepare`` would give, with random second moments."""
    shown = view(model)
    layers = layers_of(shown, editor.layer, editor.window)
    generator = torch.Generator().manual_seed(seed)
    statistics = {}
    for layer in layers:
        width = shown.inner(layer)
        keys = torch.randn(width, 4 * width, generator=generator, dtype=torch.float64)
        # Some directions are hardly used, as in a real model.
        keys *= torch.logspace(0, -3, width, dtype=torch.float64)[:, None]
        statistics[layer] = KeyStatistics(layer, keys @ keys.T / keys.shape[1], keys.mean(1), 999)
    return editor.ready(State(layers, contexts, statistics))


def matrix_change(model: ChatModel, delta: DenseDelta, layer: int) -> torch.Tensor:
    """Return a layer's change as (out, in)."""
    shown = view(model)
    name = shown.names(layer).down
    change = delta.changes[name]
    return change if change.shape == shown.matrix(name).shape else change.T


def keys_of(
    model: ChatModel, editor: ClosedForm, state: State, asked: list[EditRequest], layer: int
) -> torch.Tensor:
    """Return the keys (m, columns) of requests with the weights as they are."""
    return editor.own_keys(view(model), state, [layer], asked)[layer]
