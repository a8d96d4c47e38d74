"""Compiled memory as an editor of many batches: joint, from the base weights, asked once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from samples import REGISTRY
from toy_model import CORPUS

from editors.deltas import applied
from editors.editor import Resources
from editors.memory import compiled
from editors.memory.compiled import CompiledSettings
from editors.memory.compiled_editor import CompiledMemory
from editors.model import ChatModel
from editors.requests import EditorError, EditRequest
from store.records import Reply

CHANCELLOR = ("head_of_government", "Germany", "chancellor")
MERZ = EditRequest(
    id="merz",
    questions=tuple(REGISTRY.asking(*CHANCELLOR)[:2]),
    new="Friedrich Merz",
    statement=REGISTRY.statement(*CHANCELLOR, "Friedrich Merz"),
    old="Angela Merkel",
    neighbours=tuple(REGISTRY.same_subject("head_of_government", "Germany")),
)
PLAIN = EditRequest("plain", (), "Bola Tinubu", "", prompts=("The president of Nigeria is",))
EDITOR = CompiledMemory(steps=120, threshold=0.5)
"""Other than the defaults as in test_compiled: the toy is 64 wide."""


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory) -> Resources:
    return Resources(texts=CORPUS * 4, cache=tmp_path_factory.mktemp("cache"))


def test_it_is_compiled_memory_with_the_same_settings_and_statistics(
    taught_model: ChatModel, resources: Resources
) -> None:
    state = EDITOR.prepare(taught_model, resources)
    delta = EDITOR.edit(taught_model, state, [MERZ])
    settings = CompiledSettings(steps=120, threshold=0.5)
    by_hand = compiled.edit(taught_model, [MERZ], state.statistics, settings)
    assert not EDITOR.stacks
    for name, tensor in by_hand.tensors().items():
        assert delta.tensors()[name].equal(tensor), name
    with applied(taught_model, delta):
        answers = [reply.text for reply in taught_model.answer(MERZ.questions)]
    assert answers == [MERZ.statement] * len(MERZ.questions)


def test_a_later_batch_asks_only_what_is_new(taught_model: ChatModel, resources: Resources) -> None:
    state = EDITOR.prepare(taught_model, resources)
    EDITOR.edit(taught_model, state, [MERZ])
    asked: list[str] = []
    real = taught_model.answer

    def answer(questions: Sequence[str], **more: Any) -> list[Reply]:
        asked.extend(questions)
        return real(questions, **more)

    vars(taught_model)["answer"] = answer
    try:
        later = EDITOR.settled(taught_model, state, [MERZ])
        other = EditRequest("x", ("Who is Japan's president?",), "A B", "It is A B.", "Shinzo Abe")
        EDITOR.edit(taught_model, later, [MERZ, other])
    finally:
        del taught_model.answer
    assert asked == ["Who is Japan's president?"]


def test_a_plain_prompt_is_continued_with_the_object(
    taught_model: ChatModel, resources: Resources
) -> None:
    state = EDITOR.prepare(taught_model, resources)
    delta = EDITOR.edit(taught_model, state, [PLAIN])
    wanted = taught_model.encode_answer(f" {PLAIN.new}")
    ids = taught_model.encode(PLAIN.prompts[0])
    with applied(taught_model, delta):
        (made,) = taught_model.generate([ids], max_new_tokens=len(wanted))
    assert list(made.tokens) == wanted


def test_statistics_are_measured_once_for_a_model_and_its_texts(
    taught_model: ChatModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = CORPUS * 4
    first = EDITOR.prepare(taught_model, Resources(texts, tmp_path)).statistics
    assert len(list((tmp_path / "statistics").iterdir())) == 1
    module = "editors.key_statistics.key_statistics"
    monkeypatch.setattr(module, lambda *_: pytest.fail("measured again"))
    again = EDITOR.prepare(taught_model, Resources(texts, tmp_path)).statistics
    assert torch.equal(again.moment, first.moment)
    assert (again.layer, again.tokens) == (first.layer, first.tokens)


def test_without_text_it_says_what_it_needs(taught_model: ChatModel) -> None:
    with pytest.raises(EditorError, match="ordinary text"):
        EDITOR.prepare(taught_model, Resources())
