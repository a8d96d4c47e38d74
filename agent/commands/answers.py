"""chat and report: what comes out."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from agent.commands import output
from agent.commands.output import brief
from agent.commands.shell import AsJson, group, shell

if TYPE_CHECKING:
    from agent.served import Served

app = group("Use.")


@app.command(epilog='Example: corrigenda chat "Who is the chancellor of Germany?"')
def chat(
    ctx: typer.Context,
    question: Annotated[str, typer.Argument(help="One question; else ask many.")] = "",
    as_json: AsJson = False,
) -> None:
    """Ask the model as it is served.

    Shows which edit an answer used. An empty line ends a conversation.
    """
    from agent.served import open_served

    with shell(ctx).open() as ws:
        served = open_served(ws)
        if question:
            _answer(served, question, as_json)
            return
        watched = sys.stdin.isatty()
        while asked := _ask("> " if watched else ""):
            _answer(served, asked, as_json)


@app.command(epilog="Example: corrigenda report --open")
def report(
    ctx: typer.Context,
    open: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the drift report and print its summary."""
    from agent.report import load_report, summary
    from agent.reporting import write_current_report

    with shell(ctx).open() as ws:
        paths = write_current_report(ws, ws.now())
    if as_json:
        output.dump({"html": str(paths.html), "json": str(paths.json)})
    else:
        print(summary(load_report(paths.json)))
        print(f"report      {paths.html}")
    if open:
        import webbrowser

        webbrowser.open(paths.html.absolute().as_uri())


def _ask(prompt: str) -> str:
    try:
        return input(prompt).strip()
    except EOFError:
        return ""


def _answer(served: Served, question: str, as_json: bool) -> None:
    answered = served.answer([question])[0]
    if as_json:
        output.dump({"question": question, "answer": answered.text, "edit_ids": answered.edit_ids})
        return
    print(output.plain(answered.text))
    for edit_id in answered.edit_ids:
        print(f"  [edit {brief(edit_id)}: `corrigenda why {brief(edit_id)}`]")
