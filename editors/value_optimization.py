"""Value optimisation: which vectors, added at a few places, make the model say the new object.

For each edit some vectors δ are trained, the model frozen (methods.md §3.4)::

    L(δ) = mean over renderings of the answer's mean negative log-likelihood
         + λ_KL · KL(P_δ ‖ P_0) after "{subject} is a"
         + λ_wd · mean over the vectors of ‖δ‖ / ‖v₀‖
         + what a method adds (``extra``)

A *spot* is one vector and the places (rendering, position) at which it is added: the subject's
last token in every rendering, for ROME and its kin. Lengths of δ are measured in ‖v₀‖, the
value's own length there, so that one learning rate serves every layer and every model.

All edits of a batch are trained at once above a trunk that is run once, logits are made where
a label is, and an edit that is done leaves the batch. ``cached=False`` runs the whole model
and all logits, one edit at a time: the same result, for comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from editors.architectures import ModelView, view
from editors.capture import frozen
from editors.model import ChatModel
from editors.passages import Passage
from editors.requests import EditorError
from editors.value_runs import WHERE, Above, Flat, Runner, Task, Whole

Extra = Callable[[int, torch.Tensor], torch.Tensor]
"""A method's own term: (index of the edit, its vectors (spots, d)) → a scalar."""


@dataclass(frozen=True)
class ValueSettings:
    """Settings of the optimisation; a method hands over those that it has."""

    where: str = "layer"  # one of WHERE
    steps: int = 25  # Adam steps at most
    learning_rate: float = 0.1  # Adam, in units of ‖v₀‖/√d
    decay: float = 0.0  # λ_wd, a ‖v₀‖ of length
    clamp: float = 4.0  # ‖δ‖ at most, in units of ‖v₀‖
    kl: float = 0.0625  # λ_KL
    stop: float = 0.05  # an edit with a smaller loss is done
    done: float = 1.0  # factor of an edit's likelihood term once every label is the arg-max
    quiet: float = -1.0  # such an edit stops at a KL of this or less; below 0: never
    cached: bool = True  # above a trunk and batched, or the whole model edit by edit


@dataclass(frozen=True)
class Value:
    """What was found for one edit.

    Attributes:
        clean: (spots, d), v₀: the unchanged value at each spot's first place.
        delta: (spots, d), δ.
        loss: of these vectors.
        steps: updates made.
    """

    clean: torch.Tensor
    delta: torch.Tensor
    loss: float
    steps: int


def optimize(
    model: ChatModel | ModelView,
    tasks: Sequence[Task],
    layer: int,
    settings: ValueSettings | None = None,
    extra: Extra | None = None,
    step: Callable[[int, int], None] = lambda done, of: None,
    passage: Passage | None = None,
) -> list[Value]:
    """Train the vectors of some edits at one layer. The model is as before afterwards.

    ``passage`` holds what all tasks' samples feed, in order, where it has been run already.

    Raises:
        EditorError: an edit without spots or answers, an unknown site.
    """
    settings = settings or ValueSettings()
    if settings.where not in WHERE:
        raise EditorError(f"vectors are added at {', '.join(WHERE)}, not at {settings.where!r}")
    for task in tasks:
        if not task.spots or not any(sample.answer for sample in task.samples):
            raise EditorError("an edit without a place to change or an answer to give")
    if not tasks:
        return []
    shown = view(model)
    with frozen(shown):
        if settings.cached:
            flat = Flat.of(tasks)
            above = Above(shown, flat, layer, settings.where, passage)
            return _descend(above, flat, settings, extra, range(len(tasks)), step)
        found = []
        for at, task in enumerate(tasks):
            flat = Flat.of([task])
            whole = Whole(shown, flat, layer, settings.where)
            found += _descend(whole, flat, settings, extra, [at], step)
        return found


def _descend(
    runner: Runner,
    flat: Flat,
    settings: ValueSettings,
    extra: Extra | None,
    numbers: Sequence[int],
    step: Callable[[int, int], None],
) -> list[Value]:
    """Train some edits together; ``numbers`` is what ``extra`` knows them by."""
    clean = runner.clean(flat)
    length = clean.norm(dim=-1).clamp(min=1e-6)  # (spots, parts)
    delta = torch.zeros_like(clean)
    moments = torch.zeros_like(clean), torch.zeros_like(clean)
    before = _unchanged(runner, delta, flat)
    losses = [float("inf")] * len(numbers)
    steps = [0] * len(numbers)
    active = list(range(len(numbers)))
    for count in range(settings.steps + 1):
        asked = delta.clone().requires_grad_(True)
        found = _losses(runner, flat, asked, length, before, active, settings, numbers, extra)
        left = []
        for at, (loss, value, done) in zip(active, found, strict=True):
            losses[at] = value
            if not done and value >= settings.stop:
                left.append((at, loss))
        if not left or count == settings.steps:
            break
        kept = [at for at, _ in left]
        (gradient,) = torch.autograd.grad(torch.stack([loss for _, loss in left]).sum(), asked)
        moving = torch.cat([torch.arange(*flat.range_of(at)) for at in kept]).to(clean.device)
        rate = settings.learning_rate * length[..., None] / clean.shape[-1] ** 0.5
        _adam(delta, gradient, moments, count + 1, rate, moving)
        _shorten(delta, settings.clamp * length, moving)
        for at in kept:
            steps[at] += 1
        if kept != active:
            before, active = before[runner.keep(kept)], kept
        step(count + 1, settings.steps)
    parts = [(clean[own], delta[own]) for own in map(flat.spots_of, range(len(numbers)))]
    return [
        Value(c.flatten(1), d.flatten(1), losses[at], steps[at]) for at, (c, d) in enumerate(parts)
    ]


@torch.no_grad()
def _unchanged(runner: Runner, delta: torch.Tensor, flat: Flat) -> torch.Tensor:
    """Return the log-probabilities after the prompts without an answer, (n, vocabulary)."""
    if all(sample.answer for sample in flat.samples):
        return delta.new_zeros(0, 1)  # nothing to be compared: no forward
    return runner.after(runner.run(delta)).log_softmax(-1)


def _losses(
    runner: Runner,
    flat: Flat,
    delta: torch.Tensor,
    length: torch.Tensor,
    before: torch.Tensor,
    active: Sequence[int],
    settings: ValueSettings,
    numbers: Sequence[int],
    extra: Extra | None,
) -> list[tuple[torch.Tensor, float, bool]]:
    """Return of each active edit its loss for the gradient, the loss's value, and whether it is
    done by being said and quiet.

    The gradient may be that of a likelihood among likely tokens only; where an edit would be
    done by it, value and verdict are those of the whole vocabulary.
    """
    final = runner.run(delta)
    nll, said = runner.likelihood(final)
    apart = _divergence(runner.after(final), before)
    found = []
    for at in active:
        own, rows, quiet = flat.spots_of(at), runner.rows_of(at), runner.quiet_of(at)
        drift = (delta[own].norm(dim=-1) / length[own]).mean(0).sum()
        divergence = apart[quiet].mean() if quiet else nll.new_zeros(())
        rest = settings.kl * divergence + settings.decay * drift
        if extra is not None:
            rest = rest + extra(numbers[at], delta[own].flatten(1))
        # Without a prompt to be quiet after, being said is no reason to stop.
        silent = bool(quiet) and float(divergence.detach()) <= settings.quiet

        def judged(
            nll: torch.Tensor, said: torch.Tensor, rest: torch.Tensor = rest
        ) -> tuple[torch.Tensor, bool]:
            factor = settings.done if bool(said.all()) else 1.0
            return factor * nll.mean() + rest, bool(said.all())

        loss, all_said = judged(nll[rows], said[rows])
        value = float(loss.detach())
        if value < settings.stop or (all_said and silent):
            exact, all_said = judged(*runner.exactly(final, rows))
            value = float(exact.detach())
            if value >= settings.stop:
                runner.forget()
        found.append((loss, value, all_said and silent))
    return found


def _shorten(vectors: torch.Tensor, most: torch.Tensor, rows: torch.Tensor) -> None:
    """Clamp the lengths of some rows of (spots, parts, d) to ``most`` (spots, parts)."""
    factor = most[rows] / vectors[rows].norm(dim=-1).clamp(min=1e-12)
    vectors[rows] *= factor.clamp(max=1.0)[..., None]


def _adam(
    vectors: torch.Tensor,
    gradient: torch.Tensor,
    moments: tuple[torch.Tensor, torch.Tensor],
    count: int,
    rate: torch.Tensor,
    rows: torch.Tensor,
) -> None:
    """One step of Adam on some rows only: the vectors of an edit that is done stay where they
    are, whatever momentum they have left."""
    mean, square = moments
    g = gradient[rows]
    mean[rows] = 0.9 * mean[rows] + 0.1 * g
    square[rows] = 0.999 * square[rows] + 0.001 * g.square()
    upon = mean[rows] / (1 - 0.9**count)
    spread = (square[rows] / (1 - 0.999**count)).sqrt() + 1e-8
    vectors[rows] -= rate[rows] * upon / spread


def _divergence(logits: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """KL(edited ‖ original) in nats, a row each: (n, vocabulary) → (n,)."""
    after = logits.log_softmax(-1)
    return (after.exp() * (after - before)).sum(-1)
