"""Do two wordings ask for the same thing? A small head on frozen sentence embeddings.

After SERAC's trained scope classifier (Mitchell et al. 2022, methods.md M1): pairs of wordings
with the subject masked, alike when one is a paraphrase of the other, not when they ask for
another relation of the same subject. The head is symmetric: each embedding is projected and
brought to unit length, and what decides is their cosine plus a small network of their product
and distance.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from editors.requests import EditorError

Embed = Callable[[Sequence[str]], torch.Tensor]
"""Texts → (n, width) float32 unit vectors."""
HEAD = Path(__file__).with_name("relation_match.safetensors")
"""The head that is shipped, trained on all-MiniLM-L6-v2."""
_DRAWN = 20_000  # pairs of different records
_NEAR = 0.6  # cosine from which on wordings of different records may well mean the same


class RelationMatch(nn.Module):
    """The head. ``width`` is that of the embeddings, ``inner`` that of the projection."""

    def __init__(self, width: int = 384, inner: int = 128) -> None:
        super().__init__()
        self.project = nn.Linear(width, inner, bias=False)
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.mix = nn.Sequential(nn.Linear(2 * inner, 64), nn.GELU(), nn.Linear(64, 1))
        nn.init.orthogonal_(self.project.weight)

    def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Return the log-odds (n,) that pairs of embeddings (n, width) ask for the same."""
        u, v = (nn.functional.normalize(self.project(x.float()), dim=-1) for x in (one, other))
        spread = u.shape[-1] ** 0.5  # brings entries of unit vectors to size one
        parts = torch.cat([u * v * spread, (u - v).abs() * spread], -1)
        return self.scale * (u * v).sum(-1) + self.mix(parts)[..., 0]

    @torch.no_grad()
    def alike(self, asked: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """Return the probabilities (n,) that ``asked`` (width,) asks what each of ``known``
        (n, width) does."""
        return torch.sigmoid(self(asked.expand_as(known), known))


def load(path: Path) -> RelationMatch:
    """Read a trained head.

    Raises EditorError: it is missing or no head.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
        width, inner = tensors["project.weight"].shape[::-1]
        head = RelationMatch(int(width), int(inner))
        head.load_state_dict({name: value.float() for name, value in tensors.items()})
    except (OSError, SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise EditorError(
            f"{path} is no trained scope ({str(error).splitlines()[0]}); "
            "make one with: corrigenda editors train memory --data FILE"
        ) from error
    return head.eval()


def save(head: RelationMatch, path: Path) -> None:
    """Write a head in half precision."""
    from safetensors.torch import save_file

    save_file({n: v.detach().half().contiguous() for n, v in head.state_dict().items()}, path)


@dataclass(frozen=True)
class Wordings:
    """What a head is trained on: masked wordings, as positions in one list of texts.

    Attributes:
        texts: all wordings.
        same: pairs that ask for the same.
        other: pairs that do not, though the subject may be the same.
        kinds: wordings by relation; any two of a kind ask for the same, of two kinds do not.
        loose: pairs of the same record's (edit, paraphrase) whose relation has no name: beside
            one another they are taken to differ unless they are near.
        idle: wordings that ask for nothing in particular ("Tell me about this.").
    """

    texts: tuple[str, ...]
    same: tuple[tuple[int, int], ...]
    other: tuple[tuple[int, int], ...]
    kinds: tuple[tuple[int, ...], ...]
    loose: tuple[tuple[int, int], ...]
    idle: tuple[int, ...]


def train(
    wordings: Wordings,
    vectors: torch.Tensor,
    *,
    steps: int = 3000,
    batch: int = 256,
    learning_rate: float = 1e-3,
    seed: int = 0,
    progress: Callable[[int], None] = lambda n: None,
) -> RelationMatch:
    """Train a head on pairs drawn in equal parts from what there is.

    Args:
        vectors: (texts, width) embeddings of ``wordings.texts``.
        progress: told the number of steps done since it was last told.
    """
    torch.manual_seed(seed)
    draw = random.Random(seed)
    head = RelationMatch(vectors.shape[1])
    optimiser = torch.optim.AdamW(head.parameters(), lr=learning_rate, weight_decay=1e-2)
    sources = _sources(wordings, vectors, draw)
    if not any(alike for alike, _ in sources) or all(alike for alike, _ in sources):
        raise EditorError("a scope needs wordings that ask for the same and such that do not")
    for _ in range(steps):
        pairs = []
        for place in range(batch):
            wanted = place % 2 == 0
            some = [source for alike, source in sources if alike is wanted]
            pairs.append((*draw.choice(some)(), float(wanted)))
        one, other, alike = (torch.tensor(column) for column in zip(*pairs, strict=True))
        both = torch.cat([head(vectors[one], vectors[other]), head(vectors[other], vectors[one])])
        loss = nn.functional.binary_cross_entropy_with_logits(both, torch.cat([alike, alike]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        progress(1)
    return head.eval()


def _sources(
    wordings: Wordings, vectors: torch.Tensor, draw: random.Random
) -> list[tuple[bool, Callable[[], tuple[int, int]]]]:
    """Return what pairs are drawn from, each with whether its pairs are alike."""
    kinds = [kind for kind in wordings.kinds if kind]
    wide = [kind for kind in kinds if len(kind) > 1]
    asked = [pair[0] for pair in (*wordings.same, *wordings.loose)] + [k[0] for k in kinds]

    def of_two_kinds() -> tuple[int, int]:
        one, other = draw.sample(kinds, 2)
        return draw.choice(one), draw.choice(other)

    def of_one_kind() -> tuple[int, int]:
        one, other = draw.sample(draw.choice(wide), 2)
        return one, other

    found: list[tuple[bool, Callable[[], tuple[int, int]]]] = []
    if wordings.same:
        found.append((True, lambda: draw.choice(wordings.same)))
    if wordings.loose:
        found.append((True, lambda: draw.choice(wordings.loose)))
    if wide:
        found.append((True, of_one_kind))
    if wordings.other:
        found.append((False, lambda: draw.choice(wordings.other)))
    if apart := _of_two_records(wordings.loose, vectors, draw):
        found.append((False, lambda: draw.choice(apart)))
    if len(kinds) > 1:
        found.append((False, of_two_kinds))
    if wordings.idle and asked:
        found.append((False, lambda: (draw.choice(asked), draw.choice(wordings.idle))))
    return found


def _of_two_records(
    loose: Sequence[tuple[int, int]], vectors: torch.Tensor, draw: random.Random
) -> list[tuple[int, int]]:
    """Return pairs of an edit and another record's paraphrase that are not near."""
    if not loose:
        return []
    drawn = [(draw.choice(loose)[0], draw.choice(loose)[1]) for _ in range(_DRAWN)]
    one, other = torch.tensor(drawn).unbind(1)
    near = (vectors[one] * vectors[other]).sum(-1) >= _NEAR
    return [pair for pair, close in zip(drawn, near.tolist(), strict=True) if not close]


def recall(
    head: RelationMatch, pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
) -> dict[str, torch.Tensor]:
    """Return the probabilities of named sets of pairs of embeddings."""
    with torch.no_grad():
        return {name: torch.sigmoid(head(*both)) for name, both in pairs.items()}
