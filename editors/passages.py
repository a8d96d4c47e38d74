"""Passages: texts run once up to a window of layers, and from there as often as asked.

Writing a window of layers reads keys and values anew after every layer (MEMIT), and the trunk of
the value optimisation starts in the same window. What lies below it does not change meanwhile:
a ``Passage`` keeps the hidden states that enter it. Texts that begin alike (all questions in the
chat template) are a group, and what a group begins with is run once for all of it, below the
window and in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from editors.architectures import ModelView
from editors.capture import Site, captured, padded
from editors.forward import Past, embed, run
from editors.generation import shared_prefix


@dataclass(frozen=True)
class Group:
    """Texts that begin alike.

    Attributes:
        members: their numbers.
        shared: how many tokens at the beginning they share.
        entering: (1, shared, d), the hidden states of these at the window; none if there are none.
    """

    members: tuple[int, ...]
    shared: int
    entering: torch.Tensor


class Passage:
    """Some texts at the entry of layer ``first``.

    Args:
        sequences: token ids, at least one text.
        first: the lowest layer that is to change.
        lowest: of each text the first position that will be read or changed: only what lies
            before it is shared.

    Attributes:
        groups: the texts by what they begin with.
        rows: of each text the hidden states behind what its group shares, (tokens, d).
    """

    @torch.no_grad()
    def __init__(
        self,
        shown: ModelView,
        sequences: Sequence[Sequence[int]],
        first: int,
        lowest: Sequence[int],
    ) -> None:
        self.shown, self.first = shown, first
        self._lengths = [len(s) for s in sequences]
        rows: dict[int, torch.Tensor] = {}
        groups = []
        for members in _alike(sequences):
            shared = min(
                shared_prefix([sequences[i] for i in members]), *(lowest[i] for i in members)
            )
            entering, past = self._begin(sequences[members[0]][:shared])
            groups.append(Group(tuple(members), shared, entering))
            for part in self.batches(members):
                ids, real = padded([sequences[row][shared:] for row in part])
                ids, real = ids.to(shown.device), real.to(shown.device)
                at = self._positions(shared, ids.shape[1]).expand(ids.shape)
                hidden = run(shown, embed(shown, ids, at), range(first), at, real, past)
                rows.update(
                    {row: hidden[i, : len(sequences[row]) - shared] for i, row in enumerate(part)}
                )
        self.groups = tuple(groups)
        self.rows = [rows[row] for row in sorted(rows)]

    def beginning(self, group: Group, layers: range) -> Past:
        """Run what a group begins with through some layers from ``first`` on, with the weights
        as they are now; return its keys and values."""
        if not group.shared:
            return Past()
        at, past = self._positions(0, group.shared), Past(record=True)
        run(self.shown, group.entering, layers, at, torch.ones_like(at).bool(), past)
        return Past({layer: [pair] for layer, pair in past.made.items()}, at)

    @torch.no_grad()
    def read(
        self, sites: Sequence[tuple[Site, str]], positions: Sequence[Sequence[int]]
    ) -> list[torch.Tensor]:
        """Return what is at some positions with the weights as they are now.

        Args:
            sites: modules of layer ``first`` or above, each with "input" or "output".
            positions: of each text those that are read, from its ``lowest`` on; maybe none.

        Returns:
            A site each, (places, width) float64: those of the first text, then the second's, …
        """
        window = range(self.first, max(site.layer for site, _ in sites) + 1)
        found: list[dict[int, torch.Tensor]] = [{} for _ in sites]
        for group in self.groups:
            past = self.beginning(group, window)
            asked = {i: [at - group.shared for at in positions[i]] for i in group.members}
            for part in self.batches([i for i in group.members if asked[i]]):
                needed = [max(asked[i]) + 1 for i in part]
                hidden = stacked([self.rows[i][:n] for i, n in zip(part, needed, strict=True)])
                at = self._positions(group.shared, hidden.shape[1]).expand(hidden.shape[:2])
                real = at - group.shared < torch.tensor(needed, device=at.device)[:, None]
                with captured(self.shown, [site for site, _ in sites]) as seen:
                    run(self.shown, hidden, window, at, real, past)
                for rows, (site, side) in zip(found, sites, strict=True):
                    whole = seen.inputs(site) if side == "input" else seen.outputs(site)
                    for row, i in enumerate(part):
                        rows[i] = whole[row, asked[i]].to(self.shown.device).double()
        return [torch.cat([rows[i] for i in sorted(rows)]) for rows in found]

    def batches(self, members: Sequence[int], size: int | None = None) -> Iterator[list[int]]:
        """Split texts into batches of like length, of the model's ``batch_size`` by default."""
        order = sorted(members, key=lambda i: (self._lengths[i], i))
        size = size or self.shown.chat.batch_size
        return (order[at : at + size] for at in range(0, len(order), size))

    def _begin(self, prefix: Sequence[int]) -> tuple[torch.Tensor, Past]:
        """Run what texts begin with up to the window."""
        if not len(prefix):
            return self.shown.output_weight.new_zeros(1, 0, self.shown.hidden), Past()
        ids = torch.tensor([list(prefix)], device=self.shown.device)
        at, past = self._positions(0, len(prefix)), Past(record=True)
        real = torch.ones_like(ids).bool()
        hidden = run(self.shown, embed(self.shown, ids, at), range(self.first), at, real, past)
        return hidden, Past({layer: [pair] for layer, pair in past.made.items()}, at)

    def _positions(self, start: int, width: int) -> torch.Tensor:
        return torch.arange(start, start + width, device=self.shown.device)[None]


def stacked(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack (tokens, d) tensors, padded on the right: (B, T, d)."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


def _alike(sequences: Sequence[Sequence[int]]) -> list[list[int]]:
    """Group texts by their first token: chat's is one that no plain text begins with."""
    groups: dict[int, list[int]] = {}
    for i, sequence in enumerate(sequences):
        groups.setdefault(sequence[0], []).append(i)
    return list(groups.values())
