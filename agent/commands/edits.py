"""queue, edits and why: the corrections, and who decides on them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from agent.commands import output
from agent.commands.output import asked, brief
from agent.commands.shell import AsJson, group, shell

queue = group("Corrections that wait: for you, or for the memory tier.")
app = group("Every correction, whatever became of it.")
top = group("Explain.")

Ids = Annotated[list[str] | None, typer.Argument(help="Ids of edits, or their beginnings.")]
Id = Annotated[str, typer.Argument(help="The id of an edit, or its beginning.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the ledger.")]

_COLUMNS = {
    "id": lambda edit: brief(edit["id"]),
    "state": lambda edit: edit["state"],
    "slot": lambda edit: asked(edit["title"], edit["relation"], edit["subject"]),
    "old": lambda edit: edit["old"],
    "new": lambda edit: edit["new"],
    "reason": lambda edit: edit["reason"],
}

_HELD = {
    "id": lambda row: brief(row.edit_id),
    "tier": lambda row: row.tier,
    "what": lambda row: row.what,
    "old": lambda row: row.believed,
    "new": lambda row: row.value,
    "why": lambda row: row.why,
    "documents": lambda row: " ".join(row.documents),
}


@queue.command("ls", epilog="Example: corrigenda queue ls")
def queue_ls(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List edits that wait: proposed (for you), queued, parked (failed too often)."""
    from store.records import EditState

    with shell(ctx).open() as ws:
        edits = ws.store.edits.bodies(EditState.PROPOSED, EditState.QUEUED, EditState.PARKED)
    output.stored(edits, _COLUMNS, as_json, "nothing waits")


@queue.command("held", epilog="Example: corrigenda queue held")
def held(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List what was held back or waits, and why: corrections and whole documents."""
    from agent.trust import held_back

    with shell(ctx).open() as ws:
        rows = held_back(ws, ws.now())
    output.listing(rows, _HELD, as_json, "nothing is held back and nothing waits")


@queue.command("approve", epilog="Example: corrigenda queue approve 3f2a 90bc")
def approve(
    ctx: typer.Context,
    ids: Ids = None,
    every: Annotated[bool, typer.Option("--all", help="Approve every proposed edit.")] = False,
) -> None:
    """Approve edits; the memory tier answers them at once. All are approved, or none."""
    from agent import queueing
    from agent.cycle import remember
    from agent.lock import LockError, only_one
    from store.records import EditState

    if bool(ids) == every:
        raise typer.BadParameter("give the ids of edits, or --all")
    here = shell(ctx)
    with here.open() as ws:
        chosen = [edit.id for edit in ws.store.edits.ls(EditState.PROPOSED)] if every else ids or []
        approved = queueing.approve(ws.store, chosen, ws.now())
        for edit in approved:
            here.say(f"approved {brief(edit.id)}: {edit.statement}")
        if not approved:
            here.say("nothing waits for approval")
            return
        try:
            with only_one(here.home):
                count = remember(ws, ws.now(), here.progress())
        except LockError:
            here.say("the running corrigenda takes them up with its next poll")
        else:
            here.say(f"{count} of {len(approved)} answered by the memory tier now")


@queue.command("reject", epilog='Example: corrigenda queue reject 3f2a --reason "a hoax"')
def reject(
    ctx: typer.Context,
    ids: Annotated[list[str], typer.Argument(help="Ids of edits, or their beginnings.")],
    reason: Reason = "",
) -> None:
    """Refuse edits; they are not proposed again. All are rejected, or none."""
    from agent import queueing

    with shell(ctx).open() as ws:
        for edit in queueing.reject(ws.store, ids, reason, ws.now()):
            shell(ctx).say(f"rejected {brief(edit.id)}: {edit.statement}")


@app.command("ls", epilog="Example: corrigenda edits ls --state remembered --json")
def ls(
    ctx: typer.Context,
    state: Annotated[str, typer.Option(help="Only edits in this state.")] = "",
    as_json: AsJson = False,
) -> None:
    """List all edits with their states, oldest first."""
    from store.records import EditState

    if state and state not in list(EditState):
        raise typer.BadParameter(f"{state!r} is no state; states: {', '.join(EditState)}")
    with shell(ctx).open() as ws:
        edits = ws.store.edits.bodies(*([EditState(state)] if state else []))
    output.stored(edits, _COLUMNS, as_json, "no edits yet; `corrigenda run --once` looks for some")


@app.command("show", epilog="Example: corrigenda edits show 3f2a")
def show(ctx: typer.Context, id: Id, as_json: AsJson = False) -> None:
    """Show one edit with its battery of questions."""
    with shell(ctx).open() as ws:
        edit = ws.store.edits.find(id)
    if as_json:
        output.dump(edit)
        return
    output.details(
        [
            ("id", edit.id),
            ("state", edit.state),
            ("slot", asked(edit.title, edit.relation, edit.subject)),
            ("old", edit.old),
            ("new", edit.new),
            ("statement", edit.statement),
            ("former", ", ".join(edit.former)),
            ("reason", edit.reason),
            ("failed attempts", edit.attempts or ""),
            ("created", output.moment(edit.created)),
            ("updated", output.moment(edit.updated)),
        ]
    )
    if edit.probes:
        print()
        output.table(
            ["probe", "question", "expected"],
            [[p.kind, output.plain(p.question), output.plain(p.expected)] for p in edit.probes],
        )


@app.command("revert", epilog='Example: corrigenda edits revert 3f2a --reason "it was wrong"')
def revert(
    ctx: typer.Context,
    ids: Annotated[list[str], typer.Argument(help="Ids of edits, or their beginnings.")],
    reason: Reason = "",
) -> None:
    """Take edits back: memory stops answering them at once, the weights with the next night."""
    from agent import queueing
    from store.records import EditState

    with shell(ctx).open() as ws:
        in_weights = {edit.id for edit in ws.store.edits.ls(EditState.CONSOLIDATED)}
        for edit in queueing.revert(ws.store, ids, reason, ws.now()):
            later = "; the weights follow at the next consolidation"
            shell(ctx).say(
                f"reverted {brief(edit.id)}: {edit.statement}"
                f"{later if edit.id in in_weights else ''}"
            )


@top.command(epilog="Example: corrigenda why 3f2a")
def why(ctx: typer.Context, id: Id, as_json: AsJson = False) -> None:
    """Explain an edit: its verdict, quotes and documents."""
    with shell(ctx).open() as ws:
        edit = ws.store.edits.find(id)
        verdict = ws.store.verdicts.get(edit.verdict_id) if edit.verdict_id else None
        claims = [claim for id in edit.claim_ids if (claim := ws.store.claims.get(id))]
        sources = [(claim, ws.store.documents.get(claim.document_id)) for claim in claims]
    if as_json:
        output.dump(_explanation(edit, verdict, sources))
        return
    output.details(
        [
            ("edit", f"{edit.id} ({edit.state})"),
            ("slot", asked(edit.title, edit.relation, edit.subject)),
            ("correction", f"{edit.old or '?'} → {edit.new}"),
            ("verdict", verdict.kind if verdict else ""),
            ("reason", edit.reason),
        ]
    )
    if verdict:
        print("\ndecided by")
        for rule in verdict.path:
            print(f"  {output.plain(rule)}")
        for reply in verdict.belief.replies if verdict.belief else ():
            print(f"\n  asked    {output.plain(reply.question)}")
            print(f"  answered {output.plain(reply.text)}")
    print("\nsources" if sources else "\nno sources are kept")
    for claim, document in sources:
        print(f"  “{output.plain(claim.quote)}”")
        if document:
            published = f", published {output.moment(document.published)}"
            print(f"    {output.plain(document.title)}")
            print(f"    {output.plain(document.url)}")
            print(
                f"    fetched {output.moment(document.fetched)}"
                f"{published if document.published else ''}, by feed {output.plain(document.feed)}"
            )


def _explanation(edit: Any, verdict: Any, sources: list[tuple[Any, Any]]) -> dict[str, Any]:
    from store.records import to_json

    def outline(document: Any) -> dict[str, Any] | None:
        """The document without its text, which can be megabytes."""
        if document is None:
            return None
        return {key: value for key, value in to_json(document).items() if key != "text"}

    return {
        "edit": to_json(edit),
        "verdict": to_json(verdict) if verdict else None,
        "sources": [{"claim": to_json(c), "document": outline(d)} for c, d in sources],
    }
