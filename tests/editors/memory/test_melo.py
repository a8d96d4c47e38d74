"""MELO: one block on for its own questions, off to the bit for all others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from memory_exercises import COOK, MERZ, answers, in_sequence, made, prompt_logits

from editors.deltas import DeltaError, applied
from editors.editor import Resources
from editors.memory.codebook import overlaps
from editors.memory.melo import Melo, MeloDelta
from editors.model import ChatModel
from editors.requests import EditorError

EDITOR = Melo(first=0.5, layers=2, read=0.25, learning_rate=3e-2, steps=100, siblings=0)


def test_edits_in_sequence_are_answered_alone_and_mixed_and_others_stay(
    taught_model: ChatModel, taught_answers: dict[str, str]
) -> None:
    others = [q for q in taught_answers if "Germany" not in q and "Nigeria" not in q][:12]
    others += MERZ.neighbours
    before = answers(taught_model, *others)
    outside = prompt_logits(taught_model, others[0])
    deltas, stack = in_sequence(taught_model, EDITOR, MERZ, COOK)
    with stack:
        mixed = answers(taught_model, *others, *MERZ.questions, *COOK.questions)
        assert answers(taught_model, *COOK.questions) == [COOK.statement]
        assert prompt_logits(taught_model, others[0]).equal(outside)
    assert mixed == [*before, *[MERZ.statement] * 2, COOK.statement]
    assert not taught_model.runtimes
    assert [len(delta.blocks) for delta in deltas] == [1, 2]
    for name, (a, b) in deltas[0].blocks[0].items():
        again = deltas[1].blocks[0][name]
        assert again[0].equal(a)
        assert again[1].equal(b), "training a block leaves the others alone"
    assert not overlaps(deltas[1].book)


def test_an_untrained_block_is_the_model_to_the_bit(tiny_model: ChatModel) -> None:
    delta = made(tiny_model, replace(EDITOR, steps=0), COOK)
    plain = prompt_logits(tiny_model, COOK.questions[0])
    assert delta.route(delta.points[0]) == 0
    assert delta.route(-delta.points[0]) is None
    with applied(tiny_model, delta):
        torch.testing.assert_close(
            prompt_logits(tiny_model, COOK.questions[0]), plain, atol=0, rtol=0
        )


def test_the_nearest_key_of_the_ball_says_which_block_is_on(tiny_model: ChatModel) -> None:
    again = replace(COOK, id="again", questions=("Name the president of Nigeria.",))
    newer = replace(COOK, id="newer", new="A B", statement="It is A B.")
    editor = replace(EDITOR, steps=0, radius=2.0)
    delta = made(tiny_model, editor, COOK, again)
    assert [delta.route(point) for point in delta.points] == [0, 1]
    assert len(delta.book) == 1, "one answer, one cluster"
    taken = made(tiny_model, editor, COOK, again, newer)
    assert [taken.route(point) for point in taken.points] == [2, 1]


def test_a_delta_is_rebuilt_from_its_tensors(taught_model: ChatModel) -> None:
    delta = made(taught_model, EDITOR, MERZ, COOK)
    again = MeloDelta.from_tensors(delta.tensors())
    assert again.parameters_added == delta.parameters_added
    with applied(taught_model, again):
        assert answers(taught_model, *COOK.questions) == [COOK.statement]


def test_it_works_on_every_architecture(each_model: ChatModel) -> None:
    word = each_model.tokenizer.convert_ids_to_tokens(each_model.encode("Who")[-1])
    request = replace(COOK, questions=(), prompts=(word,), subject="")
    ids = torch.tensor([each_model.encode(word)])
    before = each_model.model(ids).logits
    delta = made(each_model, replace(EDITOR, first=0.7, layers=1, read=0.34, steps=5), request)
    with applied(each_model, delta):
        after = each_model.model(ids).logits
    assert not torch.allclose(after, before)


def test_what_does_not_fit_is_refused(tiny_model: ChatModel, taught_model: ChatModel) -> None:
    with pytest.raises(EditorError, match="not below"):
        replace(EDITOR, read=0.5).prepare(tiny_model, Resources())
    delta = made(tiny_model, replace(EDITOR, steps=0), COOK)
    with pytest.raises(DeltaError, match="hidden size"):
        delta.apply(taught_model)
