"""KGEditor: a path that begins as nothing, is edited alone, and merges exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from edit_exercises import OUTSIDE, REQUESTS, episodes_on, nll
from toy_model import logits, one_thread

from editors.architectures import view
from editors.deltas import applied
from editors.editor import Resources
from editors.episodes import Upper
from editors.meta_training import TOTAL, TrainingOptions, train
from editors.model import ChatModel
from editors.optimize.kgeditor import BottleneckChange, KgEditor, KgState, adding
from editors.optimize.masked_edits import exercise
from editors.requests import EditorError

KG = KgEditor(layers=2, rank=16, hidden=6, condition=10, inner=7, loops=1)


def fresh(method: KgEditor, model: ChatModel) -> tuple[Upper, KgState]:
    upper = Upper(model, method.lowest(model))
    torch.manual_seed(0)
    networks = method.networks(upper).eval()
    return upper, KgState(networks, networks.paths(upper.view.hidden))


def test_a_path_begins_as_no_change_at_all(tiny_model: ChatModel) -> None:
    _, state = fresh(KG, tiny_model)
    before = logits(tiny_model, OUTSIDE)
    delta = KG.edit(tiny_model, state, [])
    with applied(tiny_model, delta):
        assert logits(tiny_model, OUTSIDE).equal(before)
    assert len(state.paths) == 2
    for path in state.paths.values():
        assert path.down.any()
        assert not path.merged().any()


def test_the_path_beside_the_matrix_is_the_merged_matrix(each_model: ChatModel) -> None:
    upper, state = fresh(KG, each_model)
    one = exercise(view(each_model), REQUESTS[0])
    with torch.no_grad():
        changes = KG._update(upper, state.networks, state.paths, [one])  # type: ignore[arg-type]
        tried = upper.said(one.edits, None, adding(changes)).logits
    delta = KG.edit(each_model, state, REQUESTS[:1])
    (sample,) = one.edits
    with applied(each_model, delta), torch.no_grad():
        found = each_model.model(torch.tensor([sample.fed])).logits[0, len(sample.prompt) - 1 :]
    assert (tried - upper.said(one.edits).logits).abs().max() > 1e-4
    torch.testing.assert_close(found, tried, rtol=1e-4, atol=1e-4)
    assert set(delta.changes) == {view(each_model).names(layer).down for layer in (1, 2)}


def test_a_change_of_the_path_is_what_it_becomes_less_what_it_was(tiny_model: ChatModel) -> None:
    upper, state = fresh(KG, tiny_model)
    KG.edit(tiny_model, state, REQUESTS[:1])
    written = KG.settled(tiny_model, state, REQUESTS[:1])
    assert all(path.merged().any() for path in written.paths.values())
    one = exercise(view(tiny_model), REQUESTS[1])
    with torch.no_grad():
        made = KG._update(upper, written.networks, written.paths, [one])  # type: ignore[arg-type]
        keys = torch.randn(2, 3, 64)
        for change in made.values():
            twice = replace(change, times=2)
            whole = twice.after().merged() - change.path.merged()
            torch.testing.assert_close(
                twice.of(keys, torch.tensor([0, 0])), keys @ whole.T, rtol=1e-4, atol=1e-5
            )


def test_the_first_edit_moves_a_only_by_what_its_head_adds(tiny_model: ChatModel) -> None:
    upper, state = fresh(KG, tiny_model)
    one = exercise(view(tiny_model), REQUESTS[0])
    with torch.no_grad():
        made = KG._update(upper, state.networks, state.paths, [one])  # type: ignore[arg-type]
    for change in made.values():
        assert isinstance(change, BottleneckChange)
        assert not change.down.factors.deltas.any()
        masks = change.down.masks
        added = masks.scale * masks.added_rows[0][:, None] * masks.added_columns[0]
        torch.testing.assert_close(change.down.dense()[0], added)
        assert change.up.factors.deltas.any()


def test_edits_one_upon_the_other_add_up_to_the_path_as_it_is(tiny_model: ChatModel) -> None:
    _, state = fresh(KG, tiny_model)
    first = KG.edit(tiny_model, state, REQUESTS[:1])
    between = KG.settled(tiny_model, state, REQUESTS[:1])
    with applied(tiny_model, first):
        second = KG.edit(tiny_model, between, REQUESTS[1:2])
    after = KG.settled(tiny_model, between, REQUESTS[1:2])
    together = KG.edit(tiny_model, state, REQUESTS[:2])
    for name, path in after.paths.items():
        total = first.changes[name] + second.changes[name]
        torch.testing.assert_close(total, path.merged(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(together.changes[name], total, rtol=1e-3, atol=1e-5)
    # What was not settled was not written.
    assert KG.settled(tiny_model, state, REQUESTS[3:]).paths is state.paths


def test_even_untrained_it_makes_the_statement_likelier(taught_model: ChatModel) -> None:
    _, state = fresh(KG, taught_model)
    delta = KG.edit(taught_model, state, REQUESTS[:1])
    assert nll(taught_model, REQUESTS[0], delta) < nll(taught_model, REQUESTS[0])


def test_an_update_is_made_again_until_the_answer_is_said(taught_model: ChatModel) -> None:
    short = replace(REQUESTS[0], new="No", statement="No")
    for loops, right in ((30, True), (1, False)):
        method = replace(KG, loops=loops, start=0.5)
        _, state = fresh(method, taught_model)
        with applied(taught_model, method.edit(taught_model, state, [short])):
            assert (taught_model.answer(short.questions)[0].text == "No") is right


def test_training_lowers_the_loss_and_leaves_a_alone(tiny_model: ChatModel, tmp_path: Path) -> None:
    method = replace(KG, learning_rate=3e-3, checkpoint="kgeditor-test")
    options = TrainingOptions(episodes=24, groups=2, accumulate=1, held=4, every=4, clip=10)
    with one_thread():
        done = train(method, tiny_model, episodes_on(tiny_model, 8), options, tmp_path)
    totals = [held[TOTAL] for _, _, held in done.history]
    assert totals[-1] < totals[0]
    assert done.path.name.startswith("kgeditor-test-")
    state = method.prepare(tiny_model, Resources(cache=tmp_path))
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        untouched = method.networks(Upper(tiny_model, 2)).paths(32)
    for name, path in state.paths.items():
        assert path.down.equal(untouched[name].down)
    with pytest.raises(EditorError, match="corrigenda editors train kgeditor"):
        KG.prepare(tiny_model, Resources(cache=tmp_path))


def test_a_matrix_stored_the_other_way_round_is_edited_alike(
    model_of: Callable[[str], ChatModel],
) -> None:
    model = model_of("gpt2")
    _, state = fresh(KG, model)
    delta = KG.edit(model, state, REQUESTS[:1])
    for name, change in delta.changes.items():
        assert change.shape == view(model).parameter(name).shape
