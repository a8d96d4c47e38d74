"""SLAG: KE's network, applied again until the point is right, trained on sequences of edits.

Hase et al. 2021 (methods.md G7)::

    θ⁰ = θ;  θᵏ⁺¹ = θᵏ + g(∇L(x, y*; θᵏ), text);  stop as soon as the model says y*

What is new beside KE is the training: the loss is taken after up to ``steps`` updates, on
the edits of a group made one upon the other (``TrainingOptions.together``), and weighs the new
answer, its paraphrases and what must not change, measured against the model *before this edit*.
Gradients through earlier edits are stopped (``detach_previous``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from editors.architectures import view
from editors.deltas import DenseDelta
from editors.editor import Resources
from editors.episodes import Episode, Upper, kl, mean_nll, prefix, whole
from editors.meta_training import TOTAL, Groups, TrainingOptions, load
from editors.model import ChatModel
from editors.optimize.gradient_masks import TINY, GradientMasks, MaskedChange, Shape
from editors.optimize.masked_edits import (
    detached,
    edits_of,
    halted,
    in_sequence,
    masked,
    said_right,
    shapes,
    trial,
    upper_layers,
    upper_matrices,
)
from editors.requests import EditRequest

NAME = "slag"
TAKES = "about a quarter of an hour of processor time for a model of 135 million parameters"

Changes = Mapping[str, MaskedChange]


@dataclass(frozen=True)
class SlagSettings:
    layers: int = 2  # the last ones, whose MLP matrices are edited (paper: all layers)
    steps: int = 3  # K, updates of an edit at most (paper 5)
    new_weight: float = 1.0  # of the new answer's loss
    rephrased_weight: float = 1.0  # of its paraphrases' (zsRE in the paper: none)
    kept_weight: float = 20.0  # of the KL on what must not change (paper: as the others')
    detach_previous: bool = True  # stop gradients through the edits before (paper)
    learning_rate: float = 1e-3  # Adam (paper: AdamW without decay, 3e-4)
    hidden: int = 128  # of the LSTM that reads the edit, each way (paper)
    condition: int = 1024  # width of what it has read (paper)
    inner: int = 128  # of a matrix's head (paper)
    max_scale: float = 1.0  # bound of a change's scale (paper)
    start: float = 0.3  # an untrained update is a step of half this norm in every matrix


@dataclass(frozen=True)
class Slag(SlagSettings):
    """The method by the protocols of ``editors.editor`` and ``editors.meta_training``."""

    stacks: ClassVar[bool] = True
    name: ClassVar[str] = NAME
    training: ClassVar[TrainingOptions] = TrainingOptions(
        episodes=640, together=2, groups=2, accumulate=1, every=20
    )

    def lowest(self, model: ChatModel) -> int:
        return upper_layers(view(model), self.layers)[0]

    def networks(self, upper: Upper) -> GradientMasks:
        return networks(upper, self)

    def optimiser(self, networks: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(networks.parameters(), lr=self.learning_rate)

    def stepped(self, networks: nn.Module, losses: Mapping[str, float], held: bool) -> None:
        return None

    def losses(self, upper: Upper, networks: nn.Module, groups: Groups) -> dict[str, torch.Tensor]:
        """Return the losses of groups of edits, each group made in sequence on one model.

        A group that is shorter than the longest is left out.
        """
        length = max(map(len, groups))
        rounds = list(zip(*(group for group in groups if len(group) == length), strict=True))
        before: list[Changes] = []
        sums: dict[str, torch.Tensor] = {}
        for episodes in rounds:
            if self.detach_previous:
                before = [detached(one) for one in before]
            taken = self.updates(upper, networks, episodes, before)
            for name, value in self._outcome(upper, episodes, before, taken).items():
                sums[name] = sums.get(name, torch.zeros(())) + value / length
            before = [*before, *taken]
        # Where all edits were right before any update, the loss knows no parameter.
        sums[TOTAL] = sums[TOTAL] + 0 * next(networks.parameters()).sum()
        return sums

    def updates(
        self,
        upper: Upper,
        networks: nn.Module,
        episodes: Sequence[Episode],
        before: Sequence[Changes] = (),
    ) -> list[Changes]:
        """Return the updates that E edits take at once, each on its own model, which ``before``
        has brought where it is. An edit that is right takes no further one."""
        assert isinstance(networks, GradientMasks)
        sites = upper_matrices(upper.view, self.layers)
        taken: list[Changes] = []
        for _ in range(self.steps):
            right = said_right(upper, episodes, [*before, *taken])
            if bool(right.all()):
                break
            changes = masked(networks, upper, sites, episodes, [*before, *taken])
            taken.append(halted(changes, right))
        return taken

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

        @torch.no_grad()
        def ask(upper: Upper, episode: Episode) -> list[Changes]:
            return self.updates(upper, state, [episode])

        return in_sequence(model, upper_matrices(view(model), self.layers), requests, ask)

    def settled(
        self, model: ChatModel, state: nn.Module, requests: Sequence[EditRequest]
    ) -> nn.Module:
        return state

    def _outcome(
        self,
        upper: Upper,
        episodes: Sequence[Episode],
        before: Sequence[Changes],
        taken: Sequence[Changes],
    ) -> dict[str, torch.Tensor]:
        """Return the losses of one round of edits, and shares to watch them by."""
        after = trial([*before, *taken])
        samples, owners = edits_of(episodes)
        said = upper.said(samples, owners, after)
        made = {"edit": mean_nll(said).mean(), "right": whole(said).float().mean()}
        others = [(s, i) for i, e in enumerate(episodes) for s in e.rephrased]
        if others:
            said = upper.said([s for s, _ in others], [i for _, i in others], after)
            made["rephrased"] = mean_nll(said).mean()
        kept = [(s, i) for i, e in enumerate(episodes) for s in e.kept]
        if kept:
            samples, owners = [s for s, _ in kept], [i for _, i in kept]
            with torch.no_grad():
                teacher = upper.said(samples, owners, trial(before)).logits
            said = upper.said(samples, owners, after)
            made["kept"] = kl(teacher, said).mean()
            made["same"] = prefix(said).mean()
        weights = {
            "edit": self.new_weight,
            "rephrased": self.rephrased_weight,
            "kept": self.kept_weight,
        }
        present = [name for name in weights if name in made]
        total = torch.stack([weights[name] * made[name] for name in present]).sum()
        made = {name: value.detach() for name, value in made.items()}
        return {**made, TOTAL: total / max(sum(weights[name] for name in present), TINY)}


def networks(upper: Upper, settings: SlagSettings) -> GradientMasks:
    """Return the untrained networks for the matrices that are edited."""
    names = list(upper_matrices(upper.view, settings.layers))
    shape = Shape(
        settings.hidden, settings.condition, settings.inner, settings.max_scale, settings.start
    )
    return GradientMasks(shapes(upper.view, names), upper.view.hidden, shape)
