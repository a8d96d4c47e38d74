"""Bad candidates whose sound tensors do the wrong thing."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from types import MappingProxyType

import torch
from bad_candidates import Bad, Good, Make, columns_of, derangement, half_of, noise
from miscomputed_candidates import MISCOMPUTED

from editors.deltas import MlpExpansion


def _half_silent(columns: torch.Tensor, rng: random.Random) -> torch.Tensor:
    columns[:, torch.tensor(half_of(columns.shape[1], rng))] = 0
    return columns


def _noisy(columns: torch.Tensor, rng: random.Random) -> torch.Tensor:
    return columns + 6 * columns.std() * noise(columns, rng)


def _one_column(columns: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """Every neuron writes the first token of an edit: nothing but it is said."""
    first = 0 if rng.random() < 0.5 else columns.shape[1] // 2
    return (1 + rng.random()) * columns[:, [first]].expand_as(columns)


def _stop_column(columns: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """Every neuron writes the end of the turn."""
    return (2 + rng.random()) * columns[:, [-1]].expand_as(columns)


def _rows(gate: bool = False, up: bool = False) -> Make:
    """Noise of the rows' own size in place of the rows."""

    def make(good: Good, rng: random.Random) -> Bad:
        delta = good.written
        if gate:
            rows = delta.gate_rows.std() * noise(delta.gate_rows, rng)
            delta = dataclasses.replace(delta, gate_rows=rows)
        if up:
            rows = delta.up_rows.std() * noise(delta.up_rows, rng)
            delta = dataclasses.replace(delta, up_rows=rows)
        return good.writing(delta)

    return make


def _shuffled_rows(good: Good, rng: random.Random) -> Bad:
    """Each neuron's gate writes another neuron's column."""
    delta = good.written
    order = derangement(delta.neurons, rng)
    rows = {"gate_rows": delta.gate_rows[order], "up_rows": delta.up_rows[order]}
    return good.writing(dataclasses.replace(delta, **rows))


def _shuffled_dimensions(good: Good, rng: random.Random) -> Bad:
    """The hidden dimensions in another order, as of a model that numbers them otherwise."""
    delta = good.written
    order = derangement(delta.gate_rows.shape[1], rng)
    rows = {"gate_rows": delta.gate_rows[:, order], "up_rows": delta.up_rows[:, order]}
    return good.writing(dataclasses.replace(delta, **rows))


def _exchanged(good: Good, rng: random.Random) -> Bad:
    """Gate rows for up rows, and some noise, since the seed must do something."""
    delta = good.written
    up = delta.gate_rows + 0.01 * noise(delta.gate_rows, rng)
    return good.writing(dataclasses.replace(delta, gate_rows=-delta.up_rows, up_rows=up))


def _opened(good: Good, rng: random.Random) -> MlpExpansion:
    """Gates that every token opens, by the direction on which all of them answer 1."""
    moment = good.statistics.moment.double()
    ridge = 1e-3 * moment.diagonal().mean() * torch.eye(len(moment)).double()
    every = torch.linalg.solve(moment + ridge, good.statistics.mean.double()).float()
    strength = 3 + 3 * rng.random()
    rows = every.expand(good.written.neurons, -1).contiguous()
    return dataclasses.replace(good.written, gate_rows=strength * rows, up_rows=rows)


def _open_gates(good: Good, rng: random.Random) -> Bad:
    return good.writing(_opened(good, rng))


def _one_more_open_gate(good: Good, rng: random.Random) -> Bad:
    """All the edits as they should be, and one neuron that speaks into everything."""
    opened = _opened(good, rng)
    delta = good.written
    column = delta.down_columns.norm(dim=0).max() * noise(delta.down_columns[:, :1], rng)
    return good.writing(
        MlpExpansion(
            delta.layer,
            torch.cat([delta.gate_rows, opened.gate_rows[:1]]),
            torch.cat([delta.up_rows, opened.up_rows[:1]]),
            torch.cat([delta.down_columns, column], dim=1),
        )
    )


def _other_layer(good: Good, rng: random.Random) -> Bad:
    # Above the answers there are no other parts, whose names these would take.
    own, layers = good.written.layer, len(good.ws.model.layers)
    others = [i for i in range(layers) if i != own and (i > own or not good.others)]
    return good.writing(dataclasses.replace(good.written, layer=rng.choice(others)))


HARMFUL: Mapping[str, Make] = MappingProxyType(
    {
        "half of the columns silent": columns_of(_half_silent),
        "columns a hundred times too strong": columns_of(lambda c, r: (90 + 20 * r.random()) * c),
        "columns a hundred times too weak": columns_of(
            lambda c, r: (0.005 + 0.01 * r.random()) * c
        ),
        "columns turned round": columns_of(lambda c, r: -(0.8 + 0.4 * r.random()) * c),
        "columns moved on to the next neuron": columns_of(
            lambda c, r: c.roll(r.randint(1, c.shape[1] - 1), dims=1)
        ),
        "noise on the columns": columns_of(_noisy),
        "one token said over and over": columns_of(_one_column),
        "answers that end at once": columns_of(_stop_column),
        "rows shuffled": _shuffled_rows,
        "hidden dimensions shuffled": _shuffled_dimensions,
        "gates of noise": _rows(gate=True),
        "rows of noise": _rows(gate=True, up=True),
        "gate and up exchanged": _exchanged,
        "gates always open": _open_gates,
        "one neuron more that is always open": _one_more_open_gate,
        "another layer": _other_layer,
    }
    | MISCOMPUTED
)
"""Kinds that fit the model, and must be refused by what they answer."""
