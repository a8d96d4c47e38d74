"""The promotion gate: pure. Only what passes every test may become ``serving``."""

from __future__ import annotations

import math
from dataclasses import dataclass

from agent.config import ConsolidationConfig
from editors.metrics import Interval


@dataclass(frozen=True)
class Measured:
    """What was measured on a candidate's weights alone, against the unedited model."""

    accuracy: Interval  # edit prompts answered with the new value
    generality: Interval  # held-out paraphrases answered with the new value
    leak: Interval  # in-scope answers that name a former value
    locality_exact: Interval  # identical answers on everything else
    locality_prefix: Interval  # mean shared prefix of those answers
    ppl_ratio: float  # perplexity after over before on ordinary text


@dataclass(frozen=True)
class GateDecision:
    promote: bool
    reasons: tuple[str, ...]


def decide(measured: Measured, floors: ConsolidationConfig) -> GateDecision:
    """Promote when all tests pass; every failed test is a reason. NaN fails.

    Floors are held by lower 95 % bounds, not points (design.md §5.7).
    """
    tests = (
        (
            measured.accuracy.n > 0 and _holds(measured.accuracy, floors.accuracy_floor),
            f"accuracy on the edited questions {_shown(measured.accuracy)}, "
            f"floor {floors.accuracy_floor:.2f}",
        ),
        (
            measured.locality_prefix.n > 0
            and _holds(measured.locality_prefix, floors.locality_floor),
            f"locality {_shown(measured.locality_prefix)}, floor {floors.locality_floor:.2f}",
        ),
        (
            math.isfinite(measured.ppl_ratio) and measured.ppl_ratio <= floors.ppl_ceiling,
            f"perplexity ratio {measured.ppl_ratio:.4f} (ceiling {floors.ppl_ceiling:.2f})",
        ),
    )
    failed = tuple(f"failed: {text}" for passed, text in tests if not passed)
    return GateDecision(not failed, failed or tuple(text for _, text in tests))


def _holds(share: Interval, floor: float) -> bool:
    """Whether a share holds its floor: by its lower bound, or by being perfect (of few
    probes even a perfect share has a low bound)."""
    return share.low >= floor or share.point == 1


def _shown(share: Interval) -> str:
    return f"{share.point:.2f} (at least {share.low:.2f}, n = {share.n})"
