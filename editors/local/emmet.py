"""EMMET (Gupta et al. 2024, methods.md L5): ROME for many edits in one equality.

Δ = (V* − WK)(KᵀC⁻¹K + εI)⁻¹KᵀC⁻¹ at one layer: every key gets its value exactly, up to the
slack ε against keys that nearly depend on each other. With one edit and ε = 0 it is r-ROME.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from editors.closed_form import ClosedForm, State
from editors.linear_solve import Update, equality

NAME = "emmet"


@dataclass(frozen=True)
class Emmet(ClosedForm):
    """The method by the protocol of ``editors.editor``."""

    learning_rate: float = 0.3  # Adam, in units of ‖v₀‖/√d; an MLP's output is short
    clamp: float = 4.0  # ‖δ‖ at most, in units of ‖v₀‖ (ROME)
    slack: float = 100.0  # ε, against dependent keys (authors: 0.1); 0 is exact

    where = "down"

    def solve(
        self,
        state: State,
        layer: int,
        residuals: torch.Tensor,
        keys: torch.Tensor,
        around: torch.Tensor,
    ) -> Update:
        return equality(residuals, keys, state.preserved[layer].including(around), self.slack)
