"""The weights of recall heads: flags, the head, and what answers (``editors.memory.recall``).

``recall_solve`` has the algebra; here it meets a model's parts and the rows of the edits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from editors.architectures import ModelView
from editors.deltas import HeadExpansion, MlpExpansion
from editors.linear_solve import moment
from editors.memory import recall_solve as solve
from editors.memory.recall_lines import Ordinary
from editors.memory.recall_rows import Neuron, Rows

if TYPE_CHECKING:
    from editors.memory.recall import RecallSettings


_AT_ONCE = 256  # gates that are compared with everything together


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


def pooled(settings: RecallSettings, same: torch.Tensor, rows: Rows, edit: int) -> torch.Tensor:
    """Return an edit's own places, and some of others which ask the same: as many at the
    answer's beginning as later."""
    own = ((rows.edit == edit) & rows.asked).nonzero()[:, 0]
    found = [own]
    for later in (False, True):
        others = (same & (rows.edit != edit) & (rows.later == later)).nonzero()[:, 0]
        found.append(_spread(others, settings.pool))
    return torch.cat(found)


def _past(settings: RecallSettings, alike: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Return places where an edit's fact is asked for at another time, and the same of others
    which ask the same: of one edit alone, a filter would know them by their subject."""
    return _spread((alike[rows.edit] & rows.past).nonzero()[:, 0], settings.pool)


def _alike(same: torch.Tensor, rows: Rows, edit: int) -> torch.Tensor:
    """Return (edits,) bool: which ask the same as an edit does, itself among them."""
    alike = torch.zeros(len(rows.subject_of), dtype=torch.bool)
    alike[rows.edit[same & rows.own]] = True
    alike[edit] = True
    return alike


def filters(
    settings: RecallSettings, place: solve.Ground, rows: Rows, asks: torch.Tensor, width: int
) -> solve.Filters:
    """Solve what tells relations apart, scaled so that each edit's threshold is ``match``."""
    seen = rows.query
    alike = torch.stack([_alike(asks[at], rows, at) for at in range(len(asks))])
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
    return torch.stack(gates).float(), up.float().contiguous(), _columns(columns)


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
    shares = every @ made.T.float() / place.levels(every)[:, None]
    return solve.thresholds(shares, owner, settings.flag_least, settings.flag_most, 0.05).double()


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


def answers(
    settings: RecallSettings,
    shown: ModelView,
    layer: int,
    text: Ordinary,
    rows: Rows,
    asks: torch.Tensor,
    codes: torch.Tensor,
    read: Codes,
) -> MlpExpansion:
    """Solve the neurons that write: open where the code and the place come together."""
    # The gates' places are read where the code leaves no trace.
    seen = (rows.inner.double() @ read.free).float()
    usual = (text.inner.double() @ read.free).float()
    place = solve.ground(seen, usual, text.first, settings.ridge)
    first = (rows.asked & ~rows.later).nonzero()[:, 0]
    arrives = float((read.scale / rows.scale[first] / place.levels(seen)[first]).mean())
    made, opens = places(settings, rows, asks, seen, place)
    # A code weighs so much that nothing opens a gate without it.
    highest = _highest(rows, seen, usual[~text.first], made, place)
    weights = (highest + settings.place_margin - opens).clamp(settings.code_weight).double()
    gates = []
    for at, neuron in enumerate(rows.neurons):
        subject = codes[rows.subject_of[neuron.edit]]
        code = weights[at] / arrives * (read.read.T @ subject)
        gates.append(read.free @ place.gate(made[at], opens[at].double() + weights[at]) + code)
    gate = settings.sharpness * torch.stack(gates)
    # A gate is usually open by as much as code and place are above half of what they may be.
    tall = solve.ramp(settings.sharpness, 0.35)
    up = (read.free @ place.level / tall).expand(len(gates), -1)
    columns = _answering(settings, shown, rows) * read.scale
    return MlpExpansion(layer, gate.float(), up.float().contiguous(), _columns(columns))


def places(
    settings: RecallSettings,
    rows: Rows,
    asks: torch.Tensor,
    seen: torch.Tensor,
    place: solve.Ground,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return by neuron what knows its place of the answer, and where it opens with a code:
    (neurons, hidden) float64 and (neurons,)."""
    made, opens = [], []
    opening = _opening(settings, rows, seen, place)
    for neuron, apart in zip(rows.neurons, rows.apart(), strict=True):
        own = torch.tensor(neuron.rows)
        pool = torch.cat([own, _others_begin(settings, rows, asks, neuron)])
        beside = _asked_beside(settings, rows, asks, neuron)
        one = solve.direction(
            place.inverse,
            seen[pool],
            settings.own_weight,
            (seen[apart], settings.own_weight),
            (seen[beside], settings.beside_weight),
        )
        one = place.shut(one, seen[pool])
        both = seen[torch.cat([own, apart])]
        share = both @ one.float() / place.levels(both)
        scale = float(share[: len(own)].mean())
        share = share / scale
        edited = torch.tensor(neuron.edited or range(len(own)))
        weakest = share[edited].amin()
        highest = share[len(own) :].amax() if len(apart) else share.new_tensor(0.0)
        threshold = ((highest + weakest) / 2).clamp(settings.place_least, settings.place_most)
        # Where replies begin all is much alike: what tells two of them apart is anything elsewhere.
        only = settings.opening_weight * neuron.opening
        opens.append(torch.minimum(threshold, 0.7 * weakest) + only)
        made.append(one / scale + only * opening)
    return torch.stack(made), torch.stack(opens)


def _opening(
    settings: RecallSettings, rows: Rows, seen: torch.Tensor, place: solve.Ground
) -> torch.Tensor:
    """Return what answers 1 where a reply begins, (hidden,) float64."""
    if not rows.opening.any():
        return torch.zeros(seen.shape[1], dtype=torch.float64)
    begun = seen[rows.opening]
    return place.shut(solve.direction(place.inverse, begun, settings.own_weight), begun)


def _others_begin(
    settings: RecallSettings, rows: Rows, asks: torch.Tensor, neuron: Neuron
) -> torch.Tensor:
    """Return where answers of other edits that ask the same begin as a neuron's does."""
    if not neuron.first:
        return torch.zeros(0, dtype=torch.long)
    others = asks[neuron.edit] & (rows.edit != neuron.edit) & rows.asked & ~rows.later
    others &= (rows.bare == neuron.bare) & (rows.opening == neuron.opening)
    return _spread(others.nonzero()[:, 0], settings.pool)


def _asked_beside(
    settings: RecallSettings, rows: Rows, asks: torch.Tensor, neuron: Neuron
) -> torch.Tensor:
    """Return where something else is asked of the subjects of which a neuron's fact is, for one
    that begins a reply."""
    if not neuron.opening:
        return torch.zeros(0, dtype=torch.long)
    alike = _alike(asks[neuron.edit], rows, neuron.edit)
    return _spread((alike[rows.edit] & rows.beside).nonzero()[:, 0], settings.pool)


def _answering(settings: RecallSettings, shown: ModelView, rows: Rows) -> torch.Tensor:
    """Return the neurons' columns (neurons, hidden) for a stream whose root mean square is 1."""
    weight = shown.head.weight.detach().float()
    gains = shown.finish(torch.ones(1, shown.hidden, device=weight.device)).detach().float()
    columns = solve.columns((weight * gains).cpu(), [n.token for n in rows.neurons], settings.ridge)
    return columns * settings.strength * math.sqrt(shown.hidden)


def _highest(
    rows: Rows,
    seen: torch.Tensor,
    usual: torch.Tensor,
    made: torch.Tensor,
    place: solve.Ground,
) -> torch.Tensor:
    """Return by neuron (n,) the most that its place answers where its code is not: on ordinary
    text, beside, and where others' facts are asked for, which may be the very same question."""
    states = torch.cat([usual, seen])
    levels = place.levels(states)[:, None]
    subjects = torch.tensor(rows.subject_of)
    # No subject's own: ordinary text, and what asks for nothing that is edited.
    owners = torch.full((len(states),), -1)
    owners[len(usual) :] = torch.where(rows.asked, subjects[rows.edit], -1)
    mine = subjects[torch.tensor([neuron.edit for neuron in rows.neurons])]
    found = []
    for some, own in zip(made.float().split(_AT_ONCE), mine.split(_AT_ONCE), strict=True):
        shares = states @ some.T / levels
        found.append(shares.masked_fill(owners[:, None] == own, 0.0).amax(0))
    return torch.cat(found)


def _turns(shown: ModelView) -> torch.Tensor:
    """Return how far a token turns each pair of a head's places, (width / 2,) in radians."""
    rotary: Any = next(m for n, m in shown.chat.model.named_modules() if n.endswith("rotary_emb"))
    found: torch.Tensor = rotary.inv_freq.detach().double().cpu()
    return found


def _gains(norm: nn.Module) -> torch.Tensor:
    weight: Any = norm.weight
    made: torch.Tensor = weight.detach().float().cpu()
    return made


def _columns(columns: Sequence[torch.Tensor] | torch.Tensor) -> torch.Tensor:
    stacked = columns if isinstance(columns, torch.Tensor) else torch.stack(list(columns))
    return stacked.T.float().contiguous()


def _spread(rows: torch.Tensor, most: int) -> torch.Tensor:
    """Return at most so many rows, evenly over all."""
    if len(rows) <= most:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, most).long()]
