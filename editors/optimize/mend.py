"""MEND: a small network turns the gradient of one fact into an edit of the last layers.

Mitchell et al. 2021 (methods.md G8). The edit's loss is differentiated once; for every token
of each edited matrix the network (``editors.optimize.factor_network``) makes new factors, and ::

    W ← W − α_W Σ_t δ̃_t ũ_tᵀ

The base model stays as it is: only the network and one step size a matrix are trained, on
episodes in which the edited model must give the new answer (also to other wordings) and must
answer everything else as before::

    L = c_e · NLL(new answer) + KL(unedited ‖ edited)

Ours: subtraction (the released code adds, and learns the sign); step sizes in units of each
matrix's usual output; episodes with several edits at once, so that edits learn to leave each
other alone; a rank that suits a small model.
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
from editors.optimize.factor_network import FactorNetwork, Whitening, flat
from editors.optimize.upper_edits import (
    iterated,
    shapes,
    sites_of,
    until_won,
)
from editors.trunk import Sample

NAME = "mend"
TAKES = "about a quarter of an hour on two processor cores for a model of 135 million parameters"


@dataclass(frozen=True)
class MendSettings:
    layers: int = 3  # the last so many (paper)
    rank: int = 96  # of the network's blocks (paper 1920, for models a hundred times as large)
    ridge: float | None = 0.3  # of the inputs' whitening; None: only each input's own σ (paper)
    answers_only: bool = True  # edit on the positions that predict the answer (paper: on all)
    learning_rate: float = 2e-4  # of the network (paper 1e-6, over a hundred times the episodes)
    step_rate: float = 3e-3  # of the step sizes (paper 1e-4)
    passes: int = 6  # gradients taken anew until the answer wins (paper 1, whatever it says)
    margin: float = 0.5  # by which each of its tokens must win, in nats
    reach: float = 0.015  # how far a token may move outputs in one pass, as such a share
    step: float = 0.02  # the first step sizes, as a share of the matrix's usual output
    edit_weight: float = 1.0  # c_e (paper 0.1)
    locality_weight: float = 10.0  # of the KL term (paper 1)


class MendNetwork(nn.Module):
    """The factor network, the whitening before and after it, a step size for each matrix.

    Measured in the first episodes: how large a matrix's output usually is, and (``unit``) which
    factor makes a step of 1 move one token's output by as much.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, int]], rank: int, step: float) -> None:
        super().__init__()
        self.factors = FactorNetwork(shapes, rank)
        self.white = Whitening(shapes)
        self.steps = nn.ParameterDict(
            {flat(name): nn.Parameter(torch.tensor(step)) for name in shapes}
        )
        for name in shapes:
            self.register_buffer(f"unit {flat(name)}", torch.zeros(()))
            self.register_buffer(f"usual {flat(name)}", torch.zeros(()))

    def unit(self, name: str) -> torch.Tensor:
        return self.get_buffer(f"unit {flat(name)}")

    def usual(self, name: str) -> torch.Tensor:
        return self.get_buffer(f"usual {flat(name)}")

    def step(self, name: str) -> torch.Tensor:
        """Return α of a matrix."""
        return self.steps[flat(name)] * self.unit(name)

    @torch.no_grad()
    def measure(self, name: str, found: Factors, made: Factors, weight: torch.Tensor) -> None:
        """Measure a matrix's unit, once; ``weight`` is (out, in)."""
        unit = self.unit(name)
        if unit or not self.training:
            return
        usual = (found.inputs @ weight.mT)[made.real].norm(dim=-1).mean()
        along = (made.inputs * self.white(name, found.inputs)).sum(-1, keepdim=True)
        moved = (along * made.deltas)[made.real].norm(dim=-1).mean()
        unit.copy_(usual / moved.clamp(min=1e-12))
        self.usual(name).copy_(usual)

    def bounded(self, name: str, inputs: torch.Tensor, made: Factors, reach: float) -> torch.Tensor:
        """Return made deltas times the step, (B, T, out), shortened where one of them alone
        could move the output of an input as long as its own by more than ``reach`` times the
        usual output.

        ``inputs`` are the whitened ones. All directions count, not only its own: training
        diverged where the network grew in the others.
        """
        deltas = self.step(name) * made.deltas
        moved = made.inputs.norm(dim=-1) * inputs.norm(dim=-1) * deltas.norm(dim=-1)
        most = reach * self.usual(name)
        return deltas * (most / moved.clamp(min=1e-12)).clamp(max=1.0)[..., None]


@dataclass(frozen=True)
class Mend(FactorEditing, MendSettings):
    """The method by the protocols of ``editors.editor`` and ``editors.meta_training``."""

    takes: ClassVar[str] = TAKES
    stacks: ClassVar[bool] = True
    training: ClassVar[TrainingOptions] = TrainingOptions(
        episodes=600, together=5, groups=1, accumulate=1, every=25
    )

    @property
    def name(self) -> str:
        return NAME

    def networks(self, upper: Upper) -> MendNetwork:
        sites = sites_of(upper)
        made = MendNetwork(shapes(upper.view, sites), self.rank, self.step)
        if self.ridge is not None:
            made.white.measure(upper.second_moments(sites), self.ridge)
        return made.to(upper.view.device)

    def optimiser(self, networks: nn.Module) -> torch.optim.Optimizer:
        assert isinstance(networks, MendNetwork)
        return torch.optim.Adam(
            [
                {"params": list(networks.factors.parameters()), "lr": self.learning_rate},
                {"params": list(networks.steps.parameters()), "lr": self.step_rate},
            ]
        )

    def made(
        self,
        upper: Upper,
        networks: MendNetwork,
        edits: Sequence[Sample],
        owners: Sequence[int],
        groups: int,
        shares: torch.Tensor,
    ) -> dict[str, Factors]:
        """Return by matrix the factors whose sum of outer products is the change."""
        return iterated(
            upper,
            edits,
            owners,
            groups,
            self.passes,
            lambda found: self._turned(upper.view, networks, found, shares),
            loss=until_won(self.margin),
            answers_only=self.answers_only,
        )

    def _turned(
        self,
        shown: ModelView,
        networks: MendNetwork,
        found: Mapping[str, Factors],
        shares: torch.Tensor,
    ) -> dict[str, Factors]:
        made = {}
        for name, one in found.items():
            white = Factors(networks.white(name, one.inputs), one.deltas, one.real)
            new = networks.factors(name, white)
            networks.measure(name, one, new, shown.matrix(name))
            deltas = networks.bounded(name, white.inputs, new, self.reach)
            deltas = -shares.to(deltas)[:, None, None] * deltas
            made[name] = Factors(networks.white(name, new.inputs), deltas, new.real)
        return made
