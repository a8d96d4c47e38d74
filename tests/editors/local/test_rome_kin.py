"""PMET, EMMET, MEMIT_CSK and BIRD against the methods that they come from."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from closed_form_samples import CARD, CONTEXTS, keys_of, matrix_change, ready, request, requests
from hypothesis import assume, given
from hypothesis import strategies as st

from editors.architectures import view
from editors.capture import keys_at
from editors.closed_form import passage_of
from editors.local.bird import Bird, apart, margin
from editors.local.emmet import Emmet
from editors.local.memit import Memit
from editors.local.memit_csk import MemitCsk, window_end
from editors.local.pmet import Pmet
from editors.local.rome import Rome
from editors.model import ChatModel
from editors.rendering import renderings
from editors.requests import EditorError

LAYER = 1


def test_pmet_spreads_by_the_root_of_the_layers_left() -> None:
    assert Pmet().share(2) == pytest.approx(2**-0.5)
    assert Pmet().share(1) == 1
    assert Memit().share(2) == 0.5


def test_pmet_writes_what_the_mlp_is_to_say_and_no_attention(
    model_of: Callable[[str], ChatModel],
) -> None:
    model = model_of("llama")
    editor = Pmet(**{**CARD, "window": 1}, weight=1e-9)
    state = ready(model, editor)
    written = [editor.written(model, state, r) for r in requests(2)]
    values = editor.values(passage_of(view(model), state, written), state, written)
    delta = editor.edit(model, state, requests(2))
    assert set(delta.changes) == {view(model).names(LAYER).down}
    keys = keys_of(model, editor, state, requests(2), LAYER)
    moved = matrix_change(model, delta, LAYER) @ keys
    wanted = torch.cat([value.delta for value in values]).T
    assert wanted.shape[0] == view(model).hidden, "attention's half is left out"
    torch.testing.assert_close(moved, wanted, atol=1e-6, rtol=1e-5)


def test_pmet_without_attention_optimises_as_memit_would_at_the_mlp(
    model_of: Callable[[str], ChatModel],
) -> None:
    model = model_of("llama")
    alone = Pmet(**{**CARD, "kl": 0.1}, attention=False, done=1.0, quiet=-1.0)

    class AtMlp(Memit):
        where = "down"

    plain = AtMlp(**{**CARD, "kl": 0.1})
    one = matrix_change(model, alone.edit(model, ready(model, alone), requests(2)), LAYER)
    other = matrix_change(model, plain.edit(model, ready(model, plain), requests(2)), LAYER)
    torch.testing.assert_close(one, other)
    both = dataclasses.replace(alone, attention=True)
    third = matrix_change(model, both.edit(model, ready(model, both), requests(2)), LAYER)
    assert (third - one).norm() > 1e-3 * one.norm()


def test_emmet_of_one_edit_without_slack_is_r_rome(
    model_of: Callable[[str], ChatModel],
) -> None:
    model = model_of("llama")
    emmet, rome = Emmet(**CARD, slack=0.0), Rome(**CARD)
    state = ready(model, rome)
    one = emmet.edit(model, state, [request()])
    other = rome.edit(model, state, [request()])
    torch.testing.assert_close(
        matrix_change(model, one, LAYER), matrix_change(model, other, LAYER), atol=1e-9, rtol=1e-7
    )


def test_emmet_without_slack_gives_every_key_its_value(
    model_of: Callable[[str], ChatModel],
) -> None:
    model = model_of("llama")
    editor = Emmet(**CARD, slack=0.0)
    state = ready(model, editor, CONTEXTS)
    written = [editor.written(model, state, r) for r in requests(3)]
    wanted = torch.cat(
        [v.delta for v in editor.values(passage_of(view(model), state, written), state, written)]
    ).T
    keys = keys_of(model, editor, state, requests(3), LAYER)

    def reached(slack: float) -> torch.Tensor:
        loose = dataclasses.replace(editor, slack=slack)
        return matrix_change(model, loose.edit(model, state, requests(3)), LAYER) @ keys

    torch.testing.assert_close(reached(0.0), wanted, atol=1e-8, rtol=1e-7)
    assert reached(1e7).norm() < 0.5 * wanted.norm()


def test_memit_csk_on_the_subject_is_memit_to_the_bit(
    model_of: Callable[[str], ChatModel],
) -> None:
    model = model_of("llama")
    memit = Memit(**{**CARD, "window": 2})
    kin = MemitCsk(**{**CARD, "window": 2}, span="subject")
    one, other = (
        editor.edit(model, ready(model, editor, CONTEXTS), requests(2)) for editor in (memit, kin)
    )
    assert one.changes.keys() == other.changes.keys()
    assert all(change.equal(other.changes[name]) for name, change in one.changes.items())


@pytest.mark.parametrize(("span", "ends"), [("verb", "Kenya leads"), ("object", "leads Japan")])
def test_memit_csk_edits_at_the_last_token_of_its_span(
    model_of: Callable[[str], ChatModel], span: str, ends: str
) -> None:
    model = model_of("llama")
    asked = request("Kenya", questions=(), prompts=("The president of Kenya leads Japan. It is",))
    asked = dataclasses.replace(asked, prompts=("president of Kenya leads Japan",))
    (one,) = renderings(model, asked, span=span)
    assert model.decode(one.prompt[: one.at_subject() + 1]).endswith(ends)
    editor = MemitCsk(**{**CARD, "window": 1}, span=span)
    assert editor.edit(model, ready(model, editor), [asked]).changes


def test_the_window_of_layers_ends_where_its_mean_effect_is_highest() -> None:
    assert window_end([0, 1, 5, 1, 4, 4, 0], 1) == 2
    assert window_end([0, 1, 5, 1, 4, 4, 0], 3) == 4
    assert window_end([2.0, 1.0], 2) == 1
    with pytest.raises(EditorError, match="does not fit"):
        window_end([1.0], 2)


def test_bird_without_its_margins_is_r_rome(model_of: Callable[[str], ChatModel]) -> None:
    model = model_of("llama")
    rome, bird = Rome(**CARD), Bird(**CARD, forward=0.0, backward=0.0)
    state = ready(model, rome)
    one = matrix_change(model, rome.edit(model, state, requests(2)), LAYER)
    assert one.equal(matrix_change(model, bird.edit(model, state, requests(2)), LAYER))
    drawn = dataclasses.replace(bird, forward=1.0, backward=1.0)
    assert not one.equal(matrix_change(model, drawn.edit(model, state, requests(2)), LAYER))
    unknown = [dataclasses.replace(r, old="") for r in requests(2)]
    assert one.equal(matrix_change(model, drawn.edit(model, state, unknown), LAYER))


def test_bird_draws_the_subject_to_the_new_object(model_of: Callable[[str], ChatModel]) -> None:
    model = model_of("llama")
    asked = requests(3)

    def ahead(forward: float) -> float:
        editor = Bird(**{**CARD, "steps": 20, "clamp": 8.0}, forward=forward, backward=0.0)
        state = ready(model, editor)
        written = [editor.written(model, state, r) for r in asked]
        values = editor.values(passage_of(view(model), state, written), state, written)
        terms = dataclasses.replace(editor, forward=1.0).extra(view(model), LAYER, written)
        assert terms is not None
        return sum(float(terms(i, value.delta)) for i, value in enumerate(values))

    assert ahead(30.0) < ahead(0.0)


@given(st.integers(0, 10**6), st.floats(0, 0.5))
def test_a_margin_that_is_kept_is_nothing_and_has_no_gradient(seed: int, least: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    start, wanted, unwanted = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    start = start.clone().requires_grad_(True)
    slack = (apart(start, unwanted) - apart(start, wanted) - least).detach()
    assume(abs(float(slack)) > 1e-9)
    found = margin(start, wanted, unwanted, least)
    (gradient,) = torch.autograd.grad(found, start)
    kept = float(slack) > 0
    assert (float(found.detach()) == 0) is kept
    assert bool(gradient.any()) is not kept


def test_bird_reads_names_where_they_end_in_a_neutral_prompt(
    model_of: Callable[[str], ChatModel],
) -> None:
    from editors.local.bird import _named

    model = model_of("llama")
    (found,) = _named(view(model), LAYER, ["Tim Cook"])
    ids = model.encode("This is Tim Cook")
    alone = keys_at(model, [ids], [LAYER], [len(ids) - 1], "layer", "output")
    torch.testing.assert_close(found, alone[0, 0])
