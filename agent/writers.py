"""The ways in which a night writes edits into weights, each from the base weights and all edits.

A writer is given the requests in the ledger's order and carries the first ones of them, as many as
there is time and room for; the rest stays in the memory tier.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, ClassVar, Protocol

import torch

from agent.battery import Reference
from agent.config import ConfigError
from agent.progress import Advance, Progress
from agent.texts import ordinary_texts
from agent.workspace import Workspace
from editors.deltas import EditDelta, MlpExpansion, head_group
from editors.editor import Resources
from editors.key_statistics import KeyStatistics, kept_statistics
from editors.memory import compiled, lookup, recall
from editors.memory.states import States
from editors.memory.unedited_replies import questions_of
from editors.model import ChatModel
from editors.question_embeddings import Embed
from editors.requests import EditRequest

AUTO = "auto"
_TIMED = 8  # steps of a training by which its end is foretold
_SAFE = 0.8  # share of the time left that is planned for


@dataclass(frozen=True)
class Night:
    """The time in which a version is written: until ``end`` in seconds of a clock, else endless."""

    end: float = math.inf
    clock: Callable[[], float] = time.monotonic

    def left(self) -> float:
        """Return the seconds that are left, less than 0 once it is over."""
        return self.end - self.clock()

    def over(self) -> bool:
        return self.left() < 0


class Writer(Protocol):
    """One way to write edits into weights."""

    heads: bool
    """Whether attention heads are added too."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the weights follow from, besides model and requests: kept with the version."""
        ...

    def write(
        self, ws: Workspace, requests: Sequence[EditRequest], progress: Progress, night: Night
    ) -> tuple[EditDelta, int]:
        """Return what is added, and how many requests, the first ones, it carries."""
        ...

    def neurons(self, model: ChatModel, new: str) -> tuple[int, int]:
        """Return the fewest and the most neurons that an edit to a value takes.

        One for each token that is written, the end of the answer included; the value is written
        at the beginning of an answer, after a space, or both.
        """
        ...


class _ClosedForm(Protocol):
    """A method that solves edits from what the unedited model makes of some lines."""

    def prepare(self, model: ChatModel, resources: Resources) -> Any: ...

    def kept(self, model: ChatModel) -> str: ...

    def within(
        self,
        model: ChatModel,
        state: Any,
        requests: Sequence[EditRequest],
        step: Callable[[int, int], None],
        stop: Callable[[], bool],
    ) -> tuple[EditDelta, int]: ...


def _solved(
    name: str,
    method: _ClosedForm,
    ws: Workspace,
    requests: Sequence[EditRequest],
    progress: Progress,
    night: Night,
) -> tuple[EditDelta, int]:
    """Write in closed form; what was run once is kept under the method's name."""
    cache = ws.home / "cache"
    with progress.stage("reading ordinary text", None):
        resources = Resources(ordinary_texts(ws), cache, embed=_embed(ws))
        state = method.prepare(ws.model, resources)
    state.states = States(cache / name / method.kept(ws.model))
    state.replies.update(_reference(ws).answers(questions_of(requests)))
    with progress.stage("consolidating", len(requests)) as advance:
        step = _advancing(advance, len(requests))
        return method.within(ws.model, state, requests, step, night.over)


@dataclass(frozen=True)
class LookupWriter:
    """Lookup neurons (``editors.memory.lookup``): closed form, what was run once is kept."""

    method: lookup.Lookup = field(default_factory=lookup.Lookup)
    heads: ClassVar[bool] = False

    @property
    def settings(self) -> Mapping[str, Any]:
        return dataclasses.asdict(self.method)

    def write(
        self, ws: Workspace, requests: Sequence[EditRequest], progress: Progress, night: Night
    ) -> tuple[EditDelta, int]:
        return _solved(lookup.NAME, self.method, ws, requests, progress, night)

    def neurons(self, model: ChatModel, new: str) -> tuple[int, int]:
        return _written(model, new)


@dataclass(frozen=True)
class CompiledWriter:
    """Compiled memory (``editors.memory.compiled``): trained together, from the beginning. As soon
    as it shows that the night is too short for all, as many as it is long enough for."""

    method: compiled.CompiledSettings = field(default_factory=compiled.CompiledSettings)
    heads: ClassVar[bool] = False

    @property
    def settings(self) -> Mapping[str, Any]:
        return dataclasses.asdict(self.method)

    def write(
        self, ws: Workspace, requests: Sequence[EditRequest], progress: Progress, night: Night
    ) -> tuple[EditDelta, int]:
        statistics = load_statistics(ws, self.method, progress)

        def ask(questions: Sequence[str]) -> list[str]:
            known = _reference(ws).answers(questions)
            return [known[question] for question in questions]

        while True:
            with progress.stage("consolidating", self.method.steps) as advance:
                step = _foretelling(night, len(requests), _advancing(advance, self.method.steps))
                try:
                    made = compiled.edit(ws.model, requests, statistics, self.method, step, ask)
                except _TooMany as many:
                    requests = requests[: many.fitting]
                else:
                    return made, len(requests)

    def neurons(self, model: ChatModel, new: str) -> tuple[int, int]:
        return _written(model, new if new.endswith(".") else f"{new}.")


@dataclass(frozen=True)
class RecallWriter:
    """Recall heads (``editors.memory.recall``): closed form, what was run once is kept."""

    method: recall.Recall = field(default_factory=recall.Recall)
    heads: ClassVar[bool] = True

    @property
    def settings(self) -> Mapping[str, Any]:
        return dataclasses.asdict(self.method)

    def write(
        self, ws: Workspace, requests: Sequence[EditRequest], progress: Progress, night: Night
    ) -> tuple[EditDelta, int]:
        delta, carried = _solved(recall.NAME, self.method, ws, requests, progress, night)
        if not carried:  # neurons, none of them, as the other ways have it
            none = torch.zeros(0, ws.model.hidden_size)
            return MlpExpansion(0, none, none.clone(), none.T.clone()), 0
        return delta, carried

    def neurons(self, model: ChatModel, new: str) -> tuple[int, int]:
        # A subject's flag takes two, once for all that is edited of it.
        least, most = _written(model, new)
        return least, most + 2


_WRITERS: Mapping[str, tuple[type[Any], type[Any]]] = {
    lookup.NAME: (LookupWriter, lookup.Lookup),
    recall.NAME: (RecallWriter, recall.Recall),
    compiled.NAME: (CompiledWriter, compiled.CompiledSettings),
}


def chosen(name: str, model: ChatModel) -> str:
    """Return the way that a configured one stands for: "auto" is recall heads where the model has
    room for them, and compiled memory elsewhere."""
    if name != AUTO:
        return name
    return recall.NAME if recall.Recall().fits(model) else compiled.NAME


def writer_of(name: str, settings: Mapping[str, Any] | None = None) -> Writer:
    """Return a writer by its name, at its defaults or with the settings of a version.

    A setting of another release is left out. Raises ConfigError for an unknown name.
    """
    if name not in _WRITERS:
        raise ConfigError(f"no way to consolidate is called {name!r}; use {', '.join(_WRITERS)}")
    writer, method = _WRITERS[name]
    known = {one.name for one in dataclasses.fields(method)}
    given = {key: value for key, value in (settings or {}).items() if key in known}
    made: Writer = writer(method(**given))
    return made


def within_room(
    writer: Writer, model: ChatModel, requests: Sequence[EditRequest], parameters: int
) -> list[EditRequest]:
    """Return the first requests that take at most so many parameters together."""
    left = parameters
    if writer.heads:  # once, however many requests there are
        group, width = head_group(model)
        left -= 2 * (group + 1) * width * model.hidden_size
    neuron = 3 * model.hidden_size
    taken = accumulate(neuron * writer.neurons(model, request.new)[1] for request in requests)
    return [request for request, most in zip(requests, taken, strict=True) if most <= left]


def load_statistics(
    ws: Workspace, settings: compiled.CompiledSettings, progress: Progress
) -> KeyStatistics:
    """Return the key statistics of the base model, measured once and cached by hash."""
    texts, layer = ordinary_texts(ws), compiled.layer_of(ws.model, settings)
    with progress.stage("reading key statistics", None):
        return kept_statistics(
            ws.model, texts, layer, settings.statistics_tokens, ws.home / "cache"
        )


def _written(model: ChatModel, value: str) -> tuple[int, int]:
    lengths = [len(model.encode_answer(lead + value)) + 1 for lead in ("", " ")]
    return min(lengths), sum(lengths)


def _advancing(advance: Advance, units: int) -> Callable[[int, int], None]:
    """Return what moves a bar of so many units on to a share that is told as (done, of all)."""
    reached = 0

    def step(done: int, of: int) -> None:
        nonlocal reached
        now = done * units // of
        advance(now - reached)
        reached = now

    return step


class _TooMany(Exception):
    """Training would not end in the night; of so many requests it would."""

    def __init__(self, fitting: int) -> None:
        super().__init__()
        self.fitting = fitting


def _foretelling(
    night: Night, requests: int, then: Callable[[int, int], None]
) -> Callable[[int, int], None]:
    """Return what is told of each step of a training that begins now, and raises _TooMany once
    the first few show that it would end too late. Its time grows with the requests."""
    began = night.clock()
    first = began

    def step(done: int, of: int) -> None:
        nonlocal first
        now = night.clock()
        if done == 1:
            first = now
        elif now > night.end:
            raise _TooMany(0)
        elif done == 1 + _TIMED:
            each = (now - first) / _TIMED
            if each * (of - done) > night.end - now:
                share = _SAFE * (night.end - now) / (first - began + each * of)
                raise _TooMany(min(int(share * requests), requests - 1))
        then(done, of)

    return step


def _reference(ws: Workspace) -> Reference:
    """The unedited model's answers are constant: those at hand are not asked again."""
    return Reference(ws.model, ws.home / "cache", ws.config.model.max_new_tokens)


def _embed(ws: Workspace) -> Embed | None:
    """Return the embeddings that the shipped scope knows; None where they are not installed."""
    if ws.meaning is None:
        return None
    return lambda asked: ws.embeddings.vectors([one.text for one in asked])
