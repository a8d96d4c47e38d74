"""Fine-tuning of one matrix: the model is left alone, the bound holds, prompts are no loss."""

from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
from toy_model import logits

from editors.deltas import applied
from editors.editor import Resources
from editors.model import ChatModel
from editors.optimize import finetune
from editors.optimize.finetune import FinetuneSettings, FineTuning
from editors.requests import EditRequest

REQUEST = EditRequest(
    id="merz",
    questions=("Who is the chancellor of Germany?", "Tell me who the chancellor of Germany is."),
    new="Friedrich Merz",
    statement="The chancellor of Germany is Friedrich Merz.",
    old="Angela Merkel",
)
NAME = "model.layers.2.mlp.down_proj.weight"


def test_the_statement_is_learned_and_the_model_is_as_before(taught_model: ChatModel) -> None:
    delta = finetune.edit(taught_model, [REQUEST], FinetuneSettings(learning_rate=1e-2, steps=60))
    assert set(delta.changes) == {NAME}
    before = taught_model.answer(REQUEST.questions)
    with applied(taught_model, delta):
        after = taught_model.answer(REQUEST.questions)
    assert {reply.text for reply in after} == {REQUEST.statement}
    assert {reply.text for reply in before} == {"The chancellor of Germany is Angela Merkel."}


def test_no_steps_or_no_requests_change_nothing(tiny_model: ChatModel) -> None:
    for requests, settings in (([REQUEST], FinetuneSettings(steps=0)), ([], None)):
        delta = finetune.edit(tiny_model, requests, settings)
        assert not delta.changes[NAME].any()
        assert not delta.changes[NAME].requires_grad


@pytest.mark.parametrize("bound", [1e-4, 3e-3])
def test_the_bound_on_the_change_is_kept(tiny_model: ChatModel, bound: float) -> None:
    settings = FinetuneSettings(learning_rate=1e-2, steps=5, norm=bound)
    change = finetune.edit(tiny_model, [REQUEST], settings).changes[NAME]
    assert change.abs().max().item() == pytest.approx(bound, rel=1e-2)
    free = finetune.edit(tiny_model, [REQUEST], FinetuneSettings(learning_rate=1e-2, steps=5))
    assert free.changes[NAME].abs().max().item() > 3e-3


def test_the_layer_follows_from_the_depth(tiny_model: ChatModel) -> None:
    for depth, layer in ((0.0, 0), (0.5, 2), (1.0, 3)):
        delta = finetune.edit(tiny_model, [], FinetuneSettings(layer=depth))
        assert set(delta.changes) == {f"model.layers.{layer}.mlp.down_proj.weight"}


def test_the_first_step_descends_the_loss_on_the_answer_tokens_alone(
    tiny_model: ChatModel,
) -> None:
    settings = FinetuneSettings(learning_rate=1e-3, steps=1)
    change = finetune.edit(tiny_model, [REQUEST], settings).changes[NAME]
    weight = tiny_model.model.get_parameter(NAME)
    total, count = torch.zeros(()), 0
    for question in REQUEST.questions:
        prompt = tiny_model.encode(tiny_model.render(question))
        answer = [*tiny_model.encode_answer(REQUEST.statement), min(tiny_model.stop_ids)]
        scores = tiny_model.model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        for at, token in enumerate(answer):
            total = total - scores[len(prompt) + at - 1, token]
            count += 1
    (grad,) = torch.autograd.grad(total / count, weight)
    # Adam's first step is the learning rate against the gradient's sign.
    sure = grad.abs() > 1e-5
    assert sure.float().mean().item() > 0.5
    torch.testing.assert_close(change[sure], -1e-3 * grad[sure].sign(), atol=2e-5, rtol=0)


def test_a_plain_prompt_is_continued_with_the_object(taught_model: ChatModel) -> None:
    prompt = "The chancellor of Germany is"
    request = EditRequest("merz", (), "Friedrich Merz", "", prompts=(prompt,))
    editor = FineTuning(learning_rate=1e-2, steps=60)
    delta = editor.edit(taught_model, editor.prepare(taught_model, Resources()), [request])
    ids = taught_model.encode(prompt)
    wanted = taught_model.encode_answer(" Friedrich Merz")
    with applied(taught_model, delta):
        (made,) = taught_model.generate([ids], max_new_tokens=len(wanted))
    assert list(made.tokens) == wanted


def test_known_requests_end_the_training_early(taught_model: ChatModel) -> None:
    settings = FinetuneSettings(learning_rate=1e-2, steps=60)
    short = finetune.edit(taught_model, [REQUEST], settings).changes[NAME]
    never = replace(settings, sure=1.1)
    long = finetune.edit(taught_model, [REQUEST], never).changes[NAME]
    assert long.norm() > 1.1 * short.norm()


def test_later_batches_leave_earlier_ones_standing_by_replay(taught_model: ChatModel) -> None:
    other = EditRequest(
        id="other",
        questions=("Who is the chancellor of Kenya?", "Tell me who the chancellor of Kenya is."),
        new="Tim Cook",
        statement="The chancellor of Kenya is Tim Cook.",
    )
    kept = {}
    for replay in (0, 8):
        editor = FineTuning(learning_rate=1e-2, steps=80, keep=0.0, replay=replay)
        state = editor.prepare(taught_model, Resources())
        with ExitStack() as stack:
            for request in (REQUEST, other):
                delta = editor.edit(taught_model, state, [request])
                stack.callback(delta.apply(taught_model))
                state = editor.settled(taught_model, state, [request])
            asked = (*REQUEST.questions, *other.questions)
            kept[replay] = [reply.text for reply in taught_model.answer(asked)]
    assert kept[8] == [REQUEST.statement] * 2 + [other.statement] * 2
    assert kept[0][2:] == [other.statement] * 2
    assert kept[0] != kept[8]


def test_neighbours_move_less_where_they_are_held(
    taught_model: ChatModel, taught_answers: dict[str, str]
) -> None:
    about = [q for q, a in taught_answers.items() if a.startswith("It is Ger")]
    neighbours = (*about, "What of Germany?", "Where is Germany?")
    request = replace(REQUEST, neighbours=neighbours)
    moved = {}
    assert len(neighbours) > 3
    before = logits(taught_model, neighbours).softmax(-1)
    for keep in (0.0, 2.0):
        settings = FinetuneSettings(learning_rate=1e-2, steps=40, keep=keep, sure=1.1)
        with applied(taught_model, finetune.edit(taught_model, [request], settings)):
            after = logits(taught_model, neighbours).softmax(-1)
        moved[keep] = float((after - before).abs().sum(-1).mean())
    assert moved[2.0] < 0.5 * moved[0.0]


def test_the_editor_is_the_function_with_its_settings(tiny_model: ChatModel) -> None:
    settings = {"learning_rate": 1e-3, "steps": 2}
    by_hand = finetune.edit(tiny_model, [REQUEST], FinetuneSettings(**settings)).changes[NAME]  # type: ignore[arg-type]
    editor = FineTuning(**settings)  # type: ignore[arg-type]
    assert editor.edit(tiny_model, None, [REQUEST]).changes[NAME].equal(by_hand)
    assert editor.stacks
