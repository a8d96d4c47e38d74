"""What every command is given: where the home is, how much to say, the common options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from agent.progress import Progress
    from agent.workspace import Workspace

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one record a line.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="Show at most so many.")]

OK, FAILED, USAGE, DEGRADED = 0, 1, 2, 3  # exit codes


@dataclass(frozen=True)
class Shell:
    """The options that stand before the command."""

    chosen_home: Path | None = None
    quiet: bool = False

    @property
    def home(self) -> Path:
        from agent.config import default_home

        return self.chosen_home or default_home()

    def open(self) -> Workspace:
        """Open the home folder's workspace. Raises ConfigError."""
        from agent.workspace import Workspace

        return Workspace.open(self.home)

    def progress(self) -> Progress:
        """Return bars where someone can watch them."""
        from agent.progress import Silent, rich_progress

        return Silent() if self.quiet else rich_progress()

    def say(self, line: str) -> None:
        """Print a line that only comments on what was done."""
        from agent.commands.output import plain

        if not self.quiet:
            print(plain(line))


def shell(ctx: typer.Context) -> Shell:
    found = ctx.obj
    assert isinstance(found, Shell)  # the root command sets it
    return found


def group(help: str) -> typer.Typer:
    """Return an empty group of commands. Plain help, because rich takes 0.15 s to import."""
    return typer.Typer(help=help, no_args_is_help=True, rich_markup_mode=None)
