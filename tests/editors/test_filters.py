"""RECT: exactly the entries of largest relative change survive."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from editors.architectures import view
from editors.deltas import applied
from editors.filters import rect, rect_delta
from editors.linear_solve import Update
from editors.model import ChatModel
from editors.requests import EditorError

shares = st.floats(0.01, 1.0)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9), shares)
def test_exactly_the_share_survives_and_it_is_what_changes_most(
    seed: int, rows: int, columns: int, share: float
) -> None:
    weight, change = drawn(seed, rows, columns), drawn(seed + 1, rows, columns)
    found = rect(weight, change, share)
    kept = found != 0
    assert int(kept.sum()) == math.ceil(round(share * rows * columns, 6))
    assert found[kept].equal(change[kept])
    ratio = (change / weight).abs()
    if not kept.all():
        assert ratio[kept].min() >= ratio[~kept].max()


@settings(deadline=None)
@given(st.integers(0, 10**6), shares, st.floats(0.1, 10))
def test_what_survives_does_not_depend_on_the_size_of_either(
    seed: int, share: float, factor: float
) -> None:
    weight, change = drawn(seed, 6, 7), drawn(seed + 1, 6, 7)
    found = rect(weight, change, share) != 0
    assert found.equal(rect(factor * weight, change, share) != 0)
    assert found.equal(rect(weight, factor * change, share) != 0)


def test_keeping_everything_is_the_change_itself_in_a_new_tensor() -> None:
    weight, change = drawn(0, 4, 4), drawn(1, 4, 4)
    found = rect(weight, change, 1.0)
    assert found.equal(change)
    assert found is not change
    assert rect(weight, change.bfloat16(), 0.5).dtype == torch.bfloat16


def test_the_number_kept_is_not_one_more_by_rounding() -> None:
    # 0.07 * 100 is 7.000000000000001.
    assert int((rect(drawn(0, 10, 10), drawn(1, 10, 10), 0.07) != 0).sum()) == 7


def test_of_equal_ratios_the_first_are_kept() -> None:
    found = rect(torch.ones(2, 5), torch.full((2, 5), 3.0), 0.3)
    assert found.flatten().tolist() == [3.0] * 3 + [0.0] * 7


def test_changes_of_zero_weights_come_first_and_in_their_own_order() -> None:
    weight = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0])
    change = torch.tensor([10.0, 20.0, 5000.0, 1000.0, 0.0])
    assert rect(weight, change, 0.2).tolist() == [0, 20, 0, 0, 0]
    assert (rect(weight, change, 0.6) != 0).tolist() == [True, True, True, False, False]
    # A matrix of zeros has no relative change; the largest change is kept then.
    assert (rect(torch.zeros(5), change, 0.2) != 0).tolist() == [False, False, True, False, False]


def test_what_cannot_be_filtered_is_refused() -> None:
    weight = drawn(0, 3, 3)
    for share in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(EditorError, match=r"share.*\(0, 1\]"):
            rect(weight, weight, share)
    with pytest.raises(EditorError, match=r"\(3, 2\) is none of a matrix \(3, 3\)"):
        rect(weight, weight[:, :2], 0.5)
    with pytest.raises(EditorError, match="not finite"):
        rect(weight, weight / 0, 0.5)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_dense_and_low_rank_changes_of_a_model_are_filtered_alike(
    model_of: Callable[[str], ChatModel], name: str
) -> None:
    model = model_of(name)
    shown = view(model)
    down, up = shown.names(1).down, shown.names(2).down
    update = Update(drawn(0, shown.hidden, 2), drawn(1, shown.inner(1), 2))
    other = drawn(2, *shown.parameter(up).shape)
    low = rect_delta(model, {down: update, up: other}, 0.2)
    dense = rect_delta(shown, {down: shown.stored(down, update.dense()), up: other}, 0.2)
    assert low.changes.keys() == {down, up}
    for path, change in low.changes.items():
        assert change.equal(dense.changes[path])
        assert int((change != 0).sum()) == math.ceil(0.2 * change.numel())
    before = shown.matrix(down).detach().clone()
    with applied(model, low):
        moved = shown.matrix(down) - before
    full = update.dense()
    kept = moved != 0
    assert 0.19 < kept.double().mean() < 0.21
    torch.testing.assert_close(moved[kept], full[kept])
