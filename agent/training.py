"""Training a method to edit: `corrigenda editors train`.

Reads files of facts in any of the benchmark's layouts and makes episodes of them: the edit
prompt with the new answer, other wordings with it, and prompts outside the edit's scope with
what the unedited model says to them. What the benchmark tests is never trained on, by subject:
``split`` says how.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from agent.benchmarks.edit_layouts import BenchProbe, EditRecord, Prompt, spells
from agent.benchmarks.edit_records import ABOUT_TRAINED, RecordFile, choose, read_records
from agent.config import ConfigError
from agent.progress import Progress
from agent.workspace import Workspace
from detectors.entities import normalise
from editors.episodes import Episode
from editors.meta_training import Trainable, Training, TrainingOptions, train
from editors.model import ChatModel
from editors.registry import build
from editors.rendering import renderings
from editors.requests import EditorError, EditRequest
from editors.trunk import Sample
from store.files import Files

TESTED, TESTED_SEED = 100, 0
"""The draw of `bench edit` that training must not see: its first so many facts of this seed."""
EXERCISES = 320  # different facts that are trained on; each is seen several times
REPHRASED = 2  # other wordings of a fact that are tried after its edit
KEPT_TOKENS = 16  # of the unedited model's answers that are to stay
LEAST = 40  # facts below which there is nothing to learn from


@dataclass(frozen=True)
class Wanted:
    """What the user asked for.

    ``settings`` are the method's; ``episodes`` and ``minutes`` bound the training (None: the
    method's own number; no bound on time); ``exercises`` is how many different facts are used.
    """

    name: str
    data: tuple[Path, ...]
    model: Path | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    episodes: int | None = None
    minutes: float | None = None
    exercises: int | None = None


def run(
    home: Path, wanted: Wanted, progress: Progress, clock: Callable[[], float]
) -> tuple[str, Training]:
    """Train in a home folder; return the model's name and what came of it.

    Raises ConfigError, ModelError, EditorError.
    """
    trainable(wanted.name, wanted.settings)  # what can be wrong with it comes before the model
    overrides = {"model.path": str(wanted.model)} if wanted.model else None
    with Workspace.open(home, overrides) as ws:
        done = trained(ws, wanted, progress, clock)
        return ws.model.name, done


def trained(
    ws: Workspace, wanted: Wanted, progress: Progress, clock: Callable[[], float]
) -> Training:
    """Train with an open workspace, or go on where the same training stopped."""
    begun = clock()
    method = trainable(wanted.name, wanted.settings)
    files = [read_records(path) for path in wanted.data]
    options: TrainingOptions = getattr(method, "training", TrainingOptions())
    if wanted.episodes is not None:
        options = dataclasses.replace(options, episodes=wanted.episodes)
    records = drawn(files, wanted.exercises or EXERCISES, options.seed)
    cache = ws.home / "cache"
    tested = Tested(files)
    made = episodes(ws.model, records, tested.allows, options.seed, cache, progress)
    until = begun + 60 * wanted.minutes if wanted.minutes is not None else None
    with _Stages(progress, wanted.name) as stages:
        return train(
            method,
            ws.model,
            made,
            options,
            cache,
            data=" ".join(file.sha256 for file in files),
            step=stages.step,
            reading=stages.reading,
            expired=lambda: until is not None and clock() >= until,
        )


def as_json(done: Training) -> dict[str, Any]:
    """Return what a training came to, as `--json` prints it."""
    fields = {**dataclasses.asdict(done), "path": str(done.path)}
    keys = ("steps", "training", "held")
    return {**fields, "history": [dict(zip(keys, look, strict=True)) for look in done.history]}


def told(done: Training) -> list[tuple[str, str]]:
    """Return what a training came to, as a person reads it: names and values."""
    shares = {
        "right": "edits answered exactly",
        "general": "other wordings answered exactly",
        "prefix": "kept answers up to the first difference",
        "base": "divergence of the retrained model before any edit",
    }
    figures = [(label, f"{done.held[n]:.2f}") for n, label in shares.items() if n in done.held]
    return [
        ("episodes seen", str(done.episodes)),
        ("on facts held out:", "a diagnostic; `bench edit` measures free-running answers"),
        *figures,
        ("kept in", str(done.path)),
    ]


def trainable(name: str, settings: Mapping[str, Any]) -> Trainable:
    """Return a method that can be trained. Raises EditorError for one that needs none."""
    made: Any = build(name, settings)
    if not hasattr(made, "losses"):
        raise EditorError(f"{name} needs no training: use it as it is")
    return cast(Trainable, made)


def split(files: Sequence[RecordFile]) -> list[list[EditRecord]]:
    """Return by file the records that may be trained on.

    Left out is every record whose subject (folded) is that of one of the first ``TESTED``
    records which the benchmark draws with seed ``TESTED_SEED`` from any of the files.
    """
    tested = Tested(files)
    return [[r for r in file.records if not tested.has(r.subject)] for file in files]


def drawn(files: Sequence[RecordFile], count: int, seed: int) -> list[EditRecord]:
    """Return the records to train on: as equally many of each file as there are, shuffled.

    Raises ConfigError where too few are left.
    """
    parts = split(files)
    for part in parts:
        random.Random(f"{seed} records").shuffle(part)
    found: list[EditRecord] = []
    seen: set[str] = set()
    while len(found) < count and any(parts):
        for part in parts:
            if part and len(found) < count:
                record = part.pop()
                if record.slot not in seen:
                    seen.add(record.slot)
                    found.append(record)
    if len(found) < LEAST:
        raise ConfigError(
            f"--data: {len(found)} facts are left to train on, beside the first {TESTED} that the "
            f"benchmark tests; give files with {LEAST} more facts at least"
        )
    random.Random(f"{seed} order").shuffle(found)
    return found


def episodes(
    model: ChatModel,
    records: Sequence[EditRecord],
    allowed: Callable[[Prompt], bool],
    seed: int,
    cache: Path,
    progress: Progress,
) -> list[Episode]:
    """Make an episode of each record.

    Args:
        model: the unedited model: it is asked what it says to what is to stay.
        allowed: whether a prompt may be trained on.
        cache: keeps the model's answers.
    """
    near = _Near(records)
    kept = [
        [p for p in _outside(record, near.of(record, seed)) if allowed(p)] for record in records
    ]
    asked = sorted({prompt for prompts in kept for prompt in prompts})
    said = answers(model, asked, cache, progress)
    made = []
    for record, prompts in zip(records, kept, strict=True):
        try:
            edits = _samples(model, record, record.edit.prompt)
            others = [
                sample
                for probe in alike(record)[:REPHRASED]
                if allowed(probe.prompt)
                for sample in _samples(model, record, probe.prompt)
            ]
        except EditorError:  # a statement that does not hold its object, say
            continue
        made.append(
            Episode(
                edits=tuple(edits),
                rephrased=tuple(others),
                kept=tuple(said[prompt] for prompt in prompts),
                question=tuple(model.encode(record.edit.prompt.text)),
                old=tuple(model.encode_answer(next(iter(record.former), ""))),
                new=tuple(model.encode_answer(record.new)),
            )
        )
    return made


def alike(record: EditRecord) -> list[BenchProbe]:
    """Return the paraphrases that are asked as the edit is. One gradient of a chat answer hardly
    reaches the plain continuation of a text: an exercise in that drowns what can be learned."""
    return [p for p in record.paraphrases if p.prompt.chat is record.edit.prompt.chat]


def answers(
    model: ChatModel, prompts: Sequence[Prompt], cache: Path, progress: Progress
) -> dict[Prompt, Sample]:
    """Return what the unedited model says to prompts, asked once and kept on disk under the
    model's hash. An answer that ends by itself ends with the end of the turn."""
    path = cache / "trained" / f"answers-{model.base_hash[:16]}-{KEPT_TOKENS}.json"
    known: dict[Prompt, list[int]] = {}
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        known = {Prompt(text, chat): tokens for text, chat, tokens in kept}
    fed = {p: model.encode(model.render(p.text) if p.chat else p.text) for p in prompts}
    missing = sorted(set(prompts) - set(known))
    if missing:
        with progress.stage("asking the unedited model", len(missing)) as advance:
            done = 0

            def so_far(count: int) -> None:
                nonlocal done
                advance(count - done)
                done = count

            made = model.generate(
                [fed[p] for p in missing], max_new_tokens=KEPT_TOKENS, progress=so_far
            )
        stop = min(model.stop_ids)
        for prompt, one in zip(missing, made, strict=True):
            known[prompt] = [*one.tokens, *([stop] if one.stopped or not one.tokens else [])]
        rows = [[p.text, p.chat, tokens] for p, tokens in sorted(known.items())]
        Files().replace(path, json.dumps(rows, ensure_ascii=False).encode())
    return {p: Sample(tuple(fed[p]), tuple(known[p])) for p in prompts}


class Tested:
    """What the benchmark tests in some files."""

    def __init__(self, files: Sequence[RecordFile], first: int = TESTED) -> None:
        self._subjects: set[str] = set()
        self._prompts: set[Prompt] = set()
        for file in files:
            for record in choose(file, min(first, len(file.records)), TESTED_SEED).records:
                self._subjects.add(normalise(record.subject))
                probes = (*record.paraphrases, *record.locality, *record.portability)
                self._prompts |= {probe.prompt for probe in (record.edit, *probes)}
        self._words = {subject.split()[0] for subject in self._subjects if subject.split()}

    def has(self, subject: str) -> bool:
        return normalise(subject) in self._subjects

    def allows(self, prompt: Prompt) -> bool:
        """Whether a prompt is none that is tested, and names no subject that is."""
        if prompt in self._prompts:
            return False
        words = normalise(prompt.text).split()
        if self._words.isdisjoint(words):
            return True
        text = f" {' '.join(words)} "
        return not any(f" {subject} " in text for subject in self._subjects)


class _Near:
    """Records by kind: their questions are near to each other's."""

    def __init__(self, records: Sequence[EditRecord]) -> None:
        self._all = records
        self._kinds: defaultdict[str, list[EditRecord]] = defaultdict(list)
        for record in records:
            self._kinds[record.kind].append(record)

    def of(self, record: EditRecord, seed: int) -> Prompt | None:
        """Return a prompt on another subject, of the record's kind where there is one."""
        mark = hashlib.sha256(f"{seed} {record.id} {record.slot}".encode()).digest()
        chance = random.Random(mark)
        for some in (self._kinds[record.kind], self._all):
            for one in chance.sample(some, min(len(some), 8)):
                other = normalise(one.subject) != normalise(record.subject)
                if other and not spells(one.edit.prompt.text, record.edit.answers):
                    return one.edit.prompt
        return None


def _outside(record: EditRecord, near: Prompt | None) -> list[Prompt]:
    """Return prompts whose answers an edit of the record must leave alone: a near one, one on
    the same subject, one that the file brings."""
    about = Prompt(ABOUT_TRAINED.format(subject=record.subject), True)
    own = [probe.prompt for probe in record.locality[:1]]
    mine = {p.prompt for p in (record.edit, *record.paraphrases, *record.portability)}
    found = dict.fromkeys(p for p in (near, about, *own) if p is not None and p not in mine)
    return list(found)


def _samples(model: ChatModel, record: EditRecord, prompt: Prompt) -> list[Sample]:
    text = (prompt.text,)
    request = EditRequest(
        id=record.id,
        questions=text if prompt.chat else (),
        new=record.new,
        statement=record.statement,
        prompts=() if prompt.chat else text,
    )
    return [Sample(r.prompt, r.answer) for r in renderings(model, request)]


class _Stages(contextlib.AbstractContextManager["_Stages"]):
    """Turns the trainer's two counts into two stages, one after the other."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress, self._name = progress, name
        self._stack = contextlib.ExitStack()
        self._open = ""
        self._done = 0

    def reading(self, done: int, of: int) -> None:
        self._tell("reading the exercises (once a run)", done, of)

    def step(self, done: int, of: int) -> None:
        self._tell(f"training {self._name}", done, of)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _tell(self, stage: str, done: int, of: int) -> None:
        if stage != self._open:
            self._stack.close()
            self._advance = self._stack.enter_context(self._progress.stage(stage, of))
            self._open, self._done = stage, 0
        self._advance(done - self._done)
        self._done = done
