"""Heads of the edits' own in a GGUF: where they stand, what the file says of them, what refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from expansions import expansion, heads, joint
from gguf_samples import (
    F32,
    HIDDEN,
    INNER,
    LAYERS,
    Q4_0,
    Q8_0,
    model_file,
    numbers_of,
    rows_of,
    written,
)

from editors.deltas import DenseDelta, EditDelta, JointDelta
from editors.gguf.container import GgufFile
from editors.gguf.layers import head_names
from editors.gguf.matrices import neighbours
from editors.gguf.widening import Form, planned
from editors.model_files import ModelError

ATTENTION = {
    f"blk.{layer}.attn_{part}.weight": shape
    for layer in range(LAYERS)
    for part, shape in {"v": (HIDDEN // 2, HIDDEN), "output": (HIDDEN, HIDDEN)}.items()
}


def file_with_heads(tmp_path: Path, architecture: str = "llama", **changes: Any) -> GgufFile:
    also = {**ATTENTION, **changes.pop("also", {})}
    return model_file(tmp_path / "source.gguf", architecture, also=also, **changes)


@pytest.mark.parametrize("type", [F32, Q8_0, Q4_0])
def test_a_layer_gets_its_heads_behind_those_it_has(tmp_path: Path, type: int) -> None:
    source = file_with_heads(tmp_path, types={"norm.weight": F32, ".weight": type})
    delta = heads()
    plan = planned(source, delta)
    file = written(tmp_path / "made.gguf", source, plan)
    names = head_names(2)
    assert (plan.heads, plan.neurons, plan.padding) == (2, 0, 0)
    assert plan.carrying == {part: (name,) for part, name in names.items()}
    assert set(plan.changed) == set(names.values())
    wanted = {
        "q": neighbours(delta.query_rows, 2).numpy(),
        "k": neighbours(delta.key_rows, 1).numpy(),
        "v": delta.value_rows.numpy(),
        "output": delta.output_columns.T.numpy(),
    }
    for part, name in names.items():
        found, before = numbers_of(file, name), numbers_of(source, name)
        if part == "output":
            found, before = found.T, before.T
        assert np.array_equal(found[: len(before)], before)
        rough = {F32: 0.0, Q8_0: 0.02, Q4_0: 0.5}[type]
        np.testing.assert_allclose(found[len(before) :], wanted[part], atol=rough)


def test_what_is_turned_together_stands_together() -> None:
    rows = torch.arange(16).reshape(8, 2)  # two heads of width 4
    assert neighbours(rows, 2)[:, 0].tolist() == [0, 4, 2, 6, 8, 12, 10, 14]


def test_the_file_counts_heads_and_neurons_by_layer(tmp_path: Path) -> None:
    source = file_with_heads(tmp_path)
    plan = planned(source, joint())
    file = written(tmp_path / "made.gguf", source, plan)
    assert file.get("deci.attention.head_count") == [4, 4, 6]
    assert file.get("deci.attention.head_count_kv") == [2, 2, 3]
    assert file.get("deci.feed_forward_length") == [INNER, INNER + 32, INNER + 64]
    assert (plan.neurons, plan.heads) == (96, 2)
    assert plan.carrying["gate"] == ("blk.1.ffn_gate.weight", "blk.2.ffn_gate.weight")
    for tensor in source.tensors:
        if tensor.name not in plan.changed:
            assert np.array_equal(rows_of(file, tensor.name), rows_of(source, tensor.name))


def test_heads_and_neurons_can_have_finer_types(tmp_path: Path) -> None:
    source = file_with_heads(tmp_path, types={"norm.weight": F32, ".weight": Q4_0})
    plan = planned(source, joint(), Form(carrying={"gate": Q8_0, "q": F32}))
    types = {one.tensor.name: one.tensor.type for one in plan.tensors}
    assert {types[name] for name in plan.carrying["gate"]} == {Q8_0}
    assert {types[name] for name in plan.carrying["q"]} == {F32}
    assert {types[name] for name in plan.carrying["output"]} == {Q4_0}


def test_columns_that_a_type_does_not_fit_get_the_one_that_llama_cpp_falls_back_to(
    tmp_path: Path,
) -> None:
    narrow = heads(group=1, width=16)  # 16 columns; a block has 32
    values = {f"blk.{layer}.attn_v.weight": (HIDDEN, HIDDEN) for layer in range(LAYERS)}
    source = file_with_heads(tmp_path, also=values, types={"attn_output.weight": Q8_0}, key_heads=4)
    plan = planned(source, narrow)
    types = {one.tensor.name: one.tensor.type for one in plan.tensors}
    assert types["blk.2.attn_output.weight"] == 1
    found = numbers_of(written(tmp_path / "made.gguf", source, plan), "blk.2.attn_output.weight")
    np.testing.assert_allclose(found[:, -16:], narrow.output_columns.numpy(), atol=2e-3)


def refused(source: GgufFile, delta: EditDelta, says: str, form: Form | None = None) -> None:
    with pytest.raises(ModelError) as caught:
        planned(source, delta, form)
    assert says in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_where_all_layers_have_as_many_heads_the_remedy_is_named(tmp_path: Path) -> None:
    says = 'set consolidation.editor = "compiled", run a night, and export that version'
    refused(file_with_heads(tmp_path, "qwen3"), joint(), says)
    refused(file_with_heads(tmp_path), joint(), "'llama', padded", Form(padded=True))


def test_heads_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    source = file_with_heads(tmp_path)
    refused(source, heads(layer=3), "add heads to layer 3, but source.gguf has 3 layers")
    refused(source, heads(width=32), "the edits have query rows (64, 64), a group of heads of")
    fewer = replace(heads(), value_rows=torch.zeros(3, HIDDEN))
    refused(source, fewer, "value rows (3, 64), a group of heads of source.gguf (16, 64)")
    without = model_file(tmp_path / "without.gguf")
    refused(without, heads(), "without.gguf has no heads in layer 2")
    biased = file_with_heads(tmp_path, also={"blk.2.attn_q.bias": (HIDDEN,)})
    refused(biased, heads(), "heads with biases (layer 2)")


def test_a_file_whose_heads_are_not_those_it_counts_is_refused(tmp_path: Path) -> None:
    also = {"blk.2.attn_v.weight": (HIDDEN // 4, HIDDEN)}
    says = "is damaged: the heads of layer 2 are not those it counts"
    refused(file_with_heads(tmp_path, also=also), heads(), says)


def test_other_edits_than_neurons_and_heads_are_refused(tmp_path: Path) -> None:
    source = file_with_heads(tmp_path)
    says = "these edits are no neurons and heads, one of a kind in a layer"
    refused(source, DenseDelta({"lm_head.weight": torch.zeros(1)}), says)
    refused(source, JointDelta((expansion(2), expansion(3))), says)
