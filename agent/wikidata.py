"""Entity JSON of a Wikidata-like store to text that quotes well (``detectors…wikidata_lines``).

An entity is first reduced to what the registry's relations need, so that a megabyte of statements
becomes a few lines, and an edit elsewhere in the entity changes nothing. Labels of its values come
from wherever the caller has them. Everything in the JSON is hostile: what has not the expected
form is passed over, never an error.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Any

from agent.documents import clean_text
from detectors.dates import parse_day
from detectors.entities import normalise
from detectors.extractors.spans import ACTING
from detectors.extractors.wikidata import OFFICES, relations, subject_of
from detectors.extractors.wikidata_lines import (
    COUNTRY,
    OTHER,
    UNKNOWN,
    Item,
    Statement,
    item_line,
    statement_line,
    writable,
)
from detectors.relations import Registry
from store.records import Day

LANGUAGES = ("en", "mul")
"""Languages of labels, the first that there is; "mul" is the one for names alike everywhere."""

Properties = tuple[tuple[str, str], ...]
"""Property ids with their labels, in order."""

_OFFICE_NAMES = {
    "P1313": "office held by head of government",
    "P1906": "office held by head of state",
}
# Sovereign state, country, state with limited recognition, constituent country (of the UK).
_COUNTRIES = frozenset({"Q3624078", "Q6256", "Q15634554", "Q1763527", "Q3336843"})
_ISO_COUNTRY = "P297"
_HEDGES = ("P1480", "P5102")  # sourcing circumstances, nature of statement
_ROLES = ("P39", "P794", "P2868", "P3831")  # in which role: "acting president", "candidate"
_NOT_IN_OFFICE = re.compile(
    r"\b(?:former|designate|elect|nominee|candidate|deputy|vice|honorary|claimant)\b", re.IGNORECASE
)
# Disputed; only of a part, platform, sex or jurisdiction; or with an end that is only bounded.
_PARTIAL = frozenset(
    {"P1310", "P518", "P642", "P1001", "P6001", "P21", "P400", "P306", "P887"}
    | {"P1326", "P8554", "P12506"}
)
_VERSION_TYPE, _STABLE = "P548", "Q2804309"
_START, _END, _END_CAUSE = "P580", "P582", "P1534"
_POINTS = ("P585", "P577")  # point in time, publication date
_GREGORIAN = "Q1985727"
_ALIASES = 12
_NOTES = 20  # of one file or poll
_MAX_STATEMENTS = 500  # of one property
_TIME = re.compile(r"\+(\d{4})-(\d{2})-(\d{2})T")
_ID = re.compile(r"Q[1-9]\d{0,11}")
_ENTITY_URL = re.compile(r"/(Q[1-9]\d{0,11})$")


@dataclass(frozen=True)
class _Draft:
    """A statement whose labels are still to be found."""

    statement: Statement
    unit_id: str = ""
    hedges: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()

    def ids(self) -> set[str]:
        return {self.statement.value_id, self.unit_id, *self.hedges, *self.roles} - {""}


@dataclass(frozen=True)
class Entity:
    """What is kept of one entity. ``revision`` is 0 where it is not known."""

    item: Item
    drafts: tuple[_Draft, ...]
    revision: int = 0

    def ids(self) -> set[str]:
        """Return the ids whose labels are needed to write it down."""
        return {id for draft in self.drafts for id in draft.ids()}


@dataclass(frozen=True)
class Page:
    """One entity as a document's title and text."""

    id: str
    title: str
    text: str


def properties(registry: Registry) -> Properties:
    """Return the properties that are read: those of the registry, and what names an office."""
    wanted: dict[str, str] = {}
    for relation in relations(registry):
        wanted.setdefault(relation.wikidata, writable(relation.label))
    offices = {OFFICES[id] for id in wanted if id in OFFICES}
    wanted |= {id: _OFFICE_NAMES[id] for id in offices}
    return tuple(sorted(wanted.items(), key=lambda pair: int(pair[0][1:])))


def from_text(text: str, wanted: Properties) -> tuple[list[Page], list[str]] | None:
    """Return the pages of a file of entities and notes; None when it holds no entities.

    Read are a response ({"entities": {…}}), a bare entity, a list of entities, and one entity a
    line. Labels are those of the entities in the file.
    """
    raw = list(_entities(text))
    if not raw:
        return None
    labels = {id: label for one in raw if (id := entity_id(one)) and (label := label_of(one))}
    entities = [entity for one in raw if (entity := reduce(one, wanted)) and entity.drafts]
    return pages(entities, labels, wanted)


def pages(
    entities: Sequence[Entity],
    labels: Mapping[str, str],
    wanted: Properties,
    others: Iterable[Item] = (),
) -> tuple[list[Page], list[str]]:
    """Return a page for each entity, in order, and notes on what was left out.

    ``others``: items that are not written this time, but whose names are not to be confused.
    """
    known = {item.id: item for item in (*others, *(entity.item for entity in entities))}
    bearers: dict[str, set[str]] = defaultdict(set)
    for item in known.values():
        if subject := subject_of(item):
            bearers[normalise(subject)].add(item.id)
    written, notes = [], []
    for entity in entities:
        item, subject = entity.item, subject_of(entity.item)
        if not subject:
            said = item.article or item.label or "no English label"
            notes.append(f"{item.id} is left out: its name ({said}) is not its alone")
            continue
        twins = bearers[normalise(subject)] - {item.id}
        if twins:
            notes.append(f"{item.id} is left out: {', '.join(sorted(twins))} is {subject} as well")
            continue
        nameless = _nameless(entity, labels)
        if nameless:
            count = f"{len(nameless)} value{'s' * (len(nameless) > 1)}"
            notes.append(f"{item.id} ({subject}): {count} without an English label left out")
        written.append(Page(item.id, subject, render(entity, labels, wanted)))
    if len(notes) > _NOTES:
        notes = [*notes[:_NOTES], f"{len(notes) - _NOTES} more notes of this kind"]
    return written, notes


def render(entity: Entity, labels: Mapping[str, str], wanted: Properties) -> str:
    """Return an entity's text: the order of its statements in the JSON makes no difference."""
    names = dict(wanted)
    statements = sorted((_named(draft, labels) for draft in entity.drafts), key=_order)
    lines = [statement_line(one, names.get(one.property, "")) for one in dict.fromkeys(statements)]
    return "\n".join([item_line(entity.item), *lines])


def reduce(raw: Any, wanted: Properties) -> Entity | None:
    """Return what is kept of an entity's JSON; None when it is no item or has no label."""
    id, label = entity_id(raw), label_of(raw)
    if not id or not label:
        return None
    claims = _dig(raw, "claims")
    claims = claims if isinstance(claims, dict) else {}
    kept = [
        draft
        for property_id, _ in wanted
        for one in _list(claims.get(property_id))[:_MAX_STATEMENTS]
        if (draft := _draft(one, id, label, property_id))
    ]
    revision = _dig(raw, "lastrevid")
    return Entity(item_of(raw), tuple(kept), revision if isinstance(revision, int) else 0)


def item_of(raw: Any) -> Item:
    """Return what an entity's JSON says of its name and kind."""
    label = label_of(raw)
    given = [_plain(_dig(one, "value")) for one in _list(_dig(raw, "aliases", "en"))]
    aliases = sorted({alias for alias in given if alias and alias != label})
    article = _plain(_dig(raw, "sitelinks", "enwiki", "title"))
    return Item(entity_id(raw), label, _kind(raw), article, tuple(aliases[:_ALIASES]))


def entity_id(raw: Any) -> str:
    """Return an item's id, "" for what is no item."""
    id = _dig(raw, "id")
    return id if isinstance(id, str) and _ID.fullmatch(id) else ""


def label_of(raw: Any) -> str:
    """Return an item's English label, "" where it has none that can be written."""
    found = (_dig(raw, "labels", language, "value") for language in LANGUAGES)
    return _plain(next((label for label in found if label), ""))


def _plain(text: Any) -> str:
    line = writable(text) if isinstance(text, str) else ""
    # A label that text cleaning would change hides something: special tokens, odd signs.
    return line if line and clean_text(line) == line else ""


def _entities(text: str) -> Iterator[Any]:
    try:
        data = json.loads(text)
    except RecursionError:
        return
    except ValueError:
        lines = (line.strip().rstrip(",") for line in text.splitlines())
        yield from filter(_is_entity, map(_parsed, (line for line in lines if line[:1] == "{")))
        return
    inside = _dig(data, "entities")
    if isinstance(inside, dict):
        # Of a merged entity the key is the old id; where it names its own, that is meant.
        data = [{"id": id, **one} for id, one in inside.items() if isinstance(one, dict)]
    yield from filter(_is_entity, data if isinstance(data, list) else [data])


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _is_entity(data: Any) -> bool:
    return bool(entity_id(data)) and isinstance(_dig(data, "labels"), dict)


def _kind(raw: Any) -> str:
    """Tell a country by its code or class: a state of a union may bear a country's name."""
    classes = set(filter(None, map(_value_id, _list(_dig(raw, "claims", "P31")))))
    if _list(_dig(raw, "claims", _ISO_COUNTRY)) or classes & _COUNTRIES:
        return COUNTRY
    return OTHER if classes else ""


def _draft(raw: Any, id: str, label: str, property_id: str) -> _Draft | None:
    """Return one statement; None when it is deprecated or has no known form."""
    rank, main = _dig(raw, "rank"), _dig(raw, "mainsnak")
    if rank not in ("preferred", "normal"):
        return None
    bare = Statement(id, label, property_id, "nothing", preferred=rank == "preferred")
    kind = _dig(main, "snaktype")
    if kind not in ("value", "novalue", "somevalue"):
        return None
    found = _valued(bare, main) if kind == "value" else _Draft(bare)
    return _qualified(found, _dig(raw, "qualifiers"))


def _valued(bare: Statement, main: Any) -> _Draft:
    """Return a statement with its value; one of an unknown kind is there, but has none."""
    form, value = _dig(main, "datavalue", "type"), _dig(main, "datavalue", "value")
    if form == "wikibase-entityid" and entity_id(value):
        return _Draft(replace(bare, form="entity", value_id=entity_id(value)))
    if form == "quantity" and (number := _number(_dig(value, "amount"))):
        unit = _dig(value, "unit")
        match = _ENTITY_URL.search(unit) if isinstance(unit, str) else None
        if unit == "1" or match:
            return _Draft(replace(bare, form="number", value=number), match[1] if match else "")
    english = form == "monolingualtext" and _dig(value, "language") == "en"
    text = _plain(_dig(value, "text") if english else value if form == "string" else "")
    return _Draft(replace(bare, form="text", value=text) if text else bare)


def _number(amount: Any) -> str:
    """Return a quantity as "83,200,000" or "4.5", "" for what is none."""
    if not isinstance(amount, str) or not re.fullmatch(r"[+-]?\d{1,24}(?:\.\d{1,24})?", amount):
        return ""
    try:
        number = f"{Decimal(amount):,f}"
    except InvalidOperation:
        return ""
    return number.rstrip("0").rstrip(".") if "." in number else number


def _qualified(draft: _Draft, qualifiers: Any) -> _Draft:
    snaks = qualifiers if isinstance(qualifiers, dict) else {}
    stated, doubtful = draft.statement, bool(_PARTIAL & set(snaks))
    start, _ = _moment(snaks.get(_START), decades=False)
    end, unclear = _moment(snaks.get(_END), decades=True)
    if not end and (_END_CAUSE in snaks or _unknown(snaks.get(_END))):
        end = UNKNOWN
    points = [day for id in _POINTS if (day := _moment(snaks.get(id), decades=False)[0])]
    kinds = {_entity_of(snak) for snak in _list(snaks.get(_VERSION_TYPE))}
    hedges = [id for name in _HEDGES for snak in _list(snaks.get(name)) if (id := _entity_of(snak))]
    roles = [id for name in _ROLES for snak in _list(snaks.get(name)) if (id := _entity_of(snak))]
    return replace(
        draft,
        statement=replace(
            stated,
            start=start,
            end=end,
            point=points[0] if points else None,
            doubtful=doubtful or unclear or bool(kinds - {_STABLE}),
        ),
        hedges=tuple(sorted(hedges)),
        roles=tuple(sorted(roles)),
    )


def _moment(snaks: Any, decades: bool) -> tuple[Day | None, bool]:
    """Return the day that qualifiers of one property agree on, and whether it stays unclear.

    Several days are as exact as what they share: "2021-05-06" and "2021-06-01" say 2021.
    """
    values = [_dig(snak, "datavalue", "value") for snak in _list(snaks)]
    days = [day for value in values if (day := _day(value, decades))]
    given = [value for value in values if value is not None]
    if len(days) < len(given) or any(day.endswith("s") for day in days[1:]):
        return None, True
    if not days:
        return None, False
    shared = days[0]
    for day in days[1:]:
        while shared and day[: len(shared)] != shared:
            shared = shared.rpartition("-")[0]
    return (shared, False) if shared else (None, True)


def _day(value: Any, decades: bool) -> Day | None:
    """Return a time value as a partial day, or, where wanted, as a decade ("1940s")."""
    time, precision = _dig(value, "time"), _dig(value, "precision")
    match = _TIME.match(time) if isinstance(time, str) else None
    if not match or not isinstance(precision, int):
        return None
    year, month, day = match.groups()
    if precision == 8 and decades:
        return f"{year[:3]}0s"
    calendar = _dig(value, "calendarmodel")
    if isinstance(calendar, str) and not calendar.endswith(_GREGORIAN):
        precision = min(precision, 9)  # the Julian day is another one
    exact = {9: year, 10: f"{year}-{month}"}.get(precision, f"{year}-{month}-{day}")
    found = parse_day(exact) if precision >= 9 else None
    return found or (parse_day(year) if precision >= 9 else None)


def _unknown(snaks: Any) -> bool:
    return any(_dig(snak, "snaktype") == "somevalue" for snak in _list(snaks))


def _named(draft: _Draft, labels: Mapping[str, str]) -> Statement:
    """Return the statement with its labels. What has no label is nameless, not forgotten."""
    stated = draft.statement
    if stated.form == "entity":
        stated = replace(stated, value=labels.get(stated.value_id, ""))
    if draft.unit_id:
        unit = labels.get(draft.unit_id, "")
        stated = replace(stated, unit=unit) if unit else replace(stated, form="nothing", value="")
    hedges = [labels.get(id, "") for id in draft.hedges]
    roles = [labels.get(id, "") for id in draft.roles]
    acting = any(ACTING.search(label) for label in (*hedges, *roles))
    hedged = any(not ACTING.search(label) for label in hedges)
    # A role without a label may be any role.
    in_part = any(not label or _NOT_IN_OFFICE.search(label) for label in roles)
    return replace(stated, acting=acting, doubtful=stated.doubtful or hedged or in_part)


def _nameless(entity: Entity, labels: Mapping[str, str]) -> set[str]:
    return {id for id in entity.ids() if id not in labels}


def _order(stated: Statement) -> tuple[Any, ...]:
    when = (stated.start or "", stated.point or "", stated.end or "")
    return (int(stated.property[1:]), *when, stated.value_id, stated.value, repr(stated))


def _value_id(raw: Any) -> str:
    return _entity_of(_dig(raw, "mainsnak")) if _dig(raw, "rank") != "deprecated" else ""


def _entity_of(snak: Any) -> str:
    return entity_id(_dig(snak, "datavalue", "value"))


def _dig(data: Any, *path: str) -> Any:
    """Follow keys into nested objects; None where one is missing or no object."""
    for key in path:
        if not isinstance(data, dict):
            return None
        data = data.get(key)
    return data


def _list(data: Any) -> list[Any]:
    return data if isinstance(data, list) else []
