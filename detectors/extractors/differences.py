"""Claims from the difference between two versions of one page: a value that another replaced.

Where a field of the old version names another value than the same field of the new one, the old
value is a former one. A field that is gone says nothing (what is missing is not former), neither
does another spelling, a number within its tolerance, or a value with the same beginning, which
is a correction and no change.
"""

from __future__ import annotations

import re
from datetime import datetime

from detectors.dates import begins, day_of
from detectors.entities import canonical_subject
from detectors.extractors import fields
from detectors.extractors.spans import Dates, Finding, claim
from detectors.relations import Registry
from store.records import Claim, ClaimRole, Day, Document

EXTRACTOR = "differences"

_FIGURES = re.compile(r"[\d\W]+")
_HALF = 0.5  # of the fields changed: another page under the old address


def extract(
    document: Document, previous: Document, registry: Registry, now: datetime
) -> list[Claim]:
    """Return what the new version of a page makes former.

    ``document`` and ``previous`` are two versions of the page at one url, the newer one first;
    ``now`` is the moment of extraction (aware). A value ends when the new text says that its
    successor begins ("text"), else on the day of the new version ("published"). Quotes are spans
    of ``document``: the value that stands there now.
    """
    if not _one_page(document, previous):
        return []
    day = day_of(document.published or document.fetched)
    old, new = _present(previous, registry, now), _present(document, registry, now)
    found = []
    for slot, gone in old.items():
        come = new.get(slot)
        if come is None or registry[come.relation].same(gone.value, come.value):
            continue
        dates = _spell(gone, come, day)
        if dates:
            found.append(
                gone._replace(role=ClaimRole.FORMER, start=come.start, end=come.end, dates=dates)
            )
    found.sort(key=lambda finding: (finding.start, finding.relation))
    return [claim(document, registry, EXTRACTOR, now, finding) for finding in found]


def _one_page(document: Document, previous: Document) -> bool:
    """Whether two documents are versions of one page, in their order of time."""
    if (document.feed, document.url) != (previous.feed, previous.url):
        return False
    if canonical_subject(document.title) != canonical_subject(previous.title):
        return False
    if document.text == previous.text or _moment(document) < _moment(previous):
        return False
    old, new = _texts_of_fields(previous), _texts_of_fields(document)
    shared = old.keys() & new.keys()
    # Figures change every year; a page about something else differs in its words.
    changed = sum(old[n] != new[n] and _words(old[n]) != _words(new[n]) for n in shared)
    return bool(shared) and changed <= _HALF * len(shared)


def _moment(document: Document) -> datetime:
    return document.published or document.fetched


def _texts_of_fields(document: Document) -> dict[str, str]:
    return {name: value.text for name, value in fields.field_lines(document.text)}


def _words(text: str) -> str:
    return _FIGURES.sub("", text).casefold()


def _present(
    document: Document, registry: Registry, now: datetime
) -> dict[tuple[str, str], Finding]:
    """The present value of each slot that has one value at a time."""
    return {
        (finding.subject, finding.relation): finding
        for finding in fields.findings(document, registry, now)
        if finding.role is ClaimRole.CURRENT and registry[finding.relation].single
    }


def _spell(gone: Finding, come: Finding, day: Day) -> Dates | None:
    """When the old value held; None where the new one does not begin after it."""
    since, until = gone.dates.valid_from, come.dates.valid_from
    end = until or day
    if since and begins(end) <= begins(since):
        return None
    return Dates(since, end, "text" if until else "published")
