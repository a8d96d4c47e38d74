"""GRACE: inside a ball the value, outside the model to the bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from memory_exercises import COOK, MERZ, answers, in_sequence, made, prompt_logits

from editors.architectures import view
from editors.capture import Site, captured
from editors.deltas import DeltaError, applied
from editors.editor import Resources
from editors.memory.grace import Grace, GraceDelta
from editors.memory.prompt_keys import between
from editors.model import ChatModel
from editors.requests import EditorError

EDITOR = Grace(layer=0.5, read=0.25, siblings=0)


def test_edits_in_sequence_are_answered_and_what_lies_outside_is_not_touched(
    taught_model: ChatModel, taught_answers: dict[str, str]
) -> None:
    others = [q for q in taught_answers if "Germany" not in q and "Nigeria" not in q][:12]
    others += MERZ.neighbours
    before = answers(taught_model, *others)
    outside = prompt_logits(taught_model, others[0])
    deltas, stack = in_sequence(taught_model, EDITOR, MERZ, COOK)
    with stack:
        mixed = answers(taught_model, *others, *MERZ.questions, *COOK.questions)
        assert mixed == [*before, *[MERZ.statement] * 2, COOK.statement]
        assert prompt_logits(taught_model, others[0]).equal(outside)
    assert not taught_model.runtimes
    assert answers(taught_model, *others) == before
    assert len(deltas[1].values) == 2
    for label, value in deltas[0].values.items():
        assert deltas[1].values[label].equal(value), "a later edit leaves earlier values alone"


def test_a_ball_is_widened_for_another_phrasing_of_the_same_answer(tiny_model: ChatModel) -> None:
    delta = made(tiny_model, replace(EDITOR, steps=0, radius=2.0), MERZ)
    wide = len(delta.book)
    narrow = made(tiny_model, replace(EDITOR, steps=0, radius=0.01), MERZ)
    assert (wide, len(narrow.book)) == (1, 2)
    assert len(narrow.values) == 1, "both phrasings share the answer's value"


def test_the_output_at_each_place_of_the_answer_is_the_value_exactly(tiny_model: ChatModel) -> None:
    deltas, stack = in_sequence(tiny_model, replace(EDITOR, steps=2), MERZ)
    (value,) = deltas[0].values.values()
    prompt = tiny_model.encode(tiny_model.render(MERZ.questions[0]))
    answer = tiny_model.encode_answer(MERZ.statement)
    site = Site(2, "down")
    with stack, captured(view(tiny_model), [site]) as seen:
        tiny_model.model(torch.tensor([[*prompt, *answer, 5, 6, 7]]))
        given = seen.outputs(site)[0]
    with captured(view(tiny_model), [site]) as seen:
        tiny_model.model(torch.tensor([prompt]))
        plain = seen.outputs(site)[0]
    begin = len(prompt) - 1
    stop_and_answer = len(answer) + 1
    assert value.shape == (stop_and_answer, tiny_model.hidden_size)
    assert given[begin : begin + stop_and_answer].equal(value)
    torch.testing.assert_close(given[:begin], plain[:begin])
    assert not torch.allclose(given[-1], value[-1]), "behind the last place the model's own"


def test_the_same_question_again_is_the_newer_answers(taught_model: ChatModel) -> None:
    newer = replace(MERZ, id="again", new="Tim Cook", statement="The chancellor is Tim Cook.")
    deltas, stack = in_sequence(taught_model, EDITOR, MERZ, newer)
    with stack:
        assert answers(taught_model, MERZ.questions[0]) == [newer.statement]
    assert len(deltas[1].values) == 1


def test_an_answer_taken_away_leaves_the_model_as_it_was(tiny_model: ChatModel) -> None:
    delta = made(tiny_model, replace(EDITOR, steps=2), COOK)
    plain = prompt_logits(tiny_model, COOK.questions[0])
    with applied(tiny_model, delta):
        assert not prompt_logits(tiny_model, COOK.questions[0]).equal(plain)
    (label,) = delta.values
    with applied(tiny_model, delta.without(label)):
        assert prompt_logits(tiny_model, COOK.questions[0]).equal(plain)


def test_a_delta_is_rebuilt_from_its_tensors(taught_model: ChatModel) -> None:
    deltas, stack = in_sequence(taught_model, EDITOR, MERZ, COOK)
    stack.close()
    with applied(taught_model, GraceDelta.from_tensors(deltas[1].tensors())):
        assert answers(taught_model, *COOK.questions) == [COOK.statement]
    assert deltas[1].parameters_added > deltas[0].parameters_added > 0


def test_a_plain_prompt_is_continued_with_the_object(taught_model: ChatModel) -> None:
    plain = replace(COOK, questions=(), prompts=("The president of Nigeria is",))
    _, stack = in_sequence(taught_model, EDITOR, plain)
    wanted = taught_model.encode_answer(" Tim Cook")
    ids = taught_model.encode(plain.prompts[0])
    with stack:
        (one,) = taught_model.generate([ids], max_new_tokens=len(wanted))
    assert list(one.tokens) == wanted


def test_it_works_on_every_architecture(each_model: ChatModel) -> None:
    word = each_model.tokenizer.convert_ids_to_tokens(each_model.encode("Who")[-1])
    request = replace(COOK, questions=(), prompts=(word,), subject="")
    editor = replace(EDITOR, layer=0.7, read=0.34, learning_rate=1.0, steps=5)
    before = each_model.model(torch.tensor([each_model.encode(word)])).logits
    _, stack = in_sequence(each_model, editor, request)
    with stack:
        after = each_model.model(torch.tensor([each_model.encode(word)])).logits
    assert not torch.allclose(after, before)


def test_a_radius_lies_between_rewordings_and_other_questions() -> None:
    near, far = torch.tensor([0.1, 0.3]), torch.tensor([0.9, 1.3])
    assert 0.3 < between(near, far) < 0.9
    assert between(torch.tensor([2.0, 2.0]), far) < 1.0


def test_what_cannot_be_read_is_refused(tiny_model: ChatModel) -> None:
    with pytest.raises(EditorError, match="question or last"):
        replace(EDITOR, key="subject").prepare(tiny_model, Resources())
    with pytest.raises(EditorError, match="not below"):
        replace(EDITOR, read=0.5).prepare(tiny_model, Resources())


def test_a_delta_of_another_width_is_refused(
    tiny_model: ChatModel, taught_model: ChatModel
) -> None:
    delta = made(tiny_model, replace(EDITOR, steps=0), COOK)
    with pytest.raises(DeltaError, match="hidden size"):
        delta.apply(taught_model)
