"""What every extractor needs: name patterns, sentences with offsets, and the making of claims."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from detectors.names import UPPER
from detectors.relations import Registry
from store.records import Claim, ClaimRole, Day, Document, digest

ACTING = re.compile(r"\b(acting|interim|caretaker|transition(?:al)?|provisional)\b", re.IGNORECASE)

_END_OF_SENTENCE = re.compile(r"[.!?][\"”’')\]]*\s+(?=[\"“‘'(\[]*[^\Wa-z_])")
_ABBREVIATION = re.compile(
    r"(?:\b(?:Dr|Mr|Mrs|Ms|St|Sr|Jr|Gen|Col|Lt|Gov|Sen|Rep|Rev|Hon|Prof|Inc|Corp|Co|No|vs)"
    rf"|\b[{UPPER}]|\b[{UPPER}]\.[{UPPER}])\.$"
)


class Span(NamedTuple):
    start: int
    end: int
    text: str


def lines(text: str) -> Iterator[Span]:
    """Yield the lines of a text that hold more than white space."""
    for match in re.finditer(r"[^\n]+", text):
        line = match.group()
        if line.strip():
            start = match.start() + len(line) - len(line.lstrip())
            yield Span(start, start + len(line.strip()), line.strip())


def sentences(text: str, offset: int = 0) -> Iterator[Span]:
    """Yield the sentences of one line; ``offset`` is where the line begins in its document."""
    start = 0
    for match in _END_OF_SENTENCE.finditer(text):
        before = text[max(0, match.start() - 8) : match.start() + 1]
        if before.endswith(".") and _ABBREVIATION.search(before):
            continue
        yield Span(offset + start, offset + match.end(), text[start : match.end()].rstrip())
        start = match.end()
    if text[start:].strip():
        yield Span(offset + start, offset + len(text), text[start:].rstrip())


class Dates(NamedTuple):
    """When a claim holds, and where that is known from (``Claim.dated_by``)."""

    valid_from: Day | None = None
    valid_until: Day | None = None
    dated_by: str = "none"


class Finding(NamedTuple):
    """Who a span of a document says holds (held, will hold) which office of what."""

    subject: str
    relation: str
    value: str
    role: ClaimRole
    start: int
    end: int
    title: str = ""
    dates: Dates = Dates()
    acting: bool = False


def claim(
    document: Document, registry: Registry, extractor: str, now: datetime, found: Finding
) -> Claim:
    """Make the record of a finding; its quote is the exact span of the document."""
    title = registry.asked_title(found.relation, found.title) if found.title else ""
    return Claim(
        id=digest(
            document.id,
            found.relation,
            found.subject,
            found.value,
            found.role.value,
            str(found.start),
        ),
        subject=found.subject,
        relation=found.relation,
        object=found.value,
        role=found.role,
        document_id=document.id,
        quote=document.text[found.start : found.end],
        start=found.start,
        end=found.end,
        extractor=extractor,
        extracted=now,
        title=title,
        valid_from=found.dates.valid_from,
        valid_until=found.dates.valid_until,
        dated_by=found.dates.dated_by,
        acting=found.acting,
    )
