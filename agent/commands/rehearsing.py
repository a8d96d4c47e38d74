"""rehearse: many days in minutes, beside what the daemon does."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.commands import output
from agent.commands.shell import AsJson, group, shell

if TYPE_CHECKING:
    from agent.rehearsal import Row

app = group("Rehearse.")

NOTHING = "nothing to do"
"""What a night says that found the weights as they should be."""


@app.command(epilog="Example: corrigenda rehearse --days 30 --feed news.xml --trusted")
def rehearse(
    ctx: typer.Context,
    feed: Annotated[
        list[Path],
        typer.Option(
            help="An RSS/Atom file with dated items, or a folder with a poll a day; repeatable."
        ),
    ],
    days: Annotated[int, typer.Option(min=1, help="So many days.")] = 30,
    start: Annotated[
        str, typer.Option(help="The first day, as 2026-03-01; else the feed's last days.")
    ] = "",
    trusted: Annotated[
        bool, typer.Option("--trusted", help="One claim of a feed is enough for a correction.")
    ] = False,
    keep: Annotated[
        Path | None, typer.Option(help="A new folder to work in and keep; else a temporary one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Replay days of a stored feed: what the daemon would have done, in minutes.

    The configured model and limits are used in a home of their own; your own state, feeds and
    models stay as they are. A row is a day and the night after it.
    """
    from agent.commands.feed_file import write_config
    from agent.config import load_config
    from agent.daemon import real_steps
    from agent.lock import only_one
    from agent.rehearsal import (
        Stage,
        config_text,
        own_config,
        place,
        read_recordings,
        write_script,
    )
    from agent.rehearsal import rehearse as days_of
    from agent.reporting import write_current_report

    here, begin = shell(ctx), _day(start)
    config = own_config(load_config(here.home), here.home)
    script = write_script(read_recordings(feed, days), days, begin, config)
    kept = keep.expanduser().absolute() if keep else None
    rows: list[Row] = []
    with place(kept, here.home) as where, only_one(where.home):
        try:
            with Stage(where.home, config, script, trusted) as stage:
                write_config(where.home, config_text(stage.config))
                for row in days_of(stage, script.days, real_steps(), here.progress()):
                    rows.append(row)
                    if as_json:
                        output.dump(row)
                write_current_report(stage, stage.now())
        finally:  # what was rehearsed before an end that came too early
            if not as_json and rows:
                _tell(rows)
    if as_json:
        output.dump({"report": str(where.report)})
    else:
        print(f"report  {where.report}")


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no day; write one as 2026-03-01") from error


def _tell(rows: list[Row]) -> None:
    # Narrow enough for 80 columns.
    headers = ["day", "read", "stale", "wrong", "edits", "night", "retention", "sec"]
    output.table(headers, [list(map(output.plain, _cells(row))) for row in rows])
    print("read: documents/claims; edits: proposed/queued/remembered; retention: share (at least)")
    for row in rows:
        why = row.reasons if row.night not in ("", NOTHING) else ()
        for line in (*why, *row.troubles):
            print(f"{row.day}  {output.plain(line)}")


def _cells(row: Row) -> list[Any]:
    rate = row.retention
    return [
        row.day,
        f"{row.documents}/{row.claims}",
        row.verdicts["STALE"],
        row.verdicts["WRONG"],
        f"{row.proposed}/{row.queued}/{row.remembered}",
        {"": "not due", NOTHING: "nothing"}.get(row.night, row.night),
        f"{rate.point:.2f} ({rate.low:.2f})" if rate and rate.n else "",
        f"{row.seconds:.1f}",
    ]
