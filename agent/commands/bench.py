"""bench: measure the parts on labelled data, so that a claim can be repeated."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.commands import output
from agent.commands.shell import FAILED, AsJson, group, shell

if TYPE_CHECKING:
    from agent.benchmarks.scores import Measurement
    from editors.metrics import Interval

app = group("Measure on labelled data.")


@app.command("detect", epilog="Example: corrigenda bench detect --answers answers.jsonl")
def detect(
    ctx: typer.Context,
    answers: Annotated[
        Path | None, typer.Option(help="Labelled answers: judge and verdict alone.")
    ] = None,
    facts: Annotated[
        Path | None, typer.Option(help="Changed and unchanged slots: evidence to verdict.")
    ] = None,
    documents: Annotated[
        Path | None, typer.Option(help="Labelled documents or field changes: extraction alone.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Labels of --documents, where they lie apart.")
    ] = None,
    fields: Annotated[
        str, typer.Option(help="Only these fields of field changes, comma between.")
    ] = "",
    ask: Annotated[
        bool, typer.Option("--ask", help="With --facts: ask the served model what it believes.")
    ] = False,
    failures: Annotated[int, typer.Option(min=0, help="Show so many failures.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Measure detection: precision, recall and F1 with 95 % intervals, and the confusion.

    The files are JSON lines (.xz or not); docs/detection.md describes their layouts.
    """
    from agent.benchmarks import measure

    given = [("answers", answers), ("facts", facts), ("documents", documents)]
    chosen = [(kind, path) for kind, path in given if path is not None]
    if len(chosen) != 1:
        raise typer.BadParameter("give one of --answers, --facts, --documents")
    here = shell(ctx)
    (kind, path), wanted = chosen[0], tuple(f for f in fields.split(",") if f)
    result = measure(here.home, kind, path, labels, wanted, ask, here.progress())
    shown = replace(result, failures=result.failures[:failures])
    if as_json:
        output.dump(shown)
        return
    _tell(shown)


@app.command("edit", epilog="Example: corrigenda bench edit --editor ft-m --data zsre.json --n 20")
def edit(
    ctx: typer.Context,
    data: Annotated[
        list[Path],
        typer.Option(help="Facts to edit: CounterFact, zsRE, KnowEdit, …; again for a mixture."),
    ],
    n: Annotated[int, typer.Option("--n", min=1, help="Facts drawn from the file.")],
    editor: Annotated[str, typer.Option(help="The editing method.")] = "",
    editors: Annotated[str, typer.Option(help="Several, comma between.")] = "",
    batch: Annotated[int, typer.Option(min=1, help="Edits made together.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the draw and of the method.")] = 0,
    model: Annotated[Path | None, typer.Option(help="A model; else the configured one.")] = None,
    texts: Annotated[Path | None, typer.Option(help="A text for the perplexity ratio.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for JSON, table and picture.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting: name=value or editor.name=value.")
    ] = None,
    retention: Annotated[int, typer.Option(min=1, help="Times all edits so far are asked.")] = 5,
    probes: Annotated[int, typer.Option(min=1, help="Probes of a kind for each fact.")] = 4,
    alone: Annotated[
        bool, typer.Option("--alone", help="Each edit by itself on the unedited model.")
    ] = False,
    retrieval: Annotated[
        bool, typer.Option("--retrieval/--no-retrieval", help="The row of retrieval too.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Measure editing methods: edits in sequence, all of them asked after the last.

    Accuracy, generality, locality, old-answer leak and portability with 95 % intervals, beside
    the unedited model and retrieval; perplexity, seconds an edit, memory. The model is put back.
    docs/editing-benchmark.md describes the file layouts.
    """
    names = tuple(dict.fromkeys(name for name in (editor, *editors.split(",")) if name))
    if not names:
        raise typer.BadParameter("give --editor NAME, or --editors with commas between")
    if alone and batch != 1:
        raise typer.BadParameter("--alone makes one edit at a time: leave --batch out")
    chosen = _settings(names, settings or [])
    from agent.benchmarks import edit_report, editing

    wanted = editing.Wanted(
        names,
        tuple(data),
        n,
        batch,
        seed,
        model,
        texts,
        out,
        chosen,
        retention,
        probes,
        alone,
        retrieval,
    )
    here = shell(ctx)
    result = editing.run(here.home, wanted, here.progress())
    failed = [row for row in result.rows if row.error]
    if as_json:
        output.dump(edit_report.as_json(result))
    else:
        for line in edit_report.heading(result):
            print(output.plain(line))
        for title, headers, rows in edit_report.tables(result):
            print(f"\n{title}")
            output.table(headers, rows)
        for row in failed:
            print(f"\n{row.name} failed: {output.plain(row.error)}")
        if out:
            here.say(f"\nwritten to {out}")
    if failed:
        raise typer.Exit(FAILED)


@app.command("retain", epilog="Example: corrigenda bench retain --data zsre.json --nights 20")
def retain(
    ctx: typer.Context,
    data: Annotated[
        list[Path],
        typer.Option(help="Facts to edit, as for bench edit; again for a mixture."),
    ],
    nights: Annotated[int, typer.Option(min=1, help="Nights, one after the other.")] = 20,
    per_night: Annotated[int, typer.Option(min=1, help="Edits that a night makes.")] = 50,
    editor: Annotated[str, typer.Option(help="The method of the nights.")] = "compiled",
    sample: Annotated[int, typer.Option(min=1, help="Earlier edits asked each night.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the draw and of the method.")] = 0,
    model: Annotated[Path | None, typer.Option(help="A model; else the configured one.")] = None,
    texts: Annotated[Path | None, typer.Option(help="A text for the perplexity ratio.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for JSON, table and picture.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting: name=value.")
    ] = None,
    probes: Annotated[int, typer.Option(min=1, help="Probes of a kind for each fact.")] = 4,
    served: Annotated[
        bool, typer.Option("--served/--weights-only", help="At the end the memory tier too.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Measure what edits are still right night after night, and what a night costs.

    Each night's edits are made together; a sample of all so far is asked of the weights alone.
    After the last night every edit is asked with all its probes: of the weights alone, and as
    served, the memory tier in front of them. The model is put back.
    """
    chosen = _settings((editor,), settings or []).get(editor, {})
    from agent.benchmarks import retain_report, retaining

    wanted = retaining.Wanted(
        editor=editor,
        data=tuple(data),
        nights=nights,
        per_night=per_night,
        seed=seed,
        model=model,
        texts=texts,
        out=out,
        settings=chosen,
        sample=sample,
        probes=probes,
        served=served,
    )
    here = shell(ctx)
    result = retaining.run(here.home, wanted, here.progress())
    if as_json:
        output.dump(retain_report.as_json(result))
    else:
        for line in retain_report.heading(result):
            print(output.plain(line))
        for title, headers, rows in retain_report.tables(result):
            print(f"\n{title}")
            output.table(headers, rows)
        if out:
            here.say(f"\nwritten to {out}")
    if result.made.error:
        print(f"\n{editor} failed: {output.plain(result.made.error)}")
        raise typer.Exit(FAILED)


@app.command(
    "export",
    epilog="Example: corrigenda bench export --data facts.jsonl --n 100 --type same --type f16",
)
def export(
    ctx: typer.Context,
    data: Annotated[
        list[Path],
        typer.Option(help="Facts to edit, as for bench edit; again for a mixture."),
    ],
    n: Annotated[int, typer.Option("--n", min=1, help="Edits, made together.")] = 100,
    types: Annotated[
        list[str] | None,
        typer.Option("--type", help="A type to export, again for more; else same, q8_0, f16."),
    ] = None,
    editor: Annotated[str, typer.Option(help="compiled, lookup or recall.")] = "compiled",
    seed: Annotated[int, typer.Option(help="Of the draw and of the method.")] = 0,
    model: Annotated[Path | None, typer.Option(help="A GGUF; else the configured one.")] = None,
    texts: Annotated[Path | None, typer.Option(help="A text for the perplexity ratio.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results as JSON.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting: name=value.")
    ] = None,
    probes: Annotated[int, typer.Option(min=1, help="Probes of a kind for each fact.")] = 4,
    as_json: AsJson = False,
) -> None:
    """Measure what edits are still right in exported files, asked by llama.cpp.

    The edits are made together; the unquantised weights are asked, and then a GGUF file of each
    type, with finer types for what carries the edits where quantising took too many away.
    """
    chosen = _settings((editor,), settings or []).get(editor, {})
    from agent.benchmarks import exports

    wanted = exports.Wanted(
        editor=editor,
        data=tuple(data),
        n=n,
        types=tuple(types or exports.Wanted.types),
        seed=seed,
        model=model,
        texts=texts,
        out=out,
        settings=chosen,
        probes=probes,
    )
    here = shell(ctx)
    result = exports.run(here.home, wanted, here.progress())
    if as_json:
        output.dump(result)
        return
    for line in exports.heading(result):
        print(output.plain(line))
    for title, headers, rows in exports.tables(result):
        print(f"\n{title}")
        output.table(headers, rows)


@app.command("graph", epilog="Example: corrigenda bench graph --data triples.tsv --n 20")
def graph(
    ctx: typer.Context,
    data: Annotated[Path, typer.Option(help="Triples: a file, or a folder of relations.")],
    n: Annotated[int, typer.Option("--n", min=1, help="Triples of each task.")],
    editor: Annotated[str, typer.Option(help="The editing method.")] = "kgeditor",
    episodes: Annotated[
        int | None, typer.Option(min=1, help="Exercises to train on, where it is trained.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the draw and of the method.")] = 0,
    model: Annotated[Path | None, typer.Option(help="A model; else the configured one.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting: name=value.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure editing a knowledge graph that the model holds: ranks of tails.

    Two tasks: EDIT writes the right tail where a wrong one ranks first, ADD a triple that the
    model does not hold. Each edit alone, then all of them. A method that is trained is trained
    on the graph's other triples first. docs/editing-benchmark.md describes layouts and figures.
    """
    from agent.benchmarks import graph as graphs

    chosen = _settings((editor,), settings or []).get(editor, {})
    wanted = graphs.Wanted(data, n, editor, episodes, seed, model, chosen)
    here = shell(ctx)
    result = graphs.run(here.home, wanted, here.progress())
    if as_json:
        output.dump(result)
        return
    print(output.plain(f"{result.editor} on {result.data}: {result.triples} triples"))
    names = [field.name for field in dataclasses.fields(graphs.TaskFigures)]
    rows = []
    for task, made in result.tasks.items():
        for how, figures in made.items():
            values = [getattr(figures, name) for name in names]
            texts = [f"{v:.3f}" if isinstance(v, float) else str(v) for v in values]
            rows.append([task, how, *texts])
    output.table(["task", "made", *names], rows)


def _settings(names: tuple[str, ...], given: list[str]) -> dict[str, dict[str, Any]]:
    """Return the settings by editor from "name=value" and "editor.name=value"."""
    chosen: dict[str, dict[str, Any]] = {}
    for one in given:
        key, found, text = one.partition("=")
        editor, dot, name = key.strip().rpartition(".")
        if not dot and len(names) == 1:
            editor = names[0]
        if not found or not name or editor not in names:
            raise typer.BadParameter(
                f"--set {one!r}: give name=value, or editor.name=value with an editor of this run"
            )
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        chosen.setdefault(editor, {})[name] = value
    return chosen


def _tell(result: Measurement) -> None:
    speed = f", {result.n / result.seconds:.0f} a second" if result.seconds else ""
    print(f"{result.n} {result.kind} in {result.seconds:.2f} s{speed}")
    if result.shares:
        print()
        output.table(
            ["share", "figure", "95 %", "n"],
            [[name, *_interval(share), str(share.n)] for name, share in result.shares.items()],
        )
    if result.scores:
        print()
        output.table(
            ["", "right", "wrong", "missed", "precision", "95 %", "recall", "95 %", "F1"],
            [
                [
                    name,
                    *map(str, (score.right, score.wrong, score.missed)),
                    *_interval(score.precision),
                    *_interval(score.recall),
                    f"{score.f1:.3f}",
                ]
                for name, score in result.scores.items()
            ],
        )
    found = sorted({name for row in result.confusion.values() for name in row})
    print()
    output.table(
        ["is \\ taken for", *found],
        [
            [truth, *(str(row.get(name, 0)) for name in found)]
            for truth, row in result.confusion.items()
        ],
    )
    for failure in result.failures:
        print()
        output.details(failure.items())


def _interval(interval: Interval) -> tuple[Any, str]:
    if not interval.n:
        return "-", "-"
    return f"{interval.point:.3f}", f"{interval.low:.3f}-{interval.high:.3f}"
