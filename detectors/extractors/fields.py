"""Claims from structured documents: lines such as "head of government: Chancellor X (since …)".

The subject is the document's title. Country profiles flatten to paths ("Government > Executive
branch > chief of state: …"); an information box gives bare field names ("CEO: …").
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime

from detectors.dates import DATE_PATTERN, parse_day
from detectors.entities import canonical_subject, is_country, normalise
from detectors.extractors.spans import ACTING, Dates, Finding, Span, claim, lines
from detectors.names import person
from detectors.relations import Registry, Relation
from store.records import Claim, ClaimRole, Document

EXTRACTOR = "fields"

_LINE = re.compile(r"(?P<path>[^:\n]{1,160}?)\s*:\s+(?P<value>\S.*)")
_SINCE = re.compile(rf"\(\s*(?:since\s+)*(?P<day>{DATE_PATTERN})\b[^)]*\)", re.IGNORECASE)
_NOTE = re.compile(r";(?![^(]*\))")  # a semicolon outside brackets
_BRACKETS = re.compile(r"\([^)]*\)")
_MODIFIERS = r"(?:(?:GNU|acting|interim|caretaker|transition(?:al)?|provisional|new)\s+)*"
_EQUIVALENT = re.compile(r"\((?P<title>[\w -]+?)[- ]equivalent\)")
_DEPENDENT = re.compile(r"(?im)^[^:\n]*\bdependency status\s*:")
_HEAD_OF_STATE = "head_of_state"


def extract(document: Document, registry: Registry, now: datetime) -> list[Claim]:
    """Return the claims of every line that names a field of the registry."""
    subject = canonical_subject(document.title)
    found: list[Finding] = []
    for relation, value in _fields(document, registry):
        if relation.id == _HEAD_OF_STATE and _DEPENDENT.search(document.text):
            continue  # the head of another country's state
        finding = (
            _office(subject, relation, value, registry)
            if relation.object_type == "person"
            else _thing(subject, relation, value)
        )
        # One field may repeat what another said ("head of government: President …").
        if finding and all((f.subject, f.relation) != finding[:2] for f in found):
            found.append(finding)
    return [claim(document, registry, EXTRACTOR, now, finding) for finding in found]


def _fields(document: Document, registry: Registry) -> Iterator[tuple[Relation, Span]]:
    for line in lines(document.text):
        match = _LINE.fullmatch(line.text)
        if not match:
            continue
        steps = [step.strip().casefold() for step in match["path"].split(">")]
        paths = {" > ".join(steps[-2:]), steps[-1]} if len(steps) > 1 else {steps[0]}
        # Below the top level "name" or "leader" may be of anything: only whole paths count.
        for relation in registry:
            if paths & set(relation.fields) and relation.takes(canonical_subject(document.title)):
                start = line.start + match.start("value")
                yield relation, Span(start, line.end, match["value"])
                break


def _thing(subject: str, relation: Relation, field: Span) -> Finding | None:
    """A value that is no person: the field up to a note or bracket, if it is one single value."""
    value = re.split(r";|\(|\bnote\b", field.text)[0].strip(" ,")
    several = ";" in field.text and "note" not in field.text
    if not value or several or len(value) > 60 or not value[0].isupper() or "), " in field.text:
        return None
    end = field.start + len(value)
    return Finding(
        subject, relation.id, value, ClaimRole.CURRENT, field.start, end, relation.default_title
    )


def _office(subject: str, relation: Relation, field: Span, registry: Registry) -> Finding | None:
    """The holder that a field names first; what follows a semicolon is notes and deputies."""
    head = _NOTE.split(field.text)[0]
    since = _SINCE.search(head) or _late_date(field.text)
    stem = head[: since.start()] if since and since.start() < len(head) else head
    stem = stem.split(", represented by")[0]
    equivalent = _EQUIVALENT.search(stem)
    if equivalent:
        title, rest = equivalent["title"], stem[equivalent.end() :]
    else:
        title, rest = _split_title(stem, subject, relation, registry)
    actual = _actual_relation(title, subject, relation, registry)
    holder = _BRACKETS.sub(" ", rest)
    name = person(holder) if actual else None
    if name is None or actual is None or re.search(r"\bof\b", holder):
        return None
    end = since.end() if since and since.start() <= len(head) else len(stem.rstrip())
    day = parse_day(since["day"]) if since else None
    acting = bool(ACTING.search(stem[: stem.find(rest)])) if rest in stem else False
    return Finding(
        subject,
        actual,
        name,
        ClaimRole.CURRENT,
        field.start,
        field.start + end,
        title,
        Dates(day, None, "text") if day else Dates(),
        acting,
    )


def _late_date(text: str) -> re.Match[str] | None:
    """A date after a note on spelling ("…; also spelled X (since 1 December 2016)")."""
    note = re.match(r"[^;]*;\s*also\b[^;]*", text)
    return _SINCE.search(note.group()) if note else None


def _split_title(
    stem: str, subject: str, relation: Relation, registry: Registry
) -> tuple[str, str]:
    """Split "King and Prime Minister X" into the title that fits the relation, and the rest."""
    rest = re.sub(rf"^\s*{_MODIFIERS}", "", stem, flags=re.IGNORECASE)
    titles = "|".join(re.escape(title).replace(r"\ ", "[ -]") for title in registry.titles())
    offices = []
    while True:
        match = re.match(
            rf"(?P<title>(?:(?:co-)?vice |crown )?(?:{titles}))(?:\s*\([^)]*\))?"
            rf"(?P<of>\s+of\s+(?:the\s+)?(?P<place>[A-Z][\w' ]*?))?"
            rf"(?P<join>\s+and\s+|\s+)(?=\S)",
            rest,
            re.IGNORECASE,
        )
        place = match["place"] if match else None
        if match and place:
            match, place = _with_own_place(match, rest, subject)
        if not match:
            break
        offices.append(match["title"])
        rest = rest[match.end() if not place else match.start("place") + len(place) :].lstrip()
    fitting = [t for t in offices if normalise(t) in relation.titles]
    return (fitting or offices or [""])[0], rest


def _with_own_place(
    match: re.Match[str], text: str, subject: str
) -> tuple[re.Match[str] | None, str | None]:
    """Accept "President of the Swiss Confederation X", not another country's president."""
    words = text[match.start("place") :].split(" ")
    for count in range(min(5, len(words) - 1), 0, -1):
        place = " ".join(words[:count])
        if normalise(canonical_subject(place)) == normalise(subject):
            return match, place
    return None, None


def _actual_relation(
    title: str, subject: str, relation: Relation, registry: Registry
) -> str | None:
    """The relation that a titled holder stands in; None when the title fits no relation."""
    if not title:
        return relation.id
    if normalise(title) in relation.titles:
        return relation.id
    other = registry.relation_of_title(title, subject)
    # A field of a country may name an office that has a relation of its own (a territory's
    # governor), never one of another kind of subject.
    return other if other and is_country(subject) else None
