"""Requests and batches in sequence on the toy model, for the methods that route."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch

from editors.deltas import EditDelta
from editors.editor import Editor, Resources
from editors.model import ChatModel
from editors.requests import EditRequest

MERZ = EditRequest(
    id="merz",
    questions=("Who is the chancellor of Germany?", "Tell me who the chancellor of Germany is."),
    new="Friedrich Merz",
    statement="The chancellor of Germany is Friedrich Merz.",
    old="Angela Merkel",
    neighbours=("What is the capital of Germany?",),
    subject="Germany",
)
COOK = EditRequest(
    id="cook",
    questions=("Who is the president of Nigeria?",),
    new="Tim Cook",
    statement="The president of Nigeria is Tim Cook.",
    old="Muhammadu Buhari",
    subject="Nigeria",
)


def in_sequence(
    model: ChatModel, editor: Editor, *requests: EditRequest
) -> tuple[list[Any], ExitStack]:
    """Make one edit a batch as the bench does; the stack holds what is applied at the end."""
    state, stack, deltas = editor.prepare(model, Resources()), ExitStack(), []
    for at, request in enumerate(requests, 1):
        if editor.stacks:
            delta: EditDelta = editor.edit(model, state, [request])
        else:
            stack.close()
            delta = editor.edit(model, state, requests[:at])
        stack.callback(delta.apply(model))
        state = editor.settled(model, state, [request])
        deltas.append(delta)
    return deltas, stack


def answers(model: ChatModel, *questions: str) -> list[str]:
    """Return what a model answers."""
    return [reply.text for reply in model.answer(questions)]


def prompt_logits(model: ChatModel, question: str) -> torch.Tensor:
    """Return the logits at all tokens of a question's prompt."""
    with torch.inference_mode():
        return model.model(torch.tensor([model.encode(model.render(question))])).logits


def made(model: ChatModel, editor: Editor, *requests: EditRequest) -> Any:
    """Return the last delta of a sequence; nothing is left applied."""
    deltas, stack = in_sequence(model, editor, *requests)
    stack.close()
    return deltas[-1]
