"""The report's pictures, laid out in SVG units. Pure; the template draws them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from agent.retested import RetentionRun, Survived

TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares that a picture names on its left."""


@dataclass(frozen=True)
class Mark:
    """One run in the picture: its point, its whisker from ``high`` up to ``low`` down."""

    number: int
    run: RetentionRun
    lines: tuple[str, ...]
    x: float
    y: float
    high: float
    low: float


@dataclass(frozen=True)
class Chart:
    """Coordinates in SVG units. A share of 1 lies at ``top``, a share of 0 at ``bottom``."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    ticks: tuple[tuple[float, float], ...]
    marks: tuple[Mark, ...]
    line: str
    floor: str


def retention_chart(runs: Sequence[RetentionRun]) -> Chart | None:
    """Lay out the pass rate of each run, in order, over its floor; None without runs."""
    if not runs:
        return None
    named = len(runs) <= 5  # more labels than that would run into each other
    step = round(min(112.0, max(24.0, 800 / len(runs))), 1)
    left, top, bottom = 44.0, 14.0, 214.0
    right = round(left + step * len(runs), 2)

    def y(share: float) -> float:
        return round(bottom - (bottom - top) * share, 2)

    marks = tuple(
        Mark(
            number=i + 1,
            run=run,
            lines=tuple(textwrap.wrap(run.label, 15, max_lines=3, placeholder="…")) * named,
            x=round(left + step * (i + 0.5), 2),
            y=y(run.pass_rate.point),
            high=y(run.pass_rate.high),
            low=y(run.pass_rate.low),
        )
        for i, run in enumerate(runs)
    )
    floor = f"M{left},{y(runs[0].floor)}" + "".join(
        f"V{y(run.floor)}H{round(left + step * (i + 1), 2)}" for i, run in enumerate(runs)
    )
    return Chart(
        width=right + 12,
        height=bottom + (78 if named else 30),
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        ticks=tuple((y(share), share) for share in TICKS),
        marks=marks,
        line="M" + "L".join(f"{mark.x},{mark.y}" for mark in marks),
        floor=floor,
    )


@dataclass(frozen=True)
class Curve:
    """The survival curve in SVG units: a stair, its band, and the ages named below it."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    ticks: tuple[tuple[float, float], ...]
    ages: tuple[tuple[float, str], ...]
    line: str
    band: str


def survival_chart(points: Sequence[Survived]) -> Curve | None:
    """Lay out what share of the corrections held for how long; None where nothing was asked
    twice, at moments apart."""
    last = max((point.days for point in points), default=0.0)
    if last <= 0:
        return None
    left, right, top, bottom = 44.0, 604.0, 14.0, 174.0

    def x(days: float) -> float:
        return round(left + (right - left) * days / last, 2)

    def y(share: float) -> float:
        return round(bottom - (bottom - top) * share, 2)

    def stair(shares: Sequence[float]) -> list[str]:
        """Corners from the left to the right, each share holding until the next point."""
        corners = [f"{left},{y(1.0)}"]
        before = 1.0
        for point, share in zip(points, shares, strict=True):
            corners += [f"{x(point.days)},{y(before)}", f"{x(point.days)},{y(share)}"]
            before = share
        return corners

    high, low = (stair([getattr(p, side) for p in points]) for side in ("high", "low"))
    unit = "days" if last >= 2 else "hours"
    scale = 1 if unit == "days" else 24
    return Curve(
        width=right + 24,
        height=bottom + 34,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        ticks=tuple((y(share), share) for share in TICKS),
        ages=tuple(
            (x(last * part / 4), f"{last * part / 4 * scale:.0f} {unit}") for part in range(5)
        ),
        line="M" + "L".join(stair([point.share for point in points])),
        band="M" + "L".join([*high, *reversed(low)]) + "Z",
    )
