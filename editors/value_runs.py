"""Runs of edits under optimisation: the model with vectors added at an edit's places.

``Above`` runs only the layers above the edited one, on the columns from the first change on,
over a trunk that was run once; ``Whole`` runs everything. Both give the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from editors.architectures import ModelView
from editors.capture import Site, keys_at, padded, replaced
from editors.forward import embed, run
from editors.passages import Passage
from editors.trunk import Sample, Trunk, label_logits, resume, run_trunk, select, with_values

Place = tuple[int, int]
"""Index of a sample of the edit, and a position in the tokens that are fed."""

WHERE = ("layer", "down", "attention+down")
"""Where vectors are added: the layer's output, its MLP's output, or one vector each at the
attention's and at the MLP's output (PMET; the first half of a spot's vector is attention's)."""


LIKELY = 32
"""Tokens a label that compete with it while a vector is trained."""
FEW = 4096
"""A vocabulary of this size at most is taken whole."""


@dataclass(frozen=True)
class Task:
    """One edit, as the optimisation sees it.

    Attributes:
        samples: what is to be said; a sample without an answer is a prompt after which the
            model is to go on as before (the KL term).
        spots: the vectors, each with its places, at least one; the first place is where the
            clean value v₀ is taken.
    """

    samples: tuple[Sample, ...]
    spots: tuple[tuple[Place, ...], ...]


@dataclass(frozen=True)
class Flat:
    """The samples and spots of all edits in one row each.

    ``owner`` is the edit of each sample, ``places`` per spot (sample, position).
    """

    samples: tuple[Sample, ...]
    owner: tuple[int, ...]
    places: tuple[tuple[Place, ...], ...]
    bounds: tuple[int, ...]

    @classmethod
    def of(cls, tasks: Sequence[Task]) -> Flat:
        samples: list[Sample] = []
        places: list[tuple[Place, ...]] = []
        bounds = [0]
        for task in tasks:
            shift = len(samples)
            begins = [
                min((at for spot in task.spots for s, at in spot if s == index), default=None)
                for index in range(len(task.samples))
            ]
            samples += [
                Sample(s.prompt, s.answer, _earlier(s, begin))
                for s, begin in zip(task.samples, begins, strict=True)
            ]
            places += [tuple((shift + s, at) for s, at in spot) for spot in task.spots]
            bounds.append(len(places))
        return cls(
            samples=tuple(samples),
            owner=tuple(i for i, task in enumerate(tasks) for _ in task.samples),
            places=tuple(places),
            bounds=tuple(bounds),
        )

    def range_of(self, edit: int) -> tuple[int, int]:
        return self.bounds[edit], self.bounds[edit + 1]

    def spots_of(self, edit: int) -> slice:
        return slice(*self.range_of(edit))

    def spots_at(self, starts: Sequence[int], width: int) -> torch.Tensor:
        """Return (B, width) the spot at each column, -1 for none; columns count from the
        samples' ``starts``."""
        at = torch.full((len(self.samples), width), -1)
        for spot, places in enumerate(self.places):
            for sample, position in places:
                at[sample, position - starts[sample]] = spot
        return at


def _earlier(sample: Sample, position: int | None) -> int:
    """The block begins at the first place that is changed, or at the last prompt token."""
    last = len(sample.prompt) - 1
    return last if position is None else min(position, last)


class Runner(Protocol):
    """Runs the edits that are still trained with vectors added at their spots."""

    def run(self, delta: torch.Tensor) -> torch.Tensor:
        """Return final hidden states of all rows, given (spots, parts, d)."""
        ...

    def likelihood(self, final: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return each row's mean negative log-likelihood, and whether all labels are arg-max;
        maybe among likely tokens only."""
        ...

    def exactly(
        self, final: torch.Tensor, rows: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the same of some rows over the whole vocabulary, without a graph."""
        ...

    def forget(self) -> None:
        """Choose anew at the next step which tokens are likely."""
        ...

    def after(self, final: torch.Tensor) -> torch.Tensor:
        """Return the logits after the prompts that have no answer, (n, vocabulary)."""
        ...

    def clean(self, flat: Flat) -> torch.Tensor:
        """Return the unchanged values at the spots' first places, (spots, parts, d)."""
        ...

    def rows_of(self, edit: int) -> list[int]: ...

    def quiet_of(self, edit: int) -> list[int]: ...

    def keep(self, edits: Sequence[int]) -> torch.Tensor:
        """Go on with some edits only; return which rows of ``after`` are left."""
        ...


class _Rows:
    """What the two runners share: labels, and whose row is whose."""

    shown: ModelView
    targets: torch.Tensor
    spots: torch.Tensor
    lasts: torch.Tensor
    owner: list[int]
    answered: list[bool]
    likely: torch.Tensor | None = None

    def _label(self, flat: Flat, targets: torch.Tensor, spots: torch.Tensor) -> None:
        self.targets = targets
        self.spots = spots.to(targets.device)
        self.owner = list(flat.owner)
        self.answered = [bool(sample.answer) for sample in flat.samples]

    def bump(self, delta: torch.Tensor) -> torch.Tensor:
        """Return (B, A, d): what is added at each column."""
        none = delta.new_zeros(1, delta.shape[-1])
        return torch.cat([delta, none])[self.spots]

    def rows_of(self, edit: int) -> list[int]:
        pairs = zip(self.owner, self.answered, strict=True)
        return [row for row, (own, said) in enumerate(pairs) if own == edit and said]

    def quiet_of(self, edit: int) -> list[int]:
        unanswered = [own for own, said in zip(self.owner, self.answered, strict=True) if not said]
        return [row for row, own in enumerate(unanswered) if own == edit]

    def after(self, final: torch.Tensor) -> torch.Tensor:
        rows = torch.tensor([r for r, said in enumerate(self.answered) if not said]).long()
        rows = rows.to(final.device)
        return self.shown.logits(final[rows, self.lasts[rows]])

    def likelihood(self, final: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.likely is None:
            self.likely = self._likely(final)
        logits, wanted, rows = label_logits(self.shown, final, self.targets, self.likely)
        return _per_row(logits, wanted, rows, len(final))

    @torch.no_grad()
    def exactly(
        self, final: torch.Tensor, rows: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        at = torch.tensor(rows, device=final.device)
        logits, wanted, of = label_logits(self.shown, final[at], self.targets[at])
        return _per_row(logits, wanted, of, len(rows))

    def forget(self) -> None:
        self.likely = None

    @torch.no_grad()
    def _likely(self, final: torch.Tensor) -> torch.Tensor | None:
        """Return the ids of the tokens that compete at the labels, ascending; None for all.

        The head is half the cost of a step that runs only a few layers, and all but a few
        tokens get next to nothing of the probability.
        """
        logits, wanted, _ = label_logits(self.shown, final, self.targets)
        if logits.shape[-1] <= FEW:
            return None
        return torch.cat([logits.topk(LIKELY).indices.flatten(), wanted]).unique()

    def _left(self, edits: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        kept = set(edits)
        rows = [row for row, own in enumerate(self.owner) if own in kept]
        silent = [own for own, said in zip(self.owner, self.answered, strict=True) if not said]
        quiet = torch.tensor([i for i, own in enumerate(silent) if own in kept]).long()
        self.owner = [self.owner[row] for row in rows]
        self.answered = [self.answered[row] for row in rows]
        return torch.tensor(rows), quiet.to(self.targets.device)


class Above(_Rows):
    """The layers above the edited one, on the columns from the first change on."""

    def __init__(
        self,
        shown: ModelView,
        flat: Flat,
        layer: int,
        where: str,
        passage: Passage | None = None,
    ) -> None:
        self.shown, self.layer, self.where = shown, layer, where
        base = layer - 1 if where == "attention+down" else layer
        if passage is not None and passage.first > base:
            passage = None
        self.trunk: Trunk = run_trunk(shown, flat.samples, base, passage=passage)
        starts = [sample.begin for sample in flat.samples]
        self._label(flat, self.trunk.targets, flat.spots_at(starts, self.trunk.hidden.shape[1]))
        self.lasts = self.trunk.firsts

    def run(self, delta: torch.Tensor) -> torch.Tensor:
        parts = [self.bump(delta[:, part]) for part in range(delta.shape[1])]
        if self.where == "layer":
            return resume(self.shown, self.trunk, self.trunk.hidden + parts[0])
        if self.where == "down":
            changed = with_values(self.shown, self.trunk, self.trunk.values + parts[0])
            return resume(self.shown, self.trunk, changed)
        with _added(self.shown, self.layer, self.where, parts):
            return resume(self.shown, self.trunk, self.trunk.hidden)

    def clean(self, flat: Flat) -> torch.Tensor:
        if self.where == "attention+down":
            return clean_values(self.shown, flat, self.layer, self.where)
        kept = self.trunk.hidden if self.where == "layer" else self.trunk.values
        firsts = [places[0] for places in flat.places]
        rows = torch.tensor([sample for sample, _ in firsts])
        at = torch.tensor([position - flat.samples[sample].begin for sample, position in firsts])
        return kept[rows, at][:, None]

    def keep(self, edits: Sequence[int]) -> torch.Tensor:
        rows, quiet = self._left(edits)
        self.trunk = select(self.trunk, rows, trim=True)
        width = self.trunk.hidden.shape[1]
        at = rows.to(self.targets.device)
        self.targets, self.spots = self.targets[at, :width], self.spots[at, :width]
        self.lasts = self.trunk.firsts
        return quiet


class Whole(_Rows):
    """The whole model on all tokens, with logits everywhere."""

    def __init__(self, shown: ModelView, flat: Flat, layer: int, where: str) -> None:
        self.shown, self.layer, self.where = shown, layer, where
        ids, real = padded([sample.fed for sample in flat.samples])
        self.ids, self.real = ids.to(shown.device), real.to(shown.device)
        self.positions = torch.arange(ids.shape[1], device=shown.device).expand(ids.shape)
        targets = torch.full(ids.shape, -100)
        for row, sample in enumerate(flat.samples):
            at = len(sample.prompt) - 1
            targets[row, at : at + len(sample.answer)] = torch.tensor(sample.answer).long()
        targets = targets.to(shown.device)
        self._label(flat, targets, flat.spots_at([0] * len(ids), ids.shape[1]))
        lasts = [len(sample.prompt) - 1 for sample in flat.samples]
        self.lasts = torch.tensor(lasts, device=shown.device)

    def run(self, delta: torch.Tensor) -> torch.Tensor:
        parts = [self.bump(delta[:, part]) for part in range(delta.shape[1])]
        with _added(self.shown, self.layer, self.where, parts):
            every = range(len(self.shown.layers))
            inputs = embed(self.shown, self.ids, self.positions)
            return self.shown.finish(run(self.shown, inputs, every, self.positions, self.real))

    def likelihood(self, final: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        at = self.targets >= 0
        logits = self.shown.logits(final)[at]
        nll, said = _per_row(logits, self.targets[at], at.nonzero()[:, 0], len(final))
        self.last = nll.detach(), said
        return nll, said

    def exactly(
        self, final: torch.Tensor, rows: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        nll, said = self.last  # it always is exact
        return nll[list(rows)], said[list(rows)]

    def clean(self, flat: Flat) -> torch.Tensor:
        return clean_values(self.shown, flat, self.layer, self.where)

    def keep(self, edits: Sequence[int]) -> torch.Tensor:
        rows, quiet = self._left(edits)
        at = rows.to(self.targets.device)
        self.ids, self.real, self.lasts = self.ids[at], self.real[at], self.lasts[at]
        self.positions = self.positions[at]
        self.targets, self.spots = self.targets[at], self.spots[at]
        return quiet


def _per_row(
    logits: torch.Tensor, wanted: torch.Tensor, rows: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    each = nn.functional.cross_entropy(logits, wanted, reduction="none")
    number = torch.bincount(rows, minlength=count).clamp(min=1)
    mean = each.new_zeros(count).index_add(0, rows, each) / number
    right = (logits.argmax(-1) == wanted).long()
    said = torch.zeros(count, dtype=torch.long, device=rows.device).index_add(0, rows, right)
    return mean, said == number


@contextlib.contextmanager
def _added(
    shown: ModelView, layer: int, where: str, parts: Sequence[torch.Tensor]
) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name, bump in zip(where.split("+"), parts, strict=True):
            add = _adding(bump)
            stack.enter_context(replaced(shown, Site(layer, name), add))
        yield


def _adding(bump: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda value: value + bump.to(value)


def clean_values(shown: ModelView, flat: Flat, layer: int, where: str) -> torch.Tensor:
    """Return the unchanged values at the spots' first places, (spots, parts, d)."""
    wanted: dict[int, list[tuple[int, int]]] = {}
    for spot, places in enumerate(flat.places):
        sample, position = places[0]
        wanted.setdefault(sample, []).append((spot, position))
    rows = sorted(wanted)
    sequences = [flat.samples[row].fed for row in rows]
    positions = [[at for _, at in wanted[row]] for row in rows]
    order = [spot for row in rows for spot, _ in wanted[row]]
    found = [
        keys_at(shown, sequences, [layer], positions, part=part, side="output")[0]
        for part in where.split("+")
    ]
    values = torch.stack(found, dim=1)
    return values[torch.tensor(order).argsort().to(values.device)]
