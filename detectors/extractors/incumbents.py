"""Holders of offices in the fields of structured documents.

"President of the Council of Ministers X (since …); Vice President Y": the first holder stands
for the field, with the title that its source uses; deputies and notes follow a semicolon.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from datetime import date
from typing import NamedTuple

from detectors.entities import canonical_subject, is_country, normalise
from detectors.extractors.spans import ACTING, Dates, Finding, Span
from detectors.extractors.spells import Spell, spell_of
from detectors.names import NAME, person
from detectors.relations import Registry, Relation
from store.records import ClaimRole

_NOTE = re.compile(r";(?![^(]*\))")  # a semicolon outside brackets
_BRACKETS = re.compile(r"\([^()]*\)")
_MODIFIERS = r"(?:(?:GNU|acting|interim|caretaker|transition(?:al)?|provisional|new)\s+)*"
_EQUIVALENT = re.compile(r"\((?P<title>[\w -]+?)[- ]equivalent\)")
_RANKS = re.compile(r"^Air\s+(?:Chief\s+|Vice[- ])?Marshall?\s+", re.IGNORECASE)
# Before a name: not the holder of the office itself, or not yet, or no longer.
_ANOTHER = re.compile(
    r"\b(?:vice|deputy|assistant|former(?:ly)?|previously|ex|outgoing|incoming|elect|designate"
    r"|nominee)\b",
    re.IGNORECASE,
)
# The end of an office that the registry does not know: "Taliban Leader X" may be another one.
_UNKNOWN = re.compile(
    r"\b(?:commander|commissioner|director|leader|minister|officer|president|prince|regent"
    r"|secretary|speaker)\b"
)
# Titles that mean the office of the field that they stand in, and elsewhere something else.
_OF_THE_FIELD = ("administrator", "minister of state", "mayor", "first minister")
_HEAD_OF_STATE = "head_of_state"
_OF_A_BODY = ("chairman", "chairwoman", "chairperson", "chair", "president")
_BODY = re.compile(
    r"(?P<body>(?:[A-Z][\w'’-]*\s+){0,3}?(?:Council|Presidency|Government|Assembly|Cabinet)"
    r"(?:\s+of\s+(?:Ministers|State|Government))?)(?=[\s,])"
)
_REPUBLIC = re.compile(r"(?:Federal\s+)?(?:Republic|Union|Nation)\s+(?!of\b)")
_MINISTRY = re.compile(
    r"(?:(?:first\s+)?deputy\s+)?minister\s+(?:of|for)\s+(?:the\s+)?(?:foreign\s+affairs"
    r"|home\s+affairs|interior|defen[cs]e|finance|economy|justice|education|health|security"
    r"|information)\s+",
    re.IGNORECASE,
)
_LISTED = re.compile(rf"(?P<name>{NAME})\s*\((?P<titles>[^()]{{2,80}})\)")


class _Office(NamedTuple):
    title: str
    body: str  # "presidency"; empty for an office of the subject itself


def holder(
    subject: str, relation: Relation, field: Span, registry: Registry, today: date
) -> Finding | None:
    """Return the holder that a field names first, or None where that is not plain."""
    head = _NOTE.split(field.text)[0]
    spell = spell_of(head, today) or _late_spell(field.text, today)
    stem = head[: spell.start] if spell and spell.start < len(head) else head
    stem = stem.split(", represented by")[0]
    equivalent = _EQUIVALENT.search(stem)
    if equivalent:
        offices = [_Office(equivalent["title"], "")]
        rest = stem[equivalent.end() :]
    else:
        offices, rest = _split_titles(stem, subject, registry)
    office = _actual(offices, rest, subject, relation, registry)
    bare = _RANKS.sub("", _BRACKETS.sub(" ", rest).strip(" ,").lstrip("'"))
    notes = " ".join(_BRACKETS.findall(rest))
    name = person(bare) if office and not _ANOTHER.search(f"{bare} {notes}") else None
    if (
        name is None
        or office is None
        or re.search(r"\bof\b", bare)
        or _unlike(name, field.text, subject)
    ):
        return None
    end = spell.end if spell and spell.start <= len(head) else len(stem.rstrip())
    # "interim" stands before the name or in a bracket after it.
    notes += stem[: stem.find(rest)] if rest in stem else ""
    return Finding(
        subject,
        office[0],
        name,
        spell.role if spell else ClaimRole.CURRENT,
        field.start,
        field.start + end,
        office[1],
        spell.dates if spell else Dates(),
        bool(ACTING.search(notes)),
    )


def key_people(subject: str, field: Span, registry: Registry) -> Iterator[Finding]:
    """Yield the holders in a list of people with titles: "Tim Cook (CEO), Jane Doe (chair)"."""
    for match in _LISTED.finditer(field.text):
        name = person(match["name"])
        for part in re.split(r"\s*(?:,|;|/|&|\band\b)\s*", match["titles"]):
            title = re.sub(rf"^{_MODIFIERS}(?:the\s+)?|\s+since\b.*", "", part, flags=re.IGNORECASE)
            # "co-CEO" and "founding chair" are other titles, which the registry does not know.
            relation = registry.relation_of_title(title, subject)
            if name is None or relation is None or registry[relation].object_type != "person":
                continue
            yield Finding(
                subject,
                relation,
                name,
                ClaimRole.CURRENT,
                field.start + match.start(),
                field.start + match.end(),
                title,
                acting=bool(ACTING.search(part)),
            )


def _late_spell(text: str, today: date) -> Spell | None:
    """A date after a note on spelling ("…; also spelled X (since 1 December 2016)")."""
    note = re.match(r"[^;]*;\s*also\b[^;]*", text)
    return spell_of(note.group(), today) if note else None


def _unlike(name: str, value: str, subject: str) -> bool:
    """Whether a value of a field that is no country's is one word, or names two people.

    "Ted Sarandos, Greg Peters" are two; a degree or a party after the comma is none.
    """
    if is_country(subject):
        return False
    others = [part.strip() for part in re.split("[;,]", _BRACKETS.sub(" ", value))[1:]]
    names = (person(part) or "" for part in others if re.fullmatch(NAME, part))
    return len(name.split()) < 2 or any(len(other.split()) > 1 for other in names)


@functools.lru_cache(maxsize=4)
def _title_pattern(titles: tuple[str, ...]) -> re.Pattern[str]:
    known = sorted({*titles, *_OF_THE_FIELD, *_OF_A_BODY}, key=lambda t: (-len(t), t))
    choice = "|".join(re.escape(title).replace(r"\ ", "[ -]") for title in known)
    return re.compile(
        rf"(?P<title>(?:(?:co-)?vice |crown )?(?:{choice}))(?:\s*\([^)]*\))?(?=[\s,])",
        re.IGNORECASE,
    )


def _split_titles(stem: str, subject: str, registry: Registry) -> tuple[list[_Office], str]:
    """Split "King and Prime Minister X" into its offices and the rest."""
    rest = re.sub(rf"^\s*{_MODIFIERS}", "", stem, flags=re.IGNORECASE)
    pattern = _title_pattern(registry.titles())
    offices: list[_Office] = []
    while True:
        ministry = _MINISTRY.match(rest) if offices else None
        if ministry:  # "Prime Minister and Minister of Interior X"
            rest = rest[ministry.end() :]
            continue
        match = pattern.match(rest)
        read = _office(match, rest, subject) if match else None
        if read is None:
            return offices, rest
        offices.append(read[0])
        rest = re.sub(r"^\s*,?\s*(?:and\s+)?", "", read[1])


def _office(match: re.Match[str], text: str, subject: str) -> tuple[_Office, str] | None:
    """Read one office from its title on: of the subject itself, or of one of its bodies."""
    rest = text[match.end() :]
    of = re.match(r"\s+of\s+(?:the\s+)?(?=[A-Z])", rest)
    comma = re.match(r",\s+(?=[A-Z])", rest)
    joined = of or comma
    if joined is None:
        return _Office(match["title"], ""), rest
    after = rest[joined.end() :]
    body = _BODY.match(after)
    if body:
        rest = after[body.end() :]
        chair = re.match(r"\s+Chair(?:man|woman|person)?(?=,)", rest) if comma else None
        if chair:  # "Prime Minister, State Administration Council Chair, X": an office more
            return _Office(match["title"], ""), rest[chair.end() :]
        return _Office(match["title"], normalise(body["body"])), rest
    if comma:
        return None
    if republic := _REPUBLIC.match(after):
        return _Office(match["title"], ""), after[republic.end() :]
    place = _own_place(after, subject)
    return (_Office(match["title"], ""), after[len(place) :]) if place else None


def _own_place(text: str, subject: str) -> str:
    """Accept "President of the Swiss Confederation X", not another country's president."""
    words = text.split(" ")
    for count in range(min(5, len(words) - 1), 0, -1):
        place = " ".join(words[:count])
        if normalise(canonical_subject(place)) == normalise(subject):
            return place
    return ""


def _actual(
    offices: list[_Office], rest: str, subject: str, relation: Relation, registry: Registry
) -> tuple[str, str] | None:
    """The relation that a titled holder stands in, with the title; None when none fits.

    ``rest`` is what follows the offices: the name, and before it what no title explains.
    """
    for office in offices:
        if not office.body and normalise(office.title) in relation.titles:
            return relation.id, office.title
    if not offices:
        words = f" {normalise(rest)} "
        own = any(f" {spelling} " in words for spelling in relation.titles)
        return (relation.id, "") if own or not _UNKNOWN.search(words) else None
    title, body = offices[0]
    plain = normalise(title)
    if body:
        # "President of the Council of Ministers" heads the government, not the state; a
        # presidential council never heads the government, whatever a field says.
        state = relation.id == _HEAD_OF_STATE or "president" not in body
        return (relation.id, f"{plain} of the {body}") if state else None
    other = registry.relation_of_title(title, subject)
    # A field of a country may name an office that has a relation of its own (a territory's
    # governor), never one of another kind of subject.
    if other and is_country(subject):
        return other, title
    return (relation.id, title) if plain in _OF_THE_FIELD else None
