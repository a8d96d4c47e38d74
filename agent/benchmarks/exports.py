"""``corrigenda bench export``: edits made together, exported, and asked of the files by llama.cpp.

One row is the unquantised weights, asked as in `bench edit`; then a row for each type that a file
is written in. A file's locality and perplexity are by what llama.cpp says of the source file.
"""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.benchmarks.edit_layouts import EditRecord, Prompt
from agent.benchmarks.edit_records import choose_from, read_records
from agent.benchmarks.edit_report import RENDERINGS, SHARES, of, share_text
from agent.benchmarks.edit_run import PLAIN_TOKENS, Bench, Scores, ask, prompts_of, right, score
from agent.benchmarks.editing import bench_of, editor_of
from agent.config import ConfigError
from agent.exporting import source_of
from agent.llama_cpp import CONTEXT, LlamaCpp
from agent.progress import Progress
from agent.rescue import Try, rescued
from agent.workspace import Workspace
from editors.deltas import JointDelta, MlpExpansion, applied
from editors.editor import Resources
from editors.gguf import container, quantise
from editors.gguf.container import GgufFile
from editors.gguf.widening import Form
from editors.metrics import Interval, mean_share
from store.files import Files
from store.records import to_json

Table = tuple[str, list[str], list[list[str]]]
WEIGHTS = "unquantised"


@dataclass(frozen=True)
class Wanted:
    """What the user asked for; ``types`` as of `export gguf`, ``text_tokens`` of the perplexity."""

    editor: str
    data: tuple[Path, ...]
    n: int
    types: tuple[str, ...] = ("same", "q8_0", "f16")
    seed: int = 0
    model: Path | None = None
    texts: Path | None = None
    out: Path | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    probes: int = 4
    text_tokens: int = 200


@dataclass(frozen=True)
class Row:
    """What was asked, and what it came to.

    Attributes:
        name: "unquantised", or the type of the file.
        scores: by rendering.
        passed: of all questions in scope, both renderings.
        growth: of the file, as a share of the source's size.
        tries: types of the matrices that carry the edits, until the edits held.
        kept: which of them the file has.
        perplexity_ratio: against the source file, by llama.cpp.
        seconds: writing and asking of all tries.
    """

    name: str
    scores: Mapping[str, Scores]
    passed: Interval
    growth: float | None = None
    tries: tuple[Try, ...] = ()
    kept: int = 0
    perplexity_ratio: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class ExportBench:
    """One run."""

    model: str
    base_hash: str
    data: str
    sha256: str
    seed: int
    n: int
    editor: str
    neurons: int
    rows: tuple[Row, ...] = ()


def run(home: Path, wanted: Wanted, progress: Progress) -> ExportBench:
    """Run it in a home folder. Raises ConfigError, ModelError, EditorError."""
    overrides = {"model.path": str(wanted.model)} if wanted.model else None
    with Workspace.open(home, overrides) as ws:
        return measure(ws, wanted, progress)


def measure(ws: Workspace, wanted: Wanted, progress: Progress) -> ExportBench:
    """Run it with an open workspace; what is known is written after every row."""
    files = [read_records(path) for path in wanted.data]
    chosen = choose_from(files, wanted.n, wanted.seed, wanted.probes)
    types = {name: quantise.named(name) for name in wanted.types}
    source = container.read(source_of(ws, None, progress))
    editor = editor_of(ws, wanted.editor, wanted.settings)
    bench, _ = bench_of(ws, chosen, wanted.n, wanted.seed, 1, wanted.texts, progress)
    delta = _made(bench, editor, wanted.editor, progress)
    result = ExportBench(
        model=ws.model.name,
        base_hash=ws.model.base_hash,
        data=" + ".join(path.name for path in wanted.data),
        sha256=" ".join(file.sha256 for file in files),
        seed=wanted.seed,
        n=wanted.n,
        editor=wanted.editor,
        neurons=neurons_of(delta),
    )
    records = bench.chosen.records
    with applied(ws.model, delta):
        answers = ask(ws.model, prompts_of(records), bench.chat_tokens, WEIGHTS, progress)
    known = bench.unedited.ask(prompts_of(records), progress)
    scores = score(records, lambda _, prompt: answers[prompt], known, ws.model.encode_answer)
    rows = [Row(WEIGHTS, scores, _passed(records, answers))]
    result = _with(wanted.out, result, rows)
    tokens = _tokens(bench, wanted.text_tokens)
    before = _asked(source.path, prompts_of(records), bench, "asking the source")
    loss = _loss(source.path, tokens, bench)
    for name, type in types.items():
        row = _exported(
            bench, source, delta, name, Form(type), rows[0].passed, before, tokens, loss
        )
        rows.append(row)
        result = _with(wanted.out, result, rows)
    return result


def tables(bench: ExportBench) -> list[Table]:
    """Return title, headers and rows of each table. Pure."""
    found: list[Table] = []
    for rendering, title in RENDERINGS.items():
        cells = [
            [row.name, *(share_text(of(row.scores[rendering], key)) for key, _ in SHARES)]
            for row in bench.rows
            if rendering in row.scores
        ]
        if cells:
            found.append((title, ["", *(label for _, label in SHARES)], cells))
    headers = ["", "in scope, passed", "size", "edits in", "perplexity", "s"]
    cells = []
    for row in bench.rows:
        kept = row.tries[row.kept] if row.tries else None
        cells.append(
            [
                row.name,
                share_text(row.passed),
                "-" if row.growth is None else f"{row.growth:+.1%}",
                " / ".join(kept.types.values()) if kept else "-",
                "-" if row.perplexity_ratio is None else f"{row.perplexity_ratio:.4f}",
                f"{row.seconds:.0f}" if row.tries else "-",
            ]
        )
    found.append(("The files", headers, cells))
    tried = [
        [row.name, " / ".join(one.types.values()), share_text(one.passed), f"{one.size:,}"]
        for row in bench.rows
        for one in row.tries
    ]
    if tried:
        found.append(("Tried", ["", "edits in", "in scope, passed", "bytes"], tried))
    return found


def heading(bench: ExportBench) -> list[str]:
    """Return the lines that say what was run. Pure."""
    hashes = " ".join(one[:12] for one in bench.sha256.split())
    return [
        f"{bench.n} edits by {bench.editor} ({bench.neurons} neurons), seed {bench.seed}, "
        f"{bench.data} (sha256 {hashes})",
        f"{bench.model} ({bench.base_hash[:12]}); files asked by llama.cpp, greedy",
    ]


def _made(bench: Bench, editor: Any, name: str, progress: Progress) -> MlpExpansion | JointDelta:
    """Make all edits together."""
    with progress.stage(f"edits by {name}", None):
        resources: Resources = bench.resources
        state = editor.prepare(bench.model, resources)
        delta = editor.edit(bench.model, state, bench.chosen.requests)
    if not isinstance(delta, MlpExpansion | JointDelta):
        raise ConfigError(
            f"--editor {name}: its edits are no extra neurons; use compiled, lookup or recall"
        )
    return delta


def neurons_of(delta: MlpExpansion | JointDelta) -> int:
    """Return how many neurons edits add, in all layers."""
    parts = delta.parts if isinstance(delta, JointDelta) else (delta,)
    return sum(part.neurons for part in parts if isinstance(part, MlpExpansion))


def _exported(
    bench: Bench,
    source: GgufFile,
    delta: MlpExpansion | JointDelta,
    name: str,
    form: Form,
    weights: Interval,
    before: Mapping[Prompt, str],
    tokens: Sequence[int],
    loss: float | None,
) -> Row:
    """Write a file of a type, with rescue, and ask it everything."""
    records = bench.chosen.records
    begun = bench.clock()
    with tempfile.TemporaryDirectory(prefix="corrigenda-export-") as folder:
        path = Path(folder) / "export.gguf"
        scope = _in_scope(records)

        def passed() -> Interval:
            return _passed(records, _asked(path, scope, bench, f"asking the file ({name})"))

        _, tries, kept = rescued(path, source, delta, form, (), passed, weights)
        seconds = bench.clock() - begun
        answers = _asked(path, prompts_of(records), bench, f"asking the file ({name})")
        growth = path.stat().st_size / source.path.stat().st_size - 1
        after = _loss(path, tokens, bench)
    scores = score(records, lambda _, prompt: answers[prompt], before, bench.model.encode_answer)
    ratio = math.exp(after - loss) if after is not None and loss is not None else None
    passed_all = _passed(records, answers)
    return Row(name, scores, passed_all, growth, tries, kept, ratio, seconds)


def _asked(path: Path, prompts: Sequence[Prompt], bench: Bench, stage: str) -> dict[Prompt, str]:
    """Return what a file answers."""
    asked = sorted(set(prompts))
    chat, plain = [p for p in asked if p.chat], [p for p in asked if not p.chat]
    with bench.progress.stage(stage, len(asked)) as advance, LlamaCpp(path) as running:
        replies = running.answer([p.text for p in chat], bench.chat_tokens, advance)
        replies += running.go_on([p.text for p in plain], PLAIN_TOKENS, advance)
    return dict(zip([*chat, *plain], replies, strict=True))


def _in_scope(records: Sequence[EditRecord]) -> list[Prompt]:
    return [probe.prompt for r in records for probe in (r.edit, *r.paraphrases)]


def _passed(records: Sequence[EditRecord], answers: Mapping[Prompt, str]) -> Interval:
    """Return the share of the questions in scope that are answered rightly."""
    return mean_share(
        float(right(record, probe, answers[probe.prompt]))
        for record in records
        for probe in (record.edit, *record.paraphrases)
    )


def _tokens(bench: Bench, most: int) -> list[int]:
    """Return the beginning of the texts that no editor was given."""
    return bench.model.encode("\n".join(bench.texts))[: min(most, CONTEXT - 8)]


def _loss(path: Path, tokens: Sequence[int], bench: Bench) -> float | None:
    """Return the mean loss of a token, by llama.cpp."""
    if len(tokens) < 2:
        return None
    with LlamaCpp(path) as running:
        total, count = running.loss(tokens, plain=bench.model.encode(" the")[0])
    return total / count


def _with(out: Path | None, result: ExportBench, rows: Sequence[Row]) -> ExportBench:
    result = dataclasses.replace(result, rows=tuple(rows))
    if out is not None:
        body = json.dumps(to_json(result), ensure_ascii=False, indent=1)
        Files().replace(out / "export.json", (body + "\n").encode())
    return result
