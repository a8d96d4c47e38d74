"""Elections that are won: "wins the Moldovan presidential election", "defeats … in the run-off".

The adjective says for which office. Who wins a popular election waits for the office, the holder
who wins goes on holding it, and a party's leader leads it at once.
"""

from __future__ import annotations

import calendar
import re
from typing import NamedTuple

from detectors.entities import canonical_subject, country_of, is_country
from detectors.extractors.offices import own_body
from detectors.extractors.shapes import SUBJECT
from detectors.names import NAME, REGIONS, words

_TITLES = {
    "presidential": "president", "gubernatorial": "governor", "mayoral": "mayor",
    "governor": "governor", "leadership": "leader",
}  # fmt: skip
_PLACE = re.compile(
    rf"(?:\b(?P<place>{NAME})(?:['’]s?)?\s)?(?:\b(?:\d{{4}}|(?!wins?\b|won\b|the\b|in\b|of\b)[a-z-]+|\d+(?:st|nd|rd|th)|\d\d?)\s){{0,2}}?\Z"
)
_CONTEST = re.compile(
    rf"\b(?P<kind>{'|'.join(_TITLES)})\s(?P<noun>election|run-?off|contest|race|vote|poll|elections)"
    rf"(?:\s(?:run-?off|election))?\b(?!\s(?:rally|campaign|debate|candidate))"
    rf"(?:,?\s(?:in|of|for)\s(?:the\s)?(?P<of>{SUBJECT}))?"
)
_SMALL = (
    r"(?:\s(?:the|a|an|his|her|their|another|second|third|fourth|fifth|final|round|of|in|re-?election"
    r"|landslide|victory|run-?off|snap|early|disputed|country's|nation's|state's|city's|\d{4}"
    r"|yesterday's|today's|Sunday's|Saturday's|inaugural|first-ever|delayed|special|[a-z]+ly"
    r"|contested|close|tight|ruling|party's|most|recent|\d+(?:st|nd|rd|th)))*"
)
# Right before the contest: it was won.
_WON = re.compile(
    r"\b(?P<verb>wins|won|has\swon|secures|clinches|(?:is|was)\sdeclared\s(?:the\s)?winner\sof"
    r"|(?:is|was)\s(?:re-?elected)\sin|winning)"
    rf"{_SMALL}\s\Z"
)
_BEATEN = re.compile(
    rf"\b(?P<verb>defeats|defeated|beats|edges\sout|wins\sagainst|wins\sover)\s[^.;]{{3,140}}?\sin{_SMALL}\s\Z"
)
_FIRST_ROUND = re.compile(r"\bfirst\sround\b|\bprimary\b|\bplurality\b|\bmost\svotes\b|\bnominat")


class Contest(NamedTuple):
    """An election that someone won: ``verb`` is where the verb stands, ``end`` the mention's."""

    verb: int
    word: str
    end: int
    title: str
    subject: str | None  # None where the words do not say of what


def contests(text: str) -> list[Contest]:
    """Return the elections that a sentence says were won, in order."""
    found = []
    for match in _CONTEST.finditer(text):
        place = _PLACE.search(text[max(0, match.start() - 70) : match.start()])
        start = match.start() - (len(place.group()) if place else 0)
        before = text[max(0, start - 200) : start]
        won = _WON.search(before) or _BEATEN.search(before)
        if won is None or _FIRST_ROUND.search(text, start - len(before) + won.start()):
            continue
        name = place["place"] if place else None
        subject = _subject(match["kind"], name, match["of"])
        if subject is None and name and _NO_PLACE.sub("", name):
            continue
        verb = start - len(before) + won.start()
        found.append(Contest(verb, won["verb"], match.end(), _TITLES[match["kind"]], subject))
    return found


_DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday The")
_NO_PLACE = re.compile(
    rf"^(?:{'|'.join(_DAYS)})(?:['’]s)?(?:\s|$)|(?:^|\s)(?:{'|'.join(calendar.month_name[1:])})$"
)


def _subject(kind: str, place: str | None, of: str | None) -> str | None:
    for name in (place, of):
        if not name:
            continue
        # "Sunday's Moldovan presidential election", "Malawi's May 21 presidential election"
        bare = _NO_PLACE.sub("", name).strip()
        bare = re.sub(r"['’]s?$", "", bare)
        country = canonical_subject(bare) if is_country(bare) else country_of(bare)
        if country:
            return country
        named = kind in ("mayoral", "leadership") or bare in REGIONS
        if named and bare:
            return own_body(bare)
    return None
