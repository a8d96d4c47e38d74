"""The flags of recall heads, on states made up."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from recall_samples import HIDDEN, some_rows

from editors.memory import recall_flags
from editors.memory import recall_solve as solve
from editors.memory.recall import Recall
from editors.memory.recall_lines import Ordinary


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
    flags = recall_flags.written(rows, filters, codes, room)
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
        made = recall_flags.flag_directions(settings, rows, own, place)
        shares = named.double() @ made.T / place.levels(named).double()[:, None]
        shares[torch.arange(60), owner] = 0.0
        return float(shares.amax())

    assert strange(Recall()) < 0.85 * strange(Recall(others=0))


def test_flags_open_where_they_do_however_many_are_compared_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw = torch.Generator().manual_seed(8)
    names = torch.randn(5, HIDDEN, generator=draw)
    owner = torch.arange(5).repeat_interleave(4)
    named = 3.0 * names[owner] + 0.1 * torch.randn(20, HIDDEN, generator=draw)
    text = torch.randn(400, HIDDEN, generator=draw)
    first = torch.arange(400) == 399
    rows = dataclasses.replace(
        some_rows(),
        named=named,
        states=named,
        spread=torch.ones(20),
        owner=owner,
        subjects=tuple("ABCDE"),
        subject_of=tuple(range(5)),
    )
    ordinary = Ordinary(text, text, text, first)
    sizes = torch.tensor([3.0] * 11 + [4.5])
    room = solve.room(text[:4], torch.ones(HIDDEN), [text], text[:3], sizes)
    filters = solve.Filters(torch.zeros(3, HIDDEN).double(), torch.ones(5, 3).double())
    made = []
    for together in (256, 2):
        monkeypatch.setattr("editors.memory.recall_flags._AT_ONCE", together)
        made.append(recall_flags.flags(Recall(), ordinary, rows, filters, solve.codes(5, 8), room))
    for one, other in zip(*made, strict=True):
        torch.testing.assert_close(one, other)
