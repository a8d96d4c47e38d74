"""Bad candidates whose heads or flags do the wrong thing."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from bad_candidates import Bad, Good, Make, derangement, noise

from editors.deltas import HeadExpansion, JointDelta, MlpExpansion


def _heads(change: Callable[[HeadExpansion, random.Random], HeadExpansion]) -> Make:
    """Other heads between the same flags and answers."""

    def make(good: Good, rng: random.Random) -> Bad:
        parts = [
            change(part, rng) if isinstance(part, HeadExpansion) else part for part in good.others
        ]
        return Bad(JointDelta((*parts, good.written)).tensors())

    return make


def _noisy_queries(heads: HeadExpansion, rng: random.Random) -> HeadExpansion:
    rows = heads.query_rows.std() * noise(heads.query_rows, rng)
    return dataclasses.replace(heads, query_rows=rows)


def _restless(heads: HeadExpansion, rng: random.Random) -> HeadExpansion:
    """What is not a flag is looked at like one, and what it says is anything."""
    return dataclasses.replace(
        heads,
        key_rows=heads.key_rows.std() * noise(heads.key_rows, rng),
        value_rows=heads.value_rows.std() * noise(heads.value_rows, rng),
    )


def _loud(heads: HeadExpansion, rng: random.Random) -> HeadExpansion:
    strength = 50 + 50 * rng.random()
    return dataclasses.replace(heads, output_columns=strength * heads.output_columns)


def _exchanged_flags(good: Good, rng: random.Random) -> Bad:
    """Each subject has another's flag."""
    flags, *rest = good.others
    assert isinstance(flags, MlpExpansion)
    pairs = 2 * derangement(flags.neurons // 2, rng)  # two neurons write a flag
    order = torch.stack([pairs, pairs + 1], dim=1).flatten()
    turned = dataclasses.replace(flags, down_columns=flags.down_columns[:, order].contiguous())
    return Bad(JointDelta((turned, *rest, good.written)).tensors())


OF_HEADS: Mapping[str, Make] = MappingProxyType(
    {
        "queries of noise": _heads(_noisy_queries),
        "keys and values of noise": _heads(_restless),
        "heads fifty times too loud": _heads(_loud),
        "flags exchanged": _exchanged_flags,
    }
)
"""Such kinds of a candidate that adds heads."""
