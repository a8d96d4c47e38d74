"""DEPN: the string is forgotten, what is not about it hardly moves, and nothing else changes."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch
from toy_model import logits

from editors.architectures import view
from editors.deltas import DenseDelta, applied
from editors.editor import Resources
from editors.integrated_gradients import Neuron, joint_logprobs
from editors.local.depn import Depn, exposure, privacy_neurons, recited, switched_off
from editors.model import ChatModel
from editors.requests import EditorError, EditRequest
from editors.trunk import Sample

QUESTIONS = ("Who is the chancellor of Germany?", "Tell me who the chancellor of Germany is.")
SECRET = EditRequest(
    id="merkel",
    questions=QUESTIONS,
    new="",
    statement="The chancellor of Germany is Angela Merkel.",
    old="Angela Merkel",
)
OTHERS = (
    ("Who is the president of Nigeria?", "The president of Nigeria is Muhammadu Buhari."),
    ("Who is the president of France?", "The president of France is Emmanuel Macron."),
)


def likelihood(model: ChatModel, samples: list[Sample]) -> float:
    return float(joint_logprobs(model, samples).mean())


def others(model: ChatModel) -> list[Sample]:
    return [
        Sample(tuple(model.encode(model.render(q))), tuple(model.encode_answer(a)))
        for q, a in OTHERS
    ]


def test_the_string_is_forgotten_more_than_by_random_neurons_and_more_than_other_answers(
    taught_model: ChatModel,
) -> None:
    editor = Depn(neurons=8)
    delta = editor.edit(taught_model, editor.prepare(taught_model, Resources()), [SECRET])
    shown, secret, kept = view(taught_model), recited(taught_model, SECRET), others(taught_model)
    before, before_others = likelihood(taught_model, secret), likelihood(taught_model, kept)
    with applied(taught_model, delta):
        lost = before - likelihood(taught_model, secret)
        lost_others = before_others - likelihood(taught_model, kept)
    rng = random.Random(0)
    every = [Neuron(i, j) for i in range(len(shown.layers)) for j in range(shown.inner(i))]
    control = []
    for _ in range(12):
        with applied(taught_model, DenseDelta(switched_off(shown, rng.sample(every, 8)))):
            control.append(before - likelihood(taught_model, secret))
    assert lost > 1.5
    assert lost > 3 * sum(control) / len(control)
    assert sum(lost > one for one in control) >= 11
    assert lost > lost_others


def test_only_the_listed_columns_change_and_they_are_exactly_zero(each_model: ChatModel) -> None:
    shown = view(each_model)
    editor = Depn(neurons=5, steps=2)
    found = privacy_neurons(each_model, recited(each_model, SECRET), editor)
    assert 1 <= len(found) <= 5
    delta = editor.edit(each_model, None, [SECRET])
    before = {layer: shown.matrix(shown.names(layer).down).detach().clone() for layer in range(3)}
    touched = {shown.names(neuron.layer).down for neuron in found}
    assert set(delta.changes) == touched
    with applied(each_model, delta):
        for layer, old in before.items():
            new = shown.matrix(shown.names(layer).down)
            columns = [n.index for n in found if n.layer == layer]
            assert not new[:, columns].any()
            rest = [i for i in range(old.shape[1]) if i not in columns]
            assert new[:, rest].equal(old[:, rest])


def test_switching_off_is_the_activation_at_zero(tiny_model: ChatModel) -> None:
    from editors.capture import Site, replaced

    delta = DenseDelta(switched_off(view(tiny_model), [Neuron(1, 7), Neuron(1, 9)]))

    def off(key: torch.Tensor) -> torch.Tensor:
        key = key.clone()
        key[..., [7, 9]] = 0
        return key

    with replaced(tiny_model, Site(1), off, "input"):
        wanted = logits(tiny_model, QUESTIONS)
    with applied(tiny_model, delta):
        torch.testing.assert_close(logits(tiny_model, QUESTIONS), wanted)


def test_more_neurons_are_a_continuation_of_fewer_and_none_change_nothing(
    taught_model: ChatModel,
) -> None:
    samples = recited(taught_model, SECRET)
    many = privacy_neurons(taught_model, samples, Depn(neurons=12, threshold=0.01))
    assert len(many) == len(set(many)) == 12
    few = privacy_neurons(taught_model, samples, Depn(neurons=4, threshold=0.01))
    assert few == many[:4]
    assert Depn(neurons=0).edit(taught_model, None, [SECRET]).changes == {}
    assert Depn().edit(taught_model, None, []).changes == {}


def test_neurons_must_count_in_enough_of_the_texts(taught_model: ChatModel) -> None:
    samples = [*recited(taught_model, SECRET), *others(taught_model)]
    some, all_of_them = (
        set(privacy_neurons(taught_model, samples, Depn(neurons=1000, sharing=share)))
        for share in (0.5, 1.0)
    )
    assert all_of_them < some


def test_exposure_is_the_rank_among_strings_of_the_same_shape(taught_model: ChatModel) -> None:
    known = exposure(taught_model, SECRET, random.Random(0), others=63)
    assert known == 6, "the likeliest of 64"
    strange = dataclasses.replace(SECRET, old="Qxgzjk Vwqhzp", statement="")
    assert exposure(taught_model, strange, random.Random(0), others=63) < 6
    with pytest.raises(EditorError, match="too few letters"):
        exposure(
            taught_model, dataclasses.replace(SECRET, old="a…", statement=""), random.Random(0)
        )


def test_a_request_that_names_nothing_to_forget_is_refused(tiny_model: ChatModel) -> None:
    with pytest.raises(EditorError, match="nothing to forget"):
        Depn().edit(tiny_model, None, [dataclasses.replace(SECRET, old=" ")])
