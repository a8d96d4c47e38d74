"""How editing is measured: shares with intervals, agreement, leaks, and the retention matrix.

Everything here is a pure function of answers that were generated elsewhere. What counts
as *mentioning* a value is the answer judge's business, so it comes in as ``mentions``.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

Mentions = Callable[[str, str], bool]
"""``mentions(answer, value)``: whether an answer names a value."""


@dataclass(frozen=True)
class Interval:
    """A share in 0..1 with its confidence bounds, from ``n`` trials."""

    point: float
    low: float
    high: float
    n: int


def wilson(successes: float, n: int, z: float = 1.96) -> Interval:
    """Return the Wilson score interval of a share (95 % for the default ``z``).

    With no trials nothing is known: the point is 0 and the bounds are 0 and 1.
    ``successes`` may be fractional, see ``mean_share``.

    Raises:
        ValueError: if ``successes`` lies outside ``0..n``.

    Source: Wilson (1927), *Probable inference, the law of succession, and statistical
    inference*.
    """
    if n < 0 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes in {n} trials: must lie between 0 and {n}")
    if n == 0:
        return Interval(0.0, 0.0, 1.0, 0)
    share = successes / n
    shrink = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # Rounding may put a bound a hair past the share at 0 or 1.
    return Interval(
        share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)), n
    )


def mean_share(scores: Iterable[float], z: float = 1.96) -> Interval:
    """Return the mean of scores in 0..1 with an interval.

    A score between 0 and 1 varies at most as much as a yes-or-no answer of the same mean,
    so the Wilson interval of that mean is a cautious one.
    """
    values = list(scores)
    return wilson(min(math.fsum(values), len(values)), len(values), z)


def shared_prefix(a_tokens: Sequence[object], b_tokens: Sequence[object]) -> float:
    """Return the length of the common prefix as a share (0..1) of the longer sequence.

    Two empty sequences agree wholly.
    """
    longer = max(len(a_tokens), len(b_tokens))
    if longer == 0:
        return 1.0
    common = 0
    for a, b in zip(a_tokens, b_tokens, strict=False):
        if a != b:
            break
        common += 1
    return common / longer


def exact_agreement(before: Sequence[str], after: Sequence[str]) -> Interval:
    """Return the share of answers that are identical before and after (locality, exact).

    Raises:
        ValueError: if the two lists differ in length.
    """
    return mean_share(a == b for a, b in zip(before, after, strict=True))


def prefix_agreement(
    before: Sequence[Sequence[object]], after: Sequence[Sequence[object]]
) -> Interval:
    """Return the mean shared-prefix share of tokenised answers (locality, prefix).

    Raises:
        ValueError: if the two lists differ in length.
    """
    return mean_share(shared_prefix(a, b) for a, b in zip(before, after, strict=True))


def accuracy(answers: Sequence[str], expected: Sequence[str], mentions: Mentions) -> Interval:
    """Return the share of answers that mention the value expected of them.

    On unseen phrasings the same figure is called generality.

    Raises:
        ValueError: if the two lists differ in length.
    """
    return mean_share(mentions(a, e) for a, e in zip(answers, expected, strict=True))


def leak_rate(
    answers: Sequence[str], former_values: Sequence[Sequence[str]], mentions: Mentions
) -> Interval:
    """Return the share of answers that mention any former value of their own slot.

    Args:
        answers: one answer a question.
        former_values: for each answer, the values that must no longer be given.
        mentions: the answer judge.

    Raises:
        ValueError: if the two lists differ in length.
    """
    return mean_share(
        any(mentions(answer, value) for value in former)
        for answer, former in zip(answers, former_values, strict=True)
    )


class RetentionMatrix:
    """``A[i][j]``: how right edit ``j`` is (0..1) at the ``i``-th measurement.

    A measurement tests every edit made so far, so row ``i`` has as many entries as there
    were edits then, in the order they were made. One row after each single edit gives the
    usual lower triangle; edits made in batches give steps instead. The *age* of an edit at
    a measurement is the number of edits made after it.

    Source of the aspects: Wang et al., *Knowledge Editing for Large Language Models: A
    Survey* (arXiv 2310.16218); forgetting as in Lopez-Paz and Ranzato (2017).
    """

    def __init__(self, rows: Sequence[Sequence[float]]) -> None:
        """Take the measurements, oldest first.

        Raises:
            ValueError: if there is no measurement, one is empty, one has fewer edits than
                the one before it, or a score lies outside 0..1.
        """
        self.rows = tuple(tuple(float(score) for score in row) for row in rows)
        lengths = [len(row) for row in self.rows]
        if not lengths or lengths[0] == 0:
            raise ValueError("a retention matrix needs at least one measured edit")
        if lengths != sorted(lengths):
            raise ValueError(f"edits cannot vanish between measurements: row lengths {lengths}")
        if not all(0 <= score <= 1 for row in self.rows for score in row):
            raise ValueError("a retention score must lie between 0 and 1")

    def accuracies(self) -> tuple[Interval, ...]:
        """Return the accuracy over all edits made so far, one for each measurement."""
        return tuple(mean_share(row) for row in self.rows)

    def mean_forgetting(self) -> float:
        """Return by how much edits end below their own best, on average (0 is perfect)."""
        last = self.rows[-1]
        best = [max(row[j] for row in self.rows if j < len(row)) for j in range(len(last))]
        return math.fsum(b - score for b, score in zip(best, last, strict=True)) / len(last)

    def retention_by_age(self) -> dict[int, Interval]:
        """Return the mean score at each age that was measured, youngest first."""
        return {age: mean_share(scores) for age, scores in self._by_age().items()}

    def survival(self) -> dict[int, Interval]:
        """Return the mean score of all measurements at that age *or older*, youngest first.

        An edit measured often counts often, so the intervals are narrower than those of
        independent trials.
        """
        by_age = self._by_age()
        return {
            age: mean_share(score for at, scores in by_age.items() if at >= age for score in scores)
            for age in by_age
        }

    def retainability(self) -> float:
        """Return the mean change of accuracy for each further edit (0 or more is no decay).

        The survey's sum over single edits telescopes to the last accuracy less the first,
        which hides the path between: read it beside ``accuracies``. With edits made all at
        once there is no further edit, and the change is 0.
        """
        further = len(self.rows[-1]) - len(self.rows[0])
        if further == 0:
            return 0.0
        return (_mean(self.rows[-1]) - _mean(self.rows[0])) / further

    def scalability(self, alone: Sequence[float]) -> float:
        """Return what is lost by making all the edits together (0 is perfect, less is better).

        Args:
            alone: for each edit, its score when it is the model's only edit.

        Raises:
            ValueError: if ``alone`` does not hold one score for each edit.
        """
        if len(alone) != len(self.rows[-1]):
            raise ValueError(f"{len(alone)} scores alone for {len(self.rows[-1])} edits together")
        return _mean(alone) - _mean(self.rows[-1])

    def _by_age(self) -> Mapping[int, list[float]]:
        scores: defaultdict[int, list[float]] = defaultdict(list)
        for row in self.rows:
            for j, score in enumerate(row):
                scores[len(row) - 1 - j].append(score)
        return dict(sorted(scores.items()))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
