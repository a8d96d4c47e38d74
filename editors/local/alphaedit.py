"""AlphaEdit (Fang et al. 2024, methods.md L6): edits in the null space of ordinary keys.

The window is written as MEMIT's, but with Δ = RKᵀP(K_pK_pᵀP + KKᵀP + αI)⁻¹, where P projects
on the directions that ordinary keys hardly use and K_p are the keys of all earlier edits. Size
of the null space and α follow from the statistics (``editors.second_moments.calibrate``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from editors.closed_form import ClosedForm, State
from editors.linear_solve import Factor, NullSpace, Update, projected, spectrum
from editors.model import ChatModel
from editors.requests import EditRequest
from editors.second_moments import calibrate

NAME = "alphaedit"


@dataclass(frozen=True)
class AlphaState(State):
    """The null space of each layer besides; ``preserved`` is αI + K_pK_pᵀ in its coordinates."""

    spaces: Mapping[int, NullSpace] = field(default_factory=dict)


@dataclass(frozen=True)
class AlphaEdit(ClosedForm):
    """The method by the protocol of ``editors.editor``."""

    window: int = 3  # layers that are written (authors: 5)
    damping: float | None = None  # α (authors: 10); None: from ``reach``
    reach: float = 0.85  # share of its residual that a typical key reaches, in (0, 1)
    edits: int = 512  # keys that the null space is to have room for
    most_leak: float = 0.05  # share of ordinary keys' energy that it may hold at most

    def ready(self, state: State) -> AlphaState:
        """Choose each layer's null space and damping."""
        spaces, preserved = {}, {}
        for layer, found in state.statistics.items():
            values = spectrum(found.moment)
            chosen = calibrate(found, values, self.reach, self.edits, self.most_leak)
            spaces[layer] = NullSpace(values.vectors[:, : chosen.dimensions], chosen.leak)
            alpha = chosen.damping if self.damping is None else self.damping
            preserved[layer] = spaces[layer].preserving(alpha)
        return AlphaState(state.layers, state.contexts, state.statistics, preserved, spaces=spaces)

    def solve(
        self,
        state: State,
        layer: int,
        residuals: torch.Tensor,
        keys: torch.Tensor,
        around: torch.Tensor,
    ) -> Update:
        """Δ = RKᵀP(K_pK_pᵀP + KKᵀP + αI)⁻¹."""
        space = _spaces(state)[layer]
        kept = state.preserved[layer].including(space.coordinates(around))
        return projected(residuals, keys, space, kept)

    def settled(self, model: ChatModel, state: State, requests: Sequence[EditRequest]) -> State:
        """Add the keys of the edits just made, read with the edited weights, to K_p."""
        return self.remembered(model, state, requests)

    def including(self, state: State, layer: int, keys: torch.Tensor) -> Factor:
        return state.preserved[layer].including(_spaces(state)[layer].coordinates(keys))


def _spaces(state: State) -> Mapping[int, NullSpace]:
    assert isinstance(state, AlphaState)
    return state.spaces
