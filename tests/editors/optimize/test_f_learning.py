"""F-Learning: what is subtracted is what training on the old answers adds."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from editors.architectures import view
from editors.deltas import applied
from editors.editor import Resources
from editors.model import ChatModel
from editors.optimize.f_learning import FLearning, forgotten, old_rows, old_vector
from editors.optimize.finetune import FineTuning
from editors.optimize.matrix_training import losses_of
from editors.optimize.tuning import matrices
from editors.requests import EditRequest

REQUEST = EditRequest(
    id="merz",
    questions=("Who is the chancellor of Germany?", "Tell me who the chancellor of Germany is."),
    new="Friedrich Merz",
    statement="The chancellor of Germany is Friedrich Merz.",
    old="Angela Merkel",
)
SETTINGS: dict[str, Any] = {"learning_rate": 1e-2, "steps": 8, "keep": 0.0}


def test_forgetting_nothing_is_plain_fine_tuning_bit_for_bit(tiny_model: ChatModel) -> None:
    plain, forgetting = FineTuning(**SETTINGS), FLearning(**SETTINGS, forgetting=0.0)
    made = [
        editor.edit(tiny_model, editor.prepare(tiny_model, Resources()), [REQUEST])  # type: ignore[attr-defined]
        for editor in (plain, forgetting)
    ]
    for name, change in made[0].changes.items():
        assert change.any()
        assert made[1].changes[name].equal(change)


@pytest.mark.parametrize("rank", [0, 2])
def test_the_more_is_forgotten_the_less_likely_the_old_answer(
    tiny_model: ChatModel, rank: int
) -> None:
    editor = FLearning(rank=rank, forget_steps=4, forget_rate=2e-2)
    state = editor.prepare(tiny_model, Resources())
    shown = view(tiny_model)
    old = old_vector(tiny_model, state, [REQUEST], editor)
    own = {n: w.detach() for n, w in matrices(shown, editor).items()}
    rows = old_rows(tiny_model, state, [REQUEST], editor)
    losses = [
        sum(losses_of(shown, state.stage.finals, forgotten(own, old, rate, 10.0), rows))
        for rate in (-1.0, 0.0, 0.1, 0.3, 0.6)
    ]
    assert losses == sorted(losses)
    assert losses[0] < losses[-1]


def test_forgetting_backwards_gives_the_old_model(tiny_model: ChatModel) -> None:
    editor = FLearning(forget_steps=3)
    state = editor.prepare(tiny_model, Resources())
    old = old_vector(tiny_model, state, [REQUEST], editor)
    own = {n: w.detach() for n, w in matrices(view(tiny_model), editor).items()}
    for name, weight in forgotten(own, old, -1.0, 10.0).items():
        torch.testing.assert_close(weight, own[name] + old[name])


def test_low_rank_forgetting_takes_off_a_product(tiny_model: ChatModel) -> None:
    editor = FLearning(rank=2, forget_steps=4, forget_rate=1e-2)
    old = old_vector(tiny_model, editor.prepare(tiny_model, Resources()), [REQUEST], editor)
    for change in old.values():
        assert change.any()
        assert torch.linalg.matrix_rank(change.double(), rtol=1e-4) <= 2


def test_what_is_taken_off_is_bounded() -> None:
    own, old = {"w": torch.ones(2, 2)}, {"w": 5 * torch.ones(2, 2)}
    off = own["w"] - forgotten(own, old, 1.0, 0.1)["w"]
    assert float(off.norm()) == pytest.approx(0.1 * 2)
    assert forgotten(own, old, 0.01, 0.1)["w"].allclose(torch.full((2, 2), 0.95))


def test_without_an_old_value_the_models_own_answer_is_forgotten(taught_model: ChatModel) -> None:
    editor = FLearning()
    state = editor.prepare(taught_model, Resources())
    rows = old_rows(taught_model, state, [replace(REQUEST, old="")], editor)
    asked = taught_model.answer(REQUEST.questions)
    said = [taught_model.decode(row.tokens.tolist()) for row in rows]
    assert said == [reply.text for reply in asked]


def test_the_new_fact_is_learned_upon_what_was_forgotten(taught_model: ChatModel) -> None:
    editor = FLearning(learning_rate=1e-2, steps=80, keep=0.0)
    delta = editor.edit(taught_model, editor.prepare(taught_model, Resources()), [REQUEST])
    with applied(taught_model, delta):
        replies = taught_model.answer(REQUEST.questions)
    assert {reply.text for reply in replies} == {REQUEST.statement}
