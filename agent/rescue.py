"""A GGUF with edits: written, and given finer types where quantising took too much of them away.

Only the matrices that carry the edits are made finer, those of a layer or two, so that the file
hardly grows.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from editors.deltas import EditDelta
from editors.gguf import container, quantise
from editors.gguf.container import Entry, GgufFile
from editors.gguf.widening import Form, Planned, planned
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
_MATCHING = {"gate": "f16", "q": "f16", "k": "f16"}
HEAD_RUNGS: tuple[Mapping[str, str], ...] = (
    _MATCHING,
    _MATCHING | {"up": "q8_0", "down": "q8_0", "v": "q8_0", "output": "q8_0"},
    _MATCHING | {"up": "f16", "down": "f16", "v": "f16", "output": "f16"},
    dict.fromkeys(("gate", "up", "down", "q", "k", "v", "output"), "f32"),
)
"""The same where heads belong to the edits: their gates open in so small a step that eight bits
do not hold it."""
_MANY = 50  # questions of which one more or less is taken for chance
_FINENESS = {"f32": 32, "bf16": 16, "f16": 16, "q8_0": 8, "q6_k": 6}


def least(weights: Interval) -> float:
    """Return what a file must pass, given what the weights do: as much, but for ``LOST``, or for
    one question where they are too few to tell a point, and enough for one not to matter."""
    one = 1.001 / weights.n if weights.n >= _MANY else 0.0
    return weights.point - max(LOST, one)


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
    delta: EditDelta,
    form: Form,
    provenance: Sequence[Entry],
    passed: Callable[[], Interval],
    weights: Interval,
) -> tuple[Planned, tuple[Try, ...], int]:
    """Write a file, with finer and finer types for what carries the edits, until it passes.

    Args:
        path: written, several times perhaps.
        passed: asks the file at ``path`` and returns what of it is right.
        weights: what the unquantised weights pass.

    Returns:
        The file's plan, everything that was tried, and the place of the file among it: where
        nothing will do, the smallest that is no more than may be lost behind the best.
    """
    tries: list[Try] = []
    plans: list[Planned] = []
    for rung in _rungs(source, planned(source, delta, form), form):
        carrying = {part: quantise.TYPES[name] for part, name in rung.items()}
        plans.append(planned(source, delta, replace(form, carrying=carrying), provenance))
        try:
            write(path, source, plans[-1])
        except ModelError:  # numbers that are too large for f16, say: a finer type may hold them
            plans.pop()
            continue
        tries.append(Try(types_of(plans[-1]), passed(), plans[-1].size))
        if tries[-1].passed.point >= least(weights):
            return plans[-1], tuple(tries), len(tries) - 1
    if not tries:
        raise ModelError("no type that can be written holds what the edits' neurons are made of")
    most = max((one.passed for one in tries), key=lambda passed: passed.point)
    best = next(at for at, one in enumerate(tries) if one.passed.point >= least(most))
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


def types_of(plan: Planned) -> dict[str, str]:
    """Return what the matrices that carry the edits are written as, by part; where layers differ
    in it, all that there are."""
    found = {one.tensor.name: one.tensor.type for one in plan.tensors}
    types: dict[str, str] = {}
    for part, names in plan.carrying.items():
        own = dict.fromkeys(quantise.name_of(found[name]) for name in names)
        # One matrix is both in some architectures.
        types["up" if part == "gate_up" else part] = ", ".join(own)
    return types


def _rungs(source: GgufFile, plan: Planned, form: Form) -> Iterator[Mapping[str, str]]:
    """Yield the types to try, each finer than the one before it, none coarser than they are."""
    now: dict[str, str] = {}
    for part, names in plan.carrying.items():
        types = [t.type for name in names if (t := source.tensor(name)) is not None]
        coarsest = min(
            (quantise.name_of(type if form.type is None else form.type) for type in types),
            key=_fineness,
        )
        now |= dict.fromkeys(("gate", "up") if part == "gate_up" else (part,), coarsest)
    before = None
    for rung in HEAD_RUNGS if plan.heads else RUNGS:
        finer = {p: t for p, t in rung.items() if p in now and _fineness(t) > _fineness(now[p])}
        if finer != before:
            yield finer
        before = finer


def _fineness(type: str) -> int:
    """Return about how many bits a number has."""
    return _FINENESS.get(type, 4)
