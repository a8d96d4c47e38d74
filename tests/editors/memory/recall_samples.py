"""Rows of states made up, for the parts of recall heads."""

from __future__ import annotations

import torch

from editors.memory.recall_rows import Rows

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
