"""MALMEN: MEND's network gives each token a shift; one ridge solve fuses the shifts of all edits.

Tan et al. 2023 (methods.md G10). For each token i that predicts an answer, with k_i what goes
into the matrix and (k̂_i, ĝ_i) what the network makes of the gradient's factors::

    s_i = −η (k_iᵀ k̂_i) ĝ_i                          by how much its output is to change
    ΔW  = S Kᵀ (K Kᵀ + e^λ I)⁻¹                      all edits at once; k_i, s_i as columns

η and λ are learned, one a matrix. Where MEND adds edits up, here those with like keys come to
terms. Each call solves for all requests so far from the unedited weights, so that nothing
depends on the order of the edits; the meta-gradient goes through the solve.

Ours, as for MEND: everything in whitened coordinates of k (the ridge then weighs by what
ordinary texts bring in), several passes until the answers win, shifts of bounded length; η and
e^λ in units of the matrix's usual output and of its usual ‖k‖².
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from editors.architectures import ModelView
from editors.episodes import Factors, Upper
from editors.meta_training import TrainingOptions
from editors.optimize.factor_editing import FactorEditing
from editors.optimize.factor_network import flat
from editors.optimize.mend import MendNetwork
from editors.optimize.upper_edits import (
    iterated,
    shapes,
    sites_of,
    until_won,
)
from editors.trunk import Sample

NAME = "malmen"
TAKES = "about a quarter of an hour on two processor cores for a model of 135 million parameters"


@dataclass(frozen=True)
class MalmenSettings:
    layers: int = 3  # the last so many
    rank: int = 96  # of the network's blocks (paper 1920)
    white: float | None = 0.3  # ridge of the keys' whitening; None: raw keys (paper)
    learning_rate: float = 1e-3  # of the network (paper 1e-5, over many more episodes)
    step_rate: float = 3e-3  # of η and λ
    passes: int = 6  # solves, each upon the change so far, until the answers win (paper 1)
    margin: float = 0.5  # by which each of their tokens must win, in nats
    reach: float = 0.03  # how long one shift may be in one pass, as a share of the usual output
    step: float = 0.03  # the first η, likewise
    ridge: float = 0.3  # the first e^λ, as a share of the usual ‖k‖²
    edit_weight: float = 1.0  # of the new answers' NLL
    locality_weight: float = 10.0  # of the KL term (paper 1)


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
            keys = self.white(name, found.inputs[made.real])
            energy.copy_(keys.square().sum(-1).mean())
        super().measure(name, found, made, weight)


@dataclass(frozen=True)
class Malmen(FactorEditing, MalmenSettings):
    """The method by the protocols of ``editors.editor`` and ``editors.meta_training``."""

    takes: ClassVar[str] = TAKES
    stacks: ClassVar[bool] = False
    training: ClassVar[TrainingOptions] = TrainingOptions(
        episodes=600, together=5, accumulate=1, every=25
    )

    @property
    def name(self) -> str:
        return NAME

    def networks(self, upper: Upper) -> MalmenNetwork:
        sites = sites_of(upper)
        made = MalmenNetwork(shapes(upper.view, sites), self.rank, self.step, self.ridge)
        if self.white is not None:
            made.white.measure(upper.second_moments(sites), self.white)
        return made.to(upper.view.device)

    def optimiser(self, networks: nn.Module) -> torch.optim.Optimizer:
        assert isinstance(networks, MalmenNetwork)
        single = [*networks.steps.parameters(), *networks.ridges.parameters()]
        return torch.optim.Adam(
            [
                {"params": list(networks.factors.parameters()), "lr": self.learning_rate},
                {"params": single, "lr": self.step_rate},
            ]
        )

    def made(
        self,
        upper: Upper,
        networks: MalmenNetwork,
        edits: Sequence[Sample],
        owners: Sequence[int],
        groups: int,
        shares: torch.Tensor,
    ) -> dict[str, Factors]:
        """Return by matrix the outer products of all passes, one row an edit."""
        members = [
            torch.tensor([i for i, owner in enumerate(owners) if owner == group])
            for group in range(groups)
        ]
        return iterated(
            upper,
            edits,
            owners,
            groups,
            self.passes,
            lambda found: self._turned(upper.view, networks, found, members, shares),
            loss=until_won(self.margin),
            answers_only=True,
        )

    def _turned(
        self,
        shown: ModelView,
        networks: MalmenNetwork,
        found: Mapping[str, Factors],
        members: Sequence[torch.Tensor],
        shares: torch.Tensor,
    ) -> dict[str, Factors]:
        """Return one pass: the shifts, and what reads them after each group's solve.

        The keys of edits that have won already take part in the solve, with no shift: they are
        to stay where they are.
        """
        made = {}
        for name, one in found.items():
            keys = networks.white(name, one.inputs)
            new = networks.factors(name, Factors(keys, one.deltas, one.real))
            networks.measure(name, one, new, shown.matrix(name))
            along = (keys * new.inputs).sum(-1, keepdim=True)
            shifts = -networks.step(name) * shares.to(along)[:, None, None] * along * new.deltas
            most = self.reach * networks.usual(name)
            shifts = shifts * (most / shifts.norm(dim=-1).clamp(min=1e-12)).clamp(max=1)[..., None]
            readers = torch.zeros_like(keys)
            for rows in members:
                inside = torch.zeros_like(one.real)
                inside[rows] = one.real[rows]
                readers = readers.index_put(
                    (inside,), solved(keys[inside], networks.ridge(name)).to(keys)
                )
            made[name] = Factors(networks.white(name, readers), shifts, one.real)
        return made


def solved(keys: torch.Tensor, ridge: torch.Tensor) -> torch.Tensor:
    """Return the readers K(KᵀK + λI)⁻¹, (n, in) float64: ΔW = S · readers. Gradients flow.

    Args:
        keys: (n, in), as rows.
        ridge: λ.
    """
    wide = keys.double()
    gram = wide @ wide.mT + ridge.double() * torch.eye(len(wide), dtype=wide.dtype).to(wide)
    return torch.linalg.solve(gram, wide)
