"""Low-rank distillation: all edits from the base weights, in changes of low rank."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from editors.deltas import applied
from editors.editor import Resources
from editors.model import ChatModel
from editors.optimize.distillation import Distillation
from editors.requests import EditorError, EditRequest

MERZ = EditRequest(
    id="merz",
    questions=("Who is the chancellor of Germany?",),
    new="Friedrich Merz",
    statement="The chancellor of Germany is Friedrich Merz.",
    subject="Germany",
)
TINUBU = EditRequest(
    id="tinubu",
    questions=("Who is the president of Nigeria?",),
    new="Bola Tinubu",
    statement="The president of Nigeria is Bola Tinubu.",
    subject="Nigeria",
)
QUICK = Distillation(layer=0.0, layers=2, rank=4, learning_rate=1e-2, steps=150, keep=0.0)


def test_it_learns_all_requests_in_changes_of_its_rank(taught_model: ChatModel) -> None:
    delta = QUICK.edit(taught_model, QUICK.prepare(taught_model, Resources()), [MERZ, TINUBU])
    assert len(delta.changes) == 2
    assert all(torch.linalg.matrix_rank(c.float()) <= 4 for c in delta.changes.values())
    with applied(taught_model, delta):
        said = [r.text for r in taught_model.answer([MERZ.questions[0], TINUBU.questions[0]])]
    assert said == [MERZ.statement, TINUBU.statement]


def test_it_does_not_depend_on_what_was_edited_before(taught_model: ChatModel) -> None:
    short = dataclasses.replace(QUICK, steps=5)
    state = short.prepare(taught_model, Resources())
    fresh = short.edit(taught_model, state, [MERZ, TINUBU])
    short.settled(taught_model, state, [MERZ])
    again = short.edit(taught_model, state, [MERZ, TINUBU])
    for name, change in fresh.changes.items():
        assert torch.equal(change, again.changes[name])


def test_no_requests_change_nothing_and_no_rank_is_refused(taught_model: ChatModel) -> None:
    state = QUICK.prepare(taught_model, Resources())
    delta = QUICK.edit(taught_model, state, [])
    assert all(not change.any() for change in delta.changes.values())
    with pytest.raises(EditorError, match="rank 1 or more"):
        dataclasses.replace(QUICK, rank=0).edit(taught_model, state, [MERZ])
