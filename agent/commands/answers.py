"""chat, report and editors: what comes out, and how it is made."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.commands import output
from agent.commands.output import brief
from agent.commands.shell import AsJson, group, shell

if TYPE_CHECKING:
    from agent.served import Served

app = group("Use.")
editors = group("The editing methods that are built in.")


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


@editors.command("ls", epilog="Example: corrigenda editors ls")
def ls(as_json: AsJson = False) -> None:
    """List every method: its family, where an edit lives, whether it reaches a GGUF."""
    from editors.registry import editors as registered

    output.listing(
        registered(),
        {
            "name": lambda info: info.name,
            "family": lambda info: info.family,
            "lives in": lambda info: info.lives_in,
            "sequential": lambda info: "yes" if info.sequential_safe else "no",
            "gguf": lambda info: "yes" if info.reaches_gguf else "no",
        },
        as_json,
        "no methods are built in",
    )


@editors.command("show", epilog="Example: corrigenda editors show compiled")
def show(
    name: Annotated[str, typer.Argument(help="A method's name.")], as_json: AsJson = False
) -> None:
    """Show one method."""
    from editors.registry import editors as registered

    infos = {info.name: info for info in registered()}
    if name not in infos:
        raise typer.BadParameter(f"no method is named {name!r}; methods: {', '.join(infos)}")
    info: Any = infos[name]
    if as_json:
        output.dump(info)
        return
    output.details(
        [
            ("name", info.name),
            ("summary", info.summary),
            ("family", info.family),
            ("paper", info.paper),
            ("lives in", info.lives_in),
            ("sequential", "safe" if info.sequential_safe else "wears out earlier edits"),
            ("reaches a GGUF", "yes" if info.reaches_gguf else "no"),
        ]
    )


def _ask(prompt: str) -> str:
    try:
        return input(prompt).strip()
    except EOFError:
        return ""


def _answer(served: Served, question: str, as_json: bool) -> None:
    answered = served.answer([question])[0]
    if as_json:
        output.dump({"question": question, "answer": answered.text, "edit_id": answered.edit_id})
        return
    print(output.plain(answered.text))
    if answered.edit_id:
        print(f"  [edit {brief(answered.edit_id)}: `corrigenda why {brief(answered.edit_id)}`]")
