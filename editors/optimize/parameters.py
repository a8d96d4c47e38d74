"""How matrices depend on what is trained: every entry, or a change of low rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import nn

from editors.architectures import ModelView
from editors.requests import EditorError

Weights = Mapping[str, torch.Tensor]
"""Matrices by parameter name, as they are stored."""


class Parameters(Protocol):
    """How matrices depend on what is trained."""

    @property
    def trained(self) -> list[nn.Parameter]: ...

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the matrices that stand in, with their graph."""
        ...


class Whole:
    """Every entry of some matrices is trained."""

    def __init__(self, start: Weights) -> None:
        self._made = {name: nn.Parameter(w.detach().clone()) for name, w in start.items()}

    @property
    def trained(self) -> list[nn.Parameter]:
        return list(self._made.values())

    def weights(self) -> dict[str, torch.Tensor]:
        return dict(self._made)


class LowRank:
    """Each matrix W (out, in) becomes W + scale · B A; A is drawn, B begins at zero, so that
    the beginning is the model itself (LoRA, Hu et al. 2022)."""

    def __init__(
        self, shown: ModelView, start: Weights, rank: int, scale: float, seed: int
    ) -> None:
        if rank < 1:
            raise EditorError(f"a low-rank change has rank 1 or more, not {rank}")
        draw = torch.Generator().manual_seed(seed)
        self._shown, self._start, self._scale = shown, dict(start), scale
        self._pairs = {}
        for name, weight in start.items():
            out, width = shown.matrix(name).shape
            drawn = 0.02 * torch.randn(rank, width, generator=draw)
            self._pairs[name] = (
                nn.Parameter(drawn.to(weight)),
                nn.Parameter(torch.zeros(out, rank).to(weight)),
            )

    @property
    def trained(self) -> list[nn.Parameter]:
        return [p for pair in self._pairs.values() for p in pair]

    def pairs(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Return A (rank, in) and scale · B (out, rank) of each matrix."""
        return {
            name: (a.detach().clone(), self._scale * b.detach())
            for name, (a, b) in self._pairs.items()
        }

    def changes(self) -> dict[str, torch.Tensor]:
        """Return scale · B A as the parameters are stored."""
        return {
            name: self._shown.stored(name, self._scale * (b @ a))
            for name, (a, b) in self._pairs.items()
        }

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: self._start[name] + change for name, change in self.changes().items()}
