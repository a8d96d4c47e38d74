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
    """Promote when all tests pass; every failed test is a reason. NaN fails."""
    tests = (
        (
            measured.accuracy.n > 0 and measured.accuracy.point >= floors.accuracy_floor,
            f"accuracy on the edited questions {measured.accuracy.point:.2f} "
            f"(floor {floors.accuracy_floor:.2f}, n = {measured.accuracy.n})",
        ),
        (
            measured.locality_prefix.point >= floors.locality_floor,
            f"locality {measured.locality_prefix.point:.2f} (floor {floors.locality_floor:.2f}, "
            f"n = {measured.locality_prefix.n})",
        ),
        (
            math.isfinite(measured.ppl_ratio) and measured.ppl_ratio <= floors.ppl_ceiling,
            f"perplexity ratio {measured.ppl_ratio:.4f} (ceiling {floors.ppl_ceiling:.2f})",
        ),
    )
    failed = tuple(f"failed: {text}" for passed, text in tests if not passed)
    return GateDecision(not failed, failed or tuple(text for _, text in tests))
