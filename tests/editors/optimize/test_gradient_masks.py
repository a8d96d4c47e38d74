"""Masks on a gradient: of rank one, bounded, descending at first, never built unless asked."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from editors.episodes import Factors
from editors.optimize.gradient_masks import (
    Conditioner,
    GradientMasks,
    MaskedChange,
    MaskHead,
    Shape,
    norms,
)

SMALL = Shape(hidden=6, condition=10, inner=7)
ROWS, COLUMNS, WIDTH = 5, 8, 4


def random_factors(edits: int, tokens: int, seed: int, zero: bool = False) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(edits, tokens, COLUMNS, generator=generator)
    deltas = torch.randn(edits, tokens, ROWS, generator=generator) * (0.0 if zero else 1.0)
    return Factors(inputs, deltas, torch.ones(edits, tokens, dtype=torch.bool))


def head_of(seed: int, wild: bool = True) -> MaskHead:
    torch.manual_seed(seed)
    head = MaskHead(ROWS, COLUMNS, SMALL)
    if wild:
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.add_(torch.randn_like(parameter))
    return head


@settings(deadline=None, max_examples=25)
@given(edits=st.integers(1, 3), tokens=st.integers(1, 6), seed=st.integers(0, 999))
def test_a_change_applied_to_a_vector_is_the_dense_change_times_the_vector(
    edits: int, tokens: int, seed: int
) -> None:
    factors = random_factors(edits, tokens, seed)
    masks = head_of(seed)(torch.randn(edits, SMALL.condition))
    change = MaskedChange(masks, factors)
    x = torch.randn(4, 3, COLUMNS)
    owner = torch.randint(0, edits, (4,))
    expected = torch.einsum("boi,bni->bno", change.dense()[owner], x)
    torch.testing.assert_close(change.of(x, owner), expected, rtol=1e-4, atol=1e-5)
    own = torch.randn(edits, 2, COLUMNS)
    torch.testing.assert_close(change.of(own), own @ change.dense().mT, rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 999), max_scale=st.floats(0.01, 3.0))
def test_masks_are_of_rank_one_and_their_scale_is_bounded(seed: int, max_scale: float) -> None:
    torch.manual_seed(seed)
    head = MaskHead(ROWS, COLUMNS, Shape(6, 10, 7, max_scale))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn_like(parameter))
    masks = head(torch.randn(3, 10))
    for rows, columns in ((masks.rows, masks.columns), (masks.added_rows, masks.added_columns)):
        torch.testing.assert_close(rows.sum(-1), torch.ones(3))
        assert bool((rows >= 0).all())
        outer = rows[:, :, None] * columns[:, None]
        assert torch.linalg.matrix_rank(outer).max() <= 1
    assert bool((masks.scale >= 0).all())
    assert bool((masks.scale <= max_scale).all())


def test_the_dense_change_is_the_papers_formula() -> None:
    factors = random_factors(1, 3, seed=1)
    masks = head_of(1)(torch.randn(1, SMALL.condition))
    gradient = factors.deltas[0].T @ factors.inputs[0]
    a = torch.outer(masks.rows[0], masks.columns[0])
    b = torch.outer(masks.added_rows[0], masks.added_columns[0])
    expected = masks.scale[0] * (gradient * a + b)
    torch.testing.assert_close(MaskedChange(masks, factors).dense()[0], expected)


def test_a_scale_that_goes_to_nothing_takes_the_change_with_it() -> None:
    head = head_of(2)
    last = head.net[2]
    with torch.no_grad():
        last.bias[-1] = -1e4
    change = MaskedChange(head(torch.randn(2, SMALL.condition)), random_factors(2, 3, seed=2))
    assert change.dense().abs().max() == 0


@settings(deadline=None, max_examples=25)
@given(edits=st.integers(1, 3), tokens=st.integers(1, 6), seed=st.integers(0, 999))
def test_norms_are_those_of_the_gradients(edits: int, tokens: int, seed: int) -> None:
    factors = random_factors(edits, tokens, seed)
    expected = torch.linalg.matrix_norm(factors.dense())
    torch.testing.assert_close(norms(factors), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_an_untrained_network_takes_a_step_down_whose_size_the_gradients_has_no_part_in(
    size: float,
) -> None:
    torch.manual_seed(3)
    net = GradientMasks({"w": (ROWS, COLUMNS)}, WIDTH, Shape(6, 10, 7, start=0.4))
    factors = random_factors(2, 3, seed=3)
    factors = Factors(factors.inputs, factors.deltas * size, factors.real)
    change = net(torch.randn(2, 3, WIDTH), torch.tensor([3, 2]), {"w": factors})["w"].dense()
    gradients = factors.dense()
    cosines = torch.cosine_similarity(change.flatten(1), gradients.flatten(1))
    assert cosines.max() < -0.9
    # max_scale · σ(0) · start, up to what the untrained head's small weights add.
    torch.testing.assert_close(
        torch.linalg.matrix_norm(change), torch.full((2,), 0.2), rtol=0.25, atol=0
    )


def test_without_a_gradient_only_what_is_added_is_left() -> None:
    torch.manual_seed(4)
    net = GradientMasks({"w": (ROWS, COLUMNS)}, WIDTH, SMALL)
    factors = random_factors(1, 2, seed=4, zero=True)
    change = net(torch.randn(1, 3, WIDTH), torch.tensor([3]), {"w": factors})["w"]
    masks = change.masks
    expected = masks.scale * masks.added_rows[0][:, None] * masks.added_columns[0]
    torch.testing.assert_close(change.dense()[0], expected)
    assert bool(change.dense().isfinite().all())


def test_the_conditioner_reads_a_text_to_its_end_and_no_further() -> None:
    torch.manual_seed(5)
    conditioner = Conditioner(WIDTH, SMALL)
    texts = torch.randn(2, 5, WIDTH)
    found = conditioner(texts, torch.tensor([3, 5]))
    assert found.abs().max() <= 1
    changed = texts.clone()
    changed[0, 3:] = 7.0
    assert conditioner(changed, torch.tensor([3, 5])).equal(found)
    alone = conditioner(texts[:1, :3], torch.tensor([3]))
    torch.testing.assert_close(alone[0], found[0])
    changed[0, 2] += 1
    assert not conditioner(changed, torch.tensor([3, 5]))[0].equal(found[0])


def test_gradients_flow_to_every_parameter() -> None:
    torch.manual_seed(6)
    net = GradientMasks({"w": (ROWS, COLUMNS), "v": (ROWS, COLUMNS)}, WIDTH, SMALL)
    factors = {name: random_factors(2, 3, seed=6) for name in ("w", "v")}
    changes = net(torch.randn(2, 3, WIDTH), torch.tensor([3, 3]), factors)
    x = torch.randn(2, 4, COLUMNS)
    sum(change.of(x).square().sum() for change in changes.values()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
