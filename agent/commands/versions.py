"""versions and verify: the model versions, and whether anything was tampered with."""

from __future__ import annotations

import typer

from agent.commands import output
from agent.commands.output import brief
from agent.commands.shell import FAILED, AsJson, group, shell

app = group("The model's versions: base plus corrections, immutable.")
top = group("Check.")


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
