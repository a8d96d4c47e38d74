"""status: how things stand, at a glance."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import typer

from agent.commands import output
from agent.commands.output import brief, moment
from agent.commands.shell import DEGRADED, AsJson, group, shell

if TYPE_CHECKING:
    from datetime import datetime

    from agent.workspace import Workspace

app = group("How things stand.")

RECENT = timedelta(days=1)
"""How long a failed or missed job counts as trouble."""


@app.command(epilog="Example: corrigenda status --json")
def status(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Show the model served, edits, verdicts, runs and troubles. Exit code 3: degraded."""
    with shell(ctx).open() as ws:
        found = gather(ws, ws.now())
    if as_json:
        output.dump(found)
    else:
        _tell(found)
    if found["troubles"]:
        raise typer.Exit(DEGRADED)


def gather(ws: Workspace, now: datetime) -> dict[str, Any]:
    """Return how a home stands, as JSON types; ``troubles`` is empty when all is well."""
    from agent.daemon import next_runs
    from agent.lock import holder

    store = ws.store
    runs = store.runs.ls(limit=500)
    last = {run.kind: run for run in reversed(runs)}
    aliases = store.versions.aliases()
    return {
        "home": str(ws.home),
        "process": holder(ws.home),
        "model": ws.config.model.path or "bundled SmolLM2-135M-Instruct",
        "serving": aliases.get("serving"),
        "aliases": aliases,
        "documents": store.documents.count(),
        "claims": store.claims.count(),
        "facts": store.facts.count(),
        "verdicts": store.verdicts.counts(),
        "edits": store.edits.counts(),
        "last_runs": {kind: run.at.isoformat() for kind, run in last.items()},
        "next_runs": {job: due.isoformat() for job, due in next_runs(ws.home).items()},
        "troubles": _troubles(ws, now),
    }


def _troubles(ws: Workspace, now: datetime) -> list[str]:
    configured = {feed.name for feed in ws.config.feeds}
    found = [
        f"feed {state.name} failed {state.failures} times: {state.error}"
        for state in ws.store.feeds.ls()
        if state.failures and state.name in configured
    ]
    for run in reversed(ws.store.runs.ls(limit=500)):
        if run.at < now - RECENT:
            continue
        if run.kind == "failure":
            found.append(f"{moment(run.at)} {run.body['job']} failed: {run.body['error']}")
        elif run.kind == "missed":
            found.append(f"{run.body['job']}, due {run.body['due'][:16]}, was missed")
    return list(dict.fromkeys(found))


def _tell(found: dict[str, Any]) -> None:
    def counted(counts: dict[str, int]) -> str:
        return " · ".join(f"{name} {n}" for name, n in counts.items() if n) or "none"

    def times(moments: dict[str, str]) -> str:
        shown = (f"{name} {at[:16].replace('T', ' ')}" for name, at in moments.items())
        return " · ".join(shown)

    process = found["process"]
    output.details(
        [
            ("home", found["home"]),
            ("daemon", f"running (process {process})" if process else "not running"),
            ("model", found["model"]),
            ("serving", brief(found["serving"]) if found["serving"] else "base"),
            ("aliases", " · ".join(f"{n} {brief(id)}" for n, id in found["aliases"].items())),
            (
                "read",
                f"{found['documents']} documents, {found['claims']} claims, {found['facts']} facts",
            ),
            ("verdicts", counted(found["verdicts"])),
            ("edits", counted(found["edits"])),
            ("last runs", times(found["last_runs"]) or "none; try `corrigenda run --once`"),
            ("next runs", times(found["next_runs"])),
            *(("trouble", trouble) for trouble in found["troubles"]),
        ]
    )
