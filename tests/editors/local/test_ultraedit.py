"""UltraEdit: its factors are autograd's, its solve is a ridge's, its normaliser never forgets."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_model import CORPUS, logits

from editors.architectures import view
from editors.capture import outer_sum
from editors.deltas import applied
from editors.editor import Resources
from editors.local.ultraedit import Running, UltraEdit, solved
from editors.model import ChatModel
from editors.rendering import renderings
from editors.requests import EditorError, EditRequest
from editors.trunk import Sample

REQUEST = EditRequest(
    id="merz",
    questions=("Who is the chancellor of Germany?", "Tell me who the chancellor of Germany is."),
    new="Friedrich Merz",
    statement="The chancellor of Germany is Friedrich Merz.",
    old="Angela Merkel",
)
OTHER = EditRequest(
    id="tinubu",
    questions=("Who is the president of Nigeria?",),
    new="Bola Tinubu",
    statement="The president of Nigeria is Bola Tinubu.",
    prompts=("The president of Nigeria is",),
)
TEXTS = Resources(texts=CORPUS)
EDITOR = UltraEdit(first=0.0, last=1.0, step=1e-4, passes=1)


def samples_of(model: ChatModel, request: EditRequest) -> list[Sample]:
    return [
        Sample((*r.prompt, *r.answer[: r.first]), r.answer[r.first :])
        for r in renderings(model, request)
    ]


@pytest.mark.parametrize("part", ["down", "up", "gate"])
def test_factors_reproduce_autograds_gradient(each_model: ChatModel, part: str) -> None:
    shown = view(each_model)
    editor = dataclasses.replace(EDITOR, part=part)
    if part == "gate" and not shown.gated:
        with pytest.raises(EditorError, match="no part 'gate'"):
            editor.edit(each_model, editor.prepare(each_model, Resources()), [OTHER])
        return
    (sample, _) = samples_of(each_model, OTHER)
    # A prompt of one token: all positions predict the answer, so that all gradient is there.
    sample = Sample(sample.prompt[:1], sample.answer)
    found = editor._factors(shown, [sample])
    assert len(found) == 3
    logs = each_model.model(torch.tensor([sample.fed])).logits[0].log_softmax(-1)
    loss = -logs[torch.arange(len(sample.answer)), list(sample.answer)].mean()
    for layer, (name, (inputs, deltas)) in enumerate(found.items()):
        (gradient,) = torch.autograd.grad(loss, shown.parameter(name), retain_graph=True)
        if gradient.shape != shown.matrix(name).shape:
            gradient = gradient.T
        rows = getattr(shown.names(layer), f"{part}_rows", slice(None))
        torch.testing.assert_close(outer_sum(deltas, inputs), gradient[rows], rtol=1e-5, atol=1e-7)


def test_the_change_is_stationary_for_its_ridge() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, deltas = (torch.randn(7, width, generator=generator) for width in (12, 5))
    seen = Running.empty(17).including(torch.randn(40, 17, generator=generator))
    change = solved(inputs, deltas, seen, step=0.01, ridge=0.7)
    both = seen.normalised(torch.cat([inputs, deltas], dim=1))
    shifts = -0.01 * both[:, :12].square().sum(1, keepdim=True) * both[:, 12:]
    keys = inputs.double()
    # d/dΔ of ‖Δ Hᵀ − Sᵀ‖² + λ‖Δ‖² is zero.
    slope = (change @ keys.T - shifts.T) @ keys + 0.7 * change
    assert shifts.abs().max() > 1e-3
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-10, rtol=0)
    small = solved(inputs, deltas, seen, step=0.01, ridge=1e-9)
    torch.testing.assert_close(small @ keys.T, shifts.T, rtol=1e-5, atol=1e-8)


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=5).filter(lambda s: sum(s) >= 2),
    seed=st.integers(0, 999),
)
def test_statistics_of_batches_are_those_of_their_concatenation(
    sizes: list[int], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(sum(sizes), 3, generator=generator, dtype=torch.float64) * 5 + 100
    seen = Running.empty(3)
    for part in rows.split(sizes):
        seen = seen.including(part)
    assert seen.count == len(rows)
    torch.testing.assert_close(seen.mean, rows.mean(0))
    wanted = (rows - rows.mean(0)) / rows.std(0)
    torch.testing.assert_close(seen.normalised(rows), wanted, rtol=1e-6, atol=1e-8)


def test_what_never_varied_is_zero_and_one_token_has_no_variance(
    tiny_model: ChatModel,
) -> None:
    rows = torch.tensor([[1.0, 5], [1, 7]])
    seen = Running.empty(2).including(rows)
    assert seen.normalised(rows)[:, 0].tolist() == [0, 0]
    with pytest.raises(EditorError, match="no variance"):
        Running.empty(2).including(rows[:1]).normalised(rows)
    one = EditRequest("1", (), "the", "", prompts=("The president of Nigeria is",))
    assert len(tiny_model.encode_answer(" the")) == 1
    with pytest.raises(EditorError, match="ordinary text"):
        EDITOR.edit(tiny_model, EDITOR.prepare(tiny_model, Resources()), [one])
    assert EDITOR.edit(tiny_model, EDITOR.prepare(tiny_model, TEXTS), [one]).changes


def test_no_step_changes_no_bit(tiny_model: ChatModel) -> None:
    editor = dataclasses.replace(EDITOR, step=0)
    delta = editor.edit(tiny_model, editor.prepare(tiny_model, TEXTS), [REQUEST])
    assert len(delta.changes) == 4
    plain = logits(tiny_model, REQUEST.questions)
    with applied(tiny_model, delta):
        assert logits(tiny_model, REQUEST.questions).equal(plain)
    assert EDITOR.edit(tiny_model, EDITOR.prepare(tiny_model, TEXTS), []).changes == {}


def test_the_order_of_facts_in_a_batch_does_not_matter(taught_model: ChatModel) -> None:
    made = []
    for batch in ([REQUEST, OTHER], [OTHER, REQUEST]):
        made.append(EDITOR.edit(taught_model, EDITOR.prepare(taught_model, TEXTS), batch).changes)
    for name, change in made[0].items():
        assert change.abs().max() > 0
        torch.testing.assert_close(change, made[1][name], rtol=1e-3, atol=1e-3 * change.abs().max())


def test_the_answer_becomes_likelier_and_the_model_is_as_before(taught_model: ChatModel) -> None:
    def loss() -> float:
        total = 0.0
        for sample in samples_of(taught_model, REQUEST):
            with torch.no_grad():
                logs = taught_model.model(torch.tensor([sample.fed])).logits[0].log_softmax(-1)
            at = torch.arange(len(sample.answer)) + len(sample.prompt) - 1
            total -= float(logs[at, list(sample.answer)].mean())
        return total

    before, plain = loss(), logits(taught_model, REQUEST.questions)
    for whole in (False, True):
        editor = dataclasses.replace(EDITOR, step=5e-3, whole=whole)
        delta = editor.edit(taught_model, editor.prepare(taught_model, TEXTS), [REQUEST])
        with applied(taught_model, delta):
            assert loss() < 0.8 * before
        assert logits(taught_model, REQUEST.questions).equal(plain)


def test_the_normaliser_goes_on_over_settled_batches_and_never_starts_anew(
    taught_model: ChatModel,
) -> None:
    state = EDITOR.prepare(taught_model, TEXTS)
    begun = {name: seen.count for name, seen in state.seen.items()}
    assert 100 < begun["model.layers.0.mlp.down_proj.weight"] <= 256
    delta = EDITOR.edit(taught_model, state, [REQUEST])
    assert {name: seen.count for name, seen in state.seen.items()} == begun
    tokens = sum(len(sample.answer) for sample in samples_of(taught_model, REQUEST))
    with applied(taught_model, delta):
        after = EDITOR.settled(taught_model, state, [REQUEST])
        assert {n: s.count for n, s in after.seen.items()} == {
            n: c + tokens for n, c in begun.items()
        }
        assert not after.pending
        EDITOR.edit(taught_model, after, [OTHER])
    # The same as if both batches' vectors had been seen at once, by the same model.
    shown = view(taught_model)
    at_once = EDITOR._updated(state.seen, EDITOR._factors(shown, samples_of(taught_model, REQUEST)))
    for name, seen in at_once.items():
        torch.testing.assert_close(seen.squares, after.seen[name].squares)


def test_layers_are_shares_of_the_depth(tiny_model: ChatModel) -> None:
    editor = UltraEdit(first=0.5, last=0.75, part="up")
    delta = editor.edit(tiny_model, editor.prepare(tiny_model, TEXTS), [REQUEST])
    assert sorted(delta.changes) == [f"model.layers.{i}.mlp.up_proj.weight" for i in (2, 3)]
    with pytest.raises(EditorError, match="above the last"):
        UltraEdit(first=0.9, last=0.1).prepare(tiny_model, TEXTS)


def test_neighbours_are_moved_less_where_they_are_kept(taught_model: ChatModel) -> None:
    question = "Who is the president of Nigeria?"
    request = dataclasses.replace(REQUEST, neighbours=(question,))
    plain = logits(taught_model, [question])
    moved = []
    for keep in (0.0, 10.0):
        editor = dataclasses.replace(EDITOR, step=1e-3, keep=keep)
        delta = editor.edit(taught_model, editor.prepare(taught_model, TEXTS), [request])
        with applied(taught_model, delta):
            moved.append(float((logits(taught_model, [question]) - plain).norm()))
    assert moved[0] > 1.2 * moved[1]


def test_inputs_that_are_kept_stay_as_they_are_asked_to_with_a_weight() -> None:
    generator = torch.Generator().manual_seed(1)
    inputs, deltas = (torch.randn(4, width, generator=generator) for width in (12, 5))
    kept = torch.randn(3, 12, generator=generator)
    seen = Running.empty(17).including(torch.randn(40, 17, generator=generator))
    free, held = (
        solved(inputs, deltas, seen, 0.01, 1e-6, some) @ kept.double().T
        for some in (None, 1e3 * kept)
    )
    assert held.norm() < 1e-4 * free.norm()


def test_more_passes_go_on_from_the_change_so_far(taught_model: ChatModel) -> None:
    once, twice = (dataclasses.replace(EDITOR, step=1e-3, passes=passes) for passes in (1, 2))
    state = once.prepare(taught_model, TEXTS)
    first = once.edit(taught_model, state, [REQUEST])
    with applied(taught_model, first):
        second = once.edit(taught_model, once.settled(taught_model, state, [REQUEST]), [REQUEST])
    both = twice.edit(taught_model, twice.prepare(taught_model, TEXTS), [REQUEST])
    for name, change in both.changes.items():
        torch.testing.assert_close(
            change, first.changes[name] + second.changes[name], rtol=1e-3, atol=1e-6
        )
