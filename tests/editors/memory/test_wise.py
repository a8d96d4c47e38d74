"""WISE: a side copy for its own questions, the main one to the bit for all others."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_exercises import COOK, MERZ, answers, in_sequence, made, prompt_logits

from editors.deltas import DeltaError, applied
from editors.editor import Resources
from editors.memory.wise import (
    Side,
    Wise,
    WiseDelta,
    WiseSettings,
    distance,
    distances,
    margin_loss,
    mask_of,
    ties,
)
from editors.model import ChatModel
from editors.requests import EditorError

EDITOR = Wise(layer=0.5, density=0.5, learning_rate=0.1, steps=100, bound=4.0, siblings=0)


def test_edits_in_sequence_are_answered_and_what_is_not_routed_is_not_touched(
    taught_model: ChatModel, taught_answers: dict[str, str]
) -> None:
    others = [q for q in taught_answers if "Germany" not in q and "Nigeria" not in q][:12]
    before = answers(taught_model, *others)
    deltas, stack = in_sequence(taught_model, EDITOR, MERZ, COOK)
    with stack:
        mixed = answers(taught_model, *others, *MERZ.questions, *COOK.questions)
    assert mixed[-3:] == [*[MERZ.statement] * 2, COOK.statement]
    kept = sum(a == b for a, b in zip(mixed, before, strict=False))
    assert kept >= len(before) - 1
    assert not taught_model.runtimes
    assert deltas[1].sides[0].least <= deltas[0].sides[0].least, "the threshold only ever falls"


def test_before_any_edit_everything_takes_the_main_copy_to_the_bit(tiny_model: ChatModel) -> None:
    plain = prompt_logits(tiny_model, COOK.questions[0])
    state = EDITOR.prepare(tiny_model, Resources())
    none = EDITOR.edit(tiny_model, state, [])
    untrained = made(tiny_model, replace(EDITOR, steps=0), COOK)
    for delta in (none, untrained):
        with applied(tiny_model, delta):
            assert prompt_logits(tiny_model, COOK.questions[0]).equal(plain)
    assert untrained.route(torch.ones(3, 64)) is None


def test_entries_outside_the_mask_never_change_and_none_leaves_its_bound(
    tiny_model: ChatModel,
) -> None:
    editor = replace(EDITOR, steps=4, bound=0.15)
    delta = made(tiny_model, editor, MERZ, COOK)
    change = delta.sides[0].change
    mask = mask_of(change.shape, editor.density, 0, 0)
    assert not change[~mask].any()
    assert change[mask].any()
    size = float(tiny_model.layers[2].mlp.down_proj.weight.detach().abs().mean())
    assert float(change.abs().max()) <= 0.15 * size * (1 + 1e-5)
    assert delta.parameters_added == int(change.count_nonzero())


def test_a_full_shard_is_laid_by_and_the_next_one_begins_anew(tiny_model: ChatModel) -> None:
    editor = replace(EDITOR, steps=2, shard=1)
    deltas, stack = in_sequence(tiny_model, editor, MERZ, COOK)
    stack.close()
    assert [len(delta.sides) for delta in deltas] == [1, 2]
    assert deltas[1].sides[0].change.equal(deltas[0].sides[0].change)
    third = replace(COOK, id="third")
    merged = made(tiny_model, replace(editor, merge=2), MERZ, COOK, third)
    assert len(merged.sides) == 2, "two made one, and the present one"
    expected = ties([side.change for side in deltas[1].sides], editor.kept)
    assert merged.sides[0].change.equal(expected)


def test_the_same_question_again_is_the_newer_answers(taught_model: ChatModel) -> None:
    newer = replace(COOK, id="again", new="Bola Tinubu", statement="It is Bola Tinubu.")
    _, stack = in_sequence(taught_model, EDITOR, COOK, newer)
    with stack:
        assert answers(taught_model, *COOK.questions) == [newer.statement]


def test_a_prompt_is_routed_to_the_side_copy_that_it_moves_most() -> None:
    one, other = torch.zeros(2, 2), torch.zeros(2, 2)
    one[0, 0], other[0, 1] = 1.0, 1.0
    delta = WiseDelta(0, (Side(one, 1.0), Side(other, 1.0)), 0.5)
    assert delta.route(torch.tensor([[2.0, 0.6]])) == 0
    assert delta.route(torch.tensor([[0.6, 2.0]])) == 1
    assert delta.route(torch.tensor([[0.4, 0.4]])) is None


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-3, 3, width=32), min_size=6, max_size=6), st.floats(0.1, 1.0))
def test_ties_of_one_change_keeps_its_largest_entries_and_all_at_density_one(
    entries: list[float], density: float
) -> None:
    change = torch.tensor(entries).view(2, 3)
    assert ties([change], 1.0).equal(change)
    kept = ties([change], density)
    assert bool(((kept == 0) | (kept == change)).all())
    if kept.any():
        assert float(change[kept == 0].abs().max() if (kept == 0).any() else 0) <= float(
            kept[kept != 0].abs().min()
        )
    assert ties([change, change], density).equal(kept)


def test_ties_elects_a_sign_and_averages_what_agrees() -> None:
    merged = ties([torch.tensor([3.0, -1.0]), torch.tensor([1.0, 2.0])], 1.0)
    assert merged.tolist() == [2.0, 2.0]


def test_the_margins_ask_for_distant_edits_and_near_others() -> None:
    one = WiseSettings(alpha=1, beta=4, gamma=2)
    near, far = torch.tensor([5.0]), torch.tensor([0.5])
    assert float(margin_loss(near, far, one)) == 0
    assert float(margin_loss(near - 2, far, one)) == pytest.approx(1.0)
    assert float(margin_loss(near, far + 1, one)) == pytest.approx(0.5)


def test_distances_of_many_questions_are_those_of_each() -> None:
    draw = torch.Generator().manual_seed(0)
    change, keys = torch.randn(3, 4, generator=draw), torch.randn(5, 4, generator=draw)
    some = distances(change, [keys[:2], keys[2:]])
    torch.testing.assert_close(some[1], distance(change, keys[2:]))


def test_a_delta_is_rebuilt_from_its_tensors(taught_model: ChatModel) -> None:
    delta = made(taught_model, EDITOR, COOK)
    with applied(taught_model, WiseDelta.from_tensors(delta.tensors())):
        assert answers(taught_model, *COOK.questions) == [COOK.statement]


def test_it_works_on_every_architecture(each_model: ChatModel) -> None:
    # Two tokens: the first is never looked at.
    tokens = each_model.encode("Who is")
    text = each_model.tokenizer.decode(tokens)
    request = replace(COOK, questions=(), prompts=(text,), subject="")
    ids = torch.tensor([each_model.encode(text)])
    before = each_model.model(ids).logits
    delta = made(each_model, replace(EDITOR, layer=0.7, steps=5), request)
    with applied(each_model, delta):
        after = each_model.model(ids).logits
    assert not torch.allclose(after, before)


def test_what_does_not_fit_is_refused(tiny_model: ChatModel, taught_model: ChatModel) -> None:
    with pytest.raises(EditorError, match="density"):
        replace(EDITOR, density=0.0).prepare(tiny_model, Resources())
    delta = made(tiny_model, replace(EDITOR, steps=1), COOK)
    with pytest.raises(DeltaError, match="side copy"):
        delta.apply(taught_model)
