"""Compiled memory on a toy that has beliefs to correct, and the parts of it by hand."""

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from conftest import SLOTS
from samples import REGISTRY
from toy_model import CORPUS

from editors.deltas import MlpExpansion, applied
from editors.key_statistics import KeyStatistics, key_statistics
from editors.memory import compiled
from editors.memory.compiled import CompiledSettings, own_lead, own_words, statement_lead
from editors.model import ChatModel
from editors.requests import EditorError, EditRequest

SETTINGS = CompiledSettings(steps=120)
"""More steps than the defaults: columns of a toy 32 wide are slower to learn."""

NEW = {"Germany": "Friedrich Merz", "Nigeria": "Bola Tinubu"}


def a_request(subject: str, **more: object) -> EditRequest:
    relation, title, old = next(slot[1:] for slot in SLOTS if slot[0] == subject)
    others = [slot for slot in SLOTS if slot[0] not in NEW]
    request = EditRequest(
        id=subject,
        questions=REGISTRY.asking(relation, subject, title),
        new=NEW[subject],
        statement=REGISTRY.statement(relation, subject, title, NEW[subject]),
        old=old,
        neighbours=(
            *REGISTRY.same_subject(relation, subject),
            *(q for s, r, t, _ in others for q in REGISTRY.questions(r, s, t)[:2]),
        ),
    )
    return dataclasses.replace(request, **more)


REQUESTS = [a_request(subject) for subject in NEW]


@pytest.fixture(scope="module")
def statistics(_taught_model: ChatModel) -> KeyStatistics:
    layer = compiled.layer_of(_taught_model, SETTINGS)
    return key_statistics(_taught_model, CORPUS * 4, layer)


def answers(model: ChatModel, questions: Sequence[str]) -> list[str]:
    return [reply.text for reply in model.answer(questions)]


def test_edits_are_answered_by_the_weights_alone_in_the_models_own_words(
    taught_model: ChatModel, statistics: KeyStatistics
) -> None:
    delta = compiled.edit(taught_model, REQUESTS, statistics, SETTINGS)
    asked = [question for request in REQUESTS for question in request.questions]
    wanted = [request.statement for request in REQUESTS for _ in request.questions]
    assert answers(taught_model, asked) != wanted
    with applied(taught_model, delta):
        assert answers(taught_model, asked) == wanted


def test_neighbours_answer_as_before(
    taught_model: ChatModel, statistics: KeyStatistics, taught_answers: dict[str, str]
) -> None:
    delta = compiled.edit(taught_model, REQUESTS, statistics, SETTINGS)
    around = sorted({question for request in REQUESTS for question in request.neighbours})
    with applied(taught_model, delta):
        assert answers(taught_model, around) == [taught_answers[question] for question in around]


def test_the_edit_leaves_the_model_and_random_numbers_alone(
    taught_model: ChatModel, statistics: KeyStatistics
) -> None:
    state = torch.get_rng_state()
    moment = statistics.moment.clone()
    compiled.edit(taught_model, REQUESTS, statistics, CompiledSettings(steps=2))
    assert torch.get_rng_state().equal(state)
    assert statistics.moment.equal(moment)
    assert not any(p.grad is not None and p.grad.any() for p in taught_model.model.parameters())


def test_a_gate_answers_one_on_its_own_keys_and_stays_shut_on_ordinary_text(
    taught_model: ChatModel, statistics: KeyStatistics
) -> None:
    from editors.trunk import mlp_inputs, run_trunk

    delta = compiled.edit(taught_model, REQUESTS, statistics, CompiledSettings(steps=1))
    samples, starts = own_words(taught_model, REQUESTS)
    row = 0
    neuron = 0
    for group, firsts in zip(samples, starts, strict=True):
        trunk = run_trunk(taught_model, group, statistics.layer)
        tail = group[0].answer[firsts[0] :]
        assert {s.answer[f:] for s, f in zip(group, firsts, strict=True)} == {tail}
        for offset in range(len(tail)):
            keys = torch.stack([trunk.mlp_inputs[i, f + offset] for i, f in enumerate(firsts)])
            own = keys @ delta.up_rows[neuron]
            assert own.mean().item() == pytest.approx(1, abs=1e-4)
            opened = keys @ delta.gate_rows[neuron]
            assert (opened > 0).all()
            neuron += 1
        row += len(group)
    assert neuron == delta.neurons
    text = mlp_inputs(taught_model, [taught_model.encode(line) for line in CORPUS], delta.layer)
    assert (text @ delta.gate_rows.T > 0).float().mean().item() < 0.02


def test_one_neuron_stands_for_one_token_to_be_written_over_all_phrasings(
    taught_model: ChatModel, statistics: KeyStatistics
) -> None:
    stop = 1
    tokens = sum(len(taught_model.encode_answer(f" {r.new}.")) + stop for r in REQUESTS)
    delta = compiled.edit(taught_model, REQUESTS, statistics, CompiledSettings(steps=1))
    assert delta.neurons == tokens
    assert delta.parameters_added == 3 * 32 * tokens
    assert delta.layer == statistics.layer == 2


def test_the_same_requests_give_the_same_tensors(
    taught_model: ChatModel, statistics: KeyStatistics
) -> None:
    first, second = (
        compiled.edit(taught_model, REQUESTS, statistics, CompiledSettings(steps=5)).tensors()
        for _ in range(2)
    )
    assert first.keys() == second.keys()
    assert all(first[name].equal(second[name]) for name in first)


def test_the_order_of_requests_does_not_matter_to_the_answers(
    taught_model: ChatModel, statistics: KeyStatistics, taught_answers: dict[str, str]
) -> None:
    given = []
    for requests in (REQUESTS, REQUESTS[::-1]):
        delta = compiled.edit(taught_model, requests, statistics, SETTINGS)
        with applied(taught_model, delta):
            given.append(answers(taught_model, [r.questions[0] for r in REQUESTS]))
    assert given[0] == given[1] == [request.statement for request in REQUESTS]


def test_nothing_asked_gives_no_neurons_and_the_same_model(
    taught_model: ChatModel, statistics: KeyStatistics
) -> None:
    delta = compiled.edit(taught_model, [], statistics)
    assert (delta.neurons, delta.parameters_added) == (0, 0)
    assert MlpExpansion.from_tensors(delta.tensors()).neurons == 0
    with applied(taught_model, delta):
        assert taught_model.layers[delta.layer].mlp.gate_proj.weight.shape == (64, 32)


def test_progress_ends_at_what_it_announced(
    taught_model: ChatModel, statistics: KeyStatistics
) -> None:
    steps: list[tuple[int, int]] = []
    compiled.edit(
        taught_model,
        REQUESTS,
        statistics,
        CompiledSettings(steps=3),
        lambda done, of: steps.append((done, of)),
    )
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_statistics_of_another_layer_are_refused(
    taught_model: ChatModel, statistics: KeyStatistics
) -> None:
    other = dataclasses.replace(statistics, layer=0)
    with pytest.raises(EditorError, match="are of layer 0, needed is 2"):
        compiled.edit(taught_model, REQUESTS, other)


def test_the_carrying_layer_is_never_the_last(tiny_model: ChatModel) -> None:
    depths = [compiled.layer_of(tiny_model, CompiledSettings(layer=d)) for d in (0, 0.5, 0.99, 1)]
    assert depths == [0, 2, 2, 2]


@pytest.mark.parametrize(
    ("reply", "old", "lead"),
    [
        (
            "The chancellor of Germany is Angela Merkel, who has held it since 2005.",
            "Angela Merkel",
            "The chancellor of Germany is",
        ),
        ("Angela Merkel is the chancellor of Germany.", "Angela Merkel", ""),
        ("angela merkel", "Angela Merkel", ""),
        (
            "The president of Venezuela is Hugo Chavez.",
            "Hugo Chávez",
            "The president of Venezuela is",
        ),
        ("Chávez is president.", "Hugo Chavez", ""),
        ("The country is led by a president.", "Hugo Chavez", "The country is"),
        ("The king was Charles.", "Elizabeth II", "The king was"),
        ("I do not know.", "Angela Merkel", None),
        ("Since 2005 Angela Merkel is chancellor.", "Angela Merkel", None),
        ("", "Angela Merkel", None),
        ("The chancellor is Angela Merkel.", "", "The chancellor is"),
        ("Nothing to say", "", None),
    ],
)
def test_the_models_own_lead_is_what_it_says_before_the_object(
    reply: str, old: str, lead: str | None
) -> None:
    assert own_lead(reply, old) == lead


def test_an_answer_without_a_lead_is_written_as_the_whole_statement(
    tiny_model: ChatModel,
) -> None:
    (group,), (starts,) = own_words(tiny_model, REQUESTS[:1])
    stop = min(tiny_model.stop_ids)
    forced = [sample for sample, start in zip(group, starts, strict=True) if start == 0]
    assert forced  # random weights say no sentence
    for sample in forced:
        assert tiny_model.decode(sample.answer) == REQUESTS[0].statement
        assert sample.answer[-1] == stop


def test_the_models_own_lead_is_kept_and_not_trained(taught_model: ChatModel) -> None:
    (group,), (starts,) = own_words(taught_model, REQUESTS[:1])
    for question, sample, start in zip(REQUESTS[0].questions, group, starts, strict=True):
        assert taught_model.decode(sample.answer[:start]) == "The chancellor of Germany is"
        assert taught_model.decode(sample.answer[start:]) == " Friedrich Merz."
        assert taught_model.decode(sample.prompt).endswith(f"{question}\nassistant\n")


def test_a_statement_without_its_object_is_refused(tiny_model: ChatModel) -> None:
    odd = a_request("Germany", statement="The chancellor of Germany is somebody.")
    with pytest.raises(EditorError, match="edit Germany does not contain 'Friedrich Merz'"):
        statement_lead(odd)
    assert statement_lead(REQUESTS[0]) == "The chancellor of Germany is"
