"""Tuning a method's settings to a model: `corrigenda editors tune`.

Alternatives are tried one setting after the other, the best so far kept (coordinate search): a
full grid would cost hours, and the settings hardly depend on one another. Each trial makes real
edits in sequence on facts that the benchmark does not draw, and asks them free-running.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.benchmarks import editing
from agent.benchmarks.edit_records import choose, read_records
from agent.benchmarks.edit_run import EditRow, edited_row
from agent.config import ConfigError
from agent.progress import Progress
from agent.training import split
from agent.workspace import Workspace
from editors import tuned
from editors.registry import build
from editors.requests import EditorError

MOST_PERPLEXITY = 1.03
"""A trial above this ratio is worse than every one below it, whatever it gets right."""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the user asked for.

    ``settings`` are held fixed; ``tried`` maps a setting to the values that are tried (empty:
    the method's own alternatives).
    """

    name: str
    data: Path
    n: int = 20
    batch: int = 10
    seed: int = 1
    model: Path | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tried: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Trial:
    """What some settings came to: shares over chat and plain prompts together.

    ``score`` is the harmonic mean of the three shares, less 1 beyond ``MOST_PERPLEXITY`` and
    where the method failed: the weakest of the three decides.
    """

    settings: Mapping[str, Any]
    accuracy: float = 0.0
    generality: float = 0.0
    locality: float = 0.0
    perplexity: float | None = None
    seconds: float = 0.0
    error: str = ""

    @property
    def score(self) -> float:
        shares = (self.accuracy, self.generality, self.locality)
        mean = 3 / sum(1 / share for share in shares) if all(shares) else 0.0
        too_much = self.perplexity is not None and self.perplexity > MOST_PERPLEXITY
        return mean - 1 if too_much or self.error else mean


@dataclasses.dataclass(frozen=True)
class Tuning:
    """All trials of a run in order, the best one, and where it is kept."""

    name: str
    model: str
    trials: tuple[Trial, ...]
    best: Trial
    path: Path


def run(home: Path, wanted: Wanted, progress: Progress) -> Tuning:
    """Tune in a home folder. Raises ConfigError, ModelError, EditorError."""
    overrides = {"model.path": str(wanted.model)} if wanted.model else None
    with Workspace.open(home, overrides) as ws:
        return tune(ws, wanted, progress)


def tune(ws: Workspace, wanted: Wanted, progress: Progress) -> Tuning:
    """Try the alternatives and keep the best settings under the model's hash."""
    grid = alternatives(wanted)
    file = read_records(wanted.data)
    left = split([file])[0]
    if len(left) < wanted.n:
        raise ConfigError(
            f"{wanted.data} has {len(left)} facts beside those that the benchmark draws; "
            f"--n is {wanted.n}"
        )
    chosen = choose(dataclasses.replace(file, records=tuple(left)), wanted.n, wanted.seed)
    bench, _ = editing.bench_of(ws, chosen, wanted.batch, wanted.seed, 1, None, progress)
    count = 1 + sum(len(values) for values in grid.values())
    with progress.stage(f"tuning {wanted.name}", count) as advance:

        def tried(settings: Mapping[str, Any]) -> Trial:
            editor = build(wanted.name, {**wanted.settings, **settings})
            row = edited_row(bench, wanted.name, editor, settings)
            advance(1)
            return trial_of(settings, row)

        trials = search(grid, tried)
    best = max(trials, key=lambda trial: trial.score)
    if best.error:
        raise EditorError(f"{wanted.name} cannot edit this model: {best.error}")
    how = {
        "data": file.sha256,
        "n": wanted.n,
        "batch": wanted.batch,
        "seed": wanted.seed,
        "trials": [as_json(trial) for trial in trials],
    }
    kept = {**wanted.settings, **best.settings}
    cache = ws.home / "cache"
    at = tuned.save(cache, wanted.name, ws.model.base_hash, kept, how)
    return Tuning(wanted.name, ws.model.name, tuple(trials), best, at)


def alternatives(wanted: Wanted) -> dict[str, tuple[Any, ...]]:
    """Return what is to be tried, setting by setting.

    Raises EditorError: nothing to try, or a value that the method does not take.
    """
    editor: Any = build(wanted.name, wanted.settings)
    own: Mapping[str, Sequence[Any]] = getattr(editor, "tunable", {})
    grid = {key: tuple(values) for key, values in (wanted.tried or own).items()}
    if not grid:
        raise EditorError(
            f"{wanted.name} names no settings to tune; say which with --try name=value,value"
        )
    for key, values in grid.items():
        for value in values:
            build(wanted.name, {**wanted.settings, key: value})
    return {key: values for key, values in grid.items() if key not in wanted.settings}


def search(
    grid: Mapping[str, Sequence[Any]], tried: Callable[[Mapping[str, Any]], Trial]
) -> list[Trial]:
    """Try the defaults, then setting after setting, keeping the best so far."""
    best = tried({})
    trials = [best]
    for key, values in grid.items():
        made = [tried({**best.settings, key: value}) for value in values]
        trials += made
        best = max((best, *made), key=lambda trial: trial.score)
    return trials


def trial_of(settings: Mapping[str, Any], row: EditRow) -> Trial:
    """Put a row's figures together, chat and plain prompts weighted by how many there are."""
    if row.error:
        return Trial(settings, error=row.error)

    def share(name: str) -> float:
        parts = [getattr(scores, name) for scores in row.scores.values()]
        count = sum(part.n for part in parts)
        return sum(part.point * part.n for part in parts) / count if count else 1.0

    return Trial(
        settings,
        share("accuracy"),
        share("generality"),
        share("locality_prefix"),
        row.perplexity_ratio,
        row.seconds.median if row.seconds else 0.0,
    )


def as_json(trial: Trial) -> dict[str, Any]:
    """Return a trial as `--json` prints it."""
    return {**dataclasses.asdict(trial), "score": trial.score}
