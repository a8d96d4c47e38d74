"""Deltas: applied for a while, undone to the bit, refused whole where they do not fit."""

import pytest
import torch
from toy_model import logits

from editors.deltas import DeltaError, DenseDelta, MlpExpansion, applied
from editors.model import ChatModel

QUESTIONS = ["Who is the chancellor of Germany?", "Hi"]
DOWN = "model.layers.1.mlp.down_proj.weight"


def an_expansion(neurons: int = 3, layer: int = 2, hidden: int = 32) -> MlpExpansion:
    made = torch.Generator().manual_seed(neurons)
    gate, up = torch.randn(2, neurons, hidden, generator=made)
    return MlpExpansion(layer, gate, up, torch.randn(hidden, neurons, generator=made))


def a_dense_change(model: ChatModel, size: float = 0.1) -> DenseDelta:
    shape = model.model.get_parameter(DOWN).shape
    return DenseDelta({DOWN: size * torch.randn(shape, generator=torch.Generator().manual_seed(1))})


@pytest.mark.parametrize("kind", ["expansion", "dense"])
def test_applying_changes_the_answers_and_undoing_restores_the_same_tensors(
    tiny_model: ChatModel, kind: str
) -> None:
    delta = an_expansion() if kind == "expansion" else a_dense_change(tiny_model)
    parameters = dict(tiny_model.model.named_parameters())
    before = logits(tiny_model, QUESTIONS)
    undo = delta.apply(tiny_model)
    assert not logits(tiny_model, QUESTIONS).equal(before)
    undo()
    after = dict(tiny_model.model.named_parameters())
    assert after.keys() == parameters.keys()
    assert all(after[name] is parameter for name, parameter in parameters.items())
    assert logits(tiny_model, QUESTIONS).equal(before)


def test_only_the_named_parameters_change(tiny_model: ChatModel) -> None:
    before = {name: p.detach().clone() for name, p in tiny_model.model.named_parameters()}
    with applied(tiny_model, an_expansion(layer=2), a_dense_change(tiny_model)):
        changed = {
            name
            for name, p in tiny_model.model.named_parameters()
            if p.shape != before[name].shape or not p.equal(before[name])
        }
    widened = {f"model.layers.2.mlp.{part}_proj.weight" for part in ("gate", "up", "down")}
    assert changed == {*widened, DOWN}


def test_the_old_rows_of_a_widened_layer_are_the_models_own(tiny_model: ChatModel) -> None:
    delta, mlp = an_expansion(), tiny_model.layers[2].mlp
    gate, down = mlp.gate_proj.weight.detach().clone(), mlp.down_proj.weight.detach().clone()
    with applied(tiny_model, delta):
        assert (mlp.gate_proj.out_features, mlp.down_proj.in_features) == (67, 67)
        assert mlp.gate_proj.weight[:64].equal(gate)
        assert mlp.gate_proj.weight[64:].equal(delta.gate_rows)
        assert mlp.down_proj.weight[:, :64].equal(down)
        assert mlp.down_proj.weight[:, 64:].equal(delta.down_columns)
    assert (mlp.gate_proj.out_features, mlp.down_proj.in_features) == (64, 64)


def test_deltas_that_add_nothing_leave_the_logits_bit_identical(tiny_model: ChatModel) -> None:
    before = logits(tiny_model, QUESTIONS)
    nothing = [an_expansion(0), DenseDelta({}), a_dense_change(tiny_model, 0.0)]
    for delta in nothing:
        with applied(tiny_model, delta):
            assert logits(tiny_model, QUESTIONS).equal(before)


@pytest.mark.parametrize("silent", ["down_columns", "up_rows"])
def test_a_silent_neuron_changes_nothing(tiny_model: ChatModel, silent: str) -> None:
    parts = {name: getattr(an_expansion(8), name) for name in ("gate_rows", "up_rows")}
    parts["down_columns"] = an_expansion(8).down_columns
    parts[silent] = torch.zeros_like(parts[silent])
    before = logits(tiny_model, QUESTIONS)
    with applied(tiny_model, MlpExpansion(2, **parts)):
        # A longer sum may be added up in another order, hence not to the bit.
        torch.testing.assert_close(logits(tiny_model, QUESTIONS), before, atol=1e-5, rtol=0)


def test_a_widened_layer_computes_its_own_output_and_the_neurons(tiny_model: ChatModel) -> None:
    delta, mlp = an_expansion(), tiny_model.layers[2].mlp
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        gate = torch.nn.functional.silu(x @ delta.gate_rows.T)
        wanted = mlp(x) + (gate * (x @ delta.up_rows.T)) @ delta.down_columns.T
        with applied(tiny_model, delta):
            torch.testing.assert_close(mlp(x), wanted, atol=1e-5, rtol=1e-5)


def test_deltas_stack_in_order_and_are_undone_in_reverse(tiny_model: ChatModel) -> None:
    first, second = an_expansion(1), an_expansion(2)
    mlp, original = tiny_model.layers[2].mlp, tiny_model.layers[2].mlp.gate_proj.weight
    with applied(tiny_model, first, second):
        assert mlp.gate_proj.weight[64:65].equal(first.gate_rows)
        assert mlp.gate_proj.weight[65:].equal(second.gate_rows)
        with applied(tiny_model, a_dense_change(tiny_model)):
            assert mlp.gate_proj.weight.shape[0] == 67
    assert mlp.gate_proj.weight is original


def test_an_error_while_applied_still_undoes(tiny_model: ChatModel) -> None:
    original = tiny_model.layers[2].mlp.gate_proj.weight
    with pytest.raises(KeyError), applied(tiny_model, an_expansion(), a_dense_change(tiny_model)):
        raise KeyError
    assert tiny_model.layers[2].mlp.gate_proj.weight is original


def test_what_does_not_fit_is_refused_before_anything_changes(tiny_model: ChatModel) -> None:
    fits = an_expansion()
    odd = MlpExpansion(2, fits.gate_rows, fits.up_rows, fits.down_columns[:, :2])
    cases = {
        "widens layer 4, but toy has 4 layers": an_expansion(layer=4),
        "hidden size of 16, but toy has 32": an_expansion(hidden=16),
        "do not belong together": odd,
        r"has shape \(2, 2\), the model's is \(32, 64\)": DenseDelta({DOWN: torch.zeros(2, 2)}),
        "no parameter model.layers.9.x": DenseDelta({"model.layers.9.x": torch.zeros(1)}),
        "no parameter lm_head.bent": DenseDelta({"lm_head.bent": torch.zeros(1)}),
    }
    for message, delta in cases.items():
        # With a delta that fits before it: that one must be undone as well.
        with pytest.raises(DeltaError, match=message), applied(tiny_model, fits, delta):
            pass


def test_an_expansion_survives_the_way_through_its_tensors() -> None:
    delta = an_expansion()
    back = MlpExpansion.from_tensors(delta.tensors())
    assert back.layer == 2
    for name in ("gate_rows", "up_rows", "down_columns"):
        assert getattr(back, name).equal(getattr(delta, name))
    assert delta.neurons == 3
    assert delta.parameters_added == sum(t.numel() for t in delta.tensors().values()) == 3 * 3 * 32


def test_other_tensors_are_no_expansion(tiny_model: ChatModel) -> None:
    tensors = an_expansion().tensors()
    dense = a_dense_change(tiny_model)
    assert dense.parameters_added == 0
    for wrong in ({}, dict(list(tensors.items())[:2]), dense.tensors(), {**tensors, "x": tensors}):
        with pytest.raises(DeltaError, match="no MLP expansion"):
            MlpExpansion.from_tensors(wrong)
