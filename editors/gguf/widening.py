"""Edits into a GGUF: what of its metadata and tensors changes, and nothing else.

Extra neurons are rows at the end of a layer's gate and up matrices and columns at the end of its
down matrix; extra heads the same of its query, key, value and output matrices. Blocks never
reach across rows, and added columns begin at a block, so that all that was there stays as it is,
to the byte. llama.cpp reads one width and one number of heads for all layers of most
architectures. Where one of them has a twin that reads them for each layer ("deci" for "llama"),
the file is written as the twin and only the layers that carry edits grow; else every other layer
gets neurons of zeros, which do nothing and cost room, and heads cannot be written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from editors.gguf import quantise
from editors.gguf.container import Entry, GgufFile, Tensor, Written, size_of
from editors.gguf.layers import (
    BY_LAYER,
    HEADS,
    KEY_HEADS,
    TWINS,
    WIDTH,
    Added,
    by_layer,
    check,
    group_size,
    head_names,
    layer_count,
    layers_differ,
    matrix,
    mlp_names,
    taken_apart,
    unit,
)
from editors.gguf.matrices import Growth, converted, grown, neighbours
from editors.model_files import ModelError

if TYPE_CHECKING:
    import numpy as np
    import torch

    from editors.deltas import EditDelta, MlpExpansion

ARCHITECTURE, FILE_TYPE = "general.architecture", "general.file_type"
_LEAST = 32  # neurons are added in such steps: every block type's columns fit


@dataclass(frozen=True)
class Form:
    """How a file is written.

    Attributes:
        type: ggml type of all weights; None: each as it is in the source.
        carrying: ggml type by part (of ``PARTS``, ``HEAD_PARTS``) of the layers that carry edits,
            where it is to be another one.
        padded: widen all layers even where a twin needs it in some alone.
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
        neurons: added to the layers that carry edits, those that fill up a block among them.
        heads: query heads added to them.
        padding: bytes that neurons of zeros in other layers take.
        carrying: names of the tensors that carry the edits, by part.
        changed: names of the tensors that are not copied byte for byte.
        size: of all tensors, in bytes.
    """

    entries: tuple[Entry, ...]
    tensors: tuple[Written, ...]
    architecture: str
    neurons: int
    heads: int
    padding: int
    carrying: Mapping[str, tuple[str, ...]]
    changed: tuple[str, ...]
    size: int


@dataclass(frozen=True)
class _Change:
    """How a matrix changes; ``part`` None: with zeros alone."""

    part: str | None
    type: int
    growth: Growth


def planned(
    source: GgufFile,
    delta: EditDelta | None,
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
    added = taken_apart(delta)
    changes: dict[str, _Change] = {}
    architecture = source.architecture
    if added.neurons or added.heads:
        check(source, added, form.padded)
        alone = layers_differ(source, form.padded)
        twin = TWINS.get(architecture) if alone else None
        widths = _neurons(source, added, form, alone)
        changes = _neuron_changes(source, added, form, widths) | _head_changes(source, added, form)
        more = {
            WIDTH: {layer: count * unit(source) for layer, count in widths.items()},
            HEADS: dict.fromkeys(added.heads, group_size(source) if added.heads else 0),
            KEY_HEADS: dict.fromkeys(added.heads, 1),
        }
        entries = _counted(source, entries, more, twin)
        architecture = twin or architecture
    written = []
    for tensor in source.tensors:
        change = changes.get(tensor.name)
        written.append(
            grown(source, tensor, change.type, change.growth)
            if change
            else converted(source, tensor, form.type)
        )
    return _made(source, [*entries, *provenance], written, architecture, added, changes)


def _neurons(source: GgufFile, added: Added, form: Form, alone: bool) -> dict[int, int]:
    """Return by layer how many neurons it gets: whole blocks of its down matrix, and where layers
    may not differ as many in each."""
    if not added.neurons:
        return {}
    layers = list(added.neurons) if alone else list(range(layer_count(source)))
    steps = {layer: _step(source, layer, form, layer in added.neurons) for layer in layers}
    if not alone:
        steps = dict.fromkeys(layers, max(steps.values()))
    most = max(delta.neurons for delta in added.neurons.values())
    wanted = {layer: added.neurons[layer].neurons if alone else most for layer in layers}
    return {layer: -(-wanted[layer] // steps[layer]) * steps[layer] for layer in layers}


def _step(source: GgufFile, layer: int, form: Form, carries: bool) -> int:
    """Return the block of a layer's down matrix: as many columns are added at least."""
    down = matrix(source, mlp_names(source, layer)["down"])
    return max(_LEAST, quantise.block(_type_of(down, form, "down" if carries else None)))


def _neuron_changes(
    source: GgufFile, added: Added, form: Form, widths: Mapping[int, int]
) -> dict[str, _Change]:
    found = {}
    for layer, count in widths.items():
        delta = added.neurons.get(layer)
        for part, name in mlp_names(source, layer).items():
            type = _type_of(matrix(source, name), form, part if delta else None)
            growth = Growth(
                count,
                columns=part == "down",
                halves=2 if part == "gate_up" else 1,
                values=_values(part, delta) if delta else (),
            )
            found[name] = _Change(part if delta else None, type, growth)
    return found


def _values(part: str, delta: MlpExpansion) -> tuple[np.ndarray, ...]:
    """Return what neurons add to a matrix: two blocks of rows for a fused one, and of the down
    matrix columns, as they stand."""
    gate, up, down = map(_numbers, (delta.gate_rows, delta.up_rows, delta.down_columns))
    return {"gate": (gate,), "up": (up,), "gate_up": (gate, up), "down": (down,)}[part]


def _head_changes(source: GgufFile, added: Added, form: Form) -> dict[str, _Change]:
    found = {}
    for layer, delta in added.heads.items():
        width = delta.key_rows.shape[0]
        values = {
            "q": _numbers(neighbours(delta.query_rows, len(delta.query_rows) // width)),
            "k": _numbers(neighbours(delta.key_rows, 1)),
            "v": _numbers(delta.value_rows),
            "output": _numbers(delta.output_columns),
        }
        for part, name in head_names(layer).items():
            tensor, more = matrix(source, name), values[part]
            columns = part == "output"
            count = more.shape[1] if columns else len(more)
            # Columns are added in whole heads, which a type's blocks may not fit.
            type = _type_of(tensor, form, part, count if columns else None)
            found[name] = _Change(part, type, Growth(count, columns, values=(more,)))
    return found


def _numbers(tensor: torch.Tensor) -> np.ndarray:
    found: np.ndarray = tensor.detach().float().cpu().numpy()
    return found


def _type_of(tensor: Tensor, form: Form, part: str | None, columns: int | None = None) -> int:
    """Return the type that a matrix is written as; ``columns`` are added to its rows.

    ``part``: where it carries the edits. It is then written as Q8_0 where its type cannot be
    written here (those that need an importance matrix); zeros can be written in every type.
    """
    wanted = tensor.type if form.type is None else form.type
    if part is not None:
        wanted = form.carrying.get("gate" if part == "gate_up" else part, wanted)
        wanted = wanted if quantise.writable(wanted) else quantise.Q8_0
    if wanted != tensor.type:
        wanted = quantise.fitting(wanted, tensor.columns)
    return quantise.fitting(wanted, columns) if columns else wanted


def _typed(entries: Iterable[Entry], form: Form) -> list[Entry]:
    if form.type is None:
        return list(entries)
    said = quantise.FILE_TYPES[quantise.NAMES[form.type]]
    return [Entry.uint32(FILE_TYPE, said) if e.key == FILE_TYPE else e for e in entries]


def _counted(
    source: GgufFile,
    entries: Iterable[Entry],
    more: Mapping[str, Mapping[int, int]],
    twin: str | None,
) -> list[Entry]:
    """Return the metadata, each key's counts as much greater in some layers as is given."""
    name = source.architecture
    keys = {f"{name}.{key}": key for key in (BY_LAYER if twin else more)}
    found = []
    for entry in entries:
        renamed = entry
        if twin and entry.key.startswith(f"{name}."):
            renamed = replace(entry, key=f"{twin}.{entry.key[len(name) + 1 :]}")
        if entry.key == ARCHITECTURE and twin:
            found.append(Entry.text(ARCHITECTURE, twin))
        elif entry.key in keys and (twin or more[keys[entry.key]]):
            values = by_layer(source, keys[entry.key])
            for layer, count in more[keys[entry.key]].items():
                values[layer] += count
            if twin or isinstance(entry.value, list) or len(set(values)) > 1:
                found.append(Entry.uint32s(renamed.key, values))
            else:
                found.append(Entry.uint32(renamed.key, values[0]))
        else:
            found.append(renamed)
    return found


def _made(
    source: GgufFile,
    entries: Sequence[Entry],
    tensors: Sequence[Written],
    architecture: str,
    added: Added,
    changes: Mapping[str, _Change],
) -> Planned:
    made = {one.tensor.name: one.tensor for one in tensors}
    carrying: dict[str, tuple[str, ...]] = {}
    neurons = padding = 0
    for name, change in changes.items():
        if change.part is None:
            padding += made[name].size - size_of(change.type, matrix(source, name).shape)
            continue
        carrying[change.part] = (*carrying.get(change.part, ()), name)
        neurons += change.growth.count if change.part == "down" else 0
    return Planned(
        entries=tuple(entries),
        tensors=tuple(tensors),
        architecture=architecture,
        neurons=neurons,
        heads=len(added.heads) * (group_size(source) if added.heads else 0),
        padding=padding,
        carrying=carrying,
        changed=tuple(
            new.tensor.name
            for new in tensors
            if (old := source.tensor(new.tensor.name)) is None
            or (old.type, old.shape) != (new.tensor.type, new.tensor.shape)
        ),
        size=sum(one.tensor.size for one in tensors),
    )
