"""ROME and r-ROME: one outer product that gives the key its value (methods.md L2)."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from closed_form_samples import (
    BARE,
    CARD,
    CONTEXTS,
    keys_of,
    matrix_change,
    ready,
    request,
    requests,
)

from editors.architectures import view
from editors.closed_form import passage_of
from editors.columns import columns_of
from editors.deltas import applied
from editors.local.rome import Rome
from editors.model import ChatModel
from editors.requests import EditorError

QUICK = Rome(**CARD)
LAYER = 1


def target(model: ChatModel, editor: Rome, state: object) -> torch.Tensor:
    """v*: what the optimisation asks for."""
    shown = view(model)
    written = [editor.written(model, state, request())]  # type: ignore[arg-type]
    (value,) = editor.values(passage_of(shown, state, written), state, written)  # type: ignore[arg-type]
    return (value.clean + value.delta)[0]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_edited_key_gives_its_value_exactly(
    model_of: Callable[[str], ChatModel], symmetric: bool, name: str
) -> None:
    model = model_of(name)
    editor = dataclasses.replace(QUICK, symmetric=symmetric)
    state = ready(model, editor, CONTEXTS)
    wanted = target(model, editor, state)
    written = [editor.written(model, state, request())]
    columns = columns_of(written, average=True)
    delta = editor.edit(model, state, [request()])
    with applied(model, delta):
        places = columns.places(model, LAYER, "down", "output")
    at = columns.mixed(places)[:, 0] if symmetric else places[columns.bare[0]]
    torch.testing.assert_close(at, wanted, atol=1e-8, rtol=1e-7)


def test_the_change_has_rank_one_and_leaves_orthogonal_keys_alone(
    model_of: Callable[[str], ChatModel],
) -> None:
    model = model_of("llama")
    state = ready(model, QUICK, CONTEXTS)
    change = matrix_change(model, QUICK.edit(model, state, [request()]), LAYER)
    sizes = torch.linalg.svdvals(change)
    assert sizes[1] < 1e-12 * sizes[0]
    key = keys_of(model, QUICK, state, [request()], LAYER)
    whitened = state.preserved[LAYER].solve(key)[:, 0]
    other = torch.randn(len(whitened), generator=torch.Generator().manual_seed(1)).double()
    other -= whitened * (other @ whitened) / (whitened @ whitened)
    assert (change @ other).norm() < 1e-10 * change.norm() * other.norm()
    assert (change @ key).norm() > 1e-3 * change.norm()


def test_both_are_the_same_where_the_bare_rendering_is_the_only_one(
    model_of: Callable[[str], ChatModel],
) -> None:
    model = model_of("llama")
    original = dataclasses.replace(QUICK, symmetric=False)

    def apart(contexts: object) -> float:
        state = ready(model, QUICK, contexts)  # type: ignore[arg-type]
        one = matrix_change(model, QUICK.edit(model, state, [request()]), LAYER)
        other = matrix_change(model, original.edit(model, state, [request()]), LAYER)
        return float((one - other).norm() / one.norm())

    assert apart(BARE) < 1e-9
    assert apart(CONTEXTS) > 1e-3


def test_with_a_flat_second_moment_it_is_the_smallest_change_there_is(
    model_of: Callable[[str], ChatModel],
) -> None:
    model = model_of("llama")
    state = ready(model, QUICK)
    width = view(model).inner(LAYER)
    flat = dataclasses.replace(state.statistics[LAYER], moment=torch.eye(width).double())
    state = QUICK.ready(dataclasses.replace(state, statistics={LAYER: flat}))
    change = matrix_change(model, QUICK.edit(model, state, [request()]), LAYER)
    key = keys_of(model, QUICK, state, [request()], LAYER)[:, 0]
    torch.testing.assert_close(change, torch.outer(change @ key, key) / (key @ key))


def test_the_edits_of_a_batch_are_written_one_upon_the_other(
    model_of: Callable[[str], ChatModel],
) -> None:
    model = model_of("llama")
    state = ready(model, QUICK)
    change = matrix_change(model, QUICK.edit(model, state, requests(3)), LAYER)
    sizes = torch.linalg.svdvals(change)
    assert sizes[2] > 1e-6 * sizes[0]
    assert sizes[3] < 1e-12 * sizes[0]


def test_it_writes_nothing_but_one_mean_key_an_edit(tiny_model: ChatModel) -> None:
    for changed in ({"average": False}, {"positions": "object"}):
        editor = dataclasses.replace(QUICK, **changed)  # type: ignore[arg-type]
        with pytest.raises(EditorError, match="one averaged key an edit"):
            editor.edit(tiny_model, ready(tiny_model, editor), [request()])
