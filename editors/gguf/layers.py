"""What the layers of a GGUF are made of, and whether edits fit them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from editors.gguf.container import GgufFile, Tensor
from editors.model_files import ModelError

if TYPE_CHECKING:
    from editors.deltas import EditDelta, HeadExpansion, MlpExpansion

TWINS = {"llama": "deci"}
"""Architectures that llama.cpp reads under another name too, there with a width for each layer."""
WIDTH = "feed_forward_length"
HEADS, KEY_HEADS = "attention.head_count", "attention.head_count_kv"
BY_LAYER = (WIDTH, HEADS, KEY_HEADS)
"""Keys that a twin reads as one value for each layer."""
PARTS = ("gate", "up", "down")
HEAD_PARTS = ("q", "k", "v", "output")
_TWICE = ("qwen",)  # architectures whose metadata counts a neuron's gate and its up row
_WIDTH_TOO = ("ffn_gate.", "ffn_up.", "ffn_down.", "ffn_sub_norm.", "ffn_act.")
"""Parts of names of what is as long as a layer's MLP is wide, or acts on all its neurons."""


@dataclass(frozen=True)
class Added:
    """What edits add, by layer."""

    neurons: Mapping[int, MlpExpansion]
    heads: Mapping[int, HeadExpansion]


def taken_apart(delta: EditDelta | None) -> Added:
    """Take edits apart. Raises ModelError for other edits than neurons and heads, one of a kind
    in a layer."""
    from editors.deltas import HeadExpansion, JointDelta, MlpExpansion

    parts = delta.parts if isinstance(delta, JointDelta) else (delta,) if delta else ()
    neurons: dict[int, MlpExpansion] = {}
    heads: dict[int, HeadExpansion] = {}
    for part in parts:
        if isinstance(part, MlpExpansion) and part.layer not in neurons:
            if part.neurons:
                neurons[part.layer] = part
        elif isinstance(part, HeadExpansion) and part.layer not in heads:
            heads[part.layer] = part
        else:
            raise ModelError("these edits are no neurons and heads, one of a kind in a layer")
    return Added(neurons, heads)


def mlp_names(source: GgufFile, layer: int) -> dict[str, str]:
    """Return the names of a layer's MLP matrices by part; "gate_up" where one matrix is both.

    Raises ModelError where the layer has no gated MLP.
    """
    names = {part: f"blk.{layer}.ffn_{part}.weight" for part in PARTS}
    found = {part: name for part, name in names.items() if source.tensor(name)}
    if set(found) == set(PARTS):
        return found
    if set(found) == {"up", "down"}:
        up, down = source.tensor(found["up"]), source.tensor(found["down"])
        if up and down and up.rows == 2 * down.columns:
            return {"gate_up": found["up"], "down": found["down"]}
    raise ModelError(
        f"{source.path.name} ({source.architecture}) has no gated MLP in layer {layer}: the edits "
        "cannot be written into it"
    )


def head_names(layer: int) -> dict[str, str]:
    """Return the names of the matrices of a layer's heads by part."""
    return {part: f"blk.{layer}.attn_{part}.weight" for part in HEAD_PARTS}


def check(source: GgufFile, added: Added, padded: bool) -> None:
    """Raise ModelError where the edits do not fit the file."""
    layers, name = layer_count(source), source.path.name
    for layer, delta in added.neurons.items():
        if not 0 <= layer < layers:
            raise ModelError(f"the edits widen layer {layer}, but {name} has {layers} layers")
        shape = delta.gate_rows.shape
        if delta.up_rows.shape != shape or delta.down_columns.T.shape != shape:
            raise ModelError(
                f"the edits have gate rows {tuple(shape)}, up rows {tuple(delta.up_rows.shape)} "
                f"and down columns {tuple(delta.down_columns.shape)}, which do not belong together"
            )
    hidden = {delta.gate_rows.shape[1] for delta in added.neurons.values()}
    for layer in added.neurons if layers_differ(source, padded) else range(layers if hidden else 0):
        _check_layer(source, layer, max(hidden))
    if added.heads and (source.architecture not in (*TWINS, *TWINS.values()) or padded):
        raise ModelError(
            f"heads of the edits' own cannot be written: llama.cpp reads one number of heads for "
            f"all layers of {source.architecture!r}{', padded' if padded else ''}; set "
            'consolidation.editor = "compiled", run a night, and export that version'
        )
    for layer, heads in added.heads.items():
        _check_heads(source, layer, heads)


def _check_heads(source: GgufFile, layer: int, delta: HeadExpansion) -> None:
    """Raise ModelError where a layer's heads are not what the metadata says, or others than the
    edits'."""
    name, layers = source.path.name, layer_count(source)
    if not 0 <= layer < layers:
        raise ModelError(f"the edits add heads to layer {layer}, but {name} has {layers} layers")
    found = {part: source.tensor(one) for part, one in head_names(layer).items()}
    query, key, value, output = (found[part] for part in HEAD_PARTS)
    if not query or not key or not value or not output:
        raise ModelError(f"{name} has no heads in layer {layer}, whose number could grow")
    if source.tensor(f"blk.{layer}.attn_q.bias"):
        raise ModelError(f"{name}: heads with biases (layer {layer}) cannot be added to")
    heads, keys = by_layer(source, HEADS)[layer], by_layer(source, KEY_HEADS)[layer]
    width = key.rows // max(keys, 1)
    if width * keys != key.rows or width * heads != query.rows or value.rows != key.rows:
        raise ModelError(f"{name} is damaged: the heads of layer {layer} are not those it counts")
    group, hidden = group_size(source), query.columns
    wanted = {
        "query rows": (delta.query_rows, (group * width, hidden)),
        "key rows": (delta.key_rows, (width, hidden)),
        "value rows": (delta.value_rows, (width, hidden)),
        "output columns": (delta.output_columns, (hidden, group * width)),
    }
    for what, (tensor, shape) in wanted.items():
        if tuple(tensor.shape) != shape:
            raise ModelError(
                f"the edits have {what} {tuple(tensor.shape)}, a group of heads of {name} {shape}"
            )


def _check_layer(source: GgufFile, layer: int, hidden: int) -> None:
    """Raise ModelError where a layer's MLP cannot be widened, or is not what the metadata says."""
    name = source.path.name
    matrices = {part: matrix(source, one) for part, one in mlp_names(source, layer).items()}
    for tensor in source.tensors:
        part = tensor.name.removeprefix(f"blk.{layer}.")
        if part.startswith(_WIDTH_TOO) and tensor not in matrices.values():
            what = "biases" if part.endswith(".bias") else "more than matrices"
            raise ModelError(f"{name}: an MLP with {what} ({tensor.name}) cannot be widened")
    down = matrices.pop("down")
    if down.rows != hidden or any(one.columns != hidden for one in matrices.values()):
        raise ModelError(f"the edits are for a hidden size of {hidden}, but {name} has {down.rows}")
    rows = down.columns * (2 if "gate_up" in matrices else 1)
    said = by_layer(source, WIDTH)[layer]
    if said != down.columns * unit(source) or any(one.rows != rows for one in matrices.values()):
        raise ModelError(
            f"{name} is damaged: {WIDTH} is {said}, but layer {layer} has {down.columns} neurons"
        )


def unit(source: GgufFile) -> int:
    """Return what a neuron counts in the metadata's width."""
    return 2 if source.architecture in _TWICE else 1


def group_size(source: GgufFile) -> int:
    """Return how many query heads share a key head."""
    heads, keys = by_layer(source, HEADS)[0], by_layer(source, KEY_HEADS)[0]
    return heads // keys if keys else 0


def matrix(source: GgufFile, name: str) -> Tensor:
    found = source.tensor(name)
    assert found is not None  # ``mlp_names`` found it
    return found


def layers_differ(source: GgufFile, padded: bool) -> bool:
    """Whether layers may differ in width and heads: in architectures that are known for it, and
    in files whose layers differ already."""
    if source.architecture in TWINS.values() or len(set(by_layer(source, WIDTH))) > 1:
        return True
    return source.architecture in TWINS and not padded


def layer_count(source: GgufFile) -> int:
    layers = source.number(f"{source.architecture}.block_count", 0)
    if not 0 <= layers <= len(source.tensors):
        raise ModelError(f"{source.path} is damaged: {layers:,} layers")
    return layers


def by_layer(source: GgufFile, key: str) -> list[int]:
    """Return what the metadata says of each layer.

    Raises ModelError where it says nothing, or something else.
    """
    key, layers = f"{source.architecture}.{key}", layer_count(source)
    said = source.get(key)
    values = said if isinstance(said, list) else [said] * layers
    if len(values) < layers or any(not isinstance(v, int) or not 0 <= v < 1 << 31 for v in values):
        raise ModelError(f"{source.path} is damaged: {key} is no whole number for each layer")
    return list(values)
