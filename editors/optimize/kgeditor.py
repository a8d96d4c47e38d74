"""KGEditor: KE's network writes into a bottleneck beside the MLP's output projection.

Cheng et al. 2023 (methods.md G9), made to edit a knowledge graph that a language model holds.
In the last layers a narrow path is added to what leaves the MLP, linear in its key::

    value = W_down k + B (A k)            A: inner → rank, B: rank → hidden

and only A and B are edited: ``A, B ← A + ΔA, B + ΔB`` with the masks of ``gradient_masks``,
trained by KE's Lagrangian. B begins at zero, so that the path begins as no change at all; the
gradient of A is zero then, and the first edit moves A by what its head adds. Being linear in the
key, the path is merged into the matrix exactly, ``W_down ← W_down + B A``: that is the delta.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import nn

from editors.architectures import view
from editors.capture import Site
from editors.deltas import DenseDelta, applied
from editors.editor import Resources
from editors.episodes import Change, Episode, Factors, Upper, edited_matrices
from editors.meta_training import Groups, TrainingOptions, load
from editors.model import ChatModel
from editors.optimize.gradient_masks import GradientMasks, MaskedChange, Shape
from editors.optimize.knowledge_editor import (
    TAKES,
    Constrained,
    KnowledgeEditorSettings,
    constrained_losses,
    moved_on,
)
from editors.optimize.masked_edits import (
    conditions,
    edits_of,
    exercise,
    grouped,
    often_enough,
    upper_layers,
)
from editors.requests import EditRequest

NAME = "kgeditor"


@dataclass(frozen=True)
class KgEditorSettings(KnowledgeEditorSettings):
    layers: int = 2  # the last ones, which get a path (paper: the last two of 12)
    rank: int = 64  # width of a path (paper)
    checkpoint: str = NAME  # what the trained networks' file is called


@dataclass(frozen=True)
class Bottleneck:
    """One layer's path.

    Attributes:
        down: A (rank, inner).
        up: B (hidden, rank).
    """

    down: torch.Tensor
    up: torch.Tensor

    def merged(self) -> torch.Tensor:
        """Return what the path adds to the output projection, (hidden, inner)."""
        return self.up @ self.down


@dataclass(frozen=True)
class BottleneckChange:
    """What E edits make of one layer's path: A + n·ΔA and B + n·ΔB, the update made n times."""

    path: Bottleneck
    down: MaskedChange
    up: MaskedChange
    times: int = 1

    def of(self, keys: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
        """Return what the changed path adds to the values more than the path does,
        (B, N, inner), (B,) → (B, N, hidden)."""
        a, b = self.path.down.to(keys), self.path.up.to(keys)
        narrow = keys @ a.T
        moved = narrow + self.times * self.down.of(keys, owner)
        return (moved - narrow) @ b.T + self.times * self.up.of(moved, owner)

    def after(self, edit: int = 0) -> Bottleneck:
        """Return one edit's path."""
        return Bottleneck(
            self.path.down + self.times * self.down.dense()[edit].to(self.path.down),
            self.path.up + self.times * self.up.dense()[edit].to(self.path.up),
        )


Paths = Mapping[str, Bottleneck]
"""The paths by the name of the output projection that each is beside."""


class KgNetworks(Constrained):
    """The hyper-network, its multiplier and margin, and the paths' first A, drawn at random and
    never trained."""

    def __init__(
        self,
        masks: GradientMasks,
        margin: float,
        multiplier: float,
        downs: Mapping[str, torch.Tensor],
    ) -> None:
        super().__init__(masks, margin, multiplier)
        self.names = tuple(downs)
        for index, down in enumerate(downs.values()):
            self.register_buffer(f"down_{index}", down)

    def paths(self, hidden: int) -> dict[str, Bottleneck]:
        """Return the paths before any edit."""
        found = {}
        for index, name in enumerate(self.names):
            down = self.get_buffer(f"down_{index}")
            found[name] = Bottleneck(down, down.new_zeros(hidden, len(down)))
        return found


@dataclass
class KgState:
    """The trained networks and the paths as they are in the model; ``pending`` are those after
    the last ``edit``'s batch, by its requests' ids, and are taken over when it is settled."""

    networks: nn.Module
    paths: Paths
    pending: dict[tuple[str, ...], Paths] = field(default_factory=dict)


@dataclass(frozen=True)
class KgEditor(KgEditorSettings):
    """The method by the protocols of ``editors.editor`` and ``editors.meta_training``."""

    stacks: ClassVar[bool] = True
    training: ClassVar[TrainingOptions] = TrainingOptions(
        episodes=1200, groups=4, accumulate=1, every=25
    )

    @property
    def name(self) -> str:
        return self.checkpoint

    def lowest(self, model: ChatModel) -> int:
        return upper_layers(view(model), self.layers)[0]

    def networks(self, upper: Upper) -> KgNetworks:
        shown = upper.view
        shapes: dict[str, tuple[int, int]] = {}
        downs: dict[str, torch.Tensor] = {}
        for name in self._sites(upper):
            hidden, inner = (int(size) for size in shown.matrix(name).shape)
            # E[AᵀA] = 1: the narrow keys are as far apart as the keys.
            downs[name] = torch.randn(self.rank, inner) * self.rank**-0.5
            shapes |= {f"{name} A": (self.rank, inner), f"{name} B": (hidden, self.rank)}
        shape = Shape(self.hidden, self.condition, self.inner, self.max_scale, self.start)
        masks = GradientMasks(shapes, shown.hidden, shape)
        return KgNetworks(masks, self.margin, self.multiplier, downs)

    def optimiser(self, networks: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(networks.parameters(), lr=self.learning_rate)

    def stepped(self, networks: nn.Module, losses: Mapping[str, float], held: bool) -> None:
        moved_on(self, networks, losses, held)

    def losses(self, upper: Upper, networks: nn.Module, groups: Groups) -> dict[str, torch.Tensor]:
        """Return the losses of edits, each made alone on paths that nothing was written into."""
        assert isinstance(networks, KgNetworks)
        episodes = [episode for group in groups for episode in group]
        paths = networks.paths(upper.view.hidden)
        after = adding(self._update(upper, networks, paths, episodes))
        return constrained_losses(self, upper, networks, [[e] for e in episodes], after)

    def prepare(self, model: ChatModel, resources: Resources) -> KgState:
        """Return the trained networks, and paths into which nothing was written.

        Raises EditorError where they were never trained; the message says how to.
        """
        upper = Upper(model, self.lowest(model))
        networks = load(self, upper, resources.cache, TAKES)
        assert isinstance(networks, KgNetworks)
        return KgState(networks, networks.paths(upper.view.hidden))

    @torch.no_grad()
    def edit(self, model: ChatModel, state: KgState, requests: Sequence[EditRequest]) -> DenseDelta:
        """Return what the paths become, merged: B'A' − BA for each output projection.

        Raises EditorError: a request that asks nothing.
        """
        shown, paths = view(model), state.paths
        upper = Upper(shown, self.lowest(model))
        delta = DenseDelta({})
        for request in requests:
            with applied(model, delta):
                changed = self._fitted(upper, state, paths, exercise(shown, request))
            paths = {name: one.after() for name, one in changed.items()}
            delta = DenseDelta(
                {
                    name: shown.stored(
                        name, (path.merged() - state.paths[name].merged()).to(shown.matrix(name))
                    )
                    for name, path in paths.items()
                }
            )
        state.pending[tuple(request.id for request in requests)] = paths
        return delta

    def settled(self, model: ChatModel, state: KgState, requests: Sequence[EditRequest]) -> KgState:
        paths = state.pending.get(tuple(r.id for r in requests), state.paths)
        return KgState(state.networks, paths)

    def _fitted(
        self, upper: Upper, state: KgState, paths: Paths, episode: Episode
    ) -> dict[str, BottleneckChange]:
        """Return one edit's update, made as often as it takes and at most ``loops`` times."""
        assert isinstance(state.networks, KgNetworks)
        made = self._update(upper, state.networks, paths, [episode])
        times = often_enough(upper, episode, self.loops, lambda n: adding(repeated(made, n)))
        return repeated(made, times)

    def _update(
        self, upper: Upper, networks: KgNetworks, paths: Paths, episodes: Sequence[Episode]
    ) -> dict[str, BottleneckChange]:
        samples, owners = edits_of(episodes)
        found = upper.factors(samples, self._sites(upper), owners)
        owner = torch.tensor(owners, device=upper.view.device)
        given: dict[str, Factors] = {}
        for name, factors in found.items():
            one = grouped(factors, owner, len(episodes))
            path = paths[name]
            a, b = path.down.to(one.inputs), path.up.to(one.deltas)
            given[f"{name} A"] = replace(one, deltas=one.deltas @ b)
            given[f"{name} B"] = replace(one, inputs=one.inputs @ a.T)
        assert isinstance(networks.masks, GradientMasks)
        changes = networks.masks(*conditions(upper.view, episodes), given)
        return {
            name: BottleneckChange(path, changes[f"{name} A"], changes[f"{name} B"])
            for name, path in paths.items()
        }

    def _sites(self, upper: Upper) -> dict[str, Site]:
        return edited_matrices(upper.view, upper_layers(upper.view, self.layers), ("down",))


def repeated(changes: Mapping[str, BottleneckChange], times: int) -> dict[str, BottleneckChange]:
    """Return the update made so many times."""
    return {name: replace(one, times=times) for name, one in changes.items()}


def adding(changes: Mapping[str, BottleneckChange]) -> Change:
    """Return changed paths as ``Upper`` takes them."""

    def change(name: str, keys: torch.Tensor, owners: torch.Tensor) -> torch.Tensor | None:
        return changes[name].of(keys, owners) if name in changes else None

    return change
