"""The hyper-network of KE, SLAG and KGEditor: a text conditions masks on a gradient.

De Cao, Aziz and Titov 2021 (methods.md G6). A bidirectional LSTM reads "old >> new || question";
for every edited matrix a small head turns what it read into two rank-one masks and a scale::

    A = softmax(γ) αᵀ    B = softmax(ζ) βᵀ                        (out, in) each
    ΔW = max_scale · σ(η) · (∇W ⊙ A + B)

``∇W`` is kept as its factors, ``Σ_t δ_t u_tᵀ`` (editors.episodes), so that ΔW is applied to a
vector without ever being built: ``(∇W ⊙ A) x = softmax(γ) ⊙ Σ_t δ_t (u_t · (α ⊙ x))``. An
episode of training then costs little more than the upper layers.

Pure modules: nothing here knows a language model. E edits, T tokens of an edit, N tokens of a
text on which a change is tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import pack_padded_sequence

from editors.episodes import Factors

TINY = 1e-12
"""A gradient of a smaller norm is none."""


@dataclass(frozen=True)
class Shape:
    """Sizes of the hyper-network; the defaults are the paper's.

    Attributes:
        hidden: of the LSTM, each way.
        condition: width of what the heads read.
        inner: of a head's one hidden layer.
        max_scale: bound of the scale of a change.
        start: −α of an untrained head.
    """

    hidden: int = 128
    condition: int = 1024
    inner: int = 128
    max_scale: float = 1.0
    start: float = 0.4


@dataclass(frozen=True)
class Masks:
    """What a head says for E edits of one matrix.

    Attributes:
        rows, columns: softmax(γ) (E, out) and α (E, in), the gradient's mask.
        added_rows, added_columns: softmax(ζ) (E, out) and β (E, in), what is added.
        scale: max_scale · σ(η), (E,).
    """

    rows: torch.Tensor
    columns: torch.Tensor
    added_rows: torch.Tensor
    added_columns: torch.Tensor
    scale: torch.Tensor


@dataclass(frozen=True)
class MaskedChange:
    """The changes ΔW of one matrix that E edits ask for, never built unless asked."""

    masks: Masks
    factors: Factors

    def of(self, x: torch.Tensor, owner: torch.Tensor | None = None) -> torch.Tensor:
        """Return ΔW x.

        Args:
            x: (B, N, in).
            owner: (B,) index of the edit whose change each text meets; None: one text an edit.

        Returns:
            (B, N, out); gradients flow to masks, factors and ``x``.
        """

        def own(tensor: torch.Tensor) -> torch.Tensor:
            return (tensor if owner is None else tensor[owner]).to(x)

        masks, factors = self.masks, self.factors
        weights = (x * own(masks.columns)[:, None]) @ own(factors.inputs).mT
        moved = own(masks.rows)[:, None] * (weights @ own(factors.deltas))
        strength = (x * own(masks.added_columns)[:, None]).sum(-1, keepdim=True)
        added = strength * own(masks.added_rows)[:, None]
        return own(masks.scale)[:, None, None] * (moved + added)

    def dense(self) -> torch.Tensor:
        """Return the changes, (E, out, in)."""
        masks = self.masks
        mask = masks.rows[:, :, None] * masks.columns[:, None]
        added = masks.added_rows[:, :, None] * masks.added_columns[:, None]
        return masks.scale[:, None, None] * (self.factors.dense() * mask + added)


class Conditioner(nn.Module):
    """Reads texts as vectors (E, T, width) into conditions (E, condition) between −1 and 1."""

    def __init__(self, width: int, shape: Shape) -> None:
        super().__init__()
        self.reader = nn.LSTM(width, shape.hidden, batch_first=True, bidirectional=True)
        self.mix = nn.Linear(2 * shape.hidden, shape.condition)

    def forward(self, vectors: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """``lengths`` (E,) says how many vectors of each text are real; at least one is."""
        packed = pack_padded_sequence(
            vectors, lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        _, (last, _) = self.reader(packed)
        return torch.tanh(self.mix(last.transpose(0, 1).flatten(1)))


class MaskHead(nn.Module):
    """One matrix's head: condition (E, condition) → ``Masks``.

    The gradient's mask begins at a descent: α is near −start and softmax(γ) near 1/out
    everywhere, so an untrained network takes a plain step against the gradient (the paper
    begins at random, ascending as often as not), and what is added begins near nothing.
    """

    def __init__(self, rows: int, columns: int, shape: Shape) -> None:
        super().__init__()
        self.sizes = [columns, rows, columns, rows, 1]
        self.max_scale = shape.max_scale
        width = sum(self.sizes)
        last = nn.Linear(shape.inner, width)
        with torch.no_grad():
            last.weight.mul_(shape.start / 10)
            last.bias.zero_()
            last.bias[:columns] = -shape.start
        self.net = nn.Sequential(
            weight_norm(nn.Linear(shape.condition, shape.inner)), nn.Tanh(), weight_norm(last)
        )

    def forward(self, condition: torch.Tensor) -> Masks:
        columns, rows, added_columns, added_rows, scale = self.net(condition).split(
            self.sizes, dim=-1
        )
        return Masks(
            rows=rows.softmax(-1),
            columns=columns,
            added_rows=added_rows.softmax(-1),
            added_columns=added_columns,
            scale=self.max_scale * scale.sigmoid()[:, 0],
        )


class GradientMasks(nn.Module):
    """Conditioner and heads for some matrices by name: texts and gradients → changes.

    A gradient's size depends on the matrix, the model and the text. Each is divided by its own
    norm and multiplied by its rows, which undoes the softmax's 1/out: an untrained change of a
    matrix has the norm ``max_scale · σ(0) · start``, whatever the gradient's (the paper feeds
    gradients as they are, and 200,000 updates find their sizes).
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, int]], width: int, shape: Shape | None = None
    ) -> None:
        """``shapes`` maps names to (out, in); ``width`` is that of the texts' vectors."""
        super().__init__()
        self.shape = shape or Shape()
        self.names = tuple(shapes)
        self.conditioner = Conditioner(width, self.shape)
        self.heads = nn.ModuleList(
            MaskHead(rows, columns, self.shape) for rows, columns in shapes.values()
        )

    def forward(
        self, vectors: torch.Tensor, lengths: torch.Tensor, factors: Mapping[str, Factors]
    ) -> dict[str, MaskedChange]:
        """Return each matrix's changes for E edits; a gradient of zero stays zero.

        Args:
            vectors, lengths: the conditioning texts, as ``Conditioner`` takes them.
            factors: the gradients by matrix.
        """
        condition = self.conditioner(vectors, lengths)
        changes = {}
        for name, head in zip(self.names, self.heads, strict=True):
            given = factors[name]
            by = given.deltas.shape[2] / norms(given).clamp(min=TINY)
            unit = replace(given, deltas=given.deltas * by[:, None, None])
            changes[name] = MaskedChange(head(condition), unit)
        return changes


def norms(factors: Factors) -> torch.Tensor:
    """Return the gradients' Frobenius norms, (E,), without building the gradients."""
    inputs, deltas = factors.inputs, factors.deltas
    both = (inputs @ inputs.mT) * (deltas @ deltas.mT)
    return both.sum((1, 2)).clamp(min=0).sqrt()
