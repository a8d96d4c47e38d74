"""Whether a version's tensors are sound, before any of them touches a model. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from store.records import Edit, Version

GATE, UP, DOWN = "gate_proj.rows", "up_proj.rows", "down_proj.columns"
HEADS = ("q_proj.rows", "k_proj.rows", "v_proj.rows", "o_proj.columns")
NAME = re.compile(
    r"model\.layers\.(\d+)\."
    r"(?:mlp\.(gate_proj\.rows|up_proj\.rows|down_proj\.columns)"
    r"|self_attn\.([qkv]_proj\.rows|o_proj\.columns))"
)
LARGEST = torch.finfo(torch.float16).max  # an exported file may hold nothing larger
LOUDEST = LARGEST / 16  # that a neuron may write: several open at once, and wider than usual
SMALLEST = torch.finfo(torch.float32).tiny  # what is smaller is denormal: as good as nothing
MOST_SILENT = 0.5  # share of neurons that may write nothing (training did not come to them)


@dataclass(frozen=True)
class Ground:
    """What a version must fit.

    Attributes:
        base_hash: of the base model.
        layers, hidden: how many decoder layers it has, and how wide they are.
        least_neurons: the fewest neurons that can carry the edits.
        heads: where heads belong to it, how many query heads share a key head, and how wide they
            are; the neurons are then those of two layers, the heads in the upper one.
    """

    base_hash: str
    layers: int
    hidden: int
    least_neurons: int
    heads: tuple[int, int] | None = None


def faults(
    version: Version, tensors: Mapping[str, torch.Tensor], edits: Sequence[Edit], ground: Ground
) -> tuple[str, ...]:
    """Return what is wrong with a version of extra neurons, a readable line each; () if nothing.

    ``tensors``: as deltas name them: gate and up rows (neurons, hidden), down columns (hidden,
    neurons), and where heads belong to it those of ``HeadExpansion``. ``edits``: what the version
    should carry. What is looked at later is looked at only where it can be: values after shapes,
    shapes after names.
    """
    found = [*_provenance(version, edits, ground)]
    wrong = [*_names(tensors, ground)] or [*_shapes(tensors, ground)] or [*_values(tensors)]
    return (*found, *wrong)


def _provenance(version: Version, edits: Sequence[Edit], ground: Ground) -> Iterator[str]:
    """Faults of what the version says of itself."""
    if version.base_hash != ground.base_hash:
        yield f"it was made for another base model ({version.base_hash[:12]})"
    carried, wanted = list(version.edit_ids), {edit.id for edit in edits}
    if missing := wanted - set(carried):
        yield f"it lacks {_count(len(missing), 'edit')} of the ledger"
    if unknown := set(carried) - wanted:
        yield f"it carries {_count(len(unknown), 'edit')} that the ledger does not ask for"
    if len(set(carried)) != len(carried):
        yield "it names an edit twice"


def _names(tensors: Mapping[str, torch.Tensor], ground: Ground) -> Iterator[str]:
    """Faults of which tensors there are, and of what type."""
    read = {name: NAME.fullmatch(name) for name in tensors}
    if unknown := sorted(name for name, match in read.items() if not match):
        yield f"it holds an unknown tensor: {unknown[0]}"
    layers = {int(match[1]) for match in read.values() if match}
    top = max(layers, default=0)
    widened = {top} if ground.heads is None else {top - 1, top}
    wanted = {f"model.layers.{at}.mlp.{part}" for at in widened for part in (GATE, UP, DOWN)}
    wanted |= {f"model.layers.{top}.self_attn.{part}" for part in HEADS if ground.heads}
    if {name for name, match in read.items() if match} != wanted:
        heads = "" if ground.heads is None else ", of the one below, and a group of heads"
        yield f"its tensors are not the gate, up and down of one layer{heads}"
    elif not layers <= set(range(ground.layers)):
        yield f"it widens layer {top} of a model of {ground.layers} layers"
    for name, tensor in sorted(tensors.items()):
        if not tensor.is_floating_point():
            yield f"{name} holds {str(tensor.dtype).removeprefix('torch.')}, not real numbers"


def _shapes(tensors: Mapping[str, torch.Tensor], ground: Ground) -> Iterator[str]:
    """Faults of the tensors' shapes, and of how many neurons they make."""
    every = 0
    for gate, up, down in _layers(tensors):
        neurons = gate.shape[0] if gate.dim() else 0
        every += neurons
        rows = (neurons, ground.hidden)
        for name, tensor, shape in ((GATE, gate, rows), (UP, up, rows), (DOWN, down, rows[::-1])):
            if tuple(tensor.shape) != shape:
                yield f"{name} has shape {tuple(tensor.shape)}, not {shape}"
    group, width = ground.heads or (0, 0)
    rows, one = (group * width, ground.hidden), (width, ground.hidden)
    for part, shape in zip(HEADS, (rows, one, one, rows[::-1]), strict=True):
        for name, tensor in tensors.items():
            if name.endswith(f".self_attn.{part}") and tuple(tensor.shape) != shape:
                yield f"{part} has shape {tuple(tensor.shape)}, not {shape}"
    if every < ground.least_neurons:
        yield (
            f"it has {_count(every, 'neuron')}; its edits need at least {ground.least_neurons}: "
            "edits are missing"
        )


def _values(tensors: Mapping[str, torch.Tensor]) -> Iterator[str]:
    """Faults of the numbers in the tensors."""
    whole = True
    for name, tensor in sorted(tensors.items()):
        odd = int((~tensor.isfinite()).sum())
        large = int((tensor.abs() > LARGEST).sum()) - int(tensor.isinf().sum())
        if odd:
            yield f"{name} holds {_count(odd, 'number')} that {_are(odd)} NaN or infinite"
        elif large:
            yield f"{name} holds {_count(large, 'number')} larger than {LARGEST:.0f}"
        elif name.endswith(DOWN) and (loud := int((tensor.abs() > LOUDEST).sum())):
            yield (
                f"{name} writes {_count(loud, 'number')} larger than {LOUDEST:.0f}: in half "
                "precision that overflows where several neurons open"
            )
        whole = whole and not odd
    silent = [
        (gate.abs().amax(1) < SMALLEST)
        | (up.abs().amax(1) < SMALLEST)
        | (down.abs().amax(0) < SMALLEST)
        for gate, up, down in _layers(tensors)
    ]
    nothing = torch.cat(silent)
    if whole and any(some.float().mean() > MOST_SILENT for some in silent if len(some)):
        yield f"{int(nothing.sum())} of its {len(nothing)} neurons write nothing: edits are missing"
    heads = [tensor for name, tensor in tensors.items() if ".self_attn." in name]
    if whole and any(tensor.abs().amax() < SMALLEST for tensor in heads):
        yield "its heads read or write nothing: edits are missing"


def _layers(
    tensors: Mapping[str, torch.Tensor],
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Return gate rows, up rows and down columns of each layer that is widened."""
    prefixes = sorted(name.removesuffix(GATE) for name in tensors if name.endswith(f".mlp.{GATE}"))
    return [
        (
            tensors[f"{at}{GATE}"].float(),
            tensors[f"{at}{UP}"].float(),
            tensors[f"{at}{DOWN}"].float(),
        )
        for at in prefixes
    ]


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _are(n: int) -> str:
    return "is" if n == 1 else "are"
