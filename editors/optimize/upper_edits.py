"""What methods that are trained on episodes share: the edited matrices, changes, outer losses.

They edit the MLP matrices of the last layers, and are judged by what the edited model says: the
new answer to the edit and its other wordings, the unedited model's answer to everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from editors.architectures import ModelView, view
from editors.capture import Site
from editors.deltas import DenseDelta
from editors.episodes import (
    PARTS,
    Change,
    Factors,
    Said,
    Upper,
    Weights,
    contrast,
    edited_matrices,
    kl,
    mean_nll,
    prefix,
    whole,
)
from editors.meta_training import TOTAL, Groups
from editors.model import ChatModel
from editors.rendering import renderings
from editors.requests import EditorError, EditRequest
from editors.trunk import Sample


def lowest(model: ChatModel, layers: int) -> int:
    """Return the first of the last ``layers`` layers.

    Raises EditorError where the model has fewer.
    """
    count = len(view(model).layers)
    if not 0 < layers <= count:
        raise EditorError(f"{model.name} has {count} layers, of which {layers} cannot be edited")
    return count - layers


def sites_of(upper: Upper) -> dict[str, Site]:
    """Return the MLP matrices of the upper layers."""
    return edited_matrices(upper.view, range(upper.lowest, len(upper.view.layers)), PARTS)


def shapes(shown: ModelView, sites: Mapping[str, Site]) -> dict[str, tuple[int, int]]:
    """Return (in, out) by matrix."""
    sizes = {name: shown.matrix(name).shape for name in sites}
    return {name: (size[1], size[0]) for name, size in sizes.items()}


def flattened(groups: Groups, kind: str) -> tuple[list[Sample], list[int]]:
    """Return one kind of samples ("edits", "rephrased", "kept") of all episodes, and the group
    that each is of."""
    pairs = [
        (sample, owner)
        for owner, group in enumerate(groups)
        for episode in group
        for sample in getattr(episode, kind)
    ]
    return [sample for sample, _ in pairs], [owner for _, owner in pairs]


def summed(made: Mapping[str, Factors], owners: Sequence[int], groups: int) -> Change:
    """Return the change of each group: the sum of its edits' outer products.

    Args:
        made: by matrix, (edits, T, …).
        owners: the group of each edit.
        groups: their number.
    """
    rows = [[i for i, owner in enumerate(owners) if owner == group] for group in range(groups)]
    most = max(map(len, rows))
    # Groups have equally many edits, but for the last of the held-out slice: -1 is an edit of
    # zeros.
    at = torch.tensor([[*r, *[-1] * (most - len(r))] for r in rows])
    joined = {}
    for name, one in made.items():
        zeros = (torch.zeros_like(t[:1]) for t in (one.inputs, one.deltas))
        inputs, deltas = (
            torch.cat([t, z])[at].flatten(1, 2)
            for t, z in zip((one.inputs, one.deltas), zeros, strict=True)
        )
        joined[name] = (inputs, deltas)

    def change(name: str, inputs: torch.Tensor, owner: torch.Tensor) -> torch.Tensor | None:
        if name not in joined:
            return None
        u, d = (t.to(inputs.dtype) for t in joined[name])
        if groups > 1:
            u, d = u[owner], d[owner]
        return (inputs @ u.mT) @ d

    return change


def iterated(
    upper: Upper,
    edits: Sequence[Sample],
    owners: Sequence[int],
    groups: int,
    passes: int,
    turned: Callable[[Mapping[str, Factors]], dict[str, Factors]],
    *,
    loss: Callable[[Said], torch.Tensor],
    weights: Weights | None = None,
    answers_only: bool = False,
) -> dict[str, Factors]:
    """Take gradients anew up to ``passes`` times, each upon the change so far.

    Args:
        turned: makes outer products of change out of a pass's factors; gradients flow through
            it, none from one pass to the next.
        loss: by which the gradients are taken; passes end early when no sample has any left.

    Returns:
        By matrix the outer products of all passes, one row an edit.
    """
    sites = sites_of(upper)
    fixed = {name: weight.detach() for name, weight in (weights or {}).items()}
    made: dict[str, Factors] = {}
    for _ in range(passes):
        change = None
        if made:
            so_far = {
                n: Factors(one.inputs.detach(), one.deltas.detach(), one.real)
                for n, one in made.items()
            }
            change = summed(so_far, owners, groups)
        found = upper.factors(edits, sites, owners, change, fixed, answers_only, loss)
        if made and not any(bool(one.deltas.any()) for one in found.values()):
            break
        for name, new in turned(found).items():
            parts = [made[name], new] if name in made else [new]
            inputs, deltas, real = (
                torch.cat([getattr(part, kind) for part in parts], dim=1)
                for kind in ("inputs", "deltas", "real")
            )
            made[name] = Factors(inputs, deltas, real)
    return made


def until_won(margin: float) -> Callable[[Said], torch.Tensor]:
    """Return the mean NLL of samples in which some token of the answer does not win by a margin
    yet, and 0 of the others."""

    def loss(said: Said) -> torch.Tensor:
        return mean_nll(said) * (contrast(said, margin) > 0)

    return loss


def outcome(
    upper: Upper,
    groups: Groups,
    change: Change | None,
    edit: float,
    locality: float,
    weights: Weights | None = None,
    teacher: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Return the outer losses of edited models, and what they mean for free-running answers.

    ``edited`` and ``rephrased`` are mean NLLs of the new answers, ``kept`` the KL; ``right`` and
    ``general`` are the shares of edits and of other wordings to which greedy generation gives
    exactly the new answer, ``prefix`` the share of kept answers up to their first difference;
    ``total`` = edit · mean NLL + locality · KL.

    Args:
        change, weights: that make the edited models (``Upper.said``).
        edit, locality: weights of the two terms.
        teacher: logits on what is to stay, in the order of ``flattened(groups, "kept")``;
            default: the model's as it is.
    """
    parts = {kind: flattened(groups, kind) for kind in ("edits", "rephrased", "kept")}
    samples = [sample for some, _ in parts.values() for sample in some]
    owners = [owner for _, some in parts.values() for owner in some]
    said = upper.said(samples, owners, change, weights)
    edits, others, kept = (len(some) for some, _ in parts.values())
    new = said.part(0, edits + others)
    nll = mean_nll(new)
    losses = {TOTAL: edit * nll.mean(), "edited": nll[:edits].mean()}
    exact = whole(new).float()
    losses["right"] = exact[:edits].mean()
    if others:
        losses["rephrased"] = nll[edits:].mean()
        losses["general"] = exact[edits:].mean()
    if kept:
        old = said.part(edits + others, len(samples))
        before = upper.teacher(parts["kept"][0]) if teacher is None else teacher
        losses["kept"] = kl(before, old).mean()
        losses["prefix"] = prefix(old).mean()
        losses[TOTAL] = losses[TOTAL] + locality * losses["kept"]
    return losses


def as_delta(shown: ModelView, made: Mapping[str, Factors]) -> DenseDelta:
    """Return the sum of outer products of each matrix as a change of the stored weights."""
    return DenseDelta({name: shown.stored(name, one.dense().sum(0)) for name, one in made.items()})


def samples_of(
    model: ChatModel, requests: Sequence[EditRequest]
) -> tuple[list[Sample], torch.Tensor]:
    """Return what the requests are edited on, and each sample's share of its request: one
    request weighs as much as another, however many questions it has."""
    samples, shares = [], []
    for request in requests:
        made = renderings(model, replace(request, subject=""))
        samples += [Sample(r.prompt, r.answer) for r in made]
        shares += [1 / len(made)] * len(made)
    return samples, torch.tensor(shares)
