"""From the store to the drift report: gather what lasts into ``ReportData``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from agent.report import (
    Answer,
    Baseline,
    Correction,
    FeedInput,
    QueueRow,
    ReportData,
    ReportPaths,
    SideEffects,
    Source,
    Status,
    VerdictRow,
    write_report,
)
from agent.retested import RetentionRun, survival
from agent.trust import held_back
from agent.workspace import Workspace
from editors.metrics import Interval
from store.records import ACTIVE_STATES, Claim, Edit, EditState, Verdict, from_json
from store.runs import Run

RETENTION_RUNS = 12  # how many of the last retention runs the picture shows


def write_current_report(ws: Workspace, now: datetime) -> ReportPaths:
    """Write the drift report of the home folder's present state to ``home/reports``."""
    return write_report(gather(ws, now), ws.home / "reports")


def gather(ws: Workspace, now: datetime) -> ReportData:
    """Collect the report's data from the store."""
    runs, aliases = ws.store.runs, ws.store.versions.aliases()
    cycle, night, gate = runs.latest("cycle"), runs.latest("nightly"), runs.latest("gate")
    verdicts = ws.store.verdicts.ls()
    edits = ws.store.edits.ls()
    done = [e for e in edits if e.state in ACTIVE_STATES]
    answers = {tier: _answers(runs.ls("answers"), tier) for tier in ("memory", "weights")}
    feeds = _list(FeedInput, cycle, "feeds")
    retested = tuple(from_json(RetentionRun, run.body) for run in reversed(runs.ls("retention")))
    return ReportData(
        title="Drift report",
        created=now,
        model=ws.model_path().name,
        model_hash=_hash_of(verdicts),
        base=aliases.get("base", "base"),
        serving=aliases.get("serving", "base"),
        candidate=aliases.get("candidate"),
        status=_status(night, done),
        reasons=tuple(night.body.get("reasons", ())) if night else (),
        feeds=tuple(feeds),
        documents=ws.store.documents.count(),
        claims=ws.store.claims.count(),
        slots=len(ws.store.facts.slots()),
        held=tuple(held_back(ws, now, waiting=False)),
        verdict_counts=ws.store.verdicts.counts(),
        verdicts=tuple(
            VerdictRow(v.subject, v.relation, v.title, v.believed, v.current, v.kind, v.path)
            for v in verdicts
        ),
        corrections=tuple(_correction(ws, edit, answers) for edit in done),
        pending=tuple(_row(e) for e in edits if e.state is EditState.PROPOSED),
        rejected=tuple(_row(e) for e in edits if e.state in (EditState.REJECTED, EditState.PARKED)),
        retention=retested[-RETENTION_RUNS:],
        survival=survival(retested),
        side_effects=_side_effects(gate),
        baselines=(
            *_list(Baseline, runs.latest("baselines"), "rows"),
            *_exported(runs.latest("export"), aliases.get("serving")),
        ),
        timings=dict(timings.body) if (timings := runs.latest("timings")) else {},
        notes=tuple(_notes(cycle, runs.ls("failure", 5), runs.ls("missed", 5))),
    )


def _exported(run: Run | None, serving: str | None) -> Iterator[Baseline]:
    """Yield what the serving version answers as a file, if it was exported."""
    checked = run.body["checked"] if run and run.body["version"] == serving else None
    if checked:
        yield from_json(Baseline, checked["row"])


def sources_of(ws: Workspace, claims: Sequence[Claim]) -> tuple[Source, ...]:
    """Return where claims come from, one a document, with the quoted span."""
    found: dict[str, Source] = {}
    for claim in claims:
        document = ws.store.documents.get(claim.document_id)
        if document is None or document.id in found:
            continue
        date = claim.valid_from or (
            document.published.date().isoformat() if document.published else ""
        )
        name = f"{document.feed}: {document.title}"
        found[document.id] = Source(name, document.url, date, claim.quote)
    return tuple(found.values())


def _correction(
    ws: Workspace, edit: Edit, answers: Mapping[str, Mapping[str, Answer]]
) -> Correction:
    verdict = ws.store.verdicts.get(edit.verdict_id)
    claims = [c for id in edit.claim_ids if (c := ws.store.claims.get(id))]
    before = verdict.belief.replies[0].text if verdict and verdict.belief else ""
    return Correction(
        edit_id=edit.id,
        subject=edit.subject,
        title=edit.title,
        question=edit.probes[0].question,
        old=edit.old,
        new=edit.new,
        state=edit.state,
        before=Answer(before, right=False),
        after_memory=answers["memory"].get(edit.id),
        after_weights=answers["weights"].get(edit.id),
        sources=sources_of(ws, claims),
        path=(*verdict.path, edit.reason)
        if verdict and edit.reason
        else (verdict.path if verdict else ()),
    )


def _answers(runs: Sequence[Run], tier: str) -> dict[str, Answer]:
    """Return each edit's last recorded answer of a tier."""
    found: dict[str, Answer] = {}
    for run in runs:  # the last first
        if run.body.get("tier") == tier:
            for id, answer in run.body["answers"].items():
                found.setdefault(id, Answer(answer["text"], answer["right"]))
    return found


def _status(night: Run | None, done: Sequence[Edit]) -> Status:
    if night and night.body.get("status") in ("promoted", "held"):
        return Status(night.body["status"])
    return Status.REMEMBERED if done else Status.NOTHING


def _side_effects(gate: Run | None) -> SideEffects | None:
    measured = gate.body["measured"] if gate else None
    if gate is None or measured is None:  # a candidate that could not be examined
        return None
    return SideEffects(
        locality_exact=from_json(Interval, measured["locality_exact"]),
        locality_prefix=from_json(Interval, measured["locality_prefix"]),
        ppl_ratio=measured["ppl_ratio"],
        tensors_added=gate.body.get("tensors_added", 0),
        parameters_added=gate.body.get("parameters_added", 0),
    )


def _notes(cycle: Run | None, failures: Sequence[Run], missed: Sequence[Run]) -> list[str]:
    notes = list(cycle.body.get("notes", ())) if cycle else []
    notes += [f"{run.body.get('job', 'a job')} failed: {run.body.get('error')}" for run in failures]
    notes += [
        f"{run.body.get('job', 'a job')} was missed at {run.at:%Y-%m-%d %H:%M}" for run in missed
    ]
    return notes


def _row(edit: Edit) -> QueueRow:
    return QueueRow(edit.id, edit.subject, edit.title, edit.old, edit.new, edit.reason)


def _list(cls: type[Any], run: Run | None, key: str) -> list[Any]:
    return [from_json(cls, item) for item in run.body.get(key, ())] if run else []


def _hash_of(verdicts: Sequence[Verdict]) -> str:
    """The base model's hash as the beliefs name it: the report needs no model loaded."""
    models = [v.belief.model for v in verdicts if v.belief]
    return models[-1].partition("+")[0] if models else ""
