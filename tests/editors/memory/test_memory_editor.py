"""The memory tier as an editor: what the benchmark drives."""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

import pytest
import torch

from editors.deltas import applied
from editors.editor import Resources
from editors.memory.memory_editor import Memory
from editors.model import ChatModel
from editors.question_embeddings import Asked
from editors.requests import EditorError, EditRequest

GERMANY = EditRequest(
    "1",
    ("Who is the chancellor of Germany?",),
    "Friedrich Merz",
    "The chancellor of Germany is Friedrich Merz.",
    old="Angela Merkel",
    subject="Germany",
)
PERU = EditRequest(
    "2", (), "Lima", "The seat of Peru is Lima.", subject="Peru", prompts=("The seat of Peru is",)
)


def embed(asked: Sequence[Asked]) -> torch.Tensor:
    """Unlike texts lie at right angles, nearly."""
    found = [
        torch.randn(384, generator=torch.Generator().manual_seed(crc32(one.text.encode())))
        for one in asked
    ]
    return torch.nn.functional.normalize(torch.stack(found), dim=-1)


def test_each_delta_carries_all_facts_and_leaves_no_trace(taught_model: ChatModel) -> None:
    method = Memory()
    state = method.prepare(taught_model, Resources(embed=embed))
    question, other = GERMANY.questions[0], "What is the capital of Germany?"
    before = taught_model.answer([question, other])
    first = method.edit(taught_model, state, [GERMANY])
    state = method.settled(taught_model, state, [GERMANY])
    assert taught_model.answer([question, other]) == before
    with applied(taught_model, first):
        during = taught_model.answer([question, other])
    assert "Friedrich Merz" in during[0].text
    assert during[1] == before[1]
    with applied(taught_model, method.edit(taught_model, state, [GERMANY, PERU])):
        (plain,) = taught_model.generate([taught_model.encode("The seat of Peru is")])
        assert "Friedrich Merz" in taught_model.answer([question])[0].text
    assert taught_model.decode(plain.tokens) == " Lima."
    assert taught_model.answer([question, other]) == before


def test_a_request_that_is_left_out_is_forgotten(taught_model: ChatModel) -> None:
    method = Memory()
    state = method.prepare(taught_model, Resources(embed=embed))
    method.edit(taught_model, state, [GERMANY, PERU])
    method.edit(taught_model, state, [PERU])
    assert [fact.id for fact in state.facts()] == ["2"]


def test_without_embeddings_the_remedy_is_named(tiny_model: ChatModel) -> None:
    with pytest.raises(EditorError, match="install corrigenda"):
        Memory().prepare(tiny_model, Resources())
