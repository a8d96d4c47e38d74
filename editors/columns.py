"""From an edit's places to columns of a solve, and from values to changes of matrices.

A *place* is a token of one rendering, a *spot* the places that share one vector, a *column* one
key with its residual. Averaged, there is one column a spot, as the cards say: the mean over
contexts, the bare rendering counting as much as all contexts together (methods.md L3).
Otherwise every place is a column of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from editors.architectures import ModelView
from editors.capture import Site, keys_at
from editors.deltas import DenseDelta, applied
from editors.linear_solve import Update
from editors.model import ChatModel
from editors.passages import Passage
from editors.rendering import BARE, Rendering, span_end, token_before
from editors.requests import EditRequest
from editors.trunk import Sample
from editors.value_runs import Task

POSITIONS = ("subject", "object", "answer", "both")
"""Where an edit lives. "subject": at the subject's last token, as the cards say. "object": at the
tokens that predict the object and what follows, one vector a token (names of many tokens need
them: design.md §4). "answer": there and at the last prompt token, where an answer's style is
decided. "both": at the subject and at the object."""


@dataclass(frozen=True)
class Written:
    """One request, ready to be written.

    Attributes:
        request: what was asked.
        task: for the value optimisation; its answered samples are the renderings.
        renderings: in the order of the task's samples.
    """

    request: EditRequest
    task: Task
    renderings: tuple[Rendering, ...]


@dataclass(frozen=True)
class Columns:
    """Where the columns of a solve are read.

    Attributes:
        sequences, positions: what ``keys_at`` takes.
        samples: of each sequence the index among the samples of all tasks.
        mixing: (places, columns) float64, how places are averaged into columns.
        spots: (columns,) the spot, counted over all edits, that each column writes.
        bare: (columns,) the place, a row of ``mixing``, that is each column's first.
    """

    sequences: tuple[tuple[int, ...], ...]
    positions: tuple[tuple[int, ...], ...]
    samples: tuple[int, ...]
    mixing: torch.Tensor
    spots: torch.Tensor
    bare: torch.Tensor

    def places(
        self, model: ChatModel | ModelView, layer: int, part: str = "down", side: str = "input"
    ) -> torch.Tensor:
        """Return what is at the places, (places, width) float64."""
        return keys_at(model, self.sequences, [layer], self.positions, part=part, side=side)[
            0
        ].double()

    def mixed(self, places: torch.Tensor) -> torch.Tensor:
        """Average places into columns: (places, width) → (width, columns)."""
        return places.T @ self.mixing.to(places)


def task_of(
    model: ChatModel,
    request: EditRequest,
    found: Sequence[Rendering],
    positions: str,
    lead: bool = True,
    quiet: bool = False,
) -> Written:
    """Choose an edit's spots in its renderings.

    Args:
        positions: one of ``POSITIONS``.
        lead: whether the loss is on the answer's words before the object too.
        quiet: add the prompt "{subject} is a", after which the model is to go on as before.
    """
    spots: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    # What is not in the loss is prompt: the trunk then ends where the object begins.
    said = [0 if lead else one.first for one in found]
    samples = [
        Sample((*one.prompt, *one.answer[:at]), one.answer[at:])
        for one, at in zip(found, said, strict=True)
    ]
    for row, one in enumerate(found):
        if positions in ("subject", "both"):
            spots.setdefault((), []).append((row, one.at_subject()))
        if positions != "subject":
            last = len(one.prompt) - 1
            if one.first and positions == "answer":
                spots.setdefault((-1,), []).append((row, last))
            for at in range(one.first, len(one.answer)):
                # Renderings that have said the same so far share the vector.
                spots.setdefault(one.answer[one.first : at + 1], []).append((row, last + at))
    if quiet:
        text = f"{request.subject} is a"
        at = token_before(model, text, span_end(text, request.subject))
        spots[()].append((len(samples), at))
        samples.append(Sample(tuple(model.encode(text)), ()))
    task = Task(tuple(samples), tuple(tuple(places) for places in spots.values()))
    return Written(request, task, tuple(found))


def columns_of(written: Sequence[Written], average: bool) -> Columns:
    """Lay the places of some edits out as columns of one solve."""
    sequences: list[tuple[int, ...]] = []
    positions: list[list[int]] = []
    labels: list[list[tuple[int, bool]]] = []  # per sequence: (spot, bare) of each position
    samples: list[int] = []
    shift = before = 0
    for one in written:
        row = len(sequences)
        samples += range(before, before + len(one.renderings))
        before += len(one.task.samples)
        sequences += [rendering.fed for rendering in one.renderings]
        positions += [[] for _ in one.renderings]
        labels += [[] for _ in one.renderings]
        for spot, places in enumerate(one.task.spots):
            for sample, at in places:
                if sample < len(one.renderings):  # the "is a" prompt teaches, it is not edited
                    positions[row + sample].append(at)
                    bare = one.renderings[sample].context == BARE
                    labels[row + sample].append((shift + spot, bare))
        shift += len(one.task.spots)
    flat = [label for row_labels in labels for label in row_labels]
    spots = torch.tensor([spot for spot, _ in flat])
    if not average:
        every = torch.arange(len(flat))
        eye = torch.eye(len(flat), dtype=torch.float64)
        mixing, of, first = eye, spots, every
    else:
        mixing = torch.zeros(len(flat), shift, dtype=torch.float64)
        for spot in range(shift):
            mixing[:, spot] = _weights([(place == spot, bare) for place, bare in flat])
        of = torch.arange(shift)
        first = (spots[:, None] == of).long().argmax(0)
    kept = [row for row, at in enumerate(positions) if at]
    return Columns(
        tuple(sequences[row] for row in kept),
        tuple(tuple(positions[row]) for row in kept),
        tuple(samples[row] for row in kept),
        mixing,
        of,
        first,
    )


def _weights(places: Sequence[tuple[bool, bool]]) -> torch.Tensor:
    """Weights of places that (belong to the spot, are bare): the mean over the two kinds of
    the mean within a kind (methods.md L3)."""
    kinds = [
        [i for i, (own, bare) in enumerate(places) if own and bare is b] for b in (True, False)
    ]
    weights = torch.zeros(len(places), dtype=torch.float64)
    present = [kind for kind in kinds if kind]
    for kind in present:
        weights[kind] = 1 / (len(kind) * len(present))
    return weights


def spread_over(
    passage: Passage,
    layers: Sequence[int],
    columns: Columns,
    delta: torch.Tensor,
    solve: Callable[[int, torch.Tensor, torch.Tensor], Update],
    share: Callable[[int], float],
    part: str = "layer",
) -> tuple[dict[str, torch.Tensor], dict[int, torch.Tensor]]:
    """Write values over a window of layers, lowest first, keys and what is still missing read
    anew with the weights written so far (MEMIT).

    Args:
        passage: of all tasks' samples, to the window's first layer.
        delta: (spots, d), what is to be added to the last layer's ``part``.
        solve: (layer, residuals (d, n), keys (m, n)) → the update.
        share: of what is missing, given how many layers are left.
        part: "layer" or "down", whose output is to come to its value at the last layer.

    Returns:
        Changes by parameter name, (out, in) float64, and by layer the columns' keys (m, n).
        A layer's keys depend on the layers below it alone, so that these are the keys of the
        model with all changes.
    """
    shown = passage.shown
    changes: dict[str, torch.Tensor] = {}
    seen: dict[int, torch.Tensor] = {}
    asked = delta[columns.spots.to(delta.device)].T.double()
    positions: list[tuple[int, ...]] = [()] * len(passage.rows)
    for sample, each in zip(columns.samples, columns.positions, strict=True):
        positions[sample] = each
    wanted = None
    for at, layer in enumerate(layers):
        sites = [(Site(layer, "down"), "input"), (Site(layers[-1], part), "output")]
        with applied(shown.chat, delta_of(shown, changes)):
            seen[layer], there = map(columns.mixed, passage.read(sites, positions))
        wanted = there + asked if wanted is None else wanted
        update = solve(layer, (wanted - there) * share(len(layers) - at), seen[layer])
        changes[shown.names(layer).down] = update.dense()
    return changes, seen


def delta_of(shown: ModelView, changes: Mapping[str, torch.Tensor]) -> DenseDelta:
    """Return changes (out, in) as a delta, in at least float32 and in the stored orientation."""
    return DenseDelta(
        {
            name: shown.stored(name, change).to(
                torch.promote_types(shown.parameter(name).dtype, torch.float32)
            )
            for name, change in changes.items()
        }
    )
