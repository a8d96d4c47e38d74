"""Claims from the entities of a Wikidata-like store (see ``wikidata_lines`` for their text).

Ranks and qualifiers decide what a statement says of today:

- An end that has passed makes the value former, a start that is to come makes it future. An end
  of which only the year is known, in this year, leaves the statement open: it says nothing.
- Of the statements that may hold today only those of preferred rank count, if there are any. A
  single-valued relation with two of them says nothing; a many-valued one gives them all.
- Statements without a usable value (no value, unknown value, no label, hedged, disputed, of a
  part) give no claim, but still stand in the way of others: a preferred "no value" is a vacancy.
- Of measured values (numbers, versions) the newest counts. An older one was former from the day
  of the next one on: that is all a series of figures says.

Labels name many things. A subject is taken only under a name that is its own: that of its
English article where one is known, and a country's only for a country. Two items of one name in
a document, or two values of one name in a relation, are left out, all of them.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import date, datetime
from typing import NamedTuple

from detectors.dates import begins, ends
from detectors.entities import canonical_subject, is_country, normalise, subject_aliases
from detectors.extractors import wikidata_lines as lines_of
from detectors.extractors.spans import Dates, Finding, Span, claim, lines
from detectors.extractors.wikidata_lines import Item, Statement
from detectors.names import person
from detectors.relations import Registry, Relation
from store.records import Claim, ClaimRole, Day, Document
from store.timeline import agree, later

EXTRACTOR = "wikidata"

OFFICES = {"P6": "P1313", "P35": "P1906"}
"""A property with holders of an office -> the property that names the office."""
_NAMES = {"P6": "head of government", "P35": "head of state", "P488": "chairperson"}
# Registry rows may name a property that is stated of the object ("Merkel: position held …"), or
# one that repeats the label: neither can be read as a relation of the item itself.
_REVERSED = frozenset({"P39", "P166", "P1000", "P1344", "P1448"})
# A chairperson need not lead the party, or the church.
_NOT_SAID = frozenset({("P488", "party_leader"), ("P488", "religious_leader")})
_MEASURED = ("number", "version")
_FIGURES = 20  # former figures that are kept of one series
_SHARES = frozenset({"%", "percent", "percentage", "per cent"})
_DOLLARS = frozenset({"$", "us$", "usd", "us dollar", "united states dollar"})


class _Row(NamedTuple):
    """A statement with the line it stands on."""

    stated: Statement
    start: int
    end: int

    @property
    def key(self) -> str:
        return self.stated.value_id or self.stated.value or f"line {self.start}"


class _Said(NamedTuple):
    """What a row says: its role, and when."""

    row: _Row
    role: ClaimRole
    dates: Dates


def reads(document: Document) -> bool:
    """Whether a document is written in this format: other extractors have no business there."""
    return lines_of.read_item(document.text.partition("\n")[0]) is not None


def relations(registry: Registry) -> Iterator[Relation]:
    """Yield the relations that this extractor can read."""
    for relation in registry:
        if re.fullmatch(r"P\d+", relation.wikidata) and relation.wikidata not in _REVERSED:
            yield relation


def extract(document: Document, registry: Registry, now: datetime) -> list[Claim]:
    """Return the claims of every statement that says something of a relation of the registry."""
    if not reads(document):
        return []
    items: dict[str, Item] = {}
    blocks: dict[str, list[_Row]] = defaultdict(list)
    for line in lines(document.text):
        _sort_in(line, items, blocks)
    subjects = {id: subject_of(item) for id, item in items.items()}
    shared = Counter(normalise(subject) for subject in subjects.values() if subject)
    found: list[Finding] = []
    for id, subject in subjects.items():
        if subject and shared[normalise(subject)] == 1:
            found += _findings(subject, blocks[id], registry, now.date())
    claims = [claim(document, registry, EXTRACTOR, now, finding) for finding in found]
    return sorted(claims, key=lambda claimed: claimed.start)


def subject_of(item: Item) -> str | None:
    """Return the name that is an item's own, or None where its label is another's as well.

    The titles of articles tell namesakes apart: "Paris, Texas" is taken, "Georgia (U.S. state)"
    is not, and "Amazon (company)" is because it is listed.
    """
    name = canonical_subject(item.label)
    if not normalise(name):
        return None
    article = canonical_subject(item.article) if item.article else name
    if is_country(name):
        own = item.kind == "" and normalise(article) == normalise(name)
        return name if own or item.kind == lines_of.COUNTRY else None
    if article.endswith(")"):
        return name if subject_aliases(name) else None
    longer = normalise(article).startswith(f"{normalise(item.label)} ")
    named = article if longer else name
    return None if is_country(named) else named


def _sort_in(line: Span, items: dict[str, Item], blocks: dict[str, list[_Row]]) -> None:
    item = lines_of.read_item(line.text)
    if item:
        items.setdefault(item.id, item)
        return
    stated = lines_of.read_statement(line.text)
    if stated and stated.subject in items and items[stated.subject].label == stated.label:
        blocks[stated.subject].append(_Row(stated, line.start, line.end))


def _findings(
    subject: str, rows: Sequence[_Row], registry: Registry, today: date
) -> Iterator[Finding]:
    by_property: dict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        by_property[row.stated.property].append(row)
    for property_id, group in by_property.items():
        title = _office(by_property.get(OFFICES.get(property_id, ""), ()), today)
        relation = _relation(property_id, subject, title, registry)
        if relation is None:
            continue
        asked = title if normalise(title) in relation.titles else ""
        named = _without_namesakes(group)
        for row, role, dates in _settled(named, relation, today):
            value = _value(row.stated, relation)
            if value and normalise(value) != normalise(subject):
                acting = row.stated.acting
                place = (row.start, row.end)
                yield Finding(subject, relation.id, value, role, *place, asked, dates, acting)


def _office(rows: Iterable[_Row], today: date) -> str:
    """Return the title of the office that an item names ("Chancellor of Germany"), "" if none."""
    holding = _best([row for row in rows if _role(row.stated, today) is ClaimRole.CURRENT])
    titles = {re.split(r"\s+of\s+", row.stated.value)[0].casefold() for row in holding}
    return titles.pop() if len(titles) == 1 else ""


def _relation(property_id: str, subject: str, title: str, registry: Registry) -> Relation | None:
    """Choose among the relations of one property: a governor's, a mayor's, a prime minister's."""
    fitting = [
        relation
        for relation in relations(registry)
        if relation.wikidata == property_id
        and (property_id, relation.id) not in _NOT_SAID
        and relation.takes(subject)
    ]
    for narrower in (
        [relation for relation in fitting if title and normalise(title) in relation.titles],
        [relation for relation in fitting if relation.subject_words],
        [relation for relation in fitting if relation.label == _NAMES.get(property_id)],
        fitting,
    ):
        if len(narrower) == 1:
            return narrower[0]
    return None


def _without_namesakes(rows: Sequence[_Row]) -> list[_Row]:
    """Take the names from values that share theirs with another one of the same property."""
    ids: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row.stated.value_id:
            ids[normalise(row.stated.value)].add(row.stated.value_id)
    shared = {name for name, bearers in ids.items() if len(bearers) > 1}
    return [
        row._replace(stated=replace(row.stated, value=""))
        if row.stated.value_id and normalise(row.stated.value) in shared
        else row
        for row in rows
    ]


def _settled(rows: Sequence[_Row], relation: Relation, today: date) -> list[_Said]:
    """Say which statements of one property are current, former or future."""
    if relation.object_type in _MEASURED and any(_figure(row.stated) for row in rows):
        return _measured(rows, relation, today)
    roles = {row: _role(row.stated, today) for row in rows}
    standing = [row for row, role in roles.items() if role in (ClaimRole.CURRENT, None)]
    best = _best(standing)
    if relation.single and len({row.key for row in best}) > 1:
        best = []
    said = [row for row, role in roles.items() if role not in (ClaimRole.CURRENT, None)]
    said += [row for row in best if roles[row] is ClaimRole.CURRENT]
    return [
        _Said(row, role, _dates(row.stated))
        for row in said
        if (role := roles[row]) is not None and _speaks(row.stated)
    ]


def _role(stated: Statement, today: date) -> ClaimRole | None:
    """Return how a statement stands on a day; None where that cannot be told."""
    end = stated.end
    if end and _over(end, today):
        return ClaimRole.FORMER
    if stated.start and begins(stated.start) > today:
        return ClaimRole.FUTURE
    if (end and _first(end) <= today) or (stated.point and not stated.start):
        return None
    return ClaimRole.CURRENT


def _over(end: str, today: date) -> bool:
    """Whether an end has surely passed; a day's own is, for its successor holds from it on."""
    if end == lines_of.UNKNOWN:
        return True
    if end.endswith("s"):
        return int(end[:4]) + 9 < today.year
    return begins(end) <= today if len(end) == 10 else ends(end) < today


def _first(end: str) -> date:
    return date(int(end[:4]), 1, 1) if end.endswith("s") else begins(end)


def _best(rows: Sequence[_Row]) -> list[_Row]:
    return [row for row in rows if row.stated.preferred] or list(rows)


def _speaks(stated: Statement) -> bool:
    """Whether a statement may be believed: it names a value, without doubt, at possible times."""
    end = _known_end(stated)
    possible = not (stated.start and end and later(stated.start, end))
    return bool(stated.value) and not stated.doubtful and possible


def _known_end(stated: Statement) -> Day | None:
    known = stated.end and stated.end != lines_of.UNKNOWN and not stated.end.endswith("s")
    return stated.end if known else None


def _dates(stated: Statement) -> Dates:
    end = _known_end(stated)
    return Dates(stated.start, end, "text" if stated.start or end else "none")


def _figure(stated: Statement) -> bool:
    return stated.point is not None and stated.start is None and stated.end is None


def _measured(rows: Sequence[_Row], relation: Relation, today: date) -> list[_Said]:
    """Say which figure of a series is the present one, and until when older ones stood."""
    figures = [row for row in rows if _figure(row.stated) and begins(_point(row)) <= today]
    best = [row for row in _best(rows) if row in figures]
    if not best:
        return []
    newest = max(best, key=lambda row: (begins(_point(row)), _point(row)))
    rivals = [row for row in best if not later(_point(newest), _point(row))]
    if not all(_speaks(row.stated) for row in rivals) or not _agree(rivals, relation):
        return []
    said = [_Said(newest, ClaimRole.CURRENT, Dates(_point(newest), None, "text"))]
    spoken = [row for row in figures if _speaks(row.stated)]
    past = [row for row in spoken if later(_point(newest), _point(row))]
    past = sorted(past, key=lambda row: (begins(_point(row)), row.start))[-2 * _FIGURES :]
    for row in past:
        following = [_point(other) for other in past if later(_point(other), _point(row))]
        until = following[0] if following else _point(newest)
        twins = [other for other in past if agree(_point(other), _point(row))]
        if _agree(twins, relation):
            said.append(_Said(row, ClaimRole.FORMER, Dates(_point(row), until, "text")))
    return said[:1] + said[1:][-_FIGURES:]


def _point(row: _Row) -> Day:
    return row.stated.point or ""


def _agree(rows: Sequence[_Row], relation: Relation) -> bool:
    first = rows[0].stated.value
    return all(relation.same(first, row.stated.value) for row in rows[1:])


def _value(stated: Statement, relation: Relation) -> str:
    """Return a statement's value as the relation's object, "" where it is of another kind."""
    if relation.object_type == "number":
        return _number(stated, relation.unit) if stated.form == "number" else ""
    if stated.form == "number" or not stated.value:
        return ""
    if relation.object_type == "person":
        return person(stated.value) or "" if stated.form == "entity" else ""
    if relation.object_type in ("place", "org", "name") and stated.form != "entity":
        return ""
    return stated.value


def _number(stated: Statement, unit: str) -> str:
    """Return a number with its unit as news write it, "" where the unit is not the relation's."""
    given, wanted = _kind_of_unit(stated.unit), _kind_of_unit(unit)
    if given == "%":
        return f"{stated.value}%" if wanted in ("", "%") else ""
    if given == "$":
        return f"${stated.value}" if wanted in ("", "$") else ""
    if not given:  # a count
        return stated.value if wanted not in ("%", "$", "year") else ""
    return f"{stated.value} {unit}" if given == wanted else ""


def _kind_of_unit(unit: str) -> str:
    plain = " ".join(unit.casefold().split())
    if plain in _SHARES:
        return "%"
    singular = plain.removesuffix("s")
    return "$" if plain in _DOLLARS or singular in _DOLLARS else singular
