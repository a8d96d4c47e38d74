"""Bad candidates that are not sound, or claim what is not so."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from bad_candidates import Bad, Good, Make, columns_of, half_of

from editors.deltas import MlpExpansion


def _put(value: float, share: float = 0.0) -> Make:
    """A value in one entry of one tensor, or in a share of the entries of all."""

    def make(good: Good, rng: random.Random) -> Bad:
        tensors = {name: t.clone() for name, t in good.delta.tensors().items()}
        chosen = sorted(tensors) if share else [rng.choice(sorted(tensors))]
        for name in chosen:
            flat = tensors[name].view(-1)
            count = max(1, int(share * len(flat)))
            flat[torch.tensor(rng.sample(range(len(flat)), count))] = value
        return Bad(tensors)

    return make


def _each(change: Callable[[torch.Tensor], torch.Tensor]) -> Make:
    """The same change to one tensor of the three, whichever the seed says."""

    def make(good: Good, rng: random.Random) -> Bad:
        tensors = good.delta.tensors()
        name = rng.choice(sorted(tensors))
        return Bad({**tensors, name: change(tensors[name])})

    return make


def _without_a_tensor(good: Good, rng: random.Random) -> Bad:
    tensors = good.delta.tensors()
    del tensors[rng.choice(sorted(tensors))]
    return Bad(tensors)


def _unknown_tensor(good: Good, rng: random.Random) -> Bad:
    name = rng.choice(("model.norm.weight", "lm_head.weight", "model.layers.0.mlp.up_proj.bias"))
    return Bad({**good.delta.tensors(), name: torch.zeros(good.written.gate_rows.shape[1])})


def _layer_beyond_the_model(good: Good, rng: random.Random) -> Bad:
    layer = len(good.ws.model.layers) + rng.randrange(9)
    return good.writing(dataclasses.replace(good.written, layer=layer))


def _other_hidden_size(good: Good, rng: random.Random) -> Bad:
    neurons, hidden = good.written.gate_rows.shape
    rows = torch.randn(neurons, hidden + rng.randint(1, 32))
    return good.writing(MlpExpansion(good.written.layer, rows, rows.clone(), rows.T.contiguous()))


def _keep(neurons: Callable[[int, random.Random], Sequence[int]]) -> Make:
    """Only some of the neurons."""

    def make(good: Good, rng: random.Random) -> Bad:
        delta = good.written
        kept = torch.tensor(neurons(delta.neurons, rng), dtype=torch.long)
        rows = (delta.gate_rows[kept], delta.up_rows[kept], delta.down_columns[:, kept])
        return good.writing(MlpExpansion(delta.layer, *rows))

    return make


# Versions that claim what is not so.


def _claims(change: Callable[[list[str], random.Random], list[str]]) -> Make:
    def make(good: Good, rng: random.Random) -> Bad:
        ids = change([edit.id for edit in good.edits], rng)
        return Bad(good.delta.tensors(), edit_ids=tuple(ids))

    return make


def _other_base(good: Good, rng: random.Random) -> Bad:
    return Bad(good.delta.tensors(), base_hash=f"{rng.getrandbits(256):064x}")


UNSOUND: Mapping[str, Make] = MappingProxyType(
    {
        "NaN in one entry": _put(float("nan")),
        "NaN all over": _put(float("nan"), 0.5),
        "infinity in one entry": _put(float("inf")),
        "minus infinity in one entry": _put(float("-inf")),
        "a huge number in one entry": _put(1e30),
        "denormal numbers throughout": _put(1e-41, 1.0),
        "columns of nothing": columns_of(lambda columns, _: torch.zeros_like(columns)),
        "no neuron at all": _keep(lambda count, rng: ()),
        "half of the neurons missing": _keep(half_of),
        "whole numbers": _each(lambda t: t.to(torch.int32)),
        "truth values": _each(lambda t: t > 0),
        "transposed": _each(lambda t: t.T.contiguous()),
        "cut short": _each(lambda t: t[:-1]),
        "one dimension too many": _each(lambda t: t[None]),
        "a single number": _each(lambda t: t[0, 0]),
        "a tensor missing": _without_a_tensor,
        "a tensor that no one knows": _unknown_tensor,
        "a layer beyond the model": _layer_beyond_the_model,
        "another hidden size": _other_hidden_size,
        "made for another base": _other_base,
        "ids of other edits": _claims(lambda ids, rng: [f"{rng.getrandbits(64):x}" for _ in ids]),
        "an edit of the ledger absent": _claims(lambda ids, rng: rng.sample(ids, len(ids) - 1)),
        "an edit that the ledger lacks": _claims(lambda ids, rng: [*ids, str(rng.random())]),
        "an edit twice": _claims(lambda ids, rng: [*ids, rng.choice(ids)]),
    }
)
"""Kinds that are refused before they touch the model."""
