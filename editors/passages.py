"""Passages: texts run once up to the layers that are written, and through those as often as asked.

Writing a window of layers reads keys and values anew after every layer (MEMIT). What lies below
the window does not change meanwhile: a ``Passage`` keeps the hidden states that enter it. What
all texts begin with is run once for all of them, below the window and in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from editors.architectures import ModelView
from editors.capture import Site, captured, padded
from editors.forward import Past, embed, run
from editors.generation import shared_prefix


@dataclass(frozen=True)
class _Batch:
    """Some texts behind the shared beginning: their numbers, hidden states (B, T, d),
    position ids and what is real, both (B, T)."""

    rows: tuple[int, ...]
    hidden: torch.Tensor
    positions: torch.Tensor
    real: torch.Tensor


class Passage:
    """Some texts at the entry of layer ``first``, with positions to be read in them.

    Args:
        sequences: token ids, at least one text.
        positions: of each text, at least one.
        first: the lowest layer that is to change.
    """

    @torch.no_grad()
    def __init__(
        self,
        shown: ModelView,
        sequences: Sequence[Sequence[int]],
        positions: Sequence[Sequence[int]],
        first: int,
    ) -> None:
        self.shown, self.first = shown, first
        lowest = min(map(min, positions))
        cut = [list(s[: max(at) + 1]) for s, at in zip(sequences, positions, strict=True)]
        shared = min(shared_prefix(cut), lowest)
        self.places = [[at - shared for at in each] for each in positions]
        self.before, past = self._beginning(cut[0][:shared])
        self.batches = []
        order = sorted(range(len(cut)), key=lambda i: (len(cut[i]), i))
        size = shown.chat.batch_size
        for rows in (order[at : at + size] for at in range(0, len(order), size)):
            ids, real = padded([cut[row][shared:] for row in rows])
            ids, real = ids.to(shown.device), real.to(shown.device)
            where = torch.arange(shared, shared + ids.shape[1], device=shown.device)
            at = where.expand(ids.shape)
            hidden = run(shown, embed(shown, ids, at), range(first), at, real, past)
            self.batches.append(_Batch(tuple(rows), hidden, at, real))

    @torch.no_grad()
    def read(self, sites: Sequence[tuple[Site, str]]) -> list[torch.Tensor]:
        """Return what is at the positions with the weights as they are now.

        Args:
            sites: modules of layer ``first`` or above, each with "input" or "output".

        Returns:
            A site each, (places, width) float64: those of the first text, then the second's, …
        """
        window = range(self.first, max(site.layer for site, _ in sites) + 1)
        past = self._again(window)
        found: list[dict[int, torch.Tensor]] = [{} for _ in sites]
        for batch in self.batches:
            with captured(self.shown, [site for site, _ in sites]) as seen:
                run(self.shown, batch.hidden, window, batch.positions, batch.real, past)
            for rows, (site, side) in zip(found, sites, strict=True):
                whole = seen.inputs(site) if side == "input" else seen.outputs(site)
                for index, row in enumerate(batch.rows):
                    rows[row] = whole[index, self.places[row]].to(self.shown.device).double()
        return [torch.cat([rows[row] for row in sorted(rows)]) for rows in found]

    def _beginning(self, prefix: Sequence[int]) -> tuple[_Batch | None, Past]:
        """Run what all texts begin with up to the window."""
        if not len(prefix):
            return None, Past()
        ids = torch.tensor([list(prefix)], device=self.shown.device)
        where = torch.arange(len(prefix), device=self.shown.device)[None]
        batch = _Batch((), embed(self.shown, ids, where), where, torch.ones_like(ids).bool())
        hidden, past = self._recorded(batch, range(self.first))
        return _Batch((), hidden, where, batch.real), past

    def _again(self, window: range) -> Past:
        """Run the beginning through the window with the weights as they are now."""
        return Past() if self.before is None else self._recorded(self.before, window)[1]

    def _recorded(self, batch: _Batch, layers: range) -> tuple[torch.Tensor, Past]:
        past = Past(record=True)
        hidden = run(self.shown, batch.hidden, layers, batch.positions, batch.real, past)
        kept = {layer: [pair] for layer, pair in past.made.items()}
        return hidden, Past(kept, batch.positions)
