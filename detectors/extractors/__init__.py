"""Documents to claims: every extractor reads every document and takes what it understands."""

from __future__ import annotations

from datetime import datetime

from detectors.extractors import cues, differences, fields, holders, patterns, wikidata
from detectors.relations import Registry
from store.records import Claim, Document

EXTRACTORS = (fields, holders, patterns, cues)
"""Those that read running text and pages. ``wikidata`` alone reads entity documents, whose labels
anyone may write; ``differences`` reads two versions of one page."""


def extract(
    document: Document, registry: Registry, now: datetime, previous: Document | None = None
) -> list[Claim]:
    """Return what a document claims, in the order of the text, each claim once.

    ``now`` is the moment of extraction (aware), ``previous`` the version of the page before this
    one. Every claim's quote is an exact span: ``document.text[claim.start:claim.end] ==
    claim.quote``.
    """
    claims: dict[str, Claim] = {}
    for extractor in (wikidata,) if wikidata.reads(document) else EXTRACTORS:
        for found in extractor.extract(document, registry, now):
            claims.setdefault(found.id, found)
    if previous is not None and not wikidata.reads(document):
        for found in differences.extract(document, previous, registry, now):
            claims.setdefault(found.id, found)
    return sorted(claims.values(), key=lambda found: (found.start, found.end))


__all__ = ["EXTRACTORS", "extract"]
