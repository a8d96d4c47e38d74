"""Matrices of a GGUF written anew: of another type, or with rows or columns more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from editors.gguf import quantise
from editors.gguf.container import GgufFile, Tensor, Written, size_of

if TYPE_CHECKING:
    import numpy as np
    import torch

_ROWS = 2048  # rows that are quantised at once
_FLOATS = (
    "norm", "ffn_gate_inp", "rope_freqs", "rope_factors", "position_embd", "token_types",
    "attn_rel_b", "altup", "laurel", "per_layer_model_proj", "ssm_", "shortconv.conv", "time_mix_",
)  # fmt: skip
"""Parts of names whose tensors llama.cpp never quantises."""


@dataclass(frozen=True)
class Growth:
    """What a matrix gets more.

    Attributes:
        count: rows at the end of each of its ``halves``, or columns at the end of its rows.
        columns: whether it is these.
        halves: how many matrices lie above one another in it.
        values: the first of what is added, float32: by half (n, columns), or one (rows, n). The
            rest, all where there are none, is zeros.
    """

    count: int
    columns: bool = False
    halves: int = 1
    values: tuple[np.ndarray, ...] = ()


def grown(source: GgufFile, tensor: Tensor, type: int, growth: Growth) -> Written:
    """Return a matrix with more in it, as a type that its rows fit."""
    if growth.columns:
        shape = (tensor.columns + growth.count, *tensor.shape[1:])
    else:
        shape = (tensor.columns, tensor.rows + growth.halves * growth.count)
    new = replace(tensor, shape=shape, type=type, size=size_of(type, shape, tensor.name))
    pieces = _with_columns if growth.columns else _with_rows
    return Written(new, lambda: pieces(source, tensor, type, growth))


def converted(source: GgufFile, tensor: Tensor, type: int | None) -> Written:
    """Return a tensor as it is, or quantised to another type where llama.cpp would."""
    plain = len(tensor.shape) < 2 or any(part in tensor.name for part in _FLOATS)
    if type is None or plain or not tensor.name.endswith(".weight"):
        return source.unchanged(tensor)
    type = quantise.fitting(type, tensor.columns)
    if type == tensor.type:
        return source.unchanged(tensor)
    new = replace(tensor, type=type, size=size_of(type, tensor.shape, tensor.name))
    return Written(new, lambda: (rows.tobytes() for rows in rows_of(source, tensor, type)))


def rows_of(source: GgufFile, tensor: Tensor, type: int) -> Iterator[np.ndarray]:
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


def neighbours(values: torch.Tensor, heads: int) -> torch.Tensor:
    """Put the two numbers that a head rotates together side by side: (heads * size, …)."""
    parted = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return parted.transpose(1, 2).reshape(values.shape)


def _with_columns(source: GgufFile, tensor: Tensor, type: int, growth: Growth) -> Iterator[bytes]:
    import numpy as np

    # Bytes of zero are zeros in every type.
    more = np.zeros((tensor.rows, size_of(type, (growth.count,))), np.uint8)
    if growth.values:
        wide = np.zeros((tensor.rows, growth.count), np.float32)
        wide[:, : growth.values[0].shape[1]] = growth.values[0]
        more = quantise.encode(wide, type)
    at = 0
    for old in rows_of(source, tensor, type):
        yield np.hstack([old, more[at : at + len(old)]]).tobytes()
        at += len(old)


def _with_rows(source: GgufFile, tensor: Tensor, type: int, growth: Growth) -> Iterator[bytes]:
    import numpy as np

    old = np.concatenate(list(rows_of(source, tensor, type)))
    size = size_of(type, (tensor.columns, growth.count))
    for at, half in enumerate(np.split(old, growth.halves)):
        yield half.tobytes()
        encoded = quantise.encode(growth.values[at], type).tobytes() if growth.values else b""
        yield encoded + bytes(size - len(encoded))
