"""Precision, recall and confusion, with intervals. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from editors.metrics import Interval, wilson

ALL = "all"


@dataclass(frozen=True)
class Score:
    """``right`` were found and are so, ``wrong`` were found and are not, ``missed`` are so and
    were not found. Shares with their 95 % Wilson interval."""

    right: int
    wrong: int
    missed: int
    precision: Interval
    recall: Interval
    f1: float


def score(right: int, wrong: int, missed: int) -> Score:
    precision, recall = wilson(right, right + wrong), wilson(right, right + missed)
    whole = 2 * right + wrong + missed
    return Score(right, wrong, missed, precision, recall, 2 * right / whole if whole else 0.0)


@dataclass
class Tally:
    """Counts as they come, by group and over all groups."""

    right: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)

    def add(self, group: str, right: int = 0, wrong: int = 0, missed: int = 0) -> None:
        for counter, count in ((self.right, right), (self.wrong, wrong), (self.missed, missed)):
            if count:
                counter[group] += count

    def scores(self) -> dict[str, Score]:
        """Return the score of every group by size, that of all first."""
        size = self.right + self.wrong + self.missed
        groups = [group for group, _ in size.most_common()]
        whole = score(self.right.total(), self.wrong.total(), self.missed.total())
        return {ALL: whole} | {
            group: score(self.right[group], self.wrong[group], self.missed[group])
            for group in groups
        }


def confusion(pairs: Iterable[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """Return how often each truth (outer key) was taken for each answer (inner key)."""
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for truth, found in pairs:
        table[truth][found] += 1
    return {truth: dict(found.most_common()) for truth, found in sorted(table.items())}


@dataclass(frozen=True)
class Measurement:
    """What one benchmark came to.

    Attributes:
        kind: "answers", "facts" or "documents".
        n: how many records were measured.
        seconds: the wall clock of the detectors' part; reading the file is not in it.
        shares: single figures by name, with intervals.
        scores: precision, recall and F1 by group.
        confusion: truth by answer.
        failures: records on which truth and answer differ.
    """

    kind: str
    n: int
    seconds: float
    shares: Mapping[str, Interval]
    scores: Mapping[str, Score]
    confusion: Mapping[str, Mapping[str, int]]
    failures: tuple[Mapping[str, Any], ...] = ()
