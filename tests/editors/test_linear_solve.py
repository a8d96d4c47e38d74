"""Linear solves: each closed form against its definition, its optimality and its limits."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from editors.linear_solve import (
    Factor,
    NullSpace,
    Update,
    equality,
    equality_one,
    factored,
    identity_ridge,
    null_space,
    projected,
    ridge,
    spectrum,
)
from editors.requests import EditorError

OUT, WIDTH = 5, 12


@dataclass(frozen=True)
class Case:
    """Ordinary keys (m, t), their second moment and factor, edits' keys and residuals."""

    ordinary: torch.Tensor
    moment: torch.Tensor
    factor: Factor
    keys: torch.Tensor
    residuals: torch.Tensor
    made: torch.Generator

    def draw(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.made, dtype=torch.float64)


def a_case(seed: int, edits: int = 3, tokens: int = 40, scale: float = 1.0) -> Case:
    made = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=made, dtype=torch.float64)

    # Directions of very different use, as in a model.
    ordinary = (
        scale * torch.logspace(0, -2, WIDTH, dtype=torch.float64)[:, None] * draw(WIDTH, tokens)
    )
    moment = ordinary @ ordinary.T / tokens
    keys, residuals = scale * draw(WIDTH, edits), draw(OUT, edits)
    return Case(ordinary, moment, factored(moment), keys, residuals, made)


cases = st.builds(a_case, st.integers(0, 10**6), edits=st.integers(1, 6))
weights = st.floats(1e-2, 1e4)
few = settings(max_examples=40, deadline=None)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # for tiny matrices more only wait for each other
    yield
    torch.set_num_threads(before)


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-8) -> None:
    torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)


def price(change: torch.Tensor, moment: torch.Tensor) -> float:
    """Mean squared change of ordinary values."""
    return float((change @ moment @ change.T).trace())


@few
@given(cases)
def test_rome_gives_its_key_exactly_its_residual_and_is_the_cheapest_that_does(case: Case) -> None:
    key, residual = case.keys[:, 0], case.residuals[:, 0]
    change = equality_one(residual, key, case.factor).dense()
    close(change @ key, residual)
    assert torch.linalg.matrix_rank(change) == 1
    aside = case.draw(OUT, WIDTH)
    aside -= torch.outer(aside @ key, key) / (key @ key)  # does nothing to the key
    assert price(change, case.moment) <= price(change + 0.1 * aside, case.moment)


@few
@given(cases)
def test_rome_leaves_keys_alone_that_are_whitened_orthogonal_to_its_own(case: Case) -> None:
    key = case.keys[:, 0]
    whitened = case.factor.solve(key[:, None])[:, 0]
    other = case.draw(WIDTH)
    other -= key * (whitened @ other) / (whitened @ key)
    moved = equality_one(case.residuals[:, 0], key, case.factor).dense() @ other
    assert moved.norm() < 1e-8 * case.residuals[:, 0].norm()


def test_romes_two_keys_are_exact_at_the_second_and_write_along_the_first() -> None:
    case = a_case(1)
    averaged, bare = case.keys[:, 0], case.keys[:, 1]
    update = equality_one(case.residuals[:, 0], averaged, case.factor, at=bare)
    close(update.dense() @ bare, case.residuals[:, 0])
    direction = case.factor.solve(averaged[:, None])[:, 0]
    close(torch.outer(case.residuals[:, 0], direction) / (direction @ bare), update.dense())
    blind = bare - averaged * (direction @ bare) / (direction @ averaged)
    with pytest.raises(EditorError, match="blind"):
        equality_one(case.residuals[:, 0], averaged, case.factor, at=blind)


@few
@given(cases)
def test_emmet_gives_every_key_its_residual_and_is_the_cheapest_that_does(case: Case) -> None:
    change = equality(case.residuals, case.keys, case.factor).dense()
    close(change @ case.keys, case.residuals, 1e-6)
    basis = torch.linalg.qr(case.keys).Q
    aside = case.draw(OUT, WIDTH)
    aside -= aside @ basis @ basis.T
    assert price(change, case.moment) <= price(change + 0.1 * aside, case.moment)


@few
@given(cases)
def test_emmet_of_one_edit_is_rome(case: Case) -> None:
    one = equality(case.residuals[:, :1], case.keys[:, :1], case.factor)
    rome = equality_one(case.residuals[:, 0], case.keys[:, 0], case.factor)
    close(one.dense(), rome.dense())


@few
@given(cases, weights)
def test_emmet_with_slack_is_memit_with_that_weight(case: Case, weight: float) -> None:
    slack = equality(case.residuals, case.keys, case.factor, slack=weight).dense()
    close(slack, ridge(case.residuals, case.keys, case.factor, weight).dense())


def test_the_same_key_twice_is_refused_unless_there_is_slack() -> None:
    case = a_case(2)
    twice = torch.cat([case.keys, case.keys[:, :1]], dim=1)
    residuals = torch.cat([case.residuals, case.residuals[:, :1]], dim=1)
    with pytest.raises(EditorError, match=r"4 edits are linearly dependent.*slack"):
        equality(residuals, twice, case.factor)
    change = equality(residuals, twice, case.factor, slack=1e-7).dense()
    close(change @ twice, residuals, 1e-4)


def by_definition(case: Case, weight: float) -> torch.Tensor:
    """R Kᵀ (λC + KKᵀ)⁻¹, solved directly in the full width."""
    whole = weight * case.moment + case.keys @ case.keys.T
    return torch.linalg.solve(whole, case.keys @ case.residuals.T).T


@few
@given(st.integers(0, 10**6), st.integers(1, 3 * WIDTH), weights)
def test_memit_is_its_definition_whether_edits_are_few_or_many(
    seed: int, edits: int, weight: float
) -> None:
    case = a_case(seed, edits)
    found = ridge(case.residuals, case.keys, case.factor, weight).dense()
    close(found, by_definition(case, weight), 1e-6)


@few
@given(cases, weights)
def test_memit_is_stationary(case: Case, weight: float) -> None:
    change = ridge(case.residuals, case.keys, case.factor, weight).dense()
    gradient = (change @ case.keys - case.residuals) @ case.keys.T + weight * change @ case.moment
    assert gradient.norm() < 1e-8 * (case.residuals @ case.keys.T).norm()


@few
@given(cases)
def test_memit_is_exact_as_the_weight_vanishes_and_nothing_as_it_grows(case: Case) -> None:
    light = ridge(case.residuals, case.keys, case.factor, 1e-9).dense()
    close(light @ case.keys, case.residuals, 1e-4)
    heavy = ridge(case.residuals, case.keys, case.factor, 1e15).dense()
    assert heavy.norm() < 1e-6 * light.norm()


@few
@given(cases, weights, st.randoms())
def test_the_order_of_a_batch_does_not_matter(case: Case, weight: float, random: Random) -> None:
    order = list(range(case.keys.shape[1]))
    random.shuffle(order)
    one = ridge(case.residuals, case.keys, case.factor, weight).dense()
    close(one, ridge(case.residuals[:, order], case.keys[:, order], case.factor, weight).dense())


@few
@given(cases, weights)
def test_earlier_keys_are_preserved_like_edits_whose_residual_is_nothing(
    case: Case, weight: float
) -> None:
    earlier = case.draw(WIDTH, 4)
    sequential = ridge(
        case.residuals, case.keys, case.factor.scaled(weight).including(earlier), 1.0
    ).dense()
    residuals = torch.cat([case.residuals, torch.zeros(OUT, 4, dtype=torch.float64)], dim=1)
    together = ridge(residuals, torch.cat([case.keys, earlier], dim=1), case.factor, weight)
    close(sequential, together.dense(), 1e-6)


@few
@given(st.integers(0, 10**6), st.integers(1, 3 * WIDTH), st.floats(1e-3, 1e3))
def test_the_identity_ridge_is_its_definition_on_either_side(
    seed: int, edits: int, weight: float
) -> None:
    case = a_case(seed, edits)
    whole = case.keys @ case.keys.T + weight * torch.eye(WIDTH, dtype=torch.float64)
    wanted = torch.linalg.solve(whole, case.keys @ case.residuals.T).T
    close(identity_ridge(case.residuals, case.keys, weight).dense(), wanted)


def test_float32_keys_and_residuals_are_solved_in_float64() -> None:
    case = a_case(3)
    for update in (
        ridge(case.residuals.float(), case.keys.float(), factored(case.moment.float()), 1.0),
        identity_ridge(case.residuals.float(), case.keys.bfloat16(), 1.0),
        equality_one(case.residuals[:, 0].float(), case.keys[:, 0].float(), case.factor),
    ):
        assert update.dense().dtype == torch.float64


def test_a_factor_solves_and_scales_without_touching_the_matrix() -> None:
    case = a_case(4)
    before = case.moment.clone()
    factor = factored(case.moment, ridge=0.5)
    assert case.moment.equal(before)
    whole = before + 0.5 * before.diagonal().mean() * torch.eye(WIDTH, dtype=torch.float64)
    close(whole @ factor.solve(case.keys), case.keys)
    close(7 * whole @ factor.scaled(7).solve(case.keys), case.keys)
    close(factor.scaled(7).energies(case.keys), factor.energies(case.keys) / 7)
    close(factor.energies(case.keys), (case.keys * factor.solve(case.keys)).sum(0))
    more = factor.including(case.keys)
    close(more.lower @ more.lower.T, whole + case.keys @ case.keys.T)


@pytest.mark.parametrize("width", [WIDTH, 300])
def test_a_moment_of_fewer_tokens_than_it_is_wide_is_refused_without_a_ridge(width: int) -> None:
    ordinary = torch.randn(
        width, width - 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    moment = ordinary @ ordinary.T / (width - 1)
    with pytest.raises(EditorError, match=r"singular.*more text.*ridge"):
        factored(moment)
    assert factored(moment, ridge=1e-3).lower.isfinite().all()


def test_what_cannot_be_solved_is_said_in_words() -> None:
    case = a_case(5)
    broken = case.moment.clone()
    broken[0, 0] = float("nan")
    with pytest.raises(EditorError, match="not finite"):
        factored(broken)
    with pytest.raises(EditorError, match="not finite"):
        spectrum(broken)
    with pytest.raises(EditorError, match="square"):
        factored(case.keys)
    with pytest.raises(EditorError, match="one column an edit"):
        ridge(case.residuals[:, :2], case.keys, case.factor, 1.0)
    for weight in (0.0, -1.0, float("nan")):
        with pytest.raises(EditorError, match="weight must be above 0"):
            ridge(case.residuals, case.keys, case.factor, weight)
    with pytest.raises(EditorError, match="share is between 0 and 1"):
        null_space(case.moment, 1.5)


Solve = Callable[[torch.Tensor, torch.Tensor, Factor], Update]


@pytest.mark.parametrize(
    "solve",
    [equality, lambda r, k, f: ridge(r, k, f, 1.0), lambda r, k, _: identity_ridge(r, k, 1.0)],
)
def test_no_edits_change_nothing(solve: Solve) -> None:
    case = a_case(6)
    change = solve(case.residuals[:, :0], case.keys[:, :0], case.factor).dense()
    assert change.equal(torch.zeros(OUT, WIDTH, dtype=torch.float64))


@few
@given(st.integers(0, 10**6), st.floats(1e-4, 0.9))
def test_a_null_space_is_a_projection_on_the_most_directions_that_hold_the_share(
    seed: int, share: float
) -> None:
    case = a_case(seed)
    space = null_space(case.moment, share)
    projection = space.projection()
    close(projection, projection.T)
    close(projection @ projection, projection)
    # What it leaks of ordinary keys is what it says, and no more than was asked.
    inside = (projection @ case.ordinary).square().sum() / case.ordinary.square().sum()
    assert float(inside) == pytest.approx(space.leak, abs=1e-9)
    assert space.leak <= share * (1 + 1e-6)
    values = torch.linalg.eigvalsh(case.moment)
    one_more = values[: space.dimensions + 1].sum() / values.sum()
    assert one_more > share


def test_a_null_space_does_not_depend_on_the_scale_of_the_keys() -> None:
    small, large = (null_space(a_case(7, scale=scale).moment, 0.01) for scale in (1e-3, 1e3))
    assert 0 < small.dimensions == large.dimensions < WIDTH
    assert small.leak == pytest.approx(large.leak)


def test_the_null_space_of_few_tokens_is_exact_and_that_of_all_the_energy_is_everything() -> None:
    ordinary = torch.randn(
        WIDTH, 5, generator=torch.Generator().manual_seed(8), dtype=torch.float64
    )
    moment = ordinary @ ordinary.T
    exact = null_space(moment, 1e-9)
    assert exact.dimensions == WIDTH - 5
    assert (exact.projection() @ ordinary).norm() < 1e-6 * ordinary.norm()
    close(null_space(moment, 1.0).projection(), torch.eye(WIDTH, dtype=torch.float64))


def a_space(case: Case) -> NullSpace:
    return null_space(case.moment, 0.01)


@few
@given(cases, st.floats(1e-3, 1e3))
def test_alphaedit_is_its_definition_and_stays_in_the_null_space(
    case: Case, damping: float
) -> None:
    space, earlier = a_space(case), case.draw(WIDTH, 4)
    projection = space.projection()
    whole = (
        earlier @ earlier.T @ projection
        + case.keys @ case.keys.T @ projection
        + damping * torch.eye(WIDTH, dtype=torch.float64)
    )
    wanted = torch.linalg.solve(whole.T, (case.residuals @ case.keys.T @ projection).T).T
    found = projected(case.residuals, case.keys, space, space.preserving(damping, earlier)).dense()
    close(found, wanted, 1e-6)
    close(found @ projection, found)
    # What ordinary text feels is bounded by the leak.
    assert price(found, case.moment) <= float(
        found.norm() ** 2 * case.moment.trace()
    ) * space.leak * (1 + 1e-6)


@few
@given(cases)
def test_alphaedit_everywhere_and_undamped_is_the_minimum_norm_solution(case: Case) -> None:
    space = null_space(case.moment, 1.0)
    found = projected(case.residuals, case.keys, space, space.preserving(1e-9)).dense()
    close(found, case.residuals @ torch.linalg.pinv(case.keys), 1e-4)


def test_alphaedit_without_a_null_space_changes_nothing() -> None:
    case = a_case(9)
    space = null_space(case.moment, 0.0)
    assert space.dimensions == 0
    preserved = space.preserving(1.0, case.keys)
    change = projected(case.residuals, case.keys, space, preserved).dense()
    assert change.equal(torch.zeros(OUT, WIDTH, dtype=torch.float64))


@few
@given(cases)
def test_alphaedit_hardly_moves_the_keys_of_edits_that_it_preserves(case: Case) -> None:
    # Fewer keys than dimensions: the new ones can be written around the old.
    space = null_space(case.moment, 1.0)
    earlier = case.draw(WIDTH, 4)
    free, kept = space.preserving(1e-3), space.preserving(1e-3, 1e3 * earlier)
    one = projected(case.residuals[:, :1], case.keys[:, :1], space, free).dense()
    two = projected(case.residuals[:, :1], case.keys[:, :1], space, kept).dense()
    assert (two @ earlier).norm() < 1e-2 * (one @ earlier).norm()


@few
@given(cases)
def test_preserving_in_steps_is_preserving_at_once(case: Case) -> None:
    space = a_space(case)
    steps = space.preserving(0.5)
    for at in range(case.keys.shape[1]):
        steps = steps.including(space.coordinates(case.keys[:, at : at + 1]))
    at_once = space.preserving(0.5, case.keys)
    close(steps.matrix, at_once.matrix)
    close(steps.lower, at_once.lower)
