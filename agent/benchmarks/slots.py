"""From evidence to verdict on slots that changed and slots that did not.

A record holds a ``subject``, a ``relation`` and either ``old_value`` and ``new_value`` (it changed)
or ``value`` (it did not). Where there is an ``evidence`` text the new value must be extracted from
it; otherwise the values are given as known, with ``all_values`` where their dates are.

Each record is judged once for each belief that a model may hold: the old value, which is STALE,
and the new one, which is not.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from agent.benchmarks.answers import facts_of
from agent.benchmarks.rows import relation_named
from agent.benchmarks.scores import Measurement, Tally, confusion
from detectors.dates import find_days, parse_day
from detectors.extractors import extract
from detectors.relations import Registry, Relation
from detectors.trust import approve
from detectors.verdict import Decision, decide
from editors.metrics import Interval, wilson
from store.records import (
    Belief,
    Claim,
    ClaimRole,
    Day,
    Document,
    Fact,
    Reply,
    VerdictKind,
    digest,
)
from store.timeline import assimilate, current

NEEDED = ("subject", "relation")
FEED = "evidence"
Believe = Callable[[str, Relation, str], tuple[Reply, ...]]
"""What a model answers for (subject, relation, title)."""


@dataclass(frozen=True)
class Slot:
    """What is known of a record's slot once its evidence has been read."""

    relation: Relation
    title: str
    facts: tuple[Fact, ...]
    claims: tuple[Claim, ...]
    document: Document | None


def measure_slots(
    rows: Sequence[Mapping[str, Any]],
    registry: Registry,
    now: datetime,
    believe: Believe | None = None,
) -> Measurement:
    """Judge every record; ``believe`` asks a model instead of supposing what it believes."""
    tally, pairs, failures = Tally(), [], []
    false_stale = kept = automatic = right_edits = found_new = with_evidence = 0
    started = time.perf_counter()
    for row in rows:
        slot = read_slot(row, registry, now)
        group = str(row.get("source") or slot.relation.id)
        if slot.document:
            with_evidence += 1
            found_new += _says(slot, values(row, "new_value"), now)
        for truth, replies in _beliefs(row, slot, registry, believe):
            decision = _decide(slot, replies, now)
            found = decision.kind.value
            pairs.append((truth, found))
            stale = decision.kind is VerdictKind.STALE
            tally.add(
                f"{group}: {slot.relation.id}",
                right=stale and truth == "STALE",
                wrong=stale and truth == "KEEP",
                missed=truth == "STALE" and not stale,
            )
            kept += truth == "KEEP"
            false_stale += truth == "KEEP" and stale
            if stale and _is_automatic(slot, decision, now):
                automatic += 1
                right_edits += truth == "STALE" and any(
                    slot.relation.same(decision.current or "", value)
                    for value in values(row, "new_value")
                )
            if truth != found and believe is None:
                failures.append(_failure(row, slot, truth, decision))
    shares: dict[str, Interval] = {"false STALE on what holds": wilson(false_stale, kept)}
    if with_evidence:
        shares["new value read from the evidence"] = wilson(found_new, with_evidence)
        shares["right among automatic edits"] = wilson(right_edits, automatic)
    return Measurement(
        kind="facts",
        n=len(rows),
        seconds=time.perf_counter() - started,
        shares=shares,
        scores=tally.scores() if believe is None else {},
        confusion=confusion(pairs),
        failures=tuple(failures),
    )


def read_slot(row: Mapping[str, Any], registry: Registry, now: datetime) -> Slot:
    """Return what a record's evidence, or its values, say of its slot."""
    subject = str(row["subject"])
    relation = relation_named(registry, str(row["relation"]), subject) or _unlisted(registry)
    if row.get("evidence"):
        return _from_evidence(row, subject, relation, registry, now)
    if row.get("all_values"):
        new = values(row, "new_value")
        held = [v for v in row["all_values"] if not v[2]] or [[value, "", ""] for value in new]
        relation = _many(relation) if len(held) > 1 else relation
        return Slot(relation, "", tuple(facts_of(held, row["all_values"], now)), (), None)
    if "new_value" in row:
        new, old = values(row, "new_value"), values(row, "old_value")
        history = [
            [value, _month(row.get("old_from")), _month(row.get("new_from"))] for value in old
        ]
        held = [[value, _month(row.get("new_from")), ""] for value in new]
    else:
        held, history = [[value, "", ""] for value in values(row, "value")], []
    relation = _many(relation) if len(held) > 1 else relation
    return Slot(relation, "", tuple(facts_of(held, history, now)), (), None)


def values(row: Mapping[str, Any], key: str) -> list[str]:
    """Return a record's values under a key, which may hold one or a list."""
    value = row.get(key) or []
    return [str(each) for each in value] if isinstance(value, list) else [str(value)]


def _from_evidence(
    row: Mapping[str, Any], subject: str, relation: Relation, registry: Registry, now: datetime
) -> Slot:
    """Read the evidence as a document; the old value is known from an earlier one."""
    text = str(row["evidence"]).removeprefix(f"{subject}, ")
    seen = parse_day(str(row.get("seen", "")))
    published = datetime.fromisoformat(seen).replace(tzinfo=UTC) if seen else None
    document = Document(
        digest(subject, text), FEED, "", subject, text, now, published, digest(text)
    )
    new = [c for c in extract(document, registry, now) if c.role is ClaimRole.CURRENT]
    if not new:
        return Slot(relation, "", (), (), document)
    since = _day(str(row.get("old_from") or ""))
    told = replace(
        new[0],
        id=digest(new[0].id, "old"),
        object=str(row["old_value"]),
        document_id="earlier",
        valid_from=since,
        dated_by="text" if since else "none",
    )
    if new[0].dated_by == "none" and seen:
        # Another value in the next version of a page, as the differences extractor has it.
        told = replace(told, role=ClaimRole.FORMER, valid_until=seen, dated_by="published")
    actual = registry[new[0].relation]
    claims = tuple(c for c in new if c.slot.key == new[0].slot.key)
    changes = assimilate([], [told, *claims], actual.same, now, single=actual.single)
    return Slot(actual, new[0].title, changes.insert, claims, document)


def _beliefs(
    row: Mapping[str, Any], slot: Slot, registry: Registry, believe: Believe | None
) -> list[tuple[str, tuple[Reply, ...]]]:
    """Return (truth, replies) for every belief that is to be judged."""
    subject = str(row["subject"])
    if believe is not None:
        said = believe(subject, slot.relation, slot.title)
        return [("changed" if "new_value" in row else "held", said)]
    if "new_value" not in row:
        supposed = [("KEEP", value) for value in values(row, "value")[:1]]
    else:
        old, new = values(row, "old_value")[:1], values(row, "new_value")[:1]
        supposed = [("STALE", value) for value in old] + [("KEEP", value) for value in new]
    return [(truth, _supposed(subject, slot, value, registry)) for truth, value in supposed]


def _supposed(subject: str, slot: Slot, value: str, registry: Registry) -> tuple[Reply, ...]:
    """A model that believes a value, in two ways of saying it."""
    known = slot.relation.id in registry
    stated = registry.statement(slot.relation.id, subject, slot.title, value) if known else value
    return Reply("", value, 0.0), Reply("", stated, 0.0)


def _decide(slot: Slot, replies: tuple[Reply, ...], now: datetime) -> Decision:
    belief = Belief("", slot.relation.id, replies, "", now)
    return decide(belief, slot.facts, now.date().isoformat(), slot.relation)


def _is_automatic(slot: Slot, decision: Decision, now: datetime) -> bool:
    """Whether the edit would be made without a person, its source being trusted."""
    if slot.document is None or not decision.current:
        return False
    support = [c for c in slot.claims if slot.relation.same(c.object, decision.current)]
    documents = {slot.document.id: slot.document}
    today: Day = now.date().isoformat()
    return approve(support, documents, slot.relation, {FEED}, today).tier == "auto"


def _says(slot: Slot, wanted: Sequence[str], now: datetime) -> bool:
    held = current(slot.facts, now.date().isoformat())
    return any(slot.relation.same(fact.object, value) for fact in held for value in wanted)


def _failure(
    row: Mapping[str, Any], slot: Slot, truth: str, decision: Decision
) -> Mapping[str, Any]:
    return {
        "subject": row["subject"],
        "relation": row["relation"],
        "read as": slot.relation.id,
        "old": row.get("old_value", row.get("value")),
        "new": row.get("new_value"),
        "current": decision.current,
        "truth": truth,
        "verdict": decision.kind.value,
        "path": list(decision.path),
    }


def _day(text: str) -> Day | None:
    """Return the first day in a text such as "30 July2020 and …"."""
    found = find_days(re.sub(r"(?<=[a-z])(?=\d)", " ", text))
    return found[0].day if found else None


def _month(text: object) -> str:
    """Return "Dec2021" as "2021-12"."""
    return _day(str(text or "")) or ""


def _many(relation: Relation) -> Relation:
    return replace(relation, cardinality="many")


def _unlisted(registry: Registry) -> Relation:
    return replace(next(iter(registry)), id="not in the registry", object_type="name")
