"""CaliNet: a block of neurons learns a batch, and what stands beside it keeps its answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from memory_exercises import COOK, MERZ, answers, in_sequence, made, prompt_logits

from editors.architectures import view
from editors.capture import Site, captured, replaced
from editors.deltas import MlpExpansion, applied
from editors.editor import Resources
from editors.memory.calinet import Calinet, cka, knows, new_block
from editors.memory.neurons import activations
from editors.model import ChatModel
from editors.requests import EditorError

EDITOR = Calinet(width=16, everyday=4, siblings=0, steps=150, learning_rate=2e-2)


def test_a_batch_is_learned_and_neighbours_keep_their_answers(taught_model: ChatModel) -> None:
    before = answers(taught_model, *MERZ.neighbours)
    state = EDITOR.prepare(taught_model, Resources())
    delta = EDITOR.edit(taught_model, state, [MERZ, COOK])
    with applied(taught_model, delta):
        asked = answers(taught_model, *MERZ.questions, *COOK.questions)
        after = answers(taught_model, *MERZ.neighbours)
    assert asked == [*[MERZ.statement] * 2, COOK.statement]
    assert after == before
    assert delta.neurons == EDITOR.width


def test_a_later_block_leaves_an_earlier_one_standing(taught_model: ChatModel) -> None:
    _, stack = in_sequence(taught_model, EDITOR, MERZ, COOK)
    with stack:
        asked = answers(taught_model, *MERZ.questions, *COOK.questions)
    assert asked == [*[MERZ.statement] * 2, COOK.statement]


def test_an_untrained_block_leaves_the_logits_as_they_are(tiny_model: ChatModel) -> None:
    delta = made(tiny_model, replace(EDITOR, steps=0), COOK)
    plain = prompt_logits(tiny_model, COOK.questions[0])
    assert not delta.down_columns.any()
    assert delta.gate_rows.any()
    with applied(tiny_model, delta):
        torch.testing.assert_close(prompt_logits(tiny_model, COOK.questions[0]), plain)
    assert prompt_logits(tiny_model, COOK.questions[0]).equal(plain)


def test_only_the_blocks_parameters_are_trained(tiny_model: ChatModel) -> None:
    first = made(tiny_model, replace(EDITOR, steps=0), COOK)
    after = made(tiny_model, replace(EDITOR, steps=3), COOK)
    assert not after.gate_rows.equal(first.gate_rows)
    assert after.down_columns.any()
    assert all(p.grad is None for p in tiny_model.model.parameters())


def test_the_widened_mlp_is_the_mlp_and_the_block_beside_it(tiny_model: ChatModel) -> None:
    shown = view(tiny_model)
    draw = torch.Generator().manual_seed(3)
    block = replace(new_block(shown, 5, draw), down=torch.randn(32, 5, generator=draw))
    question = COOK.questions[0]
    with captured(tiny_model, [Site(3, "mlp")]) as seen:
        prompt_logits(tiny_model, question)
        inputs = seen.inputs(Site(3, "mlp"))
    beside = activations(shown, 3, inputs, block.gate, block.up) @ block.down.T
    with replaced(tiny_model, Site(3, "mlp"), lambda out: out + beside):
        wanted = prompt_logits(tiny_model, question)
    with applied(tiny_model, MlpExpansion.from_tensors(block.delta(3).tensors())):
        torch.testing.assert_close(prompt_logits(tiny_model, question), wanted)


def test_the_score_tells_a_known_fact_from_an_unknown_one(taught_model: ChatModel) -> None:
    ask = taught_model.render
    prompt = ask("Who is the chancellor of Germany?") + "The chancellor of Germany is"
    wrong = [ask("What is the capital of Germany?") + "It is"]
    assert cka(taught_model, prompt, wrong, "Angela Merkel") > 1
    assert cka(taught_model, wrong[0], [prompt], "Angela Merkel") < 1
    assert knows(0.5, [0.2, 0.3]) == pytest.approx(2.0)
    with pytest.raises(EditorError, match="other relations"):
        knows(0.5, [])


def test_what_cannot_be_widened_is_refused(model_of: object, tiny_model: ChatModel) -> None:
    with pytest.raises(EditorError, match="cannot be widened"):
        EDITOR.prepare(model_of("gpt2"), Resources())  # type: ignore[operator]
    with pytest.raises(EditorError, match="1 neuron"):
        replace(EDITOR, width=0).prepare(tiny_model, Resources())
