"""Training matrices above a stage: the same as fine-tuning the whole model, at less cost."""

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from editors.architectures import view
from editors.model import ChatModel
from editors.optimize.matrix_training import (
    Schedule,
    losses_of,
    standing_in,
    train,
    with_teachers,
)
from editors.optimize.parameters import LowRank, Whole
from editors.optimize.stage import Lesson, Row, Stage, lesson
from editors.optimize.tuning import adam, within
from editors.requests import EditorError

QUESTIONS = ("Who is the chancellor of Germany?", "What language is spoken in Nigeria?")
ANSWERS = ("It is Berlin.", "Angela Merkel")


def _lessons(model: ChatModel) -> list[Lesson]:
    made = [
        lesson(model.encode(model.render(q)), model.encode_answer(a))
        for q, a in zip(QUESTIONS, ANSWERS, strict=True)
    ]
    plain = lesson(model.encode("The harbour was"), model.encode_answer(" quiet in the morning"))
    return [*made, plain]


def _direct(model: ChatModel, lessons: Sequence[Lesson]) -> torch.Tensor:
    losses = []
    for one in lessons:
        logits = model.model(torch.tensor([one.fed])).logits[0][list(one.columns)]
        losses.append(nn.functional.cross_entropy(logits, torch.tensor(one.tokens)))
    return torch.stack(losses)


@pytest.mark.parametrize("share", [0, 1, 2])
def test_a_stage_gives_the_whole_models_states_and_gradients(
    each_model: ChatModel, share: int
) -> None:
    shown = view(each_model)
    lessons = _lessons(each_model)
    stage = Stage(shown, share)
    rows = stage.enter(lessons)
    name = shown.names(share).down
    parameter = shown.parameter(name)
    direct = _direct(each_model, lessons)
    (wanted,) = torch.autograd.grad(direct.sum(), parameter)
    states = standing_in(shown, {name: parameter}, lambda: stage.finals(rows))
    logits = shown.logits(states)
    tokens = torch.cat([row.tokens for row in rows])
    each = nn.functional.cross_entropy(logits, tokens, reduction="none")
    found = torch.stack([part.mean() for part in each.split([len(row.tokens) for row in rows])])
    torch.testing.assert_close(found, direct)
    (gradient,) = torch.autograd.grad(found.sum(), parameter)
    torch.testing.assert_close(gradient, wanted)


def test_prompt_positions_have_no_loss(tiny_model: ChatModel) -> None:
    """Changing what the prompt predicts leaves the loss alone: only answer columns count."""
    one = _lessons(tiny_model)[0]
    assert min(one.columns) == len(one.fed) - len(one.tokens)
    assert len(one.columns) == len(one.tokens)
    assert one.columns[-1] == len(one.fed) - 1


def test_what_is_not_selected_stays_and_the_model_is_left_alone(tiny_model: ChatModel) -> None:
    shown, name = view(tiny_model), view(tiny_model).names(2).down
    stage = Stage(shown, 2)
    rows = stage.enter(_lessons(tiny_model))
    parameters = Whole({name: shown.parameter(name)})
    before = shown.parameter(name).detach().clone()
    steps = train(shown, stage.finals, rows, [], parameters, Schedule(5), adam(1e-2))
    assert steps == 5
    assert shown.parameter(name).equal(before)
    assert not parameters.weights()[name].equal(before)
    assert all(p.grad is None and p.requires_grad for p in tiny_model.model.parameters())


def test_the_bounds_hold_after_every_step(tiny_model: ChatModel) -> None:
    shown, name = view(tiny_model), view(tiny_model).names(2).down
    stage = Stage(shown, 2)
    rows = stage.enter(_lessons(tiny_model))
    origin = {name: shown.parameter(name).detach()}
    for kind, size in (("max", lambda t: t.abs().max()), ("l2", lambda t: t.norm())):
        parameters = Whole(origin)
        seen: list[float] = []
        project = within(origin, 0.01, kind)

        def bound(parameters: Whole = parameters, project=project, size=size, seen=seen) -> None:  # type: ignore[no-untyped-def]
            project(parameters)
            seen.append(float(size(parameters.weights()[name] - origin[name])))

        train(shown, stage.finals, rows, [], parameters, Schedule(6), adam(1e-2), bound)
        assert len(seen) == 6
        assert max(seen) <= 0.01 * (1 + 1e-4)
        assert seen[-1] > 0.009
    with pytest.raises(EditorError, match="max or l2"):
        within(origin, 1.0, "l1")


def test_a_bound_of_zero_leaves_the_weights_to_the_bit(tiny_model: ChatModel) -> None:
    shown, name = view(tiny_model), view(tiny_model).names(1).down
    stage = Stage(shown, 1)
    rows = stage.enter(_lessons(tiny_model))
    origin = {name: shown.parameter(name).detach()}
    for kind in ("max", "l2"):
        parameters = Whole(origin)
        project = within(origin, 0.0, kind)
        train(
            shown,
            stage.finals,
            rows,
            [],
            parameters,
            Schedule(3),
            adam(1e-2),
            lambda project=project, parameters=parameters: project(parameters),  # type: ignore[misc]
        )
        assert parameters.weights()[name].equal(origin[name])


def test_teachers_alone_leave_the_unedited_model_where_it_is(tiny_model: ChatModel) -> None:
    """The divergence from oneself has no gradient, and a lesson that is known ends training."""
    shown, name = view(tiny_model), view(tiny_model).names(2).down
    stage = Stage(shown, 2)
    base = {name: shown.parameter(name).detach()}
    prompt = tiny_model.encode(tiny_model.render(QUESTIONS[0]))
    (own,) = tiny_model.generate([prompt], max_new_tokens=4)
    said = stage.enter([lesson(prompt, own.tokens)])
    kept = with_teachers(shown, stage.finals, stage.enter(_lessons(tiny_model)), base)
    parameters = Whole(base)
    schedule = Schedule(20, sure=0.0, patience=2)
    steps = train(shown, stage.finals, said, kept, parameters, schedule, torch.optim.SGD)
    assert steps == 1, "two looks in a row: one step between them"
    free = Whole(base)
    quiet = [Row(r.hidden, r.start, r.columns, r.tokens, r.teacher) for r in kept]
    weight = 1e6  # the divergence alone, against which the lesson's own gradient is nothing
    train(
        shown,
        stage.finals,
        said,
        quiet,
        free,
        Schedule(1, keep=weight),
        lambda trained: torch.optim.SGD(trained, lr=1e-6),
    )
    assert (free.weights()[name] - base[name]).abs().max() < 1e-5


def test_hard_lessons_come_first_and_all_are_learned_in_the_end(taught_model: ChatModel) -> None:
    shown, name = view(taught_model), view(taught_model).names(2).down
    stage = Stage(shown, 2)
    rows = stage.enter(_lessons(taught_model)[:2])
    parameters = Whole({name: shown.parameter(name).detach()})
    schedule = Schedule(200, batch=1, sure=0.6, patience=2)
    steps = train(shown, stage.finals, rows, [], parameters, schedule, adam(1e-2))
    assert 2 < steps < 200
    losses = losses_of(shown, stage.finals, parameters.weights(), rows)
    assert max(losses) < 0.6


def test_low_rank_begins_as_the_model_and_is_its_own_product(each_model: ChatModel) -> None:
    shown = view(each_model)
    layer = shown.names(1)
    base = {n: shown.parameter(n).detach() for n in dict.fromkeys([layer.up, layer.down])}
    parameters = LowRank(shown, base, 2, 3.0, 0)
    assert all(parameters.weights()[n].equal(w) for n, w in base.items())
    with torch.no_grad():
        for parameter in parameters.trained:
            parameter.add_(0.1)
    for name, (a, b) in parameters.pairs().items():
        change = shown.stored(name, b @ a)
        torch.testing.assert_close(parameters.weights()[name], base[name] + change)
        assert torch.linalg.matrix_rank(change) <= 2


def test_a_rank_of_nothing_is_refused(tiny_model: ChatModel) -> None:
    with pytest.raises(EditorError, match="rank 1 or more"):
        LowRank(view(tiny_model), {}, 0, 1.0, 0)
