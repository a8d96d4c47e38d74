"""What a sentence leaves unsaid because the words around it say it: the country, the whole name.

"The Parliament of Lesotho meets. Jane Doe is sworn in as prime minister." says of what, and
"Doe" is the Jane Doe of the sentence before. Only what leaves no choice is filled in: one country,
one person of that surname.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property

from detectors.entities import canonical_subject, country_of, is_country
from detectors.names import NAME, REGIONS, UPPER, WORD, person, words

_LOOK_BACK = 1200  # characters before a sentence that may tell of what it speaks
_NAME = re.compile(NAME)
_IN_PLACE = re.compile(
    rf"(?:^|[.;,]\s)In\s(?:the\s)?(?P<place>(?:{WORD})(?:\s(?:(?:and|the)\s)?(?:{WORD})){{0,4}}),"
)
# Parliaments whose name says the country.
_PARLIAMENTS = {
    "bundestag": "Germany", "knesset": "Israel", "riigikogu": "Estonia", "sejm": "Poland",
    "verkhovna rada": "Ukraine", "storting": "Norway", "folketing": "Denmark",
    "riksdag": "Sweden", "saeima": "Latvia", "seimas": "Lithuania", "lok sabha": "India",
    "jatiya sangsad": "Bangladesh", "oireachtas": "Ireland", "dáil": "Ireland",
    "althing": "Iceland", "duma": "Russia", "dewan rakyat": "Malaysia",
}  # fmt: skip
_PARLIAMENT = re.compile(rf"\b(?:{'|'.join(_PARLIAMENTS)})\b")
# With these next to it a country is the one whose politics are told.
_POLITICS = re.compile(
    r"(?:['’]s?)?\s(?:[\w-]+\s){0,2}?(?:parliament\w*|president\w*|prime|premier\w*|government"
    r"|cabinet|(?:[a-z]+\s)?elections?|voters|politic\w+|congress|senate|assembly|ruling|opposition"
    r"|military|minister|king|queen|leadership|legislature|supreme|constitution\w*|house)\b",
    re.IGNORECASE,
)
_VOTE = re.compile(
    r"\b(?:parliament|government|elections?|polls?|vote|president|premier|minister|senate|congress"
    r"|assembly|king|queen|citizens|people)\s(?:of|in|for)\s(?:the\s)?$",
    re.IGNORECASE,
)
# Capitalised words that make a country's name part of another ("Northern Ireland").
_OTHER_PLACE = words("Northern Southern Eastern Western New South North East West Gulf Little")


class Setting:
    """A sentence and what stands before it in its paragraph."""

    def __init__(self, sentence: str, before: str) -> None:
        self._sentence = sentence
        self._before = before[-_LOOK_BACK:]

    @cached_property
    def country(self) -> str | None:
        """The one country that the sentence or, where it names none, the one before is about."""
        for text in (self._sentence, *reversed(re.split(r"(?<=[.!?])\s", self._before))):
            place = place_of(text)
            found = list(countries(text)) if place is None else []
            if place or found:
                return place or _one(text, found)
        return None

    @cached_property
    def region(self) -> str | None:
        """The state or province in which the sentence is set ("In Kentucky, …")."""
        match = _IN_PLACE.search(self._sentence)
        return match["place"] if match and match["place"] in REGIONS else None

    @cached_property
    def _people(self) -> dict[str, str]:
        whole: dict[str, str] = {}
        shared: set[str] = set()
        for match in _NAME.finditer(f"{self._before} {self._sentence}"):
            name = person(re.sub(r"['’]s?$", "", match.group())) or ""
            surname = name.rpartition(" ")[2]
            if " " not in name or is_country(name):
                continue
            known = whole.setdefault(surname, name)
            if name.endswith(f" {known}"):
                whole[surname] = name  # "Bart De Wever" after "De Wever"
            elif known != name and not known.endswith(f" {name}"):
                shared.add(surname)
        return {surname: name for surname, name in whole.items() if surname not in shared}

    def whole_name(self, surname: str) -> str | None:
        """The person of that surname whose whole name the paragraph gives; None if not one."""
        return self._people.get(surname)


def _one(text: str, found: list[tuple[int, int, str]]) -> str | None:
    names = {country for _, _, country in found}
    if len(names) > 1:
        names = {
            country
            for start, end, country in found
            if _POLITICS.match(text, end) or _VOTE.search(text[max(0, start - 30) : start])
        }
    return names.pop() if len(names) == 1 else None


def place_of(text: str) -> str | None:
    """The one country that a sentence is set in ("In the Netherlands, …"; "the Bundestag")."""
    match = _IN_PLACE.search(text)
    if match and is_country(match["place"]):
        return canonical_subject(match["place"])
    parliament = _PARLIAMENT.search(text.lower())
    return _PARLIAMENTS[parliament.group()] if parliament else None


def countries(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield the countries that a text names or means by a demonym, with where they stand."""
    found = [m for m in re.finditer(r"[\w'’.-]+", text) if m.group()[0].isalpha()]
    index = 0
    while index < len(found):
        index += 1
        if not found[index - 1].group()[0].isupper():
            continue
        for size in range(min(6, len(found) - index + 1), 0, -1):
            first, last = found[index - 1], found[index + size - 2]
            run = re.sub(r"['’]s?$", "", text[first.start() : last.end()]).rstrip(".,")
            country = canonical_subject(run) if is_country(run) else country_of(run)
            if country is None:
                continue
            if not _is_part(text, first.start(), last.end(), run):
                yield first.start(), first.start() + len(run), country
            index += size - 1
            break


def _is_part(text: str, start: int, end: int, run: str) -> bool:
    """Whether a country's name is part of another name ("Jordan Spieth", "Northern Ireland")."""
    before = re.search(rf"([{UPPER}][\w'’]*)\s$", text[max(0, start - 24) : start])
    if before and before.group(1) in _OTHER_PLACE:
        return True
    if text[start - 1 : start] == "(" and text[end : end + 1] == ")":
        return True  # "Jane Doe (US)": a party, or where somebody plays
    named = re.match(rf"\s[{UPPER}]", text[end:])
    return bool(named and run in _FIRST_NAMES)


_FIRST_NAMES = words("Jordan Chad Israel Georgia Cuba Kenya India Malta America Holland")
