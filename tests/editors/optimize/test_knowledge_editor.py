"""KE: one masked update, bounded, and a multiplier that holds what must not change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from edit_exercises import REQUESTS, episodes_on, nll
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from toy_model import one_thread

from editors.architectures import view
from editors.deltas import applied
from editors.editor import Resources
from editors.episodes import Said, Upper
from editors.meta_training import TOTAL, TrainingOptions, train
from editors.model import ChatModel
from editors.optimize.knowledge_editor import Constrained, KnowledgeEditor
from editors.optimize.masked_edits import exercise, often_enough
from editors.requests import EditorError, EditRequest

KE = KnowledgeEditor(layers=2, hidden=6, condition=10, inner=7, loops=1)


def untrained(method: KnowledgeEditor, model: ChatModel, seed: int = 0) -> Constrained:
    torch.manual_seed(seed)
    return method.networks(Upper(model, method.lowest(model))).eval()


@given(divergences=st.lists(st.floats(0, 5), max_size=30), rate=st.floats(0.01, 2))
def test_the_multiplier_is_never_negative_and_rises_while_the_bound_is_exceeded(
    divergences: list[float], rate: float
) -> None:
    held = Constrained(nn.Identity(), margin=0.05)
    for divergence in divergences:
        before = float(held.multiplier)
        held.ascend(divergence, rate)
        assert float(held.multiplier) >= 0
        if divergence > 0.06:
            assert float(held.multiplier) > before
        if divergence < 0.04 and before > 0:
            assert float(held.multiplier) < before


def test_the_margin_tightens_only_after_nine_in_ten_edits_succeed() -> None:
    held = Constrained(nn.Identity(), margin=0.1)
    held.tighten(0.9, 0.8, 0.07)
    assert float(held.margin) == pytest.approx(0.1)
    held.tighten(0.91, 0.8, 0.07)
    assert float(held.margin) == pytest.approx(0.08)
    held.tighten(1.0, 0.8, 0.07)
    assert float(held.margin) == pytest.approx(0.07)


def test_training_moves_the_multiplier_and_the_held_out_slice_the_margin(
    tiny_model: ChatModel,
) -> None:
    networks = untrained(KE, tiny_model)
    KE.stepped(networks, {"kept": 2.0, "right": 1.0}, held=False)
    assert float(networks.multiplier) == pytest.approx(
        KE.multiplier + KE.multiplier_rate * (2 - KE.margin)
    )
    assert float(networks.margin) == pytest.approx(KE.margin)
    KE.stepped(networks, {"kept": 2.0, "right": 1.0}, held=True)
    assert float(networks.margin) == pytest.approx(KE.margin * KE.tighten)


def test_the_lagrangian_is_minimised_only_while_training(tiny_model: ChatModel) -> None:
    networks = untrained(KE, tiny_model)
    upper = Upper(tiny_model, KE.lowest(tiny_model))
    groups = [[episode] for episode in episodes_on(tiny_model, 2)]
    totals = []
    for multiplier in (0.0, 5.0):
        networks.multiplier.fill_(multiplier)
        held = KE.losses(upper, networks.eval(), groups)
        trained = KE.losses(upper, networks.train(), groups)
        totals.append((float(held[TOTAL].detach()), float(trained[TOTAL].detach())))
    assert totals[0][0] == totals[1][0]
    excess = float(held["kept"]) - KE.margin
    assert totals[1][1] - totals[0][1] == pytest.approx(5 * excess, rel=1e-3)


def test_the_edits_of_a_group_are_all_in_force(tiny_model: ChatModel) -> None:
    networks = untrained(KE, tiny_model)
    upper = Upper(tiny_model, KE.lowest(tiny_model))
    pair = [replace(e, rephrased=(), kept=()) for e in episodes_on(tiny_model, 2)]
    found = KE.losses(upper, networks, [pair])["edit"]
    # Both gradients are taken on the model as it is, and so are those of single edits.
    both = [KE.edit(tiny_model, networks, [request]) for request in REQUESTS[:2]]
    expected = sum(nll(tiny_model, request, *both) for request in REQUESTS[:2]) / 2
    assert float(found) == pytest.approx(expected, rel=1e-3)
    alone = KE.losses(upper, networks, [[pair[0]], [pair[1]]])["edit"]
    assert float(alone) != pytest.approx(expected, rel=1e-3)


def test_the_same_question_with_another_answer_gives_another_update(tiny_model: ChatModel) -> None:
    networks = untrained(KE, tiny_model)
    other = replace(REQUESTS[0], new="Tim Cook", statement="The chancellor of Germany is Tim Cook.")
    told = replace(REQUESTS[0], old="Tim Cook")
    first, second, third = (
        KE.edit(tiny_model, networks, [one]) for one in (REQUESTS[0], other, told)
    )
    for name, change in first.changes.items():
        assert not torch.allclose(change, second.changes[name])
        # The text alone conditions the masks too: the same gradient, another old answer.
        assert not change.equal(third.changes[name])


def test_a_scale_of_nothing_changes_nothing(tiny_model: ChatModel) -> None:
    silent = replace(KE, max_scale=0.0)
    delta = silent.edit(tiny_model, untrained(silent, tiny_model), REQUESTS)
    assert delta.changes
    assert all(not change.any() for change in delta.changes.values())


def test_one_update_made_again_adds_up(tiny_model: ChatModel) -> None:
    networks = untrained(KE, tiny_model)
    once, thrice = (
        replace(KE, loops=loops).edit(tiny_model, networks, REQUESTS[:1]) for loops in (1, 3)
    )
    for name, change in once.changes.items():
        torch.testing.assert_close(thrice.changes[name], 3 * change, rtol=1e-4, atol=1e-6)


def made_times(loops: int, start: float, model: ChatModel, request: EditRequest) -> float:
    method = replace(KE, loops=loops, start=start)
    several, once = (
        replace(method, loops=n).edit(model, untrained(method, model), [request])
        for n in (loops, 1)
    )
    name = next(iter(once.changes))
    return float(several.changes[name].norm() / once.changes[name].norm())


def test_an_update_is_made_again_only_until_the_answer_is_said(taught_model: ChatModel) -> None:
    short = replace(REQUESTS[0], new="No", statement="No")
    times = made_times(20, 0.5, taught_model, short)
    assert 1.5 < times < 19.5
    method = replace(KE, loops=20, start=0.5)
    networks = untrained(method, taught_model)
    for loops, right in ((20, True), (round(times) - 1, False)):
        delta = replace(method, loops=loops).edit(taught_model, networks, [short])
        with applied(taught_model, delta):
            assert (taught_model.answer(short.questions)[0].text == "No") is right


@pytest.mark.parametrize("losses", [[3.0, 2.0, 2.5, 4.0], [1.0, 2.0, 3.0, 4.0]])
def test_an_update_that_never_says_the_answer_is_made_as_often_as_makes_it_likeliest(
    tiny_model: ChatModel, losses: list[float]
) -> None:
    upper = Upper(tiny_model, 2)
    episode = exercise(view(tiny_model), REQUESTS[0])
    said = upper.said(episode.edits)
    tried = []

    class Told(Upper):
        """Says of each try that its tokens are as unlikely as ``losses`` has it."""

        def said(self, *_: object, **__: object) -> Said:
            logits = torch.full_like(said.logits, 50.0)
            logits[torch.arange(len(said.tokens)), said.tokens] = 50 - losses[tried[-1] - 1]
            return replace(said, logits=logits)

    def made(times: int) -> None:
        tried.append(times)

    told = Told(tiny_model, 2)
    assert often_enough(told, episode, 4, made) == 1 + losses.index(min(losses))
    assert tried == [1, 2, 3, 4]


def test_even_untrained_it_makes_the_statement_likelier_and_can_be_undone(
    tiny_model: ChatModel,
) -> None:
    before = nll(tiny_model, REQUESTS[0])
    delta = KE.edit(tiny_model, untrained(KE, tiny_model), REQUESTS[:1])
    assert nll(tiny_model, REQUESTS[0], delta) < before
    assert nll(tiny_model, REQUESTS[0]) == before
    edited = {name for name, change in delta.changes.items() if change.any()}
    names = [view(tiny_model).names(layer) for layer in (2, 3)]
    assert edited == {n for one in names for n in (one.gate, one.up, one.down)}


def test_training_lowers_the_loss_and_brings_its_multiplier_along(
    tiny_model: ChatModel, tmp_path: Path
) -> None:
    method = replace(KE, learning_rate=3e-3, margin=1e-4)
    options = TrainingOptions(episodes=24, groups=2, accumulate=1, held=4, every=4, clip=10)
    with one_thread():
        done = train(method, tiny_model, episodes_on(tiny_model, 8), options, tmp_path)
    totals = [held[TOTAL] for _, _, held in done.history]
    assert totals[-1] < totals[0]
    state = method.prepare(tiny_model, Resources(cache=tmp_path))
    assert isinstance(state, Constrained)
    assert float(state.multiplier) != method.multiplier


def test_without_training_it_says_how_to(tiny_model: ChatModel, tmp_path: Path) -> None:
    with pytest.raises(EditorError, match="corrigenda editors train ke"):
        KE.prepare(tiny_model, Resources(cache=tmp_path))


def test_more_layers_than_there_are_cannot_be_edited(tiny_model: ChatModel) -> None:
    with pytest.raises(EditorError, match="has 4 layers"):
        replace(KE, layers=5).lowest(tiny_model)
