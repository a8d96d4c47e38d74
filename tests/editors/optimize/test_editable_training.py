"""Editable Training: the model is retrained so that a few steps edit it, and says so."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from toy_model import logits
from training_samples import exercises, request

from editors.architectures import view
from editors.deltas import applied
from editors.editor import Resources
from editors.episodes import Episode, Upper, contrast, mean_nll
from editors.meta_training import TrainingOptions, train
from editors.model import ChatModel
from editors.optimize.editable_training import EditableNetwork, EditableState, EditableTraining
from editors.optimize.upper_edits import samples_of, sites_of
from editors.requests import EditorError

METHOD = EditableTraining(layers=2, steps=3)
OPTIONS = TrainingOptions(episodes=120, groups=4, accumulate=1, held=8, every=10)


def an_episode(model: ChatModel) -> Episode:
    (one,), _ = samples_of(model, [request()])
    return Episode((one,), kept=(dataclasses.replace(one, answer=(5, 6)),))


def measured(model: ChatModel, method: EditableTraining = METHOD) -> tuple[Upper, EditableNetwork]:
    """Untrained weights, with step sizes measured on one episode."""
    upper = Upper(model, method.lowest(model))
    networks = method.networks(upper).train()
    method.losses(upper, networks, [[an_episode(model)]])
    return upper, networks


def test_untrained_weights_are_the_models_and_nothing_draws_them_away(
    taught_model: ChatModel,
) -> None:
    method = dataclasses.replace(METHOD, edit_weight=0.0, locality_weight=0.0)
    upper, networks = measured(taught_model, method)
    found = method.losses(upper, networks, [[an_episode(taught_model)]])
    assert float(found["base"].detach()) == pytest.approx(0, abs=1e-6)
    found["total"].backward()
    for weight in networks.weights.values():
        assert weight.grad is None or weight.grad.abs().max() < 1e-5


def test_the_inner_loss_is_zero_once_the_answer_wins_and_so_are_further_steps(
    taught_model: ChatModel,
) -> None:
    method = dataclasses.replace(METHOD, steps=60, margin=0.3, step=0.03)
    upper, networks = measured(taught_model, method)
    state = EditableState(upper, networks.eval())
    samples, _ = samples_of(taught_model, [request()])

    def lacking() -> float:
        with torch.no_grad():
            return float(contrast(upper.said(samples), method.margin))

    assert lacking() > 0.3
    delta = method.edit(taught_model, state, [request()])
    with applied(taught_model, delta):
        assert lacking() == 0
        again = method.edit(
            taught_model, method.settled(taught_model, state, [request()]), [request()]
        )
        assert not any(change.any() for change in again.changes.values())


def test_the_first_delta_brings_the_retrained_weights_and_later_ones_do_not(
    taught_model: ChatModel,
) -> None:
    upper, networks = measured(taught_model)
    with torch.no_grad():
        for weight in networks.weights.values():
            weight += 0.01
        for rate in networks.rates.values():
            rate.zero_()
    state = EditableState(upper, networks.eval())
    first = METHOD.edit(taught_model, state, [request()])
    assert not state.installed
    for name, change in first.changes.items():
        torch.testing.assert_close(change, torch.full_like(change, 0.01), rtol=1e-3, atol=1e-6)
        assert name in sites_of(upper)
    after = METHOD.settled(taught_model, state, [request()])
    with applied(taught_model, first):
        later = METHOD.edit(taught_model, after, [request()])
    assert not any(change.any() for change in later.changes.values())
    assert METHOD.edit(taught_model, state, []).changes == {}
    assert not METHOD.settled(taught_model, state, []).installed


def test_edits_are_plain_gradient_steps_on_the_inner_loss(taught_model: ChatModel) -> None:
    method = dataclasses.replace(METHOD, steps=1)
    upper, networks = measured(taught_model, method)
    shown = view(taught_model)
    # A plain prompt: of a chat, the system message's tokens take no part.
    plain = dataclasses.replace(
        request(), questions=(), prompts=("The president of Kenya is",), new="Tim Merz"
    )
    (one,), _ = samples_of(taught_model, [plain])
    delta = method.edit(taught_model, EditableState(upper, networks.eval()), [plain])
    loss = contrast(Upper(taught_model, 0).said([one]), method.margin).sum()
    logits_ = taught_model.model(torch.tensor([one.fed])).logits[0, len(one.prompt) - 1 :]
    target = torch.tensor(one.answer)
    others = logits_.scatter(-1, target[:, None], -torch.inf).amax(-1)
    by_hand = (others + method.margin - logits_.gather(-1, target[:, None])[:, 0]).clamp(min=0)
    torch.testing.assert_close(by_hand.mean(), loss, rtol=1e-4, atol=1e-5)
    wanted = torch.autograd.grad(by_hand.mean(), [shown.parameter(n) for n in delta.changes])
    for (name, change), gradient in zip(delta.changes.items(), wanted, strict=True):
        rate = float(networks.rate(name).detach())
        assert rate > 0
        torch.testing.assert_close(change, -rate * gradient, rtol=1e-3, atol=1e-6)


def test_the_meta_gradient_is_that_of_finite_differences_only_through_the_steps(
    model_of: Callable[[str], ChatModel],
) -> None:
    model = model_of("llama")
    found = {}
    for second_order in (True, False):
        method = EditableTraining(layers=1, steps=2, second_order=second_order, base_weight=0.0)
        upper = Upper(model, method.lowest(model))
        networks = method.networks(upper).train()
        group = [[an_episode(model)]]
        method.losses(upper, networks, group)
        networks.double()

        def loss(
            method: EditableTraining = method,
            upper: Upper = upper,
            networks: EditableNetwork = networks,
            group: list[list[Episode]] = group,
        ) -> torch.Tensor:
            # Without the locality term, whose teacher is held fixed.
            return method.losses(upper, networks, group)["edited"]

        weight = next(iter(networks.weights.values()))
        (gradient,) = torch.autograd.grad(loss(), [weight])
        at = int(gradient.abs().flatten().argmax())
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight.view(-1)[at] += sign * 1e-5
            values.append(float(loss().detach()))
            with torch.no_grad():
                weight.view(-1)[at] -= sign * 1e-5
        found[second_order] = (float(gradient.view(-1)[at]), (values[0] - values[1]) / 2e-5)
    exact, difference = found[True]
    assert exact == pytest.approx(difference, rel=1e-3)
    shortened, difference = found[False]
    assert shortened != pytest.approx(difference, rel=1e-2)


def test_both_orders_make_the_same_edit(taught_model: ChatModel) -> None:
    """What is differentiated differs, not what is computed (on texts without a system message
    the inner gradients are the same)."""
    plain = dataclasses.replace(
        request(), questions=(), prompts=("The president of Kenya is",), new="Tim Merz"
    )
    (one,), _ = samples_of(taught_model, [plain])
    upper, networks = measured(taught_model)
    networks.eval()
    losses = []
    for second_order in (True, False):
        method = dataclasses.replace(METHOD, second_order=second_order)
        with torch.no_grad():
            losses.append(float(method.losses(upper, networks, [[Episode((one,))]])["edited"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_training_lets_fewer_steps_edit_at_little_drawdown(
    taught_model: ChatModel, taught_answers: dict[str, str], tmp_path: Path
) -> None:
    method = dataclasses.replace(METHOD, learning_rate=1e-3, step_rate=5e-3)
    episodes = exercises(taught_model, taught_answers)
    done = train(method, taught_model, episodes, OPTIONS, tmp_path)
    first, last = done.history[0][2], done.held
    assert last["total"] < 0.9 * first["total"]
    assert last["edited"] < first["edited"]
    assert last["base"] < 0.1
    state = method.prepare(taught_model, Resources(cache=tmp_path))
    samples, _ = samples_of(taught_model, [request()])
    upper, untrained = measured(taught_model, method)
    left = []
    for one in (EditableState(upper, untrained.eval()), state):
        with applied(taught_model, method.edit(taught_model, one, [request()])), torch.no_grad():
            left.append(float(mean_nll(Upper(taught_model, 2).said(samples))))
    assert left[1] < left[0]
    before = logits(taught_model, request().questions)
    method.edit(taught_model, state, [request()])
    assert logits(taught_model, request().questions).equal(before)


def test_without_training_the_command_is_named(taught_model: ChatModel, tmp_path: Path) -> None:
    with pytest.raises(EditorError, match="corrigenda editors train editable-training --data"):
        METHOD.prepare(taught_model, Resources(cache=tmp_path))
