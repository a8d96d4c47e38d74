"""Claims from structured documents: lines such as "head of government: Chancellor X (since …)".

The subject is the document's title. Country profiles flatten to paths ("Government > Executive
branch > chief of state: …"); an information box or a table gives bare field names ("CEO: …",
"Head coach | …", "| ceo = …"). Which field names mean which relation, the registry says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date, datetime
from itertools import pairwise
from typing import NamedTuple

from detectors.dates import parse_day
from detectors.entities import canonical_subject, is_country
from detectors.extractors import numbers
from detectors.extractors.incumbents import holder, key_people
from detectors.extractors.spans import Dates, Finding, Span, claim
from detectors.extractors.spells import spell_of
from detectors.relations import Registry, Relation
from store.records import Claim, ClaimRole, Day, Document

EXTRACTOR = "fields"

_SEPARATOR = re.compile(r":(?:\*\*)?\s|\t|[|=]")
_LEAD = " |!*•-"  # what stands before a field name in wiki text, tables and lists
_KEY = re.compile(r"[_\s]+")
_YEAR = re.compile(r"\s(?:\d{1,2}\s[a-z]+\s)?\d{4}$")  # "unemployment rate 2021"
# Links show their last part; the rest is bold type, footnotes and arrows.
_MARKUP = re.compile(
    r"\[\[(?:[^\]|]*\|)?([^\]|]*)\]\]|\[\d+\]|'''?|\*\*|<ref[^>]*/>|\{\{(?:in|de)crease\}\}",
    re.IGNORECASE,
)
_LONGEST = 160  # characters of a field name
_LIMIT = 2000  # characters of a value that are read: holders come first, notes follow
_PEOPLE = frozenset({"key people", "key person", "leadership", "management", "principals"})
_DEPENDENT = "dependency status"
_HEAD_OF_STATE = "head_of_state"

_NOTE = re.compile(r"(?:;|,|\.)?\s*\bnote\b(?:\(s\))?\s*[-:–].*|;\s*$", re.DOTALL)
_BRACKETS = re.compile(r"\s*\([^()]*\)")
_NOTHING = re.compile(r"(?:none|n/?a|vacant|various|unknown|see\b.*|tb[ad]|not\b.*)", re.IGNORECASE)
_SEVERAL = re.compile(r"\s(?:and|or|in|from|with|near)\s|/|\d")  # in a place: not just its name
_RATE = re.compile(r"\bper\b|/")  # "Aruban florins per US dollar"
_FEDERAL = re.compile(r"\s*D\.?\s?C\b", re.IGNORECASE)


class _Field(NamedTuple):
    relation: Relation | None  # None: a field that lists people with their titles
    span: Span  # the value: where it stands and what it says
    day: Day | None = None  # when the field's name says so ("unemployment rate 2021")


class _Found(NamedTuple):
    finding: Finding
    direct: bool  # from the relation's own field, not by a title in another one


def extract(document: Document, registry: Registry, now: datetime) -> list[Claim]:
    """Return the claims of every line that names a field of the registry."""
    found = findings(document, registry, now)
    return [claim(document, registry, EXTRACTOR, now, finding) for finding in found]


def findings(document: Document, registry: Registry, now: datetime) -> list[Finding]:
    """Return what the fields of a document say, each slot settled, whatever the lines' order.

    Where two fields give one slot two different values, none of them is believed.
    """
    subject = canonical_subject(document.title)
    people: list[_Found] = []
    measured: dict[str, list[numbers.Reading]] = {}
    for field in _fields(document, subject, registry):
        if field.relation is None:
            people += [_Found(f, True) for f in key_people(subject, field.span, registry)]
        elif field.relation.object_type == "number":
            read = _numbers(field, field.relation)
            measured.setdefault(field.relation.id, []).extend(read)
        else:
            people += _values(subject, field.relation, field.span, registry, now.date())
    settled = _settle(people, registry)
    for relation, read in measured.items():
        title = registry[relation].default_title
        settled += [
            Finding(
                subject,
                relation,
                known.reading.value,
                known.role,
                known.reading.start,
                known.reading.end,
                title,
                known.dates,
            )
            for known in numbers.settle(read, now.date())
        ]
    return sorted(settled, key=lambda finding: (finding.start, finding.end, finding.relation))


def field_lines(text: str) -> Iterator[tuple[str, Span]]:
    """Yield the name and the value of every line that reads "name: value", in whatever notation.

    A row of a table with more than two cells is none.
    """
    start = 0
    for line in text.split("\n"):
        begin, start = start, start + len(line) + 1
        match = _SEPARATOR.search(line, len(line) - len(line.lstrip(_LEAD)))
        if not match or match.start() > _LONGEST:
            continue
        value, cells = line[match.end() :], match.group() in "|\t"
        shown = value.strip(" \t|*") if cells else value.strip()
        if shown and not (cells and ("|" in shown or "\t" in shown)):
            first = begin + match.end() + value.index(shown)
            name = line[: match.start()].strip(_LEAD)
            yield name, Span(first, first + len(shown), shown)


def _fields(document: Document, subject: str, registry: Registry) -> list[_Field]:
    names = _field_names(subject, registry)
    found: list[_Field] = []
    dependent = False
    for name, value in field_lines(document.text):
        last = _key(name.rpartition(" > ")[2])
        dated = None if last in names else _YEAR.search(last)
        day = parse_day(dated.group()) if dated else None
        last = last[: dated.start()] if dated else last
        if last not in names:
            dependent = dependent or last == _DEPENDENT
            continue
        named = _named(name, last, names)
        relation = registry[named] if named else None
        # Only numbers are read of another year: "president 2019: X" says nothing of today.
        if named != "" and (not dated or (relation and relation.object_type == "number")):
            cut = Span(value.start, min(value.end, value.start + _LIMIT), value.text[:_LIMIT])
            found.append(_Field(relation, cut, day))
    if dependent:  # the head of another country's state
        found = [f for f in found if not f.relation or f.relation.id != _HEAD_OF_STATE]
    return found


def _field_names(subject: str, registry: Registry) -> dict[str, dict[str, str | None]]:
    """The registry's field names that fit the subject: by their last step, path -> relation."""
    names: dict[str, dict[str, str | None]] = {}
    for relation in registry:
        if relation.fields and relation.takes(subject):
            for field in relation.fields:
                names.setdefault(field.rpartition(" > ")[2], {}).setdefault(field, relation.id)
    for people in _PEOPLE:
        names.setdefault(people, {}).setdefault(people, None)
    return names


def _named(name: str, last: str, names: dict[str, dict[str, str | None]]) -> str | None:
    """The relation of a field's path: its last two steps, or its last one; "" for none.

    "name" or "leader" may be of anything below the top level: the registry asks for two steps.
    """
    before = name.split(" > ")[-2:-1]
    paths = names[last]
    two = f"{_key(before[0])} > {last}" if before else last
    return paths.get(two, paths.get(last, ""))


def _key(name: str) -> str:
    return _KEY.sub(" ", name).strip().casefold()


def _plain(field: Span) -> tuple[Span, bool]:
    """The value without markup, and whether it is as it stood: else positions in it are lost."""
    shown = _MARKUP.sub(r"\1", field.text).strip()
    if "{{" in shown:
        shown = ""  # a template of a wiki, whose meaning is elsewhere
    return Span(field.start, field.end, shown), shown == field.text


def _numbers(field: _Field, relation: Relation) -> list[numbers.Reading]:
    plain, exact = _plain(field.span)
    read = numbers.readings(plain, relation)
    if len(read) == 1 and read[0].day is None:
        read = [read[0]._replace(day=field.day)]
    if exact:
        return read
    return [one._replace(start=field.span.start, end=field.span.end) for one in read]


def _values(
    subject: str, relation: Relation, field: Span, registry: Registry, today: date
) -> list[_Found]:
    """What a field says that is no number: holders, things or a version."""
    plain, exact = _plain(field)
    if not plain.text or _NOTHING.fullmatch(plain.text):
        return []
    found: list[Finding | None]
    if relation.object_type == "person":
        items = [plain] if is_country(subject) else _items(plain, relation)
        found = [holder(subject, relation, item, registry, today) for item in items]
    elif relation.object_type == "version":
        found = [_version(subject, relation, plain)]
    else:
        found = [_thing(subject, relation, item, today) for item in _items(plain, relation)]
    if None in found and relation.single and len(found) > 1:
        return []  # one of several is unclear: it may be the present one
    read = [finding for finding in found if finding]
    if not exact:  # the quote is the whole value
        read = [finding._replace(start=field.start, end=field.end) for finding in read]
    return [_Found(finding, finding.relation == relation.id) for finding in read]


def _items(field: Span, relation: Relation) -> list[Span]:
    """The values of a field that lists several, each with its spell; else the field itself."""
    cuts = [m.end() for m in re.finditer(r"\([^()]*\b\d{4}\b[^()]*\)\s*(?:[;,/]|$)?", field.text)]
    if len(cuts) > 1 and not field.text[cuts[-1] :].strip():
        bounds = [0, *cuts]
    elif not relation.single:
        inner = re.finditer(r"[;,](?![^(]*\))", field.text)
        bounds = [0, *(match.end() for match in inner), len(field.text)]
    else:
        return [field]
    items = []
    for first, last in pairwise(bounds):
        text = field.text[first:last].rstrip(" ;,/")
        start = field.start + first + len(text) - len(text.lstrip())
        if text.strip():
            items.append(Span(start, start + len(text.strip()), text.strip()))
    return items


def _thing(subject: str, relation: Relation, field: Span, today: date) -> Finding | None:
    """A place, body, name or text: the field up to a note or bracket, if it is one value."""
    stem = _NOTE.sub("", field.text)
    spell = spell_of(stem, today)
    value, bracket, rest = stem.partition("(")
    if spell and spell.start < len(value):
        value, bracket, rest = field.text[: spell.start], "", ""
    after = _BRACKETS.sub("", bracket + rest).strip(" ;,")
    value = value.strip(" ,;")
    if after or not value or ";" in value or len(value) > 60 or _NOTHING.fullmatch(value):
        return None
    start = field.start + field.text.index(value)
    text = relation.object_type == "text"
    small = text and value.islower() and len(value.split()) <= 3
    if not (small or value[0].isupper() or value[0].isdigit()) or (text and _RATE.search(value)):
        return None
    if relation.object_type == "place":
        place = _place(value)
        if place is None:
            return None
        value = place
    elif relation.single and re.search(r",|\s/\s", value) and not text:
        return None
    end = start + len(value)
    if spell and spell.dates != Dates():
        end = max(end, field.start + spell.end)
    return Finding(
        subject,
        relation.id,
        value,
        spell.role if spell else ClaimRole.CURRENT,
        start,
        end,
        relation.default_title,
        spell.dates if spell else Dates(),
    )


def _place(value: str) -> str | None:
    """One place, without the region that it lies in ("Vevey, Switzerland"); None for several."""
    name, comma, region = value.partition(",")
    if comma and _FEDERAL.match(region):
        return value
    if _SEVERAL.search(value) or not all(
        part.strip()[:1].isupper() for part in region.split(",") if comma
    ):
        return None
    return name.strip()


def _version(subject: str, relation: Relation, field: Span) -> Finding | None:
    read = numbers.version(field, subject)
    if read is None:
        return None
    reading, dates = read
    return Finding(
        subject,
        relation.id,
        reading.value,
        ClaimRole.CURRENT,
        reading.start,
        reading.end,
        relation.default_title,
        dates,
    )


def _settle(found: list[_Found], registry: Registry) -> list[Finding]:
    """Make the values of each slot agree: one present value, or none where fields differ."""
    slots: dict[tuple[str, str], list[_Found]] = {}
    for one in found:
        slots.setdefault(one.finding[:2], []).append(one)
    settled: list[Finding] = []
    for (_, relation_id), values in slots.items():
        relation = registry[relation_id]
        for role in ClaimRole:
            known = [one for one in values if one.finding.role is role]
            # "head of government: President X" repeats what another field said of its own.
            if role is ClaimRole.CURRENT and relation.single:
                settled += _one(known, relation)
            else:
                settled += {one.finding.value: one.finding for one in known}.values()
    return settled


def _one(known: list[_Found], relation: Relation) -> list[Finding]:
    if not _alike(known, relation):
        known = [one for one in known if one.direct]
    if not known or not _alike(known, relation):
        return []
    best = max(
        known,
        key=lambda one: (
            one.finding.dates != Dates(),
            one.direct,
            len(one.finding.value),
            one.finding.value,
            one.finding.title,
        ),
    )
    return [best.finding]


def _alike(known: list[_Found], relation: Relation) -> bool:
    return all(relation.same(known[0].finding.value, one.finding.value) for one in known[1:])


__all__ = ["EXTRACTOR", "extract", "field_lines", "findings"]
