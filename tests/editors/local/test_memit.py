"""MEMIT: ridge regression over a window of layers (methods.md L3)."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from closed_form_samples import BARE, CARD, keys_of, matrix_change, ready, requests

from editors.architectures import view
from editors.closed_form import passage_of
from editors.columns import columns_of
from editors.deltas import applied
from editors.local.memit import Memit
from editors.model import ChatModel

QUICK = Memit(**CARD)
LAYER = 1


def missing(
    model: ChatModel, editor: Memit, state: object, asked: list, with_delta: object = None
) -> torch.Tensor:
    """What the last layer's output lacks to its values, (d, columns)."""
    shown = view(model)
    written = [editor.written(model, state, r) for r in asked]  # type: ignore[arg-type]
    values = editor.values(passage_of(shown, state, written), state, written)  # type: ignore[arg-type]
    columns = columns_of(written, editor.average)
    wanted = torch.cat([value.clean + value.delta for value in values]).T
    with applied(model, *([with_delta] if with_delta else [])):  # type: ignore[list-item]
        return wanted - columns.mixed(columns.places(shown, LAYER, "layer", "output"))


def test_with_next_to_no_weight_every_key_gets_its_value(
    model_of: Callable[[str], ChatModel],
) -> None:
    model = model_of("llama")
    editor = dataclasses.replace(QUICK, weight=1e-9)
    state = ready(model, editor)
    before = missing(model, editor, state, requests(3))
    after = missing(model, editor, state, requests(3), editor.edit(model, state, requests(3)))
    assert after.norm() < 1e-5 * before.norm()


@pytest.mark.parametrize("weight", [0.1, 30.0])
def test_the_change_is_stationary_in_its_objective(
    model_of: Callable[[str], ChatModel], weight: float
) -> None:
    model = model_of("llama")
    editor = dataclasses.replace(QUICK, weight=weight)
    state = ready(model, editor)
    keys = keys_of(model, editor, state, requests(3), LAYER)
    residuals = missing(model, editor, state, requests(3))
    change = matrix_change(model, editor.edit(model, state, requests(3)), LAYER)
    gradient = (change @ keys - residuals) @ keys.T + change @ state.preserved[LAYER].matrix
    assert gradient.norm() < 1e-8 * (residuals @ keys.T).norm()


def test_a_great_weight_changes_next_to_nothing(model_of: Callable[[str], ChatModel]) -> None:
    model = model_of("llama")

    def size(weight: float) -> float:
        editor = dataclasses.replace(QUICK, weight=weight)
        found = editor.edit(model, ready(model, editor), requests(3))
        return float(matrix_change(model, found, LAYER).norm())

    assert size(1e9) < 1e-4 * size(1.0)


def test_the_order_of_a_batch_does_not_matter(model_of: Callable[[str], ChatModel]) -> None:
    model = model_of("llama")
    editor = dataclasses.replace(QUICK, window=2)
    state = ready(model, editor)
    one = editor.edit(model, state, requests(3))
    other = editor.edit(model, state, requests(3)[::-1])
    for name, change in one.changes.items():
        torch.testing.assert_close(change, other.changes[name], atol=1e-6, rtol=1e-5)


def test_a_window_comes_nearer_to_the_values_layer_by_layer(
    model_of: Callable[[str], ChatModel],
) -> None:
    model = model_of("llama")
    editor = dataclasses.replace(QUICK, window=2, weight=0.01)
    state = ready(model, editor)
    assert state.layers == (0, 1)
    before = missing(model, editor, state, requests(3))
    delta = editor.edit(model, state, requests(3))
    first = dataclasses.replace(
        delta, changes={view(model).names(0).down: delta.changes[view(model).names(0).down]}
    )
    half = missing(model, editor, state, requests(3), first)
    after = missing(model, editor, state, requests(3), delta)
    assert after.norm() < 0.1 * before.norm()
    assert after.norm() < half.norm()


def test_a_typical_key_reaches_the_share_that_was_asked_for(
    model_of: Callable[[str], ChatModel],
) -> None:
    model = model_of("llama")
    for reach in (0.5, 0.9):
        editor = dataclasses.replace(QUICK, reach=reach)
        state = ready(model, editor)
        width = view(model).inner(LAYER)
        moment = state.statistics[LAYER].moment
        draws = torch.linalg.cholesky(moment) @ torch.randn(
            width, 400, generator=torch.Generator().manual_seed(3), dtype=torch.float64
        )
        energy = state.preserved[LAYER].energies(draws).mean()
        assert float(energy / (1 + energy)) == pytest.approx(reach, abs=0.02)


def test_keys_of_earlier_batches_are_preserved_in_a_sequence(
    model_of: Callable[[str], ChatModel],
) -> None:
    model = model_of("llama")
    first, then = requests(4)[:2], requests(4)[2:]

    def harm(sequential: bool) -> float:
        editor = dataclasses.replace(QUICK, sequential=sequential, weight=0.01)
        state = ready(model, editor, BARE)
        delta = editor.edit(model, state, first)
        keys = keys_of(model, editor, state, first, LAYER)
        with applied(model, delta):
            after = editor.settled(model, state, first)
            assert (after is state) is not sequential
            second = matrix_change(model, editor.edit(model, after, then), LAYER)
        return float((second @ keys).norm() / second.norm())

    assert harm(True) < 0.5 * harm(False)
