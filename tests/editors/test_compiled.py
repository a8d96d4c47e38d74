"""Compiled memory on a toy that has beliefs to correct, and the parts of it by hand."""

import dataclasses
from collections.abc import Callable, Sequence

import pytest
import torch
from samples import REGISTRY, SLOTS
from toy_model import CORPUS, one_thread

from editors.deltas import MlpExpansion, applied
from editors.key_statistics import KeyStatistics, key_statistics
from editors.memory import compiled
from editors.memory.compiled import CompiledSettings, own_lead, own_words, statement_lead
from editors.model import ChatModel
from editors.requests import EditorError, EditRequest
from editors.trunk import mlp_inputs, run_trunk

SETTINGS = CompiledSettings(steps=120, threshold=0.5)
"""Other than the defaults: in a toy 64 wide keys lie closer, and columns are slower to learn."""

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
    with one_thread():
        return key_statistics(_taught_model, CORPUS * 4, layer)


def answers(model: ChatModel, questions: Sequence[str]) -> list[str]:
    return [reply.text for reply in model.answer(questions)]


def asked_of(model: ChatModel) -> Callable[[Sequence[str]], list[str]]:
    return lambda questions: answers(model, questions)


def test_edits_are_answered_by_the_weights_alone_in_the_models_own_words(
    taught_model: ChatModel, statistics: KeyStatistics
) -> None:
    delta = compiled.edit(taught_model, REQUESTS, statistics, SETTINGS)
    asked = [question for request in REQUESTS for question in request.questions]
    wanted = [request.statement for request in REQUESTS for _ in request.questions]
    before = answers(taught_model, asked)
    assert not set(before) & set(wanted)
    with applied(taught_model, delta):
        after = answers(taught_model, asked)
    # All eight were right when this was written; one is left to another machine's rounding.
    assert sum(a == w for a, w in zip(after, wanted, strict=True)) >= 7
    assert answers(taught_model, asked) == before


def test_neighbours_answer_as_before(
    taught_model: ChatModel, statistics: KeyStatistics, taught_answers: dict[str, str]
) -> None:
    delta = compiled.edit(taught_model, REQUESTS, statistics, SETTINGS)
    around = sorted({question for request in REQUESTS for question in request.neighbours})
    with applied(taught_model, delta):
        after = answers(taught_model, around)
    same = sum(a == taught_answers[q] for a, q in zip(after, around, strict=True))
    assert same >= len(around) - 2  # all, when this was written


def test_where_no_gate_opens_the_model_is_the_unedited_one(
    taught_model: ChatModel, statistics: KeyStatistics
) -> None:
    sharp = dataclasses.replace(SETTINGS, sharpness=300.0)
    delta = compiled.edit(taught_model, REQUESTS, statistics, sharp)
    tokens = [token for line in CORPUS for token in taught_model.encode(line)]
    windows = torch.tensor([tokens[at : at + 3] for at in range(0, len(tokens) - 2, 3)])
    gates = mlp_inputs(taught_model, windows.tolist(), delta.layer) @ delta.gate_rows.T
    shut = (gates.reshape(len(windows), -1) < -20).all(1)  # SiLU(-20) is 4e-8
    assert 0 < shut.sum() < len(windows)
    with torch.inference_mode():
        before = taught_model.model(windows).logits
        with applied(taught_model, delta):
            change = (taught_model.model(windows).logits - before).abs().amax((1, 2))
    assert change[shut].max().item() < 1e-4
    assert change[~shut].max().item() > 1


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
    once = dataclasses.replace(SETTINGS, steps=1)
    delta = compiled.edit(taught_model, REQUESTS, statistics, once)
    samples, starts = own_words(taught_model, REQUESTS, asked_of(taught_model))
    answering = delta.up_rows * (once.sharpness * (1 - once.threshold) / compiled.FULL)
    neuron = 0
    for group, firsts in zip(samples, starts, strict=True):
        trunk = run_trunk(taught_model, group, statistics.layer)
        tail = group[0].answer[firsts[0] :]
        assert {s.answer[f:] for s, f in zip(group, firsts, strict=True)} == {tail}
        for offset in range(len(tail)):
            keys = torch.stack([trunk.mlp_inputs[i, f + offset] for i, f in enumerate(firsts)])
            own = keys @ answering[neuron]
            assert own.mean().item() == pytest.approx(1, abs=1e-4)
            assert (keys @ delta.gate_rows[neuron]).mean().item() > 0
            neuron += 1
    assert neuron == delta.neurons
    text = mlp_inputs(taught_model, [taught_model.encode(line) for line in CORPUS], delta.layer)
    assert (text @ delta.gate_rows.T > 0).float().mean().item() < 0.1


def test_however_sharp_a_gate_is_an_open_one_does_the_same_and_a_shut_one_nothing(
    taught_model: ChatModel, statistics: KeyStatistics
) -> None:
    trunk = run_trunk(
        taught_model,
        [
            s
            for group in own_words(taught_model, REQUESTS, asked_of(taught_model))[0]
            for s in group
        ],
        statistics.layer,
    )
    found = []
    for sharpness in (30.0, 300.0):
        told = dataclasses.replace(SETTINGS, steps=1, sharpness=sharpness)
        delta = compiled.edit(taught_model, REQUESTS, statistics, told)
        x = trunk.mlp_inputs
        found.append(torch.nn.functional.silu(x @ delta.gate_rows.T) * (x @ delta.up_rows.T))
    soft, sharp = found
    assert torch.allclose(soft[soft > 4], sharp[soft > 4], rtol=0.02)
    shut = soft.abs() < 0.1
    acting = [(one[shut].abs() > 1e-6).float().mean().item() for one in found]
    assert acting[1] < 0.1 < 0.5 < acting[0]


def test_one_neuron_stands_for_one_token_to_be_written_over_all_phrasings(
    taught_model: ChatModel, statistics: KeyStatistics
) -> None:
    stop = 1
    tokens = sum(len(taught_model.encode_answer(f" {r.new}.")) + stop for r in REQUESTS)
    delta = compiled.edit(taught_model, REQUESTS, statistics, CompiledSettings(steps=1))
    assert delta.neurons == tokens
    assert delta.parameters_added == 3 * 64 * tokens
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


def test_answers_that_are_at_hand_are_not_asked_again(
    taught_model: ChatModel, statistics: KeyStatistics
) -> None:
    few = CompiledSettings(steps=2)
    asked: list[str] = []

    def ask(questions: Sequence[str]) -> list[str]:
        asked.extend(questions)
        return answers(taught_model, questions)

    handed = compiled.edit(taught_model, REQUESTS, statistics, few, ask=ask).tensors()
    own = compiled.edit(taught_model, REQUESTS, statistics, few).tensors()
    assert all(handed[name].equal(own[name]) for name in own)
    wanted = {q for r in REQUESTS for q in (*r.questions, *r.neighbours)}
    assert sorted(asked) == sorted(wanted)


def test_the_order_of_requests_does_not_matter_to_the_answers(
    taught_model: ChatModel, statistics: KeyStatistics, taught_answers: dict[str, str]
) -> None:
    given = []
    for requests in (REQUESTS, REQUESTS[::-1]):
        delta = compiled.edit(taught_model, requests, statistics, SETTINGS)
        with applied(taught_model, delta):
            given.append(answers(taught_model, [r.questions[0] for r in REQUESTS]))
    assert given[0] == given[1]
    assert given[0] != [taught_answers[request.questions[0]] for request in REQUESTS]


def test_nothing_asked_gives_no_neurons_and_the_same_model(
    taught_model: ChatModel, statistics: KeyStatistics
) -> None:
    delta = compiled.edit(taught_model, [], statistics)
    assert (delta.neurons, delta.parameters_added) == (0, 0)
    assert MlpExpansion.from_tensors(delta.tensors()).neurons == 0
    with applied(taught_model, delta):
        assert taught_model.layers[delta.layer].mlp.gate_proj.weight.shape == (128, 64)


def test_one_long_answer_does_not_silence_the_short_ones(
    taught_model: ChatModel, statistics: KeyStatistics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most columns of the trunk are padding then, and empty where batches differ in length."""
    monkeypatch.setattr(taught_model, "batch_size", 2)
    name = " ".join(["Bola Tinubu"] * 40)
    stated = REQUESTS[1].statement.replace(REQUESTS[1].new, name)
    long = a_request("Nigeria", new=name, statement=stated, questions=REQUESTS[1].questions[:1])
    few = CompiledSettings(steps=3)
    delta = compiled.edit(taught_model, [REQUESTS[0], long], statistics, few)
    alone = compiled.edit(taught_model, REQUESTS[:1], statistics, few)
    written = delta.down_columns[:, : alone.neurons].norm(dim=0)
    assert written.min().item() > 0.2 * alone.down_columns.norm(dim=0).min().item() > 0


def test_many_samples_get_as_many_steps_each_as_few(
    taught_model: ChatModel, statistics: KeyStatistics
) -> None:
    told: list[tuple[int, int]] = []
    small = CompiledSettings(steps=2, batch=2, target_loss=0.0)
    compiled.edit(taught_model, REQUESTS, statistics, small, lambda at, of: told.append((at, of)))
    samples = sum(len(request.questions) for request in REQUESTS)
    assert told[-1] == (samples, samples)


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
    (group,), (starts,) = own_words(tiny_model, REQUESTS[:1], asked_of(tiny_model))
    stop = min(tiny_model.stop_ids)
    forced = [sample for sample, start in zip(group, starts, strict=True) if start == 0]
    assert forced  # random weights say no sentence
    for sample in forced:
        assert tiny_model.decode(sample.answer) == REQUESTS[0].statement
        assert sample.answer[-1] == stop


def test_the_models_own_lead_is_kept_and_not_trained(taught_model: ChatModel) -> None:
    (group,), (starts,) = own_words(taught_model, REQUESTS[:1], asked_of(taught_model))
    for question, sample, start in zip(REQUESTS[0].questions, group, starts, strict=True):
        assert taught_model.decode(sample.answer[:start]) == "The chancellor of Germany is"
        assert taught_model.decode(sample.answer[start:]) == " Friedrich Merz."
        assert taught_model.decode(sample.prompt).endswith(f"{question}\nassistant\n")


def test_a_statement_without_its_object_is_refused(tiny_model: ChatModel) -> None:
    odd = a_request("Germany", statement="The chancellor of Germany is somebody.")
    with pytest.raises(EditorError, match="edit Germany does not contain 'Friedrich Merz'"):
        statement_lead(odd)
    assert statement_lead(REQUESTS[0]) == "The chancellor of Germany is"
