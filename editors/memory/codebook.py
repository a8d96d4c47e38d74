"""A codebook of balls: a key, a radius and a label each (GRACE, MELO; methods.md X3, X4).

A query inside the ball of its nearest key gets that ball's label, any other none. Pure: every
function returns a new codebook. The published rule widens a ball to a near query of the same
label and halves two balls of different labels that meet, so that they never overlap. Labels are
compared whole (the reference compares the mean of token ids, where two answers can collide).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

_SHY = 1e-4  # share by which balls are narrower or wider than asked, for rounding
_ROUNDS = 4  # a key that is put back may push another one out
_SAME = 1e-3  # share of a new ball's radius within which two keys are one question's


@dataclass(frozen=True)
class Codebook:
    """Balls, oldest first.

    Attributes:
        keys: (balls, width).
        radii: (balls,), in the keys' distance.
        labels: of each ball; several may have the same.
    """

    keys: torch.Tensor
    radii: torch.Tensor
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def nearest(self, query: torch.Tensor) -> tuple[int, float] | None:
        """Return the ball whose key is nearest (of equally near ones the newest), and how far."""
        if not len(self):
            return None
        apart = torch.linalg.vector_norm(self.keys - query.to(self.keys), dim=-1)
        at = len(apart) - 1 - int(apart.flip(0).argmin())
        return at, float(apart[at])

    def find(self, query: torch.Tensor) -> int | None:
        """Return the ball of the nearest key where the query (width,) is inside it, or None."""
        found = self.nearest(query)
        return found[0] if found and found[1] <= float(self.radii[found[0]]) else None

    def without(self, label: str) -> Codebook:
        """Return the codebook without a label's balls."""
        return self.only([at for at, one in enumerate(self.labels) if one != label])

    def only(self, kept: Sequence[int]) -> Codebook:
        """Return the codebook of some balls, by their numbers."""
        rows = torch.tensor(list(kept), dtype=torch.long)
        return Codebook(self.keys[rows], self.radii[rows], tuple(self.labels[at] for at in kept))

    def tensors(self, prefix: str) -> dict[str, torch.Tensor]:
        """Return keys, radii and labels (as UTF-8, parted by a zero) by name."""
        text = "\0".join(self.labels).encode()
        return {
            f"{prefix}.keys": self.keys.contiguous(),
            f"{prefix}.radii": self.radii.contiguous(),
            f"{prefix}.labels": torch.tensor(list(text), dtype=torch.uint8),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, torch.Tensor], prefix: str) -> Codebook:
        """Rebuild from ``tensors()`` output."""
        keys, text = tensors[f"{prefix}.keys"], bytes(tensors[f"{prefix}.labels"].tolist())
        labels = tuple(text.decode().split("\0")) if len(keys) else ()
        return cls(keys, tensors[f"{prefix}.radii"], labels)


def empty(width: int) -> Codebook:
    """Return a codebook without balls."""
    return Codebook(torch.zeros(0, width), torch.zeros(0), ())


def added(book: Codebook, key: torch.Tensor, label: str, radius: float) -> Codebook:
    """Return the codebook that gives ``label`` for a key (width,).

    Far from every ball: a new one of ``radius``. Near one of the same label: that one is widened
    to the key, if no other label's ball is in the way. Near one of another label: a new one, and
    each of the two reaches at most half of the way (the published rule; here for every ball that
    the new one would meet, where the reference looks at the nearest only). A key that is another
    label's own, up to rounding: the newer label takes its place.
    """
    key = key.to(book.keys)
    found = book.nearest(key)
    if found is not None and book.labels[found[0]] == label:
        at, apart = found
        if apart <= radius + float(book.radii[at]):
            wide = _widened(book, at, apart)
            if wide is not None:
                return wide
    away = torch.linalg.vector_norm(book.keys - key, dim=-1)
    other = torch.tensor([one != label for one in book.labels], dtype=torch.bool)
    gone = other & (away <= _SAME * radius)
    met = other & ~gone & (away < radius + book.radii)
    half = away / 2 * (1 - _SHY)
    radii = torch.where(met, torch.minimum(book.radii, half), book.radii)
    new = min([radius, *half[met].tolist()])
    kept = Codebook(book.keys, radii, book.labels).only((~gone).nonzero()[:, 0].tolist())
    return Codebook(
        torch.cat([kept.keys, key[None]]),
        torch.cat([kept.radii, radii.new_tensor([new])]),
        (*kept.labels, label),
    )


def _widened(book: Codebook, at: int, apart: float) -> Codebook | None:
    """Return the codebook with a ball wide enough for a key ``apart`` from its own; None where
    it would meet a ball of another label."""
    other = torch.tensor([one != book.labels[at] for one in book.labels], dtype=torch.bool)
    between = torch.linalg.vector_norm(book.keys - book.keys[at], dim=-1)
    radii = book.radii.clone()
    radii[at] = max(float(radii[at]), apart * (1 + _SHY))
    if bool((other & (between < radii + radii[at])).any()):
        return None
    return Codebook(book.keys, radii, book.labels)


def restored(book: Codebook, keys: torch.Tensor, labels: Sequence[str], radius: float) -> Codebook:
    """Return the codebook with balls of their own for those keys (n, width) that are no longer
    found under their labels, since a widened ball was halved (the references forget them)."""
    for _ in range(_ROUNDS):
        found = _finds(book, keys)
        lost = [at for at, label in enumerate(labels) if found[at] != label]
        for at in lost:
            book = added(book, keys[at], labels[at], radius)
        if not lost:
            break
    return book


def _finds(book: Codebook, keys: torch.Tensor) -> list[str | None]:
    if not len(book):
        return [None] * len(keys)
    apart, at = torch.cdist(keys, book.keys).min(1)
    inside = apart <= book.radii[at]
    return [
        book.labels[number] if held else None
        for number, held in zip(at.tolist(), inside.tolist(), strict=True)
    ]


def overlaps(book: Codebook) -> Sequence[tuple[int, int]]:
    """Return the pairs of balls of different labels that meet: none, if all went well."""
    return [
        (a, b)
        for a in range(len(book))
        for b in range(a)
        if book.labels[a] != book.labels[b]
        and float(torch.linalg.vector_norm(book.keys[a] - book.keys[b]))
        < float(book.radii[a] + book.radii[b])
    ]
