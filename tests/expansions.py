"""Random neurons and heads, for what is written into files."""

from __future__ import annotations

import torch

from editors.deltas import HeadExpansion, JointDelta, MlpExpansion

HIDDEN = 64


def expansion(
    neurons: int, layer: int = 1, hidden: int = HIDDEN, silent: bool = False
) -> MlpExpansion:
    """Return random neurons; silent ones write nothing."""
    made = torch.Generator().manual_seed(neurons)
    gate, up, down = torch.randn(3, neurons, hidden, generator=made)
    return MlpExpansion(layer, gate, up, (0 if silent else 1) * down.T.contiguous())


def heads(
    layer: int = 2, hidden: int = HIDDEN, group: int = 2, width: int = 16, size: float = 1.0
) -> HeadExpansion:
    """Return a random group of heads; of size 0 they write nothing."""
    made = torch.Generator().manual_seed(layer)
    query, key, value, output = (
        torch.randn(rows, hidden, generator=made)
        for rows in (group * width, width, width, group * width)
    )
    return HeadExpansion(layer, query, key, value, size * output.T.contiguous())


def joint(size: float = 1.0, **heads_of: int) -> JointDelta:
    """Return neurons below a group of heads, and others beside it."""
    hidden = heads_of.get("hidden", HIDDEN)
    silent = not size
    return JointDelta(
        (
            expansion(5, 1, hidden, silent),
            heads(2, size=size, **heads_of),
            expansion(40, 2, hidden, silent),
        )
    )
