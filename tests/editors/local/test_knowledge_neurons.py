"""KN: the neurons found are those that say the fact, and only their columns change."""

from __future__ import annotations

import contextlib
import dataclasses
import random

import pytest
import torch
from toy_model import logits

from editors.architectures import view
from editors.capture import Site, keys_at, replaced
from editors.deltas import applied
from editors.editor import Resources
from editors.integrated_gradients import Attribution, Neuron
from editors.local.knowledge_neurons import (
    KnowledgeNeurons,
    Located,
    NeuronSettings,
    Seen,
    locate,
    shared_neurons,
    written,
)
from editors.model import ChatModel
from editors.requests import EditorError, EditRequest

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
    old="Muhammadu Buhari",
)
QUESTIONS = [*REQUEST.questions, *OTHER.questions]
ONE = NeuronSettings(tokens=1, first_layer=0.0)


def lead(model: ChatModel, request: EditRequest = REQUEST) -> list[int]:
    head = request.statement.partition(f" {request.new}")[0]
    return [*model.encode(model.render(request.questions[0])), *model.encode_answer(head)]


@torch.no_grad()
def chance(model: ChatModel, token: int, request: EditRequest = REQUEST) -> float:
    """Probability of a token where the request's object begins."""
    scores = model.model(torch.tensor([lead(model, request)])).logits[0, -1]
    return float(scores.softmax(-1)[token])


def with_neurons(model: ChatModel, neurons: list[Neuron], factor: float, token: int) -> float:
    """Probability of a token with some activations multiplied."""
    by_layer: dict[int, list[int]] = {}
    for neuron in neurons:
        by_layer.setdefault(neuron.layer, []).append(neuron.index)
    with contextlib.ExitStack() as stack:
        for layer, indices in by_layer.items():

            def times(key: torch.Tensor, indices: list[int] = indices) -> torch.Tensor:
                key = key.clone()
                key[..., indices] *= factor
                return key

            stack.enter_context(replaced(model, Site(layer), times, "input"))
        return chance(model, token)


def test_suppressing_the_neurons_found_hurts_and_more_than_random_ones(
    taught_model: ChatModel,
) -> None:
    (place,) = locate(taught_model, REQUEST, ONE)
    old = taught_model.encode_answer(" Angela Merkel")[0]
    assert place.old == old
    before = chance(taught_model, old)
    found = list(place.neurons)
    assert 2 <= len(found) <= 5
    lost = before - with_neurons(taught_model, found, 0, old)
    rng, shown = random.Random(0), view(taught_model)
    every = [Neuron(i, j) for i in range(len(shown.layers)) for j in range(shown.inner(i))]
    others = [
        before - with_neurons(taught_model, rng.sample(every, len(found)), 0, old)
        for _ in range(30)
    ]
    assert lost > 0
    assert lost > 5 * sum(others) / len(others)
    assert sum(lost > other for other in others) >= 28
    # The taught model is sure of it, so that amplifying is seen best from below.
    shares = [with_neurons(taught_model, found, factor, old) for factor in (0, 0.25, 0.5, 0.75, 1)]
    assert shares == sorted(shares)


def test_amplifying_the_neurons_found_makes_an_unsure_model_surer(tiny_model: ChatModel) -> None:
    # The last layer's neurons: those below act on others that answer to them.
    (place,) = locate(tiny_model, REQUEST, NeuronSettings(tokens=1, first_layer=0.75))
    assert {neuron.layer for neuron in place.neurons} == {3}
    before = chance(tiny_model, place.old)
    assert before < 0.9
    assert with_neurons(tiny_model, list(place.neurons), 2, place.old) > before
    assert with_neurons(tiny_model, list(place.neurons), 0, place.old) < before


def test_the_edit_moves_the_object_and_touches_only_the_neurons_columns(
    taught_model: ChatModel,
) -> None:
    editor = KnowledgeNeurons(tokens=1, first_layer=0.0, write=8.0)
    state = editor.prepare(taught_model, Resources())
    (place,) = locate(taught_model, REQUEST, editor)
    delta = editor.edit(taught_model, state, [REQUEST])
    changed = {
        Neuron(layer, int(i))
        for layer in range(4)
        for i in delta.changes.get(f"model.layers.{layer}.mlp.down_proj.weight", torch.zeros(1, 1))
        .abs()
        .sum(0)
        .nonzero()
    }
    assert changed == set(place.neurons)
    assert all(name.endswith("mlp.down_proj.weight") for name in delta.changes)
    before = [chance(taught_model, token) for token in (place.old, place.new)]
    plain = logits(taught_model, QUESTIONS)
    with applied(taught_model, delta):
        after = [chance(taught_model, token) for token in (place.old, place.new)]
    assert after[0] < before[0] / 2
    assert after[1] > 100 * before[1]
    assert logits(taught_model, QUESTIONS).equal(plain)


def test_an_object_of_several_tokens_is_written_token_by_token(taught_model: ChatModel) -> None:
    wanted = taught_model.encode_answer(" Friedrich Merz")
    places = locate(taught_model, REQUEST, NeuronSettings())
    assert [place.new for place in places] == wanted
    editor = KnowledgeNeurons(first_layer=0.0, write=8.0)
    delta = editor.edit(taught_model, editor.prepare(taught_model, Resources()), [REQUEST])
    ids = torch.tensor([[*lead(taught_model), *wanted]])

    def said() -> float:
        with torch.no_grad():
            logs = taught_model.model(ids).logits[0].log_softmax(-1)
        at = torch.arange(len(wanted)) + ids.shape[1] - len(wanted) - 1
        return float(logs[at, wanted].mean())

    before = said()
    with applied(taught_model, delta):
        assert said() > before + 2


def test_a_token_that_is_said_already_is_not_written(taught_model: ChatModel) -> None:
    same = dataclasses.replace(
        REQUEST, new="Angela Merkel", statement="The chancellor of Germany is Angela Merkel."
    )
    assert locate(taught_model, same, NeuronSettings(tokens=2)) == []
    editor = KnowledgeNeurons(tokens=2)
    state = editor.prepare(taught_model, Resources())
    assert editor.edit(taught_model, state, [same]).changes == {}
    assert editor.edit(taught_model, state, []).changes == {}


def test_weights_of_zero_change_no_bit(taught_model: ChatModel) -> None:
    editor = KnowledgeNeurons(erase=0, write=0, tokens=1)
    delta = editor.edit(taught_model, editor.prepare(taught_model, Resources()), [REQUEST])
    assert delta.changes
    assert not any(change.any() for change in delta.changes.values())
    plain = logits(taught_model, QUESTIONS)
    with applied(taught_model, delta):
        assert logits(taught_model, QUESTIONS).equal(plain)


def test_the_change_follows_the_sign_of_the_activation_and_the_columns_length(
    tiny_model: ChatModel,
) -> None:
    shown = view(tiny_model)
    settings = NeuronSettings(erase=1, write=3)
    neuron, other = Neuron(1, 7), Neuron(2, 9)
    places = [Located(10, 11, {neuron: 1, other: -1})]
    changes = written(shown, places, frozenset(), settings)
    toward = []
    for at, sign in ((neuron, 1), (other, -1)):
        name = shown.names(at.layer).down
        length = shown.matrix(name)[:, at.index].detach().norm()
        toward.append(sign * changes[name][:, at.index] / length)
    torch.testing.assert_close(*toward)
    reading = shown.output_weight.detach() * shown.norm.weight.detach()
    old, new = reading[10] / reading[10].norm(), reading[11] / reading[11].norm()
    torch.testing.assert_close(toward[0], 3 * new - old)
    assert set(written(shown, places, frozenset({neuron}), settings)) == {shown.names(2).down}


def test_every_architecture_is_edited_in_its_own_shape(each_model: ChatModel) -> None:
    editor = KnowledgeNeurons(tokens=1, first_layer=0.0, write=8.0, steps=2)
    delta = editor.edit(each_model, editor.prepare(each_model, Resources()), [REQUEST])
    wanted = locate(each_model, REQUEST, editor)[0].new
    before = chance(each_model, wanted)
    with applied(each_model, delta):
        assert chance(each_model, wanted) > before


def test_neurons_that_are_as_active_on_ordinary_text_do_not_count(taught_model: ChatModel) -> None:
    texts = [taught_model.render(question) + REQUEST.statement for question in QUESTIONS]
    loose, strict = (
        KnowledgeNeurons(tokens=1, first_layer=0.0, peak=peak, most=50) for peak in (0.0, 2.0)
    )
    state = strict.prepare(taught_model, Resources(texts=texts))
    assert sorted(state.ordinary) == [0, 1, 2, 3]
    keys = keys_at(taught_model, [taught_model.encode(text) for text in texts], [2])[0]
    torch.testing.assert_close(state.ordinary[2], keys.double().square().mean(0).sqrt())
    (every,) = locate(taught_model, REQUEST, loose, state.ordinary)
    (unusual,) = locate(taught_model, REQUEST, strict, state.ordinary)
    assert unusual.neurons
    assert set(unusual.neurons) != set(every.neurons)
    none = dataclasses.replace(strict, peak=1e9)
    assert locate(taught_model, REQUEST, none, state.ordinary)[0].neurons == {}
    assert not strict.prepare(taught_model, Resources()).ordinary


def mean_of(scores: dict[int, list[float]], keys: dict[int, list[float]]) -> Attribution:
    return Attribution(
        {layer: torch.tensor([row]) for layer, row in scores.items()},
        {layer: torch.tensor([row]) for layer, row in keys.items()},
    )


def test_neurons_that_most_contexts_share_are_kept_and_sharing_moves_when_they_are_few() -> None:
    a, b, c = Neuron(0, 0), Neuron(0, 1), Neuron(0, 2)
    mean = mean_of({0: [1.0, 3.0, 2.0]}, {0: [1.0, -1.0, 0.0]})
    contexts = [frozenset({a, b}), frozenset({a, b}), frozenset({a, b}), frozenset({a, c})]
    assert shared_neurons(contexts, mean, NeuronSettings(fewest=1)) == {b: -1, a: 1}
    lone = [frozenset({a}), frozenset({b}), frozenset({a, c})]
    assert set(shared_neurons(lone, mean, NeuronSettings(fewest=2))) == {a, b, c}
    assert list(shared_neurons(contexts, mean, NeuronSettings(fewest=1, most=1))) == [a]
    same = [frozenset({a, b, c})] * 3
    assert list(shared_neurons(same, mean, NeuronSettings(fewest=1, most=2))) == [b, c]
    assert shared_neurons([frozenset()], mean, NeuronSettings()) == {}


def test_neurons_of_too_many_facts_are_left_alone_once_there_are_enough_facts() -> None:
    common, own = Neuron(0, 0), [Neuron(1, i) for i in range(20)]
    facts = [[Located(1, 2, {common: 1, one: 1}), Located(3, 4, {common: -1})] for one in own]
    few = Seen({}).including(facts[:9])
    assert few.facts == 9
    assert not few.common(0.1)
    many = few.including(facts[9:])
    assert many.counts[common] == 20
    assert many.common(0.1) == {common}
    assert not many.common(1.0)


def test_what_a_batch_showed_counts_when_it_is_settled(taught_model: ChatModel) -> None:
    editor = KnowledgeNeurons(tokens=1, first_layer=0.0, write=8.0)
    state = editor.prepare(taught_model, Resources())
    delta = editor.edit(taught_model, state, [REQUEST])
    assert state.seen.facts == 0, "an edit that is not applied leaves no trace"
    with applied(taught_model, delta):
        state = editor.settled(taught_model, state, [REQUEST])
    assert state.seen.facts == 1
    assert not state.pending
    editor.edit(taught_model, state, [OTHER])
    assert editor.settled(taught_model, state, [OTHER]).seen.facts == 2


def test_a_request_without_an_object_is_refused(tiny_model: ChatModel) -> None:
    with pytest.raises(EditorError, match="names no object"):
        locate(tiny_model, dataclasses.replace(REQUEST, new="", statement=""), ONE)
