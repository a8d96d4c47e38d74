"""versions, verify and rebuild: the model versions, and whether anything was tampered with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agent.commands import output
from agent.commands.output import brief
from agent.commands.shell import FAILED, AsJson, Shell, group, shell

if TYPE_CHECKING:
    from store.records import Edit, Version

app = group("The model's versions: base plus corrections, immutable.")
top = group("Check.")

Name = Annotated[
    str, typer.Argument(help="The id of a version, its beginning, or an alias such as serving.")
]
Reason = Annotated[str, typer.Option(help="Why; kept with the change.")]


@app.command("ls", epilog="Example: corrigenda versions ls")
def ls(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List all versions, oldest first, and which of them is served."""
    from store.records import to_json

    with shell(ctx).open() as ws:
        aliases = ws.store.versions.aliases()
        rows = [
            {
                **to_json(version),
                "aliases": sorted(name for name, id in aliases.items() if id == version.id),
            }
            for version in ws.store.versions.ls()
        ]
    output.listing(
        rows,
        {
            "id": lambda row: brief(row["id"]),
            "alias": lambda row: ", ".join(row["aliases"]),
            "made": lambda row: row["created"][:16].replace("T", " "),
            "editor": lambda row: row["editor"],
            "edits": lambda row: len(row["edit_ids"]),
            "base": lambda row: brief(row["base_hash"]),
        },
        as_json,
        "no versions yet: the base model is served; a night of `corrigenda run` makes one",
    )


@app.command("show", epilog="Example: corrigenda versions show serving")
def show(ctx: typer.Context, version: Name = "serving", as_json: AsJson = False) -> None:
    """Show a version: what it was made with, and the corrections it carries."""
    from store.records import to_json

    with shell(ctx).open() as ws:
        found = ws.store.versions.find(version)
        if found is None:
            print("this is the base model: no version, no corrections in the weights")
            return
        aliases = sorted(n for n, id in ws.store.versions.aliases().items() if id == found.id)
        edits = [edit for id in found.edit_ids if (edit := ws.store.edits.get(id))]
    if as_json:
        output.dump({**to_json(found), "aliases": aliases})
        return
    output.details(
        [
            ("id", found.id),
            ("alias", ", ".join(aliases)),
            ("made", output.moment(found.created)),
            ("editor", found.editor),
            ("base", found.base_hash),
            ("folder", found.path),
            *(("sha256", f"{digest}  {name}") for name, digest in found.files),
            *(("setting", f"{name} = {value}") for name, value in found.settings.items()),
        ]
    )
    print()
    _table(edits)


@app.command("diff", epilog="Example: corrigenda versions diff previous serving")
def diff(
    ctx: typer.Context, old: Name = "previous", new: Name = "serving", as_json: AsJson = False
) -> None:
    """List the corrections and tensors that two versions differ in."""
    with shell(ctx).open() as ws:
        versions = ws.store.versions
        found = versions.diff(versions.find(old), versions.find(new))
        statements = {
            id: edit.statement
            for id in (*found.edits_added, *found.edits_removed)
            if (edit := ws.store.edits.get(id))
        }
    if as_json:
        output.dump(found)
        return
    rows = [
        *(("+ correction", f"{brief(id)} {statements.get(id, '')}") for id in found.edits_added),
        *(("- correction", f"{brief(id)} {statements.get(id, '')}") for id in found.edits_removed),
        *(("+ tensor", name) for name in found.tensors_added),
        *(("- tensor", name) for name in found.tensors_removed),
        *(("~ tensor", name) for name in found.tensors_changed),
        *(("~ setting", name) for name in found.settings_changed),
        *((("~ base", "made for another base model"),) if found.base_changed else ()),
    ]
    output.details(rows) if rows else print("they do not differ")


@app.command("rollback", epilog="Example: corrigenda versions rollback")
def rollback(
    ctx: typer.Context,
    version: Name = "previous",
    reason: Reason = "rolled back",
    as_json: AsJson = False,
) -> None:
    """Serve an earlier version again; `base` is the unedited model.

    Every byte of it is verified first. Corrections that its weights do not hold are answered by
    the memory tier. It may be done beside a running daemon, which follows with its next job.
    """
    _serve(shell(ctx), version, reason, as_json)


@app.command("promote", epilog="Example: corrigenda versions promote candidate")
def promote(
    ctx: typer.Context, version: Name, reason: Reason = "promoted", as_json: AsJson = False
) -> None:
    """Serve a version, whatever the gate said of it."""
    _serve(shell(ctx), version, reason, as_json)


@app.command("gc", epilog="Example: corrigenda versions gc --dry-run")
def gc(
    ctx: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only name them.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove versions that versions.keep and versions.keep_monthly do not ask for.

    What an alias stands for is always kept.
    """
    from agent.lock import only_one

    here = shell(ctx)
    with here.open() as ws:
        kept = ws.config.versions
        if dry_run:
            ids = ws.store.versions.outdated(kept.keep, kept.keep_monthly, ws.now())
        else:
            with only_one(here.home):
                ids = ws.store.versions.collect(kept.keep, kept.keep_monthly, ws.now())
    verb = "would be removed" if dry_run else "removed"
    if as_json:
        output.dump({"removed": [] if dry_run else ids, "outdated": ids})
        return
    for id in ids:
        print(f"{brief(id)} {verb}")
    if not ids:
        here.say("no version is outdated")


def _serve(here: Shell, name: str, reason: str, as_json: bool) -> None:
    from agent.rollback import switch
    from store.records import to_json

    with here.open() as ws:
        version = ws.store.versions.find(name)
        done = switch(ws.store, version, ws.base_hash, ws.now(), reason)
    if as_json:
        output.dump(to_json(done))
        return
    if done.before == done.version:
        here.say(f"{_named(done.version)} is served already")
        return
    here.say(f"{_named(done.version)} is served now, instead of {_named(done.before)}")
    _tell(here, "answered by memory alone", done.to_memory)
    _tell(here, "in the weights again", done.to_weights)
    _tell(here, "taken back, but in these weights until the next consolidation", done.returned)


def _tell(here: Shell, what: str, edits: tuple[Edit, ...]) -> None:
    for edit in edits:
        here.say(f"  {what}: {brief(edit.id)} {edit.statement}")


def _named(version: Version | None) -> str:
    return "the base model" if version is None else f"version {brief(version.id)}"


def _table(edits: list[Edit]) -> None:
    output.table(
        ["edit", "state", "statement"],
        [[brief(e.id), e.state, output.plain(e.statement)] for e in edits],
    )


@top.command(epilog="Example: corrigenda rebuild --check")
def rebuild(
    ctx: typer.Context,
    check: Annotated[
        bool, typer.Option("--check", help="Compare with the served version; change nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compute the served version again from the base model and the ledger, and compare.

    Exit code 1 where neither the hash nor the results of the corrections' questions are equal.
    """
    from agent.rebuild import check_rebuild
    from store.records import to_json

    if not check:
        raise typer.BadParameter("say --check: a served version is compared, never replaced")
    with shell(ctx).open() as ws:
        found = check_rebuild(ws, shell(ctx).progress())
    if as_json:
        output.dump({**to_json(found), "identical": found.identical, "equal": found.equal})
    elif found.identical:
        print(f"version {found.version} was rebuilt bit for bit")
    else:
        print(f"rebuilt as {found.rebuilt}, served is {found.version}: the bytes differ")
        same = found.probes - len(found.differing)
        print(f"{same} of {found.probes} questions have equal results")
        for question in found.differing:
            print(f"  {output.plain(question)}")
    if not found.equal:
        raise typer.Exit(FAILED)


@top.command(epilog="Example: corrigenda verify")
def verify(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Check the ledger's chain and every byte of every version.

    Exit code 1 where something is not as it was written, naming it.
    """
    from store.errors import StoreError

    faults = []
    with shell(ctx).open() as ws:
        head = ws.store.ledger.head()
        broken = ws.store.ledger.verify()
        if broken is not None:
            faults.append(
                f"ledger entry {broken} is not as it was written; restore the database from a "
                "backup made before"
            )
        versions = ws.store.versions.ls()
        for version in versions:
            try:
                ws.store.versions.load(version)
            except StoreError as error:
                faults.append(str(error))
    entries = head.seq if head else 0
    if as_json:
        output.dump(
            {
                "entries": entries,
                "digest": head.digest if head else None,
                "first_bad_entry": broken,
                "versions": len(versions),
                "faults": faults,
            }
        )
    elif not faults:
        print(f"{entries} ledger entries and {len(versions)} versions are as they were written")
        print(f"the last entry's digest is {head.digest}") if head else None
    for fault in [] if as_json else faults:
        print(output.plain(fault))
    if faults:
        raise typer.Exit(FAILED)
