"""The weights of recall heads, on states made up."""

from __future__ import annotations

import dataclasses

import torch

from editors.memory import recall_solve as solve
from editors.memory import recall_weights as weights
from editors.memory.recall import Recall
from editors.memory.recall_rows import Neuron, Rows

HIDDEN = 24
ASKED, PAST = range(0, 4), range(4, 8)


def some_rows() -> Rows:
    """One edit, asked for four times, and four times of another year: the same but for a little."""
    draw = torch.Generator().manual_seed(0)
    states = torch.randn(40, HIDDEN, generator=draw)
    same = torch.randn(HIDDEN, generator=draw)
    states[list(ASKED)] = 0.2 * states[list(ASKED)] + same
    states[list(PAST)] = 0.2 * states[list(PAST)] + same + torch.eye(HIDDEN)[0]
    states[:, -1] = 3.0  # every state has a part that is the same, which levels are read of
    asked, past = (torch.isin(torch.arange(40), torch.tensor(some)) for some in (ASKED, PAST))
    none = torch.zeros(40, dtype=torch.bool)
    return Rows(
        query=states,
        inner=states,
        scale=torch.ones(40),
        since=torch.full((40,), 3),
        edit=torch.where(asked | past, 0, 1),
        wording=torch.full((40,), -1),
        asked=asked,
        own=asked,
        later=none,
        bare=asked,
        opening=none,
        beside=past,
        past=past,
        neurons=(),
        named=states[:1],
        states=states[:1],
        spread=torch.ones(1),
        owner=torch.zeros(1, dtype=torch.long),
        lookalikes=states[:0],
        subjects=("Germany",),
        subject_of=(0, 0),
        wordings=(),
    )


def test_a_filter_tells_another_time_from_now() -> None:
    rows = some_rows()
    rows = dataclasses.replace(rows, edit=torch.zeros_like(rows.edit), subject_of=(0,))
    blind = dataclasses.replace(rows, past=torch.zeros_like(rows.past))
    answered = []
    for one in (rows, blind):
        place = solve.ground(one.query, one.query, torch.arange(40) == 39, 0.02)
        made = weights.filters(Recall(), place, one, one.asked[None], 16)
        told = one.query.double() @ made.query.T @ made.keys[0]
        answered.append(float(told[list(PAST)].mean() / told[list(ASKED)].mean()))
    assert answered[0] < 0.4 < 0.6 < answered[1]


def test_what_is_written_for_one_subject_is_apart_from_its_other_edits() -> None:
    """Their code is the same: only the place tells which of them is asked for."""
    first = Neuron(0, 7, True, True, False, (0, 1), (0,))
    other = Neuron(1, 8, True, True, False, (4, 5), (0,))
    alike = Neuron(1, 7, True, True, False, (6,), (0,))  # the same token does no harm
    rows = dataclasses.replace(some_rows(), neurons=(first, other, alike))
    assert [found.tolist() for found in rows.apart()] == [[4, 5], [0, 1, 6], [4, 5]]
    two = dataclasses.replace(rows, subjects=("Germany", "Kenya"), subject_of=(0, 1))
    assert [found.tolist() for found in two.apart()] == [[], [6], [4, 5]]


def test_a_flag_makes_its_subjects_own_tokens_read_as_it_says() -> None:
    """Whatever they are read as without it: a naming differs from the others by a little alone."""
    draw = torch.Generator().manual_seed(3)
    usual = torch.randn(2, HIDDEN, generator=draw)
    owner = torch.tensor([0, 0, 0, 1, 1])
    states = usual[owner] + 0.01 * torch.randn(5, HIDDEN, generator=draw)
    ordinary = torch.randn(200, HIDDEN, generator=draw)
    reading = torch.randn(4, HIDDEN, generator=draw)
    sizes = torch.tensor([3.0] * 11 + [4.5])
    room = solve.room(reading, torch.ones(HIDDEN), [ordinary], ordinary[:3], sizes)
    rows = dataclasses.replace(
        some_rows(), states=states, owner=owner, subjects=("Germany", "Kenya"), subject_of=(0, 1)
    )
    keys = torch.randn(2, 3, generator=draw).double()
    codes = solve.codes(2, 8)
    filters = solve.Filters(torch.zeros(3, HIDDEN).double(), keys)
    flags = weights.written(rows, filters, codes, room)
    read = (states.double() + flags[owner]) @ room.read.T
    said = torch.cat([keys, codes, torch.ones(2, 1).double()], dim=1)[owner]
    torch.testing.assert_close(read, said, atol=0.05, rtol=0)


def test_a_flag_is_told_from_other_names_that_end_alike() -> None:
    draw = torch.Generator().manual_seed(6)
    ends = 3.0 * torch.randn(HIDDEN, generator=draw)
    names = ends + 0.5 * torch.randn(12, HIDDEN, generator=draw)
    owner = torch.arange(12).repeat_interleave(5)
    named = names[owner] + 0.1 * torch.randn(60, HIDDEN, generator=draw)
    rows = dataclasses.replace(some_rows(), named=named, owner=owner)
    ordinary = torch.randn(400, HIDDEN, generator=draw)
    place = solve.ground(named, ordinary, torch.arange(400) == 399, 0.02)
    own = [named[owner == at] for at in range(12)]

    def strange(settings: Recall) -> float:
        """Return the most that a flag answers on another's namings."""
        made = weights.flag_directions(settings, rows, own, place)
        shares = named.double() @ made.T / place.levels(named).double()[:, None]
        shares[torch.arange(60), owner] = 0.0
        return float(shares.amax())

    assert strange(Recall()) < 0.85 * strange(Recall(others=0))


def test_what_begins_a_reply_opens_nowhere_else() -> None:
    """Where replies begin states differ by little: what tells them apart is large elsewhere."""
    draw = torch.Generator().manual_seed(7)
    states = 5.0 * torch.eye(HIDDEN)[0] + 0.1 * torch.randn(40, HIDDEN, generator=draw)
    states[:4] += torch.eye(HIDDEN)[1]
    asked = torch.arange(40) < 4
    neuron = Neuron(0, 7, True, True, True, (0, 1, 2, 3), (0,))
    rows = dataclasses.replace(some_rows(), opening=asked, bare=asked, neurons=(neuron,))
    ordinary = torch.randn(4000, HIDDEN, generator=draw)
    ordinary[:, -1] = 3.0
    begins = torch.arange(4000) == 3999
    place = solve.ground(states, ordinary, begins, 0.02)
    often = []
    for settings in (Recall(), Recall(opening_weight=0.0)):
        made, opens = weights.places(settings, rows, asked[None], states, place)
        told = [
            (some @ made[0].float() / place.levels(some)) > opens[0] for some in (ordinary, states)
        ]
        assert told[1].tolist() == asked.tolist()
        often.append(float(told[0].float().mean()))
    assert often[0] < 0.6 * often[1]
