"""T-Patcher: a neuron a wrong token, open on it and shut on all that is remembered."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_exercises import COOK, MERZ, answers, in_sequence, made
from toy_model import CORPUS

from editors.architectures import view
from editors.deltas import MlpExpansion, applied
from editors.editor import Resources
from editors.memory.neurons import activations
from editors.memory.t_patcher import (
    PatcherSettings,
    TPatcher,
    first_keys,
    patch_loss,
    unit_keys,
    wrong_places,
)
from editors.model import ChatModel
from editors.rendering import renderings
from editors.requests import EditorError
from editors.trunk import Sample, run_trunk

EDITOR = TPatcher(siblings=0, key_steps=200)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=4, max_size=4).filter(lambda x: max(map(abs, x)) > 0.1))
def test_a_new_key_answers_exactly_one_on_its_input(row: list[float]) -> None:
    inputs = torch.tensor([row], dtype=torch.float64)
    torch.testing.assert_close((unit_keys(inputs) * inputs).sum(1), torch.ones(1).double())
    draw = torch.Generator().manual_seed(0)
    shut = torch.randn(40, 4, generator=draw, dtype=torch.float64) + 3
    first = first_keys(inputs, shut, inputs, -3.0).double()
    torch.testing.assert_close((first * inputs).sum(1), torch.ones(1).double(), atol=1e-3, rtol=0)


def test_edits_in_sequence_come_out_and_others_stay(
    taught_model: ChatModel, taught_answers: dict[str, str]
) -> None:
    others = [q for q in taught_answers if "Germany" not in q and "Nigeria" not in q][:12]
    others += MERZ.neighbours
    before = answers(taught_model, *others)
    _, stack = in_sequence(taught_model, EDITOR, MERZ, COOK)
    with stack:
        mixed = answers(taught_model, *others, *MERZ.questions, *COOK.questions)
    assert mixed[-3:] == [*[MERZ.statement] * 2, COOK.statement]
    kept = sum(a == b for a, b in zip(mixed, before, strict=False))
    assert kept >= len(before) - 1
    assert answers(taught_model, *others) == before


def test_there_is_a_neuron_for_each_wrong_token_and_no_more_than_asked_for(
    taught_model: ChatModel,
) -> None:
    samples = [Sample(one.prompt, one.answer) for one in renderings(taught_model, COOK)]
    trunk = run_trunk(taught_model, samples, 3)
    wrong = wrong_places(view(taught_model), trunk, 99)
    assert 1 < len(wrong) < len(samples[0].answer), "what was right already needs no neuron"
    assert made(taught_model, replace(EDITOR, steps=1, key_steps=1), COOK).neurons == len(wrong)
    few = replace(EDITOR, steps=1, key_steps=1, most=1)
    assert made(taught_model, few, COOK).neurons == 1


def test_what_is_known_already_adds_no_neuron(taught_model: ChatModel) -> None:
    known = replace(MERZ, new=MERZ.old, statement="The chancellor of Germany is Angela Merkel.")
    known = replace(known, questions=MERZ.questions[:1])
    delta = made(taught_model, EDITOR, known)
    assert delta.neurons == 0
    with applied(taught_model, delta):
        assert answers(taught_model, *known.questions) == [known.statement]


def test_gates_are_open_on_the_edit_and_shut_on_ordinary_inputs(taught_model: ChatModel) -> None:
    editor = replace(EDITOR, steps=1)
    state = editor.prepare(taught_model, Resources(texts=CORPUS))
    delta = editor.edit(taught_model, state, [COOK])
    shown = view(taught_model)
    found = activations(shown, 3, state.ordinary, delta.gate_rows, delta.up_rows)
    assert float((found.abs() <= 1e-2).float().mean()) >= 0.99
    own = activations(shown, 3, state.pending[COOK.id], delta.gate_rows, delta.up_rows)
    assert float(own.amax(0).min()) > 1


def test_the_loss_falls_with_a_quieter_memory_and_a_louder_edit() -> None:
    edit, memory = torch.tensor([1.0, 1.0]), torch.zeros(2, 7)
    loss = patch_loss(edit, memory, PatcherSettings())
    assert patch_loss(edit + 1, memory, PatcherSettings()) < loss
    assert patch_loss(edit, memory - 1, PatcherSettings()) < loss
    only = PatcherSettings(remember=0.0)
    torch.testing.assert_close(patch_loss(edit, memory, only), 2 * torch.tensor(-1.0).exp())


def test_patches_are_taken_off_bit_for_bit_and_rebuilt_from_their_tensors(
    tiny_model: ChatModel,
) -> None:
    delta = made(tiny_model, replace(EDITOR, steps=2, key_steps=2), COOK)
    again = MlpExpansion.from_tensors(delta.tensors())
    ids = torch.tensor([tiny_model.encode(tiny_model.render(COOK.questions[0]))])
    before = tiny_model.model(ids).logits
    with applied(tiny_model, delta):
        during = tiny_model.model(ids).logits
    with applied(tiny_model, again):
        assert tiny_model.model(ids).logits.equal(during)
    assert not during.equal(before)
    assert tiny_model.model(ids).logits.equal(before)


def test_an_mlp_that_cannot_be_widened_is_refused(model_of: object) -> None:
    with pytest.raises(EditorError, match="cannot be widened"):
        EDITOR.prepare(model_of("gpt2"), Resources())  # type: ignore[operator]


def test_the_same_question_again_is_patched_anew(taught_model: ChatModel) -> None:
    newer = replace(COOK, id="again", new="Bola Tinubu", statement="It is Bola Tinubu.")
    _, stack = in_sequence(taught_model, EDITOR, COOK, newer)
    with stack:
        assert answers(taught_model, *COOK.questions) == [newer.statement]
