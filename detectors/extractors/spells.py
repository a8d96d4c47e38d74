"""The spell that a field gives its value: "(since 2011)", "(2022–present)", "(until May 2020)"."""

from __future__ import annotations

import re
from datetime import date
from typing import NamedTuple

from detectors.dates import DATE_PATTERN, begins, parse_day
from detectors.extractors.spans import Dates
from store.records import ClaimRole

_TAKES = (
    r"since|from|appointed|assumed\s+office|in\s+office|elected|sworn\s+in|inaugurated|named|joined"
    r"|m\.|married|as\s+of"
)
_LEAVES = r"until|till|to|ended|resigned|left|div\.|divorced|died|d\."
# "(since 1 May 2020; also …)", "(chairman since …, member since …)", "(2022–present)", and
# without brackets "since 2011". The bracket may be left open by mistake.
_SPELL = re.compile(
    rf"(?:\(\s*(?:(?:[a-z]+\s+)?(?:(?:{_TAKES})[\s:]*)+|(?={DATE_PATTERN}\b))|\b(?:since|from)\s+)"
    rf"(?P<day>{DATE_PATTERN})\b(?P<tail>[^()]*)(?:\)|$)",
    re.IGNORECASE,
)
_RANGE = re.compile(rf"\s*(?:[–—-]|to|until)\s*(?P<end>{DATE_PATTERN})\b", re.IGNORECASE)
_LEFT = re.compile(rf"(?:^|[;,]\s*)(?:{_LEAVES})\s+(?P<end>{DATE_PATTERN})", re.IGNORECASE)
_ENDED = re.compile(
    rf"\(\s*(?:[–—-]|{_LEAVES})\s*(?P<end>{DATE_PATTERN})\s*\)|\(\s*former[^()]*\)", re.IGNORECASE
)


class Spell(NamedTuple):
    """When a value holds; ``text[start:end]`` says so."""

    dates: Dates
    role: ClaimRole
    start: int
    end: int


def spell_of(text: str, today: date) -> Spell | None:
    """Return the first spell that a field's value gives, or None.

    A day that is still to come makes the value a FUTURE one, an end that is past a FORMER one.
    """
    match = next(filter(_outside, _SPELL.finditer(text)), None)
    day = parse_day(match["day"]) if match else None
    if match is None or day is None:
        ended = _ENDED.search(text)
        if ended is None:
            return None
        end = parse_day(ended["end"]) if ended["end"] else None
        if end and begins(end) > today:
            return Spell(Dates(None, end, "text"), ClaimRole.CURRENT, *ended.span())
        dates = Dates(None, end, "text") if end else Dates()
        return Spell(dates, ClaimRole.FORMER, *ended.span())
    left = _RANGE.match(match["tail"]) or _LEFT.search(match["tail"])
    until = parse_day(left["end"]) if left else None
    role = ClaimRole.CURRENT
    if until and begins(until) <= today:
        role = ClaimRole.FORMER
    elif begins(day) > today:
        role = ClaimRole.FUTURE
    return Spell(Dates(day, until, "text"), role, *match.span())


def _outside(match: re.Match[str]) -> bool:
    """Whether "since 2011" without brackets does not stand inside a bracket about another thing."""
    before = match.string[: match.start()]
    return match.group().startswith("(") or before.count("(") <= before.count(")")
