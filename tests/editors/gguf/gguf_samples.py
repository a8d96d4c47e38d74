"""Small GGUF files: written by ``gguf``'s own writer, read again by its own reader."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from editors.gguf import container, quantise
from editors.gguf.container import GgufFile
from editors.gguf.widening import Planned

HIDDEN, INNER, LAYERS = 64, 96, 3
F32, Q4_0, Q4_1, Q8_0 = 0, 2, 3, 8
Q4_K, Q6_K, IQ2_XS = 12, 14, 17


def numbers(name: str, rows: int, columns: int) -> np.ndarray:
    """Return a matrix of random numbers, the same for the same name."""
    made = np.random.default_rng(list(name.encode()))
    return made.standard_normal((rows, columns), dtype=np.float32)


def blocks(name: str, rows: int, columns: int, type: int) -> np.ndarray:
    """Return a matrix as a type has it; of IQ2_XS, which nothing can write here, any bytes."""
    if quantise.writable(type):
        return quantise.encode(numbers(name, rows, columns), type)
    assert type == IQ2_XS
    made = np.random.default_rng(list(name.encode()))
    found = made.integers(0, 256, (rows, columns // 256, 74), dtype=np.uint8)
    found[..., :2] = np.array([0.01], np.float16).view(np.uint8)  # the scale of a block
    return found.reshape(rows, -1)


def model_file(
    path: Path,
    architecture: str = "llama",
    *,
    hidden: int = HIDDEN,
    inner: int = INNER,
    layers: int = LAYERS,
    fused: bool = False,
    types: Mapping[str, int] | None = None,
    also: Mapping[str, tuple[int, ...]] | None = None,
    width: Any = None,
    key_heads: int = 2,
    **metadata: Any,
) -> GgufFile:
    """Write a file with a model's list of tensors.

    Args:
        fused: gate and up are one matrix.
        types: of tensors by the end of their names, the first that fits; else F32.
        also: more tensors, by name, with their shapes as numpy has them.
        width: what the metadata says of it; None: ``inner``.
        metadata: more keys, with a "_" for each ".".
    """
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_uint32("general.file_type", 3)
    writer.add_string("general.name", "a toy")
    writer.add_block_count(layers)
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    said = inner if width is None else width
    writer.add_feed_forward_length(said)
    writer.add_head_count(4)
    writer.add_head_count_kv(key_heads)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"<{number}>" for number in range(32)])
    for key, value in metadata.items():
        add = writer.add_string if isinstance(value, str) else writer.add_uint32
        add(key.replace("_", "."), value)
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (32, hidden)}
    for layer in range(layers):
        at = f"blk.{layer}"
        shapes[f"{at}.attn_norm.weight"] = (hidden,)
        shapes[f"{at}.attn_q.weight"] = (hidden, hidden)
        shapes[f"{at}.attn_k.weight"] = (hidden * key_heads // 4, hidden)
        if not fused:
            shapes[f"{at}.ffn_gate.weight"] = (inner, hidden)
        shapes[f"{at}.ffn_up.weight"] = (inner * (2 if fused else 1), hidden)
        shapes[f"{at}.ffn_down.weight"] = (hidden, inner)
        shapes[f"{at}.ffn_norm.weight"] = (hidden,)
    shapes["output_norm.weight"] = (hidden,)
    for name, shape in {**shapes, **(also or {})}.items():
        type = next((t for end, t in (types or {}).items() if name.endswith(end)), F32)
        rows, columns = math.prod(shape[:-1]), shape[-1]
        if type == F32:
            writer.add_tensor(name, numbers(name, rows, columns).reshape(shape))
        else:
            data = blocks(name, rows, columns, type)
            writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType(type))
    finished(writer)
    return container.read(path)


def finished(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def copied(path: Path, source: GgufFile) -> bytes:
    """Write a file's parts as they were read; return the bytes."""
    with path.open("wb") as handle:
        tensors = [source.unchanged(tensor) for tensor in source.tensors]
        container.write(handle, source, source.entries, tensors)
    return path.read_bytes()


def written(path: Path, source: GgufFile, plan: Planned) -> GgufFile:
    """Write a plan; return the file as it is read again."""
    with path.open("wb") as handle:
        container.write(handle, source, plan.entries, plan.tensors)
    return container.read(path)


def rows_of(file: GgufFile, name: str) -> np.ndarray:
    """Return a tensor's rows as bytes, (rows, bytes of a row)."""
    tensor = file.tensor(name)
    assert tensor is not None, name
    return np.frombuffer(file.bytes_of(tensor), np.uint8).reshape(tensor.rows, -1)


def numbers_of(file: GgufFile, name: str) -> np.ndarray:
    """Return a tensor's numbers, (rows, columns)."""
    tensor = file.tensor(name)
    assert tensor is not None, name
    return quantise.decode(rows_of(file, name), tensor.type, tensor.columns)
