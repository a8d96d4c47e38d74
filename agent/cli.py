"""The command line: ``corrigenda``.

Nothing heavy is imported here or in ``agent.commands`` until a command runs, so that
``--help`` answers at once.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from agent.commands import (
    answers,
    bench,
    editors,
    edits,
    exporting,
    facts,
    feeds,
    rehearsing,
    relations,
    running,
    setup,
    status,
    versions,
)
from agent.commands.errors import debugging, explain
from agent.commands.output import plain
from agent.commands.shell import Shell

INTERRUPTED = 130


def build() -> typer.Typer:
    """Return the whole program, its commands in the order in which one meets them."""
    app = typer.Typer(
        name="corrigenda",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        epilog="Start with `corrigenda demo`. Exit codes: 0 ok, 1 failed, 2 usage, 3 degraded.",
    )
    app.callback()(_options)
    for group in (running.app, rehearsing.app, setup.app, status.app):
        app.add_typer(group)
    app.add_typer(feeds.app, name="feeds")
    app.add_typer(facts.top)
    app.add_typer(facts.app, name="facts")
    app.add_typer(edits.queue, name="queue")
    app.add_typer(edits.app, name="edits")
    app.add_typer(edits.top)
    app.add_typer(versions.app, name="versions")
    app.add_typer(versions.top)
    app.add_typer(exporting.app, name="export")
    app.add_typer(answers.app)
    app.add_typer(editors.app, name="editors")
    app.add_typer(relations.app, name="relations")
    app.add_typer(bench.app, name="bench")
    app.add_typer(setup.config, name="config")
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return the exit code; every failure is one line on stderr."""
    _quieten_libraries()
    for stream in (sys.stdout, sys.stderr):
        # Text from feeds may hold what the terminal's encoding cannot carry.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    command = typer.main.get_command(build())
    try:
        code = command.main(argv, prog_name="corrigenda", standalone_mode=False)
    except typer.TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help
            print(error.format_message())
            return error.exit_code
        context = getattr(error, "ctx", None)
        where = context.command_path if context else "corrigenda"
        return _fail(f"{plain(error.format_message())} (see `{where} --help`)", error.exit_code)
    except Exception as error:
        if debugging():
            raise
        return _fail(*explain(error))
    if code == INTERRUPTED:
        return _fail("interrupted; what was finished is kept", INTERRUPTED)
    return code if isinstance(code, int) else 0


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"corrigenda {version('corrigenda')}")
        except PackageNotFoundError:
            print("corrigenda (not installed)")
        raise typer.Exit


def _options(
    ctx: typer.Context,
    home: Annotated[
        Path | None,
        typer.Option(help="Folder of configuration and state; else CORRIGENDA_HOME."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say only what was asked.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    """Keep a language model's knowledge up to date: find what is no longer true, and edit it."""
    ctx.obj = Shell(home.expanduser().absolute() if home else None, quiet)


def _quieten_libraries() -> None:
    """Set, before any is imported, what libraries read from the environment.

    They stay off the network and draw no bars of their own; what the user has set stands.
    """
    for name in ("HF_HUB_OFFLINE", "TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _fail(line: str, code: int) -> int:
    print(f"corrigenda: error: {line}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
