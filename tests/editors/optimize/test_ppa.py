"""PPA: one expert a batch, on for its own questions, off to the bit for all others."""

from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch

from editors.architectures import view
from editors.deltas import DeltaError, DenseDelta, applied
from editors.editor import Resources
from editors.model import ChatModel
from editors.optimize.ppa import Expert, Ppa, PpaDelta
from editors.requests import EditorError, EditRequest

FIRST = EditRequest(
    id="merz",
    questions=("Who is the chancellor of Germany?", "Tell me who the chancellor of Germany is."),
    new="Friedrich Merz",
    statement="The chancellor of Germany is Friedrich Merz.",
)
SECOND = EditRequest(
    id="tinubu",
    questions=("Who is the president of Nigeria?",),
    new="Tim Cook",
    statement="The president of Nigeria is Tim Cook.",
)
EDITOR = Ppa(first=0.5, read=0.25, learning_rate=2e-2, steps=100, threshold=0.9)


def _sequence(
    model: ChatModel, editor: Ppa, *batches: EditRequest
) -> tuple[list[PpaDelta], ExitStack]:
    """Make the batches in sequence as the bench does; the last delta is applied."""
    state, stack, deltas = editor.prepare(model, Resources()), ExitStack(), []
    for at, request in enumerate(batches, 1):
        stack.close()
        delta = editor.edit(model, state, batches[:at])
        stack.callback(delta.apply(model))
        state = editor.settled(model, state, [request])
        deltas.append(delta)
    return deltas, stack


def test_each_batch_answers_its_own_questions_and_others_stay(
    taught_model: ChatModel, taught_answers: dict[str, str]
) -> None:
    edited = {*FIRST.questions, *SECOND.questions}
    others = [q for q in taught_answers if "Germany" not in q and "Nigeria" not in q][:12]
    before = taught_model.answer(others)
    deltas, stack = _sequence(taught_model, EDITOR, FIRST, SECOND)
    with stack:
        mixed = taught_model.answer([*others, *edited])
        (alone,) = taught_model.answer(SECOND.questions)
    answers = {reply.question: reply.text for reply in mixed}
    assert {answers[q] for q in FIRST.questions} == {FIRST.statement}
    assert answers[SECOND.questions[0]] == alone.text == SECOND.statement
    assert [answers[q] for q in others] == [reply.text for reply in before]
    assert not taught_model.runtimes
    assert [len(delta.experts) for delta in deltas] == [1, 2]


def test_training_a_batch_leaves_earlier_experts_as_they_are(tiny_model: ChatModel) -> None:
    editor = replace(EDITOR, steps=3)
    deltas, stack = _sequence(tiny_model, editor, FIRST, SECOND)
    stack.close()
    first, again = deltas[0].experts[0], deltas[1].experts[0]
    assert again.memory.equal(first.memory)
    for name, (a, b) in first.pairs.items():
        assert again.pairs[name][0].equal(a)
        assert again.pairs[name][1].equal(b)
        assert b.any()


def test_an_untrained_expert_is_the_model_to_the_bit(tiny_model: ChatModel) -> None:
    deltas, stack = _sequence(tiny_model, replace(EDITOR, steps=0), FIRST)
    ids = torch.tensor([tiny_model.encode(tiny_model.render(FIRST.questions[0]))])
    with stack:
        during = tiny_model.model(ids).logits
    assert deltas[0].route(deltas[0].experts[0].memory[0]) == 0
    torch.testing.assert_close(during, tiny_model.model(ids).logits, atol=0, rtol=0)


def test_exactly_one_expert_is_on_and_the_newest_wins_a_tie(tiny_model: ChatModel) -> None:
    editor = replace(EDITOR, steps=0)
    state = editor.prepare(tiny_model, Resources())
    size = tiny_model.hidden_size
    axes = torch.eye(size)
    memory = [axes[:1], axes[1:2], axes[1:2]]
    experts = tuple(Expert({}, one, axes[3:4]) for one in memory)
    delta = PpaDelta(state.embedder, experts, 0.6, 0.1)
    assert delta.route(axes[0]) == 0
    assert delta.route(axes[1]) == 2, "asked again later: the newer value"
    assert delta.route(axes[2]) is None
    near = torch.nn.functional.normalize(axes[0] + 0.7 * axes[1], dim=0)
    assert delta.route(near) == 0
    assert replace(delta, threshold=0.9).route(near) is None
    shy = torch.nn.functional.normalize(axes[0] + 0.95 * axes[3], dim=0)
    assert delta.route(shy) is None, "nearly as near to a neighbour"
    assert replace(delta, margin=0.0).route(shy) == 0


def test_a_merged_expert_is_the_runtime_one_where_all_tokens_are_acted_on(
    each_model: ChatModel,
) -> None:
    """A prompt of one token is all answer: there the expert may as well lie in the weights."""
    shown = view(each_model)
    token = each_model.encode("Who")[-1]
    prompt = each_model.tokenizer.convert_ids_to_tokens(token)
    request = EditRequest("one", (), "Tim Cook", "", prompts=(prompt,))
    editor = Ppa(first=0.7, read=0.34, learning_rate=2e-2, steps=4, siblings=0)
    delta = editor.edit(each_model, editor.prepare(each_model, Resources()), [request])
    pairs = delta.experts[0].pairs
    assert pairs
    merged = DenseDelta({n: shown.stored(n, b @ a) for n, (a, b) in pairs.items()})
    ids = torch.tensor([each_model.encode(prompt)])
    before = each_model.model(ids).logits
    with applied(each_model, delta):
        routed = each_model.model(ids).logits
    with applied(each_model, merged):
        whole = each_model.model(ids).logits
    torch.testing.assert_close(routed, whole)
    assert not torch.allclose(routed, before)


def test_experts_that_do_not_lie_above_the_router_are_refused(tiny_model: ChatModel) -> None:
    with pytest.raises(EditorError, match="above what is read"):
        Ppa(first=0.5, read=0.5).prepare(tiny_model, Resources())


def test_a_delta_of_another_width_is_refused(
    tiny_model: ChatModel, taught_model: ChatModel
) -> None:
    editor = replace(EDITOR, steps=0)
    delta = editor.edit(tiny_model, editor.prepare(tiny_model, Resources()), [FIRST])
    with pytest.raises(DeltaError, match="hidden size"):
        delta.apply(taught_model)
    assert delta.parameters_added > 0
    assert all(tensor.is_contiguous() for tensor in delta.tensors().values())
