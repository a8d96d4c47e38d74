"""A prompt's key, and how near another one must be to count as the same question.

What GRACE and MELO look up in a codebook. Their papers take one state of one model and a radius
that fits it; no such number travels (methods.md X3). Here keys are unit embeddings
(``editors.question_embeddings``: of the question's tokens, or of the last prompt token as the
papers have it), and the radius is measured on the model: between the distances of an ordinary
question to its own rewordings and those to other ordinary questions. Around each request it is
cut to a share of the way to the nearest question that must not be answered by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from editors.architectures import ModelView
from editors.key_statistics import everyday_questions
from editors.memory.codebook import Codebook, added, restored
from editors.question_embeddings import Asked, Embedder, embedder, embeddings
from editors.requests import EditorError, EditRequest

KEYS = ("question", "last")
REWORDED = ("Please tell me: {}", "{} Answer briefly.", "I would like to know. {}")
"""How an ordinary question is asked otherwise, to see how far rewording moves its key."""
_ORDINARY = 24  # everyday questions that are reworded
_REACH = 0.98  # share of the way to the nearest question that must stand
_LEAST = 0.05  # of the radius, that a ball has in any case: its own question, rounded otherwise


@dataclass(frozen=True)
class Keyring:
    """How keys are made, and the radius that suits them.

    Attributes:
        embedder: makes them.
        radius: within which a key is the same question's, as far as the model can tell.
    """

    embedder: Embedder
    radius: float


def keyring(shown: ModelView, layer: int, kind: str) -> Keyring:
    """Return the keys read at a layer's output, with the radius measured.

    Raises EditorError: no such kind of key, or no such layer.
    """
    if kind not in KEYS:
        raise EditorError(f"a key is made of {' or '.join(KEYS)}, not {kind!r}")
    if not 0 <= layer < len(shown.layers):
        raise EditorError(f"keys cannot be read at layer {layer} of {len(shown.layers)}")
    made = embedder(shown, layer, kind == "last")
    ordinary = everyday_questions()[:_ORDINARY]
    own = embeddings(shown, [Asked(q, True) for q in ordinary], made)
    others = [Asked(form.format(q), True) for q in ordinary for form in REWORDED]
    reworded = embeddings(shown, others, made).view(len(own), len(REWORDED), -1)
    near = torch.linalg.vector_norm(reworded - own[:, None], dim=-1).flatten()
    far = torch.cdist(own, own) + 4 * torch.eye(len(own), device=own.device)
    return Keyring(made, between(near, far.amin(1)))


def between(near: torch.Tensor, far: torch.Tensor) -> float:
    """Return a radius that holds most distances of ``near`` and hardly one of ``far``: half way
    between them where they lie apart, else as much as the far ones allow."""
    most, least = float(near.quantile(0.9)), float(far.quantile(0.05))
    return (most + least) / 2 if most < least else least


@dataclass(frozen=True)
class Shelf:
    """A codebook, and by what is asked the label and the key (width,) that are its own."""

    book: Codebook
    members: Mapping[Asked, tuple[str, torch.Tensor]]

    @property
    def keys(self) -> torch.Tensor:
        """The members' keys (n, width), in their order."""
        held = [key for _, key in self.members.values()]
        return torch.stack(held) if held else self.book.keys[:0]


def shelved(
    shown: ModelView,
    ring: Keyring,
    shelf: Shelf,
    request: EditRequest,
    labels: Sequence[str],
    beside: Sequence[Asked],
    share: float = 1.0,
) -> Shelf:
    """Return the shelf with what a request asks.

    Args:
        labels: of its questions and prompts, in this order.
        beside: what must stand; no ball reaches it.
        share: of the measured radius that a ball has at most.
    """
    own = [
        *(Asked(question, True) for question in request.questions),
        *(Asked(prompt, False) for prompt in request.prompts),
    ]
    around = [one for one in beside if one not in own]
    made = embeddings(shown, [*own, *around], ring.embedder).cpu()
    keys, fence = made[: len(own)], made[len(own) :]
    radius, book = share * ring.radius, shelf.book
    for key, label in zip(keys, labels, strict=True):
        room = radius
        if len(fence):
            room = min(room, _REACH * float(torch.linalg.vector_norm(fence - key, dim=-1).min()))
        book = added(book, key, label, max(room, _LEAST * radius))
    entered = {one: (label, key) for one, label, key in zip(own, labels, keys, strict=True)}
    whole = Shelf(book, {**shelf.members, **entered})
    held = [label for label, _ in whole.members.values()]
    return Shelf(restored(book, whole.keys, held, _LEAST * radius), whole.members)


def embedder_tensors(ring: Embedder) -> dict[str, torch.Tensor]:
    """Return an embedder's tensors by name."""
    return {
        "router.whiten": ring.whiten,
        "router.chat": ring.chat,
        "router.plain": ring.plain,
        "router.read": torch.tensor([ring.layer, int(ring.last)]),
    }


def embedder_of(tensors: Mapping[str, torch.Tensor]) -> Embedder:
    """Rebuild an embedder from ``embedder_tensors()`` output."""
    layer, last = tensors["router.read"].tolist()
    return Embedder(
        layer,
        tensors["router.whiten"],
        tensors["router.chat"],
        tensors["router.plain"],
        bool(last),
    )
