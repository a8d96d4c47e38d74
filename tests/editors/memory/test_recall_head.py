"""What recall heads ask, on states made up."""

from __future__ import annotations

import dataclasses

import torch
from recall_samples import ASKED, PAST, some_rows

from editors.memory import recall_head
from editors.memory import recall_solve as solve
from editors.memory.recall import Recall


def test_a_filter_tells_another_time_from_now() -> None:
    rows = some_rows()
    rows = dataclasses.replace(rows, edit=torch.zeros_like(rows.edit), subject_of=(0,))
    blind = dataclasses.replace(rows, past=torch.zeros_like(rows.past))
    answered = []
    for one in (rows, blind):
        place = solve.ground(one.query, one.query, torch.arange(40) == 39, 0.02)
        made = recall_head.filters(Recall(), place, one, one.asked[None], 16)
        told = one.query.double() @ made.query.T @ made.keys[0]
        answered.append(float(told[list(PAST)].mean() / told[list(ASKED)].mean()))
    assert answered[0] < 0.4 < 0.6 < answered[1]
