"""The flags of recall heads: neurons that open where an edited subject is named. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from editors.memory import recall_solve as solve
from editors.memory.recall_lines import Ordinary
from editors.memory.recall_rows import Rows

if TYPE_CHECKING:
    from editors.memory.recall import RecallSettings

_FLAG_MARGIN = 0.05  # of a threshold above the highest that it must not open on
_AT_ONCE = 256  # flags that are compared with everything together


def flags(
    settings: RecallSettings,
    text: Ordinary,
    rows: Rows,
    filters: solve.Filters,
    codes: torch.Tensor,
    room: solve.Room,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return gate rows, up rows and down columns: two neurons a subject, whose difference is
    a step, so that a flag is whole wherever it is written."""
    place = solve.ground(rows.named, text.flag, text.first, settings.ridge)
    own = [rows.named[rows.owner == at] for at in range(len(rows.subjects))]
    made = flag_directions(settings, rows, own, place)
    opens = _flag_thresholds(settings, text, rows, made, place)
    tall = settings.sharpness * settings.flag_ramp
    usual = float(rows.spread.mean())
    gates, columns = [], []
    for at, flag in enumerate(written(rows, filters, codes, room) * usual):
        low, high = (
            settings.sharpness * place.gate(made[at], threshold)
            for threshold in (opens[at], opens[at] + settings.flag_ramp)
        )
        gates += [low, high]
        # As it is written on the subject's own tokens on average.
        there = own[at].double()
        step = nn.functional.silu(there @ low) - nn.functional.silu(there @ high)
        size = step * (there @ place.level) / tall * usual / rows.spread[rows.owner == at]
        whole = size[size > 0.3]
        flag = flag / (whole.mean() if len(whole) else 1.0)
        columns += [flag, -flag]
    up = (place.level / tall).expand(len(gates), -1)
    down = torch.stack(columns)
    return torch.stack(gates).float(), up.float().contiguous(), down.T.float().contiguous()


def written(
    rows: Rows, filters: solve.Filters, codes: torch.Tensor, room: solve.Room
) -> torch.Tensor:
    """Return (subjects, hidden) flags for a stream whose root mean square is 1.

    What a subject's own tokens are read as without a flag is taken from it: what disturbs a
    flag is then only what differs from one naming of a subject to another.
    """
    marks = torch.ones(len(codes), 1, dtype=torch.float64)
    flags = torch.cat([filters.keys, codes, marks], dim=1)
    read = rows.states.double() @ room.read.T
    often = torch.bincount(rows.owner, minlength=len(flags))[:, None]
    flags -= torch.zeros_like(flags).index_add(0, rows.owner, read) / often
    return (flags * room.size) @ room.basis.T


def flag_directions(
    settings: RecallSettings, rows: Rows, own: Sequence[torch.Tensor], place: solve.Ground
) -> torch.Tensor:
    """Return by subject what answers 1 on its ``own`` namings (n, hidden) and 0 elsewhere,
    (subjects, hidden) float64: first of all that is named together, then of what it was taken
    for."""

    def told(x: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
        apart = (rows.named[near], settings.others_weight)
        return place.shut(solve.direction(place.inverse, x, settings.own_weight, apart), x)

    none = torch.zeros(0, dtype=torch.long)
    alone = torch.stack([told(x, none) for x in own])
    near = _taken_for(settings, rows, alone, place)
    return torch.stack([told(x, some) for x, some in zip(own, near, strict=True)])


def _taken_for(
    settings: RecallSettings, rows: Rows, made: torch.Tensor, place: solve.Ground
) -> list[torch.Tensor]:
    """Return by subject the namings of others that are most taken for its own: names that end as
    it does. A little weight tells them apart; much of it opens flags on any token."""
    levels = place.levels(rows.named)[:, None]
    found = []
    for begin in range(0, len(made), _AT_ONCE):
        shares = rows.named @ made[begin : begin + _AT_ONCE].T.float() / levels
        for at in range(shares.shape[1]):
            shares[rows.owner == begin + at, at] = 0.0
        nearest = shares.topk(min(settings.others, len(shares)), dim=0)
        found += [
            near[share > 0.5 * settings.flag_least]
            for near, share in zip(nearest.indices.T, nearest.values.T, strict=True)
        ]
    return found


def _flag_thresholds(
    settings: RecallSettings,
    text: Ordinary,
    rows: Rows,
    made: torch.Tensor,
    place: solve.Ground,
) -> torch.Tensor:
    """Return by subject where its flag opens, (subjects,) float64."""
    every = torch.cat([rows.named, rows.lookalikes, text.flag])
    owner = torch.full((len(every),), -1)
    owner[: len(rows.named)] = rows.owner
    levels = place.levels(every)[:, None]
    found = []
    for begin in range(0, len(made), _AT_ONCE):
        shares = every @ made[begin : begin + _AT_ONCE].T.float() / levels
        found.append(
            solve.thresholds(
                shares, owner - begin, settings.flag_least, settings.flag_most, _FLAG_MARGIN
            )
        )
    return torch.cat(found).double()
