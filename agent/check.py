"""One question put to everything: the model, the sources, the verdict, and why."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from agent.cycle import BELIEF_TOKENS, title_of
from agent.report import Source
from agent.reporting import sources_of
from agent.served import Served, ServedAsker, aliases_of, open_served
from agent.workspace import Workspace
from detectors.beliefs import ask_beliefs
from detectors.questions import parse_question
from detectors.verdict import verdict_for
from editors.memory.scope import Scope
from editors.memory.tier import MemoryTier
from store.records import Slot, VerdictKind
from store.timeline import current


class UnfitQuestion(Exception):
    """A question that fits no relation; the message says which would."""


@dataclass(frozen=True)
class Checked:
    """What the bare weights believe about a question's slot, what the sources say, and what
    is answered as served."""

    question: str
    slot: Slot
    title: str
    believed: str
    current: str | None
    kind: VerdictKind
    path: tuple[str, ...]
    sources: tuple[Source, ...]
    served: str
    edit_id: str | None


def check(ws: Workspace, question: str, now: datetime) -> Checked:
    """Compare the model with the sources on one question.

    Raises:
        UnfitQuestion: the question asks for no slot of the registry.
    """
    slots = ws.store.facts.slots()
    asked = parse_question(question, ws.registry, aliases_of([s.subject for s in slots]))
    if asked is None:
        labels = ", ".join(relation.label for relation in ws.registry)
        raise UnfitQuestion(
            f"{question!r} fits no relation; ask for the present holder of an office or the "
            f'like ("Who is the chancellor of Germany?"); relations: {labels}'
        )
    slot = next((s for s in slots if s.key == asked.slot.key), asked.slot)
    facts = ws.store.facts.history(slot)
    title = asked.title or title_of(ws, slot, facts)
    served = open_served(ws)
    bare = Served(ws, MemoryTier(Scope()), None)
    relation = ws.registry[slot.relation]
    asker = ServedAsker(bare, BELIEF_TOKENS)
    asking = ws.config.detect
    (belief,) = ask_beliefs(
        asker, [(slot, title)], ws.registry, now, asking.phrasings, asking.samples
    )
    today = now.date().isoformat()
    verdict = verdict_for(belief, facts, today, relation, now, title)
    (answered,) = served.answer([question])
    claims = [
        claim
        for fact in current(facts, today)
        if verdict.current and relation.same(fact.object, verdict.current)
        for id in fact.claim_ids
        if (claim := ws.store.claims.get(id))
    ]
    return Checked(
        question=question,
        slot=slot,
        title=title,
        believed=verdict.believed or belief.replies[0].text,
        current=verdict.current,
        kind=verdict.kind,
        path=verdict.path,
        sources=sources_of(ws, claims),
        served=answered.text,
        edit_id=answered.edit_id,
    )
