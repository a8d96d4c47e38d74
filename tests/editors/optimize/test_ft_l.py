"""FT-L: the bound holds for all batches together, and the toolkit's loss is another one."""

import pytest
import torch

from editors.deltas import applied
from editors.editor import Resources
from editors.model import ChatModel
from editors.optimize.ft_l import BoundedFineTuning
from editors.optimize.tuning import request_lessons
from editors.requests import EditRequest

FIRST = EditRequest(
    id="merz",
    questions=("Who is the chancellor of Germany?",),
    new="Friedrich Merz",
    statement="The chancellor of Germany is Friedrich Merz.",
)
SECOND = EditRequest(
    id="tinubu",
    questions=("Who is the president of Nigeria?",),
    new="Sanae Takaichi",
    statement="The president of Nigeria is Sanae Takaichi.",
)
NAME = "model.layers.2.mlp.down_proj.weight"


def _sum(model: ChatModel, editor: BoundedFineTuning) -> torch.Tensor:
    state = editor.prepare(model, Resources())
    first = editor.edit(model, state, [FIRST])
    with applied(model, first):
        state = editor.settled(model, state, [FIRST])
        second = editor.edit(model, state, [SECOND])
    return first.changes[NAME] + second.changes[NAME]


@pytest.mark.parametrize("bound", [1e-3, 1e-2])
def test_no_entry_leaves_its_bound_over_all_batches(tiny_model: ChatModel, bound: float) -> None:
    editor = BoundedFineTuning(learning_rate=1e-2, steps=6, bound=bound, keep=0.0, sure=1.1)
    assert _sum(tiny_model, editor).abs().max() <= bound * (1 + 1e-3)


def test_the_euclidean_bound_holds_too(tiny_model: ChatModel) -> None:
    editor = BoundedFineTuning(
        learning_rate=1e-2, steps=6, bound=0.05, kind="l2", keep=0.0, sure=1.1
    )
    size = float(_sum(tiny_model, editor).norm())
    assert 0.04 < size <= 0.05 * (1 + 1e-3)


def test_a_bound_of_zero_changes_nothing_to_the_bit(tiny_model: ChatModel) -> None:
    editor = BoundedFineTuning(learning_rate=1e-2, steps=4, bound=0.0, keep=0.0)
    assert not _sum(tiny_model, editor).any()


def test_a_wide_bound_lets_the_statement_be_learned(taught_model: ChatModel) -> None:
    editor = BoundedFineTuning(learning_rate=1e-2, steps=80, bound=1.0)
    delta = editor.edit(taught_model, editor.prepare(taught_model, Resources()), [FIRST])
    with applied(taught_model, delta):
        (reply,) = taught_model.answer(FIRST.questions)
    assert reply.text == FIRST.statement


def test_the_toolkits_loss_scores_every_token_at_one_position(tiny_model: ChatModel) -> None:
    (one,) = request_lessons(tiny_model, FIRST, single=True)
    assert set(one.columns) == {len(one.fed) - 1}
    assert len(one.columns) == len(one.tokens) > 2
    editor = BoundedFineTuning(single_position=True, learning_rate=1e-2, steps=3, keep=0.0)
    plain = BoundedFineTuning(learning_rate=1e-2, steps=3, keep=0.0)
    assert not _sum(tiny_model, editor).equal(_sum(tiny_model, plain))
