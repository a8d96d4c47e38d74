"""The promotion gate: pure. Only what passes every test may become ``serving``."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from agent.config import ConsolidationConfig
from editors.metrics import Interval


@dataclass(frozen=True)
class Measured:
    """What was measured on a candidate's weights alone.

    Locality, ability and form compare with the unedited model, retention with what serves.
    """

    accuracy: Interval  # edit prompts answered with the new value
    generality: Interval  # held-out paraphrases answered with the new value
    retention: Interval  # edits that the serving weights answered and these still do
    leak: Interval  # in-scope answers that name a former value
    broken: Interval  # … that are empty, go in circles, or give the new value and never stop
    locality_exact: Interval  # identical answers on everything else
    locality_prefix: Interval  # mean shared prefix of those answers
    same_subject: Interval  # … on other questions about the edited subjects alone
    ability: Interval  # easy questions answered rightly, of those that were before
    form: Interval  # answers that keep the form asked for, of those that did before
    length_ratio: float  # words of the answers out of scope, after over before
    ppl_ratio: float  # perplexity after over before on ordinary text


@dataclass(frozen=True)
class GateDecision:
    promote: bool
    reasons: tuple[str, ...]


def decide(measured: Measured, floors: ConsolidationConfig) -> GateDecision:
    """Promote when all tests pass; every failed test is a reason, a line each. NaN fails.

    Floors are held by lower 95 % bounds, ceilings by upper ones, not by points (design.md §5.7).
    """
    tests = (*_in_scope(measured, floors), *_outside(measured, floors))
    failed = tuple(f"failed: {text}" for passed, text in tests if not passed)
    return GateDecision(not failed, failed or tuple(text for _, text in tests))


def refuse(faults: tuple[str, ...]) -> GateDecision:
    """Hold a candidate that could not be measured, for these reasons."""
    return GateDecision(False, tuple(f"failed: {fault}" for fault in faults))


def _in_scope(measured: Measured, floors: ConsolidationConfig) -> Iterator[tuple[bool, str]]:
    """Tests of what the edits should change."""
    yield _floor("accuracy on the edited questions", measured.accuracy, floors.accuracy_floor)
    # Nothing may have been held until now: the first night has nothing to retain.
    what = "retention of edits that the weights answered"
    yield _floor(what, measured.retention, floors.retention_floor, may_be_empty=True)
    yield _ceiling("leaks of former values", measured.leak, floors.leak_ceiling)
    what = "broken answers (empty, circling or never ending)"
    yield _ceiling(what, measured.broken, floors.broken_ceiling)


def _outside(measured: Measured, floors: ConsolidationConfig) -> Iterator[tuple[bool, str]]:
    """Tests of what the edits should leave alone."""
    yield _floor("locality", measured.locality_prefix, floors.locality_floor)
    # A relation need not have other questions about its subject.
    what = "same-subject locality"
    yield _floor(what, measured.same_subject, floors.same_subject_floor, may_be_empty=True)
    # A model that answers no easy question, or keeps no form, is for its owner to excuse.
    what, off = "ability (easy questions still answered)", floors.ability_floor == 0
    yield _floor(what, measured.ability, floors.ability_floor, may_be_empty=off)
    what, off = "form (numbers, lists, refusals kept)", floors.form_floor == 0
    yield _floor(what, measured.form, floors.form_floor, may_be_empty=off)
    ratio, low, high = measured.length_ratio, floors.length_floor, floors.length_ceiling
    yield (
        math.isfinite(ratio) and low <= ratio <= high,
        f"length ratio of other answers {ratio:.2f} ({low:.2f} to {high:.2f})",
    )
    yield (
        # A perplexity is at least 1: a ratio of 0 or less was not measured.
        math.isfinite(measured.ppl_ratio) and 0 < measured.ppl_ratio <= floors.ppl_ceiling,
        f"perplexity ratio {measured.ppl_ratio:.4f} (ceiling {floors.ppl_ceiling:.2f})",
    )


def _floor(
    what: str, share: Interval, floor: float, may_be_empty: bool = False
) -> tuple[bool, str]:
    """Whether a share holds its floor: by its lower bound, or by being perfect (of few
    probes even a perfect share has a low bound)."""
    if share.n == 0 and may_be_empty:
        return True, f"{what}: nothing to ask"
    passed = _known(share) and (share.low >= floor or share.point == 1)
    return passed, f"{what} {share.point:.2f} (at least {share.low:.2f}, n = {share.n}), " + (
        f"floor {floor:.2f}"
    )


def _ceiling(what: str, share: Interval, ceiling: float) -> tuple[bool, str]:
    """Whether a share of what should not be stays under its ceiling: by its upper bound, or
    by being none at all."""
    passed = _known(share) and (share.high <= ceiling or share.point == 0)
    return passed, f"{what} {share.point:.2f} (at most {share.high:.2f}, n = {share.n}), " + (
        f"ceiling {ceiling:.2f}"
    )


def _known(share: Interval) -> bool:
    """Whether a share was measured: a NaN or a bound out of order is no measurement."""
    return share.n > 0 and 0 <= share.low <= share.point <= share.high <= 1
