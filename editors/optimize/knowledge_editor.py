"""KE, the KnowledgeEditor: a hyper-network turns one gradient into one masked update.

De Cao, Aziz and Titov 2021 (methods.md G6). The network is ``gradient_masks``. It is trained to
make the new answer likely, and its paraphrases with it, subject to a bound on how far other
answers move::

    min CE(θ + ΔW; x_e, y*)   s.t.   KL(p_θ ‖ p_θ+ΔW) ≤ m  on what must not change

by a Lagrangian: the multiplier rises by gradient ascent while the bound is exceeded, never below
0, and the margin m tightens once more than nine in ten held-out edits succeed. Where one update
does not make the model say the answer, the same one is made again, up to ``loops`` times in all,
and where that does not help either, as often as makes the answer likeliest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from editors.architectures import view
from editors.capture import Site
from editors.deltas import DenseDelta
from editors.editor import Resources
from editors.episodes import Change, Episode, Upper, kl, mean_nll, prefix, whole
from editors.meta_training import TOTAL, Groups, TrainingOptions, load
from editors.model import ChatModel
from editors.optimize.gradient_masks import GradientMasks, MaskedChange, Shape
from editors.optimize.masked_edits import (
    in_sequence,
    masked,
    often_enough,
    shapes,
    smoothed,
    trial,
    upper_layers,
    upper_matrices,
)
from editors.optimize.upper_edits import flattened
from editors.requests import EditRequest

NAME = "ke"
TAKES = "about ten minutes"
SUCCESS = 0.9
"""Share of held-out edits that must succeed before the margin tightens (paper)."""


@dataclass(frozen=True)
class KnowledgeEditorSettings:
    layers: int = 2  # the last ones, whose MLP matrices are edited (paper: all layers)
    loops: int = 10  # how often one update is made at most (paper: optional)
    smoothing: float = 0.1  # of the labels in the training loss alone (paper)
    margin: float = 0.03  # m, bound on the mean KL of a kept answer's tokens (paper 1e-3)
    margin_least: float = 0.005  # where m stops tightening (paper 1e-5)
    tighten: float = 0.8  # what m is multiplied by (paper)
    multiplier: float = 10.0  # where the multiplier begins (paper 1)
    multiplier_rate: float = 1.0  # of the multiplier's ascent (paper 0.1, for 200,000 steps)
    kept: float = 10.0  # weight of the KL where the held-out slice is watched
    learning_rate: float = 1e-3  # Adam (paper: centred RMSProp, 1,000 steps of warm-up)
    hidden: int = 128  # of the LSTM that reads the edit, each way (paper)
    condition: int = 1024  # width of what it has read (paper)
    inner: int = 128  # of a matrix's head (paper)
    max_scale: float = 1.0  # bound of a change's scale (paper)
    start: float = 0.4  # an untrained update is a step of half this norm in every matrix


class Constrained(nn.Module):
    """The hyper-network with its Lagrange multiplier and margin, which are not trained by
    descent and travel with it."""

    multiplier: torch.Tensor
    margin: torch.Tensor

    def __init__(self, masks: nn.Module, margin: float, multiplier: float = 1.0) -> None:
        super().__init__()
        self.masks = masks
        self.register_buffer("multiplier", torch.tensor(multiplier))
        self.register_buffer("margin", torch.tensor(margin))

    def lagrangian(self, loss: torch.Tensor, divergence: torch.Tensor) -> torch.Tensor:
        """Return the loss plus the multiplier times the excess over the margin."""
        return loss + self.multiplier * (divergence - self.margin)

    def ascend(self, divergence: float, rate: float) -> None:
        """Move the multiplier by its own gradient, the excess over the margin; never below 0."""
        excess = divergence - float(self.margin)
        self.multiplier.add_(rate * excess).clamp_(min=0)

    def tighten(self, success: float, by: float, least: float) -> None:
        """Tighten the margin if more than ``SUCCESS`` of the held-out edits succeed."""
        if success > SUCCESS:
            self.margin.mul_(by).clamp_(min=least)


@dataclass(frozen=True)
class KnowledgeEditor(KnowledgeEditorSettings):
    """The method by the protocols of ``editors.editor`` and ``editors.meta_training``."""

    stacks: ClassVar[bool] = True
    name: ClassVar[str] = NAME
    training: ClassVar[TrainingOptions] = TrainingOptions(
        episodes=1000, together=4, groups=1, accumulate=1, every=25
    )

    def lowest(self, model: ChatModel) -> int:
        return upper_layers(view(model), self.layers)[0]

    def networks(self, upper: Upper) -> Constrained:
        names = list(upper_matrices(upper.view, self.layers))
        shape = Shape(self.hidden, self.condition, self.inner, self.max_scale, self.start)
        made = GradientMasks(shapes(upper.view, names), upper.view.hidden, shape)
        return Constrained(made, self.margin, self.multiplier)

    def optimiser(self, networks: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(networks.parameters(), lr=self.learning_rate)

    def stepped(self, networks: nn.Module, losses: Mapping[str, float], held: bool) -> None:
        moved_on(self, networks, losses, held)

    def losses(self, upper: Upper, networks: nn.Module, groups: Groups) -> dict[str, torch.Tensor]:
        """Return the losses of edits, those of a group all in force at once (the paper: one a
        group): what updates have in common would add up in a sequence, and is seen here.

        A group that is shorter than the longest is left out.
        """
        assert isinstance(networks, Constrained)
        length = max(map(len, groups))
        groups = [group for group in groups if len(group) == length]
        sites = upper_matrices(upper.view, self.layers)
        after = trial(
            [
                self._update(upper, networks, sites, list(episodes))
                for episodes in zip(*groups, strict=True)
            ]
        )
        return constrained_losses(self, upper, networks, groups, after)

    def prepare(self, model: ChatModel, resources: Resources) -> nn.Module:
        """Return the trained networks.

        Raises EditorError where they were never trained; the message says how to.
        """
        return load(self, Upper(model, self.lowest(model)), resources.cache, TAKES)

    def edit(
        self, model: ChatModel, state: nn.Module, requests: Sequence[EditRequest]
    ) -> DenseDelta:
        """Return the sum of the updates of all requests, one after the other.

        Raises EditorError: a request that asks nothing.
        """
        sites = upper_matrices(view(model), self.layers)

        @torch.no_grad()
        def ask(upper: Upper, episode: Episode) -> list[Mapping[str, MaskedChange]]:
            assert isinstance(state, Constrained)
            update = self._update(upper, state, sites, [episode])
            return [update] * often_enough(
                upper, episode, self.loops, lambda times: trial([update] * times)
            )

        return in_sequence(model, sites, requests, ask)

    def settled(
        self, model: ChatModel, state: nn.Module, requests: Sequence[EditRequest]
    ) -> nn.Module:
        return state

    def _update(
        self,
        upper: Upper,
        networks: Constrained,
        sites: Mapping[str, Site],
        episodes: Sequence[Episode],
    ) -> Mapping[str, MaskedChange]:
        assert isinstance(networks.masks, GradientMasks)
        return masked(networks.masks, upper, sites, episodes)


def constrained_losses(
    settings: KnowledgeEditorSettings,
    upper: Upper,
    networks: Constrained,
    groups: Groups,
    after: Change | None,
) -> dict[str, torch.Tensor]:
    """Return the losses of groups of edits whose changes are in force, ``total`` among them: the
    Lagrangian while training.

    On the held-out slice the divergence has a fixed weight: a total that the multiplier moves
    could not be compared from one look to the next.
    """
    samples, owners = flattened(groups, "edits")
    said = upper.said(samples, owners, after)
    made = {"edit": mean_nll(said).mean(), "right": whole(said).float().mean()}
    learnt = [smoothed(said, settings.smoothing)]
    samples, owners = flattened(groups, "rephrased")
    if samples:
        said = upper.said(samples, owners, after)
        made["rephrased"] = mean_nll(said).mean()
        learnt.append(smoothed(said, settings.smoothing))
    loss = torch.cat(learnt).mean()
    divergence = torch.zeros((), device=loss.device)
    samples, owners = flattened(groups, "kept")
    if samples:
        said = upper.said(samples, owners, after)
        divergence = kl(upper.teacher(samples), said).mean()
        made |= {"kept": divergence, "same": prefix(said).mean()}
    made = {name: value.detach() for name, value in made.items()}
    if networks.training:
        return {**made, TOTAL: networks.lagrangian(loss, divergence)}
    return {**made, TOTAL: loss + settings.kept * divergence}


def moved_on(
    settings: KnowledgeEditorSettings,
    networks: nn.Module,
    losses: Mapping[str, float],
    held: bool,
) -> None:
    """Move the multiplier after a step of training, the margin after a look at the held-out
    slice."""
    assert isinstance(networks, Constrained)
    if held:
        networks.tighten(losses["right"], settings.tighten, settings.margin_least)
    elif "kept" in losses:
        networks.ascend(losses["kept"], settings.multiplier_rate)
