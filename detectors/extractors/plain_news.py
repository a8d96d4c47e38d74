"""What every reader of news sentences asks first: is this plain news, and when does it hold?

Hedged, negated, quoted, historical and hypothetical sentences give no claim, whatever they are
about; the extractors of offices and of other relations share these pieces.
"""

from __future__ import annotations

import calendar
import re
from datetime import date, timedelta

from detectors.dates import begins, day_of, ends, find_days
from detectors.extractors.spans import Dates
from store.records import Day

LONGEST = 700
"""Characters of a sentence: no news sentence is longer, and a hostile one would take long."""
FRESH = timedelta(days=45)
"""An event that a text dates earlier than this before its publication is history."""

# Before the statement, in its sentence: what makes it something else than plain news.
HEDGE = re.compile(
    r"\b(?:if|unless|whether|since|before|when|until|would|could|should|(?-i:may)|might|must"
    r"|reported(?:ly)?|alleged(?:ly)?|claim(?:ed|ing)|says?|said|tells?|told|argu\w+|predict\w*"
    r"|believ\w+|false\w*"
    r"|hoax|rumou?r\w*|satir\w*|parod\w*"
    r"|anniversary|years?\sago|this\sday|imagin\w+|hypothe\w+|propos\w+|calls?\sfor|demand\w*"
    r"|calls?\son|urg(?:es?|ed|ing)|threat\w*|offer\w*|considers?|pressure\son"
    r"|not|never|no(?![\s-]confidence)|den(?:y|ies|ied)|reject\w*|refus\w+|fail\w*|(?:un)?likely"
    r"|expect\w*|poised|hop(?:e|es|ing)"
    r"|plans?|planned|wants?|seeks?|self-(?:declared|proclaimed|styled)|rival|parallel|exile\w*"
    r"|exit\spolls?|opinion\spolls?|project(?:ed|ions?)"
    r"|opposition\sleader\sand|had|april\sfool\w*|mock|jokes?|(?<!georgian\s)dream\w*|pretend\w*)\b"
    r"|\bclaims\b(?!\sthe\s)",
    re.IGNORECASE,
)
TODAY = re.compile(
    r"\b(?:today|yesterday|on\s(?:monday|tuesday|wednesday|thursday|friday|saturday|sunday))\b",
    re.IGNORECASE,
)
_MONTHS = [calendar.month_name[number] for number in range(1, 13)]
_MONTH = "|".join(_MONTHS)
# A day without a year: "on 5 May", "effective June 7".
_YEARLESS = re.compile(
    rf"\b(?:(?P<d1>[0-3]?\d)(?:st|nd|rd|th)?\s(?P<m1>{_MONTH})|(?P<m2>{_MONTH})\s(?P<d2>[0-3]?\d)"
    r"(?:st|nd|rd|th)?)\b(?!,?\s\d{4}|\d|[-–]\d)"
)
_COMPARED = re.compile(r"\b(?:since|than|of|after|between|until|till|to|before)\s(?:the\s)?$|[–-]$")

# Between a statement and a day: it is the day of something else.
_OF_ANOTHER = re.compile(
    r"\b(?:after|following|amid|despite|ahead\sof|before|wake\sof|over|who|which|that|because|due\sto"
    r"|having|years?\sin|when|with)\b|['’]s?\s(?:resignation|death|dismissal)"
)
# What makes a story of a sentence about people; prizes go to films and games.
STORY = re.compile(
    r"\b(?:fiction\w*|novel|film|movie|sitcom|episode|season|game|play(?:s|ed|ing)?|history)\b",
    re.IGNORECASE,
)


_EARLIER = re.compile(
    r"^(?:[\w-]+\s){0,3}?(?:after|following|amid|despite)\s[^,;]{1,150},\s", re.IGNORECASE
)
_IN_PASSING = re.compile(r",\s(?:who|whose|which)\s[^,;]{1,120},")


def in_quotes(text: str, position: int) -> bool:
    """Whether a place of a sentence stands inside quotation marks."""
    before = text[:position]
    return before.count('"') % 2 == 1 or before.count("“") > before.count("”")


def hedged(before: str, stories: bool = True) -> bool:
    """Whether the words before a statement take it back, put it off or (``stories``) make it up.

    What happened earlier ("After failing to win the vote, …") and what is told of somebody in
    passing (", who had been the deputy,") do not touch the statement.
    """
    plain = _IN_PASSING.sub(",", _EARLIER.sub("", before))
    return bool(HEDGE.search(plain) or (stories and STORY.search(plain)))


def when(text: str, start: int, end: int, published: date, past: bool) -> Dates | None:
    """When the statement ``text[start:end]`` holds from; None when it tells of the past.

    ``past``: the verb is in the past tense, which without a day is background.
    """
    clause = re.match(r"(?:,\s(?:effective|with\seffect))?[^,;]{0,60}", text[end:])
    until = end + (clause.end() if clause else 0)
    near = [
        (at, stop, day)
        for at, stop, day in _days(text, published)
        if start - stop < 60
        and at < until
        and not _is_compared(text, at, day)
        and not (at >= end and _OF_ANOTHER.search(text, end, at))
    ]
    if near:
        day = near[-1][2] if near[-1][0] >= end else near[0][2]
        if ends(day) < published - FRESH:
            return None
        if len(day) == 10 or begins(day) > published:
            return Dates(day, None, "text")
    elif past and not TODAY.search(text):
        return None
    return Dates(day_of(published), None, "published")


def _days(text: str, published: date) -> list[tuple[int, int, Day]]:
    found = [(span.start, span.end, span.day) for span in find_days(text)]
    for match in _YEARLESS.finditer(text):
        day = _nearest(
            _MONTHS.index(match["m1"] or match["m2"]) + 1,
            int(match["d1"] or match["d2"]),
            published,
        )
        if day:
            found.append((match.start(), match.end(), day))
    return sorted(found)


def _nearest(month: int, number: int, published: date) -> Day | None:
    """The day of that month that lies nearest to the publication."""
    try:
        days = [date(published.year + step, month, number) for step in (-1, 0, 1)]
    except ValueError:  # 30 February, or 29 February off a leap year
        return None
    return day_of(min(days, key=lambda day: abs(day - published)))


def _is_compared(text: str, at: int, day: Day) -> bool:
    """Whether a bare year is measured against ("since 1860", "the 2010 winner")."""
    return len(day) == 4 and bool(_COMPARED.search(text[max(0, at - 14) : at]))
