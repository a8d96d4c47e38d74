"""The heads of recall heads: what asks, where it rests, and what they bring. Pure.

``recall_solve`` has the algebra; here it meets a model's parts and the rows of the edits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from editors.architectures import ModelView
from editors.deltas import HeadExpansion
from editors.linear_solve import moment
from editors.memory import recall_solve as solve
from editors.memory.recall_lines import Ordinary
from editors.memory.recall_rows import Rows, spread

if TYPE_CHECKING:
    from editors.memory.recall import RecallSettings


@dataclass(frozen=True)
class Codes:
    """How a code goes from the head to the answers' gates.

    Attributes:
        written: (hidden, dims) float64, what the head's output adds for each dimension, in units
            of ``scale``, the stream's usual root mean square there.
        read: (dims, hidden) reads it of a normed state.
        free: (hidden, hidden) takes from a normed state what a code may be in.
    """

    written: torch.Tensor
    read: torch.Tensor
    free: torch.Tensor
    scale: float


def filters(
    settings: RecallSettings, place: solve.Ground, rows: Rows, asks: torch.Tensor, width: int
) -> solve.Filters:
    """Solve what tells relations apart, scaled so that each edit's threshold is ``match``."""
    seen = rows.query
    alike = torch.stack([rows.alike(asks[at], at) for at in range(len(asks))])
    made = torch.stack(
        [
            solve.direction(
                place.inverse,
                seen[pooled(settings, asks[at], rows, at)],
                settings.own_weight,
                (seen[_past(settings, alike[at], rows)], settings.own_weight),
            )
            for at in range(len(asks))
        ]
    )
    query, keys = solve.factors(made, place.second, min(settings.rank, width - 2), alike.sum(1))
    asked = seen.double() @ query.T / place.levels(seen).double()[:, None]
    shares = (asked @ keys.T).float()
    for at in range(len(keys)):
        mine = rows.edit == at
        first = mine & rows.asked & ~rows.later
        usual = shares[first, at].mean()
        share = shares[:, at] / usual
        keys[at] /= float(usual)
        weakest = share[first & rows.own].amin()
        later = share[mine & rows.asked & rows.own & rows.later]
        if len(later):
            weakest = torch.minimum(weakest, later.amin().clamp(min=settings.match))
        beside = share[mine & rows.beside]
        highest = beside.amax() + 0.05 if len(beside) else share.new_tensor(0.0)
        threshold = torch.minimum(
            highest.clamp(min=settings.asked_least), settings.asked_most * weakest
        )
        keys[at] *= settings.match / float(threshold)
    joined = _joined(settings, rows, keys, asked, torch.linalg.inv(query @ place.second @ query.T))
    size = joined.norm(dim=1).mean()
    return solve.Filters(query * size, joined / size)


def pooled(settings: RecallSettings, same: torch.Tensor, rows: Rows, edit: int) -> torch.Tensor:
    """Return an edit's own places, and some of others which ask the same: as many at the
    answer's beginning as later."""
    own = ((rows.edit == edit) & rows.asked).nonzero()[:, 0]
    found = [own]
    for later in (False, True):
        others = (same & (rows.edit != edit) & (rows.later == later)).nonzero()[:, 0]
        found.append(spread(others, settings.pool))
    return torch.cat(found)


def _past(settings: RecallSettings, alike: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Return places where an edit's fact is asked for at another time, and the same of others
    which ask the same: of one edit alone, a filter would know them by their subject."""
    return spread((alike[rows.edit] & rows.past).nonzero()[:, 0], settings.pool)


def _joined(
    settings: RecallSettings,
    rows: Rows,
    keys: torch.Tensor,
    asked: torch.Tensor,
    inverse: torch.Tensor,
) -> torch.Tensor:
    """Return the subjects' keys (subjects, rank), of those of their edits (edits, rank): what
    holds an answer together to its end is that no place in it is far from a match."""
    owners = torch.tensor(rows.subject_of)
    made = []
    for subject in range(len(rows.subjects)):
        edits = (owners == subject).nonzero()[:, 0]
        places = (torch.isin(rows.edit, edits) & rows.asked).nonzero()[:, 0]
        which = torch.searchsorted(edits, rows.edit[places])
        key = solve.together(keys[edits], asked[places], which)
        least = settings.asked_margin * settings.match
        made.append(solve.lifted(key, asked[places], least, inverse))
    return torch.stack(made)


def room(
    settings: RecallSettings,
    shown: ModelView,
    layer: int,
    text: Ordinary,
    rows: Rows,
    rank: int,
    width: int,
) -> solve.Room:
    attention: Any = shown.layers[layer].self_attn
    reading = torch.cat([attention.k_proj.weight, attention.v_proj.weight]).detach().cpu()
    free = shown.hidden - len(reading)
    # As few and as small as will do: the layers above read flags too.
    subjects = len(rows.subjects)
    wanted = min(settings.codes, max(subjects, solve.LEAST_CODES))
    codes = max(min(wanted, width, free - rank - 1), 1)
    large = settings.above_noise * solve.loudest(settings.noises * subjects)
    sizes = [large] * (rank + codes) + [settings.present]
    return solve.room(
        reading,
        _gains(shown.layers[layer].input_layernorm),
        [text.query[~text.first], rows.query, rows.states],
        text.query[text.first],
        torch.tensor(sizes),
    )


def head(
    settings: RecallSettings,
    shown: ModelView,
    layer: int,
    text: Ordinary,
    rows: Rows,
    asked: solve.Ground,
    filters: solve.Filters,
    room: solve.Room,
    width: int,
    group: int,
) -> tuple[HeadExpansion, Codes]:
    """Return the heads (one of the group is used), and how their code is read behind them."""
    rank = len(filters.query)
    dims = len(room.size) - rank - 1
    rest = width // 2 - 1
    places = solve.turning(width, rank)
    sharp = math.sqrt(settings.steepness * math.sqrt(width))
    query = torch.zeros(group, width, shown.hidden, dtype=torch.float64)
    key, value = (torch.zeros(width, shown.hidden, dtype=torch.float64) for _ in range(2))
    query[0, places] = filters.query * sharp
    key[places] = room.read[:rank] * sharp
    # A flag that is not asked for weighs nothing, no flag less, the first token ``match``.
    query[0, rest] = asked.level * sharp
    key[rest] = sharp * (settings.match * room.start + settings.hush * (room.read[-1] - room.calm))
    # A key is turned so far ahead that it is met after as many tokens as usual.
    usual = rows.since[rows.asked & (rows.since >= 0)].double().mean()
    key = solve.turned(key, usual * _turns(shown))
    value[:dims] = room.read[rank:-1]
    codes = codes_of(settings, shown, layer, text, rows, dims)
    output = torch.zeros(shown.hidden, group * width, dtype=torch.float64)
    output[:, :dims] = codes.written * codes.scale
    made = (query.flatten(0, 1), key, value, output)
    return HeadExpansion(layer, *(one.float().contiguous() for one in made)), codes


def codes_of(
    settings: RecallSettings, shown: ModelView, layer: int, text: Ordinary, rows: Rows, dims: int
) -> Codes:
    """Choose the directions of the stream in which a code is seen best: where the states
    that the MLP reads are smallest."""
    norm = _gains(shown.layers[layer].post_attention_layernorm).double()
    both = moment(text.inner / norm.float())[0] + moment(rows.inner / norm.float())[0]
    values, turned = torch.linalg.eigh(both)
    chosen, size = turned[:, :dims], settings.code_size * values[:dims].clamp(min=1e-12).sqrt()
    first = rows.asked & ~rows.later
    scale = float(rows.scale[first].mean())
    free = torch.diag(1 / norm) @ (torch.eye(len(norm)).double() - chosen @ chosen.T)
    return Codes(chosen * size, (chosen / size).T / norm, free, scale)


def _turns(shown: ModelView) -> torch.Tensor:
    """Return how far a token turns each pair of a head's places, (width / 2,) in radians."""
    rotary: Any = next(m for n, m in shown.chat.model.named_modules() if n.endswith("rotary_emb"))
    found: torch.Tensor = rotary.inv_freq.detach().double().cpu()
    return found


def _gains(norm: nn.Module) -> torch.Tensor:
    weight: Any = norm.weight
    made: torch.Tensor = weight.detach().float().cpu()
    return made
