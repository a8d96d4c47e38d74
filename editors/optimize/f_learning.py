"""F-Learning: forget the old fact by parameter arithmetic, then learn the new one (Ni et al.
2023, "Forgetting before Learning"; methods.md G4)::

    θ_old = FT(θ, K_old)                 the same prompts with their old answers
    θ′    = θ − λ (θ_old − θ)            forgetting
    θ*    = FT(θ′, K_new)                learning

The old fact is the request's statement with its old object, and where no old object is given,
what the model itself answers. A model fits its own answers already, so the first phase does not
count steps: it ends once their loss has fallen by a fixed share. With ``rank`` the old vector is
of low rank (the paper finds that as good, and cheaper). The published λ could not be read; what
is taken off is bounded by ``most``, a share of each matrix's norm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from editors.architectures import view
from editors.deltas import DenseDelta
from editors.editor import Resources
from editors.model import ChatModel
from editors.optimize.matrix_training import Schedule, losses_of, train
from editors.optimize.parameters import LowRank, Parameters, Whole
from editors.optimize.stage import Row, lesson
from editors.optimize.tuning import (
    TuningSettings,
    TuningState,
    adam,
    matrices,
    prepared,
    request_lessons,
    settle,
    tuned,
)
from editors.requests import EditRequest

NAME = "f-learning"


@dataclass(frozen=True)
class ForgettingSettings(TuningSettings):
    forgetting: float = 0.3  # λ: how much of the old vector is taken off
    rank: int = 0  # of the old vector; 0: whole matrices
    forget_rate: float = 5e-4  # Adam's, of the first phase
    forget_steps: int = 10  # of the first phase, at most
    forget_until: float = 0.5  # share of its loss at which the first phase ends
    most: float = 0.02  # of a matrix's norm, that forgetting may take off


@dataclass(frozen=True)
class FLearning(ForgettingSettings):
    """The method by the protocol of ``editors.editor``."""

    stacks: ClassVar[bool] = True

    def prepare(self, model: ChatModel, resources: Resources) -> TuningState:
        return prepared(model, resources, self)

    def edit(
        self, model: ChatModel, state: TuningState, requests: Sequence[EditRequest]
    ) -> DenseDelta:
        start = None
        if requests and self.forgetting:
            old = old_vector(model, state, requests, self)
            own = matrices(view(model), self)
            start = forgotten(own, old, self.forgetting, self.most)
        return tuned(model, state, requests, self, adam(self.learning_rate), start=start)

    def settled(
        self, model: ChatModel, state: TuningState, requests: Sequence[EditRequest]
    ) -> TuningState:
        return settle(state, requests)


def old_vector(
    model: ChatModel,
    state: TuningState,
    requests: Sequence[EditRequest],
    settings: ForgettingSettings,
) -> dict[str, torch.Tensor]:
    """Return θ_old − θ: where training on the old answers leads, as parameters are stored."""
    shown = view(model)
    rows = old_rows(model, state, requests, settings)
    own = {name: weight.detach() for name, weight in matrices(shown, settings).items()}
    parameters: Parameters = (
        LowRank(shown, own, settings.rank, 1.0, len(state.lessons)) if settings.rank else Whole(own)
    )
    known = losses_of(shown, state.stage.finals, own, rows)
    goal = settings.forget_until * sum(known) / len(known)
    train(
        shown,
        state.stage.finals,
        rows,
        [],
        parameters,
        Schedule(settings.forget_steps, keep=0.0),
        adam(settings.forget_rate),
        until=lambda loss: loss <= goal,
    )
    return {n: (made - own[n]).detach() for n, made in parameters.weights().items()}


def old_rows(
    model: ChatModel,
    state: TuningState,
    requests: Sequence[EditRequest],
    settings: ForgettingSettings,
) -> list[Row]:
    """Return the old answers to the requests' questions and prompts as rows with labels."""
    lessons = []
    for request in requests:
        if request.old:
            former = EditRequest(
                request.id,
                request.questions,
                request.old,
                request.statement.replace(request.new, request.old),
                subject=request.subject,
                prompts=request.prompts,
            )
            lessons += request_lessons(model, former, settings.whole)
            continue
        prompts = [
            *(model.encode(model.render(question)) for question in request.questions),
            *(model.encode(prompt) for prompt in request.prompts),
        ]
        made = model.generate(prompts, max_new_tokens=settings.keep_tokens)
        lessons += [
            lesson(prompt, one.tokens)
            for prompt, one in zip(prompts, made, strict=True)
            if one.tokens
        ]
    return state.stage.enter(lessons)


def forgotten(
    own: Mapping[str, torch.Tensor], old: Mapping[str, torch.Tensor], rate: float, most: float
) -> dict[str, torch.Tensor]:
    """Return θ − rate · old, what is taken off bounded by the share ``most`` of each norm."""
    made = {}
    for name, weight in own.items():
        off = rate * old[name]
        size = float(off.norm())
        limit = most * float(weight.detach().norm())
        made[name] = (weight - off * (limit / size if size > limit else 1.0)).detach()
    return made
