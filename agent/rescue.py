"""A GGUF with edits: written, and given finer types where quantising took too much of them away.

Only the matrices that carry the edits are made finer, one layer's, so that the file hardly grows.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from editors.deltas import MlpExpansion
from editors.gguf import container, quantise
from editors.gguf.container import Entry, GgufFile
from editors.gguf.widening import PARTS, Form, Planned, mlp_names, planned
from editors.metrics import Interval
from editors.model_files import ModelError

LOST = 0.01
"""How much of the pass rate a file may lose to quantisation."""
RUNGS: tuple[Mapping[str, str], ...] = (
    {},
    {"gate": "q8_0", "up": "q8_0"},
    {"gate": "q8_0", "up": "q8_0", "down": "q8_0"},
    {"gate": "f16", "up": "f16", "down": "q8_0"},
    {"gate": "f16", "up": "f16", "down": "f16"},
    {"gate": "f32", "up": "f32", "down": "f32"},
)
"""Types of the matrices that carry the edits, tried in turn; a source's finer type stays."""
_FINENESS = {"f32": 32, "bf16": 16, "f16": 16, "q8_0": 8, "q6_k": 6}


@dataclass(frozen=True)
class Try:
    """A file that was tried: the types of the matrices that carry the edits, what passed of the
    questions in scope, and the bytes of all tensors."""

    types: Mapping[str, str]
    passed: Interval
    size: int


def rescued(
    path: Path,
    source: GgufFile,
    delta: MlpExpansion,
    form: Form,
    provenance: Sequence[Entry],
    passed: Callable[[], Interval],
    wanted: float,
) -> tuple[Planned, tuple[Try, ...], int]:
    """Write a file, with finer and finer types for what carries the edits, until it passes.

    Args:
        path: written, several times perhaps.
        passed: asks the file at ``path`` and returns what of it is right.
        wanted: the share that will do.

    Returns:
        The file's plan, everything that was tried, and the place of the file among it: where
        nothing will do, the smallest that is no more than may be lost behind the best.
    """
    tries: list[Try] = []
    plans: list[Planned] = []
    for rung in _rungs(source, delta, form):
        carrying = {part: quantise.TYPES[name] for part, name in rung.items()}
        plans.append(planned(source, delta, replace(form, carrying=carrying), provenance))
        try:
            write(path, source, plans[-1])
        except ModelError:  # numbers that are too large for f16, say: a finer type may hold them
            plans.pop()
            continue
        tries.append(Try(types_of(plans[-1], delta), passed(), plans[-1].size))
        if tries[-1].passed.point >= wanted:
            return plans[-1], tuple(tries), len(tries) - 1
    if not tries:
        raise ModelError("no type that can be written holds what the edits' neurons are made of")
    most = max(one.passed.point for one in tries)
    best = next(at for at, one in enumerate(tries) if one.passed.point >= most - LOST)
    if best != len(tries) - 1:
        write(path, source, plans[best])
    return plans[best], tuple(tries), best


def write(path: Path, source: GgufFile, plan: Planned) -> None:
    """Write a planned file. Raises OSError, before anything is written where room is lacking."""
    room = shutil.disk_usage(path.parent).free
    if room < plan.size:
        raise OSError(errno.ENOSPC, f"{plan.size:,} bytes are needed, {room:,} are free")
    if not plan.changed and plan.entries == source.entries:
        shutil.copyfile(source.path, path)  # whatever is between the tensors comes along
        return
    with path.open("wb") as handle:
        container.write(handle, source, plan.entries, plan.tensors)


def types_of(plan: Planned, delta: MlpExpansion | None) -> dict[str, str]:
    """Return what the matrices that carry the edits are written as, by part."""
    if delta is None:
        return {}
    prefix = f"blk.{delta.layer}.ffn_"
    found = {one.tensor.name: one.tensor.type for one in plan.tensors}
    return {
        part: quantise.name_of(found[f"{prefix}{part}.weight"])
        for part in PARTS
        if f"{prefix}{part}.weight" in found
    }


def _rungs(source: GgufFile, delta: MlpExpansion, form: Form) -> Iterator[Mapping[str, str]]:
    """Yield the types to try, each finer than the one before it, none coarser than they are."""
    names = mlp_names(source, delta.layer)
    now = {}
    for part in PARTS:
        name = names.get(part) or names.get("gate_up", "")
        tensor = source.tensor(name)
        now[part] = quantise.name_of(
            form.type if form.type is not None else tensor.type if tensor else quantise.F32
        )
    before = None
    for rung in RUNGS:
        types = {p: t for p, t in rung.items() if _fineness(t) > _fineness(now[p])}
        if types != before:
            yield types
        before = types


def _fineness(type: str) -> int:
    """Return about how many bits a number has."""
    return _FINENESS.get(type, 4)
