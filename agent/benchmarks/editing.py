"""``corrigenda bench edit``: files, model and editors brought together."""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.benchmarks import edit_report
from agent.benchmarks.edit_records import Chosen, RecordFile, choose_from, read_records
from agent.benchmarks.edit_report import EditBench
from agent.benchmarks.edit_run import (
    PLAIN_TOKENS,
    Bench,
    Unedited,
    edited_row,
    retrieval_row,
    unedited_row,
)
from agent.config import ConfigError
from agent.progress import Progress
from agent.texts import ordinary_texts
from agent.workspace import Workspace
from editors import tuned
from editors.editor import Editor, Resources
from editors.question_embeddings import Embed
from editors.registry import build
from store.files import Files

HELD_OUT = 12  # pieces of text that the perplexity is measured on
PIECE = 1200  # characters of a piece, about 300 tokens


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the user asked for.

    Records are drawn from the files in ``data`` alike; ``settings`` maps an editor's name to the
    settings that it is given; ``retention`` is how often the edits made so far are asked, the end
    included; ``out`` is a folder for the results, or None; ``alone`` makes each edit by itself on
    the unedited model; ``retrieval`` has the row of retrieval, which takes as long as any other.
    """

    editors: tuple[str, ...]
    data: tuple[Path, ...]
    n: int
    batch: int = 1
    seed: int = 0
    model: Path | None = None
    texts: Path | None = None
    out: Path | None = None
    settings: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    retention: int = 5
    probes: int = 4
    alone: bool = False
    retrieval: bool = True


def run(home: Path, wanted: Wanted, progress: Progress) -> EditBench:
    """Run it in a home folder.

    Raises ConfigError, ModelError, EditorError.
    """
    overrides = {"model.path": str(wanted.model)} if wanted.model else None
    with Workspace.open(home, overrides) as ws:
        return measure(ws, wanted, progress)


def measure(ws: Workspace, wanted: Wanted, progress: Progress) -> EditBench:
    """Run it with an open workspace. What is known is written to ``wanted.out`` after every
    row, so that an interruption loses only the row under way."""
    # What can be wrong with the data comes before the model.
    files = [read_records(path) for path in wanted.data]
    chosen = choose_from(files, wanted.n, wanted.seed, wanted.probes)
    given = {name: dict(wanted.settings.get(name, {})) for name in wanted.editors}
    for name in wanted.editors:  # and what can be wrong with the settings
        build(name, given[name])
    made = {name: editor_of(ws, name, given[name]) for name in wanted.editors}
    bench, source = bench_of(
        ws, chosen, wanted.batch, wanted.seed, wanted.retention, wanted.texts, progress
    )
    bench = dataclasses.replace(bench, alone=wanted.alone)
    result = _empty(ws, wanted, files, bench, source)
    for row in (unedited_row, retrieval_row) if wanted.retrieval else (unedited_row,):
        result = dataclasses.replace(result, rows=(*result.rows, row(bench)))
    _write(wanted.out, result)
    for name, editor in made.items():
        done = edited_row(bench, name, editor, _settings(editor))
        result = dataclasses.replace(result, rows=(*result.rows, done))
        _write(wanted.out, result)
    return result


def editor_of(ws: Workspace, name: str, settings: Mapping[str, Any]) -> Editor:
    """Return a method at the settings that were tuned to the model, and those given."""
    kept = tuned.load(ws.home / "cache", name, ws.model.base_hash)
    return build(name, kept | dict(settings))


def bench_of(
    ws: Workspace,
    chosen: Chosen,
    batch: int,
    seed: int,
    measurements: int,
    texts: Path | None,
    progress: Progress,
) -> tuple[Bench, str]:
    """Return what every editor of a run is given, and what the perplexity is measured on."""
    rest, held, source = _texts(ws, texts)
    tokens, cache = ws.config.model.max_new_tokens, ws.home / "cache"
    bench = Bench(
        model=ws.model,
        chosen=chosen,
        unedited=Unedited(ws.model, cache, tokens),
        resources=Resources(rest, cache, seed, embed=_embed(ws)),
        batch=batch,
        measurements=measurements,
        chat_tokens=tokens,
        texts=held,
        clock=time.perf_counter,
        progress=progress,
    )
    return bench, source


def _embed(ws: Workspace) -> Embed | None:
    """Return the workspace's sentence embeddings; None where none is installed."""
    try:
        ws.embeddings  # noqa: B018
    except ConfigError:
        return None
    return lambda asked: ws.embeddings.vectors([one.text for one in asked])


def pieces(texts: Sequence[str]) -> list[str]:
    """Cut long texts at line ends into pieces of about ``PIECE`` characters."""
    found = []
    for text in texts:
        piece = ""
        for line in text.splitlines():
            if piece and len(piece) + len(line) > PIECE:
                found.append(piece)
                piece = ""
            piece = f"{piece}\n{line}".strip()
        if piece:
            found.append(piece)
    return found


def _texts(ws: Workspace, given: Path | None) -> tuple[list[str], list[str], str]:
    """Return the texts for key statistics, other ones for the perplexity, and what those are."""
    ordinary = ordinary_texts(ws)
    if given is not None:
        try:
            held = pieces([given.read_text(encoding="utf-8")])
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--texts: {given} cannot be read as text: {error}") from error
        if not held:
            raise ConfigError(f"--texts: {given} holds no text")
        return ordinary, held[:HELD_OUT], given.name
    cut = pieces(ordinary)
    last = min(HELD_OUT, len(cut) // 5)
    if not last:
        return ordinary, [], ""
    source = f"the last {last} of {len(cut)} pieces of ordinary text, which no editor is given"
    return cut[:-last], cut[-last:], source


def _settings(editor: Editor) -> dict[str, Any]:
    held: Any = editor
    return dataclasses.asdict(held)


def _empty(
    ws: Workspace, wanted: Wanted, files: Sequence[RecordFile], bench: Bench, source: str
) -> EditBench:
    return EditBench(
        model=ws.model.name,
        base_hash=ws.model.base_hash,
        data=" + ".join(path.name for path in wanted.data),
        layout=" + ".join(dict.fromkeys(file.layout for file in files)),
        sha256=" ".join(file.sha256 for file in files),
        n=wanted.n,
        seed=wanted.seed,
        batch=wanted.batch,
        alone=wanted.alone,
        derived=bench.chosen.derived,
        left_out=dict(sum((Counter(file.left_out) for file in files), Counter())),
        shapes=bench.chosen.shapes(),
        texts=source,
        chat_tokens=bench.chat_tokens,
        plain_tokens=PLAIN_TOKENS,
        retention=wanted.retention,
        device=str(ws.model.device),
        rows=(),
    )


def _write(folder: Path | None, result: EditBench) -> None:
    """Write results.json, results.md and results.svg, each whole or not at all."""
    if folder is None:
        return
    body = json.dumps(edit_report.as_json(result), ensure_ascii=False, indent=1)
    for name, text in (
        ("results.json", body + "\n"),
        ("results.md", edit_report.markdown(result)),
        ("results.svg", edit_report.picture(result)),
    ):
        Files().replace(folder / name, text.encode())
