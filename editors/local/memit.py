"""MEMIT (Meng et al. 2023, methods.md L3): many facts at once, spread over a window of layers.

The value of each edit is optimised at the output of the window's last layer; then every
layer, lowest first, takes its part of what is still missing by ridge regression against
ordinary keys: Δ = RKᵀ(λC + KKᵀ)⁻¹. λ follows from the statistics (``reach``), because a
number from another model's configuration does not fit. Keys of earlier batches join the solve
(``sequential``), so that a stream of batches leaves the earlier ones standing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from editors.closed_form import ClosedForm, State
from editors.linear_solve import Factor, Update, factored, ridge
from editors.model import ChatModel
from editors.requests import EditRequest

NAME = "memit"


@dataclass(frozen=True)
class Memit(ClosedForm):
    """The method by the protocol of ``editors.editor``."""

    window: int = 3  # layers that are written (authors: 5 to 6)
    weight: float | None = None  # λ, how many ordinary keys C stands for; None: from ``reach``
    reach: float = 0.94  # share of its residual that a typical key reaches, in (0, 1)
    sequential: bool = True  # whether keys of earlier batches are preserved (MEMIT-seq)

    def ready(self, state: State) -> State:
        """Factor λC of each layer."""
        factors = {
            layer: self._weighted(factored(found.moment, self.ridge))
            for layer, found in state.statistics.items()
        }
        return replace(state, preserved=factors)

    def solve(
        self,
        state: State,
        layer: int,
        residuals: torch.Tensor,
        keys: torch.Tensor,
        around: torch.Tensor,
    ) -> Update:
        """Δ = RKᵀ(λC + K_pK_pᵀ + KKᵀ)⁻¹."""
        return ridge(residuals, keys, state.preserved[layer].including(around), 1.0)

    def settled(self, model: ChatModel, state: State, requests: Sequence[EditRequest]) -> State:
        return self.remembered(model, state, requests) if self.sequential else state

    def _weighted(self, factor: Factor) -> Factor:
        if self.weight is not None:
            return factor.scaled(self.weight)
        # A key drawn from C has kᵀC⁻¹k = tr(C(C + εI)⁻¹), about its width, whatever the scale.
        size = len(factor.matrix)
        ridged = self.ridge * float(factor.matrix.diagonal().mean()) / (1 + self.ridge)
        lost = ridged * float(torch.cholesky_inverse(factor.lower).diagonal().sum())
        return factor.scaled((size - lost) * (1 - self.reach) / self.reach)
