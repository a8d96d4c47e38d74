"""MALMEN: MEND's network gives each token a shift; one ridge solve fuses the shifts of all edits.

Tan et al. 2023 (methods.md G10). For each token i that predicts an answer, with k_i what goes
into the matrix and (k̂_i, ĝ_i) what the network makes of the gradient's factors::

    s_i = −η (k_iᵀ k̂_i) ĝ_i                          by how much its output is to change
    ΔW  = S Kᵀ (K Kᵀ + e^λ I)⁻¹                      all edits at once; k_i, s_i as columns

η and λ are learned, one a matrix. Where MEND adds edits up, here those with like keys come to
terms. Each call solves for all requests so far from the unedited weights, so that nothing
depends on the order of the edits; the meta-gradient goes through the solve.

Ours: η and e^λ in units of the matrix's usual output and of its usual ‖k‖².
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from editors.architectures import ModelView, view
from editors.deltas import DenseDelta
from editors.editor import Resources
from editors.episodes import Factors, Upper
from editors.linear_solve import identity_ridge
from editors.meta_training import Groups, TrainingOptions, load
from editors.model import ChatModel
from editors.optimize.factor_network import flat
from editors.optimize.mend import MendNetwork
from editors.optimize.upper_edits import (
    flattened,
    lowest,
    outcome,
    samples_of,
    shapes,
    sites_of,
    summed,
)
from editors.requests import EditRequest

NAME = "malmen"
TAKES = "about a quarter of an hour on two processor cores for a model of 135 million parameters"


@dataclass(frozen=True)
class MalmenSettings:
    layers: int = 3  # the last so many
    rank: int = 96  # of the network's blocks (paper 1920)
    learning_rate: float = 3e-4  # of the network (paper 1e-5)
    step_rate: float = 3e-3  # of η and λ
    step: float = 0.05  # the first η, as a share of the matrix's usual output
    ridge: float = 1.0  # the first e^λ, as a share of the usual ‖k‖²
    edit_weight: float = 1.0  # of the new answers' NLL
    locality_weight: float = 1.0  # of the KL term (paper 1)


class MalmenNetwork(MendNetwork):
    """MEND's, and the logarithm of a ridge for each matrix."""

    def __init__(
        self, sizes: Mapping[str, tuple[int, int]], rank: int, step: float, ridge: float
    ) -> None:
        super().__init__(sizes, rank, step)
        start = torch.tensor(ridge).log()
        self.ridges = nn.ParameterDict({flat(n): nn.Parameter(start.clone()) for n in sizes})
        for name in sizes:
            self.register_buffer(f"energy {flat(name)}", torch.zeros(()))

    def ridge(self, name: str) -> torch.Tensor:
        """Return e^λ of a matrix."""
        return self.ridges[flat(name)].exp() * self.get_buffer(f"energy {flat(name)}")

    @torch.no_grad()
    def measure(self, name: str, found: Factors, made: Factors, weight: torch.Tensor) -> None:
        energy = self.get_buffer(f"energy {flat(name)}")
        if not energy and self.training:
            energy.copy_(found.inputs[made.real].square().sum(-1).mean())
        super().measure(name, found, made, weight)


@dataclass
class MalmenState:
    """The trained network, and each request's keys and shifts by matrix: both are constant."""

    upper: Upper
    networks: MalmenNetwork
    known: dict[EditRequest, dict[str, Factors]] = field(default_factory=dict)


@dataclass(frozen=True)
class Malmen(MalmenSettings):
    """The method by the protocols of ``editors.editor`` and ``editors.meta_training``."""

    stacks: ClassVar[bool] = False
    training: ClassVar[TrainingOptions] = TrainingOptions(together=8, accumulate=1)

    @property
    def name(self) -> str:
        return NAME

    def lowest(self, model: ChatModel) -> int:
        return lowest(model, self.layers)

    def networks(self, upper: Upper) -> MalmenNetwork:
        sizes = shapes(upper.view, sites_of(upper))
        return MalmenNetwork(sizes, self.rank, self.step, self.ridge).to(upper.view.device)

    def optimiser(self, networks: nn.Module) -> torch.optim.Optimizer:
        assert isinstance(networks, MalmenNetwork)
        single = [*networks.steps.parameters(), *networks.ridges.parameters()]
        return torch.optim.Adam(
            [
                {"params": list(networks.factors.parameters()), "lr": self.learning_rate},
                {"params": single, "lr": self.step_rate},
            ]
        )

    def losses(self, upper: Upper, networks: nn.Module, groups: Groups) -> dict[str, torch.Tensor]:
        assert isinstance(networks, MalmenNetwork)
        edits, owners = flattened(groups, "edits")
        found = upper.factors(edits, sites_of(upper), answers_only=True)
        shifts = self._shifts(upper.view, networks, found, torch.ones(len(edits)))
        parts: dict[str, list[Factors]] = {name: [] for name in shifts}
        for group in range(len(groups)):
            rows = torch.tensor([i for i, owner in enumerate(owners) if owner == group])
            for name, one in shifts.items():
                keys, shift = (t[rows][one.real[rows]] for t in (one.inputs, one.deltas))
                parts[name].append(fused(keys, shift, networks.ridge(name)))
        made = {name: _stacked(some) for name, some in parts.items()}
        change = summed(made, range(len(groups)), len(groups))
        return outcome(upper, groups, change, self.edit_weight, self.locality_weight)

    def stepped(self, networks: nn.Module, losses: Mapping[str, float], held: bool) -> None:
        return None

    def prepare(self, model: ChatModel, resources: Resources) -> MalmenState:
        """Read the trained network. Raises EditorError where there is none."""
        upper = Upper(model, self.lowest(model))
        networks = load(self, upper, resources.cache, TAKES)
        assert isinstance(networks, MalmenNetwork)
        return MalmenState(upper, networks)

    @torch.no_grad()
    def edit(
        self, model: ChatModel, state: MalmenState, requests: Sequence[EditRequest]
    ) -> DenseDelta:
        """Return the change that one solve for all requests gives; ``model`` is unedited."""
        if not requests:
            return DenseDelta({})
        shown, sites = view(model), sites_of(state.upper)
        new = [request for request in requests if request not in state.known]
        for request in dict.fromkeys(new):
            samples, shares = samples_of(model, [request])
            found = state.upper.factors(samples, sites, answers_only=True)
            state.known[request] = self._shifts(shown, state.networks, found, shares)
        changes = {}
        for name in sites:
            parts = [state.known[request][name] for request in requests]
            keys = torch.cat([part.inputs[part.real] for part in parts])
            shifts = torch.cat([part.deltas[part.real] for part in parts])
            weight = float(state.networks.ridge(name))
            update = identity_ridge(shifts.double().T, keys.T, weight)
            changes[name] = shown.stored(name, update.dense().to(keys))
        return DenseDelta(changes)

    def settled(
        self, model: ChatModel, state: MalmenState, requests: Sequence[EditRequest]
    ) -> MalmenState:
        return state

    def _shifts(
        self,
        shown: ModelView,
        networks: MalmenNetwork,
        found: Mapping[str, Factors],
        shares: torch.Tensor,
    ) -> dict[str, Factors]:
        """Return by matrix the raw keys k_i with the shifts s_i."""
        made = {}
        for name, one in found.items():
            new = networks.factors(name, one)
            networks.measure(name, one, new, shown.matrix(name))
            along = (one.inputs * new.inputs).sum(-1, keepdim=True)
            step = networks.step(name) * shares.to(along)[:, None, None]
            made[name] = Factors(
                one.inputs * new.real[..., None], -step * along * new.deltas, new.real
            )
        return made


def fused(keys: torch.Tensor, shifts: torch.Tensor, ridge: torch.Tensor) -> Factors:
    """Return ΔW = S(KᵀK + λI)⁻¹Kᵀ as n outer products: readers and shifts. Gradients flow.

    Args:
        keys: (n, in), shifts: (n, out), as rows.
        ridge: λ.
    """
    wide = keys.double()
    gram = wide @ wide.mT + ridge.double() * torch.eye(len(wide), dtype=torch.float64).to(wide)
    readers = torch.linalg.solve(gram, wide).to(keys)
    return Factors(readers, shifts, torch.ones(len(keys), dtype=torch.bool, device=keys.device))


def _stacked(parts: Sequence[Factors]) -> Factors:
    """Put groups of unlike numbers of outer products side by side, padded with zeros."""
    inputs, deltas, real = (
        nn.utils.rnn.pad_sequence([getattr(part, kind) for part in parts], batch_first=True)
        for kind in ("inputs", "deltas", "real")
    )
    return Factors(inputs, deltas, real)
