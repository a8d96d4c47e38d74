"""The flow that the fine-tuning methods share: what is learned, what is kept, in sequence.

A method of the family says how the optimiser steps and where the matrices may go; here is the
rest. Three things go beyond the papers, each a setting that can be zero: the replay of requests
made earlier in the run (``replay``), without which every batch wears away those before it; a
``shield``, which keeps a change off the directions that ordinary text and chat give a matrix
(in the manner of gradient projection and of AlphaEdit); and the divergence from the unedited
model on neighbours (``keep``, off by default: beside a shield it bought nothing, docs/log.md).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from editors.architectures import ModelView, view
from editors.deltas import DenseDelta
from editors.editor import Resources
from editors.key_statistics import everyday_questions
from editors.model import ChatModel
from editors.optimize.anchors import anchor_lessons, anchors_of, names_in, text_lessons
from editors.optimize.matrix_training import (
    Optimise,
    Schedule,
    Shield,
    standing_in,
    train,
    with_teachers,
)
from editors.optimize.parameters import Parameters, Whole
from editors.optimize.stage import Lesson, Row, Stage, lesson
from editors.question_embeddings import Asked
from editors.rendering import renderings
from editors.requests import EditorError, EditRequest
from editors.second_moments import second_moments

PARTS = ("down", "up", "gate", "attention")


@dataclass(frozen=True)
class TuningSettings:
    """What every method of the family can be told; defaults measured on the default model."""

    layer: float = 0.7  # the (lowest) layer whose matrix is trained, as a share of the depth
    layers: int = 1  # how many layers from there on
    part: str = "down"  # which matrix of a layer: down, up, gate, attention
    learning_rate: float = 1e-2  # Adam; shielded steps are short (reference, unshielded: 5e-4)
    steps: int = 50  # at most, a batch of requests (reference: 25)
    batch: int = 16  # lessons a step, those least known first; 0: all
    sure: float = 0.5  # a lesson is known once every label has this probability; above 1: never
    patience: int = 2  # steps in a row with all lessons known that end the training
    whole: bool = True  # learn the whole statement, not only the object and what follows
    keep: float = 0.0  # weight of the KL to the unedited model (papers: none)
    kept: int = 8  # of what must stand, how many a step
    keep_tokens: int = 12  # of each answer that must stand
    siblings: int = 4  # times that a request's question must stand for another subject
    everyday: int = 16  # everyday questions and ordinary texts that must stand
    shield: float = 0.1  # ridge of the projection off ordinary keys (papers: none, 0)
    replay: int = 64  # lessons of earlier requests that are trained along (papers: none, 0)


@dataclass
class TuningState:
    """What lasts from batch to batch.

    Attributes:
        stage: the model below the trained layers, which never changes.
        base: the unedited model's trained matrices, by name.
        names: other subjects, for questions that must stand.
        everyday: rows that must stand whatever is edited.
        shields: by matrix what takes ordinary keys' directions out of its inputs, (in, in).
        lessons, kept: rows of the requests settled so far, by the text that is asked.
        pending: the same of the last ``edit``, by its requests' ids, until it is settled.
    """

    stage: Stage
    base: dict[str, torch.Tensor]
    names: tuple[str, ...]
    everyday: list[Row]
    shields: dict[str, torch.Tensor] = field(default_factory=dict)
    lessons: dict[str, list[Row]] = field(default_factory=dict)
    kept: dict[str, list[Row]] = field(default_factory=dict)
    pending: dict[tuple[str, ...], tuple[Mapping[str, list[Row]], Mapping[str, list[Row]]]] = field(
        default_factory=dict
    )


def matrices(shown: ModelView, settings: TuningSettings) -> dict[str, torch.Tensor]:
    """Return the matrices that are trained, by name, lowest layer first.

    Raises EditorError: no such part in this architecture.
    """
    if settings.part not in PARTS:
        raise EditorError(f"part is one of {', '.join(PARTS)}, not {settings.part!r}")
    first = first_layer(shown, settings)
    last = min(first + max(settings.layers, 1), len(shown.layers))
    names = [getattr(shown.names(layer), settings.part) for layer in range(first, last)]
    if None in names:
        raise EditorError(f"the MLPs of {shown.chat.name} have no {settings.part}")
    return {name: shown.parameter(name) for name in names}


def first_layer(shown: ModelView, settings: TuningSettings) -> int:
    """Return the lowest trained layer."""
    depth = len(shown.layers)
    return max(0, min(int(settings.layer * depth), depth - 1))


def prepared(model: ChatModel, resources: Resources, settings: TuningSettings) -> TuningState:
    """Run the template's beginning, and what must always stand; ``model`` is the unedited one."""
    shown = view(model)
    stage = Stage(shown, first_layer(shown, settings))
    base = {name: weight.detach() for name, weight in matrices(shown, settings).items()}
    asked = [Asked(q, True) for q in everyday_questions()[: settings.everyday]]
    rows = anchor_lessons(model, asked, settings.keep_tokens) if settings.keep else []
    if settings.keep and resources.texts:
        rows += text_lessons(model, resources.texts, settings.everyday)
    everyday = with_teachers(shown, stage.finals, stage.enter(rows), base)
    shields = _shields(shown, resources, settings)
    return TuningState(stage, base, names_in(resources.texts), everyday, shields)


def bare(model: ChatModel, settings: TuningSettings) -> TuningState:
    """Return the state of one single batch: nothing stands but the requests' own neighbours."""
    shown = view(model)
    base = {name: weight.detach() for name, weight in matrices(shown, settings).items()}
    return TuningState(Stage(shown, first_layer(shown, settings)), base, (), [])


def request_lessons(
    model: ChatModel,
    request: EditRequest,
    whole: bool = True,
    single: bool = False,
) -> list[Lesson]:
    """Return what a request is to say, one lesson a rendering.

    Args:
        whole: learn all tokens of the answer, else the object and what follows.
        single: score every answer token at the last prompt position, as a popular toolkit
            does; wrong for answers of several tokens.
    """
    made = []
    for one in renderings(model, request):
        if single:
            at = (len(one.prompt) - 1,) * (len(one.answer) - one.first)
            made.append(Lesson(one.prompt, at, one.answer[one.first :]))
        else:
            made.append(lesson(one.prompt, one.answer, 0 if whole else one.first))
    return made


@dataclass(frozen=True)
class Material:
    """Rows of one batch: its own lessons and what must stand beside it, by the text asked; and
    all that is trained on, earlier requests and everyday questions included."""

    own: Mapping[str, list[Row]]
    beside: Mapping[str, list[Row]]
    lessons: list[Row]
    kept: list[Row]


def gathered(
    model: ChatModel,
    state: TuningState,
    requests: Sequence[EditRequest],
    settings: TuningSettings,
    single: bool = False,
) -> Material:
    """Return what a batch is trained on; what comes from the unedited model is asked of it."""
    shown, stage = view(model), state.stage
    own, beside = {}, {}
    subjects = [request.subject for request in requests]
    for request in requests:
        said = request_lessons(model, request, settings.whole, single)
        own[_asked(request)] = stage.enter(said)
    if settings.keep:
        anchors = {
            _asked(r): anchors_of(r, state.names, settings.siblings, subjects) for r in requests
        }
        flat = list(dict.fromkeys(a for some in anchors.values() for a in some))
        made = standing_in(
            shown, state.base, lambda: anchor_lessons(model, flat, settings.keep_tokens)
        )
        rows = with_teachers(shown, stage.finals, stage.enter(made), state.base)
        found = dict(zip(flat, rows, strict=True))
        beside = {asked: [found[a] for a in some] for asked, some in anchors.items()}
    draw = random.Random(f"replay at {len(state.lessons)}")
    earlier = [row for text, rows in state.lessons.items() if text not in own for row in rows]
    earlier = draw.sample(earlier, min(settings.replay, len(earlier)))
    stood = [row for text, rows in state.kept.items() if text not in own for row in rows]
    stood = draw.sample(stood, min(settings.replay, len(stood)))
    lessons = [*(row for rows in own.values() for row in rows), *earlier]
    kept = [*(row for rows in beside.values() for row in rows), *stood, *state.everyday]
    return Material(own, beside, lessons, kept if settings.keep else [])


def schedule(settings: TuningSettings) -> Schedule:
    """Return the part of the settings that says how long and on what is trained."""
    return Schedule(
        steps=settings.steps,
        batch=settings.batch,
        keep=settings.keep,
        kept=settings.kept,
        sure=settings.sure,
        patience=settings.patience,
    )


def adam(learning_rate: float) -> Optimise:
    """Return what makes plain Adam."""
    return lambda trained: torch.optim.Adam(trained, lr=learning_rate)


def tuned(
    model: ChatModel,
    state: TuningState,
    requests: Sequence[EditRequest],
    settings: TuningSettings,
    optimise: Optimise,
    project: Callable[[Parameters], None] | None = None,
    start: Mapping[str, torch.Tensor] | None = None,
    material: Material | None = None,
    single: bool = False,
    parameters: Parameters | None = None,
) -> DenseDelta:
    """Train the matrices on the requests; return the change from the model's own.

    Args:
        parameters: what is trained (default: every entry, from ``start``).
        project: puts the trained matrices back into their bounds, after every step.
        start: matrices that training begins at (default: the model's own).
        material: what is trained on (default: ``gathered``).
    """
    shown = view(model)
    own = matrices(shown, settings)
    if not requests:
        return DenseDelta({name: torch.zeros_like(w).detach() for name, w in own.items()})
    material = material or gathered(model, state, requests, settings, single)
    parameters = parameters or Whole(start or own)
    bound = None if project is None else (lambda: project(parameters))
    train(
        shown,
        state.stage.finals,
        material.lessons,
        material.kept,
        parameters,
        schedule(settings),
        optimise,
        bound,
        _shielding(shown, state, list(own)),
    )
    state.pending = {tuple(r.id for r in requests): (material.own, material.beside)}
    made = parameters.weights()
    return DenseDelta({name: (made[name] - w).detach() for name, w in own.items()})


def settle(state: TuningState, requests: Sequence[EditRequest]) -> TuningState:
    """Take a batch whose delta was applied among those that later ones replay. A later request
    with the same question takes the place of the earlier one."""
    lessons, kept = state.pending.get(tuple(r.id for r in requests), ({}, {}))
    return TuningState(
        state.stage,
        state.base,
        state.names,
        state.everyday,
        state.shields,
        {**state.lessons, **lessons},
        {**state.kept, **kept},
    )


def within(
    origin: Mapping[str, torch.Tensor], limit: float, kind: str = "max"
) -> Callable[[Parameters], None]:
    """Return what keeps whole matrices within ``limit`` of ``origin``.

    ``kind``: "max" bounds every entry (L∞, by clamping); "l2" each matrix's Euclidean norm.
    """
    if kind not in ("max", "l2"):
        raise EditorError(f"a bound is of kind max or l2, not {kind!r}")

    def project(parameters: Parameters) -> None:
        for name, weight in parameters.weights().items():
            at = origin[name].to(weight.device)
            if kind == "max":
                weight.copy_(weight.clamp(at - limit, at + limit))
            else:
                apart = weight - at
                weight.copy_(at + apart * min(1.0, limit / max(float(apart.norm()), 1e-30)))

    return project


def _shields(
    shown: ModelView, resources: Resources, settings: TuningSettings
) -> dict[str, torch.Tensor]:
    """Return ρ(C + ρI)⁻¹ of each trained output projection, C the second moment of what enters
    it in ordinary text and chat: near 0 along what is always there, near 1 elsewhere. None
    without ordinary text, and for other parts than "down", whose inputs are not measured."""
    if not settings.shield or not resources.texts or settings.part != "down":
        return {}
    first = first_layer(shown, settings)
    names = list(matrices(shown, settings))
    found = second_moments(shown, range(first, first + len(names)), resources)
    made = {}
    for name, layer in zip(names, sorted(found), strict=True):
        moment = found[layer].moment.double()
        eye = torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
        ridge = settings.shield * float(moment.diagonal().mean())
        shield = torch.linalg.solve(moment + ridge * eye, ridge * eye)
        made[name] = shield.to(shown.parameter(name))
    return made


def _shielding(shown: ModelView, state: TuningState, names: Sequence[str]) -> Shield | None:
    if not state.shields:
        return None

    def shield(at: int, change: torch.Tensor) -> torch.Tensor:
        name = names[at]
        if change.shape == shown.matrix(name).shape:
            return change @ state.shields[name]
        return state.shields[name] @ change

    return shield


def _asked(request: EditRequest) -> str:
    return "\n".join((*request.questions[:1], *request.prompts[:1])) or request.id
