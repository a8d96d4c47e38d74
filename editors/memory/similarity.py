"""Which stored text is nearest to what is asked, and from which likeness on it counts.

Texts are compared by their embeddings: by default the chat model's own whitened states
(``editors.question_embeddings``), or whatever ``Embed`` is handed in. A threshold is measured on
the very texts that must not be found: neighbours, everyday questions, other facts' wordings.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from editors.architectures import view
from editors.model import ChatModel
from editors.question_embeddings import Asked, Embed, embedder, embeddings

SAME = 0.999
"""Cosine from which on two texts are one, up to rounding."""


class Cached:
    """An encoder that reads every text once: a run of edits embeds its facts again and again."""

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self._known: dict[Asked, torch.Tensor] = {}

    def __call__(self, asked: Sequence[Asked]) -> torch.Tensor:
        """Return the unit embeddings (n, width); what is new is kept."""
        new = [one for one in dict.fromkeys(asked) if one not in self._known]
        if new or not asked:
            made = self._embed(new)
            self._known |= dict(zip(new, made, strict=True))
            if not asked:
                return made
        return torch.stack([self._known[one] for one in asked])

    def once(self, asked: Sequence[Asked]) -> torch.Tensor:
        """Return the embeddings of passing questions, which are not kept."""
        known = [self._known.get(one) for one in asked]
        new = [one for one, found in zip(asked, known, strict=True) if found is None]
        if not new:
            return self(asked)
        made = iter(self._embed(new))
        return torch.stack([next(made) if found is None else found for found in known])


def own_states(model: ChatModel, depth: float) -> Embed:
    """Return the encoder that is the model itself, read at a share of its depth (methods.md §3.8).

    Its statistics are measured here, once.
    """
    shown = view(model)
    made = embedder(shown, min(int(depth * len(shown.layers)), len(shown.layers) - 1))
    return lambda asked: embeddings(shown, asked, made)


class Index:
    """Wordings by embedding, several an entry; a newer entry wins over an equally near one.

    Args:
        embed: makes the embeddings.
        wordings: of each entry, oldest entry first.
        beside: texts that must not find anything: a question nearer to one of them than to
            every wording finds nothing where ``match`` is asked.
    """

    def __init__(
        self,
        embed: Cached,
        wordings: Sequence[Sequence[Asked]],
        beside: Sequence[Asked] = (),
    ) -> None:
        self._embed, self.entries = embed, len(wordings)
        flat = [one for texts in wordings for one in texts]
        self._entry = torch.tensor(
            [at for at, texts in enumerate(wordings) for _ in texts], dtype=torch.long
        )
        self._memory = embed(flat) if flat else None
        own = set(flat)
        self.beside = [one for one in dict.fromkeys(beside) if one not in own]
        self._beside = embed(self.beside) if self.beside else None

    def likeness(self, asked: Sequence[Asked]) -> torch.Tensor:
        """Return each entry's cosine with each question, (n, entries): its nearest wording's."""
        if self._memory is None or not asked:
            return torch.zeros(len(asked), self.entries)
        return self._by_entry((self._embed.once(asked) @ self._memory.T).cpu())

    def nearest(self, asked: Sequence[Asked]) -> list[tuple[int, float]]:
        """Return each question's nearest entry and its cosine; an empty index has none."""
        return [best(row) for row in self.likeness(asked)] if self.entries else []

    def match(self, asked: Sequence[Asked], least: float) -> list[int | None]:
        """Return the entry that each question asks for: the nearest one, at least ``least``
        near, and nearer than everything beside. The very wording of an entry always is."""
        if not self.entries:
            return [None] * len(asked)
        around = [-2.0] * len(asked)
        if self._beside is not None and asked:
            around = (self._embed.once(asked) @ self._beside.T).amax(1).tolist()
        return [
            at if near >= SAME or near >= max(least, other) else None
            for (at, near), other in zip(self.nearest(asked), around, strict=True)
        ]

    def calibrated(self, strangers: Sequence[Asked], share: float) -> float:
        """Return the least likeness that lets in ``share`` of what must not be found: strangers,
        what is beside, and each entry's wordings as seen by the other entries."""
        seen = []
        if self._memory is not None and self.entries > 1:
            cosines = (self._memory @ self._memory.T).cpu()
            cosines[self._entry[:, None] == self._entry[None]] = -1.0
            near = cosines.amax(1)
            seen.append(near[near < SAME])  # the same wording again is a newer fact, no stranger
        known = [*self.beside, *strangers]
        if known and self._memory is not None:
            near = (self._embed(known) @ self._memory.T).cpu().amax(1)
            seen.append(near[near < SAME])
        found = torch.cat(seen) if seen else torch.zeros(0)
        if not len(found):
            return SAME
        return min(float(found.float().quantile(1 - share)), SAME)

    def _by_entry(self, cosines: torch.Tensor) -> torch.Tensor:
        at = self._entry.expand(len(cosines), -1)
        least = cosines.new_full((len(cosines), self.entries), -2.0)
        return least.scatter_reduce(1, at, cosines, "amax")


def best(likeness: torch.Tensor, slack: float = 1e-4) -> tuple[int, float]:
    """Return the newest of the nearest entries of (entries,), and how near it is. What differs
    by ``slack`` only was rounded otherwise."""
    most = float(likeness.max())
    at = int((likeness >= most - slack).nonzero()[-1])
    return at, float(likeness[at])
