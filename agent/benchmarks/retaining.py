"""``corrigenda bench retain``: files, model and editor brought together, night after night."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.benchmarks import retain_report
from agent.benchmarks.edit_records import choose_from, read_records
from agent.benchmarks.edit_run import PLAIN_TOKENS
from agent.benchmarks.editing import bench_of, editor_of
from agent.benchmarks.retain_report import RetainBench
from agent.benchmarks.retain_run import Retained, Tier, retain
from agent.progress import Progress
from agent.workspace import Workspace
from editors.memory.memory_editor import NAME as TIER
from editors.registry import build
from store.files import Files


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the user asked for.

    ``sample`` bounds the earlier edits that are asked each night; ``served`` asks the memory tier
    in front of the weights too; ``out`` is a folder for the results, or None.
    """

    editor: str
    data: tuple[Path, ...]
    nights: int
    per_night: int
    seed: int = 0
    model: Path | None = None
    texts: Path | None = None
    out: Path | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sample: int = 100
    probes: int = 4
    served: bool = True


def run(home: Path, wanted: Wanted, progress: Progress) -> RetainBench:
    """Run it in a home folder.

    Raises ConfigError, ModelError, EditorError.
    """
    overrides = {"model.path": str(wanted.model)} if wanted.model else None
    with Workspace.open(home, overrides) as ws:
        return measure(ws, wanted, progress)


def measure(ws: Workspace, wanted: Wanted, progress: Progress) -> RetainBench:
    """Run it with an open workspace. What is known is written to ``wanted.out`` after every
    night, so that an interruption loses only the night under way."""
    # What can be wrong with the data and the settings comes before the model.
    files = [read_records(path) for path in wanted.data]
    chosen = choose_from(files, wanted.nights * wanted.per_night, wanted.seed, wanted.probes)
    build(wanted.editor, dict(wanted.settings))
    editor = editor_of(ws, wanted.editor, wanted.settings)
    bench, source = bench_of(ws, chosen, wanted.per_night, wanted.seed, 1, wanted.texts, progress)
    result = RetainBench(
        model=ws.model.name,
        base_hash=ws.model.base_hash,
        data=" + ".join(path.name for path in wanted.data),
        sha256=" ".join(file.sha256 for file in files),
        seed=wanted.seed,
        per_night=wanted.per_night,
        sample=wanted.sample,
        texts=source,
        chat_tokens=bench.chat_tokens,
        plain_tokens=PLAIN_TOKENS,
        device=str(ws.model.device),
        made=Retained(wanted.editor),
    )

    def tier() -> Tier:
        memory = build(TIER, {})
        scope: Any = memory.prepare(ws.model, bench.resources)
        return Tier(memory.edit(ws.model, scope, chosen.requests), scope.heard)

    held: Any = editor
    made = retain(
        bench,
        wanted.editor,
        editor,
        dataclasses.asdict(held),
        sample=wanted.sample,
        tier=tier if wanted.served and wanted.editor != TIER else None,
        written=lambda so_far: _write(wanted.out, dataclasses.replace(result, made=so_far)),
    )
    return dataclasses.replace(result, made=made)


def _write(folder: Path | None, result: RetainBench) -> None:
    """Write retain.json, retain.md and retain.svg, each whole or not at all."""
    if folder is None:
        return
    body = json.dumps(retain_report.as_json(result), ensure_ascii=False, indent=1)
    for name, text in (
        ("retain.json", body + "\n"),
        ("retain.md", retain_report.markdown(result)),
        ("retain.svg", retain_report.picture(result)),
    ):
        Files().replace(folder / name, text.encode())
