"""MEND's network: the identity at first, statistics of training only, shared by shape."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from editors.episodes import Factors
from editors.optimize.factor_network import FactorNetwork, Normaliser, Residual, Whitening

SHAPES = {"a.up": (6, 4), "a.gate": (6, 4), "a.down": (4, 6)}


def factors(shape: tuple[int, int], seed: int = 0, tokens: int = 5) -> Factors:
    """Two samples' factors, the second one token shorter, one token without a gradient."""
    generator = torch.Generator().manual_seed(seed)
    inputs, deltas = (torch.randn(2, tokens, width, generator=generator) for width in shape)
    real = torch.ones(2, tokens, dtype=torch.bool)
    real[1, -1] = False
    inputs[1, -1] = deltas[1, -1] = 0
    deltas[0, 0] = 0
    return Factors(inputs, deltas, real)


def a_network(normalise: bool = True) -> FactorNetwork:
    torch.manual_seed(0)
    return FactorNetwork(SHAPES, rank=3, normalise=normalise)


def test_without_normaliser_the_untrained_network_is_the_identity() -> None:
    network = a_network(normalise=False)
    for name, shape in SHAPES.items():
        found = factors(shape)
        made = network(name, found)
        told = made.real[..., None]
        assert made.inputs.equal(found.inputs * told)
        assert made.deltas.equal(found.deltas)
        torch.testing.assert_close(made.dense(), found.dense())


def test_tokens_without_factors_contribute_nothing() -> None:
    network = a_network().train()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter))
    made = network("a.up", factors((6, 4)))
    assert made.real.tolist() == [[False, *[True] * 4], [*[True] * 4, False]]
    assert not made.inputs[~made.real].any()
    assert not made.deltas[~made.real].any()
    # Nor do they count in the statistics.
    assert network.seen["a/up"].count == 8
    padded = factors((6, 4), tokens=5)
    wide = Factors(
        *(torch.nn.functional.pad(t, (0, 0, 0, 3)) for t in (padded.inputs, padded.deltas)),
        torch.nn.functional.pad(padded.real, (0, 3)),
    )
    network.eval()
    made, wider = network("a.up", padded).dense(), network("a.up", wide).dense()
    torch.testing.assert_close(wider, made, rtol=1e-4, atol=1e-4)


def test_each_edit_has_no_higher_rank_than_tokens() -> None:
    network = a_network().train()
    made = network("a.down", factors((4, 6), tokens=2))
    assert [int(torch.linalg.matrix_rank(one)) for one in made.dense()] == [1, 1]
    one_token = made.deltas[0, 1][:, None] @ made.inputs[0, 1][None]
    torch.testing.assert_close(made.dense()[0], one_token)


def test_statistics_are_counted_in_training_only() -> None:
    network = a_network().train()
    network("a.up", factors((6, 4)))
    before = {name: b.clone() for name, b in network.named_buffers()}
    assert before["seen.a/up.count"] == 8
    assert before["seen.a/gate.count"] == 0
    network.eval()
    network("a.up", factors((6, 4), seed=1))
    assert all(b.equal(before[name]) for name, b in network.named_buffers())


def test_matrices_of_one_shape_share_a_network_and_differ_by_their_own_scales() -> None:
    network = a_network(normalise=False)
    assert set(network.blocks) == {"6x4", "4x6"}
    with torch.no_grad():
        for block in network.blocks["6x4"]:
            block.up.normal_()
    found = factors((6, 4))
    assert network("a.up", found).dense().equal(network("a.gate", found).dense())
    with torch.no_grad():
        network.blocks["6x4"][1].scale[1] *= 2
    assert not network("a.up", found).dense().equal(network("a.gate", found).dense())


def test_a_gradient_reaches_every_part_of_an_untrained_network() -> None:
    network = a_network().train()
    target = torch.randn(6, 4, generator=torch.Generator().manual_seed(2))
    loss = sum((network(n, factors(s)).dense() ** 2).sum() for n, s in SHAPES.items())
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    for name, parameter in network.named_parameters():
        if name.endswith(("up", "bias", "offset")):  # the others wait until U is no longer 0
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
    assert target.shape == (6, 4)


def test_the_second_block_is_linear_and_the_first_is_not() -> None:
    rows = torch.randn(7, 5)
    for linear in (True, False):
        torch.manual_seed(1)
        block = Residual(5, 2, 1, linear=linear)
        with torch.no_grad():
            block.up.normal_()
            added = block(rows, 0) - rows
            twice = block(2 * rows, 0) - 2 * rows
        assert bool((added < 0).any()) is linear
        if linear:
            torch.testing.assert_close(twice, 2 * added)


@given(parts=st.lists(st.integers(1, 5), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_the_normaliser_is_that_of_all_rows_seen_at_once(parts: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(sum(parts) + 1, 3, generator=generator, dtype=torch.float64) * 4 + 2
    seen = Normaliser(3)
    for part in rows.split([*parts, 1]):
        seen.see(part)
    wanted = (rows - rows.mean(0)) / (rows.std(0) + 1e-7)
    torch.testing.assert_close(seen(rows), wanted, rtol=1e-6, atol=1e-8)


def test_what_was_never_counted_is_left_as_it_is() -> None:
    rows = torch.randn(3, 2)
    assert Normaliser(2)(rows).equal(rows)


def test_whitened_inputs_have_no_preferred_direction() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(400, 6, generator=generator) @ torch.diag(torch.tensor([9.0, 3, 2, 1, 1, 1]))
    white = Whitening({"a.up": (6, 4)})
    assert white("a.up", rows).equal(rows)
    moment = rows.double().T @ rows.double() / len(rows)
    white.measure({"a.up": moment}, ridge=1e-6)
    made = white("a.up", rows)
    torch.testing.assert_close(made.T @ made / len(rows), torch.eye(6), rtol=1e-3, atol=1e-3)
    # The ridge is beside the median direction: what is rarer is not blown up without bound.
    white.measure({"a.up": moment}, ridge=1.0)
    made = white("a.up", rows)
    values = torch.linalg.eigvalsh(made.T @ made / len(rows))
    assert values.max() < 1
    assert values.min() == pytest.approx(0.4, abs=0.15)
