"""Entities of a Wikidata-like store as plain lines of text, written and read back.

    Q183: Germany | item | country | article Germany | also BRD; Federal Republic of Germany
    Q183: Germany | P6: head of government | Q61053: Olaf Scholz | normal rank | from 2021-12-08

One line is one statement, whole and quotable. A field opens with its kind (an id, "number",
"text", "from" …), so no label can pass for another kind; what could pass for another *field* or
line (a bar, a line break, a sign that is not seen) may not be written at all: :func:`writable`.
The colon after the first id, and the ids themselves, keep other readers of "field: value" lines
and of dated lists from finding anything here.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from store.records import Day

MAX_LABEL = 120
"""Characters of the longest label, text or alias that is written."""

COUNTRY, OTHER = "country", "other"
UNKNOWN = "unknown"
"""In the place of an end: it has ended, nobody says when."""

_BAR = " | "
_DAY = r"\d{4}(?:-\d{2}(?:-\d{2})?)?"
_HEAD = re.compile(r"(Q\d{1,12}): ([^|\n]+) \| item((?: \| [^|\n]+)*)")
_STATEMENT = re.compile(
    r"(?P<subject>Q\d{1,12}): (?P<label>[^|\n]+) \| (?P<property>P\d{1,8})(?:: [^|\n]+)?"
    r" \| (?P<value>[^|\n]+) \| (?P<rank>preferred|normal) rank(?P<tags>(?: \| [^|\n]+)*)"
)
_ENTITY = re.compile(r"(Q\d{1,12})(?:: (.+))?")
_LITERAL = re.compile(r"(number|text) (.+)")
_TAG = re.compile(
    rf"from (?P<start>{_DAY})|until (?P<end>{_DAY}|\d{{3}}0s|{UNKNOWN})|at (?P<point>{_DAY})"
    r"|unit (?P<unit>.+)|(?P<flag>acting|doubtful)"
)
_UNSEEN = frozenset({"Cc", "Cn", "Co", "Cs", "Zl", "Zp"})


@dataclass(frozen=True)
class Item:
    """What a block of lines is about. ``kind`` is "country", "other" or "" (not known),
    ``article`` the title of its article in the English Wikipedia, "" where not known."""

    id: str
    label: str
    kind: str = ""
    article: str = ""
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Statement:
    """One statement of an item. ``value`` is a label, number or text; with "" it is nameless,
    but still there. ``form`` is "entity", "number", "text" or "nothing".

    ``start`` and ``end`` say when it held (``end`` also "unknown", or a decade "1940s"),
    ``point`` when it was measured or announced. ``doubtful``: hedged, disputed, or of a part.
    """

    subject: str
    label: str
    property: str
    form: str
    value_id: str = ""
    value: str = ""
    unit: str = ""
    preferred: bool = False
    start: Day | None = None
    end: str | None = None
    point: Day | None = None
    acting: bool = False
    doubtful: bool = False


def writable(text: str) -> str:
    """Return a label as it may stand in a line, "" where it may not stand in any."""
    if not 0 < len(text) <= 2 * MAX_LABEL or "|" in text:
        return ""
    kinds = [unicodedata.category(char) for char in text]
    if not _UNSEEN.isdisjoint(kinds):
        return ""
    seen = "".join(char for char, kind in zip(text, kinds, strict=True) if kind != "Cf")
    line = " ".join(unicodedata.normalize("NFC", seen).split())
    return line if len(line) <= MAX_LABEL else ""


def item_line(item: Item) -> str:
    """Write the line that opens an item's block."""
    fields = [f"{item.id}: {item.label}", "item"]
    fields += [item.kind] if item.kind else []
    fields += [f"article {item.article}"] if item.article else []
    fields += ["also " + "; ".join(item.aliases)] if item.aliases else []
    return _BAR.join(fields)


def statement_line(statement: Statement, property_label: str = "") -> str:
    """Write one statement; :func:`read_statement` returns it as it was."""
    named = f": {property_label}" if property_label else ""
    fields = [f"{statement.subject}: {statement.label}", statement.property + named]
    fields += [_value(statement), f"{'preferred' if statement.preferred else 'normal'} rank"]
    fields += [f"unit {statement.unit}"] if statement.unit else []
    fields += [f"from {statement.start}"] if statement.start else []
    fields += [f"until {statement.end}"] if statement.end else []
    fields += [f"at {statement.point}"] if statement.point else []
    fields += [word for word in ("acting", "doubtful") if getattr(statement, word)]
    return _BAR.join(fields)


def read_item(line: str) -> Item | None:
    """Return the item that a line opens, or None."""
    match = _HEAD.fullmatch(line)
    if not match:
        return None
    kind, article = "", ""
    for tag in match[3].split(_BAR)[1:]:
        if tag in (COUNTRY, OTHER):
            kind = tag
        elif tag.startswith("article "):
            article = tag.removeprefix("article ")
    return Item(match[1], match[2], kind, article)


def read_statement(line: str) -> Statement | None:
    """Return the statement that a line makes; None for every other line."""
    match = _STATEMENT.fullmatch(line)
    if not match:
        return None
    entity, literal = _ENTITY.fullmatch(match["value"]), _LITERAL.fullmatch(match["value"])
    if not entity and not literal and match["value"] != "no value":
        return None
    tags: dict[str, str] = {}
    for text in match["tags"].split(_BAR)[1:]:
        tag = _TAG.fullmatch(text)
        if not tag:
            return None
        tags |= {name: value for name, value in tag.groupdict().items() if value and name != "flag"}
        tags |= {tag["flag"]: "yes"} if tag["flag"] else {}
    form = "entity" if entity else literal[1] if literal else "nothing"
    return Statement(
        match["subject"],
        match["label"],
        match["property"],
        form,
        value_id=entity[1] if entity else "",
        value=(entity[2] or "") if entity else literal[2] if literal else "",
        unit=tags.get("unit", ""),
        preferred=match["rank"] == "preferred",
        start=tags.get("start"),
        end=tags.get("end"),
        point=tags.get("point"),
        acting="acting" in tags,
        doubtful="doubtful" in tags,
    )


def _value(statement: Statement) -> str:
    if statement.form == "entity":
        return statement.value_id + (f": {statement.value}" if statement.value else "")
    if statement.form == "nothing" or not statement.value:
        return "no value"
    return f"{statement.form} {statement.value}"
