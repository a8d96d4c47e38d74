"""editors ls, show, tune, train: the methods, and what suits a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent.commands import output
from agent.commands.shell import AsJson, group, shell

if TYPE_CHECKING:
    from editors.metrics import Interval

app = group("The editing methods that are built in.")


@app.command("ls", epilog="Example: corrigenda editors ls")
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


@app.command("show", epilog="Example: corrigenda editors show compiled")
def show(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="A method's name.")],
    as_json: AsJson = False,
) -> None:
    """Show one method and its settings, each with default, unit and source."""
    from dataclasses import asdict

    from editors.registry import editors as registered
    from editors.settings import settings
    from editors.tuned import known

    infos = {info.name: info for info in registered()}
    if name not in infos:
        raise typer.BadParameter(f"no method is named {name!r}; methods: {', '.join(infos)}")
    info = infos[name]
    found = settings(info.editor or info.settings)
    tuned = known(shell(ctx).home / "cache", name)
    if as_json:
        own = [asdict(one) for one in found]
        output.dump({**asdict(info), "settings": own, "tuned": tuned})
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
            *(
                (f"tuned {base[:8]}", ", ".join(f"{key}={value}" for key, value in kept.items()))
                for base, kept in tuned.items()
            ),
        ]
    )
    output.listing(
        found,
        {
            "setting": lambda one: one.name,
            "default": lambda one: one.default,
            "what it is": lambda one: one.note,
        },
        False,
        "it has no settings",
    )


@app.command("tune", epilog="Example: corrigenda editors tune memit --data facts.jsonl")
def tune(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="A method's name.")],
    data: Annotated[Path, typer.Option(help="Facts to try edits on: any layout of bench edit.")],
    n: Annotated[int, typer.Option("--n", min=1, help="Facts of a trial.")] = 20,
    batch: Annotated[int, typer.Option(min=1, help="Edits made together.")] = 10,
    seed: Annotated[int, typer.Option(help="Of the draw and of the method.")] = 1,
    model: Annotated[Path | None, typer.Option(help="A model; else the configured one.")] = None,
    tried: Annotated[
        list[str] | None, typer.Option("--try", help="Values to try: name=value,value.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting held fixed: name=value.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the settings that suit the model, and keep them.

    Tries a method's alternatives one setting after the other, each with real edits that are
    asked free-running, on facts that `bench edit` does not draw (its first 100 of seed 0 are
    left out, by subject). The best by the harmonic mean of accuracy, generality and locality, at
    a perplexity ratio of at most 1.03, are kept in the home folder under the model's hash;
    `bench edit` uses them from then on.
    """
    from agent import tuning

    grid = {key: _values(value) for key, value in _settings(tried or [], "--try").items()}
    wanted = tuning.Wanted(name, data, n, batch, seed, model, _settings(settings or []), grid)
    here = shell(ctx)
    found = tuning.run(here.home, wanted, here.progress())
    if as_json:
        output.dump(
            {
                "editor": found.name,
                "model": found.model,
                "settings": dict(found.best.settings),
                "trials": [tuning.as_json(trial) for trial in found.trials],
                "path": str(found.path),
            }
        )
        return
    rows = [
        [
            ", ".join(f"{key}={value}" for key, value in trial.settings.items()) or "(defaults)",
            *(f"{share:.2f}" for share in (trial.accuracy, trial.generality, trial.locality)),
            "-" if trial.perplexity is None else f"{trial.perplexity:.3f}",
            f"{trial.seconds:.1f}",
            trial.error or f"{trial.score:.2f}{' *' if trial is found.best else ''}",
        ]
        for trial in found.trials
    ]
    headers = ["settings", "accuracy", "generality", "locality", "perplexity", "s an edit", "score"]
    output.table(headers, rows)
    print(f"* kept in {found.path}")


@app.command("train", epilog="Example: corrigenda editors train mend --data zsre.json")
def train(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="A method that is trained: mend, malmen, …")],
    data: Annotated[
        list[Path], typer.Option(help="Facts to learn editing from; give it again for more files.")
    ],
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop after so many; run again to go on.")
    ] = None,
    episodes: Annotated[
        int | None, typer.Option(min=1, help="Exercises to see in all, repeats counted.")
    ] = None,
    exercises: Annotated[
        int | None, typer.Option(min=1, help="Different facts to make exercises of.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="A model; else the configured one.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the method: name=value.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a method to edit the model: once for each model, before its first edit.

    The files have any layout of `bench edit`. What that tests (its first 100 facts of seed 0,
    by subject) is never trained on. Training ends when it no longer helps; run again, an
    interrupted one goes on. The networks lie in the home folder, under the model's hash.
    "memory" trains the memory tier's scope: what asks for the same.
    """
    import time

    from agent import training

    if name == "memory":
        _train_scope(ctx, tuple(data), as_json)
        return
    wanted = training.Wanted(
        name, tuple(data), model, _settings(settings or []), episodes, minutes, exercises
    )
    here = shell(ctx)
    begun = time.monotonic()
    chat, done = training.run(here.home, wanted, here.progress(), time.monotonic)
    taken = (time.monotonic() - begun) / 60
    if as_json:
        output.dump({"editor": name, "model": chat, "minutes": taken, **training.as_json(done)})
        return
    why = {
        "episodes": "all episodes are seen",
        "patience": "it no longer got better",
        "time": "time is up; run it again to go on",
    }
    print(f"trained {name} for {chat} in {taken:.1f} minutes: {why[done.ended]}")
    output.details(training.told(done))


def _train_scope(ctx: typer.Context, data: tuple[Path, ...], as_json: bool) -> None:
    from agent import scope_training

    here = shell(ctx)
    done = scope_training.run(here.home, data, here.progress())
    if as_json:
        output.dump(done)
        return
    output.details(
        [
            ("pairs of wordings", str(done.pairs)),
            ("paraphrases found, of subjects held out", _share(done.found)),
            ("other questions taken for them", _share(done.taken)),
            ("kept in", str(done.path)),
        ]
    )


def _share(found: Interval) -> str:
    return f"{found.point:.3f} ({found.low:.3f}-{found.high:.3f}, n = {found.n})"


def _settings(given: list[str], option: str = "--set") -> dict[str, Any]:
    """Return settings by name from "name=value", where a value is JSON or else a text."""
    chosen: dict[str, Any] = {}
    for one in given:
        name, found, text = one.partition("=")
        if not found or not name:
            raise typer.BadParameter(f"{option} {one!r}: give name=value")
        chosen[name.strip()] = text if option == "--try" else _read(text)
    return chosen


def _values(text: str) -> tuple[Any, ...]:
    return tuple(_read(part.strip()) for part in text.split(","))


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
