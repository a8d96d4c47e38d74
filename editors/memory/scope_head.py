"""A trained scope: how surely a question asks for an edit, beta in [0, 1] (SERAC's classifier; M1).

``beta = exp(-‖φ(edit) - φ(question)‖²)`` where φ is a small trained head on frozen embeddings: a
scale, and a change of low rank. It is trained on the requests' own wordings (positives: each
other, and themselves in other surroundings) against neighbours, everyday questions and other
requests' wordings, half of these the most alike ones, with SERAC's balanced cross entropy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from editors.memory.texts import wordings
from editors.question_embeddings import Asked
from editors.requests import EditRequest

NOBODY = -1
"""The owner of a text that asks for no request."""
SURROUNDINGS = {
    True: ("Please tell me: {text}", "I would like to know: {text}", "{text} Answer briefly."),
    False: (
        "As is well known: {text}",
        "I have read about it. {text}",
        "Question and answer: {text}",
    ),
}
"""In which a question, or a plain text, still asks the same."""


@dataclass(frozen=True)
class HeadSettings:
    rank: int = 16  # of the change of the embeddings by which the scope is trained
    learning_rate: float = 2e-2  # Adam, of the scope's training (paper: 1e-5, a whole encoder)
    steps: int = 120  # of the scope's training (paper: up to 100,000)
    batch: int = 64  # wordings a step of the scope's training
    negatives: int = 8  # texts out of scope a wording: the nearest; as many others are drawn


@dataclass(frozen=True)
class RadialHead:
    """φ(e) = scale · (e + e A B).

    Attributes:
        scale: of the distances; the larger, the narrower a scope.
        a, b: (width, rank) and (rank, width).
    """

    scale: float
    a: torch.Tensor
    b: torch.Tensor

    def moved(self, rows: torch.Tensor) -> torch.Tensor:
        """Return φ of embeddings (n, width)."""
        return _moved(rows.float().cpu(), self.a, self.b) * self.scale

    def beta(self, questions: torch.Tensor, edits: torch.Tensor) -> torch.Tensor:
        """Return the scope (n, m) in [0, 1] of embeddings (n, width) and (m, width)."""
        # Without a matrix product, which makes small distances of rounding errors.
        exact = "donot_use_mm_for_euclid_dist"
        apart = torch.cdist(self.moved(questions), self.moved(edits), compute_mode=exact)
        return torch.exp(-apart.square())


@dataclass(frozen=True)
class Lessons:
    """What a head learns from: texts, who owns each (a scope's number, or ``NOBODY``), and how
    many of them, from the first on, are the wordings that an edit is found by."""

    texts: tuple[Asked, ...]
    owners: tuple[int, ...]
    wordings: int


def lessons(requests: Sequence[EditRequest], strangers: Sequence[Asked]) -> Lessons:
    """Return what a head learns about requests, the same whatever their order.

    Requests that share a wording are one scope: the newer answers the older one's questions.
    """
    own: dict[Asked, int] = {}
    for number, request in enumerate(sorted(requests, key=lambda request: request.id)):
        asked = wordings(request)
        scope = next((own[one] for one in asked if one in own), number)
        own |= dict.fromkeys((one for one in asked if one not in own), scope)
    other: dict[Asked, int] = {}
    for one, scope in own.items():
        other |= dict.fromkeys(surrounded(one), scope)
    known = {**other, **own}
    outside = [one for one in sorted(set(strangers), key=_order) if one not in known]
    texts = [*own, *(one for one in other if one not in own)]
    owners = [known[one] for one in texts] + [NOBODY] * len(outside)
    return Lessons((*texts, *outside), tuple(owners), len(own))


def surrounded(asked: Asked) -> list[Asked]:
    """Return a wording in other surroundings."""
    made = [Asked(form.format(text=asked.text), asked.chat) for form in SURROUNDINGS[asked.chat]]
    return [*made, Asked(asked.text, not asked.chat)]


def train_head(
    embeddings: torch.Tensor, learned: Lessons, settings: HeadSettings, seed: int
) -> RadialHead:
    """Return the head that tells scopes apart.

    Args:
        embeddings: (texts, width) of the lessons' texts.
        learned: whose they are.
        settings: of the training.
        seed: of what is drawn; torch's own random state is left alone.
    """
    texts, count = embeddings.float().cpu(), learned.wordings
    owners = torch.tensor(learned.owners)
    drawn = torch.Generator().manual_seed(seed)
    width = texts.shape[1]
    a = nn.Parameter(torch.randn(width, settings.rank, generator=drawn) / width**0.5)
    b = nn.Parameter(torch.zeros(settings.rank, width))
    foreign = owners[:count, None] != owners[None]
    kin = _kin(learned)
    paired = torch.tensor([bool(others) for others in kin])
    hard, first = _hardest(texts, foreign, count, settings.negatives)
    log_scale = nn.Parameter(first.log())
    optimiser = torch.optim.Adam([log_scale, a, b], lr=settings.learning_rate)
    for _ in range(settings.steps if bool(paired.any()) and bool(foreign.any()) else 0):
        part = torch.randperm(count, generator=drawn)[: settings.batch]
        part = part[paired[part]]
        if not len(part):
            continue
        turns = torch.rand(len(part), generator=drawn).tolist()
        alike = torch.tensor(
            [
                kin[at][int(turn * len(kin[at]))]
                for at, turn in zip(part.tolist(), turns, strict=True)
            ]
        )[:, None]
        others = torch.randint(len(texts), (len(part), settings.negatives), generator=drawn)
        picked = torch.cat([hard[part], others], dim=1)
        # φ is linear, so that only differences are moved, and only of the texts that are drawn.
        scale = log_scale.exp()
        near = _squares(texts[part][:, None] - texts[alike], scale, a, b).mean()
        apart = _squares(texts[part][:, None] - texts[picked], scale, a, b)
        far = apart[foreign[part[:, None], picked]]
        # -log β and -log(1-β), each a mean of its own: balanced.
        loss = near - torch.log(-torch.expm1(-far.clamp(min=1e-6))).mean()
        log_scale.grad, a.grad, b.grad = torch.autograd.grad(loss, [log_scale, a, b])
        optimiser.step()
    return RadialHead(float(log_scale.detach().exp()), a.detach(), b.detach())


def _kin(learned: Lessons) -> list[list[int]]:
    """Return for each wording which other texts have its owner."""
    owned: dict[int, list[int]] = {}
    for at, owner in enumerate(learned.owners):
        owned.setdefault(owner, []).append(at)
    return [
        [other for other in owned[learned.owners[at]] if other != at]
        for at in range(learned.wordings)
    ]


def _hardest(
    texts: torch.Tensor, foreign: torch.Tensor, count: int, most: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each wording's nearest texts of other owners, (wordings, most), and the scale at
    which the nearest ones are at the edge of the scope on average."""
    cosines = (texts[:count] @ texts.T).masked_fill(~foreign, -1.0)
    near, at = cosines.topk(min(most, len(texts)), dim=1)
    squares = (2 - 2 * near[:, 0]).clamp(min=1e-3)
    return at, (torch.tensor(2.0).log() / squares.median()).sqrt()


def _moved(rows: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return rows + rows @ a @ b


def _squares(
    apart: torch.Tensor, scale: torch.Tensor, a: torch.Tensor, b: torch.Tensor
) -> torch.Tensor:
    """Return the squared distances (…) that differences (…, width) have after φ."""
    return (_moved(apart, a, b) * scale).square().sum(-1)


def _order(asked: Asked) -> tuple[str, bool]:
    return asked.text, asked.chat
