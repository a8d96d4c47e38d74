"""``corrigenda bench graph``: editing the triples of a knowledge graph (methods.md G9).

KGEditor's own two tasks. EDIT: the model ranks a wrong tail first, the right one is written. ADD: a
triple that the model does not hold, of a head that the graph says nothing else about, is written;
no former tail is told. Every edit is measured alone, on the model as it was, and all of them
once more after the last. Triples that are not edited should keep their ranks.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from agent.benchmarks.graph_files import read_graph
from agent.config import ConfigError
from agent.progress import Progress
from agent.workspace import Workspace
from editors.deltas import EditDelta, applied
from editors.editor import Editor, Resources
from editors.episodes import Episode
from editors.knowledge_graph import (
    Graph,
    Ranked,
    Ranker,
    Triple,
    edit_change,
    kept_change,
    lowest_layer,
    retained,
    succeeded,
)
from editors.meta_training import Trainable, TrainingOptions, train
from editors.model import ChatModel
from editors.registry import build
from editors.trunk import Sample

CANDIDATES = 24  # tails that a triple's own is ranked among
STABLE = 24  # untouched triples that are watched
WATCHED = 8  # of them after each single edit
TOP = 3  # k of RK@k, and the rank up to which a model holds a triple
LEAST_TAILS = 5  # different tails of a relation that is worth ranking
EXERCISES = 240  # triples that a method is trained on
LOOKED_AT = 12  # triples looked at for each that is asked for, at most


@dataclass(frozen=True)
class Wanted:
    """What the user asked for: ``n`` edits a task; ``episodes`` to train on where the method is
    trained (None: its own number)."""

    data: Path
    n: int
    editor: str = "kgeditor"
    episodes: int | None = None
    seed: int = 0
    model: Path | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class TaskFigures:
    """One task, each edit made alone, or all of them one upon the other.

    Attributes:
        n: edits.
        succ_1, succ_3: shares of edited triples whose tail ranks first, among the first three.
        er_roc: mean share by which edited triples' ranks fell (1 best, below 0 worse).
        rk_3: of untouched triples among the first three, the share that still is.
        rk_roc: mean share by which untouched triples' ranks moved (0 best).
        mean_before, mean_after: mean ranks of the edited triples.
    """

    n: int
    succ_1: float
    succ_3: float
    er_roc: float
    rk_3: float
    rk_roc: float
    mean_before: float
    mean_after: float


@dataclass(frozen=True)
class GraphBench:
    """The outcome: tasks ("edit", "add") by how they were made ("alone", "together")."""

    model: str
    editor: str
    data: str
    sha256: str
    seed: int
    triples: int
    candidates: int
    stable: int
    trained_on: int
    tasks: Mapping[str, Mapping[str, TaskFigures]]
    train_seconds: float
    seconds_an_edit: float


@dataclass(frozen=True)
class Chosen:
    """Triples of one run: those edited (with the tail the model ranked first), those added,
    those watched, each with its rank before, and those that may be trained on."""

    edits: tuple[tuple[Triple, Ranked], ...]
    adds: tuple[tuple[Triple, Ranked], ...]
    stable: tuple[tuple[Triple, Ranked], ...]
    training: tuple[Triple, ...]


def run(home: Path, wanted: Wanted, progress: Progress) -> GraphBench:
    """Run it in a home folder. Raises ConfigError, ModelError, EditorError."""
    overrides = {"model.path": str(wanted.model)} if wanted.model else None
    with Workspace.open(home, overrides) as ws:
        return measure(ws.model, ws.home / "cache", wanted, progress)


def measure(model: ChatModel, cache: Path, wanted: Wanted, progress: Progress) -> GraphBench:
    """Train the method if it wants training, then edit and rank. The model is put back."""
    graph, digest = read_graph(wanted.data)
    editor = _editor(wanted)
    chosen = choose(model, graph, wanted.n, wanted.seed, progress)
    begun = time.process_time()
    trains = hasattr(editor, "losses")
    if trains:
        _train(cast(Trainable, editor), model, graph, chosen, wanted, cache, digest, progress)
    trained = time.process_time() - begun
    state = editor.prepare(model, Resources(cache=cache, seed=wanted.seed))
    tasks: dict[str, dict[str, TaskFigures]] = {}
    seconds, total = 0.0, len(chosen.edits) + len(chosen.adds)
    with progress.stage("editing the graph", 2 * total) as advance:
        for name, some in (("edit", chosen.edits), ("add", chosen.adds)):
            requests = [
                graph.request(t, old=was.first if name == "edit" else "") for t, was in some
            ]
            ranks = _Ranks(model, graph, chosen)
            alone = []
            for (triple, was), request in zip(some, requests, strict=True):
                at = time.process_time()
                delta = editor.edit(model, state, [request])
                seconds += time.process_time() - at
                watched = ranks.watched(triple)
                alone.append(ranks.after([delta], [(triple, was)], watched))
                advance()
            tasks[name] = {"alone": _figures(alone)}
            with ExitStack() as undo:
                at_hand, deltas = state, []
                for request in requests:
                    delta = editor.edit(model, at_hand, [request])
                    undo.callback(delta.apply(model))
                    at_hand = editor.settled(model, at_hand, [request])
                    deltas.append(delta)
                    advance()
                together = ranks.now(lowest_layer(model, deltas), some, chosen.stable)
            tasks[name]["together"] = _figures([together])
    return GraphBench(
        model=model.name,
        editor=wanted.editor,
        data=wanted.data.name,
        sha256=digest,
        seed=wanted.seed,
        triples=len(graph.triples),
        candidates=CANDIDATES,
        stable=len(chosen.stable),
        trained_on=min(len(chosen.training), EXERCISES) if trains else 0,
        tasks=tasks,
        train_seconds=trained,
        seconds_an_edit=seconds / max(total, 1),
    )


def choose(model: ChatModel, graph: Graph, n: int, seed: int, progress: Progress) -> Chosen:
    """Choose what is edited, added, watched and trained on, by what the unedited model ranks.

    No head of a triple that is edited, added or watched is trained on.

    Raises ConfigError where the graph has too few triples of a kind.
    """
    heads = Counter(triple.head for triple in graph.triples)
    worth = [t for t in graph.triples if len(graph.tails(t.relation)) >= LEAST_TAILS]
    random.Random(f"{seed} graph").shuffle(worth)
    edits: list[tuple[Triple, Ranked]] = []
    adds: list[tuple[Triple, Ranked]] = []
    stable: list[tuple[Triple, Ranked]] = []
    ranker = Ranker(model, len(model.layers) - 1)
    most = min(len(worth), LOOKED_AT * (2 * n + STABLE))
    taken: set[str] = set()
    with progress.stage("ranking the unedited model's tails", 2 * n + STABLE) as advance:
        for triple in worth[:most]:
            if triple.head in taken:
                continue
            (ranked,) = ranker.rank([graph.query(triple, CANDIDATES)])
            kinds = (
                (stable, STABLE, ranked.rank <= TOP),
                (adds, n, ranked.rank > TOP and heads[triple.head] == 1 and len(adds) < len(edits)),
                (edits, n, ranked.rank > 1),
            )
            for some, bound, fits in kinds:
                if fits and len(some) < bound:
                    some.append((triple, ranked))
                    taken.add(triple.head)
                    advance()
                    break
            if len(edits) == len(adds) == n and len(stable) == STABLE:
                break
    if min(len(edits), len(adds)) < n or not stable:
        raise ConfigError(
            f"the graph has {len(edits)} triples to edit, {len(adds)} to add and {len(stable)} to "
            f"watch among the first {most}; lower --n from {n}, or give a larger graph"
        )
    training = tuple(t for t in worth if t.head not in taken)
    return Chosen(tuple(edits), tuple(adds), tuple(stable), training)


def exercises(
    model: ChatModel, graph: Graph, triples: Sequence[Triple], seed: int
) -> list[Episode]:
    """Return an episode a triple: half write the right tail, half another one in its place; what
    must not change are the right tails of two other triples, one of the same relation."""
    chance = random.Random(f"{seed} exercises")
    by_relation: dict[str, list[Triple]] = {}
    for triple in triples:
        by_relation.setdefault(triple.relation, []).append(triple)
    made = []
    for number, triple in enumerate(triples):
        others = [tail for tail in graph.tails(triple.relation) if tail != triple.tail]
        wrong = bool(number % 2) and bool(others)
        new = chance.choice(others) if wrong else triple.tail
        old = triple.tail if wrong else ""
        prompts = graph.prompts(triple)
        near = [t for t in by_relation[triple.relation] if t.head != triple.head]
        kept = [chance.choice(near)] if near else []
        kept.append(chance.choice([t for t in triples if t.head != triple.head]))
        made.append(
            Episode(
                edits=(_said(model, prompts[0], new),),
                rephrased=tuple(_said(model, prompt, new) for prompt in prompts[1:2]),
                kept=tuple(_said(model, graph.prompts(t)[0], t.tail) for t in kept),
                question=tuple(model.encode(prompts[0])),
                old=tuple(model.encode_answer(old)),
                new=tuple(model.encode_answer(new)),
            )
        )
    return made


class _Ranks:
    """Ranks after edits, by one ranker a lowest edited layer."""

    def __init__(self, model: ChatModel, graph: Graph, chosen: Chosen) -> None:
        self._model, self._graph, self._stable = model, graph, chosen.stable
        self._rankers: dict[int, Ranker] = {}

    def watched(self, triple: Triple) -> list[tuple[Triple, Ranked]]:
        """Return the untouched triples that are ranked after one edit, others for each."""
        mark = f"{triple.head} {triple.relation}"
        return random.Random(mark).sample(self._stable, min(WATCHED, len(self._stable)))

    def after(
        self,
        deltas: Sequence[EditDelta],
        edited: Sequence[tuple[Triple, Ranked]],
        untouched: Sequence[tuple[Triple, Ranked]],
    ) -> _Outcome:
        """Rank under some deltas; the model is put back."""
        with applied(self._model, *deltas):
            return self.now(lowest_layer(self._model, deltas), edited, untouched)

    def now(
        self,
        lowest: int,
        edited: Sequence[tuple[Triple, Ranked]],
        untouched: Sequence[tuple[Triple, Ranked]],
    ) -> _Outcome:
        """Rank as the model is now, edited from layer ``lowest`` on."""
        ranker = self._rankers.setdefault(lowest, Ranker(self._model, lowest))
        found = [
            [one.rank for one in ranker.rank([self._graph.query(t, CANDIDATES) for t, _ in some])]
            for some in (edited, untouched)
        ]
        before = [[was.rank for _, was in some] for some in (edited, untouched)]
        return _Outcome(before[0], found[0], before[1], found[1])


@dataclass(frozen=True)
class _Outcome:
    """Ranks of edited and of untouched triples before and after."""

    before: list[int]
    after: list[int]
    kept_before: list[int]
    kept_after: list[int]


def _figures(outcomes: Sequence[_Outcome]) -> TaskFigures:
    before = [rank for one in outcomes for rank in one.before]
    after = [rank for one in outcomes for rank in one.after]
    kept_before = [rank for one in outcomes for rank in one.kept_before]
    kept_after = [rank for one in outcomes for rank in one.kept_after]
    return TaskFigures(
        n=len(after),
        succ_1=succeeded(after, 1),
        succ_3=succeeded(after, 3),
        er_roc=edit_change(before, after),
        rk_3=retained(kept_before, kept_after, TOP),
        rk_roc=kept_change(kept_before, kept_after),
        mean_before=sum(before) / len(before),
        mean_after=sum(after) / len(after),
    )


def _editor(wanted: Wanted) -> Editor:
    """Build the method; what is trained on a graph is kept apart from what is trained on facts."""
    settings = dict(wanted.settings)
    if wanted.editor == "kgeditor":
        settings.setdefault("checkpoint", "kgeditor-graph")
    return build(wanted.editor, settings)


def _train(
    method: Trainable,
    model: ChatModel,
    graph: Graph,
    chosen: Chosen,
    wanted: Wanted,
    cache: Path,
    digest: str,
    progress: Progress,
) -> None:
    options: TrainingOptions = getattr(method, "training", TrainingOptions())
    if wanted.episodes is not None:
        options = dataclasses.replace(options, episodes=wanted.episodes)
    made = exercises(model, graph, chosen.training[:EXERCISES], wanted.seed)
    with progress.stage(f"training {method.name}", options.episodes) as advance:
        done = 0

        def step(so_far: int, of: int) -> None:
            nonlocal done
            advance(so_far - done)
            done = so_far

        train(method, model, made, options, cache, data=f"{digest} {wanted.n}", step=step)


def _said(model: ChatModel, prompt: str, tail: str) -> Sample:
    return Sample(tuple(model.encode(prompt)), tuple(model.encode_answer(f" {tail}")))
