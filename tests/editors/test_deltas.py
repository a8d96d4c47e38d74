"""Deltas: applied for a while, undone to the bit, refused whole where they do not fit."""

import pytest
import torch
from toy_model import logits

from editors.deltas import (
    DeltaError,
    DenseDelta,
    EditDelta,
    HeadExpansion,
    JointDelta,
    MlpExpansion,
    applied,
    from_tensors,
    head_group,
)
from editors.model import ChatModel

QUESTIONS = ["Who is the chancellor of Germany?", "Hi"]
DOWN = "model.layers.1.mlp.down_proj.weight"


def an_expansion(neurons: int = 3, layer: int = 2, hidden: int = 32) -> MlpExpansion:
    made = torch.Generator().manual_seed(neurons)
    gate, up = torch.randn(2, neurons, hidden, generator=made)
    return MlpExpansion(layer, gate, up, torch.randn(hidden, neurons, generator=made))


def a_head(layer: int = 2, hidden: int = 32, output: float = 1.0) -> HeadExpansion:
    """A group of heads for the toy: two query heads of 8 that share keys and values."""
    made = torch.Generator().manual_seed(7)
    query, key = (torch.randn(n, hidden, generator=made) for n in (16, 8))
    value = torch.randn(8, hidden, generator=made)
    return HeadExpansion(layer, query, key, value, output * torch.randn(hidden, 16, generator=made))


def a_dense_change(model: ChatModel, size: float = 0.1) -> DenseDelta:
    shape = model.model.get_parameter(DOWN).shape
    return DenseDelta({DOWN: size * torch.randn(shape, generator=torch.Generator().manual_seed(1))})


@pytest.mark.parametrize("kind", ["expansion", "dense", "head", "joint"])
def test_applying_changes_the_answers_and_undoing_restores_the_same_tensors(
    tiny_model: ChatModel, kind: str
) -> None:
    delta: EditDelta = {
        "expansion": an_expansion(),
        "dense": a_dense_change(tiny_model),
        "head": a_head(),
        "joint": JointDelta((an_expansion(), a_head(), an_expansion(2, layer=3))),
    }[kind]
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
        "adds heads to layer 4, but toy has 4 layers": a_head(layer=4),
        r"q_proj has shape \(16, 16\), a group of heads of toy needs \(16, 32\)": a_head(hidden=16),
        "adds heads to layer 9": JointDelta((an_expansion(layer=1), a_head(layer=9))),
        "no parameter lm_head.bent": DenseDelta({"lm_head.bent": torch.zeros(1)}),
    }
    for message, delta in cases.items():
        # With a delta that fits before it: that one must be undone as well.
        with pytest.raises(DeltaError, match=message), applied(tiny_model, fits, delta):
            pass


def test_heads_that_write_nothing_change_nothing(tiny_model: ChatModel) -> None:
    before = logits(tiny_model, QUESTIONS)
    with applied(tiny_model, a_head(output=0.0)):
        torch.testing.assert_close(logits(tiny_model, QUESTIONS), before, atol=1e-5, rtol=0)


def test_a_copy_of_the_models_own_heads_doubles_what_they_say(tiny_model: ChatModel) -> None:
    attention = tiny_model.layers[2].self_attn
    key, query = attention.k_proj.weight.detach(), attention.q_proj.weight.detach()
    value, output = attention.v_proj.weight.detach(), attention.o_proj.weight.detach()
    seen: list[torch.Tensor] = []
    hook = attention.register_forward_hook(lambda _, __, out: seen.append(out[0]))
    logits(tiny_model, QUESTIONS[:1])
    with applied(
        tiny_model,
        HeadExpansion(2, query[:16], key[:8], value[:8], output[:, :16]),
        HeadExpansion(2, query[16:], key[8:], value[8:], output[:, 16:]),
    ):
        logits(tiny_model, QUESTIONS[:1])
    hook.remove()
    torch.testing.assert_close(seen[1], 2 * seen[0], atol=1e-5, rtol=1e-5)


def test_heads_with_biases_are_refused(tiny_model: ChatModel) -> None:
    attention = tiny_model.layers[2].self_attn
    attention.q_proj.bias = torch.nn.Parameter(torch.zeros(32))
    try:
        with pytest.raises(DeltaError, match="without biases"), applied(tiny_model, a_head()):
            pass
    finally:
        attention.q_proj.bias = None


def test_parts_keep_names_of_their_own(tiny_model: ChatModel) -> None:
    parts = (an_expansion(), a_head(), an_expansion(2, layer=3))
    joint = JointDelta(parts)
    assert len(joint.tensors()) == 3 + 4 + 3
    assert joint.parameters_added == sum(t.numel() for t in joint.tensors().values())
    assert JointDelta(()).parameters_added == 0


def test_an_expansion_survives_the_way_through_its_tensors() -> None:
    delta = an_expansion()
    back = MlpExpansion.from_tensors(delta.tensors())
    assert back.layer == 2
    for name in ("gate_rows", "up_rows", "down_columns"):
        assert getattr(back, name).equal(getattr(delta, name))
    assert delta.neurons == 3
    assert delta.parameters_added == sum(t.numel() for t in delta.tensors().values()) == 3 * 3 * 32


def test_a_joint_delta_survives_the_way_through_its_tensors(tiny_model: ChatModel) -> None:
    joint = JointDelta((an_expansion(), a_head(layer=3), an_expansion(2, layer=3)))
    stored = dict(sorted(joint.tensors().items()))
    back = from_tensors(stored)
    assert isinstance(back, JointDelta)
    found = back.tensors()
    assert found.keys() == stored.keys()
    assert all(found[name].equal(tensor) for name, tensor in stored.items())
    with applied(tiny_model, joint):
        wanted = logits(tiny_model, QUESTIONS)
    with applied(tiny_model, back):
        assert logits(tiny_model, QUESTIONS).equal(wanted)
    assert isinstance(from_tensors(an_expansion().tensors()), MlpExpansion)


def test_tensors_of_no_delta_are_refused() -> None:
    with pytest.raises(DeltaError, match="no tensors"):
        from_tensors({})
    heads = a_head().tensors()
    del heads["model.layers.2.self_attn.k_proj.rows"]
    with pytest.raises(DeltaError, match="no group of heads"):
        from_tensors(heads)
    with pytest.raises(DeltaError, match="no MLP expansion"):
        from_tensors({"lm_head.weight": torch.zeros(1)})


def test_the_group_of_heads_is_the_models_own(tiny_model: ChatModel) -> None:
    assert head_group(tiny_model) == (2, 8)


def test_other_tensors_are_no_expansion(tiny_model: ChatModel) -> None:
    tensors = an_expansion().tensors()
    dense = a_dense_change(tiny_model)
    assert dense.parameters_added == 0
    for wrong in ({}, dict(list(tensors.items())[:2]), dense.tensors(), {**tensors, "x": tensors}):
        with pytest.raises(DeltaError, match="no MLP expansion"):
            MlpExpansion.from_tensors(wrong)
