"""What a re-test of the corrections found, and how long corrections held. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from editors.metrics import Interval
from store.records import ProbeKind

_Z = 1.959963984540054  # of a 95 % interval
_DAY = 86400.0


@dataclass(frozen=True)
class KindRate:
    kind: ProbeKind
    share: Interval


@dataclass(frozen=True)
class EditRate:
    """How many of its probes one edit passed in one run.

    Attributes:
        held: whether its own question was answered.
        since: when it was proposed; None in runs of earlier versions.
    """

    edit_id: str
    label: str
    passed: int
    asked: int
    held: bool = True
    since: datetime | None = None


@dataclass(frozen=True)
class RetentionRun:
    """One re-test of the applied edits. ``triggered``: the lower bound crossed ``floor``."""

    label: str
    at: datetime
    pass_rate: Interval
    floor: float
    triggered: bool
    leaks: Interval
    kinds: tuple[KindRate, ...] = ()
    edits: tuple[EditRate, ...] = ()


@dataclass(frozen=True)
class Survived:
    """The share of corrections that held for longer than ``days``, with its 95 % interval.

    ``asked`` is how many were re-tested at that age or later.
    """

    days: float
    share: float
    low: float
    high: float
    asked: int


def survival(runs: Sequence[RetentionRun]) -> tuple[Survived, ...]:
    """Return how long corrections held: Kaplan and Meier's estimate over all re-tests.

    A correction falls at the age at which its own question was first answered wrongly; one that
    never was counts up to its last re-test. The interval is Greenwood's on the log-log scale
    (Kalbfleisch and Prentice). The last point is the oldest age that was re-tested.
    """
    ages: dict[str, tuple[float, bool]] = {}
    for run in sorted(runs, key=lambda run: run.at):
        for edit in run.edits:
            if (
                edit.since is None
                or not edit.asked
                or ages.get(edit.edit_id, (0, True))[1] is False
            ):
                continue
            age = max((run.at - edit.since).total_seconds(), 0.0) / _DAY
            ages[edit.edit_id] = (age, edit.held)
    share, spread = 1.0, 0.0
    points: list[Survived] = []
    for age in sorted({age for age, held in ages.values() if not held}):
        asked = sum(other >= age for other, _ in ages.values())
        fell = sum(other == age and not held for other, held in ages.values())
        share *= 1 - fell / asked
        spread += fell / (asked * (asked - fell)) if fell < asked else 0.0
        points.append(Survived(age, share, *_bounds(share, spread), asked))
    oldest = max((age for age, _ in ages.values()), default=0.0)
    if ages and (not points or points[-1].days < oldest):
        at_last = sum(age == oldest for age, _ in ages.values())
        points.append(Survived(oldest, share, *_bounds(share, spread), at_last))
    return tuple(points)


def _bounds(share: float, spread: float) -> tuple[float, float]:
    """Return the interval of a share whose relative variance is ``spread``."""
    if not 0 < share < 1:
        return share, share
    width = _Z * math.sqrt(spread) / abs(math.log(share))
    return share ** math.exp(width), share ** math.exp(-width)
