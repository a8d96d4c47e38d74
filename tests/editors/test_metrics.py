"""Metrics against values worked out by hand, and against properties that must always hold."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editors.metrics import (
    Interval,
    RetentionMatrix,
    accuracy,
    exact_agreement,
    leak_rate,
    mean_share,
    prefix_agreement,
    shared_prefix,
    wilson,
)


def mentions(answer: str, value: str) -> bool:
    return value.casefold() in answer.casefold()


unit = st.floats(0, 1)


@st.composite
def matrices(draw: st.DrawFn) -> RetentionMatrix:
    """Lower triangles and stepped ones, of up to eight edits."""
    lengths = sorted(draw(st.lists(st.integers(1, 8), min_size=1, max_size=6)))
    return RetentionMatrix(
        [draw(st.lists(unit, min_size=length, max_size=length)) for length in lengths]
    )


# Three edits one by one: the first is lost at the third, the second was never right.
TRIANGLE = RetentionMatrix([[1], [1, 0], [0, 0, 1]])


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [  # Worked by hand from (p + z²/2n ± z√(p(1−p)/n + z²/4n²)) / (1 + z²/n), z = 1.96.
        (0, 10, 0.0, 0.27754),
        (8, 10, 0.49016, 0.94332),
        (10, 10, 0.72246, 1.0),
        (50, 100, 0.40383, 0.59617),
    ],
)
def test_wilson_bounds_equal_the_hand_computed_ones(
    successes: int, n: int, low: float, high: float
) -> None:
    interval = wilson(successes, n)
    assert interval.point == successes / n
    assert interval.low == pytest.approx(low, abs=1e-5)
    assert interval.high == pytest.approx(high, abs=1e-5)
    assert interval.n == n


def test_no_trials_say_nothing_without_being_nan() -> None:
    assert wilson(0, 0) == Interval(0.0, 0.0, 1.0, 0)
    assert mean_share([]) == Interval(0.0, 0.0, 1.0, 0)


@pytest.mark.parametrize(("successes", "n"), [(-1, 10), (11, 10), (0, -1)])
def test_impossible_counts_are_refused(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="must lie between"):
        wilson(successes, n)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_a_wilson_interval_holds_its_point_and_stays_within_zero_and_one(
    counts: tuple[int, int],
) -> None:
    interval = wilson(*counts)
    assert 0 <= interval.low <= interval.point <= interval.high <= 1
    assert interval.low < interval.high


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_successes_and_failures_have_mirrored_intervals(counts: tuple[int, int]) -> None:
    hits, n = counts
    mirrored = wilson(n - hits, n)
    assert wilson(hits, n).low == pytest.approx(1 - mirrored.high, abs=1e-12)


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_more_trials_of_the_same_share_narrow_the_interval(counts: tuple[int, int]) -> None:
    hits, n = counts
    few, many = wilson(hits, n), wilson(10 * hits, 10 * n)
    assert many.high - many.low < few.high - few.low


@pytest.mark.parametrize(
    ("a", "b", "share"),
    [
        ([1, 2, 3, 4], [1, 2, 9, 4], 0.5),
        ([1, 2], [1, 2, 3, 4], 0.5),  # over the longer, so stopping early costs
        ([1, 2], [3, 2], 0.0),
        ([], [1], 0.0),
        ([], [], 1.0),
    ],
)
def test_shared_prefix_counts_to_the_first_difference(
    a: list[int], b: list[int], share: float
) -> None:
    assert shared_prefix(a, b) == share


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_shared_prefix_is_symmetric_and_whole_only_for_equal_sequences(
    a: list[int], b: list[int]
) -> None:
    assert shared_prefix(a, b) == shared_prefix(b, a)
    assert (shared_prefix(a, b) == 1.0) == (a == b)


def test_exact_agreement_is_the_share_of_identical_answers() -> None:
    assert exact_agreement(["Paris.", "Rome.", "Bern."], ["Paris.", "rome.", "Bern."]) == wilson(
        2, 3
    )


def test_prefix_agreement_is_the_mean_of_the_shares() -> None:
    interval = prefix_agreement([[1, 2], [3, 4]], [[1, 2], [3, 5]])
    assert (interval.point, interval.n) == (0.75, 2)


@given(st.lists(unit, min_size=1, max_size=30))
def test_a_mean_of_scores_lies_within_its_own_interval(scores: list[float]) -> None:
    interval = mean_share(scores)
    assert 0 <= interval.low <= interval.point <= interval.high <= 1
    assert min(scores) - 1e-12 <= interval.point <= max(scores) + 1e-12


def test_accuracy_counts_answers_that_mention_what_was_expected() -> None:
    answers = ["The chancellor is Friedrich Merz.", "It is Shinzo Abe.", "I do not know."]
    expected = ["Friedrich Merz", "Sanae Takaichi", "Tim Cook"]
    assert accuracy(answers, expected, mentions) == wilson(1, 3)


def test_a_leak_is_any_former_value_of_the_same_question() -> None:
    answers = ["Merz, who followed Merkel.", "Sanae Takaichi.", "Angela Merkel."]
    former = [["Angela Merkel", "Merkel"], ["Shinzo Abe"], ["Steve Jobs"]]
    # The third answer names a former value of another question: wrong, but no leak.
    assert leak_rate(answers, former, mentions) == wilson(1, 3)


@pytest.mark.parametrize(
    "measure",
    [
        lambda: exact_agreement(["a"], []),
        lambda: prefix_agreement([["a"]], []),
        lambda: accuracy(["a"], [], mentions),
        lambda: leak_rate(["a"], [], mentions),
    ],
)
def test_lists_of_unequal_length_are_refused_rather_than_cut(measure) -> None:
    with pytest.raises(ValueError, match="zip"):
        measure()


def test_the_triangle_gives_the_hand_computed_figures() -> None:
    assert [interval.point for interval in TRIANGLE.accuracies()] == [1, 0.5, pytest.approx(1 / 3)]
    # Best less last: edit 0 loses 1, edits 1 and 2 lose nothing.
    assert TRIANGLE.mean_forgetting() == pytest.approx(1 / 3)
    # (1/3 − 1) over two further edits.
    assert TRIANGLE.retainability() == pytest.approx(-1 / 3)
    # All three right alone, a third right together.
    assert TRIANGLE.scalability([1, 1, 1]) == pytest.approx(2 / 3)


def test_retention_by_age_and_survival_follow_the_diagonals() -> None:
    # Age 0: 1, 0, 1. Age 1: 1 (edit 0), 0 (edit 1). Age 2: 0 (edit 0).
    assert TRIANGLE.retention_by_age() == {0: wilson(2, 3), 1: wilson(1, 2), 2: wilson(0, 1)}
    assert TRIANGLE.survival() == {0: wilson(3, 6), 1: wilson(1, 3), 2: wilson(0, 1)}


def test_edits_made_in_batches_age_by_the_edits_that_follow_them() -> None:
    matrix = RetentionMatrix([[1, 1], [1, 0, 1, 1]])
    assert matrix.retention_by_age() == {
        0: wilson(2, 2),
        1: wilson(2, 2),
        2: wilson(0, 1),
        3: wilson(1, 1),
    }
    assert matrix.retainability() == pytest.approx((0.75 - 1) / 2)


def test_measuring_again_without_a_further_edit_is_no_decay_per_edit() -> None:
    assert RetentionMatrix([[1, 1], [0, 1]]).retainability() == 0.0
    assert RetentionMatrix([[1, 1], [0, 1]]).mean_forgetting() == 0.5


@given(st.lists(st.booleans(), min_size=2, max_size=8))
def test_retainability_equals_the_survey_sum_over_single_edits(outcome: list[bool]) -> None:
    rows = [[float(right) for right in outcome[: i + 1]] for i in range(len(outcome))]
    accuracies = [sum(row) / len(row) for row in rows]
    steps = [b - a for a, b in itertools.pairwise(accuracies)]
    assert RetentionMatrix(rows).retainability() == pytest.approx(sum(steps) / len(steps))


@settings(max_examples=50)
@given(matrices())
def test_matrix_figures_stay_in_range_and_every_measurement_is_counted_once(
    matrix: RetentionMatrix,
) -> None:
    cells = sum(len(row) for row in matrix.rows)
    assert 0 <= matrix.mean_forgetting() <= 1
    assert -1 <= matrix.retainability() <= 1
    assert sum(interval.n for interval in matrix.retention_by_age().values()) == cells
    assert matrix.survival()[0].n == cells
    counts = [interval.n for interval in matrix.survival().values()]
    assert counts == sorted(counts, reverse=True)


@given(st.integers(1, 8))
def test_edits_that_all_hold_forget_nothing_and_lose_nothing(n: int) -> None:
    matrix = RetentionMatrix([[1.0] * (i + 1) for i in range(n)])
    assert matrix.mean_forgetting() == 0
    assert matrix.retainability() == 0
    assert matrix.scalability([1.0] * n) == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "at least one"),
        ([[]], "at least one"),
        ([[1, 1], [1]], "cannot vanish"),
        ([[2.0]], "between 0 and 1"),
        ([[float("nan")]], "between 0 and 1"),
    ],
)
def test_a_matrix_that_cannot_be_is_refused(rows: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RetentionMatrix(rows)


def test_scalability_needs_a_score_for_every_edit() -> None:
    with pytest.raises(ValueError, match="2 scores alone for 3 edits"):
        TRIANGLE.scalability([1, 1])
