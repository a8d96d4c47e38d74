"""The gates of recall heads' answers, on states made up."""

from __future__ import annotations

import dataclasses

import torch
from recall_samples import HIDDEN, some_rows

from editors.memory import recall_answers
from editors.memory import recall_solve as solve
from editors.memory.recall import Recall
from editors.memory.recall_rows import Neuron


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
        made, opens = recall_answers.places(settings, rows, asked[None], states, place)
        told = [
            (some @ made[0].float() / place.levels(some)) > opens[0] for some in (ordinary, states)
        ]
        assert told[1].tolist() == asked.tolist()
        often.append(float(told[0].float().mean()))
    assert often[0] < 0.6 * often[1]
