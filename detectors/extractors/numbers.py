"""Numbers and versions in the fields of structured documents, with the date a bracket gives them.

"146,836 (July 2013 est.)", "$1.2 trillion (2021 est.)", "3.5% (2020 est.) / 2.1% (2019 est.)",
"3.14.1 / 2 December 2025". A number keeps its source's spelling and unit. What is hedged
("over 5,000"), a range, a list by groups, or a preview release is not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import date
from itertools import pairwise
from typing import NamedTuple

from detectors.dates import DATE_PATTERN, begins, find_days, parse_day
from detectors.extractors.spans import Dates, Span
from detectors.relations import Relation
from store.records import ClaimRole, Day

_APPROXIMATE = r"(?:(?:approximately|about|around|circa|ca?\.|~|≈|[▲▼]|increase|decrease)\s*)?"
_FIGURE = (
    r"(?:[A-Z]{0,3}[$€£¥₹]\s?|[A-Z]{3}\s)?[-−+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
    r"(?:\s?(?:%|(?:percent|per\scent|thousand|million|billion|trillion|years?)\b))*"
)
_ITEM = re.compile(
    rf"{_APPROXIMATE}(?P<value>{_FIGURE})(?P<words>\s+[^\W\d][^\d();:/+|]{{0,40}})?"
    r"(?P<brackets>(?:\s*\([^()]*\))*)(?P<end>\s*(?:\+\+|[;,/]|$)\s*|\s+|$)",
    re.IGNORECASE,
)
_NONE = re.compile(r"NA\b\s*%?\s*(?:\([^()]*\))?\s*(?:\+\+|[;,/])?\s*")
_DATED = re.compile(
    rf"\(\s*(?:as\s+of\s+|in\s+|end\s+of\s+)?(?P<day>{DATE_PATTERN})"
    r"(?:,?\s+(?:est|estimate|census|data|prelim)\.?)*\s*\)",
    re.IGNORECASE,
)
_HEDGE = re.compile(r"\s*(?:\+|[-–—]\s*\d|to\s+\d|or\s+(?:more|less)|and\s+\d)", re.IGNORECASE)
# "1.8 migrants/1,000 population": what a number is of must not hide in what follows it.
_RATIO = re.compile(r"\s*(?:\w+\s*)?/\s*[\d,]*\s*[a-z]|\s+(?:per|in|out of)\s", re.IGNORECASE)
_PERCENT = ("%", "percent", "per cent")

_VERSION = re.compile(
    r"(?:v(?:ersion)?\.?\s*)?(?P<version>\d+(?:\.\d+)*(?:\s?LTS)?)(?P<rest>\s*(?:[(/,;–-].*)?)",
    re.IGNORECASE,
)


class Reading(NamedTuple):
    """One number in a field: ``text[start:end]`` of the document is the number with its bracket."""

    value: str
    day: Day | None
    start: int
    end: int


class Settled(NamedTuple):
    """A reading with what it says about its slot."""

    reading: Reading
    role: ClaimRole
    dates: Dates


def readings(field: Span, relation: Relation) -> list[Reading]:
    """Return the numbers of a field, in order; none when the field is not plainly a number."""
    found: list[Reading] = []
    position = 0
    while position < len(field.text):
        absent = _NONE.match(field.text, position)
        if absent:
            position = absent.end()
            continue
        match = _ITEM.match(field.text, position)
        if not match or _unclear(field.text, match):
            break
        dated = _DATED.search(match["brackets"])
        value = " ".join(match["value"].replace("−", "-").split())
        if not _fits(value, relation.unit):
            return []
        last = match.start("brackets") + dated.end() if dated else match.end("value")
        day = parse_day(dated["day"]) if dated else None
        found.append(Reading(value, day, field.start + match.start("value"), field.start + last))
        position = match.end()
    rest = field.text[position:]
    # A first number with its date stands whatever follows; an undated one only alone.
    whole = not re.search(r"\d", rest) or rest.startswith("note")
    return found if found and (whole or found[0].day) else []


def settle(found: Iterable[Reading], today: date) -> list[Settled]:
    """Say which of a slot's numbers is the present one: the newest; the older ones are former.

    ``today``: numbers for a later time are projections and are left out. Two different numbers
    for the newest time leave the slot open: nothing is returned.
    """
    known = list(found)
    dated: dict[Day, list[Reading]] = {}
    for reading in known:
        if reading.day and begins(reading.day) <= today:
            dated.setdefault(reading.day, []).append(reading)
    if not dated:
        undated = [reading for reading in known if reading.day is None]
        alone = len({reading.value for reading in known}) == 1 and undated
        return [Settled(undated[0], ClaimRole.CURRENT, Dates())] if alone else []
    days = sorted(dated, key=lambda day: (begins(day), day), reverse=True)
    if not _agree(dated[days[0]]):
        return []
    settled = [Settled(dated[days[0]][0], ClaimRole.CURRENT, Dates(days[0], None, "text"))]
    for later, day in pairwise(days):
        if _agree(dated[day]) and begins(day) < begins(later):
            dates = Dates(day, later, "text")
            settled.append(Settled(dated[day][0], ClaimRole.FORMER, dates))
    return settled


def version(field: Span, subject: str) -> tuple[Reading, Dates] | None:
    """Return the one released version that a field names ("3.14.1 / 2 December 2025")."""
    name = re.match(rf"{re.escape(subject)}\s+", field.text, re.IGNORECASE)
    skipped = name.end() if name else 0
    match = _VERSION.fullmatch(field.text, skipped)
    if not match or re.search(r"alpha|beta|preview|\brc\b", field.text, re.IGNORECASE):
        return None
    days = find_days(match["rest"])
    said = match["rest"][: days[0].start] if days else match["rest"]
    if re.search(r"\d+\.\d|[–-]\s*\d", said):  # versions for several systems, or a range
        return None
    day = days[0].day if days else None
    last = match.start("rest") + days[0].end if days else match.end("version")
    last += field.text[last : last + 1] == ")"
    start = field.start + match.start("version")
    reading = Reading(match["version"], day, start, field.start + last)
    return reading, Dates(day, None, "text") if day else Dates()


def _unclear(text: str, match: re.Match[str]) -> bool:
    """Whether what stands around a number makes it another number, or none at all."""
    after = match.end("value")
    if _HEDGE.match(text, after) or _RATIO.match(text, after):
        return True
    # "1,220,042 453,007,803": two numbers and no sign between them.
    bare = not match["brackets"] and match["end"].isspace()
    return bare or text[after : after + 1].isalnum() or text[after : after + 1] == "."


def _fits(value: str, unit: str) -> bool:
    """Whether a number is of the kind that the relation measures: a share, or no share."""
    share = any(sign in value.casefold() for sign in _PERCENT)
    return not unit or share == (unit.casefold() in _PERCENT)


def _agree(found: list[Reading]) -> bool:
    return len({reading.value for reading in found}) == 1
