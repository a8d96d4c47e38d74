"""run and demo: the daemon, one cycle, and a whole turn to look at."""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.commands import output
from agent.commands.shell import DEGRADED, AsJson, Shell, group, shell

if TYPE_CHECKING:
    from agent.cycle import CycleResult

app = group("Run.")


@app.command(epilog="Example: corrigenda run --once")
def run(
    ctx: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="One cycle now, then end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run the daemon, or with --once one cycle.

    The daemon polls, detects, edits, re-tests and consolidates on the configured schedules.
    SIGINT or SIGTERM ends it after the current stage. With --once, a report is written after
    the cycle, and the exit code is 3 where a feed fails.
    """
    from agent.lock import only_one

    here = shell(ctx)
    if as_json and not once:
        raise typer.BadParameter("--json goes with --once")
    with only_one(here.home):
        if once:
            _once(here, as_json)
        else:
            from agent.daemon import serve

            _log_to_stderr(here.quiet)
            serve(here.home, here.progress())


@app.command(epilog="Example: corrigenda demo")
def demo(
    ctx: typer.Context,
    home: Annotated[
        Path | None, typer.Option(help="Where the demo works; else `demo` in the home folder.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object with the results last.")
    ] = False,
) -> None:
    """Show the whole loop on a bundled model and documents."""
    from agent.demo import run_demo
    from agent.lock import only_one
    from agent.report import load_report, summary

    here = shell(ctx)
    place = (home or here.chosen_home or here.home / "demo").expanduser().absolute()
    with only_one(place, beside=True):  # the demo clears its folder, and takes no other
        result = run_demo(place, here.progress())
    report = Path(result["report"])
    if not here.quiet:
        print(summary(load_report(report if report.is_dir() else report.with_suffix(".json"))))
        print(f"report      {report}")
        if result["export"]:
            _show_export(result["export"])
    if as_json:
        print(json.dumps(result, ensure_ascii=False, allow_nan=False))


def _show_export(export: dict[str, Any]) -> None:
    print(f"exported    {export['path']} ({export['growth']:+.1%} against the base)")
    for question, answer in export["answers"].items():
        print(f"llama.cpp   {output.plain(question)} {output.plain(answer)}")


def _once(here: Shell, as_json: bool) -> None:
    from agent.cycle import run_once
    from agent.reporting import write_current_report
    from store.records import to_json

    with here.open() as ws:
        now = ws.now()
        result = run_once(ws, now, here.progress())
        paths = write_current_report(ws, now)
        # A feed that failed earlier and waits for its next try is no healthy feed either.
        failing = {state.name for state in ws.store.feeds.ls() if state.failures}
        degraded = not failing.isdisjoint(feed.name for feed in ws.config.feeds)
    if as_json:
        output.dump({**to_json(result), "report": str(paths.html)})
    elif not here.quiet:
        _tell(result)
        print(f"report     {paths.html}")
    if degraded:
        raise typer.Exit(DEGRADED)


def _tell(result: CycleResult) -> None:
    from agent.report import count

    if not result.feeds:
        print("no feeds are configured; add one with `corrigenda feeds add URL`")
    verdicts = " · ".join(f"{kind} {n}" for kind, n in result.verdicts.items() if n)
    pairs: list[tuple[str, Any]] = [
        (
            "read",
            f"{count(result.documents, 'new document')}, {count(result.claims, 'claim')}",
        ),
        ("judged", f"{count(result.slots, 'slot')} anew; in all {verdicts or 'none'}"),
        ("edits", f"{result.proposed} new, {result.remembered} answered by the memory tier"),
        *(("failed", f.note) for f in result.feeds if f.status == "failed"),
        *(("held", f"{held.what}: {held.why}") for held in result.held),
        *(("note", note) for note in result.notes),
        ("took", f"{result.seconds:.0f} s"),
    ]
    for name, value in pairs:
        print(f"{name:<10} {output.plain(value)}")


class _Lines(logging.Handler):
    """Print to whatever stderr is at the moment: bars put their own in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        line = output.plain(record.getMessage())
        trace = f"\n{self.format(record)}" if record.exc_info else ""
        print(f"{time.strftime('%H:%M:%S')} {line}{trace}", file=sys.stderr, flush=True)


def _log_to_stderr(quiet: bool) -> None:
    from agent.commands.errors import debugging

    log = logging.getLogger("corrigenda")
    log.addHandler(_Lines())
    log.propagate = False
    log.setLevel(logging.WARNING if quiet else logging.DEBUG if debugging() else logging.INFO)
    # What it has to say about jobs, the daemon records itself.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
