"""Captured inputs, outputs and gradients against autograd, for every architecture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from architecture_models import HIDDEN, INNER, architecture_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from editors.architectures import view
from editors.capture import Site, captured, frozen, keys_at, outer_sum, replaced, streamed
from editors.model import ChatModel
from editors.requests import EditorError

Give = Callable[..., ChatModel]
IDS = torch.tensor([[5, 9, 21, 40, 0, 0], [6, 14, 15, 3, 30, 31]])
MASK = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
TARGETS = torch.tensor([[9, 21, 40, 7, -100, -100], [-100, -100, -100, 30, 31, 8]])
DOWN, DEEP, ATTENTION = Site(1, "down"), Site(2, "up"), Site(0, "attention")
SEQUENCES = [[1, 2, 3, 5, 6, 7, 8], [1, 2, 3, 9], [1, 2, 3, 10, 11, 30, 31, 32], [1, 2, 3, 4]]


def forward(model: ChatModel) -> torch.Tensor:
    """Logits of a padded batch."""
    return model.model(IDS, attention_mask=MASK).logits


def loss_of(model: ChatModel) -> torch.Tensor:
    return nn.functional.cross_entropy(forward(model).transpose(1, 2), TARGETS)


def weight(model: ChatModel, site: Site) -> torch.Tensor:
    names = view(model).names(site.layer)
    return view(model).matrix(getattr(names, site.part))


def parameter(model: ChatModel, site: Site) -> nn.Parameter:
    return view(model).parameter(getattr(view(model).names(site.layer), site.part))


def as_stored(model: ChatModel, site: Site, change: torch.Tensor) -> torch.Tensor:
    return view(model).stored(getattr(view(model).names(site.layer), site.part), change)


def test_captured_factors_make_autograds_weight_gradient(each_model: ChatModel) -> None:
    sites = [DOWN, DEEP, ATTENTION]
    with captured(each_model, sites, gradients=True) as seen:
        loss = loss_of(each_model)
    deltas = seen.deltas(loss)
    wanted = torch.autograd.grad(loss_of(each_model), [parameter(each_model, s) for s in sites])
    for site, gradient in zip(sites, wanted, strict=True):
        made = as_stored(each_model, site, outer_sum(deltas[site], seen.inputs(site)))
        assert gradient.abs().max() > 1e-4
        torch.testing.assert_close(made, gradient, rtol=1e-5, atol=1e-7)


def test_outputs_are_the_matrix_times_the_inputs_and_the_bias(each_model: ChatModel) -> None:
    with torch.no_grad(), captured(each_model, [DOWN]) as seen:
        forward(each_model)
    bias = getattr(view(each_model).module(1, "down"), "bias", None)
    made = seen.inputs(DOWN) @ weight(each_model, DOWN).T + (0 if bias is None else bias)
    torch.testing.assert_close(seen.outputs(DOWN), made.detach())
    assert seen.inputs(DOWN).shape == (*IDS.shape, INNER)


def test_watching_changes_no_bit_of_the_answer(each_model: ChatModel) -> None:
    plain = forward(each_model)
    for gradients in (False, True):
        with captured(each_model, [DOWN, Site(2, "layer")], gradients=gradients):
            assert forward(each_model).equal(plain)


def test_positions_are_a_mask_or_a_column_a_row(model_of: Give) -> None:
    model = model_of("llama")
    columns = torch.tensor([2, 4])
    with captured(model, [DOWN], gradients=True) as every:
        every_delta = every.deltas(loss_of(model))[DOWN]
    with captured(model, [DOWN], positions=MASK.bool(), gradients=True) as marked:
        marked_delta = marked.deltas(loss_of(model))[DOWN]
    with captured(model, [DOWN], positions=columns, gradients=True) as single:
        single_delta = single.deltas(loss_of(model))[DOWN]
    assert marked.inputs(DOWN).equal(every.inputs(DOWN)[MASK.bool()])
    assert marked_delta.equal(every_delta[MASK.bool()])
    assert single.outputs(DOWN).equal(every.outputs(DOWN)[[0, 1], columns])
    assert single_delta.equal(every_delta[[0, 1], columns])


def test_two_losses_of_one_forward_have_their_own_deltas(model_of: Give) -> None:
    model = model_of("qwen3")
    with captured(model, [DOWN], gradients=True) as seen:
        loss = loss_of(model)
    once = seen.deltas(loss, keep=True)[DOWN]
    torch.testing.assert_close(seen.deltas(3 * loss)[DOWN], 3 * once)


def test_a_site_that_the_loss_does_not_reach_has_no_gradient(model_of: Give) -> None:
    model = model_of("llama")
    with captured(model, [DOWN, DEEP], gradients=True) as seen:
        forward(model)
    assert not seen.deltas(seen._outputs[DOWN].sum())[DEEP].any()


def test_everything_is_put_back_even_after_an_error(model_of: Give) -> None:
    model, fails = model_of("gpt2"), pytest.raises(RuntimeError, match="halfway")
    with fails, captured(model, [DOWN, DEEP], gradients=True):
        assert not any(p.requires_grad for p in model.model.parameters())
        loss_of(model).backward()  # reaches no parameter
        raise RuntimeError("halfway")
    with fails, replaced(model, DOWN, torch.neg), replaced(model, DEEP, torch.neg, "input"):
        raise RuntimeError("halfway")
    with fails, frozen(model):
        raise RuntimeError("halfway")  # the fixture checks the rest


def test_freezing_leaves_what_was_frozen_before() -> None:
    model = architecture_model("llama")
    fixed = parameter(model, DOWN).requires_grad_(False)
    with frozen(model):
        pass
    assert [p for p in model.model.parameters() if not p.requires_grad] == [fixed]


def test_a_sites_captures_are_refused_where_there_are_none(model_of: Give) -> None:
    model = model_of("llama")
    with captured(model, [DOWN]) as seen:
        pass
    with pytest.raises(EditorError, match="nothing was captured"):
        seen.inputs(DOWN)
    with torch.no_grad(), captured(model, [DOWN]) as seen:
        loss = loss_of(model)
    with pytest.raises(EditorError, match="gradients=True"):
        seen.deltas(loss)
    with pytest.raises(EditorError, match="side is one of input, output, not 'both'"):
        replaced(model, DOWN, torch.neg, "both").__enter__()


def test_a_replaced_value_acts_like_a_changed_matrix(each_model: ChatModel) -> None:
    change = 0.1 * torch.randn(HIDDEN, INNER, generator=torch.Generator().manual_seed(2)).double()
    stored = as_stored(each_model, DOWN, change)
    with torch.no_grad():
        with captured(each_model, [DOWN]) as seen:
            plain = forward(each_model)
        added = seen.inputs(DOWN) @ change.T
        with replaced(each_model, DOWN, lambda value: value + added):
            moved = forward(each_model)
        own = parameter(each_model, DOWN)
        before = own.clone()
        own += stored
        try:
            edited = forward(each_model)
        finally:
            own.copy_(before)
    torch.testing.assert_close(moved, edited, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(moved, plain, atol=1e-2)


def test_scaled_keys_scale_the_value(each_model: ChatModel) -> None:
    bias = getattr(view(each_model).module(1, "down"), "bias", None)
    less = 0 if bias is None else bias.detach()
    with torch.no_grad(), captured(each_model, [DOWN]) as seen:
        forward(each_model)
        value = seen.outputs(DOWN) - less
        with replaced(each_model, DOWN, lambda key: 0.25 * key, side="input"):
            forward(each_model)
    torch.testing.assert_close(seen.outputs(DOWN) - less, 0.25 * value)


def test_replacements_nest_and_an_inner_capture_sees_the_result(model_of: Give) -> None:
    model = model_of("llama")
    with torch.no_grad(), captured(model, [DOWN]) as before:
        forward(model)
    with (
        torch.no_grad(),
        replaced(model, DOWN, lambda value: value + 1),
        replaced(model, DOWN, lambda value: 2 * value),
        captured(model, [DOWN]) as after,
    ):
        forward(model)
    assert after.outputs(DOWN).equal(2 * (before.outputs(DOWN) + 1))


def test_gradients_reach_a_vector_that_is_added(each_model: ChatModel) -> None:
    vector = torch.zeros(HIDDEN, dtype=torch.float64, requires_grad=True)
    with captured(each_model, [DOWN], gradients=True) as seen:
        delta = seen.deltas(loss_of(each_model))[DOWN]
    with frozen(each_model), replaced(each_model, DOWN, lambda value: value + vector):
        (found,) = torch.autograd.grad(loss_of(each_model), vector)
    torch.testing.assert_close(found, delta.sum((0, 1)), rtol=1e-5, atol=1e-8)


@contextmanager
def tuples(module: nn.Module) -> Iterator[list[Any]]:
    """Let a module return a tuple, as layers of older releases did, and unwrap it behind all
    hooks that are set inside the block."""
    rests: list[Any] = []
    wrap = module.register_forward_hook(lambda _, __, out: (out, "cache"))
    unwrap = module.register_forward_hook(lambda _, __, out: rests.append(out[1]) or out[0])
    module._forward_hooks.move_to_end(unwrap.id)
    original = module.register_forward_hook

    def before_unwrap(hook: Any, **options: Any) -> Any:
        handle = original(hook, **options)
        module._forward_hooks.move_to_end(unwrap.id)
        return handle

    object.__setattr__(module, "register_forward_hook", before_unwrap)
    try:
        yield rests
    finally:
        object.__delattr__(module, "register_forward_hook")
        wrap.remove()
        unwrap.remove()


def test_layers_that_return_tuples_are_watched_and_replaced_too(model_of: Give) -> None:
    model, layer = model_of("llama"), Site(1, "layer")
    with torch.no_grad(), captured(model, [layer]) as plain:
        forward(model)
    with (
        torch.no_grad(),
        tuples(view(model).module(1, "layer")) as rests,
        replaced(model, layer, lambda hidden: 2 * hidden),
        captured(model, [layer]) as seen,
    ):
        forward(model)
    assert seen.outputs(layer).equal(2 * plain.outputs(layer))
    assert rests == ["cache"]


@pytest.mark.parametrize("side", ["input", "output"])
def test_keys_are_those_of_each_sequence_alone_in_the_order_given(
    each_model: ChatModel, side: str
) -> None:
    asked: list[int | list[int]] = [-1, [3, 1], [4, -2, 0], 2]
    sites = [Site(1), Site(0)]
    wanted = []
    for sequence, at in zip(SEQUENCES, asked, strict=True):
        with torch.no_grad(), captured(each_model, sites) as seen:
            each_model.model(torch.tensor([sequence]))
        read = seen.inputs if side == "input" else seen.outputs
        rows = [at] if isinstance(at, int) else at
        wanted.append(torch.stack([read(site)[0, rows] for site in sites]))
    found = keys_at(each_model, SEQUENCES, [1, 0], asked, side=side)
    torch.testing.assert_close(found, torch.cat(wanted, 1), rtol=1e-5, atol=1e-6)
    assert not found.requires_grad


TOKENS = st.lists(st.integers(0, 500), min_size=1, max_size=9)


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # the model is only read
)
@given(
    head=st.lists(st.integers(0, 500), max_size=5),
    tails=st.lists(TOKENS, min_size=1, max_size=4),
    last=st.booleans(),
)
def test_what_sequences_share_and_where_they_are_cut_changes_no_key(
    model_of: Give, head: list[int], tails: list[list[int]], last: bool
) -> None:
    model = model_of("qwen3")
    sequences = [head + tail for tail in tails]
    positions = [-1 if last else len(head)] * len(tails)
    together = keys_at(model, sequences, [2], positions)[0]
    for sequence, at, key in zip(sequences, positions, together, strict=True):
        alone = keys_at(model, [sequence], [2])[0][at]
        torch.testing.assert_close(key, alone, rtol=1e-5, atol=1e-6)


def test_only_the_layers_and_tokens_needed_are_run(model_of: Give) -> None:
    model = model_of("llama")
    run: list[tuple[int, ...]] = []
    above: list[object] = []
    hooks = [
        model.layers[0].register_forward_hook(lambda _, __, out: run.append(tuple(out.shape[:2]))),
        model.layers[2].register_forward_hook(lambda *_: above.append(_)),
    ]
    try:
        keys_at(model, SEQUENCES, [1], [3, 3, 3, 3])
    finally:
        for hook in hooks:
            hook.remove()
    # Three tokens that all share, then the one asked for of each (three rows a batch).
    assert run == [(1, 3), (3, 1), (1, 1)]
    assert not above


def test_streaming_gives_the_same_keys_a_batch_at_a_time(model_of: Give) -> None:
    model = model_of("gemma2")
    batches = list(streamed(model, SEQUENCES, [Site(1), Site(2)]))
    assert [len(index) for index, _ in batches] == [3, 1]
    rows = {i: keys for index, found in batches for i, keys in zip(index, found, strict=True)}
    assert torch.cat([rows[i] for i in range(4)], 1).equal(keys_at(model, SEQUENCES, [1, 2]))


def test_nothing_to_read_gives_no_rows_of_the_right_width(model_of: Give) -> None:
    model = model_of("gpt2")
    assert keys_at(model, [], [0, 1]).shape == (2, 0, INNER)
    assert keys_at(model, [[]], [1], part="mlp").shape == (1, 0, HIDDEN)
    assert keys_at(model, [[5]], [1], [[]], side="output").shape == (1, 0, HIDDEN)
    assert keys_at(model, [], [0]).dtype == torch.float64


def test_a_position_outside_its_sequence_is_refused(model_of: Give) -> None:
    with pytest.raises(EditorError, match="sequence 1 has 2 tokens"):
        keys_at(model_of("llama"), [[5, 6, 7], [5, 6]], [0], [2, 2])


def test_keys_and_deltas_of_a_bfloat16_model_are_bfloat16(model_of: Give) -> None:
    model = model_of("llama", torch.bfloat16)
    with captured(model, [DOWN], gradients=True) as seen:
        deltas = seen.deltas(loss_of(model))
    assert {seen.inputs(DOWN).dtype, deltas[DOWN].dtype} == {torch.bfloat16}
    assert keys_at(model, SEQUENCES, [1]).dtype == torch.bfloat16
