"""Progress of long work: bars on a terminal, silence elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console


class Advance(Protocol):
    """Says that ``n`` more units of a stage are done."""

    def __call__(self, n: int = 1) -> None: ...


class Progress(Protocol):
    """What long work tells about itself."""

    def stage(self, name: str, total: int | None = None) -> AbstractContextManager[Advance]:
        """Open a stage of ``total`` units (None: not known); stages may be nested."""
        ...


class Silent:
    """Tells nothing."""

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        def advance(n: int = 1) -> None:
            return None

        yield advance


class Bars:
    """A bar for each open stage, and one line with its seconds for each finished one."""

    def __init__(self, console: Console) -> None:
        from rich import progress

        self._console = console
        self._bars = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=30),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._open = 0

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        started = time.monotonic()
        # One display for all: two at once would write over each other.
        if self._open == 0:
            self._bars.start()
        self._open += 1
        task = self._bars.add_task(name, total=total)

        def advance(n: int = 1) -> None:
            self._bars.advance(task, n)

        try:
            yield advance
            self._console.print(f"{name} [dim]{time.monotonic() - started:.1f} s[/dim]")
        finally:
            self._bars.remove_task(task)
            self._open -= 1
            if self._open == 0:
                self._bars.stop()


def rich_progress() -> Progress:
    """Return bars on stderr where that is a terminal, and silence where it is not."""
    if not sys.stderr.isatty():
        return Silent()
    from rich.console import Console

    return Bars(Console(stderr=True))
