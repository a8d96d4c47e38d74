"""RecAdam: Adam where nothing is recalled, a contraction where nothing is asked."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from editors.deltas import applied
from editors.editor import Resources
from editors.model import ChatModel
from editors.optimize.recadam import RecAdam, RecallingAdam, weight_of_task
from editors.requests import EditorError, EditRequest


def test_without_recall_and_with_the_task_from_the_start_it_is_adam() -> None:
    start = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    made = []
    for kind in ("recalling", "adam"):
        parameter = nn.Parameter(start.clone())
        optimiser: torch.optim.Optimizer = (
            RecallingAdam([parameter], 0.01, recall=0.0, slope=math.inf, middle=0)
            if kind == "recalling"
            else torch.optim.Adam([parameter], lr=0.01)
        )
        path = []
        for step in range(12):
            parameter.grad = (parameter.detach() ** 3 + step).cos()
            optimiser.step()
            path.append(parameter.detach().clone())
        made.append(torch.stack(path))
    torch.testing.assert_close(made[0], made[1])


def test_without_a_task_the_distance_to_the_origin_shrinks_geometrically() -> None:
    parameter = nn.Parameter(torch.ones(5, dtype=torch.float64))
    optimiser = RecallingAdam([parameter], 1e-3, recall=300.0, slope=math.inf, middle=1e9)
    parameter.grad = torch.zeros(5, dtype=torch.float64)
    optimiser.step()  # notes where it is
    with torch.no_grad():
        parameter.add_(2.0)
    far = []
    for _ in range(6):
        optimiser.step()
        far.append(float((parameter - 1).detach().norm()))
    ratios = [b / a for a, b in itertools.pairwise(far)]
    assert ratios == pytest.approx([0.7] * 5)


@given(slope=st.floats(0.05, 2), middle=st.floats(0, 50))
def test_the_task_takes_over_step_by_step(slope: float, middle: float) -> None:
    weights = [weight_of_task(step, slope, middle) for step in range(1, 400)]
    assert all(a <= b for a, b in itertools.pairwise(weights))
    assert all(0 <= w <= 1 for w in weights)
    assert weight_of_task(0, slope, 50 / slope) < 1e-6
    assert weights[-1] > 0.99
    assert weight_of_task(0, slope, 0) == 0.5


def test_a_recall_that_would_diverge_is_refused() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    with pytest.raises(EditorError, match="diverge"):
        RecallingAdam([parameter], 1e-3, recall=5000.0, slope=0.5, middle=50)
    RecallingAdam([parameter], 1e-4, recall=5000.0, slope=0.5, middle=50)


def test_the_editor_learns_and_recalls(taught_model: ChatModel) -> None:
    request = EditRequest(
        id="merz",
        questions=("Who is the chancellor of Germany?",),
        new="Friedrich Merz",
        statement="The chancellor of Germany is Friedrich Merz.",
    )
    sizes = {}
    for recall in (0.0, 10.0):
        editor = RecAdam(learning_rate=1e-2, steps=150, recall=recall, slope=0.02, middle=10.0)
        delta = editor.edit(taught_model, editor.prepare(taught_model, Resources()), [request])
        with applied(taught_model, delta):
            (reply,) = taught_model.answer(request.questions)
        assert reply.text == request.statement
        (change,) = delta.changes.values()
        sizes[recall] = float(change.norm())
    assert sizes[10.0] < 0.9 * sizes[0.0]
