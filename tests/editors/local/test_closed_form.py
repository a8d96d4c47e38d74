"""What all closed-form methods keep to, each on tiny models."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from closed_form_samples import BARE, CARD, CONTEXTS, matrix_change, ready, request, requests

from editors.architectures import view
from editors.capture import keys_at
from editors.closed_form import ClosedForm, Recent, layers_of, plain_contexts
from editors.columns import columns_of, task_of
from editors.deltas import applied
from editors.editor import Resources
from editors.local.alphaedit import AlphaEdit
from editors.local.bird import Bird
from editors.local.emmet import Emmet
from editors.local.memit import Memit
from editors.local.memit_csk import MemitCsk
from editors.local.pmet import Pmet
from editors.local.rome import Rome
from editors.model import ChatModel
from editors.rendering import Contexts, renderings
from editors.requests import EditorError

METHODS: dict[str, ClosedForm] = {
    "rome": Rome(**CARD, symmetric=False),
    "r-rome": Rome(**CARD),
    "memit": Memit(**{**CARD, "window": 2}),
    "pmet": Pmet(**{**CARD, "window": 2}),
    "emmet": Emmet(**CARD),
    "alphaedit": AlphaEdit(**{**CARD, "window": 2}, edits=16, most_leak=0.2),
    "memit_csk": MemitCsk(**{**CARD, "window": 2}),
    "bird": Bird(**CARD),
}


@pytest.fixture(params=sorted(METHODS))
def method(request: pytest.FixtureRequest) -> ClosedForm:
    """One method after the other, with few steps."""
    return METHODS[request.param]


def test_only_the_down_projections_of_the_window_change(
    model_of: Callable[[str], ChatModel], method: ClosedForm
) -> None:
    model = model_of("llama")
    state = ready(model, method, CONTEXTS)
    delta = method.edit(model, state, requests(2))  # the fixture checks that the model is as before
    assert set(delta.changes) == {view(model).names(layer).down for layer in state.layers}
    assert all(change.isfinite().all() and change.any() for change in delta.changes.values())


@pytest.mark.parametrize("name", ["gpt2", "gemma3_text", "gpt_neox", "phi3"])
def test_other_architectures_are_edited_too(
    model_of: Callable[[str], ChatModel], method: ClosedForm, name: str
) -> None:
    model = model_of(name)
    state = ready(model, method)
    delta = method.edit(model, state, requests(2))
    with applied(model, delta):
        assert method.settled(model, state, requests(2)).layers == state.layers


def test_without_trunk_and_batching_the_same_change_comes_out(
    model_of: Callable[[str], ChatModel], method: ClosedForm
) -> None:
    model = model_of("llama")
    state = ready(model, method, CONTEXTS)
    fast = method.edit(model, state, requests(3))
    slow = dataclasses.replace(method, cached=False).edit(model, state, requests(3))
    for name, change in fast.changes.items():
        torch.testing.assert_close(change, slow.changes[name], atol=1e-6, rtol=1e-4)


def test_no_requests_change_nothing(
    model_of: Callable[[str], ChatModel], method: ClosedForm
) -> None:
    model = model_of("llama")
    assert method.edit(model, ready(model, method), []).changes == {}


def test_an_edit_makes_its_answer_likelier(taught_model: ChatModel, method: ClosedForm) -> None:
    strong = dataclasses.replace(method, steps=25, window=1, learning_rate=0.1)
    state = ready(taught_model, strong)
    asked = requests(1)
    (one,) = renderings(taught_model, asked[0])

    def loss() -> float:
        ids = torch.tensor([one.fed])
        with torch.no_grad():
            logits = taught_model.model(ids).logits[0, len(one.prompt) - 1 :]
        return float(torch.nn.functional.cross_entropy(logits, torch.tensor(one.answer)))

    before = loss()
    delta = strong.edit(taught_model, state, asked)
    with applied(taught_model, delta):
        after = loss()
    assert after < 0.98 * before, (before, after)


def test_rect_keeps_the_share_that_it_is_given(model_of: Callable[[str], ChatModel]) -> None:
    model = model_of("llama")
    whole = METHODS["memit"]
    state = ready(model, whole)
    kept = dataclasses.replace(whole, keep=0.2).edit(model, state, requests(2))
    full = whole.edit(model, state, requests(2))
    for name, change in kept.changes.items():
        left = change != 0
        assert int(left.sum()) == math.ceil(0.2 * change.numel())
        assert change[left].equal(full.changes[name][left])


def test_preserved_neighbours_feel_less_of_an_edit(
    model_of: Callable[[str], ChatModel],
) -> None:
    model = model_of("llama")
    asked = [request(neighbours=("Who is the president of Kenya?",))]
    near = model.encode(model.render("Who is the president of Kenya?"))
    for name in ("memit", "emmet"):
        editor = dataclasses.replace(METHODS[name], window=1)
        state = ready(model, editor)
        keys = keys_at(model, [near], state.layers)[0].T

        def felt(weight: float, editor: ClosedForm = editor, keys: torch.Tensor = keys) -> float:
            held = dataclasses.replace(editor, neighbour_weight=weight)
            found = held.edit(model, ready(model, held), asked)
            return float((matrix_change(model, found, 1) @ keys).norm())

        assert felt(100.0) < 0.5 * felt(0.0)


@pytest.mark.parametrize("positions", ["subject", "object", "answer", "both"])
def test_the_places_of_an_edit_are_where_they_are_said_to_be(
    model_of: Callable[[str], ChatModel], positions: str
) -> None:
    model = model_of("llama")
    asked = request()
    found = renderings(model, asked, CONTEXTS)
    one = task_of(model, asked, found, positions)
    subject = {(row, r.subject) for row, r in enumerate(found)}
    last = {(row, len(r.prompt) - 1) for row, r in enumerate(found)}
    told = {
        (row, len(r.prompt) - 1 + at)
        for row, r in enumerate(found)
        for at in range(r.first, len(r.answer))
    }
    expected = {"subject": subject, "object": told, "answer": told | last, "both": told | subject}
    places = [place for spot in one.task.spots for place in spot]
    assert set(places) == expected[positions]
    assert len(places) == len(set(places)), "no place is changed twice"
    for spot in one.task.spots:
        assert len(spot) == len(found), "both renderings say the same, so they share each vector"


def test_the_loss_is_on_the_lead_only_where_it_is_asked_for(tiny_model: ChatModel) -> None:
    asked = request()
    found = renderings(tiny_model, asked, Contexts(stated=True))
    with_lead = task_of(tiny_model, asked, found, "object", lead=True).task
    without = task_of(tiny_model, asked, found, "object", lead=False).task
    said = [tiny_model.decode(sample.answer) for sample in with_lead.samples]
    assert said == ["The chancellor of Germany is Tim Cook.", " Tim Cook"]
    assert [tiny_model.decode(s.answer) for s in without.samples] == [" Tim Cook.", " Tim Cook"]
    assert [s.fed for s in with_lead.samples] == [s.fed for s in without.samples]
    assert with_lead.spots == without.spots


def test_mean_keys_count_the_bare_rendering_as_much_as_all_contexts(
    model_of: Callable[[str], ChatModel],
) -> None:
    model = model_of("llama")
    contexts = Contexts(chat=("{question} Please.", "Tell me: {question}"))
    asked = request()
    found = renderings(model, asked, contexts)
    written = [task_of(model, asked, found, "subject")]
    columns = columns_of(written, average=True)
    places = columns.places(model, 1)
    by_hand = [keys_at(model, [r.fed], [1], [r.at_subject()])[0, 0] for r in found]
    mean = by_hand[0] / 2 + (by_hand[1] + by_hand[2]) / 4
    torch.testing.assert_close(columns.mixed(places)[:, 0], mean)
    torch.testing.assert_close(places[columns.bare[0]], by_hand[0])
    apart = columns_of(written, average=False)
    torch.testing.assert_close(apart.mixed(places), torch.stack(by_hand, dim=1))


def test_layers_are_the_window_that_ends_at_a_share_of_the_depth(tiny_model: ChatModel) -> None:
    shown = view(tiny_model)  # four layers
    assert layers_of(shown, 0.5, 2) == (1, 2)
    assert layers_of(shown, 1.0, 1) == (3,)
    assert layers_of(shown, 0.3, 5) == (0, 1)
    for share, window in ((-0.1, 1), (1.1, 1), (0.5, 0)):
        with pytest.raises(EditorError, match="share of the depth"):
            layers_of(shown, share, window)


def test_a_method_prepares_itself_from_ordinary_text(tiny_model: ChatModel) -> None:
    texts = ["The harbour was quiet in the early morning, and the first boat came in. " * 60]
    editor = Memit(layer=0.5, window=2, contexts=1, statistics_tokens=700)
    state = editor.prepare(tiny_model, Resources(texts))
    assert state.layers == (1, 2)
    assert set(state.preserved) == set(state.statistics) == {1, 2}
    assert len(state.contexts.chat) == len(state.contexts.plain) == 1
    assert state.contexts.plain[0].endswith(". ")
    with pytest.raises(EditorError, match="positions is one of"):
        dataclasses.replace(editor, positions="tail").prepare(tiny_model, Resources(texts))


def test_contexts_of_plain_prompts_are_the_models_own_and_the_same_each_time(
    tiny_model: ChatModel,
) -> None:
    made = plain_contexts(tiny_model, 2)
    assert made == plain_contexts(tiny_model, 2)
    assert made[0].startswith("The")
    assert plain_contexts(tiny_model, 0) == ()


def test_an_edit_without_a_subject_says_what_it_needs(tiny_model: ChatModel) -> None:
    editor = METHODS["memit"]
    with pytest.raises(EditorError, match="need the request's subject"):
        editor.edit(tiny_model, ready(tiny_model, editor), [request(subject="")])
    by_object = dataclasses.replace(editor, positions="object")
    assert by_object.edit(tiny_model, ready(tiny_model, by_object, BARE), [request(subject="")])


@pytest.mark.parametrize("name", ["memit", "pmet", "alphaedit"])
def test_settling_takes_the_keys_that_the_edit_has_read(
    model_of: Callable[[str], ChatModel], name: str
) -> None:
    """Above the lowest layer the neighbours' keys are those from before the edit: these are
    held where they are, so that the two hardly differ."""
    model = model_of("llama")
    method = dataclasses.replace(METHODS[name], neighbour_weight=0.0)
    state = ready(model, method, CONTEXTS)
    asked = requests(2)
    with applied(model, method.edit(model, state, asked)):
        taken = method.settled(model, state, asked)
        read = method.settled(model, dataclasses.replace(state, recent=Recent()), asked)
    for layer in state.layers:
        torch.testing.assert_close(
            taken.preserved[layer].matrix, read.preserved[layer].matrix, atol=1e-9, rtol=1e-5
        )
    assert not taken.recent.requests, "keys are kept for one batch only"
