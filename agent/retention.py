"""The retention monitor: earlier corrections are asked again, in the weights alone.

The memory tier answers its edits by construction; what can weaken is the weights tier.
A run re-asks each consolidated edit's battery with no memory attached. When the lower
bound of the pass rate crosses the floor, consolidation is due and the edits that failed go
back to the memory tier alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from agent.battery import (
    IN_SCOPE,
    Reference,
    Result,
    leaks,
    locality_questions,
    run_battery,
    share,
)
from agent.progress import Progress
from agent.retested import EditRate, KindRate, RetentionRun
from agent.served import open_served
from agent.workspace import Workspace
from detectors.relations import Registry
from editors import metrics
from editors.model import ChatModel
from store.records import Edit, EditState, ProbeKind, digest, to_json


@dataclass(frozen=True)
class RetentionResult:
    """One run: the record for the report, and the edits that no longer answer."""

    run: RetentionRun
    results: tuple[Result, ...]
    fallen: tuple[Edit, ...]

    @property
    def triggered(self) -> bool:
        return self.run.triggered


def assess(
    label: str, at: datetime, edits: Sequence[Edit], results: Sequence[Result], floor: float
) -> RetentionResult:
    """Judge a run. Pure. The bound, not the point, decides (design.md §5.7)."""
    scoped = [r for r in results if r.kind in IN_SCOPE]
    rate = metrics.wilson(sum(r.passed for r in scoped), len(scoped))
    by_edit = {e.id: [r for r in scoped if r.edit_id == e.id] for e in edits}
    fallen = {
        e.id for e in edits if any(r.kind is ProbeKind.EDIT and not r.passed for r in by_edit[e.id])
    }
    run = RetentionRun(
        label=label,
        at=at,
        pass_rate=rate,
        floor=floor,
        # Few probes give a low bound even when all pass: a perfect run is no weakness.
        triggered=rate.low < floor and any(not r.passed for r in scoped),
        leaks=leaks(results),
        kinds=tuple(
            KindRate(kind, share(results, kind))
            for kind in ProbeKind
            if any(r.kind is kind for r in results)
        ),
        edits=tuple(
            EditRate(
                e.id,
                f"{e.title} of {e.subject}".strip(),
                sum(r.passed for r in by_edit[e.id]),
                len(by_edit[e.id]),
                held=e.id not in fallen,
                since=e.created,
            )
            for e in edits
        ),
    )
    return RetentionResult(run, tuple(results), tuple(e for e in edits if e.id in fallen))


def measure(
    label: str,
    model: ChatModel,
    edits: Sequence[Edit],
    reference: Reference,
    registry: Registry,
    floor: float,
    at: datetime,
    progress: Progress,
    max_new_tokens: int,
    most: int = 4,
) -> RetentionResult:
    """Ask the batteries of ``edits`` of a model as it stands, and assess the answers.

    ``reference`` must hold the unedited model's answers to the locality questions already;
    ``most`` bounds the probes of a kind and edit.
    """
    known = reference.answers(())
    with progress.stage(f"re-asking {len(edits)} corrections ({label})", None):

        def ask(questions: Sequence[str]) -> list[str]:
            return [r.text for r in model.answer(questions, max_new_tokens=max_new_tokens)]

        results = run_battery(ask, edits, known, registry, most)
    return assess(label, at, edits, results, floor)


def sampled(edits: Sequence[Edit], size: int, seed: str) -> list[Edit]:
    """Return at most ``size`` edits, spread over relation and age.

    Edits are grouped by relation and age quarter and drawn from the groups in turn; which
    of a group are drawn follows from ``seed``.
    """
    if len(edits) <= size:
        return list(edits)
    by_age = sorted(edits, key=lambda e: e.created)
    groups: dict[tuple[str, int], list[Edit]] = {}
    for index, edit in enumerate(by_age):
        groups.setdefault((edit.relation, 4 * index // len(by_age)), []).append(edit)
    queues = [
        sorted(group, key=lambda e: digest(seed, e.id)) for _, group in sorted(groups.items())
    ]
    drawn: list[Edit] = []
    while len(drawn) < size:
        for queue in queues:
            if queue and len(drawn) < size:
                drawn.append(queue.pop())
    return drawn


def check_retention(ws: Workspace, now: datetime, progress: Progress) -> RetentionResult:
    """Re-ask a sample of the consolidated edits of the serving version, and act on it.

    A fallen edit goes back to the memory tier's care at once; the run is recorded.
    """
    edits = sampled(
        ws.store.edits.ls(EditState.CONSOLIDATED), ws.config.retention.sample, now.isoformat()
    )
    tokens = ws.config.model.max_new_tokens
    reference = Reference(ws.model, ws.home / "cache", tokens)
    reference.answers(locality_questions(edits))
    served = open_served(ws)
    with served.weights_only() as model:
        result = measure(
            "scheduled",
            model,
            edits,
            reference,
            ws.registry,
            ws.config.retention.floor,
            now,
            progress,
            tokens,
        )
    with ws.store.begin() as conn:
        for edit in result.fallen:
            reason = "the weights no longer answer it"
            ws.store.edits.move(edit.id, EditState.REMEMBERED, now, reason, conn=conn)
        ws.store.runs.add("retention", now, to_json(result.run), conn=conn)
    return result
