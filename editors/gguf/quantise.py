"""Numbers to ggml blocks and back, as llama.cpp does it.

The block types of 32 are ``gguf``'s own (bit-exact with llama.cpp's reference code); K-quants
are llama.cpp's C code (package ``libgguf``). What a type cannot hold, a row that is no multiple of
its block, goes to the type that llama.cpp falls back to.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from editors.model_files import ModelError

if TYPE_CHECKING:
    import numpy as np

TYPES = {
    "f32": 0,
    "f16": 1,
    "bf16": 30,
    "q8_0": 8,
    "q5_1": 7,
    "q5_0": 6,
    "q4_1": 3,
    "q4_0": 2,
    "q6_k": 14,
    "q5_k": 13,
    "q4_k": 12,
    "q3_k": 11,
    "q2_k": 10,
}
"""What can be written, by the name that a user gives; the numbers are ggml's types."""
FILE_TYPES = {
    "f32": 0,
    "f16": 1,
    "bf16": 32,
    "q8_0": 7,
    "q5_1": 9,
    "q5_0": 8,
    "q4_1": 3,
    "q4_0": 2,
    "q6_k": 18,
    "q5_k": 17,
    "q4_k": 15,
    "q3_k": 12,
    "q2_k": 10,
}
"""What ``general.file_type`` says of a file that is mostly of a type (llama_ftype)."""
F32, F16, Q8_0 = TYPES["f32"], TYPES["f16"], TYPES["q8_0"]
NAMES = {number: name for name, number in TYPES.items()}
_K = frozenset(range(10, 15))
_FALLBACK = {10: 20, 11: 20, 12: 6, 13: 7, 14: 8}  # to IQ4_NL, IQ4_NL, Q5_0, Q5_1, Q8_0
_IQ4_NL = 20
_BY_C = _K | {_IQ4_NL}
_PLAIN = (F32, F16, TYPES["bf16"])
_LARGEST = 65504.0  # that a half float holds; a block's scale is one
_LEAST = 1e-30  # that a block's scale is for all numbers of a block below it zero


def name_of(type: int) -> str:
    """Return what a ggml type is called."""
    from gguf import GGMLQuantizationType

    return GGMLQuantizationType(type).name.lower()


def named(name: str) -> int | None:
    """Return the type that a user's word stands for; None for "same", each tensor's own.

    Raises ModelError for any other word.
    """
    if name != "same" and name not in TYPES:
        raise ModelError(f"--type {name}: use same, {', '.join(TYPES)}")
    return TYPES.get(name)


def block(type: int) -> int:
    """Return how many numbers a block of a type holds: 1, 32 or 256."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    return GGML_QUANT_SIZES[GGMLQuantizationType(type)][0]


def fitting(type: int, columns: int) -> int:
    """Return the type that llama.cpp writes rows of a length as, where this one is wanted."""
    if columns % block(type) and type in _FALLBACK:
        type = _FALLBACK[type]
    return type if columns % block(type) == 0 else F16


def writable(type: int) -> bool:
    """Whether numbers can be written as a type here."""
    return type in NAMES or type == _IQ4_NL


def encode(values: np.ndarray, type: int) -> np.ndarray:
    """Quantise rows.

    Args:
        values: (rows, columns) float32; columns are a multiple of the type's block.
        type: ggml type.

    Returns:
        (rows, bytes of a row) uint8.

    Raises ModelError for a type that cannot be written here, and for numbers that it cannot hold.
    """
    import gguf
    import numpy as np

    if not writable(type):
        raise ModelError(f"tensors of type {name_of(type)} cannot be written; use --type q8_0")
    values = np.ascontiguousarray(values, dtype=np.float32)
    if not np.isfinite(values).all():
        raise ModelError("weights that are infinite or no numbers cannot be written")
    if type not in _PLAIN:
        values = np.where(np.abs(values) < _LEAST, np.float32(0), values)
    try:
        if type in _BY_C:
            if np.abs(values).max(initial=0) > _LARGEST:
                raise FloatingPointError
            found = _library().quantize_rows(values, gguf.GGMLQuantizationType(type))
        else:
            with np.errstate(over="raise"):
                found = gguf.quants.quantize(values, gguf.GGMLQuantizationType(type))
    except FloatingPointError as error:
        raise ModelError(
            f"some weights are too large for {name_of(type)}; use --type f32 or bf16"
        ) from error
    return np.ascontiguousarray(found).view(np.uint8).reshape(len(values), -1)


def decode(data: np.ndarray, type: int, columns: int) -> np.ndarray:
    """Return the numbers of quantised rows.

    Args:
        data: (rows, bytes of a row) uint8.
        columns: numbers of a row.

    Returns:
        (rows, columns) float32.

    Raises ModelError for a type that cannot be read here.
    """
    import gguf

    try:
        found = gguf.quants.dequantize(data, gguf.GGMLQuantizationType(type))
    except NotImplementedError as error:
        raise ModelError(f"tensors of type {name_of(type)} cannot be read as numbers") from error
    return found.reshape(-1, columns)


def _library() -> Any:
    if find_spec("libgguf") is None:
        raise ModelError("writing K-quants needs a package: pip install 'corrigenda[gguf]'")
    import libgguf

    return libgguf
