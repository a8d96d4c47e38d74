"""Measurements on labelled data that anyone can repeat: ``corrigenda bench``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.benchmarks.scores import Measurement
    from agent.progress import Progress


def measure(
    home: Path,
    kind: str,
    path: Path,
    labels: Path | None,
    fields: tuple[str, ...],
    ask: bool,
    progress: Progress,
) -> Measurement:
    """Run one benchmark of detection; see ``corrigenda bench detect --help``.

    Raises ConfigError for a file that cannot be read or has another layout.
    """
    from agent.benchmarks.rows import read_rows
    from agent.workspace import Workspace

    with Workspace.open(home) as ws:
        now = ws.now()
        if kind == "answers":
            from agent.benchmarks import answers

            rows = read_rows(path, answers.NEEDED)
            return answers.measure_answers(rows, ws.registry, now)
        if kind == "facts":
            from agent.benchmarks import slots
            from agent.benchmarks.beliefs import believing

            rows = read_rows(path, slots.NEEDED)
            believe = believing(ws, rows, now, progress) if ask else None
            return slots.measure_slots(rows, ws.registry, now, believe)
        from agent.benchmarks import documents

        rows = [row for row in read_rows(path) if not fields or row.get("field") in fields]
        apart = read_rows(labels, ("id", "claims")) if labels else []
        return documents.measure_documents(documents.labelled(rows, apart, now), ws.registry, now)
