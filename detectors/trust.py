"""Whether a correction may be made without a person: corroboration, limits, alarms. Pure.

Which sources are independent is :mod:`detectors.sources`; which claims no longer count is
:mod:`detectors.withdrawal`. Nothing here is lost by a no: the next cycle asks again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from detectors.dates import begins
from detectors.relations import Relation
from detectors.sources import Span, independent, publisher
from store.records import Claim, ClaimRole, Day, Document

__all__ = [
    "CROWDED",
    "Approval",
    "Standing",
    "approve",
    "crowded",
    "independent",
    "publisher",
    "spent",
]

CROWDED = 25
"""A news text that changes more values than this is held back whole."""

_DAY = timedelta(days=1)
# Structured fields and dated lists of holders name many values by their nature.
_LISTS = frozenset({"fields", "holders", "wikidata", "differences"})


@dataclass(frozen=True)
class Approval:
    """``tier``: "auto" (may be made), "review" (a person decides) or "held" (not even asked).

    ``feeds`` are those that an automatic correction rests on, and is counted against.
    """

    tier: str
    path: tuple[str, ...]
    feeds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Standing:
    """What is known of sources beside what they say."""

    channels: AbstractSet[str] = frozenset()  # feeds that count as one source each
    fresh: AbstractSet[str] = frozenset()  # feeds in quarantine: no edit rests on them alone
    spent: AbstractSet[str] = frozenset()  # feeds whose corrections of the day are used up
    full: bool = False  # all automatic corrections of the night are used up
    withdrawn: Mapping[str, str] = field(default_factory=dict)  # claim id -> why it is no support


def crowded(claims: Iterable[Claim], limit: int = CROWDED) -> frozenset[str]:
    """Return the documents whose news text asserts more than ``limit`` distinct changes."""
    changes: dict[str, set[tuple[str, str]]] = {}
    for claim in claims:
        if claim.extractor not in _LISTS and claim.role is ClaimRole.CURRENT:
            changes.setdefault(claim.document_id, set()).add((claim.slot.key, claim.object))
    return frozenset(document for document, values in changes.items() if len(values) > limit)


def spent(
    automatic: Iterable[tuple[datetime, Sequence[str]]], now: datetime, limit: int
) -> frozenset[str]:
    """Return the feeds that ``limit`` or more automatic corrections of the last 24 hours rest on.

    ``automatic`` are corrections as (moment, feeds). The window rolls: a limit that is new at
    midnight lets twice as many through around it.
    """
    counts: dict[str, int] = {}
    for at, feeds in automatic:
        if now - _DAY < at:
            for feed in feeds:
                counts[feed] = counts.get(feed, 0) + 1
    return frozenset(feed for feed, count in counts.items() if count >= limit)


def approve(
    claims: Sequence[Claim],
    documents: Mapping[str, Document],
    relation: Relation,
    trusted_feeds: Collection[str],
    today: Day,
    held_documents: Collection[str] = (),
    standing: Standing | None = None,
) -> Approval:
    """Decide how far the claims that support a slot's current value may be acted on.

    ``claims`` support the value, ``documents`` maps their document ids, ``held_documents`` are
    those that :func:`crowded` named.
    """
    standing = standing or Standing()
    present = [claim for claim in claims if claim.role is not ClaimRole.FORMER]
    support = [c for c in present if c.document_id in documents]
    counted = [c for c in support if c.id not in standing.withdrawn]
    free = [c for c in counted if c.document_id not in held_documents]
    if counted and not free:
        return Approval("held", ("every source asserts too many changes at once",))
    if support and not free:
        why = dict.fromkeys(standing.withdrawn[c.id] for c in support if c.id in standing.withdrawn)
        return Approval("held", tuple(why))
    if not free:
        return Approval("held", ("no source supports the value",))
    path = []
    if relation.approval == "review":
        path.append(f"{relation.label}: every correction of this relation waits for approval")
    if all(claim.acting for claim in free):
        path.append("the holder is acting or interim")
    dated = [c for c in free if c.valid_from and begins(c.valid_from) <= begins(today)]
    if not dated:
        path.append("no source dates the value")
    if path:
        return Approval("review", tuple(path))
    return _corroborated(dated, documents, frozenset(trusted_feeds), standing)


def _corroborated(
    claims: Sequence[Claim],
    documents: Mapping[str, Document],
    trusted: frozenset[str],
    standing: Standing,
) -> Approval:
    feeds = {documents[claim.document_id].feed for claim in claims}
    vouched = sorted(feeds & trusted)
    able = [feed for feed in vouched if feed not in standing.spent]
    if able:
        return _within(
            standing, Approval("auto", (f"stated by the trusted feed {able[0]}",), (able[0],))
        )
    sources = _sources(claims, documents, standing)
    if len(sources) < 2 and not vouched:
        return Approval("review", (f"stated by one source only: {publisher(sources[0])}",))
    usable = [c for c in claims if documents[c.document_id].feed not in standing.spent]
    sources = _sources(usable, documents, standing)
    if len(sources) < 2:
        used = ", ".join(sorted(feeds & standing.spent))
        return Approval("review", (f"the day's automatic corrections are used up for {used}",))
    if all(document.feed in standing.fresh for document in sources):
        new = ", ".join(sorted({document.feed for document in sources}))
        return Approval("review", (f"every source is in quarantine as a new feed: {new}",))
    names = ", ".join(sorted(publisher(document) for document in sources))
    path = (f"stated by {len(sources)} independent sources: {names}",)
    return _within(
        standing, Approval("auto", path, tuple(sorted({document.feed for document in sources})))
    )


def _sources(
    claims: Sequence[Claim], documents: Mapping[str, Document], standing: Standing
) -> list[Document]:
    spans: dict[str, list[Span]] = {}
    for claim in claims:
        spans.setdefault(claim.document_id, []).append((claim.start, claim.end))
    found = [documents[id] for id in spans]
    return independent(found, standing.channels, spans, last=standing.fresh)


def _within(standing: Standing, approval: Approval) -> Approval:
    if not standing.full:
        return approval
    return Approval("review", (*approval.path, "the night's automatic corrections are used up"))
