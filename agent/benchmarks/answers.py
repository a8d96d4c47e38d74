"""The judge and the verdict on labelled answers of models: no model runs, nothing is extracted.

A record holds an ``answer``, its ``label`` (current, outdated or irrelevant) and the slot's values
``current`` and ``history`` as [value, from, until], perhaps ``matched``, the value named.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from agent.benchmarks.rows import relation_asked, relation_named
from agent.benchmarks.scores import Measurement, Tally, confusion
from detectors.relations import Registry, Relation
from detectors.verdict import decide
from editors.metrics import wilson
from store.records import Belief, Day, Fact, Reply, VerdictKind

NEEDED = ("answer", "label", "current", "history")
LABELS = ("current", "outdated", "irrelevant")
_LABEL = {VerdictKind.KEEP: "current", VerdictKind.STALE: "outdated"}


def measure_answers(
    rows: Sequence[Mapping[str, Any]], registry: Registry, now: datetime
) -> Measurement:
    """Compare each answer's verdict with its label; each label is a class of its own."""
    tally, by_relation = Tally(), Tally()
    pairs, failures = [], []
    started = time.perf_counter()
    for row in rows:
        relation = _relation(row, registry)
        found = label_of(row, relation, now)
        truth = str(row["label"])
        pairs.append((truth, found))
        by_relation.add(relation.id, right=found == truth, missed=found != truth)
        for label in LABELS:
            tally.add(
                label,
                right=found == label == truth,
                wrong=found == label != truth,
                missed=truth == label != found,
            )
        if found != truth:
            failures.append(
                {
                    "subject": row.get("subject", ""),
                    "relation": relation.id,
                    "answer": row["answer"],
                    "label": truth,
                    "verdict": found,
                }
            )
    seconds = time.perf_counter() - started
    agree = sum(truth == found for truth, found in pairs)
    scores = tally.scores()
    del scores["all"]  # every answer has a label, so it would only repeat the agreement
    return Measurement(
        kind="answers",
        n=len(rows),
        seconds=seconds,
        shares={"agreement": wilson(agree, len(rows))}
        | {
            f"agreement, {name}": s.recall
            for name, s in by_relation.scores().items()
            if name != "all"
        },
        scores=scores,
        confusion=confusion(pairs),
        failures=tuple(failures),
    )


def label_of(row: Mapping[str, Any], relation: Relation, now: datetime) -> str:
    """Return the label that the verdict on an answer comes to."""
    current = [str(value[0]) for value in row["current"]]
    if len(current) > 1:  # a club and a national team
        relation = replace(relation, cardinality="many")
    belief = Belief(
        "", relation.id, (Reply(row.get("prompt", ""), str(row["answer"]), 0.0),), "", now
    )
    # A listed history may be cut short; the value that the label rests on belongs to it.
    matched = [row["matched"]] if row.get("matched") else []
    facts = facts_of(row["current"], [*row["history"], *matched], now)
    decision = decide(belief, facts, now.date().isoformat(), relation)
    if decision.kind is VerdictKind.AMBIGUOUS:
        return "ambiguous"
    return _LABEL.get(decision.kind, "irrelevant")


def facts_of(
    current: Sequence[Sequence[str]], history: Sequence[Sequence[str]], now: datetime
) -> list[Fact]:
    """Return the values of a slot as facts; what is current has no end."""
    held = {str(value[0]) for value in current}
    ended = [value for value in history if str(value[0]) not in held]
    return [_fact(value, n, now, False) for n, value in enumerate(current)] + [
        _fact(value, n + len(current), now, True) for n, value in enumerate(ended)
    ]


def _fact(value: Sequence[str], number: int, now: datetime, former: bool) -> Fact:
    start, end = (day_of(text) for text in (*value[1:3], "", "")[:2])
    return Fact(
        id=str(number),
        subject="",
        relation="",
        object=str(value[0]),
        claim_ids=(),
        recorded_from=now,
        valid_from=start,
        valid_until=end if former else None,
        former=former,
    )


def day_of(text: str) -> Day | None:
    """Return "2021-00-00" as "2021": unknown parts are written as zeros."""
    return text.split("-00")[0] or None


def _relation(row: Mapping[str, Any], registry: Registry) -> Relation:
    subject = str(row.get("subject", ""))
    found = relation_named(registry, str(row.get("relation", "")), subject) or relation_asked(
        registry, str(row.get("prompt", row.get("question", "")))
    )
    if found:
        return found
    # Any relation's rules will do; values are compared as names of people or bodies.
    return replace(next(iter(registry)), id="not in the registry", object_type="name")
