"""Whether a correction may be made without a person: sources, corroboration, alarms. Pure.

Being told often is not being told independently: one story on twenty sites is one source. Two
supporting claims count as independent only with different publishers *and* different texts.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from detectors.dates import begins
from detectors.entities import normalise
from detectors.extractors import patterns
from detectors.relations import Relation
from store.records import Claim, ClaimRole, Day, Document

CROWDED = 25
"""A news text that changes more values than this is held back whole."""

_NEAR = 0.5  # share of word runs from which two texts count as one story
_RUN = 4  # words
# Second labels under which names are registered ("example.co.uk").
_SECOND = frozenset({"ac", "co", "com", "edu", "gob", "gov", "gouv", "net", "or", "org"})


@dataclass(frozen=True)
class Approval:
    """``tier``: "auto" (may be made), "review" (a person decides) or "held" (not even asked)."""

    tier: str
    path: tuple[str, ...]


def crowded(claims: Iterable[Claim], limit: int = CROWDED) -> frozenset[str]:
    """Return the documents whose news text asserts more than ``limit`` distinct changes.

    Structured fields and dated lists of holders are exempt: listing many values is their nature.
    """
    changes: dict[str, set[tuple[str, str]]] = {}
    for claim in claims:
        if claim.extractor == patterns.EXTRACTOR and claim.role is ClaimRole.CURRENT:
            changes.setdefault(claim.document_id, set()).add((claim.slot.key, claim.object))
    return frozenset(document for document, values in changes.items() if len(values) > limit)


def approve(
    claims: Sequence[Claim],
    documents: Mapping[str, Document],
    relation: Relation,
    trusted_feeds: Collection[str],
    today: Day,
    held_documents: Collection[str] = (),
) -> Approval:
    """Decide how far the claims that support a slot's current value may be acted on.

    ``claims`` support the value, ``documents`` maps their document ids, ``held_documents`` are
    those that :func:`crowded` named.
    """
    path = []
    present = [claim for claim in claims if claim.role is not ClaimRole.FORMER]
    support = [c for c in present if c.document_id in documents]
    free = [c for c in support if c.document_id not in held_documents]
    if support and not free:
        return Approval("held", ("every source asserts too many changes at once",))
    if not free:
        return Approval("held", ("no source supports the value",))
    if relation.approval == "review":
        path.append(f"{relation.label}: every correction of this relation waits for approval")
    if all(claim.acting for claim in free):
        path.append("the holder is acting or interim")
    dated = [c for c in free if c.valid_from and begins(c.valid_from) <= begins(today)]
    if not dated:
        path.append("no source dates the value")
    if path:
        return Approval("review", tuple(path))
    trusted = sorted({documents[c.document_id].feed for c in dated} & set(trusted_feeds))
    if trusted:
        return Approval("auto", (f"stated by the trusted feed {trusted[0]}",))
    sources = independent([documents[claim.document_id] for claim in dated])
    if len(sources) > 1:
        names = ", ".join(publisher(document) for document in sources)
        return Approval("auto", (f"stated by {len(sources)} independent sources: {names}",))
    return Approval("review", (f"stated by one source only: {publisher(sources[0])}",))


def independent(documents: Sequence[Document]) -> list[Document]:
    """Return documents no two of which share a publisher or, nearly, a text."""
    chosen: list[Document] = []
    for document in sorted(documents, key=lambda document: document.id):
        if all(
            publisher(document) != publisher(other) and not _one_story(document, other)
            for other in chosen
        ):
            chosen.append(document)
    return chosen


def publisher(document: Document) -> str:
    """Return who published a document: its registrable domain, or the feed for local files."""
    host = (urlsplit(document.url).hostname or "").casefold().rstrip(".")
    if not host or "." not in host or _is_address(host):
        return document.feed
    labels = host.split(".")
    # "example.co.uk" is registered as three labels, "news.example.com" as two.
    size = 3 if len(labels) > 2 and len(labels[-1]) == 2 and labels[-2] in _SECOND else 2
    return ".".join(labels[-size:])


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _one_story(one: Document, other: Document) -> bool:
    first, second = _runs(one.text), _runs(other.text)
    if not first or not second:
        return normalise(one.text) == normalise(other.text)
    # Of the shorter text: a copy with a longer tail is a copy.
    return len(first & second) / min(len(first), len(second)) >= _NEAR


def _runs(text: str) -> set[tuple[str, ...]]:
    words = normalise(text).split()
    return {tuple(words[n : n + _RUN]) for n in range(len(words) - _RUN + 1)}
