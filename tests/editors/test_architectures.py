"""The model view against what the models themselves compute, for every architecture."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from architecture_models import HIDDEN, INNER, LAYERS, SETTINGS, architecture_model
from torch import nn

from editors.architectures import ARCHITECTURES, ModelView, view
from editors.capture import Site, captured
from editors.deltas import DeltaError, DenseDelta, MlpExpansion, applied
from editors.model import ChatModel
from editors.requests import EditorError

IDS = torch.tensor([[5, 9, 21, 40, 7, 11], [6, 14, 15, 3, 30, 31]])
Give = Callable[..., ChatModel]


def random(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def names_of(shown: ModelView, layer: int) -> dict[str, str]:
    """The weights that are modules' own, by part."""
    names = shown.names(layer)
    return {"down": names.down, "up": names.up, "attention": names.attention}


def test_every_architecture_has_a_tiny_model_to_be_tested_on() -> None:
    assert set(ARCHITECTURES) == set(SETTINGS)


def test_a_layers_weights_have_the_shapes_of_an_mlp_out_by_in(each_model: ChatModel) -> None:
    shown = view(each_model)
    assert (len(shown.layers), shown.hidden) == (LAYERS, HIDDEN)
    assert (len(each_model.layers), each_model.hidden_size) == (LAYERS, HIDDEN)
    for layer in range(LAYERS):
        names = shown.names(layer)
        assert shown.inner(layer) == INNER
        assert shown.matrix(names.down).shape == (HIDDEN, INNER)
        assert shown.matrix(names.up)[names.up_rows].shape == (INNER, HIDDEN)
        assert shown.matrix(names.attention).shape == (HIDDEN, HIDDEN)
        assert all(shown.matrix(name).shape[1] == HIDDEN for name in names.queries)
        assert shown.gated == (names.gate is not None)
        if names.gate is not None:
            assert shown.matrix(names.gate)[names.gate_rows].shape == (INNER, HIDDEN)


def test_a_matrix_is_the_map_of_its_module_and_no_copy(each_model: ChatModel) -> None:
    shown = view(each_model)
    for part, name in names_of(shown, 1).items():
        matrix, module = shown.matrix(name), shown.module(1, part)
        x = random(4, matrix.shape[1])
        with torch.no_grad():
            y = module(x) - module(torch.zeros_like(x))  # less the bias
            torch.testing.assert_close(y, x @ matrix.T)
        assert matrix.data_ptr() == shown.parameter(name).data_ptr()


def test_keys_are_what_gate_and_up_make_of_the_mlps_input(each_model: ChatModel) -> None:
    shown, names = view(each_model), view(each_model).names(2)
    mlp, key = Site(2, "mlp"), Site(2, "down")
    with torch.no_grad(), captured(shown, [mlp, key]) as seen:
        each_model.model(IDS)
        module = shown.module(2, "mlp")
        act = next(a for a in ("act_fn", "act", "activation_fn") if hasattr(module, a))
        bias = getattr(shown.module(2, "up"), "bias", None)
        x = seen.inputs(mlp)
        up = x @ shown.matrix(names.up)[names.up_rows].T
        if names.gate is None:
            assert bias is not None
            made = getattr(module, act)(up + bias)
        else:
            made = getattr(module, act)(x @ shown.matrix(names.gate)[names.gate_rows].T) * up
        torch.testing.assert_close(seen.inputs(key), made)


def test_a_stored_change_moves_the_values_by_the_change_times_the_keys(
    each_model: ChatModel,
) -> None:
    shown, site = view(each_model), Site(0, "down")
    name = shown.names(0).down
    change = random(HIDDEN, INNER)
    delta = DenseDelta({name: shown.stored(name, change)})
    with torch.no_grad(), captured(shown, [site]) as seen:
        each_model.model(IDS)
        keys, before = seen.inputs(site), seen.outputs(site)
        with applied(each_model, delta):
            each_model.model(IDS)
            torch.testing.assert_close(seen.outputs(site), before + keys @ change.T)
        each_model.model(IDS)
        assert seen.outputs(site).equal(before)


def test_a_change_in_the_wrong_orientation_is_refused(model_of: Give) -> None:
    shown = view(model_of("gpt2"))
    with pytest.raises(EditorError, match=r"\(out, in\) = \(32, 64\), not \(64, 32\)"):
        shown.stored(shown.names(0).down, random(INNER, HIDDEN))


def test_the_residual_stream_is_the_sum_of_what_enters_it(each_model: ChatModel) -> None:
    shown = view(each_model)
    layer, down, attention = (Site(1, part) for part in ("layer", "down", "attention"))
    with torch.no_grad(), captured(shown, [layer, down, attention]) as seen:
        each_model.model(IDS)
        total = (
            seen.inputs(layer)
            + shown.entering(1, seen.outputs(attention), "attention")
            + shown.entering(1, seen.outputs(down))
        )
        torch.testing.assert_close(seen.outputs(layer), total)


def test_logits_are_the_models_own(each_model: ChatModel) -> None:
    shown, last = view(each_model), Site(LAYERS - 1, "layer")
    with torch.no_grad(), captured(shown, [last]) as seen:
        logits = each_model.model(IDS).logits
        torch.testing.assert_close(shown.logits(shown.finish(seen.outputs(last))), logits)


def test_a_tied_head_is_told_from_one_of_its_own(model_of: Give) -> None:
    assert view(model_of("llama")).tied
    assert not view(model_of("mistral")).tied
    assert view(model_of("gpt2")).output_weight is model_of("gpt2").model.transformer.wte.weight


def test_windows_count_only_where_the_layer_has_one(model_of: Give) -> None:
    windows = {
        name: [view(model_of(name)).window(layer) for layer in range(LAYERS)]
        for name in ("llama", "mistral", "qwen2", "qwen3", "gemma2")
    }
    assert windows == {
        "llama": [None] * 3,
        "mistral": [4] * 3,
        "qwen2": [None] * 3,
        "qwen3": [4, None, 4],
        "gemma2": [4, None, 4],
    }


def test_a_view_of_a_view_is_itself(model_of: Give) -> None:
    shown = view(model_of("llama"))
    assert view(shown) is shown


def test_an_unknown_architecture_is_named_with_what_it_lacks() -> None:
    experts = architecture_model("mixtral", num_local_experts=2)
    with pytest.raises(EditorError, match=r"'mixtral' .*lacks mlp\.down_proj, mlp\.up_proj, mlp\."):
        view(experts)
    with pytest.raises(EditorError, match=r"'olmo' .*lacks only its row"):
        view(architecture_model("olmo"))
    with pytest.raises(EditorError, match=r"'opt' .*lacks layers, norm$"):
        view(architecture_model("opt", ffn_dim=INNER, word_embed_proj_dim=HIDDEN))


def test_a_known_architecture_without_one_of_its_parts_is_refused() -> None:
    model = architecture_model("llama")
    block = model.model.model.layers[2]
    block.mlp.experts, block.mlp.down_proj = block.mlp.down_proj, None
    del block.mlp.down_proj
    with pytest.raises(EditorError, match=r"llama model .*lacks mlp\.down_proj$"):
        view(model)


def test_attention_that_takes_no_mask_is_refused() -> None:
    model = architecture_model("llama")
    model.model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(EditorError, match=r"flash_attention_2 does not take.*'sdpa'"):
        view(model)


def test_what_is_not_there_is_named(model_of: Give) -> None:
    shown = view(model_of("gpt2"))
    with pytest.raises(EditorError, match="has layers 0 to 2, not 3"):
        shown.names(3)
    with pytest.raises(EditorError, match="gpt2 has no part 'gate'"):
        shown.module(0, "gate")
    with pytest.raises(EditorError, match="gpt2 has no part 'name'"):
        shown.module(0, "name")
    with pytest.raises(EditorError, match=r"no parameter transformer\.h\.0\.bent"):
        shown.matrix("transformer.h.0.bent")


def test_weights_whose_numbers_are_elsewhere_are_refused() -> None:
    model = architecture_model("llama")
    shown = view(model)
    shown.layers[0].to("meta")
    with pytest.raises(EditorError, match=r"layers\.0\.mlp\.down_proj\.weight .*is offloaded"):
        shown.matrix(shown.names(0).down)
    linear = shown.layers[1].mlp.down_proj
    linear.weight = nn.Parameter(linear.weight.to(torch.uint8), requires_grad=False)
    with pytest.raises(EditorError, match=r"quantised \(torch\.uint8\)"):
        shown.matrix(shown.names(1).down)


@pytest.mark.parametrize("name", ["gpt_neox", "gpt2"])
def test_an_mlp_of_another_make_is_not_widened(model_of: Give, name: str) -> None:
    none = torch.zeros(0, HIDDEN)
    with pytest.raises(DeltaError, match=rf"MLPs of tiny {name} are not made so"):
        MlpExpansion(1, none, none, none.T).apply(model_of(name))
