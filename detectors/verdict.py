"""The verdict: does the model believe what is true now, what was true, or neither?

Pure: a belief, the slot's facts and a day go in, a kind and the path that led there come out.
Calling every mismatch stale is the classic mistake (on 7-8B models wrong answers are 1.4-2.4 times
as common as stale ones), so an answer is STALE only when it equals a *former* value of the slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from detectors.answers import named, read
from detectors.beliefs import groups_of
from detectors.relations import Relation
from store.records import Belief, Day, Fact, Verdict, VerdictKind, digest
from store.timeline import current, past


@dataclass(frozen=True)
class Decision:
    """A kind, and the rules that fired in order, each with the values it saw."""

    kind: VerdictKind
    path: tuple[str, ...]
    believed: str
    current: str | None
    fact_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Reading:
    """How the answers to the phrasings fall."""

    total: int
    current: int  # phrasings that name a current value and no former one
    mixed: int  # phrasings that name a current and a former value, or two former ones
    former: Fact | None  # the former value that is named most
    former_count: int
    other: str  # the name that is no known value and is named most
    other_count: int
    believed: str


def decide(belief: Belief, facts: Sequence[Fact], today: Day, relation: Relation) -> Decision:
    """Compare what a model believes with what is known of a slot.

    ``facts`` are the open rows of the slot's history. A stale verdict needs half or more of
    the phrasings to name the same former value and none to name a current one.
    """
    holding, ended = current(facts, today), past(facts, today)
    now = _distinct(holding, relation)
    # Someone who holds the office again is not a former holder.
    before = [f for f in ended if not any(_same(f, held, relation) for held in now)]
    seen = _read(belief, now, before, relation)
    path = [
        *_spoken(seen),
        *_certainty(belief),
        *(f"current value: {_dated(fact)}" for fact in now),
    ]
    ids = tuple(fact.id for fact in (*now, *([seen.former] if seen.former else [])))
    kind, rules = _rule(seen, now, before, relation)
    value = ", ".join(fact.object for fact in now) if now else None
    single = value if len(now) <= 1 or not relation.single else None
    return Decision(kind, (*path, *rules), seen.believed, single, ids)


def _rule(
    seen: _Reading, now: Sequence[Fact], before: Sequence[Fact], relation: Relation
) -> tuple[VerdictKind, list[str]]:
    if not now:
        known = f"{len(before)} former" if before else "no"
        return VerdictKind.UNSUPPORTED, [f"no source states a current value ({known} values known)"]
    if relation.single and len(now) > 1:
        return VerdictKind.AMBIGUOUS, ["sources state several current values: a person must decide"]
    if not seen.total:
        return VerdictKind.UNKNOWN, ["the model was not asked"]
    half = seen.total / 2
    if seen.current >= half and not (seen.former_count or seen.mixed):
        return VerdictKind.KEEP, ["half or more name the current value and none a former one"]
    if seen.current > half:
        return VerdictKind.KEEP, ["most phrasings name the current value"]
    if seen.former and seen.former_count >= half and not (seen.current or seen.mixed):
        return VerdictKind.STALE, [
            f"former value: {seen.former.object} {_until(seen.former)}",
            "half or more name the same former value and none the current one",
        ]
    if seen.current and (seen.former_count or seen.mixed):
        return VerdictKind.AMBIGUOUS, ["the phrasings name both the current and a former value"]
    if seen.mixed >= half:
        return VerdictKind.AMBIGUOUS, ["the answers name several known values at once"]
    if seen.other_count > half:
        if relation.single:
            return VerdictKind.WRONG, [f"most name {seen.other}, which no source ever states"]
        return VerdictKind.UNKNOWN, ["the relation has many values: a missing one proves nothing"]
    return VerdictKind.UNKNOWN, ["the model has no stable answer"]


def _read(
    belief: Belief, now: Sequence[Fact], before: Sequence[Fact], relation: Relation
) -> _Reading:
    current_values = [fact.object for fact in now]
    object_type = relation.object_type
    former_values = _distinct(before, relation)
    values = [*current_values, *(fact.object for fact in former_values)]
    counts = dict.fromkeys(values, 0)
    holding = mixed = 0
    others: list[str] = []
    names: list[str] = []
    for reply in belief.replies:
        found = read(reply.text, values, object_type, tolerance=relation.tolerance)
        name = named(reply.text, object_type)
        names.append(found[0] if len(found) == 1 else name)
        if not found:
            others.append(name)
        elif all(value in current_values for value in found):
            holding += 1
        elif len(found) > 1:
            mixed += 1
        else:
            counts[found[0]] += 1
    former = max(former_values, key=lambda fact: counts[fact.object], default=None)
    most = max(groups_of(others, object_type), key=len, default=[""])
    said = max(groups_of(names, object_type), key=len, default=[""])
    count = counts[former.object] if former else 0
    return _Reading(
        total=len(belief.replies),
        current=holding,
        mixed=mixed,
        former=former if count else None,
        former_count=count,
        other=most[0],
        other_count=len(most) if most[0] else 0,
        believed=said[0],
    )


def _spoken(seen: _Reading) -> list[str]:
    if not seen.total:
        return []
    lines = []
    if seen.current:
        lines.append(f"{seen.current} of {seen.total} phrasings name the current value")
    if seen.former:
        count = seen.former_count
        lines.append(f"{count} of {seen.total} phrasings name {seen.former.object}, a former value")
    if seen.mixed:
        lines.append(f"{seen.mixed} of {seen.total} phrasings name several known values")
    if seen.other_count:
        lines.append(f"{seen.other_count} of {seen.total} phrasings name {seen.other}")
    return lines or [f"none of {seen.total} phrasings names a value"]


def _certainty(belief: Belief) -> list[str]:
    """How sure the model is, for a person to see; it decides nothing."""
    if not belief.agreement or belief.logprob is None:
        return []
    return [f"agreement {belief.agreement:.2f}, mean log-probability {belief.logprob:.1f}"]


def _distinct(facts: Sequence[Fact], relation: Relation) -> list[Fact]:
    """One fact a value, the latest spell of each."""
    latest: list[Fact] = []
    for fact in sorted(facts, key=lambda fact: fact.valid_from or "", reverse=True):
        if not any(relation.same(fact.object, known.object) for known in latest):
            latest.append(fact)
    return latest


def _same(one: Fact, other: Fact, relation: Relation) -> bool:
    return relation.same(one.object, other.object)


def _dated(fact: Fact) -> str:
    since = f" since {fact.valid_from}" if fact.valid_from else " (undated)"
    return f"{fact.object}{since}{' (acting)' if fact.acting else ''}"


def _until(fact: Fact) -> str:
    return f"until {fact.valid_until}" if fact.valid_until else "(end not known)"


def verdict_for(
    belief: Belief,
    facts: Sequence[Fact],
    today: Day,
    relation: Relation,
    now: datetime,
    title: str = "",
) -> Verdict:
    """Return the record of a decision."""
    decision = decide(belief, facts, today, relation)
    answers = tuple(reply.text for reply in belief.replies)
    return Verdict(
        id=digest(
            belief.subject,
            belief.relation,
            belief.model,
            decision.kind.value,
            decision.current or "",
            now.isoformat(),
            *answers,
        ),
        subject=belief.subject,
        relation=belief.relation,
        kind=decision.kind,
        path=decision.path,
        believed=decision.believed,
        current=decision.current,
        decided=now,
        title=title,
        fact_ids=decision.fact_ids,
        belief=belief,
    )
