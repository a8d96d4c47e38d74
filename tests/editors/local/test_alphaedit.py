"""AlphaEdit: changes in the null space of ordinary keys (methods.md L6)."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from closed_form_samples import CARD, keys_of, matrix_change, ready, requests

from editors.architectures import view
from editors.deltas import applied
from editors.linear_solve import NullSpace
from editors.local.alphaedit import AlphaEdit
from editors.model import ChatModel

QUICK = AlphaEdit(**CARD, edits=32, most_leak=0.01)
LAYER = 1


def test_the_change_lies_in_the_null_space(model_of: Callable[[str], ChatModel]) -> None:
    model = model_of("llama")
    state = ready(model, QUICK)
    projection = state.spaces[LAYER].projection()
    torch.testing.assert_close(projection, projection.T)
    torch.testing.assert_close(projection @ projection, projection)
    change = matrix_change(model, QUICK.edit(model, state, requests(3)), LAYER)
    torch.testing.assert_close(change @ projection, change, atol=1e-10, rtol=1e-9)


def test_ordinary_keys_feel_little_of_it(model_of: Callable[[str], ChatModel]) -> None:
    model = model_of("llama")
    state = ready(model, QUICK)
    change = matrix_change(model, QUICK.edit(model, state, requests(3)), LAYER)
    moment = state.statistics[LAYER].moment
    felt = torch.trace(change @ moment @ change.T) / (change.norm() ** 2 * torch.trace(moment))
    assert float(felt) < state.spaces[LAYER].leak
    keys = keys_of(model, QUICK, state, requests(3), LAYER)
    assert (change @ keys).norm() > 0.1 * change.norm()


def test_an_empty_null_space_allows_no_change(model_of: Callable[[str], ChatModel]) -> None:
    model = model_of("llama")
    state = ready(model, QUICK)
    none = NullSpace(state.spaces[LAYER].basis[:, :0], 0.0)
    shut = dataclasses.replace(state, spaces={LAYER: none}, preserved={LAYER: none.preserving(1.0)})
    assert not matrix_change(model, QUICK.edit(model, shut, requests(2)), LAYER).any()


def test_without_projection_and_damping_it_is_the_smallest_change_that_gives_the_values(
    model_of: Callable[[str], ChatModel],
) -> None:
    model = model_of("llama")
    state = ready(model, QUICK)
    width = view(model).inner(LAYER)
    whole = NullSpace(torch.eye(width, dtype=torch.float64), 1.0)
    free = dataclasses.replace(
        state, spaces={LAYER: whole}, preserved={LAYER: whole.preserving(1e-9)}
    )
    change = matrix_change(model, QUICK.edit(model, free, requests(3)), LAYER)
    keys = keys_of(model, QUICK, state, requests(3), LAYER)
    torch.testing.assert_close(
        change, change @ keys @ torch.linalg.pinv(keys), atol=1e-6, rtol=1e-5
    )


def test_keys_of_settled_edits_are_added_with_the_edited_weights(
    model_of: Callable[[str], ChatModel],
) -> None:
    model = model_of("llama")
    editor = dataclasses.replace(QUICK, window=2)
    state = ready(model, editor)
    before = {layer: factor.matrix.clone() for layer, factor in state.preserved.items()}
    delta = editor.edit(model, state, requests(2))
    with applied(model, delta):
        after = editor.settled(model, state, requests(2))
        for layer in state.layers:
            inside = after.spaces[layer].coordinates(
                keys_of(model, editor, state, requests(2), layer)
            )
            grown = after.preserved[layer].matrix - before[layer]
            torch.testing.assert_close(grown, inside @ inside.T)
    for layer, matrix in before.items():
        assert state.preserved[layer].matrix.equal(matrix), "the earlier state is as it was"


def test_an_edit_that_is_made_again_changes_almost_nothing(
    model_of: Callable[[str], ChatModel],
) -> None:
    model = model_of("llama")
    editor = dataclasses.replace(QUICK, damping=1e-3)
    state = ready(model, editor)
    asked = requests(3)
    delta = editor.edit(model, state, asked)
    keys = keys_of(model, editor, state, asked, LAYER)
    first = matrix_change(model, delta, LAYER)
    with applied(model, delta):
        after = editor.settled(model, state, asked)
        # The same values again: nothing is missing of what was reached.
        wanted = first @ keys
        again = editor.solve(after, LAYER, wanted - first @ keys, keys, keys[:, :0]).dense()
        assert again.norm() < 1e-9 * first.norm()
        # Another value for the same keys meets them as preserved: at most half is given.
        other = editor.solve(after, LAYER, wanted, keys, keys[:, :0]).dense()
    assert (other @ keys).norm() < 0.51 * wanted.norm()


def test_settings_choose_damping_and_room(model_of: Callable[[str], ChatModel]) -> None:
    model = model_of("llama")
    state = ready(model, dataclasses.replace(QUICK, damping=7.0))
    size = state.spaces[LAYER].dimensions
    torch.testing.assert_close(
        state.preserved[LAYER].matrix, 7.0 * torch.eye(size, dtype=torch.float64)
    )
    wide = ready(model, dataclasses.replace(QUICK, edits=60, most_leak=0.5))
    assert wide.spaces[LAYER].dimensions > size
    assert wide.spaces[LAYER].leak == pytest.approx(
        float(torch.trace(wide.spaces[LAYER].projection() @ wide.statistics[LAYER].moment))
        / float(torch.trace(wide.statistics[LAYER].moment))
    )
