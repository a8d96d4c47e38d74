"""From a verdict to an edit: what to state, and the battery of questions that tests it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from detectors.entities import subject_aliases
from detectors.relations import Registry, Relation
from detectors.trust import Approval
from store.records import Edit, EditState, Fact, Probe, ProbeKind, Verdict, VerdictKind, digest
from store.timeline import current

_ALIASES = 2  # alias probes an edit
_NEIGHBOURS = 4  # near-entity probes an edit
_HOPS = 2  # one-hop probes an edit
_KINDS = {"country": "country", "person": "person"}  # what a subject that is not named is called


def propose(
    verdict: Verdict,
    facts: Sequence[Fact],
    relation: Relation,
    registry: Registry,
    title: str,
    approval: Approval,
    now: datetime,
    neighbours: Sequence[tuple[str, str, str]] = (),
    known: Sequence[tuple[str, str]] = (),
) -> Edit:
    """Return the edit that corrects a slot.

    ``neighbours`` are other slots as (subject, title, relation id), whose answers the edit must
    leave alone; ``known`` are other offices of the subject as (title, holder), by which the
    subject can be told without its name. The edit is queued when the approval is "auto" and
    waits as proposed otherwise.
    Raises ValueError for a verdict without one current value, or for an approval "held".
    """
    if not verdict.current:
        raise ValueError(f"no current value of {verdict.slot.key}: nothing to correct to")
    if approval.tier == "held":
        raise ValueError(f"{verdict.slot.key} is held back: {'; '.join(approval.path)}")
    new = verdict.current
    former = _former(verdict, facts, relation, new)
    return Edit(
        id=digest(verdict.slot.key, verdict.believed, new),
        subject=verdict.subject,
        relation=verdict.relation,
        title=title,
        old=verdict.believed,
        new=new,
        statement=registry.statement(verdict.relation, verdict.subject, title, new),
        probes=battery(
            verdict.subject, relation, registry, title, new, neighbours, former[:1], known
        ),
        state=EditState.QUEUED if approval.tier == "auto" else EditState.PROPOSED,
        created=now,
        updated=now,
        verdict_id=verdict.id,
        subject_aliases=subject_aliases(verdict.subject),
        former=former,
        claim_ids=_support(facts, new, relation, now),
        reason="; ".join(approval.path),
    )


def battery(
    subject: str,
    relation: Relation,
    registry: Registry,
    title: str,
    new: str,
    neighbours: Sequence[tuple[str, str, str]] = (),
    former: Sequence[str] = (),
    known: Sequence[tuple[str, str]] = (),
) -> tuple[Probe, ...]:
    """Return the probes of an edit: in scope with the expected value, out of scope without.

    What follows from the edit is asked too: whether each ``former`` value still holds, and for
    the new value of a subject that is described by what is ``known`` of it.
    """
    asked = registry.questions(relation.id, subject, title)
    probes = [Probe(ProbeKind.EDIT, asked[0], new)]
    probes += [
        Probe(ProbeKind.PARAPHRASE, question, new)
        for question in registry.held_out(relation.id, subject, title)
    ]
    probes += [
        Probe(ProbeKind.ALIAS, registry.questions(relation.id, alias, title)[0], new)
        for alias in subject_aliases(subject)[:_ALIASES]
    ]
    probes += [
        Probe(ProbeKind.NEGATION, _still(registry.statement(relation.id, subject, title, old)), new)
        for old in former
    ]
    kind = _KINDS.get(relation.subjects, "one")
    probes += [
        Probe(
            ProbeKind.ONE_HOP,
            registry.questions(relation.id, f"the {kind} whose {other} is {value}", title)[0],
            new,
        )
        for other, value in known[:_HOPS]
    ]
    probes += [
        Probe(ProbeKind.SAME_SUBJECT, question)
        for question in registry.same_subject(relation.id, subject, title)
    ]
    others = [n for n in neighbours if (n[0].casefold(), n[2]) != (subject.casefold(), relation.id)]
    probes += [
        Probe(ProbeKind.NEAR_ENTITY, registry.questions(other_relation, other, other_title)[0])
        for other, other_title, other_relation in others[:_NEIGHBOURS]
    ]
    return tuple(probes)


def _still(statement: str) -> str:
    """Turn a statement into the question whether it still holds."""
    said = statement.rstrip(".")
    said = said[0].lower() + said[1:] if said.startswith("The ") else said
    return f"Is it still true that {said}?"


def _former(
    verdict: Verdict, facts: Sequence[Fact], relation: Relation, new: str
) -> tuple[str, ...]:
    """The values that must no longer be answered: former holders, and what was believed."""
    values: list[str] = []
    named = [verdict.believed] if verdict.kind in (VerdictKind.STALE, VerdictKind.WRONG) else []
    for value in [*named, *(fact.object for fact in facts)]:
        if value and not any(relation.same(value, known) for known in [new, *values]):
            values.append(value)
    return tuple(values)


def _support(facts: Sequence[Fact], new: str, relation: Relation, now: datetime) -> tuple[str, ...]:
    today = now.date().isoformat()
    holding = [f for f in current(facts, today) if relation.same(f.object, new)]
    return tuple(sorted({claim for fact in holding for claim in fact.claim_ids}))
