"""KAFT, knowledge-aware fine-tuning: told facts count, other texts do not (Li et al. 2022; M6).

A model is tuned once so that it heeds a relevant text before its own knowledge, and its own
knowledge before an irrelevant text. Each question is trained in four ways: with a relevant text
(answer: what it says), with a *counterfactual* one (another object in its place: that object),
with an irrelevant text and with none (answer: the model's own, closed book). Facts are invented,
with names from ordinary texts, and told in the words in which the memory tells an edit.

As an editor the tuned weights carry a memory: a question in an edit's scope (SERAC's) is told
the fact. How often a counterfactual text is followed (controllability) and an irrelevant one is
not (robustness) is measured before and after on relations that were not trained.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from editors.architectures import view
from editors.deltas import DenseDelta, applied
from editors.editor import Resources
from editors.generation import generate
from editors.memory.attached import MemoryDelta
from editors.memory.scope_head import HeadSettings
from editors.memory.serac import SeracMemory, scopes
from editors.memory.texts import (
    TextEditor,
    TextSettings,
    TextState,
    clarified,
    tokens_of,
)
from editors.model import ChatModel
from editors.optimize.matrix_training import train
from editors.optimize.parameters import Whole
from editors.optimize.stage import lesson
from editors.optimize.tuning import TuningSettings, adam, matrices, prepared, schedule
from editors.question_embeddings import Asked
from editors.requests import EditRequest
from editors.runtime import Turns, silent

NAME = "kaft"
RELATIONS = (
    ("Who is the director of {s}?", "The director of {s} is {o}."),
    ("Who founded {s}?", "{s} was founded by {o}."),
    ("In which city is {s}?", "{s} is in {o}."),
    ("Which company owns {s}?", "{s} is owned by {o}."),
    ("Who succeeded {s}?", "{s} was succeeded by {o}."),
    ("Where was {s} born?", "{s} was born in {o}."),
    ("Who is the author of {s}?", "The author of {s} is {o}."),
    ("What was {s} named after?", "{s} was named after {o}."),
)
"""Invented facts' questions and statements. The last two are never trained."""
HELD_OUT = 2
_MEASURED = ("counterfactual", "irrelevant")
NAMES = (
    "Alden Marsh", "Brisa Kovac", "Corin Vale", "Delphi Strand", "Elmar Tessel", "Fenja Holt",
    "Garrow Pike", "Hesper Quill", "Ilse Torvik", "Jorun Abel", "Kestrel Bay", "Lorne Digby",
)  # fmt: skip
"""Names where ordinary texts hold too few."""


@dataclass(frozen=True)
class KaftSettings(HeadSettings, TextSettings):
    layer: float = 0.87  # the lowest layer that is tuned, as a share of the depth
    tune_rate: float = 3e-4  # Adam, for the weights
    tune_steps: int = 80  # optimiser steps at most, for the weights
    tune_batch: int = 8  # rows a step, those least known first
    examples: int = 8  # invented facts a relation
    own_tokens: int = 24  # of a closed-book answer that is trained
    held_out: int = 4  # facts a held-out relation that the figures are measured on; 0: none
    least: float = 0.5  # β from which on a question is in an edit's scope, 0..1 (SERAC)
    siblings: int = 4  # times that a request's question is about another subject, out of scope


@dataclass(frozen=True)
class Example:
    """An invented fact: question, what states it, its object, another object, a statement about
    something else, and the model's closed-book answer, which may have been cut (not ended)."""

    question: str
    statement: str
    gold: str
    other: str
    irrelevant: str
    own: str = ""
    ended: bool = True


@dataclass(frozen=True)
class KaftRow:
    """One way to train a question: kind, the text told ("" for none), the answer, and whether
    the turn ends with it."""

    kind: str
    question: str
    told: str
    answer: str
    ended: bool = True


@dataclass(frozen=True)
class Figures:
    """Shares of held-out questions: a counterfactual text followed, an irrelevant one ignored."""

    controllability: float
    robustness: float


@dataclass
class KaftState(TextState):
    """With the tuned weights, and the figures before and after (None: not measured)."""

    tuned: DenseDelta = field(default_factory=lambda: DenseDelta({}))
    figures: tuple[Figures, Figures] | None = None


@dataclass(frozen=True)
class KaftDelta:
    """Tuned weights with a memory upon them, by the protocol of ``editors.deltas``."""

    tuned: DenseDelta
    memory: MemoryDelta

    @property
    def parameters_added(self) -> int:
        return 0

    def apply(self, model: ChatModel) -> Callable[[], None]:
        undo_tuning = self.tuned.apply(model)
        undo_memory = self.memory.apply(model)

        def undo() -> None:
            undo_memory()
            undo_tuning()

        return undo

    def tensors(self) -> dict[str, torch.Tensor]:
        return self.tuned.tensors()


@dataclass(frozen=True)
class Kaft(KaftSettings, TextEditor):
    """The method by the protocol of ``editors.editor``."""

    def prepare(self, model: ChatModel, resources: Resources) -> KaftState:
        """Tune on invented facts; the model itself is left as it is."""
        base = super().prepare(model, resources)
        state = KaftState(base.embed, base.names, base.seed, base.said)
        with silent(model):
            trained = invented(RELATIONS[:-HELD_OUT], state.names, self.examples)
            trained = closed_book(model, trained, self.own_tokens)
            state.tuned = tuned(model, resources, [row for e in trained for row in rows(e)], self)
            if self.held_out:
                tested = invented(RELATIONS[-HELD_OUT:], state.names, self.held_out)
                tested = closed_book(model, tested, self.own_tokens)
                before = measured(model, tested, self.own_tokens)
                with applied(model, state.tuned):
                    state.figures = (before, measured(model, tested, self.own_tokens))
        return state

    def edit(
        self, model: ChatModel, state: TextState, requests: Sequence[EditRequest]
    ) -> KaftDelta:
        """Return the tuned weights with the memory of all requests; without any, neither."""
        found = scopes(state, requests, self, self.siblings)
        change = state.tuned if requests and isinstance(state, KaftState) else DenseDelta({})
        return KaftDelta(change, MemoryDelta(SeracMemory(found, self.least)))


def invented(
    relations: Sequence[tuple[str, str]], names: Sequence[str], count: int
) -> list[Example]:
    """Return ``count`` invented facts a relation, each of five names, the same every time."""
    pool = [*names, *(name for name in NAMES if name not in names)]
    made = []
    for number, (question, statement) in enumerate(relations):
        elsewhere = relations[(number + 1) % len(relations)][1]
        for at in range(count):
            drawn = random.Random(f"{statement} {at}").sample(pool, 5)
            subject, gold, other, beside, theirs = drawn
            made.append(
                Example(
                    question.format(s=subject),
                    statement.format(s=subject, o=gold),
                    gold,
                    other,
                    elsewhere.format(s=beside, o=theirs),
                )
            )
    return made


def closed_book(model: ChatModel, examples: Sequence[Example], most: int) -> list[Example]:
    """Return the examples with what the model answers to their questions by itself, in at most
    ``most`` tokens."""
    prompts = [tokens_of(model, Asked(one.question, True)) for one in examples]
    said = generate(model, prompts, max_new_tokens=most)
    return [
        replace(one, own=model.decode(made.tokens).strip(), ended=made.stopped)
        for one, made in zip(examples, said, strict=True)
    ]


def rows(example: Example) -> list[KaftRow]:
    """Return an example's rows, one a kind; a model without an answer of its own keeps none."""
    question, swapped = example.question, swap(example)
    made = [
        KaftRow("relevant", question, example.statement, example.statement),
        KaftRow("counterfactual", question, swapped, swapped),
    ]
    own, ended = example.own, example.ended
    if own:
        made.append(KaftRow("irrelevant", question, example.irrelevant, own, ended))
        made.append(KaftRow("empty", question, "", own, ended))
    return made


def swap(example: Example) -> str:
    """Return the statement with the other object in the place of the gold one."""
    head, _, tail = example.statement.rpartition(example.gold)
    return f"{head}{example.other}{tail}"


def tuned(
    model: ChatModel, resources: Resources, trained: Sequence[KaftRow], settings: KaftSettings
) -> DenseDelta:
    """Return the change of the upper MLPs' output matrices that teaches the rows; beside them
    everyday answers are kept."""
    shown, turns = view(model), Turns(model)
    depth = len(shown.layers)
    first = max(0, min(int(settings.layer * depth), depth - 1))
    tuning = TuningSettings(
        layer=(first + 0.5) / depth,
        layers=depth - first,
        steps=settings.tune_steps,
        batch=settings.tune_batch,
        keep=1.0,
        shield=0.0,
    )
    base = prepared(model, resources, tuning)
    end = [min(model.stop_ids)]
    lessons = [
        # An answer that was cut must not be taught to end there.
        lesson(prompt_of(model, turns, one), model.encode_answer(one.answer) + end * int(one.ended))
        for one in trained
    ]
    own = matrices(shown, tuning)
    parameters = Whole(own)
    train(
        shown,
        base.stage.finals,
        base.stage.enter(lessons),
        base.everyday,
        parameters,
        schedule(tuning),
        adam(settings.tune_rate),
    )
    made = parameters.weights()
    return DenseDelta({name: (made[name] - weight).detach() for name, weight in own.items()})


def prompt_of(model: ChatModel, turns: Turns, row: KaftRow) -> list[int]:
    """Return a row's token prompt, told in the words that the memory uses."""
    prompt = tokens_of(model, Asked(row.question, True))
    return clarified(model, turns, prompt, row.told) if row.told else prompt


def measured(model: ChatModel, examples: Sequence[Example], most: int) -> Figures:
    """Return a model's figures on examples; their closed-book answers are the untuned model's."""
    turns = Turns(model)
    asked = [(one, row) for one in examples for row in rows(one) if row.kind in _MEASURED]
    prompts = [prompt_of(model, turns, row) for _, row in asked]
    said = [
        model.decode(one.tokens).strip() for one in generate(model, prompts, max_new_tokens=most)
    ]
    pairs = list(zip(asked, said, strict=True))
    return Figures(
        controllability(
            [(text, one.other) for (one, row), text in pairs if row.kind == "counterfactual"]
        ),
        robustness([(text, one.own) for (one, row), text in pairs if row.kind == "irrelevant"]),
    )


def controllability(answers: Sequence[tuple[str, str]]) -> float:
    """Return the share of answers that say the counterfactual object beside them."""
    hits = [other.casefold() in said.casefold() for said, other in answers]
    return sum(hits) / max(len(hits), 1)


def robustness(answers: Sequence[tuple[str, str]]) -> float:
    """Return the share of answers that are the closed-book answer beside them."""
    hits = [said.strip() == own for said, own in answers]
    return sum(hits) / max(len(hits), 1)
