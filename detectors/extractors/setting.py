"""What a sentence leaves unsaid because the words around it say it: the country, the whole name.

"The Parliament of Lesotho meets. Jane Doe is sworn in as prime minister." says of what, and
"Doe" is the Jane Doe of the sentence before. Only what leaves no choice is filled in: one country,
one person of that surname.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property

from detectors.entities import (
    canonical_subject,
    country_of,
    country_of_institution,
    is_country,
)
from detectors.names import NAME, REGIONS, UPPER, WORD, person, words

_LOOK_BACK = 1200  # characters before a sentence that may tell of what it speaks
_NAME = re.compile(NAME)
_IN_PLACE = re.compile(
    rf"(?:^|[.;,]\s)In\s(?:the\s)?(?P<place>(?:{WORD})(?:\s(?:(?:and|the)\s)?(?:{WORD})){{0,4}}),"
)
# An institution or a post of the nation right after its name: "Peru's new parliament".
_AFTER = (
    r"(?:parliament\w*|president\w*|prime|premier\w*|government|cabinet|(?:[a-z]+\s)?elections?"
    r"|voters|politic\w+|congress|senate|assembly|ruling|opposition|military|minister|king|queen"
    r"|leadership|legislature|supreme|constitution\w*|house|state|capital|chancellor|attorney"
    r"|secretary|emperor|emir|sultan|speaker|army|junta|coalition|lawmakers|finance|foreign|defen[cs]e"
    r"|interior|health|justice|education|leader|vice|deputy|first|head|[\w-]*\s?party)\b"
)
_POLITICS = re.compile(rf"\.?(?:['’]s?)?\s(?:[\w-]+\s){{0,2}}?{_AFTER}", re.IGNORECASE)
# … or right before it: "the Parliament of Lesotho", "elections in Peru".
_VOTE = re.compile(
    r"\b(?:parliament|government|elections?|polls?|vote|president|premier"
    r"|minister|senate|congress|assembly|king|queen|emir|citizens|people|voters|governor|court"
    r"|secretary|general|leader|party|house|chancellor|state|representatives|capital|justice|republic"
    r"|minister[-–]designate)\s(?:of|in|for)\s(?:the\s)?$",
    re.IGNORECASE,
)
# Where the scene of the office is set: at the start of the sentence or as its agent, in the office
# that is taken or left, or in the election. A country anywhere else is a party to the event.
_TOOK = (
    r"(?:elect\w*|appoint\w*|reappointed|re-elected|named|chosen|selected|approved|nominated"
    r"|confirmed|sworn|dismissed|sacked|fired|removed|impeached|ousted|designated|voted|installed)"
)
_SOME = r"(?:(?!(?:ally|friend|critic|opponent|rival|of|to|with|by)\b)[\w-]+\s){0,4}$"
_SCENE = re.compile(
    r"^\W*(?!(?:With|After|Amid|Despite|Against|During|Under|Since|Because|Unlike|Backed|Supported)\b)"
    r"(?:[\w.-]+\s){0,4}$"
    rf"|\b{_TOOK}\b[^,.;]{{0,60}}?\s(?:by|before)\s(?:the\s)?{_SOME}"
    rf"|\b(?:as|become|becomes|becoming|named|appointed|next)\s(?:the\s)?{_SOME}"
    rf"|,\s(?:the|a)\s{_SOME}"
    r"|,\s(?:the|a)\s[\w\s-]{1,40}\sof\s(?:the\s)?(?:[Ss]upreme\s)?$"
    rf"|\b(?:member|leader|candidate|chair|chairman|president|head)\sof\s(?:the\s)?{_SOME}"
    rf"|\b(?:resignation|death|dismissal|removal|ouster|impeachment)\sof\s(?:the\s)?{_SOME}"
    r"|\b(?:his|her|its|the\s(?:ruling|opposition|governing))\sparty,?\s(?:the\s)?$"
    r"|\b(?:[Ff]ormer|[Ii]ncumbent|[Oo]utgoing|[Aa]cting)\s$"
)
_FOREIGN = re.compile(
    r"\b(?:ally|allies|allied|friends?|rivals?|opponents?|critics?|enem\w+|interference|troops|forces|sanctions"
    r"|talks|summit|visit\w*|relations|war|exile\w*|refugees?|born|ambassador|embassy|tour|border"
    r"|with|against|from|between|to|at|near|despite|amid|over)\b",
    re.IGNORECASE,
)
_ELECTION = re.compile(
    r"\b(?:elections?|polls|voters|citizens|people|referendum)\s(?:[a-z]+\s){0,3}?(?:in|of|for)\s(?:the\s)?"
    r"(?:(?:[Pp]resident|[Pp]arliament)\sof\s)?$",
    re.IGNORECASE,
)
_COURT_IN = re.compile(r"\b(?:[Cc]ourt|[Jj]udiciary|[Pp]arliament|[Ss]enate)\sin\s(?:the\s)?$")
_VOTES = re.compile(r"\s(?:votes|elects|holds\s(?:[a-z-]+\s){0,4}election|goes\sto\sthe\spolls)\b")
_GOES_ON = re.compile(r"\s*(?:She|He)\s(?:will\s|is\s|becomes\s|succeeds\s)[^.;]{1,150}")
_HOLDER_OF = re.compile(
    rf"^\W*(?:(?:Acting|Interim|Vice|Prime)\s)?(?:President|Minister|King|Queen|Chancellor|Premier|Emir|Sultan)"
    rf"\s{NAME}\sof\s(?:the\s)?$"
)
# Whoever does this to someone is another country's.
_ABROAD = re.compile(
    r"[^.;]{0,80}?\b(?:congratulat\w+|meets\s(?:with\s)?(?!to\b|in\b)\w|recogni[sz]es|visits|condemns|welcomes|calls\son|accuses|warns"
    r"|imposes|withdraws|sends|invades?|bombs?|kills?|arrives?|strikes|attacks?|intervenes?|troops|forces"
    r"|interference|sanctions|embassy|ambassador)\b"
)
_PEOPLE = re.compile(rf"\s(?:[a-z][\w-]*\s){{0,3}}{NAME}\s(?!and\b|meets\b|visits\b)[a-z]")
# Capitalised words that make a country's name part of another ("Northern Ireland").
_OTHER_PLACE = words("Northern Southern Eastern Western New South North East West Gulf Little")


class Setting:
    """A sentence and what stands before it in its paragraph."""

    def __init__(self, sentence: str, before: str, after: str = "") -> None:
        self._sentence = sentence
        self._after = after
        self._before = before[-_LOOK_BACK:]

    @cached_property
    def country(self) -> str | None:
        """The one country whose office the sentence or, where it names none, the one before sets.

        A country that only takes part in the event ("Russian troops", "an ally of Chile") is none,
        and no sentence before it is asked either.
        """
        for text in (self._sentence, *reversed(re.split(r"(?<=[.!?])\s", self._before))):
            place = place_of(text)
            found = list(countries(text)) if place is None else []
            if place or found:
                return place or _one(text, found)
        # "She will begin her term as Mexico's first president": still about the same person.
        onward = _GOES_ON.match(self._after)
        return _one(onward.group(), list(countries(onward.group()))) if onward else None

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
    names = {country for start, end, country in found if _sets_scene(text, start, end)}
    return names.pop() if len(names) == 1 else None


def _sets_scene(text: str, start: int, end: int) -> bool:
    """Whether a country stands where the office of a sentence is said to be of it."""
    if _COURT_IN.search(text[max(0, start - 40) : start]):
        return True
    if not text[:start].strip() and _VOTES.match(text, end):
        return True
    if _ABROAD.match(text, end):
        return False
    head = text[max(0, start - 120) : start]
    if _ELECTION.search(head) and not _FOREIGN.search(head[-30:]):
        return True
    if _HOLDER_OF.search(head):
        return True  # "President Jane Doe of Peru appoints …"
    vote = _VOTE.search(head)
    if vote is None and not _POLITICS.match(text, end):
        # "Azerbaijani writer Jane Doe is named …": whose the person is.
        return not head.strip() and bool(country_of(text[start:end]) and _PEOPLE.match(text, end))
    before = head[: vote.start()] if vote else head
    scene = _SCENE.search(before if start <= 120 else f"… {before}")
    return bool(scene) and not _FOREIGN.search(scene.group() if scene else "")


def acting_country(agent: str) -> str | None:
    """The one country that an acting side is of ("Tanzanian president Jane Doe", "by the Sejm")."""
    side = re.sub(r"^\s*(?:(?:by|before)\s)?(?:the\s)?", "", agent)
    place = place_of(side)
    return place or _one(side, list(countries(side)))


def place_of(text: str) -> str | None:
    """The one country that a sentence is set in ("In the Netherlands, …"; "the Bundestag")."""
    match = _IN_PLACE.search(text)
    if match and is_country(match["place"]):
        return canonical_subject(match["place"])
    return country_of_institution(text)


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
