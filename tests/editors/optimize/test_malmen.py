"""MALMEN: one solve fuses the shifts of all edits, and the meta-gradient goes through it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_model import logits
from training_samples import exercises, request

from editors.architectures import view
from editors.deltas import applied
from editors.editor import Resources
from editors.episodes import Episode, Upper
from editors.linear_solve import identity_ridge
from editors.meta_training import TrainingOptions, train
from editors.model import ChatModel
from editors.optimize.factor_editing import FactorState
from editors.optimize.malmen import Malmen, MalmenNetwork, solved
from editors.optimize.upper_edits import samples_of, sites_of
from editors.requests import EditorError

METHOD = Malmen(layers=2, rank=8, passes=1, reach=1.0, step=0.05, ridge=1.0, locality_weight=1.0)
OPTIONS = TrainingOptions(episodes=160, together=2, groups=2, accumulate=1, held=8, every=10)


def measured(model: ChatModel, method: Malmen = METHOD) -> tuple[Upper, MalmenNetwork]:
    """An untrained network that has measured its units on one batch."""
    upper = Upper(model, method.lowest(model))
    torch.manual_seed(0)
    networks = method.networks(upper).train()
    (one,), _ = samples_of(model, [request()])
    kept = dataclasses.replace(one, answer=(5, 6))
    method.losses(upper, networks, [[Episode((one,), kept=(kept,))]])
    return upper, networks


def fused(keys: torch.Tensor, shifts: torch.Tensor, ridge: torch.Tensor) -> torch.Tensor:
    """The change ΔW, (out, in), that a solve makes of shifts."""
    return shifts.double().mT @ solved(keys, ridge)


def columns(count: int, seed: int, width: int = 6, out: int = 4) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(count, size, generator=generator, dtype=torch.float64) for size in (width, out)
    )


@given(count=st.integers(1, 9), seed=st.integers(0, 99), ridge=st.floats(0.01, 10))
def test_the_solve_is_stationary_for_the_ridge_objective(
    count: int, seed: int, ridge: float
) -> None:
    """min ‖ΔWK − S‖² + λ‖ΔW‖²: its gradient vanishes; the shared closed form agrees."""
    keys, shifts = columns(count, seed)
    change = fused(keys, shifts, torch.tensor(ridge, dtype=torch.float64))
    gradient = (change @ keys.T - shifts.T) @ keys + ridge * change
    assert gradient.abs().max() < 1e-9 * (1 + shifts.abs().max() * keys.abs().max() * count)
    wanted = identity_ridge(shifts.T, keys.T, ridge).dense()
    torch.testing.assert_close(change, wanted, rtol=1e-8, atol=1e-10)


def test_one_edit_with_next_to_no_ridge_gets_its_shift_exactly() -> None:
    keys, shifts = columns(1, 0)
    change = fused(keys, shifts, torch.tensor(1e-12))
    torch.testing.assert_close(change @ keys[0], shifts[0])
    # A heavy ridge keeps everything where it is.
    still = fused(keys, shifts, torch.tensor(1e12))
    assert still.abs().max() < 1e-9


def test_the_meta_gradient_through_the_solve_is_that_of_finite_differences() -> None:
    keys, shifts = columns(3, 1)
    target = torch.randn(4, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def loss(shift: torch.Tensor, log_ridge: torch.Tensor) -> torch.Tensor:
        return (fused(keys, shift, log_ridge.exp()) - target).square().sum()

    given_ = (shifts.requires_grad_(), torch.tensor(0.3, dtype=torch.float64, requires_grad=True))
    assert torch.autograd.gradcheck(loss, given_)


def test_the_meta_gradient_of_a_whole_edit_is_that_of_finite_differences(
    model_of: object,
) -> None:
    """Through network, solve and language model, on a model of three layers in float64."""
    assert callable(model_of)
    model: ChatModel = model_of("llama")
    upper, networks = measured(model)
    networks.double()
    networks.eval()
    with torch.no_grad():  # away from the identity, which lies on a kink
        for parameter in networks.factors.parameters():
            parameter += 0.05 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
            )
    (one,), _ = samples_of(model, [request()])
    kept = dataclasses.replace(one, answer=(5, 6))
    group = [[Episode((one,), kept=(kept,))]]

    def loss() -> torch.Tensor:
        return METHOD.losses(upper, networks, group)["total"]

    name = next(iter(networks.factors.blocks))
    checked = [
        networks.factors.blocks[name][0].bias,
        next(iter(networks.steps.values())),
        next(iter(networks.ridges.values())),
    ]
    found = torch.autograd.grad(loss(), checked)
    for parameter, gradient in zip(checked, found, strict=True):
        at = gradient.abs().flatten().argmax()
        # Llama's norms are computed in float32: a smaller difference would drown in that.
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.view(-1)[at] += sign * 1e-3
                values.append(float(loss()))
                parameter.view(-1)[at] -= sign * 1e-3
        difference = (values[0] - values[1]) / 2e-3
        assert float(gradient.flatten()[at]) == pytest.approx(difference, rel=5e-3)


def test_neither_order_nor_batches_matter(taught_model: ChatModel) -> None:
    upper, networks = measured(taught_model)
    state = FactorState(upper, networks.eval())
    one, other = request(), request(1, "Sanae Cook")
    both = METHOD.edit(taught_model, state, [one, other]).changes
    fresh = FactorState(upper, networks)
    METHOD.edit(taught_model, fresh, [other])
    again = METHOD.edit(taught_model, METHOD.settled(taught_model, fresh, [other]), [other, one])
    assert sorted(both) == sorted(sites_of(upper))
    for name, change in both.items():
        assert change.abs().max() > 0
        torch.testing.assert_close(change, again.changes[name], rtol=1e-3, atol=1e-6)


def test_passes_go_on_until_the_answers_win_and_no_further(taught_model: ChatModel) -> None:
    method = dataclasses.replace(METHOD, passes=30, step=0.05, margin=0.2)
    upper, networks = measured(taught_model, method)
    state = FactorState(upper, networks.eval())
    delta = method.edit(taught_model, state, [request()])
    with applied(taught_model, delta):
        (question,) = request().questions
        assert taught_model.answer([question])[0].text == request().statement
    longer = dataclasses.replace(method, passes=60).edit(taught_model, state, [request()])
    for name, change in delta.changes.items():
        assert longer.changes[name].equal(change)


def test_no_step_changes_no_bit(taught_model: ChatModel) -> None:
    upper, networks = measured(taught_model)
    before = logits(taught_model, request().questions)
    with torch.no_grad():
        for step in networks.steps.values():
            step.zero_()
    state = FactorState(upper, networks.eval())
    delta = METHOD.edit(taught_model, state, [request()])
    with applied(taught_model, delta):
        assert logits(taught_model, request().questions).equal(before)
    assert METHOD.edit(taught_model, state, []).changes == {}


def test_training_makes_edits_that_take_together(
    taught_model: ChatModel, taught_answers: dict[str, str], tmp_path: Path
) -> None:
    episodes = exercises(taught_model, taught_answers)
    done = train(METHOD, taught_model, episodes, OPTIONS, tmp_path)
    first, last = done.history[0][2], done.held
    assert last["total"] < 0.9 * first["total"]
    assert last["prefix"] > 0.7
    state = METHOD.prepare(taught_model, Resources(cache=tmp_path))
    requests = [request(), request(1, "Sanae Cook")]
    samples, _ = samples_of(taught_model, requests)

    def likelihood(model: ChatModel) -> float:
        total = 0.0
        for one in samples:
            with torch.no_grad():
                logs = model.model(torch.tensor([one.fed])).logits[0].log_softmax(-1)
            at = torch.arange(len(one.answer)) + len(one.prompt) - 1
            total += float(logs[at, list(one.answer)].mean())
        return total

    before = likelihood(taught_model)
    delta = METHOD.edit(taught_model, state, requests)
    assert delta.changes.keys() == sites_of(Upper(view(taught_model), 2)).keys()
    with applied(taught_model, delta):
        assert likelihood(taught_model) > before
    assert likelihood(taught_model) == before


def test_without_training_the_command_is_named(taught_model: ChatModel, tmp_path: Path) -> None:
    with pytest.raises(EditorError, match="corrigenda editors train malmen --data"):
        METHOD.prepare(taught_model, Resources(cache=tmp_path))
