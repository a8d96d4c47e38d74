"""PCGU: weaken a preference by a step on the few weights that two completions pull apart.

Yu et al. 2023, "Unlearning Bias in Language Models by Partitioning Gradients" (methods.md L9).
Of a pair of completions of one context, the advantaged and the disadvantaged one, the
gradients g₁ = ∇ log P(advantaged) and g₂ = ∇ log P(disadvantaged) are compared partition by
partition: rows of the gate and up projections, columns of the down projection, that is, what
one neuron reads and writes. The ``partitions`` of lowest cosine(g₁, g₂) carry the
preference; only those take first-order steps that lower log P(advantaged) or raise
log P(disadvantaged), until each pair is even (the paper takes a fixed number of steps).

This editor *evens out* and does not replace. A request is a pair: ``old`` is the advantaged
completion, ``new`` the disadvantaged one, ``prompts`` (or ``questions``, with the statement)
the contexts::

    EditRequest("1", (), new="she", statement="", old="he", prompts=("The nurse said that",))

In ``bench edit`` the pair is a record's old and new value. No gradient of a whole matrix is
ever made: a partition's gradient is a sum over tokens of factors that are captured, and the
cosines come from the tokens' Gram matrices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from editors.architectures import ModelView, view
from editors.capture import Site, captured
from editors.completions import completions
from editors.deltas import DenseDelta, applied
from editors.editor import Resources
from editors.integrated_gradients import joint_logprobs
from editors.model import ChatModel
from editors.requests import EditorError, EditRequest
from editors.trunk import Sample, label_logits, resume, run_trunk

NAME = "pcgu"
ALIKE = 1 - 1e-6
"""Gradients of at least this cosine point the same way as far as rounding tells."""
DIRECTIONS = ("decrease", "increase")


@dataclass(frozen=True)
class ContrastSettings:
    partitions: int = 2000  # rows and columns that are changed, of three a neuron (paper: few %)
    step: float = 2e-4  # length of a step, as a share of the norm of all weights it changes
    epochs: int = 10  # steps at most; a pair that is even pushes no further (paper: a few)
    direction: str = "increase"  # the disadvantaged one; or "decrease" the other (paper: either)


@dataclass(frozen=True)
class Pcgu(ContrastSettings):
    """The method by the protocol of ``editors.editor``."""

    stacks: ClassVar[bool] = True

    def prepare(self, model: ChatModel, resources: Resources) -> None:
        return None

    def edit(self, model: ChatModel, state: None, requests: Sequence[EditRequest]) -> DenseDelta:
        """Return the change of the partitions in which the requests' pairs differ most.

        Raises EditorError: a request without a pair or a context, an unknown direction.
        """
        return edit(model, requests, self)

    def settled(self, model: ChatModel, state: None, requests: Sequence[EditRequest]) -> None:
        return None


@dataclass(frozen=True)
class Partitions:
    """Partitions of one matrix: rows where ``by_row``, else columns, by their indices."""

    name: str
    layer: int
    part: str
    by_row: bool
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Factors:
    """A matrix's gradient of one loss as Σ_t δ_t u_tᵀ: ``inputs`` (T, in) and ``deltas``
    (T, out), T tokens."""

    inputs: torch.Tensor
    deltas: torch.Tensor


def edit(
    model: ChatModel, requests: Sequence[EditRequest], settings: ContrastSettings
) -> DenseDelta:
    """Locate the partitions once, then step on them ``epochs`` times; the model is unchanged."""
    if settings.direction not in DIRECTIONS:
        raise EditorError(f"direction is one of {', '.join(DIRECTIONS)}")
    shown = view(model)
    pairs = [pair_of(model, request) for request in requests]
    advantaged = [sample for one, _ in pairs for sample in one]
    disadvantaged = [sample for _, one in pairs for sample in one]
    if not advantaged:
        return DenseDelta({})
    chosen = lowest(
        shown,
        factors(shown, advantaged),
        factors(shown, disadvantaged),
        settings.partitions,
    )
    down = settings.direction == "decrease"
    changes: dict[str, torch.Tensor] = {
        p.name: torch.zeros_like(shown.parameter(p.name), requires_grad=False) for p in chosen
    }
    for _ in range(settings.epochs if settings.step and chosen else 0):
        with applied(model, DenseDelta(changes)):
            # A pair that is even pushes no further: it would only turn the preference round.
            uneven = [pair for pair in pairs if _odds(shown, *pair) > 0]
            if not uneven:
                break
            moved = [sample for one, other in uneven for sample in (one if down else other)]
            found = factors(shown, moved, {(p.layer, p.part) for p in chosen})
        steps = {p.name: _gradient(found[p.layer, p.part], p) for p in chosen}
        length = torch.stack([s.norm() ** 2 for s in steps.values()]).sum().sqrt()
        weight = torch.stack([_weight(shown, p).norm() ** 2 for p in chosen]).sum().sqrt()
        scale = (-1 if down else 1) * settings.step * float(weight) / max(float(length), 1e-30)
        for p in chosen:
            whole = torch.zeros_like(shown.matrix(p.name))
            at = list(p.indices)
            if p.by_row:
                whole[at] = (scale * steps[p.name]).to(whole)
            else:
                whole[:, at] = (scale * steps[p.name]).to(whole)
            changes[p.name] = (changes[p.name] + shown.stored(p.name, whole)).detach()
    return DenseDelta(changes)


def pair_of(model: ChatModel, request: EditRequest) -> tuple[list[Sample], list[Sample]]:
    """Return a request's contexts with the advantaged and with the disadvantaged completion."""
    if not (request.old.strip() and request.new.strip()):
        raise EditorError(
            f"request {request.id} is no pair: pcgu needs old (advantaged) and new (disadvantaged)"
        )
    one, other = (
        [Sample(c.before, c.value) for c in completions(model, request, value)]
        for value in (request.old, request.new)
    )
    return one, other


def log_odds(model: ChatModel | ModelView, request: EditRequest) -> float:
    """Return log P(old) − log P(new), natural logarithm, averaged over the contexts."""
    shown = view(model)
    return _odds(shown, *pair_of(shown.chat, request))


def factors(
    shown: ModelView,
    samples: Sequence[Sample],
    wanted: set[tuple[int, str]] | None = None,
) -> dict[tuple[int, str], Factors]:
    """Return the factors of ∇ Σ log P(answer | prompt), by layer and part of the MLP.

    A fused gate and up projection is one part, "up". Every token of the text is run: what
    earlier ones leave to attention carries gradient too.
    """
    sites = [
        Site(layer, part)
        for layer in range(len(shown.layers))
        for part in _parts(shown)
        if wanted is None or (layer, part) in wanted
    ]
    # The block begins with the text, so that no token's gradient is lost in the cache.
    trunk = run_trunk(shown, [Sample(s.prompt, s.answer, start=0) for s in samples], -1)
    with captured(shown, sites, gradients=True) as seen:
        final = resume(shown, trunk, trunk.hidden)
        logits, targets, _ = label_logits(shown, final, trunk.targets)
        loss = logits.log_softmax(-1).gather(-1, targets[:, None]).sum()
    deltas = seen.deltas(loss)
    real = trunk.real
    return {
        (site.layer, site.part): Factors(
            seen.inputs(site)[real.to(deltas[site].device)],
            deltas[site][real.to(deltas[site].device)],
        )
        for site in sites
    }


def lowest(
    shown: ModelView,
    one: Mapping[tuple[int, str], Factors],
    other: Mapping[tuple[int, str], Factors],
    count: int,
) -> list[Partitions]:
    """Return the ``count`` partitions of lowest cosine between two gradients, by matrix.

    Those whose gradients point the same way, or vanish, are never among them.
    """
    names, cosines = [], []
    for (layer, part), left in one.items():
        by_row = part != "down"
        names.append((getattr(shown.names(layer), part), layer, part, by_row))
        cosines.append(similarity(left, other[layer, part], by_row).cpu())
    sizes = [len(c) for c in cosines]
    every = torch.cat(cosines)
    order = every.argsort(stable=True)[: max(count, 0)]
    order = order[every[order] < ALIKE]
    picked, start = [], 0
    for (name, layer, part, by_row), size in zip(names, sizes, strict=True):
        here = order[(order >= start) & (order < start + size)] - start
        start += size
        if len(here):
            indices = tuple(sorted(here.tolist()))
            picked.append(Partitions(name, layer, part, by_row, indices))
    return picked


def similarity(one: Factors, other: Factors, by_row: bool) -> torch.Tensor:
    """Return the cosine of two gradients by row (out,) or by column (in,), float64.

    1 where one of them vanishes: there is nothing to tell the two apart by.
    """

    def product(a: Factors, b: Factors) -> torch.Tensor:
        # ⟨Σ_t δ_t[r] u_t, Σ_s δ_s[r] u_s⟩ = Σ_ts δ_t[r] (u_t·u_s) δ_s[r]
        left, right = (a.deltas, b.deltas) if by_row else (a.inputs, b.inputs)
        inner_a, inner_b = (a.inputs, b.inputs) if by_row else (a.deltas, b.deltas)
        gram = inner_a.double() @ inner_b.double().T
        return ((gram @ right.double()) * left.double()).sum(0)

    lengths = (product(one, one).clamp(min=0) * product(other, other).clamp(min=0)).sqrt()
    cosine = product(one, other) / lengths.clamp(min=torch.finfo(torch.float64).tiny)
    return torch.where(lengths > 0, cosine, 1.0)


def _odds(shown: ModelView, one: Sequence[Sample], other: Sequence[Sample]) -> float:
    return float(joint_logprobs(shown, one).mean() - joint_logprobs(shown, other).mean())


def _parts(shown: ModelView) -> tuple[str, ...]:
    separate = shown.gated and shown.row.gate != shown.row.up
    return ("gate", "up", "down") if separate else ("up", "down")


def _gradient(of: Factors, at: Partitions) -> torch.Tensor:
    """Return the gradient of some rows (n, in) or columns (out, n)."""
    indices = list(at.indices)
    if at.by_row:
        return of.deltas[:, indices].T @ of.inputs
    return of.deltas.T @ of.inputs[:, indices]


def _weight(shown: ModelView, at: Partitions) -> torch.Tensor:
    weight = shown.matrix(at.name).detach()
    return weight[list(at.indices)] if at.by_row else weight[:, list(at.indices)]
