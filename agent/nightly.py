"""The night: consolidate, measure, gate, promote or hold, report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent import gate
from agent.baselines import compare
from agent.consolidation import Consolidated, consolidate
from agent.examination import Examined, Unfit, examine_candidate
from agent.progress import Progress
from agent.retention import assess
from agent.rollback import left_for
from agent.served import active_edits, collect_replies, open_served
from agent.workspace import Workspace
from store.failpoints import reach
from store.records import ACTIVE_STATES, Edit, EditState, Version, to_json

if TYPE_CHECKING:
    from sqlalchemy import Connection


@dataclass(frozen=True)
class NightlyResult:
    """``status``: "promoted", "held" or "nothing to do"."""

    status: str
    reasons: tuple[str, ...]
    version: str | None = None
    report: Path | None = None


def nightly(
    ws: Workspace, now: datetime, progress: Progress, weakened: bool = False
) -> NightlyResult:
    """Bring the weights up to date with the ledger, if the candidate passes the gate.

    ``weakened``: consolidate even where the serving version carries every edit, because the
    retention monitor found that it no longer answers them.
    """
    from agent.reporting import write_current_report

    edits = active_edits(ws)
    serving = ws.store.versions.alias("serving")
    carried = set(serving.edit_ids) if serving else set()
    if carried == {e.id for e in edits} and not weakened:
        result = NightlyResult("nothing to do", ("the serving version carries every edit",))
    elif not edits:
        ws.store.versions.set_alias("serving", None, now)
        result = NightlyResult("promoted", ("no edit is left: back to the base weights",))
    else:
        result = _consolidate(ws, edits, serving, now, progress, weakened)
    ws.store.runs.add("nightly", now, to_json(result))
    kept = ws.config.versions
    ws.store.versions.collect(kept.keep, kept.keep_monthly, now)
    collect_replies(ws)
    return NightlyResult(
        result.status, result.reasons, result.version, write_current_report(ws, now).html
    )


def _consolidate(
    ws: Workspace,
    edits: Sequence[Edit],
    serving: Version | None,
    now: datetime,
    progress: Progress,
    weakened: bool,
) -> NightlyResult:
    """Make a candidate, and promote or hold it; what it could not carry stays in memory."""
    candidate = consolidate(ws, edits, now, progress)
    reach("nightly.consolidated")
    left = len(edits) - len(candidate.edits)
    over = (
        (
            f"{left} of {len(edits)} corrections stay in the memory tier: the night had no more "
            "time (consolidation.minutes) or room (consolidation.growth)",
        )
        if left
        else ()
    )
    if not candidate.edits or (serving and candidate.version.id == serving.id and not weakened):
        return NightlyResult("nothing to do", over or ("the same weights came out again",))
    why = left_for(ws.store, candidate.version)
    result = (
        _examine_and_decide(ws, candidate, now, progress)
        if why is None
        else _hold(ws, candidate.version, why, now)
    )
    return replace(result, reasons=(*result.reasons, *over))


def _examine_and_decide(
    ws: Workspace, candidate: Consolidated, now: datetime, progress: Progress
) -> NightlyResult:
    edits = candidate.edits
    try:
        examined = examine_candidate(ws, candidate, edits, progress)
    except Unfit as unfit:
        return _refuse(ws, candidate, unfit, now)
    result = promote_or_hold(ws, candidate, examined, now)
    reach("nightly.promoted")
    rows = compare(ws, open_served(ws), edits, examined.results, progress)
    ws.store.runs.add("baselines", now, {"rows": rows})
    return result


def _hold(ws: Workspace, version: Version, why: str, now: datetime) -> NightlyResult:
    """Leave what serves: a person went back from the very version that this night computed."""
    ws.store.versions.set_alias("candidate", version.id, now)
    reason = (
        f"a person left this version ({why}); "
        "`corrigenda versions promote candidate` serves it again"
    )
    return NightlyResult("held", (reason,), version.id)


def _refuse(ws: Workspace, candidate: Consolidated, unfit: Unfit, now: datetime) -> NightlyResult:
    """Hold a candidate of which nothing could be measured; what serves and the edits stay."""
    decision = gate.refuse(unfit.reasons)
    version = candidate.version
    with ws.store.begin() as conn:
        ws.store.versions.set_alias("candidate", version.id, now, conn=conn)
        body = {"version": version.id, "measured": None} | to_json(decision)
        ws.store.runs.add("gate", now, body, conn=conn)
    return NightlyResult("held", decision.reasons, version.id)


def promote_or_hold(
    ws: Workspace, candidate: Consolidated, examined: Examined, now: datetime
) -> NightlyResult:
    """Move ``serving`` if the gate lets the candidate pass; an edit that the weights do not
    answer stays in the memory tier."""
    decision = gate.decide(examined.measured, ws.config.consolidation)
    version = candidate.version
    with ws.store.begin() as conn:
        ws.store.versions.set_alias("candidate", version.id, now, conn=conn)
        body = {
            "version": version.id,
            "measured": to_json(examined.measured),
            "tensors_added": len(candidate.delta.tensors()),
            "parameters_added": candidate.delta.parameters_added,
        }
        ws.store.runs.add("gate", now, body | to_json(decision), conn=conn)
        reach("nightly.gated")
        ws.store.runs.add(
            "answers",
            now,
            {
                "tier": "weights",
                "version": version.id,
                "answers": _answers(ws, candidate.edits, examined),
            },
            conn=conn,
        )
        if decision.promote:
            ws.store.versions.set_alias("serving", version.id, now, conn=conn)
            _settle(ws, candidate.edits, examined, now, conn)
            # Every edit has just been asked of what serves from now on: a re-test for nothing.
            floor = ws.config.retention.floor
            held = assess("consolidated", now, candidate.edits, examined.results, floor)
            ws.store.runs.add("retention", now, to_json(held.run), conn=conn)
    status = "promoted" if decision.promote else "held"
    return NightlyResult(status, decision.reasons, version.id)


def _answers(ws: Workspace, edits: Sequence[Edit], examined: Examined) -> dict[str, dict[str, Any]]:
    """Return by edit what the candidate's weights answer to the edited question."""
    found = {}
    for edit in edits:
        text = examined.answers.get(edit.probes[0].question, "")
        right = ws.registry[edit.relation].mentions(text, edit.new, edit.former)
        found[edit.id] = {"text": text, "right": right}
    return found


def _settle(
    ws: Workspace, edits: Sequence[Edit], examined: Examined, now: datetime, conn: Connection
) -> None:
    """Mark the edits that the new weights answer as consolidated, and those that they had no
    room for as remembered."""
    carried = {edit.id for edit in edits}
    for edit in ws.store.edits.ls(EditState.CONSOLIDATED, conn=conn):
        if edit.id not in carried:
            reason = "the new weights have no room for it; it stays in memory"
            ws.store.edits.move(edit.id, EditState.REMEMBERED, now, reason, conn=conn)
    answers = _answers(ws, edits, examined)
    for edit in edits:
        before = ws.store.edits.find(edit.id, conn).state
        if before not in ACTIVE_STATES:
            continue  # taken back while the night was at work
        holds = answers[edit.id]["right"]
        state = EditState.CONSOLIDATED if holds else EditState.REMEMBERED
        if state is not before:
            reason = "" if holds else "the weights do not answer it; it stays in memory"
            ws.store.edits.move(edit.id, state, now, reason, conn=conn)
