"""Entity JSON as a Wikidata-like store writes it: the few shapes that tests need."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]

_GREGORIAN = "http://www.wikidata.org/entity/Q1985727"
_UNIT = "http://www.wikidata.org/entity/"


def entity(
    id: str,
    label: str,
    claims: Mapping[str, Sequence[Json]] | None = None,
    article: str | None = "",
    aliases: Sequence[str] = (),
    revision: int = 1,
) -> Json:
    """Return an entity. ``article`` is its English one: "" = like the label, None = not told."""
    made: Json = {
        "type": "item",
        "id": id,
        "lastrevid": revision,
        "modified": "2026-02-01T00:00:00Z",
        "labels": {"en": {"language": "en", "value": label}},
        "aliases": {"en": [{"language": "en", "value": alias} for alias in aliases]},
        "claims": copy.deepcopy(dict(claims or {})),
    }
    if article is not None:
        made["sitelinks"] = {"enwiki": {"site": "enwiki", "title": article or label, "badges": []}}
    return made


def names(**labels: str) -> dict[str, Json]:
    """Return entities of which only the label matters: names(Q64="Berlin")."""
    return {id: entity(id, label) for id, label in labels.items()}


def statement(value: Json | str, rank: str = "normal", **qualifiers: Any) -> Json:
    """Return a statement: of an entity by its id, or of a snak. Qualifiers are snaks or ids;
    P580="2021-12-08" is a time as exact as it is written."""
    return {
        "type": "statement",
        "id": "x$1",
        "rank": rank,
        "mainsnak": item(value) if isinstance(value, str) else value,
        "qualifiers": {name: _snaks(given) for name, given in qualifiers.items()},
        "references": [{"snaks": {}, "hash": "0"}],
    }


def item(id: str) -> Json:
    value = {"entity-type": "item", "numeric-id": int(id[1:]), "id": id}
    return _snak("wikibase-entityid", value)


def moment(day: str, precision: int = 0, calendar: str = _GREGORIAN) -> Json:
    """Return a time snak; days and months that are not told are 00."""
    year, month, date = (*day.split("-"), "00", "00")[:3]
    value = {
        "time": f"+{year}-{month}-{date}T00:00:00Z",
        "precision": precision or 9 + day.count("-"),
        "calendarmodel": calendar,
        "timezone": 0,
    }
    return _snak("time", value)


def quantity(amount: str, unit: str = "") -> Json:
    return _snak("quantity", {"amount": amount, "unit": _UNIT + unit if unit else "1"})


def string(text: str) -> Json:
    return _snak("string", text)


def english(text: str, language: str = "en") -> Json:
    return _snak("monolingualtext", {"text": text, "language": language})


def nothing(kind: str = "novalue") -> Json:
    return {"snaktype": kind, "property": "P0"}


def _snak(kind: str, value: Any) -> Json:
    return {
        "snaktype": "value",
        "property": "P0",
        "datavalue": {"value": value, "type": kind},
    }


def _snaks(given: Any) -> list[Json]:
    if isinstance(given, list):
        return [snak for one in given for snak in _snaks(one)]
    if isinstance(given, str):
        return [item(given) if given.startswith("Q") else moment(given)]
    return [given]


GERMANY = entity(
    "Q183",
    "Germany",
    {
        "P31": [statement("Q3624078")],
        "P297": [statement(string("DE"))],
        "P6": [
            statement("Q567", P580="2005-11-22", P582="2021-12-08", P1366="Q61053"),
            statement("Q61053", P580="2021-12-08", P582="2025-05-06", P1365="Q567"),
            statement("Q1124", "preferred", P580="2025-05-06", P1365="Q61053"),
        ],
        "P35": [
            statement("Q76658", "preferred", P580="2017-03-19"),
            statement("Q2571", P580="2012-03", P582="2017-03"),
        ],
        "P36": [
            statement("Q64", "preferred", P580="1990-10-03"),
            statement("Q586", P580="1949", P582="1990"),
        ],
        "P38": [statement("Q4916", P580="2002"), statement("Q16068", P582="2001-12-31")],
        "P1082": [
            statement(quantity("+82792351"), P585="2017-12-31"),
            statement(quantity("+83577140"), "preferred", P585="2024-12-31"),
            statement(quantity("+80219695"), P585="2011-05-09"),
        ],
        "P1198": [statement(quantity("+3.4", "Q11229"), P585="2024")],
        "P2250": [statement(quantity("+80.64", "Q577"), P585="2016")],
        "P1313": [statement("Q4970706")],
        "P1906": [statement("Q25223")],
        "P190": [statement("Q90")],  # of no relation
    },
    aliases=["Federal Republic of Germany", "BRD"],
    revision=17,
)
FRANCE = entity(
    "Q142",
    "France",
    {
        "P297": [statement(string("FR"))],
        "P35": [
            statement("Q3052772", "preferred", P580="2017-05-14"),
            statement("Q157", P580="2012-05-15", P582="2017-05-14"),
            statement("Q329", "deprecated", P580="2007-05-16"),
        ],
        "P6": [statement("Q124", P580="2025-09-09")],
        "P36": [statement("Q90")],
        "P1906": [statement("Q191954")],
        "P1313": [statement("Q1587677")],
    },
    revision=4,
)
APPLE = entity(
    "Q312",
    "Apple Inc.",
    {
        "P31": [statement("Q4830453")],
        "P169": [
            statement("Q265852", "preferred", P580="2011-08-24"),
            statement("Q19837", P580="1997-09-16", P582="2011-08-24"),
        ],
        "P488": [statement("Q4798", P580="2011")],
        "P1128": [statement(quantity("+164000"), P585="2024-09-28")],
    },
    revision=9,
)
LABELS = names(
    Q567="Angela Merkel",
    Q61053="Olaf Scholz",
    Q1124="Friedrich Merz",
    Q76658="Frank-Walter Steinmeier",
    Q2571="Joachim Gauck",
    Q64="Berlin",
    Q586="Bonn",
    Q4916="euro",
    Q16068="Deutsche Mark",
    Q11229="percent",
    Q577="year",
    Q4970706="Federal Chancellor of Germany",
    Q25223="President of Germany",
    Q3052772="Emmanuel Macron",
    Q157="François Hollande",
    Q329="Nicolas Sarkozy",
    Q124="Sébastien Lecornu",
    Q90="Paris",
    Q191954="President of the French Republic",
    Q1587677="Prime Minister of France",
    Q265852="Tim Cook",
    Q19837="Steve Jobs",
    Q4798="Arthur D. Levinson",
)


def answer(*entities: Json, labels: Mapping[str, Json] = LABELS) -> Json:
    """Return entities with the labels of their values as one response."""
    return {"entities": {**labels, **{one["id"]: one for one in entities}}, "success": 1}
