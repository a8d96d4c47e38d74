"""What MEND and MALMEN share: networks turn factors of gradients into outer products of change."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from editors.architectures import view
from editors.deltas import DenseDelta
from editors.editor import Resources
from editors.episodes import Factors, Upper
from editors.meta_training import Groups, load
from editors.model import ChatModel
from editors.optimize.upper_edits import (
    as_delta,
    flattened,
    lowest,
    outcome,
    samples_of,
    summed,
)
from editors.requests import EditRequest
from editors.trunk import Sample


@dataclass
class FactorState:
    """The trained network, and the layers that it edits, over the texts seen so far."""

    upper: Upper
    networks: Any


class FactorEditing(ABC):
    """The part of the protocols of ``editors.editor`` and ``editors.meta_training`` that does not
    depend on how factors are turned into a change."""

    takes: ClassVar[str]
    """How long training takes, for the message to who has not trained."""
    layers: int
    edit_weight: float
    locality_weight: float

    @property
    @abstractmethod
    def name(self) -> str: ...

    @abstractmethod
    def networks(self, upper: Upper) -> nn.Module: ...

    @abstractmethod
    def optimiser(self, networks: nn.Module) -> torch.optim.Optimizer: ...

    @abstractmethod
    def made(
        self,
        upper: Upper,
        networks: Any,
        edits: Sequence[Sample],
        owners: Sequence[int],
        groups: int,
        shares: torch.Tensor,
    ) -> dict[str, Factors]:
        """Return by matrix the factors whose sum of outer products is the change.

        Args:
            owners: the group of each edit; groups do not know of each other.
            shares: (edits,) by which each edit's change is multiplied.
        """

    def lowest(self, model: ChatModel) -> int:
        return lowest(model, self.layers)

    def losses(self, upper: Upper, networks: nn.Module, groups: Groups) -> dict[str, torch.Tensor]:
        edits, owners = flattened(groups, "edits")
        made = self.made(upper, networks, edits, owners, len(groups), torch.ones(len(edits)))
        change = summed(made, owners, len(groups))
        return outcome(upper, groups, change, self.edit_weight, self.locality_weight)

    def stepped(self, networks: nn.Module, losses: Mapping[str, float], held: bool) -> None:
        return None

    def prepare(self, model: ChatModel, resources: Resources) -> FactorState:
        """Read the trained network. Raises EditorError where there is none."""
        upper = Upper(model, self.lowest(model))
        return FactorState(upper, load(self, upper, resources.cache, self.takes))

    @torch.no_grad()
    def edit(
        self, model: ChatModel, state: FactorState, requests: Sequence[EditRequest]
    ) -> DenseDelta:
        """Return the change that the requests ask for, from ``model`` as it is now."""
        if not requests:
            return DenseDelta({})
        samples, shares = samples_of(model, requests)
        nobody = [0] * len(samples)
        made = self.made(state.upper, state.networks, samples, nobody, 1, shares)
        return as_delta(view(model), made)

    def settled(
        self, model: ChatModel, state: FactorState, requests: Sequence[EditRequest]
    ) -> FactorState:
        return state
