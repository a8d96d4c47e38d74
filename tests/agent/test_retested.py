"""How long corrections held: the estimate over re-tests, and its picture."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import NOW

from agent.charts import survival_chart
from agent.retested import EditRate, RetentionRun, survival
from editors.metrics import wilson


def run(day: int, *held: tuple[str, bool]) -> RetentionRun:
    """A re-test so many days after all edits were made."""
    edits = tuple(EditRate(id, id, int(ok), 1, ok, NOW) for id, ok in held)
    rate = wilson(sum(ok for _, ok in held), len(held))
    return RetentionRun(f"day {day}", NOW + timedelta(days=day), rate, 0.6, False, rate, (), edits)


def test_the_share_falls_at_the_age_at_which_a_correction_fell() -> None:
    # The textbook way: of four, one falls on day 2, one is not asked again after day 3, one
    # of the two that are left falls on day 5.
    found = survival(
        [
            run(2, ("a", False), ("b", True), ("c", True), ("d", True)),
            run(3, ("b", True), ("c", True), ("d", True)),
            run(5, ("c", False), ("d", True)),
        ]
    )
    assert [(p.days, p.share, p.asked) for p in found] == [(2, 0.75, 4), (5, 0.375, 2)]
    # Greenwood's variance, log-log: R's survfit(conf.type = "log-log") says the same.
    assert (found[0].low, found[0].high) == pytest.approx((0.1279, 0.9605), abs=1e-3)


def test_a_correction_falls_once_and_later_answers_do_not_count() -> None:
    fell = survival([run(1, ("a", False), ("b", True)), run(9, ("a", True), ("b", True))])
    assert [(p.days, p.share) for p in fell] == [(1, 0.5), (9, 0.5)]


def test_the_order_of_the_runs_does_not_matter_and_untimed_ones_are_left_out() -> None:
    runs = [run(1, ("a", True), ("b", True)), run(4, ("a", False), ("b", True))]
    old = RetentionRun(
        "old", NOW, wilson(0, 1), 0.6, False, wilson(0, 1), (), (EditRate("a", "", 0, 1, False),)
    )
    assert survival(runs) == survival([old, *reversed(runs)])
    assert survival([]) == survival([old]) == ()


def test_what_always_held_is_a_flat_line_to_the_oldest_age() -> None:
    (point,) = survival([run(1, ("a", True)), run(7, ("a", True))])
    assert (point.days, point.share, point.low, point.high) == (7, 1.0, 1.0, 1.0)


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=12))
def test_the_curve_never_rises_and_lies_in_its_band_and_in_the_picture(
    answers: Sequence[Sequence[bool]],
) -> None:
    runs = [run(day, *zip("abc", held, strict=True)) for day, held in enumerate(answers)]
    points = survival(runs)
    shares = [1.0, *(p.share for p in points)]
    assert shares == sorted(shares, reverse=True)
    assert all(0 <= p.low <= p.share <= p.high <= 1 for p in points)
    assert [p.days for p in points] == sorted({p.days for p in points})
    chart = survival_chart(points)
    assert (chart is None) == (points[-1].days == 0)
    if chart:
        corners = [tuple(map(float, c.split(","))) for c in chart.band[1:-1].split("L")]
        assert all(chart.left <= x <= chart.right for x, _ in corners)
        assert all(chart.top <= y <= chart.bottom for _, y in corners)


def test_one_re_test_at_one_moment_makes_no_picture() -> None:
    assert survival_chart(survival([run(0, ("a", True))])) is None
    assert survival_chart(()) is None
