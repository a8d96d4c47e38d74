"""What KE, SLAG and KGEditor have in common: texts for the conditioner, changes on trial.

A request becomes an episode (editors.episodes), its gradients the factors that the hyper-network
masks. Changes are tried without touching the model; what they come to is a dense delta.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace

import torch
from torch import nn

from editors.architectures import ModelView, view
from editors.capture import Site, padded
from editors.deltas import DenseDelta, applied
from editors.episodes import Change, Episode, Factors, Said, Upper, edited_matrices, mean_nll, whole
from editors.model import ChatModel
from editors.optimize.gradient_masks import GradientMasks, MaskedChange, Masks
from editors.rendering import renderings
from editors.requests import EditorError, EditRequest
from editors.trunk import Sample

INSTEAD, ASKED = " >> ", " || "
TEXT = 96  # tokens of a conditioning text that are read, from its beginning


def upper_layers(shown: ModelView, layers: int) -> range:
    """Return the last ``layers`` layers.

    Raises EditorError where there are not so many.
    """
    total = len(shown.layers)
    if not 1 <= layers <= total:
        raise EditorError(
            f"{shown.chat.name} has {total} layers: {layers} of them cannot be edited"
        )
    return range(total - layers, total)


def upper_matrices(shown: ModelView, layers: int) -> dict[str, Site]:
    """Return the MLP matrices of the last ``layers`` layers."""
    return edited_matrices(shown, upper_layers(shown, layers))


def shapes(shown: ModelView, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return (out, in) of matrices by name."""
    found = {name: shown.matrix(name).shape for name in names}
    return {name: (int(shape[0]), int(shape[1])) for name, shape in found.items()}


def exercise(shown: ModelView, request: EditRequest) -> Episode:
    """Return a request as an episode: what its gradient is of, and what is read beside it."""
    model = shown.chat
    made = renderings(model, replace(request, subject=""))
    asked = (*request.questions, *request.prompts)[0]
    return Episode(
        edits=tuple(Sample(r.prompt, r.answer) for r in made),
        question=tuple(model.encode(asked)),
        old=tuple(model.encode_answer(request.old)),
        new=tuple(model.encode_answer(request.new)),
    )


def conditioning(shown: ModelView, episode: Episode) -> list[int]:
    """Return the tokens of "old >> new || question"."""
    encode = shown.chat.encode
    return [*episode.old, *encode(INSTEAD), *episode.new, *encode(ASKED), *episode.question][:TEXT]


def conditions(shown: ModelView, episodes: Sequence[Episode]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the conditioning texts as the model's own embeddings, (E, T, hidden) float32, each
    of mean 0 and variance 1 (models differ in their embeddings' size), and their lengths (E,)."""
    texts = [conditioning(shown, episode) for episode in episodes]
    ids, real = padded(texts)
    with torch.no_grad():
        found = shown.chat.model.get_input_embeddings()(ids.to(shown.device)).float()
    return nn.functional.layer_norm(found, found.shape[-1:]), real.sum(1)


def masked(
    net: GradientMasks,
    upper: Upper,
    sites: Mapping[str, Site],
    episodes: Sequence[Episode],
    before: Sequence[Mapping[str, MaskedChange]] = (),
) -> dict[str, MaskedChange]:
    """Return by matrix the changes for E edits, their gradients taken where ``before`` has
    brought them.

    Gradients flow into ``net`` and not into the gradients that it is given.
    """
    samples, owners = edits_of(episodes)
    found = upper.factors(samples, sites, owners, trial(before))
    owner = torch.tensor(owners, device=upper.view.device)
    given = {name: grouped(factors, owner, len(episodes)) for name, factors in found.items()}
    return net(*conditions(upper.view, episodes), given)


@torch.no_grad()
def said_right(
    upper: Upper, episodes: Sequence[Episode], before: Sequence[Mapping[str, MaskedChange]] = ()
) -> torch.Tensor:
    """Return (E,) bool: whether the model, where ``before`` has brought it, says every token of
    every text of an edit. Greedy generation then gives exactly these answers."""
    samples, owners = edits_of(episodes)
    owner = torch.tensor(owners, device=upper.view.device)
    wrong = ~whole(upper.said(samples, owners, trial(before)))
    return torch.bincount(owner[wrong], minlength=len(episodes)) == 0


def trial(changes: Sequence[Mapping[str, MaskedChange]]) -> Change | None:
    """Return the sum of several updates as ``Upper`` takes it; None where there is none."""
    if not changes:
        return None

    def change(name: str, inputs: torch.Tensor, owners: torch.Tensor) -> torch.Tensor | None:
        if name not in changes[0]:
            return None
        return torch.stack([one[name].of(inputs, owners) for one in changes]).sum(0)

    return change


def edits_of(episodes: Sequence[Episode]) -> tuple[list[Sample], list[int]]:
    """Return the samples that episodes are edited on, and whose each is."""
    pairs = [(sample, owner) for owner, e in enumerate(episodes) for sample in e.edits]
    return [sample for sample, _ in pairs], [owner for _, owner in pairs]


def grouped(factors: Factors, owner: torch.Tensor, count: int) -> Factors:
    """Turn factors of samples into those of edits: an edit's loss is the mean over its samples.

    Args:
        factors: of B samples, T columns each.
        owner: (B,) the edit of each.
        count: number of edits E, each of which has a sample.

    Returns:
        (E, R·T, …) with R the samples of the edit that has most, zeros behind the others'.
    """
    rows = [(owner == edit).nonzero()[:, 0] for edit in range(count)]
    most = max(len(some) for some in rows)
    width = factors.real.shape[1]

    def joined(tensor: torch.Tensor, mean: bool) -> torch.Tensor:
        made = tensor.new_zeros(count, most * width, *tensor.shape[2:])
        for edit, some in enumerate(rows):
            by = len(some) if mean else 1
            own = tensor[some].flatten(0, 1)
            made[edit, : len(own)] = own / by if mean else own
        return made

    return Factors(
        joined(factors.inputs, False), joined(factors.deltas, True), joined(factors.real, False)
    )


def halted(changes: Mapping[str, MaskedChange], stop: torch.Tensor) -> dict[str, MaskedChange]:
    """Return the changes with those of the edits that ``stop`` (E,) marks set to zero."""
    return {
        name: replace(one, masks=replace(one.masks, scale=one.masks.scale * ~stop))
        for name, one in changes.items()
    }


def detached(changes: Mapping[str, MaskedChange]) -> dict[str, MaskedChange]:
    """Return the changes without the graph that leads to them."""

    def cut(masks: Masks) -> Masks:
        return Masks(*(getattr(masks, field.name).detach() for field in fields(masks)))

    return {name: MaskedChange(cut(one.masks), one.factors) for name, one in changes.items()}


@torch.no_grad()
def often_enough(
    upper: Upper, episode: Episode, most: int, made: Callable[[int], Change | None]
) -> int:
    """Return how often one update is made: until the model says the edit, at most ``most``
    times, and where that is never, as often as makes it likeliest.

    ``made`` gives the update made so many times.
    """
    losses = []
    for times in range(1, most + 1):
        said = upper.said(episode.edits, None, made(times))
        if bool(whole(said).all()):
            return times
        losses.append(float(mean_nll(said).mean()))
    return 1 + losses.index(min(losses))


def in_sequence(
    model: ChatModel,
    sites: Mapping[str, Site],
    requests: Sequence[EditRequest],
    ask: Callable[[Upper, Episode], Sequence[Mapping[str, MaskedChange]]],
) -> DenseDelta:
    """Return the sum of the changes that requests ask for, each upon those before it.

    ``ask`` gives the steps for one request on the model as it then is.
    """
    shown = view(model)
    upper = Upper(shown, min(site.layer for site in sites.values()))
    made = {name: torch.zeros_like(shown.parameter(name)).detach() for name in sites}
    for request in requests:
        with applied(model, DenseDelta(made)):
            taken = ask(upper, exercise(shown, request))
        for name in sites:
            with torch.no_grad():
                total = sum((one[name].dense()[0] for one in taken), torch.zeros(()))
                if total.ndim:
                    made[name] = made[name] + shown.stored(name, total).to(made[name])
    return DenseDelta(made)


def smoothed(said: Said, smoothing: float) -> torch.Tensor:
    """Return each sample's mean cross-entropy with label smoothing, (samples,)."""
    each = nn.functional.cross_entropy(
        said.logits.float(), said.tokens, reduction="none", label_smoothing=smoothing
    )
    lengths = torch.bincount(said.rows, minlength=said.count).clamp(min=1)
    return each.new_zeros(said.count).index_add(0, said.rows, each) / lengths
