"""Documents to claims: every extractor reads every document and takes what it understands."""

from __future__ import annotations

from datetime import datetime

from detectors.extractors import fields, holders, patterns
from detectors.relations import Registry
from store.records import Claim, Document

EXTRACTORS = (fields, holders, patterns)


def extract(document: Document, registry: Registry, now: datetime) -> list[Claim]:
    """Return what a document claims, in the order of the text, each claim once.

    ``now`` is the moment of extraction (aware). Every claim's quote is an exact span:
    ``document.text[claim.start:claim.end] == claim.quote``.
    """
    claims: dict[str, Claim] = {}
    for extractor in EXTRACTORS:
        for found in extractor.extract(document, registry, now):
            claims.setdefault(found.id, found)
    return sorted(claims.values(), key=lambda found: (found.start, found.end))


__all__ = ["EXTRACTORS", "extract"]
