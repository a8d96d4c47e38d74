"""The promotion gate as a table."""

import dataclasses
import math

import pytest

from agent.config import ConsolidationConfig
from agent.gate import Measured, decide
from editors.metrics import Interval, mean_share, wilson

FLOORS = ConsolidationConfig(accuracy_floor=0.6, locality_floor=0.9, ppl_ceiling=1.03)
GOOD = Measured(
    accuracy=Interval(0.8, 0.65, 0.9, 20),
    generality=wilson(0, 10),
    leak=wilson(9, 10),
    locality_exact=wilson(0, 20),
    locality_prefix=Interval(0.97, 0.93, 0.99, 60),
    ppl_ratio=1.01,
)


def bound(low: float, n: int = 10) -> Interval:
    """An interval whose lower bound is ``low`` and whose point lies well above."""
    return Interval(0.99, low, 1.0, n)


def perfect(n: int) -> Interval:
    return wilson(n, n)


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
        assert len(decision.reasons) == 3
        assert not any(reason.startswith("failed") for reason in decision.reasons)


def test_the_floors_come_from_the_configuration() -> None:
    assert not decide(GOOD, ConsolidationConfig(accuracy_floor=0.66)).promote
    assert not decide(GOOD, ConsolidationConfig(locality_floor=0.94)).promote
    assert not decide(GOOD, ConsolidationConfig(ppl_ceiling=1.0)).promote
