"""PCGU: exactly the partitions that two completions pull apart change, and the odds even out."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from editors.architectures import view
from editors.deltas import applied
from editors.editor import Resources
from editors.integrated_gradients import joint_logprobs
from editors.local.pcgu import Factors, Pcgu, factors, log_odds, lowest, pair_of, similarity
from editors.model import ChatModel
from editors.requests import EditorError, EditRequest
from editors.trunk import Sample

PAIR = EditRequest(
    "nurse",
    (),
    new="Tim",
    statement="",
    old="Angela",
    prompts=("The president of Kenya is named", "Who serves as president? It is"),
)
SMALL = Pcgu(partitions=20, step=0.02)


def pair_for(model: ChatModel) -> EditRequest:
    """The pair, with the completion that this model prefers as the advantaged one."""
    if log_odds(model, PAIR) > 0:
        return PAIR
    return dataclasses.replace(PAIR, new=PAIR.old, old=PAIR.new)


def dense(model: ChatModel, samples: list[Sample], name: str) -> torch.Tensor:
    """∇ Σ log P(answer | prompt) of one matrix by plain full forwards, (out, in)."""
    total = torch.zeros((), dtype=torch.float64)
    for sample in samples:
        logs = model.model(torch.tensor([sample.fed])).logits[0].log_softmax(-1)
        at = torch.arange(len(sample.answer)) + len(sample.prompt) - 1
        total = total + logs[at, list(sample.answer)].sum()
    shown = view(model)
    (gradient,) = torch.autograd.grad(total, shown.parameter(name))
    return gradient if shown.matrix(name).shape == gradient.shape else gradient.T


def test_cosines_are_those_of_whole_gradients_row_by_row_and_column_by_column(
    each_model: ChatModel,
) -> None:
    shown = view(each_model)
    one, other = pair_of(each_model, PAIR)
    left, right = factors(shown, one), factors(shown, other)
    for (layer, part), mine in left.items():
        name = getattr(shown.names(layer), part)
        first, second = dense(each_model, one, name), dense(each_model, other, name)
        dim = 0 if part == "down" else 1
        wanted = torch.nn.functional.cosine_similarity(first, second, dim=dim)
        torch.testing.assert_close(
            similarity(mine, right[layer, part], by_row=part != "down"),
            wanted,
            rtol=1e-5,
            atol=1e-6,
        )


def changed(model: ChatModel, changes: dict[str, torch.Tensor]) -> int:
    """How many partitions change: rows of gate and up, columns of down."""
    shown, count = view(model), 0
    for layer in range(len(shown.layers)):
        names = shown.names(layer)
        for part in {names.gate, names.up, names.down} - {None}:
            assert part is not None
            if part in changes:
                change = changes[part]
                if shown.parameter(part).shape != shown.matrix(part).shape:
                    change = change.T
                count += int(change.abs().sum(0 if part == names.down else 1).count_nonzero())
    return count


@pytest.mark.parametrize("count", [1, 20, 57])
def test_exactly_so_many_partitions_change_over_all_epochs(
    each_model: ChatModel, count: int
) -> None:
    editor = Pcgu(partitions=count, step=0.001, epochs=2)
    delta = editor.edit(each_model, None, [pair_for(each_model)])
    assert changed(each_model, dict(delta.changes)) == count


@pytest.mark.parametrize("direction", ["decrease", "increase"])
def test_the_odds_even_out(tiny_model: ChatModel, direction: str) -> None:
    editor = Pcgu(partitions=60, step=0.02, epochs=3, direction=direction)
    pair = pair_for(tiny_model)
    one, other = pair_of(tiny_model, pair)
    delta = editor.edit(tiny_model, editor.prepare(tiny_model, Resources()), [pair])
    before = log_odds(tiny_model, pair)
    logs = joint_logprobs(tiny_model, one).mean(), joint_logprobs(tiny_model, other).mean()
    with applied(tiny_model, delta):
        after = log_odds(tiny_model, pair)
        now = joint_logprobs(tiny_model, one).mean(), joint_logprobs(tiny_model, other).mean()
    assert before - 0.05 > after > 0
    assert now[0] < logs[0] if direction == "decrease" else now[1] > logs[1]
    assert logs[0] - logs[1] == pytest.approx(before)


def test_a_pair_that_is_even_pushes_no_further(tiny_model: ChatModel) -> None:
    pair = pair_for(tiny_model)
    editor = Pcgu(partitions=60, step=0.02, epochs=1000)
    once = dataclasses.replace(editor, epochs=1)
    with applied(tiny_model, once.edit(tiny_model, None, [pair])):
        one_step = log_odds(tiny_model, pair)
    with applied(tiny_model, editor.edit(tiny_model, None, [pair])):
        # It stops after the first step past even.
        assert abs(log_odds(tiny_model, pair)) < log_odds(tiny_model, pair) + one_step
    turned = dataclasses.replace(pair, old=pair.new, new=pair.old)
    delta = editor.edit(tiny_model, None, [turned])
    assert not any(change.any() for change in delta.changes.values())


def test_what_is_changed_are_the_partitions_of_lowest_similarity(tiny_model: ChatModel) -> None:
    shown = view(tiny_model)
    one, other = (factors(shown, samples) for samples in pair_of(tiny_model, PAIR))
    chosen = {(p.layer, p.part): set(p.indices) for p in lowest(shown, one, other, 25)}
    assert sum(map(len, chosen.values())) == 25
    inside, outside = [], []
    for key, left in one.items():
        cosines = similarity(left, other[key], by_row=key[1] != "down").tolist()
        for index, cosine in enumerate(cosines):
            (inside if index in chosen.get(key, ()) else outside).append(cosine)
    assert max(inside) <= min(outside)


def test_two_equal_completions_pull_nothing_apart(tiny_model: ChatModel) -> None:
    same = dataclasses.replace(PAIR, new="Angela", old="Angela")
    assert SMALL.edit(tiny_model, None, [same]).changes == {}
    assert SMALL.edit(tiny_model, None, []).changes == {}


def test_a_gradient_that_vanishes_tells_nothing_apart() -> None:
    one = Factors(torch.tensor([[1.0, 2]]), torch.tensor([[0.0, 1, -1]]))
    other = Factors(torch.tensor([[2.0, 4]]), torch.tensor([[5.0, 2, 3]]))
    torch.testing.assert_close(
        similarity(one, other, by_row=True), torch.tensor([1.0, 1, -1], dtype=torch.float64)
    )


def test_no_step_changes_no_bit(tiny_model: ChatModel) -> None:
    for editor in (Pcgu(partitions=20, step=0), Pcgu(partitions=20, epochs=0)):
        delta = editor.edit(tiny_model, None, [PAIR])
        assert delta.changes
        assert not any(change.any() for change in delta.changes.values())


@pytest.mark.parametrize(
    ("request_", "editor", "said"),
    [
        (dataclasses.replace(PAIR, old=""), SMALL, "no pair"),
        (dataclasses.replace(PAIR, new=""), SMALL, "no pair"),
        (PAIR, Pcgu(direction="sideways"), "decrease, increase"),
    ],
)
def test_what_cannot_be_evened_out_is_said(
    tiny_model: ChatModel, request_: EditRequest, editor: Pcgu, said: str
) -> None:
    with pytest.raises(EditorError, match=said):
        editor.edit(tiny_model, None, [request_])
