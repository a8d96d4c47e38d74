"""Claims from dated lists of office holders.

A title or heading ("Chancellors of Germany", "List of presidents of Nigeria") says which office
of what is meant; the lines below it give names with spells: "Angela Merkel (22 November 2005 –
8 December 2021)", "Bola Tinubu: 29 May 2023 – present", "3. Olaf Scholz | 2021 | 2025".
"""

from __future__ import annotations

import re
from datetime import datetime

from detectors.dates import DATE_PATTERN, begins, parse_day
from detectors.entities import canonical_subject
from detectors.extractors.spans import ACTING, Dates, Finding, Span, claim, lines
from detectors.names import person
from detectors.relations import Registry
from store.records import Claim, ClaimRole, Document

EXTRACTOR = "holders"

_OPEN = r"present|incumbent|today|now|date|in office|current"
_TO = r"\s*(?:–|—|-|−|\||\t|,|until|till|to)\s*"
_SPELL = re.compile(
    rf"(?P<name>[^\d|(\t:;,]{{2,80}}?)\s*(?:,\s*(?P<suffix>(?:Jr|Sr)\.?))?"
    rf"(?P<note>\s*\([^()\d]*\))?\s*"
    rf"(?:[(|\t:;,–—-]\s*)+"
    rf"(?:(?P<since>since|from)\s+)?(?P<start>{DATE_PATTERN})"
    rf"(?:{_TO}(?P<end>{DATE_PATTERN}|{_OPEN}))?(?P<tail>\s*\)?.*)",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\s*(?:[•*–-]\s*)?(?:(?:No\.\s*)?\d{1,3}(?:st|nd|rd|th)?\s*[.):|\t]\s*)?")
_HEADING = re.compile(
    r"(?:(?:a |the )?(?:dated |complete |full )?list of (?:all )?(?:the )?)?"
    r"(?P<office>[^\d:;|(]{2,60}?)\s+(?:of|at)\s+(?:the\s+)?(?P<subject>[^\d:;|]{2,60}?)"
    r"(?:\s*[,(–—:-].*|\s+(?:since|from|to|until)\s.*)?",
    re.IGNORECASE,
)
_JOINT = re.compile(r"\s(?:of|at)\s", re.IGNORECASE)
_SEQUEL = re.compile(r"\s*(?:\(|,|;|\||and|also|then)?.*?\d{4}", re.IGNORECASE)


def extract(document: Document, registry: Registry, now: datetime) -> list[Claim]:
    """Return the claims of every dated line below a heading that names a known office."""
    office = _office(document.title, registry)
    found: list[Finding] = []
    for line in lines(document.text):
        heading = _office(line.text, registry)
        if heading:
            office = heading
        elif office and _other_heading(line.text):
            office = None
        elif office:
            finding = _holder(line, *office, registry, now)
            if finding:
                found.append(finding)
    return [claim(document, registry, EXTRACTOR, now, finding) for finding in found]


def _office(heading: str, registry: Registry) -> tuple[str, str, str] | None:
    """Return (relation, subject, title) when a heading announces holders of a known office."""
    if not _JOINT.search(heading):  # nearly every line of a long document
        return None
    match = _HEADING.fullmatch(heading.strip())
    # In the plural, or called a list: "President of Nigeria" may head anything.
    if not match or not re.search(r"\blist of\b|s\b|men\b", heading.split(" of ")[0] + " of", re.I):
        return None
    subject = canonical_subject(match["subject"])
    for spelling in [*re.split(r"\s+and\s+", match["office"]), match["office"]]:
        relation = registry.relation_of_title(spelling, subject)
        if relation and registry[relation].object_type == "person":
            return relation, subject, registry.asked_title(relation, spelling)
    return None


def _other_heading(text: str) -> bool:
    """Whether a line opens a part about something else ("Deputy governors", "See also")."""
    if len(text.split()) > 8 or text[-1] in ".,;:!?" or re.search(r"\d", text):
        return False
    return not re.search(r"[|\t]|\b(?:name|term|office)\b", text, re.IGNORECASE)


def _holder(
    line: Span, relation: str, subject: str, title: str, registry: Registry, now: datetime
) -> Finding | None:
    lead = _NUMBER.match(line.text)
    offset = lead.end() if lead else 0
    match = _SPELL.fullmatch(line.text, offset)
    if not match:
        return None
    start, end = parse_day(match["start"]), match["end"]
    until = parse_day(end) if end else None
    ongoing = bool(end and not until) or (not end and bool(match["since"]))
    # "Shinzo Abe: 2006 – 2007, 2012 – 2020": a second spell in the line is not read, and
    # neither is a line with one bare date (a birth, an election).
    if start is None or not (until or ongoing) or _SEQUEL.fullmatch(match["tail"]):
        return None
    name = person(f"{match['name']} {match['suffix'] or ''}")
    if name is None or not match["name"].lstrip()[:1].isupper():
        return None
    if until and begins(until) < begins(start[: len(until)]):
        return None
    past = until is not None and begins(until) <= now.date()
    quoted = match.end("end") if end else match.end("start")
    quoted += line.text[quoted : quoted + 1] == ")"
    return Finding(
        subject,
        relation,
        name,
        ClaimRole.FORMER if past else ClaimRole.CURRENT,
        line.start + match.start("name"),
        line.start + quoted,
        title,
        Dates(start, until, "text"),
        bool(ACTING.search(line.text)),
    )
