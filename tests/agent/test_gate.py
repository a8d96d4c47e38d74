"""The promotion gate as a table."""

import dataclasses
import math
import re
from pathlib import Path

import pytest

from agent.config import ConsolidationConfig
from agent.gate import Measured, decide, refuse
from editors.metrics import Interval, mean_share, wilson

FLOORS = ConsolidationConfig(
    accuracy_floor=0.6,
    retention_floor=0.6,
    leak_ceiling=0.3,
    broken_ceiling=0.3,
    locality_floor=0.9,
    same_subject_floor=0.5,
    ability_floor=0.7,
    form_floor=0.6,
    length_floor=0.8,
    length_ceiling=1.25,
    ppl_ceiling=1.03,
)
GOOD = Measured(
    accuracy=Interval(0.8, 0.65, 0.9, 20),
    generality=wilson(0, 10),
    retention=wilson(19, 20),
    leak=wilson(1, 20),
    broken=wilson(1, 20),
    locality_exact=wilson(0, 20),
    locality_prefix=Interval(0.97, 0.93, 0.99, 60),
    same_subject=Interval(0.8, 0.6, 0.9, 14),
    ability=wilson(20, 21),
    form=wilson(12, 12),
    length_ratio=1.02,
    ppl_ratio=1.01,
)
TESTS = 10


def bound(low: float, n: int = 10) -> Interval:
    """An interval whose lower bound is ``low`` and whose point lies well above."""
    return Interval(0.99, low, 1.0, n)


def above(high: float, n: int = 10) -> Interval:
    """An interval whose upper bound is ``high`` and whose point lies well below."""
    return Interval(0.01, 0.0, high, n)


def perfect(n: int) -> Interval:
    return wilson(n, n)


NOTHING = wilson(0, 0)


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({}, ()),
        ({"accuracy": bound(0.6)}, ()),
        ({"accuracy": bound(0.59)}, ("accuracy",)),
        ({"accuracy": bound(math.nan)}, ("accuracy",)),
        ({"accuracy": wilson(0, 0)}, ("accuracy",)),
        ({"accuracy": Interval(1.0, 1.0, 1.0, 0)}, ("accuracy",)),
        ({"locality_prefix": bound(0.9)}, ()),
        ({"locality_prefix": bound(0.89)}, ("locality",)),
        ({"locality_prefix": bound(math.nan)}, ("locality",)),
        ({"locality_prefix": mean_share([])}, ("locality",)),
        # Of few probes even a perfect share has a low bound.
        ({"accuracy": perfect(1), "locality_prefix": perfect(3)}, ()),
        ({"ppl_ratio": 1.03}, ()),
        ({"ppl_ratio": 1.031}, ("perplexity",)),
        ({"ppl_ratio": 0.5}, ()),
        ({"ppl_ratio": math.nan}, ("perplexity",)),
        ({"ppl_ratio": math.inf}, ("perplexity",)),
        ({"ppl_ratio": -math.inf}, ("perplexity",)),
        ({"ppl_ratio": 0.0}, ("perplexity",)),
        # A share whose bounds are out of order was not measured, however good its point.
        ({"accuracy": Interval(1.0, math.nan, math.nan, 9)}, ("accuracy",)),
        ({"accuracy": Interval(1.2, 0.9, 1.3, 9)}, ("accuracy",)),
        # On the first night the weights hold nothing yet.
        ({"retention": NOTHING}, ()),
        ({"retention": bound(0.59)}, ("retention",)),
        ({"retention": bound(math.nan)}, ("retention",)),
        ({"retention": perfect(1)}, ()),
        ({"leak": above(0.3)}, ()),
        ({"leak": above(0.31)}, ("leaks",)),
        ({"leak": above(math.nan)}, ("leaks",)),
        ({"leak": wilson(0, 2)}, ()),
        ({"leak": NOTHING}, ("leaks",)),
        ({"broken": above(0.31)}, ("broken",)),
        ({"broken": wilson(0, 1)}, ()),
        ({"broken": NOTHING}, ("broken",)),
        ({"same_subject": bound(0.49)}, ("same-subject",)),
        ({"same_subject": bound(math.nan)}, ("same-subject",)),
        ({"same_subject": NOTHING}, ()),
        ({"ability": bound(0.69)}, ("ability",)),
        ({"ability": NOTHING}, ("ability",)),
        ({"ability": perfect(1)}, ()),
        ({"form": bound(0.59)}, ("form",)),
        ({"form": NOTHING}, ("form",)),
        ({"length_ratio": 0.8}, ()),
        ({"length_ratio": 0.79}, ("length",)),
        ({"length_ratio": 1.26}, ("length",)),
        ({"length_ratio": math.nan}, ("length",)),
        ({"length_ratio": math.inf}, ("length",)),
        ({"accuracy": bound(0.1), "ppl_ratio": math.nan}, ("accuracy", "perplexity")),
    ],
)
def test_only_what_passes_every_test_is_promoted(
    change: dict[str, object], failed: tuple[str, ...]
) -> None:
    decision = decide(dataclasses.replace(GOOD, **change), FLOORS)
    assert decision.promote == (not failed)
    if failed:
        assert len(decision.reasons) == len(failed)
        for reason, name in zip(decision.reasons, failed, strict=True):
            assert reason.startswith(f"failed: {name}")
    else:
        assert len(decision.reasons) == TESTS
        assert not any(reason.startswith("failed") for reason in decision.reasons)


@pytest.mark.parametrize(
    "stricter",
    [
        {"accuracy_floor": 0.66},
        {"retention_floor": 0.9},
        {"leak_ceiling": 0.2},
        {"broken_ceiling": 0.1},
        {"locality_floor": 0.94},
        {"same_subject_floor": 0.61},
        {"ability_floor": 0.9},
        {"length_floor": 1.0, "length_ceiling": 1.0},
        {"ppl_ceiling": 1.0},
    ],
)
def test_the_floors_come_from_the_configuration(stricter: dict[str, float]) -> None:
    assert decide(GOOD, ConsolidationConfig()).promote
    (reason,) = decide(GOOD, ConsolidationConfig(**stricter)).reasons
    assert reason.startswith("failed: ")


def test_a_model_that_knows_nothing_easy_and_keeps_no_form_can_be_excused() -> None:
    simple = dataclasses.replace(GOOD, ability=NOTHING, form=NOTHING)
    assert not decide(simple, ConsolidationConfig()).promote
    assert decide(simple, ConsolidationConfig(ability_floor=0, form_floor=0)).promote


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Measured)])
def test_a_figure_that_is_no_number_fails_unless_nothing_is_asked_of_it(field: str) -> None:
    unknown = math.nan if isinstance(getattr(GOOD, field), float) else Interval(*[math.nan] * 3, 5)
    decision = decide(dataclasses.replace(GOOD, **{field: unknown}), FLOORS)
    # These two are shown, and their like are held by other figures.
    assert decision.promote == (field in ("generality", "locality_exact"))


def test_every_reason_is_one_line() -> None:
    for decision in (decide(GOOD, FLOORS), refuse(("it holds NaN", "it lacks 1 edit"))):
        assert all(reason and "\n" not in reason for reason in decision.reasons)


def test_what_could_not_be_measured_is_refused_for_each_fault() -> None:
    decision = refuse(("it holds NaN", "it lacks 1 edit"))
    assert not decision.promote
    assert decision.reasons == ("failed: it holds NaN", "failed: it lacks 1 edit")


def test_only_the_gate_and_a_person_move_what_serves() -> None:
    agent = Path(__file__).parents[2] / "agent"
    moving = {
        path.relative_to(agent).as_posix(): len(found)
        for path in agent.rglob("*.py")
        if (found := re.findall(r'set_alias\(\s*"serving"', path.read_text("utf-8")))
    }
    # The night moves it past the gate, and back to the base when no edit is left.
    assert moving == {"nightly.py": 2, "rollback.py": 1}
