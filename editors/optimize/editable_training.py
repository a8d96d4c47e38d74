"""Editable Training (ENN): the model itself is retrained so that a few gradient steps edit it.

Sinitsin et al. 2020 (methods.md G5). Beside the weights θ of the last layers' MLPs, a step size
α for each matrix is trained. An edit is plain gradient descent on a loss that is zero once the
new answer wins::

    ℓ_e = mean over answer tokens of max(0, max_{y ≠ y*} log p(y) + margin − log p(y*))
    θ_e = θ;  up to k times:  θ_e ← θ_e − α ∇ℓ_e(θ_e)

and what is trained by is that the edit takes, in other wordings too, and nothing else moves::

    L = c_base · KL(p_original ‖ p_θ) + c_edit · NLL(p_θe; new answers) + c_loc · KL(p_θ ‖ p_θe)

Even before any edit θ is not the original: the first delta carries that difference, and the
part ``base`` of the losses says how large it is. By default gradients through the inner steps
are stopped (first order), which lets a batch hold many edits as sums of outer products.

Ours: step sizes in units of each matrix's usual output, as for MEND.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from editors.architectures import ModelView, view
from editors.deltas import DenseDelta, applied
from editors.editor import Resources
from editors.episodes import Change, Factors, Said, Upper, Weights, contrast, kl
from editors.meta_training import TOTAL, Groups, TrainingOptions, load
from editors.model import ChatModel
from editors.optimize.factor_network import flat
from editors.optimize.upper_edits import (
    as_delta,
    flattened,
    iterated,
    lowest,
    outcome,
    samples_of,
    sites_of,
    summed,
)
from editors.requests import EditRequest
from editors.trunk import Sample

NAME = "editable-training"
TAKES = "about a quarter of an hour on two processor cores for a model of 135 million parameters"


@dataclass(frozen=True)
class EditableSettings:
    layers: int = 3  # the last so many, whose MLPs are retrained and edited (paper: all)
    steps: int = 4  # gradient steps of an edit at most (paper 10)
    margin: float = 1.0  # by which the new answer must win, in nats (paper 0)
    learning_rate: float = 1e-5  # of the weights (paper)
    step_rate: float = 3e-3  # of the step sizes (paper 1e-3)
    step: float = 0.05  # the first step sizes, as a share of the matrix's usual output
    base_weight: float = 1.0  # c_base (paper's language models: 1 or 10)
    edit_weight: float = 1.0  # c_edit (paper 0.1)
    locality_weight: float = 1.0  # c_loc (paper 1)
    second_order: bool = False  # differentiate through the inner steps; one edit at a time


class EditableNetwork(nn.Module):
    """The retrained weights, as they are stored, and the step sizes with their units."""

    def __init__(self, shown: ModelView, names: Sequence[str], step: float) -> None:
        super().__init__()
        self.names = list(names)
        self.weights = nn.ParameterDict(
            {flat(n): nn.Parameter(shown.parameter(n).detach().clone()) for n in names}
        )
        self.rates = nn.ParameterDict({flat(n): nn.Parameter(torch.tensor(step)) for n in names})
        for name in names:
            self.register_buffer(f"unit {flat(name)}", torch.zeros(()))

    def trained(self) -> dict[str, torch.Tensor]:
        """Return the weights by parameter name."""
        return {name: self.weights[flat(name)] for name in self.names}

    def rate(self, name: str) -> torch.Tensor:
        """Return α of a matrix."""
        return self.rates[flat(name)] * self.unit(name)

    def unit(self, name: str) -> torch.Tensor:
        return self.get_buffer(f"unit {flat(name)}")

    @torch.no_grad()
    def measure(self, name: str, found: Factors, weight: torch.Tensor) -> None:
        """Measure a matrix's unit, once; ``weight`` is (out, in)."""
        unit = self.unit(name)
        if unit or not self.training:
            return
        told = found.real & (found.deltas != 0).any(-1)
        keys = found.inputs[told]
        usual = (keys @ weight.mT).norm(dim=-1).mean()
        moved = (keys.square().sum(-1) * found.deltas[told].norm(dim=-1)).mean()
        unit.copy_(usual / moved.clamp(min=1e-12))


@dataclass
class EditableState:
    """The trained network; ``installed`` once the model has the retrained weights."""

    upper: Upper
    networks: EditableNetwork
    installed: bool = False


@dataclass(frozen=True)
class EditableTraining(EditableSettings):
    """The method by the protocols of ``editors.editor`` and ``editors.meta_training``."""

    stacks: ClassVar[bool] = True
    training: ClassVar[TrainingOptions] = TrainingOptions(together=1, groups=4, accumulate=1)

    @property
    def name(self) -> str:
        return NAME

    def lowest(self, model: ChatModel) -> int:
        return lowest(model, self.layers)

    def networks(self, upper: Upper) -> EditableNetwork:
        made = EditableNetwork(upper.view, list(sites_of(upper)), self.step)
        return made.to(upper.view.device)

    def optimiser(self, networks: nn.Module) -> torch.optim.Optimizer:
        assert isinstance(networks, EditableNetwork)
        return torch.optim.Adam(
            [
                {"params": list(networks.weights.parameters()), "lr": self.learning_rate},
                {"params": list(networks.rates.parameters()), "lr": self.step_rate},
            ]
        )

    def losses(self, upper: Upper, networks: nn.Module, groups: Groups) -> dict[str, torch.Tensor]:
        assert isinstance(networks, EditableNetwork)
        # With the graph of the inner steps no two edits share a forward pass.
        parts = [[group] for group in groups] if self.second_order else [groups]
        found = [self._losses(upper, networks, part) for part in parts]
        names = [name for name in found[0] if all(name in one for one in found)]
        return {name: torch.stack([one[name] for one in found]).mean() for name in names}

    def stepped(self, networks: nn.Module, losses: Mapping[str, float], held: bool) -> None:
        return None

    def prepare(self, model: ChatModel, resources: Resources) -> EditableState:
        """Read the retrained weights. Raises EditorError where there are none."""
        upper = Upper(model, self.lowest(model))
        networks = load(self, upper, resources.cache, TAKES)
        assert isinstance(networks, EditableNetwork)
        return EditableState(upper, networks)

    def edit(
        self, model: ChatModel, state: EditableState, requests: Sequence[EditRequest]
    ) -> DenseDelta:
        """Return the steps that the requests take, one after the other as they were trained;
        before the first batch is settled, with the difference between the retrained weights and
        the model's."""
        if not requests:
            return DenseDelta({})
        shown, networks = view(model), state.networks
        total = {name: torch.zeros_like(shown.parameter(name)).detach() for name in networks.names}
        if not state.installed:
            total = {
                name: (weight - shown.parameter(name)).detach()
                for name, weight in networks.trained().items()
            }
        for request in requests:
            samples, shares = samples_of(model, [request])
            with applied(model, DenseDelta(total)):
                made = self._descended(
                    state.upper, networks, samples, [0] * len(samples), 1, None, shares
                )
            for name, change in as_delta(shown, made).changes.items():
                total[name] = total[name] + change.detach()
        return DenseDelta(total)

    def settled(
        self, model: ChatModel, state: EditableState, requests: Sequence[EditRequest]
    ) -> EditableState:
        return EditableState(state.upper, state.networks, state.installed or bool(requests))

    def _losses(
        self, upper: Upper, networks: EditableNetwork, groups: Groups
    ) -> dict[str, torch.Tensor]:
        weights = networks.trained()
        kept, _ = flattened(groups, "kept")
        plain = upper.said(kept, weights=weights) if kept else None
        teacher = plain.logits.detach() if plain is not None else None
        edits, owners = flattened(groups, "edits")
        change: Change | None = None
        edited = weights
        if self.second_order:
            edited = self._through(upper, networks, edits, weights)
        else:
            made = self._descended(upper, networks, edits, owners, len(groups), weights)
            change = summed(made, owners, len(groups))
        found = outcome(
            upper, groups, change, self.edit_weight, self.locality_weight, edited, teacher
        )
        if plain is not None:
            found["base"] = kl(upper.teacher(kept), plain).mean()
            found[TOTAL] = found[TOTAL] + self.base_weight * found["base"]
        return found

    def _descended(
        self,
        upper: Upper,
        networks: EditableNetwork,
        edits: Sequence[Sample],
        owners: Sequence[int],
        groups: int,
        weights: Weights | None,
        shares: torch.Tensor | None = None,
    ) -> dict[str, Factors]:
        """Return by matrix the outer products of all inner steps, one row an edit; gradients
        flow into the step sizes alone."""

        def turned(found: Mapping[str, Factors]) -> dict[str, Factors]:
            made = {}
            for name, one in found.items():
                networks.measure(name, one, upper.view.matrix(name))
                rate = networks.rate(name)
                if shares is not None:
                    rate = rate * shares.to(one.deltas)[:, None, None]
                made[name] = Factors(one.inputs, -rate * one.deltas, one.real)
            return made

        return iterated(
            upper, edits, owners, groups, self.steps, turned, weights=weights, loss=self._loss
        )

    def _through(
        self,
        upper: Upper,
        networks: EditableNetwork,
        edits: Sequence[Sample],
        weights: Mapping[str, torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Return the weights after the inner steps, differentiable with respect to those before
        and to the step sizes."""
        if not all(networks.unit(name) for name in weights):  # a pass of factors measures them
            self._descended(upper, networks, edits, [0] * len(edits), 1, weights)
        now = dict(weights)
        # The fused kernels of attention cannot be differentiated twice.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            for _ in range(self.steps):
                loss = self._loss(upper.said(edits, weights=now)).sum()
                gradients = torch.autograd.grad(loss, list(now.values()), create_graph=True)
                now = {
                    name: weight - networks.rate(name) * gradient
                    for (name, weight), gradient in zip(now.items(), gradients, strict=True)
                }
        return now

    def _loss(self, said: Said) -> torch.Tensor:
        return contrast(said, self.margin)
