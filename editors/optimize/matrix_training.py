"""Training some weight matrices on labels: what every fine-tuning method does, once.

Everything below the lowest trained layer is run once a text (``editors.optimize.stage``); a step
runs only what lies above, and gives logits at label positions only. Trained matrices stand in
for the model's own through ``torch.func.functional_call``: no parameter is ever written, and
after an exception the model is what it was.

A text teaches either tokens (negative log-likelihood) or, where it has a ``teacher``, the
unedited model's distribution (KL divergence from it).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import nn

from editors.architectures import ModelView
from editors.capture import frozen
from editors.optimize.parameters import Parameters, Weights
from editors.optimize.stage import Row

T = TypeVar("T")


@dataclass(frozen=True)
class Schedule:
    """How long and on what is trained.

    Attributes:
        steps: optimiser steps at most.
        batch: lessons a step, those least known first; 0: all.
        keep: weight of the KL to the unedited model.
        kept: texts with a teacher a step, half those that moved most; 0: all.
        sure: least probability of each label for a lesson to count as known, besides being
            the likeliest token; None: never stop early.
        patience: steps in a row with every lesson known after which training ends.
    """

    steps: int
    batch: int = 0
    keep: float = 1.0
    kept: int = 8
    sure: float | None = None
    patience: int = 1


Optimise = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
Finals = Callable[[Sequence[Row]], torch.Tensor]
Shield = Callable[[int, torch.Tensor], torch.Tensor]
"""Given a parameter's number and a change of it, returns what of it may be made."""


def train(
    shown: ModelView,
    finals: Finals,
    lessons: Sequence[Row],
    kept: Sequence[Row],
    parameters: Parameters,
    schedule: Schedule,
    optimise: Optimise,
    project: Callable[[], None] | None = None,
    shield: Shield | None = None,
    until: Callable[[float], bool] | None = None,
) -> int:
    """Train parameters in place; the model is left alone.

    Args:
        finals: gives final hidden states at rows' columns (``Stage.finals``).
        lessons: rows with tokens.
        kept: rows with teachers, whose distribution is to stay.
        parameters: what is trained.
        schedule: how long.
        optimise: makes the optimiser.
        project: puts the parameters back into their bounds, after every step.
        shield: takes from every gradient and every step what ordinary keys would feel; for
            parameters that are whole matrices.
        until: ends training once it is true of the lessons' mean loss (before a step).

    Returns:
        The number of steps taken.
    """
    if not lessons:
        return 0
    optimiser = optimise(parameters.trained)
    known, moved = _Progress(lessons), _Progress(kept)
    row_of: Sequence[Row] = (*lessons, *kept)
    quiet = 0
    if 0 < schedule.batch < len(lessons):  # which are hardest must be known before one begins
        _sweep(shown, finals, parameters, lessons, known, schedule)
    with frozen(shown):
        for step in range(schedule.steps):
            learn = known.hardest(schedule.batch)
            hold = moved.mixed(schedule.kept, step) if schedule.keep and kept else []
            some = [row_of[i] for i in (*learn, *(len(lessons) + i for i in hold))]
            loss, seen, apart = _loss(shown, finals, parameters, some, len(learn), schedule.keep)
            known.note(learn, seen, schedule.sure)
            moved.note_loss(hold, apart)
            if until is not None and until(float(known.losses.mean())):
                return step
            if schedule.sure is not None:
                fresh = known.all_known and (
                    len(learn) == len(lessons)
                    or _sweep(shown, finals, parameters, lessons, known, schedule)
                )
                quiet = quiet + 1 if fresh else 0
                if quiet >= schedule.patience:
                    return step
            gradients = torch.autograd.grad(loss, parameters.trained)
            _step(parameters.trained, gradients, optimiser, shield)
            if project is not None:
                with torch.no_grad():
                    project()
    return schedule.steps


def standing_in(shown: ModelView, weights: Weights, function: Callable[[], T]) -> T:
    """Return what a function gives while matrices stand in for the model's own."""
    net = shown.chat.model
    given = {f"net.{name}": weight for name, weight in weights.items()}
    made: T = torch.func.functional_call(_Calls(net), given, (function,))
    return made


@torch.no_grad()
def with_teachers(
    shown: ModelView, finals: Finals, rows: Sequence[Row], weights: Weights
) -> list[Row]:
    """Return the rows with the final states that a model with these matrices has there."""
    made: list[Row] = []
    size = shown.chat.batch_size
    for part in (rows[at : at + size] for at in range(0, len(rows), size)):
        some = standing_in(shown, weights, lambda part=part: finals(part))  # type: ignore[misc]
        split = some.split([len(row.columns) for row in part])
        for row, teacher in zip(part, split, strict=True):
            made.append(replace(row, teacher=teacher.detach().clone()))
    return made


def losses_of(
    shown: ModelView, finals: Finals, weights: Weights, rows: Sequence[Row]
) -> list[float]:
    """Return the mean negative log-likelihood of each row's tokens under some matrices."""
    with torch.no_grad():
        states = standing_in(shown, weights, lambda: finals(rows))
        each, _ = _token_losses(shown, states, torch.cat([row.tokens for row in rows]))
    return [float(part.mean()) for part in each.split([len(row.tokens) for row in rows])]


@torch.no_grad()
def _step(
    trained: Sequence[nn.Parameter],
    gradients: Sequence[torch.Tensor],
    optimiser: torch.optim.Optimizer,
    shield: Shield | None,
) -> None:
    before = [parameter.detach().clone() for parameter in trained] if shield else []
    for at, (parameter, gradient) in enumerate(zip(trained, gradients, strict=True)):
        parameter.grad = shield(at, gradient) if shield else gradient
    optimiser.step()
    if shield is None:
        return
    # Adam divides every entry by its own size, which turns a shielded gradient out of the
    # directions that were left to it: what it steps is shielded too.
    for at, (parameter, old) in enumerate(zip(trained, before, strict=True)):
        parameter.copy_(old + shield(at, parameter - old))


class _Calls(nn.Module):
    """Calls any function as if it were the model's forward: ``functional_call`` wants one."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, function: Callable[[], T]) -> T:
        return function()


class _Progress:
    """What is known of each row: its loss when it was last run, and whether it was learned."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.losses = torch.full((len(rows),), float("inf"))
        self._known = [False] * len(rows)

    @property
    def all_known(self) -> bool:
        return all(self._known)

    def hardest(self, count: int) -> list[int]:
        if not 0 < count < len(self.losses):
            return list(range(len(self.losses)))
        found: list[int] = self.losses.argsort(descending=True, stable=True)[:count].tolist()
        return found

    def mixed(self, count: int, step: int) -> list[int]:
        """Return half the hardest, and others in turn."""
        if not 0 < count < len(self.losses):
            return list(range(len(self.losses)))
        turn = ((step * count + i) % len(self.losses) for i in range(len(self.losses)))
        hardest = self.hardest(count // 2) if count > 1 else []
        others = [i for i in turn if i not in hardest]
        return [*hardest, *others[: count - len(hardest)]]

    def note(
        self, rows: Sequence[int], seen: Sequence[tuple[float, float, bool]], sure: float | None
    ) -> None:
        for row, (loss, least, likeliest) in zip(rows, seen, strict=True):
            self.losses[row] = loss
            self._known[row] = likeliest and least >= (sure or 0.0)

    def note_loss(self, rows: Sequence[int], losses: Sequence[float]) -> None:
        for row, loss in zip(rows, losses, strict=True):
            self.losses[row] = loss


def _loss(
    shown: ModelView,
    finals: Finals,
    parameters: Parameters,
    rows: Sequence[Row],
    learned: int,
    keep: float,
) -> tuple[torch.Tensor, list[tuple[float, float, bool]], list[float]]:
    """Return the loss of a step, what is seen of the lessons (the first ``learned`` rows), and
    the divergence of each of the others."""
    states = standing_in(shown, parameters.weights(), lambda: finals(rows))
    sizes = [len(row.columns) for row in rows]
    cut = sum(sizes[:learned])
    each, right = _token_losses(
        shown, states[:cut], torch.cat([row.tokens for row in rows[:learned]])
    )
    seen = [
        (float(part.mean()), float((-part.max()).exp()), bool(hit.all()))
        for part, hit in zip(
            each.detach().split(sizes[:learned]), right.split(sizes[:learned]), strict=True
        )
    ]
    total, apart = each.mean(), []
    if rows[learned:]:
        teachers = torch.cat([row.teacher for row in rows[learned:] if row.teacher is not None])
        divergence = _divergence(shown, states[cut:], teachers)
        total = total + keep * divergence.mean()
        apart = [float(part.mean()) for part in divergence.detach().split(sizes[learned:])]
    return total, seen, apart


def _token_losses(
    shown: ModelView, states: torch.Tensor, tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each label's negative log-likelihood and whether it is the likeliest token."""
    logits = shown.logits(states).float()
    tokens = tokens.to(logits.device)
    each = nn.functional.cross_entropy(logits, tokens, reduction="none")
    return each, logits.detach().argmax(-1) == tokens


def _divergence(shown: ModelView, states: torch.Tensor, teachers: torch.Tensor) -> torch.Tensor:
    """Return KL(unedited ‖ edited) at each position, (n,)."""
    with torch.no_grad():
        wanted = shown.logits(teachers).float().log_softmax(-1)
    made = shown.logits(states).float().log_softmax(-1)
    return (wanted.exp() * (wanted - made)).sum(-1)


@torch.no_grad()
def _sweep(
    shown: ModelView,
    finals: Finals,
    parameters: Parameters,
    lessons: Sequence[Row],
    known: _Progress,
    schedule: Schedule,
) -> bool:
    """Look at all lessons anew, a batch at a time; return whether all are known."""
    weights, size = parameters.weights(), max(schedule.batch, shown.chat.batch_size)
    for at in range(0, len(lessons), size):
        part = lessons[at : at + size]
        states = standing_in(shown, weights, lambda part=part: finals(part))  # type: ignore[misc]
        sizes = [len(row.tokens) for row in part]
        each, right = _token_losses(shown, states, torch.cat([row.tokens for row in part]))
        seen = [
            (float(one.mean()), float((-one.max()).exp()), bool(hit.all()))
            for one, hit in zip(each.split(sizes), right.split(sizes), strict=True)
        ]
        known.note(range(at, at + len(part)), seen, schedule.sure)
    return known.all_known
