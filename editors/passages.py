"""Passages: texts run once up to a window of layers, and from there as often as asked.

Writing a window of layers reads keys and values anew after every layer (MEMIT), and the trunk of
the value optimisation starts in the same window. What lies below it does not change meanwhile:
a ``Passage`` keeps the hidden states that enter it. What all texts begin with is run once for
all of them, below the window and in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from editors.architectures import ModelView
from editors.capture import Site, captured, padded
from editors.forward import Past, embed, run
from editors.generation import shared_prefix


class Passage:
    """Some texts at the entry of layer ``first``.

    Args:
        sequences: token ids, at least one text.
        first: the lowest layer that is to change.
        lowest: the first position that will be read or changed in any text; what all texts
            begin with is shared only before it.

    Attributes:
        shared: how many tokens at the beginning all texts share.
        rows: of each text the hidden states behind these, (tokens, d).
    """

    @torch.no_grad()
    def __init__(
        self, shown: ModelView, sequences: Sequence[Sequence[int]], first: int, lowest: int
    ) -> None:
        self.shown, self.first = shown, first
        self.shared = min(shared_prefix(sequences), lowest)
        self._lengths = [len(s) - self.shared for s in sequences]
        self._beginning, past = self._begin(sequences[0][: self.shared])
        rows: dict[int, torch.Tensor] = {}
        for part in self._batches(range(len(sequences))):
            ids, real = padded([sequences[row][self.shared :] for row in part])
            ids, real = ids.to(shown.device), real.to(shown.device)
            at = self._positions(ids.shape[1]).expand(ids.shape)
            hidden = run(shown, embed(shown, ids, at), range(first), at, real, past)
            rows.update({row: hidden[i, : self._lengths[row]] for i, row in enumerate(part)})
        self.rows = [rows[row] for row in sorted(rows)]

    def beginning(self, layers: range) -> Past:
        """Run what all texts begin with through some layers from ``first`` on, with the weights
        as they are now; return its keys and values."""
        if self._beginning is None:
            return Past()
        at = self._positions(self.shared, 0)
        past = Past(record=True)
        run(self.shown, self._beginning, layers, at, torch.ones_like(at).bool(), past)
        return Past({layer: [pair] for layer, pair in past.made.items()}, at)

    @torch.no_grad()
    def read(
        self, sites: Sequence[tuple[Site, str]], positions: Sequence[Sequence[int]]
    ) -> list[torch.Tensor]:
        """Return what is at some positions with the weights as they are now.

        Args:
            sites: modules of layer ``first`` or above, each with "input" or "output".
            positions: of each text those that are read, from ``lowest`` on; maybe none.

        Returns:
            A site each, (places, width) float64: those of the first text, then the second's, …
        """
        window = range(self.first, max(site.layer for site, _ in sites) + 1)
        past = self.beginning(window)
        asked = {row: [at - self.shared for at in each] for row, each in enumerate(positions)}
        found: list[dict[int, torch.Tensor]] = [{} for _ in sites]
        for part in self._batches([row for row, each in asked.items() if each]):
            needed = [max(asked[row]) + 1 for row in part]
            hidden = _stacked([self.rows[row][:n] for row, n in zip(part, needed, strict=True)])
            at = self._positions(hidden.shape[1]).expand(hidden.shape[:2])
            real = at - self.shared < torch.tensor(needed, device=at.device)[:, None]
            with captured(self.shown, [site for site, _ in sites]) as seen:
                run(self.shown, hidden, window, at, real, past)
            for rows, (site, side) in zip(found, sites, strict=True):
                whole = seen.inputs(site) if side == "input" else seen.outputs(site)
                for index, row in enumerate(part):
                    rows[row] = whole[index, asked[row]].to(self.shown.device).double()
        return [torch.cat([rows[row] for row in sorted(rows)]) for rows in found]

    def _begin(self, prefix: Sequence[int]) -> tuple[torch.Tensor | None, Past]:
        """Run what all texts begin with up to the window."""
        if not len(prefix):
            return None, Past()
        ids = torch.tensor([list(prefix)], device=self.shown.device)
        at, past = self._positions(len(prefix), 0), Past(record=True)
        entering = embed(self.shown, ids, at)
        hidden = run(self.shown, entering, range(self.first), at, torch.ones_like(ids).bool(), past)
        return hidden, Past({layer: [pair] for layer, pair in past.made.items()}, at)

    def _positions(self, width: int, start: int | None = None) -> torch.Tensor:
        start = self.shared if start is None else start
        return torch.arange(start, start + width, device=self.shown.device)[None]

    def _batches(self, rows: Sequence[int]) -> list[list[int]]:
        """Texts of like length share a batch of the model's ``batch_size``."""
        order = sorted(rows, key=lambda row: (self._lengths[row], row))
        size = self.shown.chat.batch_size
        return [order[at : at + size] for at in range(0, len(order), size)]


def _stacked(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack (tokens, d) tensors, padded on the right: (B, T, d)."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
