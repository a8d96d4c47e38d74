"""Edits into a GGUF: what of its metadata and tensors changes, and nothing else.

Extra neurons are rows at the end of a layer's gate and up matrices and columns at the end of its
down matrix. Blocks never reach across rows, and added columns begin at a block, so that all
that was there stays as it is, to the byte. llama.cpp reads one width for all layers of most
architectures. Where one of them has a twin that reads a width for each layer ("deci" for
"llama"), the file is written as the twin and only the widened layer grows; else every other layer
gets neurons of zeros, which do nothing and cost room.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from editors.gguf import quantise
from editors.gguf.container import Entry, GgufFile, Tensor, Written, size_of
from editors.model_files import ModelError

if TYPE_CHECKING:
    import numpy as np

    from editors.deltas import MlpExpansion

TWINS = {"llama": "deci"}
"""Architectures that llama.cpp reads under another name too, there with a width for each layer."""
ARCHITECTURE, FILE_TYPE = "general.architecture", "general.file_type"
WIDTH = "feed_forward_length"
BY_LAYER = (WIDTH, "attention.head_count", "attention.head_count_kv")
"""Keys that a twin reads as one value for each layer."""
PARTS = ("gate", "up", "down")
_TWICE = ("qwen",)  # architectures whose metadata counts a neuron's gate and its up row
_LEAST = 32  # neurons are added in such steps: every block type's columns fit
_ROWS = 2048  # rows that are quantised at once
_FLOATS = (
    "norm", "ffn_gate_inp", "rope_freqs", "rope_factors", "position_embd", "token_types",
    "attn_rel_b", "altup", "laurel", "per_layer_model_proj", "ssm_", "shortconv.conv", "time_mix_",
)  # fmt: skip
"""Parts of names whose tensors llama.cpp never quantises."""
_WIDTH_TOO = ("ffn_gate.", "ffn_up.", "ffn_down.", "ffn_sub_norm.", "ffn_act.")
"""Parts of names of what is as long as a layer's MLP is wide, or acts on all its neurons."""


@dataclass(frozen=True)
class Form:
    """How a file is written.

    Attributes:
        type: ggml type of all weights; None: each as it is in the source.
        carrying: ggml type by part ("gate", "up", "down") of the layer that the edits widen, where
            it is to be another one.
        padded: widen all layers even where a twin needs it in one alone.
    """

    type: int | None = None
    carrying: Mapping[str, int] = field(default_factory=dict)
    padded: bool = False


@dataclass(frozen=True)
class Planned:
    """What is to be written, by ``container.write``.

    Attributes:
        entries, tensors: the new file's.
        architecture: as llama.cpp reads it.
        neurons: added to the widened layer, those that fill up a block among them.
        padding: bytes that neurons of zeros in other layers take.
        changed: names of the tensors that are not copied byte for byte.
        size: of all tensors, in bytes.
    """

    entries: tuple[Entry, ...]
    tensors: tuple[Written, ...]
    architecture: str
    neurons: int
    padding: int
    changed: tuple[str, ...]
    size: int


def planned(
    source: GgufFile,
    delta: MlpExpansion | None,
    form: Form | None = None,
    provenance: Sequence[Entry] = (),
) -> Planned:
    """Plan a file; nothing is read of the source but its list of tensors. Pure.

    Raises ModelError: the edits do not fit the source, or a type cannot be written.
    """
    form = form or Form()
    if form.type is not None and form.type not in quantise.NAMES:
        raise ModelError(f"weights cannot be written as {quantise.name_of(form.type)}")
    kept = [entry for entry in source.entries if not entry.key.startswith("corrigenda.")]
    entries = _typed(kept, form)
    if delta is None or not delta.neurons:
        written = [_converted(source, tensor, form.type) for tensor in source.tensors]
        return _made(source, [*entries, *provenance], written, source.architecture, 0, 0)
    _check_delta(source, delta)
    alone = _alone(source, form)
    twin = TWINS.get(source.architecture) if alone else None
    carriers = [delta.layer] if alone else list(range(_layers(source)))
    for layer in carriers:
        _check_layer(source, layer, delta)
    step = max([_LEAST, *(_step(source, layer, form, delta.layer) for layer in carriers)])
    neurons = -(-delta.neurons // step) * step
    entries = _widened(source, entries, carriers, neurons * _unit(source), twin)
    layers = {
        name: (part, layer) for layer in carriers for part, name in mlp_names(source, layer).items()
    }
    written, padding = [], 0
    for tensor in source.tensors:
        if tensor.name not in layers:
            written.append(_converted(source, tensor, form.type))
            continue
        part, layer = layers[tensor.name]
        own = layer == delta.layer
        type = _type_of(tensor, form, part if own else None)
        more = _extra(part, delta) if own else None
        written.append(_grown(source, tensor, type, part, more, neurons))
        if not own:
            padding += written[-1].tensor.size - size_of(type, tensor.shape)
    architecture = twin or source.architecture
    return _made(source, [*entries, *provenance], written, architecture, neurons, padding)


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


def _check_delta(source: GgufFile, delta: MlpExpansion) -> None:
    layers = _layers(source)
    if not 0 <= delta.layer < layers:
        raise ModelError(
            f"the edits widen layer {delta.layer}, but {source.path.name} has {layers} layers"
        )
    shape = delta.gate_rows.shape
    if delta.up_rows.shape != shape or delta.down_columns.T.shape != shape:
        raise ModelError(
            f"the edits have gate rows {tuple(shape)}, up rows {tuple(delta.up_rows.shape)} and "
            f"down columns {tuple(delta.down_columns.shape)}, which do not belong together"
        )


def _check_layer(source: GgufFile, layer: int, delta: MlpExpansion) -> None:
    """Raise ModelError where a layer's MLP cannot be widened, or is not what the metadata says."""
    name = source.path.name
    matrices = {part: _matrix(source, one) for part, one in mlp_names(source, layer).items()}
    for tensor in source.tensors:
        part = tensor.name.removeprefix(f"blk.{layer}.")
        if part.startswith(_WIDTH_TOO) and tensor not in matrices.values():
            what = "biases" if part.endswith(".bias") else "more than matrices"
            raise ModelError(f"{name}: an MLP with {what} ({tensor.name}) cannot be widened")
    down, hidden = matrices.pop("down"), delta.gate_rows.shape[1]
    if down.rows != hidden or any(one.columns != hidden for one in matrices.values()):
        raise ModelError(f"the edits are for a hidden size of {hidden}, but {name} has {down.rows}")
    rows = down.columns * (2 if "gate_up" in matrices else 1)
    said = _by_layer(source, WIDTH)[layer]
    if said != down.columns * _unit(source) or any(one.rows != rows for one in matrices.values()):
        raise ModelError(
            f"{name} is damaged: {WIDTH} is {said}, but layer {layer} has {down.columns} neurons"
        )


def _unit(source: GgufFile) -> int:
    """Return what a neuron counts in the metadata's width."""
    return 2 if source.architecture in _TWICE else 1


def _matrix(source: GgufFile, name: str) -> Tensor:
    found = source.tensor(name)
    assert found is not None  # ``mlp_names`` found it
    return found


def _alone(source: GgufFile, form: Form) -> bool:
    """Whether one layer may be wider than the others: in architectures that are known for it, and
    in files whose layers differ already."""
    if source.architecture in TWINS.values() or len(set(_by_layer(source, WIDTH))) > 1:
        return True
    return source.architecture in TWINS and not form.padded


def _layers(source: GgufFile) -> int:
    layers = source.number(f"{source.architecture}.block_count", 0)
    if not 0 <= layers <= len(source.tensors):
        raise ModelError(f"{source.path} is damaged: {layers:,} layers")
    return layers


def _by_layer(source: GgufFile, key: str) -> list[int]:
    """Return what the metadata says of each layer.

    Raises ModelError where it says nothing, or something else.
    """
    key, layers = f"{source.architecture}.{key}", _layers(source)
    said = source.get(key)
    values = said if isinstance(said, list) else [said] * layers
    if len(values) < layers or any(not isinstance(v, int) or not 0 <= v < 1 << 31 for v in values):
        raise ModelError(f"{source.path} is damaged: {key} is no whole number for each layer")
    return list(values)


def _step(source: GgufFile, layer: int, form: Form, edited: int) -> int:
    """Return the block of a layer's down matrix: as many columns are added at least."""
    down = _matrix(source, mlp_names(source, layer)["down"])
    return quantise.block(_type_of(down, form, "down" if layer == edited else None))


def _type_of(tensor: Tensor, form: Form, part: str | None) -> int:
    """Return the type that a widened matrix is written as.

    ``part``: where it carries the edits. It is then written as Q8_0 where its type cannot be
    written here (those that need an importance matrix); zeros can be written in every type.
    """
    wanted = tensor.type if form.type is None else form.type
    if part is not None:
        wanted = form.carrying.get("gate" if part == "gate_up" else part, wanted)
        wanted = wanted if quantise.writable(wanted) else quantise.Q8_0
    return wanted if wanted == tensor.type else quantise.fitting(wanted, tensor.columns)


def _typed(entries: Iterable[Entry], form: Form) -> list[Entry]:
    if form.type is None:
        return list(entries)
    said = quantise.FILE_TYPES[quantise.NAMES[form.type]]
    return [Entry.uint32(FILE_TYPE, said) if e.key == FILE_TYPE else e for e in entries]


def _widened(
    source: GgufFile, entries: Iterable[Entry], carriers: Sequence[int], more: int, twin: str | None
) -> list[Entry]:
    """Return the metadata with the widths as they are then: so much more in the layers given."""
    name = source.architecture
    keys = {f"{name}.{key}": key for key in (BY_LAYER if twin else (WIDTH,))}
    found = []
    for entry in entries:
        renamed = entry
        if twin and entry.key.startswith(f"{name}."):
            renamed = replace(entry, key=f"{twin}.{entry.key[len(name) + 1 :]}")
        if entry.key == ARCHITECTURE and twin:
            found.append(Entry.text(ARCHITECTURE, twin))
        elif entry.key in keys:
            values = _by_layer(source, keys[entry.key])
            if keys[entry.key] == WIDTH:
                for layer in carriers:
                    values[layer] += more
            if twin or isinstance(entry.value, list) or len(carriers) < len(values):
                found.append(Entry.uint32s(renamed.key, values))
            else:
                found.append(Entry.uint32(renamed.key, values[0]))
        else:
            found.append(renamed)
    return found


def _extra(part: str, delta: MlpExpansion) -> tuple[np.ndarray, ...]:
    """Return a part's new rows, as float32; two blocks of them for a fused matrix, and of the
    down matrix its new columns, as they stand (hidden, neurons)."""
    gate, up, down = (
        tensor.detach().float().cpu().numpy()
        for tensor in (delta.gate_rows, delta.up_rows, delta.down_columns)
    )
    return {"gate": (gate,), "up": (up,), "gate_up": (gate, up), "down": (down,)}[part]


def _grown(
    source: GgufFile,
    tensor: Tensor,
    type: int,
    part: str,
    extra: tuple[np.ndarray, ...] | None,
    neurons: int,
) -> Written:
    """Return a matrix of the MLP with so many neurons more; ``extra`` None: zeros."""
    if part == "down":
        shape = (tensor.columns + neurons, *tensor.shape[1:])
        columns, rows = shape[0], tensor.rows
    else:
        halves = 2 if part == "gate_up" else 1
        rows, columns = tensor.rows + halves * neurons, tensor.columns
        shape = (columns, rows)
    new = replace(tensor, shape=shape, type=type, size=size_of(type, shape, tensor.name))

    def pieces() -> Iterator[bytes]:
        import numpy as np

        # Bytes of zero are zeros in every type.
        if part == "down":
            more = np.zeros((rows, size_of(type, (neurons,))), np.uint8)
            if extra is not None:
                wide = np.zeros((rows, neurons), np.float32)
                wide[:, : extra[0].shape[1]] = extra[0]
                more = quantise.encode(wide, type)
            at = 0
            for old in _rows(source, tensor, type):
                yield np.hstack([old, more[at : at + len(old)]]).tobytes()
                at += len(old)
            return
        old = np.concatenate(list(_rows(source, tensor, type)))
        for at, half in enumerate(np.split(old, halves)):
            yield half.tobytes()
            encoded = quantise.encode(extra[at], type).tobytes() if extra is not None else b""
            yield encoded + bytes(size_of(type, (columns, neurons)) - len(encoded))

    return Written(new, pieces)


def _converted(source: GgufFile, tensor: Tensor, type: int | None) -> Written:
    """Return a tensor as it is, or quantised to another type where llama.cpp would."""
    plain = len(tensor.shape) < 2 or any(part in tensor.name for part in _FLOATS)
    if type is None or plain or not tensor.name.endswith(".weight"):
        return source.unchanged(tensor)
    type = quantise.fitting(type, tensor.columns)
    if type == tensor.type:
        return source.unchanged(tensor)
    new = replace(tensor, type=type, size=size_of(type, tensor.shape, tensor.name))
    return Written(new, lambda: (rows.tobytes() for rows in _rows(source, tensor, type)))


def _rows(source: GgufFile, tensor: Tensor, type: int) -> Iterator[np.ndarray]:
    """Yield a tensor's rows, some at once, as (rows, bytes of a row) of a type."""
    import numpy as np

    data = np.frombuffer(source.bytes_of(tensor), np.uint8).reshape(tensor.rows, -1)
    for at in range(0, tensor.rows, _ROWS):
        rows = data[at : at + _ROWS]
        if type == tensor.type:
            yield rows
        else:
            values = quantise.decode(np.ascontiguousarray(rows), tensor.type, tensor.columns)
            yield quantise.encode(values, type)


def _made(
    source: GgufFile,
    entries: Sequence[Entry],
    tensors: Sequence[Written],
    architecture: str,
    neurons: int,
    padding: int,
) -> Planned:
    return Planned(
        entries=tuple(entries),
        tensors=tuple(tensors),
        architecture=architecture,
        neurons=neurons,
        padding=padding,
        changed=tuple(
            new.tensor.name
            for new in tensors
            if (old := source.tensor(new.tensor.name)) is None
            or (old.type, old.shape) != (new.tensor.type, new.tensor.shape)
        ),
        size=sum(one.tensor.size for one in tensors),
    )
