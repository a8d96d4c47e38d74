"""Days as sources write them, as ISO 8601 strings that may be partial (``records.Day``).

Only spellings that leave no doubt are read: "6 May 2025", "May 6, 2025", "May 2025",
"2025-05-06", "2025". Numeric dates with slashes mean different days in different countries
and are not read.
"""

from __future__ import annotations

import calendar
import re
from datetime import date
from typing import NamedTuple

from store.records import Day

_MONTHS = {
    spelling.casefold(): number
    for number in range(1, 13)
    for spelling in (calendar.month_name[number], calendar.month_abbr[number])
} | {"sept": 9}
_MONTH = r"(?P<month>" + "|".join(sorted(_MONTHS, key=len, reverse=True)) + r")\.?"
_YEAR = r"(?P<year>1[5-9]\d\d|20\d\d)"
_NUMBER = r"(?P<day>[0-3]?\d)(?:st|nd|rd|th)?"

DATE_PATTERN = (
    r"(?:\d{4}-\d{2}(?:-\d{2})?"
    r"|[0-3]?\d(?:st|nd|rd|th)?\s+(?:of\s+)?[A-Za-z]{3,9}\.?,?\s+\d{4}"
    r"|[A-Za-z]{3,9}\.?\s+[0-3]?\d(?:st|nd|rd|th)?,?\s+\d{4}"
    r"|[A-Za-z]{3,9}\.?\s+\d{4}"
    r"|\d{4})"
)
"""Matches every spelling that ``parse_day`` reads (and some that it refuses)."""

_SPELLINGS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(?P<year>\d{4})-(?P<number>\d{2})(?:-(?P<day>\d{2}))?",
        rf"{_NUMBER}\s+(?:of\s+)?{_MONTH},?\s+{_YEAR}",
        rf"{_MONTH}\s+{_NUMBER},?\s+{_YEAR}",
        rf"{_MONTH}\s+{_YEAR}",
        _YEAR,
    )
)
_ANY = re.compile(rf"\b{DATE_PATTERN}\b")


class DatedSpan(NamedTuple):
    """A date found in a text: ``text[start:end]`` spells ``day``."""

    start: int
    end: int
    day: Day


def parse_day(text: str) -> Day | None:
    """Return the day that ``text`` spells, as exactly as it says, or None."""
    text = text.strip().strip(",.")
    for spelling in _SPELLINGS:
        match = spelling.fullmatch(text)
        if match:
            return _iso(match.groupdict())
    return None


def find_days(text: str) -> list[DatedSpan]:
    """Return every date in ``text``, in order."""
    spans = []
    for match in _ANY.finditer(text):
        day = parse_day(match.group())
        if day is not None:
            spans.append(DatedSpan(match.start(), match.end(), day))
    return spans


def day_of(moment: date) -> Day:
    """Return the day of a date or datetime."""
    return f"{moment.year:04}-{moment.month:02}-{moment.day:02}"


def begins(day: Day) -> date:
    """Return the first calendar date that a partial day can mean."""
    parts = [int(part) for part in day.split("-")]
    return date(parts[0], parts[1] if len(parts) > 1 else 1, parts[2] if len(parts) > 2 else 1)


def ends(day: Day) -> date:
    """Return the last calendar date that a partial day can mean."""
    parts = [int(part) for part in day.split("-")]
    year, month = parts[0], parts[1] if len(parts) > 1 else 12
    return date(year, month, parts[2] if len(parts) > 2 else calendar.monthrange(year, month)[1])


def _iso(parts: dict[str, str | None]) -> Day | None:
    year = int(parts["year"] or 0)
    number = parts.get("number")
    name = parts.get("month")
    if number is None and name is None:
        return f"{year:04}"
    month = int(number) if number is not None else _MONTHS[(name or "").casefold().rstrip(".")]
    day = parts.get("day")
    if not 1 <= month <= 12 or year < 1:
        return None
    if day is None:
        return f"{year:04}-{month:02}"
    if not 1 <= int(day) <= calendar.monthrange(year, month)[1]:
        return None
    return f"{year:04}-{month:02}-{int(day):02}"
