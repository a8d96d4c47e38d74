"""Edits night after night: what is still right of each night's edits, and what a night costs.

A night makes its edits together and then asks a sample of every night's edits so far, free-running
and from the weights alone. After the last night every edit is asked with all its probes: of the
weights alone, and as served (``agent.served``): with the memory tier in front of them, and
of the unedited weights where no edit may be asked for.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.battery import everyday
from agent.benchmarks.edit_layouts import EditRecord, Prompt
from agent.benchmarks.edit_run import (
    Bench,
    Scores,
    ask,
    fingerprint,
    prompts_of,
    right,
    score,
    unedited_row,
)
from agent.examination import ability
from editors.deltas import EditDelta
from editors.editor import Editor
from editors.metrics import Interval, mean_share
from editors.requests import EditorError

FIRST = 100
"""Edits whose share that is still right at the end is told apart."""
UNEDITED, WEIGHTS, SERVED = "unedited", "weights alone", "as served"


@dataclass(frozen=True)
class Night:
    """One night.

    Attributes:
        edits: made so far, this night's among them.
        seconds: of computing and applying.
        testing: seconds of asking the sample.
        parameters: that the model has more than at first.
        cohorts: of each night so far, this one last, the share of its sampled edits that is right.
    """

    edits: int
    seconds: float
    testing: float
    parameters: int
    cohorts: tuple[Interval, ...]


@dataclass(frozen=True)
class Carried:
    """What answers at the end. ``scores`` are by rendering; ``first`` is the accuracy on the
    first ``FIRST`` edits of all; ``ability`` is the share of the easy everyday questions which the
    unedited model answers rightly that still are."""

    name: str
    scores: Mapping[str, Scores]
    first: Interval
    ability: Interval
    perplexity_ratio: float | None = None


@dataclass(frozen=True)
class Tier:
    """A memory tier. ``heard`` tells of each text whether it may ask for an edit: only then are the
    edited weights heard."""

    delta: EditDelta
    heard: Callable[[Sequence[str]], list[bool]]


@dataclass(frozen=True)
class Retained:
    """A whole run.

    Attributes:
        editor, settings: the method of the nights.
        nights: one after the other.
        carried: the unedited model, the weights alone, and as served where that was asked for.
        parameters: that the unedited model has.
        error: why it stopped, or "".
    """

    editor: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    nights: tuple[Night, ...] = ()
    carried: tuple[Carried, ...] = ()
    parameters: int = 0
    error: str = ""

    @property
    def growth(self) -> float | None:
        """What the last night cost by what the second did; None with fewer than three."""
        if len(self.nights) < 3 or not self.nights[1].seconds:
            return None
        return self.nights[-1].seconds / self.nights[1].seconds

    @property
    def added(self) -> float | None:
        """The share of its parameters that the model grows by for a hundred edits."""
        if not self.nights or not self.parameters:
            return None
        last = self.nights[-1]
        return last.parameters / self.parameters * 100 / last.edits

    def by_age(self) -> dict[int, Interval]:
        """Return what is right of edits that are so many nights old, over all measurements."""
        found: dict[int, list[Interval]] = {}
        for night in self.nights:
            for number, share in enumerate(night.cohorts):
                found.setdefault(len(night.cohorts) - 1 - number, []).append(share)
        return {age: _pooled(shares) for age, shares in sorted(found.items())}


def retain(
    bench: Bench,
    name: str,
    editor: Editor,
    settings: Mapping[str, Any],
    *,
    sample: int,
    tier: Callable[[], Tier] | None,
    written: Callable[[Retained], None] = lambda so_far: None,
) -> Retained:
    """Make ``bench.batch`` edits a night until all are made, then score them, and undo them.

    An editor that cannot (EditorError) gives what was measured until then, with its error.

    Args:
        bench: what is edited with what; ``batch`` is a night's edits.
        sample: edits at most that are asked each night, this night's own besides.
        tier: makes the memory tier that stands before the weights at the end; None: without.
        written: told the run so far after each night.

    Raises EditorError where the weights are not bit-identical afterwards.
    """
    model, records = bench.model, bench.chosen.records
    before = fingerprint(model)
    size = sum(parameter.numel() for parameter in model.model.parameters())
    known = unedited_row(bench)
    first = list(records[:FIRST])
    answers = bench.unedited.ask([*prompts_of(records), *_easy()], bench.progress)
    own = Carried(
        UNEDITED, known.scores, _accuracy(first, answers), _ability(answers, answers), 1.0
    )
    made = Retained(name, settings, carried=(own,), parameters=size)
    base = model.losses(bench.texts)
    try:
        with contextlib.ExitStack() as undo:
            for night in _nights(bench, name, editor, sample, undo):
                made = _with(made, night=night)
                written(made)
            edited = model.losses(bench.texts)
            made = _with(made, carried=_carried(bench, WEIGHTS, answers, _ratio(base, edited)))
            written(made)
            if tier is not None:
                front = tier()
                undo.callback(front.delta.apply(model))
                heard = front.heard(bench.texts)
                served = [e if h else b for b, e, h in zip(base, edited, heard, strict=True)]
                ratio = _ratio(base, served)
                made = _with(made, carried=_carried(bench, SERVED, answers, ratio, front.heard))
    except EditorError as error:
        made = Retained(name, settings, made.nights, made.carried, size, str(error))
    if fingerprint(model) != before:
        raise EditorError(f"editor {name} did not leave the weights as they were; stopped here")
    written(made)
    return made


def sampled(records: Sequence[EditRecord], night: int, most: int, seed: str) -> list[EditRecord]:
    """Return all edits of the last night and at most ``most`` of those before, as equally many
    of each night as can be, drawn by ``seed``. Pure.

    Args:
        records: those made so far, in order.
        night: edits of a night.
    """
    nights = [list(records[at : at + night]) for at in range(0, len(records), night)]
    *earlier, last = nights
    if not earlier:
        return last
    each = max(most // len(earlier), 1)
    draw = random.Random(seed)
    chosen = [draw.sample(some, min(each, len(some))) for some in earlier]
    return [*(record for some in chosen for record in some), *last]


def _nights(
    bench: Bench, name: str, editor: Editor, sample: int, undo: contextlib.ExitStack
) -> Any:
    """Make the edits night by night and yield what each came to."""
    model, requests, night = bench.model, bench.chosen.requests, bench.batch
    begun = bench.clock()
    state = editor.prepare(model, bench.resources)
    grown = 0
    with bench.progress.stage(f"nights of {name}", len(requests)) as advance:
        for start in range(0, len(requests), night):
            part = requests[start : start + night]
            if start:  # what is prepared once counts into the first night
                begun = bench.clock()
            if editor.stacks:
                delta = editor.edit(model, state, part)
                grown += delta.parameters_added
            else:
                undo.close()
                delta = editor.edit(model, state, requests[: start + len(part)])
                grown = delta.parameters_added
            undo.callback(delta.apply(model))
            state = editor.settled(model, state, part)
            ended = bench.clock()
            records = bench.chosen.records[: start + len(part)]
            cohorts = _cohorts(bench, records, night, sample)
            yield Night(len(records), ended - begun, bench.clock() - ended, grown, cohorts)
            advance(len(part))


def _cohorts(
    bench: Bench, records: Sequence[EditRecord], night: int, sample: int
) -> tuple[Interval, ...]:
    """Ask a sample of each night's edits; return what is right of each."""
    number = {record.id: at // night for at, record in enumerate(records)}
    chosen = sampled(records, night, sample, f"{len(records)}")
    stage = f"asking {len(chosen)} of {len(records)} edits"
    prompts = [record.edit.prompt for record in chosen]
    answers = ask(bench.model, prompts, bench.chat_tokens, stage, bench.progress)
    shares: list[list[float]] = [[] for _ in range(number[records[-1].id] + 1)]
    for record in chosen:
        found = right(record, record.edit, answers[record.edit.prompt])
        shares[number[record.id]].append(float(found))
    return tuple(map(mean_share, shares))


def _carried(
    bench: Bench,
    name: str,
    known: Mapping[Prompt, str],
    ratio: float | None,
    heard: Callable[[Sequence[str]], list[bool]] | None = None,
) -> Carried:
    """Ask every probe of every edit of the model as it stands.

    Args:
        known: the unedited model's answers.
        heard: tells which prompts the edited weights are asked; None: all of them.
    """
    model, records = bench.model, bench.chosen.records
    prompts = list(dict.fromkeys([*prompts_of(records), *_easy()]))
    due = heard([prompt.text for prompt in prompts]) if heard else [True] * len(prompts)
    asked = [prompt for prompt, edited in zip(prompts, due, strict=True) if edited]
    stage = f"asking all edits, {name}"
    answers = {
        **{prompt: known[prompt] for prompt in prompts},
        **ask(model, asked, bench.chat_tokens, stage, bench.progress),
    }
    scores = score(records, lambda _, prompt: answers[prompt], known, model.encode_answer)
    first = _accuracy(records[:FIRST], answers)
    return Carried(name, scores, first, _ability(known, answers), ratio)


def _easy() -> list[Prompt]:
    """Return the easy everyday questions that the gate asks too."""
    return [Prompt(question, chat=True) for question in everyday().ability]


def _ability(known: Mapping[Prompt, str], answers: Mapping[Prompt, str]) -> Interval:
    before = {prompt.text: known[prompt] for prompt in _easy()}
    return ability(before, {prompt.text: answers[prompt] for prompt in _easy()}, everyday())


def _ratio(base: Sequence[tuple[float, int]], after: Sequence[tuple[float, int]]) -> float | None:
    """Return the perplexity by what it was, given each text's loss and tokens."""
    count = sum(n for _, n in base)
    if not count:
        return None
    return math.exp(sum(b - a for (a, _), (b, _) in zip(base, after, strict=True)) / count)


def _accuracy(records: Sequence[EditRecord], answers: Mapping[Prompt, str]) -> Interval:
    return mean_share(float(right(r, r.edit, answers[r.edit.prompt])) for r in records)


def _with(made: Retained, night: Night | None = None, carried: Carried | None = None) -> Retained:
    return Retained(
        made.editor,
        made.settings,
        (*made.nights, night) if night else made.nights,
        (*made.carried, carried) if carried else made.carried,
        made.parameters,
    )


def _pooled(shares: Sequence[Interval]) -> Interval:
    """Return the share of all trials together."""
    return mean_share(share.point for share in shares for _ in range(share.n))
