"""Bad candidates made from a good one, each kind with a seed: what the gate must refuse."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from samples import NOW

from agent.consolidation import Consolidated
from agent.progress import Silent
from agent.workspace import Workspace
from agent.writers import chosen, load_statistics
from editors.deltas import EditDelta, JointDelta, MlpExpansion
from editors.key_statistics import KeyStatistics
from editors.memory import compiled
from store.records import Edit


@dataclass(frozen=True)
class Good:
    """A candidate that passes, and what it was made from."""

    ws: Workspace
    edits: tuple[Edit, ...]
    delta: MlpExpansion | JointDelta
    statistics: KeyStatistics

    @property
    def written(self) -> MlpExpansion:
        """The neurons that write the answers: the last part of a delta of several."""
        last = self.delta.parts[-1] if isinstance(self.delta, JointDelta) else self.delta
        assert isinstance(last, MlpExpansion)
        return last

    @property
    def others(self) -> tuple[EditDelta, ...]:
        """The parts before it."""
        return self.delta.parts[:-1] if isinstance(self.delta, JointDelta) else ()

    def writing(self, neurons: MlpExpansion) -> Bad:
        """The same, but for the neurons that write."""
        return Bad(JointDelta((*self.others, neurons)).tensors())


@dataclass(frozen=True)
class Bad:
    """A bad candidate: its tensors, and what its version claims (None: what is true)."""

    tensors: Mapping[str, torch.Tensor]
    edit_ids: tuple[str, ...] | None = None
    base_hash: str | None = None


Make = Callable[[Good, random.Random], Bad]


def columns_of(change: Callable[[torch.Tensor, random.Random], torch.Tensor]) -> Make:
    """Other output columns (hidden, neurons) behind the same gates."""

    def make(good: Good, rng: random.Random) -> Bad:
        columns = change(good.written.down_columns.clone(), rng).contiguous()
        return good.writing(dataclasses.replace(good.written, down_columns=columns))

    return make


def noise(like: torch.Tensor, rng: random.Random) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    return torch.randn(like.shape, generator=generator)


def half_of(count: int, rng: random.Random) -> Sequence[int]:
    """The first half of so many, or the second."""
    return range(count // 2) if rng.random() < 0.5 else range(count // 2, count)


def derangement(count: int, rng: random.Random) -> torch.Tensor:
    """An order in which (almost) nothing stays where it was."""
    order = list(range(count))
    rng.shuffle(order)
    turned = dict(zip(order, order[1:] + order[:1], strict=True))
    return torch.tensor([turned[i] for i in range(count)])


def good_candidate(ws: Workspace, edits: Sequence[Edit], delta: MlpExpansion | JointDelta) -> Good:
    """Take a delta that was computed for these edits."""
    statistics = load_statistics(ws, compiled.CompiledSettings(), Silent())
    return Good(ws, tuple(edits), delta, statistics)


def stored(good: Good, bad: Bad) -> Consolidated:
    """Save a bad candidate as the night saves one."""
    version = good.ws.store.versions.save(
        base_hash=bad.base_hash or good.ws.base_hash,
        editor=chosen(good.ws.config.consolidation.editor, good.ws.model),
        edit_ids=[e.id for e in good.edits] if bad.edit_ids is None else bad.edit_ids,
        tensors=bad.tensors,
        settings={},
        created=NOW,
    )
    return Consolidated(version, good.delta, good.edits)
