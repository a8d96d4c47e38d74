"""What the served model itself believes of a benchmark's slots, asked in one go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from agent.benchmarks.slots import Believe, read_slot
from agent.cycle import BELIEF_TOKENS
from agent.progress import Progress
from agent.served import ServedAsker, open_served
from agent.workspace import Workspace
from detectors.beliefs import ask_beliefs
from detectors.relations import Relation
from store.records import Reply, Slot


def believing(
    ws: Workspace, rows: Sequence[Mapping[str, Any]], now: datetime, progress: Progress
) -> Believe:
    """Ask the served model about every record's slot; return what it said of each."""
    slots: dict[tuple[str, str, str], Slot] = {}
    for row in rows:
        found = read_slot(row, ws.registry, now)
        if found.relation.id in ws.registry:
            key = (str(row["subject"]), found.relation.id, found.title)
            slots[key] = Slot(key[0], key[1])
    phrasings = ws.config.detect.phrasings
    with progress.stage("asking the model", len(slots) * phrasings) as advance:
        asker = ServedAsker(open_served(ws), BELIEF_TOKENS, advance)
        titled = [(slot, title) for (_, _, title), slot in slots.items()]
        beliefs = ask_beliefs(asker, titled, ws.registry, now, phrasings)
    said = {key: belief.replies for key, belief in zip(slots, beliefs, strict=True)}

    def believe(subject: str, relation: Relation, title: str) -> tuple[Reply, ...]:
        return said.get((subject, relation.id, title), ())

    return believe
