"""The answers of recall heads: neurons that open where code and place come together. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from editors.architectures import ModelView
from editors.deltas import MlpExpansion
from editors.memory import recall_solve as solve
from editors.memory.recall_head import Codes
from editors.memory.recall_lines import Ordinary
from editors.memory.recall_rows import Neuron, Rows, spread

if TYPE_CHECKING:
    from editors.memory.recall import RecallSettings

_AT_ONCE = 256  # gates that are compared with everything together


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
    return MlpExpansion(
        layer, gate.float(), up.float().contiguous(), columns.T.float().contiguous()
    )


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
    return spread(others.nonzero()[:, 0], settings.pool)


def _asked_beside(
    settings: RecallSettings, rows: Rows, asks: torch.Tensor, neuron: Neuron
) -> torch.Tensor:
    """Return where something else is asked of the subjects of which a neuron's fact is, for one
    that begins a reply."""
    if not neuron.opening:
        return torch.zeros(0, dtype=torch.long)
    alike = rows.alike(asks[neuron.edit], neuron.edit)
    return spread((alike[rows.edit] & rows.beside).nonzero()[:, 0], settings.pool)


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
