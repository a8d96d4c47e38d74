"""What an edit changes of a GGUF: the matrices that carry it, the width, and nothing else."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from expansions import expansion
from gguf_samples import (
    F32,
    HIDDEN,
    INNER,
    IQ2_XS,
    LAYERS,
    Q4_0,
    Q4_1,
    Q4_K,
    Q6_K,
    Q8_0,
    model_file,
    numbers_of,
    rows_of,
    written,
)

from editors.deltas import MlpExpansion
from editors.gguf import quantise
from editors.gguf.container import Entry, GgufFile
from editors.gguf.widening import Form, mlp_names, planned
from editors.model_files import ModelError

F16 = 1
MIXED = {  # as K-quant mixtures: layers differ, the down matrix is finer than the others
    "blk.1.ffn_down.weight": Q6_K,
    "ffn_down.weight": Q4_K,
    "ffn_gate.weight": Q4_K,
    "ffn_up.weight": Q4_K,
    "attn_q.weight": Q4_K,
    "token_embd.weight": Q6_K,
}
# The greatest error of a type, as a share of a row's greatest number.
ERRORS = {F32: 0, F16: 2**-11, Q4_0: 0.13, Q4_1: 0.07, Q8_0: 0.005, Q4_K: 0.12, Q6_K: 0.03}
needs_c = pytest.mark.skipif(
    importlib.util.find_spec("libgguf") is None, reason="libgguf is not installed"
)
KINDS: dict[str, dict[str, Any]] = {
    "llama": {"architecture": "llama"},
    "llama, mixed": {"architecture": "llama", "hidden": 256, "inner": 512, "types": MIXED},
    "llama, Q4_1": {"architecture": "llama", "types": {"norm.weight": F32, ".weight": Q4_1}},
    "qwen3": {"architecture": "qwen3", "types": {"ffn_up.weight": Q8_0, "ffn_gate.weight": Q4_0}},
    "gemma3": {
        "architecture": "gemma3",
        "types": {"ffn_down.weight": Q8_0},
        "also": {f"blk.{layer}.post_ffw_norm.weight": (HIDDEN,) for layer in range(LAYERS)},
    },
    "phi3": {"architecture": "phi3", "fused": True, "types": {"ffn_up.weight": Q4_1}},
    "deci": {"architecture": "deci", "width": [INNER] * LAYERS},
}
each_kind = pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[needs_c] if "mixed" in k else []) for k in KINDS]
)
each_form = pytest.mark.parametrize("form", [Form(), Form(padded=True)], ids=["", "padded"])


def source_of(tmp_path: Path, kind: str, **changes: Any) -> GgufFile:
    return model_file(tmp_path / "source.gguf", **{**KINDS[kind], **changes})


def fitting_delta(source: GgufFile, neurons: int = 5, layer: int = 1) -> MlpExpansion:
    return expansion(neurons, layer, source.get(f"{source.architecture}.embedding_length"))


def made(source: GgufFile, delta: MlpExpansion, form: Form | None = None) -> GgufFile:
    return written(source.path.with_name("made.gguf"), source, planned(source, delta, form))


def widths(file: GgufFile) -> Any:
    return file.get(f"{file.architecture}.feed_forward_length")


def parts(file: GgufFile, layer: int) -> dict[str, tuple[np.ndarray, int]]:
    """Return gate, up and down of a layer as numbers, with their types; down transposed, so
    that every neuron is a row."""
    found = {}
    for part, name in mlp_names(file, layer).items():
        tensor, values = file.tensor(name), numbers_of(file, name)
        assert tensor is not None
        if part == "gate_up":
            found["gate"], found["up"] = ((half, tensor.type) for half in np.split(values, 2))
        else:
            found[part] = (values.T if part == "down" else values, tensor.type)
    return found


def halves(rows: np.ndarray, part: str) -> list[np.ndarray]:
    return np.split(rows, 2) if part == "gate_up" else [rows]


@each_kind
@each_form
def test_tensors_that_no_edit_touches_are_copied_to_the_byte(
    tmp_path: Path, kind: str, form: Form
) -> None:
    source = source_of(tmp_path, kind)
    plan = planned(source, fitting_delta(source), form)
    file = written(tmp_path / "made.gguf", source, plan)
    assert [tensor.name for tensor in file.tensors] == [tensor.name for tensor in source.tensors]
    alone = file.architecture == "deci"
    layers = [1] if alone else range(LAYERS)
    assert set(plan.changed) == {n for layer in layers for n in mlp_names(source, layer).values()}
    for tensor in source.tensors:
        if tensor.name not in plan.changed:
            there = file.tensor(tensor.name)
            assert there is not None
            assert replace(there, offset=tensor.offset) == tensor
            assert file.bytes_of(there) == source.bytes_of(tensor)
    assert plan.size == sum(tensor.size for tensor in file.tensors)
    assert plan.neurons % 32 == 0
    assert (plan.padding == 0) == alone


@each_kind
@each_form
def test_what_stood_in_the_widened_matrices_stands_there_still(
    tmp_path: Path, kind: str, form: Form
) -> None:
    source = source_of(tmp_path, kind)
    file = made(source, fitting_delta(source), form)
    for layer in range(LAYERS):
        for part, name in mlp_names(source, layer).items():
            before, after = rows_of(source, name), rows_of(file, name)
            if part == "down":
                assert np.array_equal(after[:, : before.shape[1]], before)
                continue
            for old, new in zip(halves(before, part), halves(after, part), strict=True):
                assert np.array_equal(new[: len(old)], old)


@each_kind
@each_form
@pytest.mark.parametrize("neurons", [5, 33])
def test_the_widened_matrices_are_the_old_ones_the_edits_and_zeros(
    tmp_path: Path, kind: str, form: Form, neurons: int
) -> None:
    source = source_of(tmp_path, kind)
    delta = fitting_delta(source, neurons)
    plan = planned(source, delta, form)
    file = written(tmp_path / "made.gguf", source, plan)
    wanted = {
        "gate": delta.gate_rows.numpy(),
        "up": delta.up_rows.numpy(),
        "down": delta.down_columns.numpy().T,
    }
    for layer in range(LAYERS):
        before, after = parts(source, layer), parts(file, layer)
        for part, (values, type) in after.items():
            old, of_type = before[part]
            assert type == of_type
            assert np.array_equal(values[: len(old)], old)
            added = values[len(old) :]
            if layer == 1:
                assert len(added) == plan.neurons >= neurons
                bound = ERRORS[type] * np.abs(wanted[part]).max()
                assert np.abs(added[:neurons] - wanted[part]).max() <= bound
                # In a block with others a zero may not be exact: what it is multiplied by is.
                rest = np.abs(added[neurons:]).max(initial=0)
                assert rest <= bound if part == "down" else rest == 0
            else:
                assert len(added) == (0 if file.architecture == "deci" else plan.neurons)
                assert not added.any()


@needs_c
def test_added_columns_begin_at_a_block(tmp_path: Path) -> None:
    source = source_of(tmp_path, "llama, mixed")
    assert planned(source, fitting_delta(source)).neurons == 256
    assert planned(source, fitting_delta(source, 257)).neurons == 512
    plain = source_of(tmp_path, "llama, Q4_1")
    assert [planned(plain, fitting_delta(plain, n)).neurons for n in (1, 32, 33)] == [32, 32, 64]


@pytest.mark.parametrize("kind", ["qwen3", "gemma3", "phi3"])
def test_without_a_twin_every_layer_is_widened_and_the_width_says_so(
    tmp_path: Path, kind: str
) -> None:
    source = source_of(tmp_path, kind)
    file = made(source, fitting_delta(source))
    assert file.architecture == kind
    assert widths(file) == INNER + 32
    others = f"{kind}.feed_forward_length"
    for old, new in zip(source.entries, file.entries, strict=True):
        assert new == (Entry.uint32(others, INNER + 32) if old.key == others else old)


def test_a_twin_has_a_width_for_each_layer_and_one_grows(tmp_path: Path) -> None:
    source = source_of(tmp_path, "llama")
    plan = planned(source, fitting_delta(source))
    file = written(tmp_path / "made.gguf", source, plan)
    assert file.architecture == plan.architecture == "deci"
    assert widths(file) == [INNER, INNER + 32, INNER]
    assert file.get("deci.attention.head_count") == [4, 4, 4]
    assert file.get("deci.attention.head_count_kv") == [2, 2, 2]
    assert not [entry.key for entry in file.entries if entry.key.startswith("llama.")]
    for old, new in zip(source.entries, file.entries, strict=True):
        assert new.key == old.key.replace("llama.", "deci.")
        if not isinstance(new.value, list) and old.key != "general.architecture":
            assert new.raw == old.raw


def test_padded_a_twin_is_not_needed(tmp_path: Path) -> None:
    source = source_of(tmp_path, "llama")
    plan = planned(source, fitting_delta(source), Form(padded=True))
    file = written(tmp_path / "made.gguf", source, plan)
    assert file.architecture == plan.architecture == "llama"
    assert widths(file) == INNER + 32
    assert file.get("llama.attention.head_count") == 4
    assert plan.padding == (LAYERS - 1) * 3 * 32 * HIDDEN * 4


@each_form
@pytest.mark.parametrize("scalar", [True, False])
def test_where_layers_may_differ_one_grows_under_the_same_name(
    tmp_path: Path, form: Form, scalar: bool
) -> None:
    source = source_of(tmp_path, "deci", width=INNER if scalar else [INNER] * LAYERS)
    file = made(source, fitting_delta(source), form)
    assert file.architecture == "deci"
    assert widths(file) == [INNER, INNER + 32, INNER]


def test_layers_that_differ_already_keep_their_widths(tmp_path: Path) -> None:
    also = {"blk.0.ffn_gate.weight": (32, HIDDEN), "blk.0.ffn_up.weight": (32, HIDDEN)}
    also["blk.0.ffn_down.weight"] = (HIDDEN, 32)
    path = tmp_path / "source.gguf"
    source = model_file(path, "openelm", also=also, width=[32, INNER, INNER])
    file = made(source, fitting_delta(source))
    assert file.architecture == "openelm"
    assert widths(file) == [32, INNER + 32, INNER]


@pytest.mark.parametrize(
    ("architecture", "form", "said"),
    [
        ("llama", Form(), [INNER, INNER + 32, INNER]),
        ("llama", Form(padded=True), [INNER + 32] * LAYERS),
        ("gemma3n", Form(), [INNER + 32] * LAYERS),
    ],
)
def test_a_list_of_widths_stays_one(
    tmp_path: Path, architecture: str, form: Form, said: list[int]
) -> None:
    source = model_file(tmp_path / "source.gguf", architecture, width=[INNER] * LAYERS)
    file = made(source, fitting_delta(source), form)
    assert widths(file) == said
    for layer, width in enumerate(said):
        down = file.tensor(f"blk.{layer}.ffn_down.weight")
        assert down is not None
        assert down.columns == width


def test_where_the_width_counts_gate_and_up_it_grows_by_both(tmp_path: Path) -> None:
    source = model_file(tmp_path / "source.gguf", "qwen", width=2 * INNER)
    file = made(source, fitting_delta(source))
    assert widths(file) == 2 * (INNER + 32)


def test_edits_of_an_earlier_export_are_not_lost_by_another(tmp_path: Path) -> None:
    source = source_of(tmp_path, "llama")
    once = made(source, fitting_delta(source))
    delta = expansion(3, layer=2)
    twice = written(tmp_path / "twice.gguf", once, planned(once, delta))
    assert widths(twice) == [INNER, INNER + 32, INNER + 32]
    assert (
        rows_of(twice, "blk.1.ffn_up.weight").tobytes()
        == rows_of(once, "blk.1.ffn_up.weight").tobytes()
    )


@pytest.mark.parametrize("delta", [None, expansion(0)], ids=["no edits", "no neurons"])
@each_form
def test_without_edits_the_file_is_the_source(
    tmp_path: Path, delta: MlpExpansion | None, form: Form
) -> None:
    source = source_of(tmp_path, "llama")
    plan = planned(source, delta, form)
    file = written(tmp_path / "made.gguf", source, plan)
    assert file.path.read_bytes() == source.path.read_bytes()
    assert (plan.changed, plan.neurons, plan.padding) == ((), 0, 0)
    assert plan.architecture == "llama"


@pytest.mark.parametrize("delta", [None, expansion(2)], ids=["no edits", "edits"])
def test_provenance_takes_the_place_of_an_earlier_exports(
    tmp_path: Path, delta: MlpExpansion | None
) -> None:
    source = model_file(
        tmp_path / "source.gguf", corrigenda_base="old", corrigenda_other="old", a_key="kept"
    )
    provenance = (Entry.text("corrigenda.base", "new"), Entry.uint32("corrigenda.edits", 7))
    plan = planned(source, delta, None, provenance)
    file = written(tmp_path / "made.gguf", source, plan)
    ours = {e.key: e.value for e in file.entries if e.key.startswith("corrigenda.")}
    assert ours == {"corrigenda.base": "new", "corrigenda.edits": 7}
    assert file.get("a.key") == "kept"


def test_an_edit_may_be_of_any_float_type(tmp_path: Path) -> None:
    source = source_of(tmp_path, "llama")
    delta = fitting_delta(source)
    rounded = MlpExpansion(
        1, delta.gate_rows.bfloat16(), delta.up_rows.bfloat16(), delta.down_columns.bfloat16()
    )
    file = made(source, rounded)
    added = numbers_of(file, "blk.1.ffn_gate.weight")[INNER : INNER + 5]
    assert np.array_equal(added, rounded.gate_rows.float().numpy())


@pytest.mark.parametrize("kind", ["llama", "phi3"])
def test_what_carries_the_edits_can_be_finer_than_the_source(tmp_path: Path, kind: str) -> None:
    types = {"norm.weight": F32, ".weight": Q4_0}
    source = source_of(tmp_path, kind, types=types)
    form = Form(carrying={"gate": F16, "up": F16, "down": Q8_0}, padded=True)
    file = made(source, fitting_delta(source), form)
    for layer in range(LAYERS):
        before, after = parts(source, layer), parts(file, layer)
        for part, (values, type) in after.items():
            finer = Q8_0 if part == "down" else F16
            assert type == (finer if layer == 1 else Q4_0)
            old = before[part][0]
            assert np.abs(values[: len(old)] - old).max() <= ERRORS[finer] * np.abs(old).max()


@pytest.mark.parametrize("padded", [True, False])
def test_types_that_cannot_be_written_become_q8_0_where_edits_are(
    tmp_path: Path, padded: bool
) -> None:
    types = {"ffn_gate.weight": IQ2_XS, "ffn_up.weight": IQ2_XS, "ffn_down.weight": IQ2_XS}
    source = source_of(tmp_path, "llama", hidden=256, inner=512, types=types)
    delta = fitting_delta(source)
    file = made(source, delta, Form(padded=padded))
    for layer in range(LAYERS):
        for part, (values, type) in parts(file, layer).items():
            old = parts(source, layer)[part][0]
            assert type == (Q8_0 if layer == 1 else IQ2_XS)
            if layer == 1:
                assert np.abs(values[: len(old)] - old).max() <= 0.005 * np.abs(old).max()
                assert values[len(old) :].any()
            else:
                assert np.array_equal(values[: len(old)], old)
                assert not values[len(old) :].any()


def test_one_type_for_all_weights_leaves_norms_and_vectors_as_they_are(tmp_path: Path) -> None:
    also = {
        "rope_freqs.weight": (8,),
        "blk.0.attn_q.bias": (2, HIDDEN),
        "blk.0.ffn_gate_inp.weight": (2, HIDDEN),
        "position_embd.weight": (4, HIDDEN),
        "output.weight": (32, HIDDEN),
        "blk.0.ffn_up_exps.weight": (2, 4, HIDDEN),
    }
    source = source_of(tmp_path, "llama", also=also)
    plan = planned(source, None, Form(type=Q8_0))
    file = written(tmp_path / "made.gguf", source, plan)
    kept = {"rope_freqs.weight", "blk.0.attn_q.bias", "blk.0.ffn_gate_inp.weight"}
    for tensor in source.tensors:
        there = file.tensor(tensor.name)
        assert there is not None
        if tensor.name in {*kept, "position_embd.weight"} or "norm" in tensor.name:
            assert there.type == F32
            assert file.bytes_of(there) == source.bytes_of(tensor)
        else:
            assert (there.type, there.shape) == (Q8_0, tensor.shape)
            old, new = numbers_of(source, tensor.name), numbers_of(file, tensor.name)
            assert np.abs(new - old).max() <= 0.005 * np.abs(old).max()
    assert file.get("general.file_type") == 7
    assert file.architecture == "llama"
    assert set(plan.changed) == {t.name for t in file.tensors if t.type == Q8_0}


def test_one_type_for_all_weights_and_edits_in_them(tmp_path: Path) -> None:
    source = source_of(tmp_path, "llama, Q4_1")
    delta = fitting_delta(source)
    file = made(source, delta, Form(type=Q8_0, padded=True))
    assert file.get("general.file_type") == 7
    for layer in range(LAYERS):
        for part, (values, type) in parts(file, layer).items():
            old = parts(source, layer)[part][0]
            assert type == Q8_0
            assert np.abs(values[: len(old)] - old).max() <= 0.005 * np.abs(old).max()
    added = parts(file, 1)["gate"][0][INNER : INNER + 5]
    assert np.abs(added - delta.gate_rows.numpy()).max() <= 0.005 * np.abs(added).max()


@needs_c
@pytest.mark.parametrize("type", ["q2_k", "q4_k", "q6_k"])
def test_rows_that_a_type_does_not_fit_fall_back_as_in_llama_cpp(tmp_path: Path, type: str) -> None:
    also = {"output.weight": (32, 48)}
    source = source_of(tmp_path, "llama", inner=256, also=also)
    delta = fitting_delta(source)
    file = made(source, delta, Form(type=quantise.TYPES[type]))
    falls_to = {"q2_k": "iq4_nl", "q4_k": "q5_0", "q6_k": "q8_0"}[type]
    named = {tensor.name: quantise.name_of(tensor.type) for tensor in file.tensors}
    assert named["blk.0.ffn_gate.weight"] == named["blk.1.ffn_gate.weight"] == falls_to
    assert named["blk.0.ffn_down.weight"] == named["blk.1.ffn_down.weight"] == type
    assert named["output.weight"] == "f16"
    assert widths(file) == [256, 512, 256]
    assert file.get("general.file_type") == quantise.FILE_TYPES[type]


def test_a_type_that_the_weights_have_already_changes_none_of_them(tmp_path: Path) -> None:
    source = source_of(tmp_path, "llama, Q4_1")
    plan = planned(source, None, Form(type=Q4_1))
    assert plan.changed == ()
    assert written(tmp_path / "made.gguf", source, plan).get("general.file_type") == 3


def test_a_file_without_a_file_type_gets_none(tmp_path: Path) -> None:
    source = source_of(tmp_path, "llama")
    without = replace(
        source, entries=tuple(e for e in source.entries if e.key != "general.file_type")
    )
    plan = planned(without, None, Form(type=Q8_0))
    assert [entry.key for entry in plan.entries] == [entry.key for entry in without.entries]


def refused(source: GgufFile, delta: MlpExpansion, says: str, form: Form | None = None) -> None:
    with pytest.raises(ModelError) as caught:
        planned(source, delta, form)
    text = str(caught.value)
    assert source.path.name in text
    assert says in text
    assert len(text.splitlines()) == 1


@each_form
def test_edits_that_do_not_fit_the_file_are_refused(tmp_path: Path, form: Form) -> None:
    source = source_of(tmp_path, "llama")
    hidden = f"hidden size of 32, but source.gguf has {HIDDEN}"
    refused(source, expansion(2, hidden=32), hidden, form)
    for layer in (-1, LAYERS, 99):
        says = f"the edits widen layer {layer}, but source.gguf has 3 layers"
        refused(source, expansion(2, layer), says, form)


def test_edits_whose_parts_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    source = source_of(tmp_path, "llama")
    delta = expansion(2)
    for torn in (
        replace(delta, up_rows=delta.up_rows[:1]),
        replace(delta, down_columns=torch.cat([delta.down_columns] * 2, dim=1)),
    ):
        with pytest.raises(ModelError, match="do not belong together"):
            planned(source, torn)


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("blk.1.ffn_down.bias", (HIDDEN,), "an MLP with biases (blk.1.ffn_down.bias)"),
        ("blk.1.ffn_up.bias", (INNER,), "an MLP with biases (blk.1.ffn_up.bias)"),
        ("blk.1.ffn_sub_norm.weight", (INNER,), "more than matrices (blk.1.ffn_sub_norm.weight)"),
        ("blk.1.ffn_gate.scale", (1,), "more than matrices (blk.1.ffn_gate.scale)"),
    ],
)
def test_an_mlp_that_is_more_than_its_matrices_is_refused(
    tmp_path: Path, name: str, shape: tuple[int, ...], says: str
) -> None:
    source = source_of(tmp_path, "llama", also={name: shape})
    refused(source, expansion(2), says)


def without(source: GgufFile, *names: str) -> GgufFile:
    return replace(source, tensors=tuple(t for t in source.tensors if t.name not in names))


def test_a_layer_without_a_gated_mlp_is_refused(tmp_path: Path) -> None:
    source = source_of(tmp_path, "llama")
    no_gate = without(source, "blk.1.ffn_gate.weight")
    refused(no_gate, expansion(2), "(llama) has no gated MLP in layer 1")
    experts = without(source, *mlp_names(source, 1).values())
    refused(experts, expansion(2), "(llama) has no gated MLP in layer 1")
    planned(experts, expansion(2, layer=0))  # the layers before experts may be like any other
    refused(experts, expansion(2, layer=0), "no gated MLP in layer 1", Form(padded=True))


@pytest.mark.parametrize("width", [INNER + 1, [INNER, INNER, 7], [INNER], "wide", [0.5] * LAYERS])
def test_a_width_that_is_not_the_matrices_is_refused(tmp_path: Path, width: Any) -> None:
    source = source_of(tmp_path, "llama")
    raw = width_entry(width)
    entries = tuple(raw if e.key == raw.key else e for e in source.entries)
    refused(replace(source, entries=entries), expansion(2, layer=2), "is damaged")
    none = tuple(e for e in source.entries if e.key != raw.key)
    refused(replace(source, entries=none), expansion(2, layer=2), "is damaged")


def width_entry(width: Any) -> Entry:
    key = "llama.feed_forward_length"
    if isinstance(width, int):
        return Entry.uint32(key, width)
    if isinstance(width, str):
        return Entry.text(key, width)
    return Entry.uint32s(key, [int(one) for one in width])


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (Entry.uint32("llama.block_count", 2**31), "2,147,483,648 layers"),
        (Entry.text("llama.block_count", "three"), "llama.block_count is no whole number"),
        (Entry.text("llama.attention.head_count", "four"), "llama.attention.head_count is no"),
    ],
)
def test_metadata_that_cannot_be_is_refused(tmp_path: Path, entry: Entry, says: str) -> None:
    source = source_of(tmp_path, "llama")
    entries = tuple(entry if e.key == entry.key else e for e in source.entries)
    refused(replace(source, entries=entries), expansion(2), says)


def test_a_type_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    source = source_of(tmp_path, "llama")
    with pytest.raises(ModelError, match="cannot be written as iq2_xs"):
        planned(source, None, Form(type=IQ2_XS))


def test_nothing_is_read_of_the_source_but_its_list_of_tensors(tmp_path: Path) -> None:
    source = source_of(tmp_path, "llama")
    source.path.unlink()
    plan = planned(source, expansion(2), Form(type=Q8_0))
    assert plan.size > 0
