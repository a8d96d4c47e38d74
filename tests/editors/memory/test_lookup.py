"""Lookup neurons on a toy that has beliefs to correct."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from corrections import REQUESTS, answers
from toy_model import CORPUS, one_thread

from editors.deltas import MlpExpansion, applied
from editors.editor import Resources
from editors.memory.lookup import Lookup, LookupState
from editors.memory.lookup_lines import Line
from editors.memory.states import States
from editors.model import ChatModel
from editors.trunk import mlp_inputs

METHOD = Lookup()


@pytest.fixture(scope="module")
def prepared(_taught_model: ChatModel) -> LookupState:
    with one_thread():
        return METHOD.prepare(_taught_model, Resources(CORPUS * 4))


@pytest.fixture
def state(prepared: LookupState) -> LookupState:
    return dataclasses.replace(prepared, states=States(), replies={})


def test_edits_are_answered_by_the_weights_alone_and_taken_back_to_the_bit(
    taught_model: ChatModel, state: LookupState
) -> None:
    before = {name: one.clone() for name, one in taught_model.model.state_dict().items()}

    def untouched() -> bool:
        after = taught_model.model.state_dict()
        return all(after[name].equal(one) for name, one in before.items())

    delta = METHOD.edit(taught_model, state, REQUESTS)
    assert untouched()
    with applied(taught_model, delta):
        for request in REQUESTS:
            for text in answers(taught_model, request.questions):
                assert request.new in text
    assert untouched()


def test_where_no_gate_opens_the_model_is_the_unedited_one(
    taught_model: ChatModel, state: LookupState
) -> None:
    sharp = dataclasses.replace(METHOD, sharpness=3000.0)
    delta = sharp.edit(taught_model, state, REQUESTS)
    tokens = [token for line in CORPUS for token in taught_model.encode(line)]
    windows = torch.tensor([tokens[at : at + 3] for at in range(0, len(tokens) - 2, 3)])
    gates = mlp_inputs(taught_model, windows.tolist(), delta.layer) @ delta.gate_rows.T
    shut = (gates < -20).all(1).reshape(windows.shape)  # SiLU(-20) is 4e-8
    assert 0 < shut.sum() < shut.numel()
    with torch.inference_mode():
        before = taught_model.model(windows).logits
        with applied(taught_model, delta):
            change = (taught_model.model(windows).logits - before).abs().amax(2)
    # Nothing comes after the last layer, so an open gate changes its own position alone.
    assert change[shut].max().item() < 1e-4
    assert change[~shut].max().item() > 1


def test_a_later_night_gives_what_a_first_night_with_all_edits_gives(
    taught_model: ChatModel, state: LookupState
) -> None:
    METHOD.edit(taught_model, state, REQUESTS[:1])
    kept = len(state.states.known)
    later = METHOD.edit(taught_model, state, REQUESTS)
    fresh = dataclasses.replace(state, states=States(), replies={})
    first = METHOD.edit(taught_model, fresh, REQUESTS)
    assert 0 < kept < len(state.states.known) == len(fresh.states.known)
    for one, other in zip(later.tensors().values(), first.tensors().values(), strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4)


def test_a_second_computation_runs_nothing_again(
    taught_model: ChatModel, state: LookupState, monkeypatch: pytest.MonkeyPatch
) -> None:
    delta = METHOD.edit(taught_model, state, REQUESTS)

    def refuse(*args: object, **more: object) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr(taught_model.model, "forward", refuse)
    again = METHOD.edit(taught_model, state, REQUESTS)
    assert all(
        one.equal(other)
        for one, other in zip(delta.tensors().values(), again.tensors().values(), strict=True)
    )


def test_the_last_layer_is_widened_and_nothing_else(
    taught_model: ChatModel, state: LookupState
) -> None:
    delta = METHOD.edit(taught_model, state, REQUESTS)
    assert isinstance(delta, MlpExpansion)
    assert delta.layer == len(taught_model.layers) - 1
    tokens = {len(taught_model.encode_answer(request.new)) for request in REQUESTS}
    assert len(REQUESTS) * min(tokens) <= delta.neurons <= len(REQUESTS) * 3 * (max(tokens) + 1)


def test_no_edits_make_no_neurons(taught_model: ChatModel, state: LookupState) -> None:
    assert METHOD.edit(taught_model, state, []).neurons == 0


def test_what_was_run_is_on_disk_and_read_again(
    taught_model: ChatModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resources = Resources(CORPUS * 4, cache=tmp_path)
    state = METHOD.prepare(taught_model, resources)
    state.states = States(tmp_path / "states")
    delta = METHOD.edit(taught_model, state, REQUESTS)

    def refuse(*args: object, **more: object) -> None:
        raise AssertionError("the model was run")

    again = METHOD.prepare(taught_model, resources)
    again.states = States(tmp_path / "states")
    again.replies.update(state.replies)
    monkeypatch.setattr("editors.memory.lookup_lines.keys_at", refuse)
    assert METHOD.edit(taught_model, again, REQUESTS[:1]).neurons
    assert again.states.known.keys() == state.states.known.keys()
    assert delta.neurons > 0


def test_when_the_time_is_over_the_first_edits_are_carried_and_the_rest_goes_on_later(
    taught_model: ChatModel, state: LookupState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("editors.memory.states._TOGETHER", 1)
    ends = iter((False, True))
    delta, carried = METHOD.within(taught_model, state, REQUESTS, stop=lambda: next(ends))
    assert carried == 1
    alone = METHOD.edit(taught_model, state, REQUESTS[:1])
    assert all(
        torch.allclose(one, other, rtol=1e-3, atol=1e-4)
        for one, other in zip(delta.tensors().values(), alone.tensors().values(), strict=True)
    )
    steps: list[tuple[int, int]] = []
    rest, carried = METHOD.within(
        taught_model, state, REQUESTS, step=lambda *at: steps.append(at), stop=lambda: False
    )
    assert (carried, steps[-1]) == (2, (2, 2))
    assert rest.neurons > delta.neurons


def test_without_time_for_any_edit_nothing_is_carried(
    taught_model: ChatModel, state: LookupState
) -> None:
    delta, carried = METHOD.within(taught_model, state, REQUESTS, stop=lambda: True)
    assert (delta.neurons, carried) == (0, 0)


def test_states_that_no_edit_needs_are_dropped_once_they_are_the_most(tmp_path: Path) -> None:
    lines = [Line((1, n), 1) for n in range(10_000)]
    states = States(tmp_path)
    states.put({line.name: torch.full((1, 2), float(n)) for n, line in enumerate(lines)})
    states.flush()
    states.keep_only(lines[:100])
    assert set(States(tmp_path).known) == {line.name for line in lines[:100]}
    assert States(tmp_path).of(lines[7]).tolist() == [[7.0, 7.0]]
    states.keep_only(lines[:90])  # few are idle: left alone
    assert len(States(tmp_path).known) == 100
