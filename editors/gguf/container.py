"""The GGUF container, kept byte for byte.

A file is its metadata, in order and each value as it stands in the file, and its tensors. What
is not changed is copied as bytes, so that a file that is written unchanged is the file that was
read. Format: "GGUF" file specification of ggml, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from editors.model_files import ModelError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = "general.alignment"
_CHUNK = 1 << 22
# struct codes of the value types; 8 is a string, 9 an array of one of the others.
_CODES = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9
UINT32 = 4
# What a forged file must not make us build: names without end, arrays in arrays in arrays.
_LONGEST_NAME = 65535
_DEEPEST = 4
_GREATEST_ALIGNMENT = 1 << 20
# Bytes that these take at least: a count that the file has no room for is seen at once.
_LEAST_ENTRY, _LEAST_INFO, _LEAST_TEXT, _LEAST_ARRAY = 13, 32, 8, 12


@dataclass(frozen=True)
class Entry:
    """One key of the metadata; ``raw`` is its type and value as they stand in the file."""

    key: str
    raw: bytes

    @property
    def value(self) -> Any:
        """The value: a number, a bool, a text, or a list of these."""
        return _Cursor(self.raw).value()

    @classmethod
    def text(cls, key: str, value: str) -> Entry:
        return cls(key, struct.pack("<I", _STRING) + _packed_text(value))

    @classmethod
    def uint32(cls, key: str, value: int) -> Entry:
        return cls(key, struct.pack("<II", UINT32, value))

    @classmethod
    def uint32s(cls, key: str, values: Sequence[int]) -> Entry:
        head = struct.pack("<IIQ", _ARRAY, UINT32, len(values))
        return cls(key, head + struct.pack(f"<{len(values)}I", *values))


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies.

    Attributes:
        name: in llama.cpp's words, "blk.0.ffn_gate.weight".
        shape: as the file has it: the length of a row comes first.
        type: its ggml type, a number (``gguf.GGMLQuantizationType``).
        offset: of its data, from the beginning of all data.
        size: of its data, in bytes.
    """

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int
    size: int

    @property
    def columns(self) -> int:
        """How long a row is."""
        return self.shape[0]

    @property
    def rows(self) -> int:
        return math.prod(self.shape[1:])


@dataclass(frozen=True)
class Written:
    """A tensor to be written: what it is, and its bytes in pieces. ``offset`` is not read."""

    tensor: Tensor
    pieces: Callable[[], Iterable[bytes]]


@dataclass(frozen=True)
class GgufFile:
    """What a file holds. Its data stays on disk until it is asked for.

    Attributes:
        path: where it lies.
        version: of the format.
        entries: the metadata, in order.
        tensors: in the order of the file's list.
        data: where the data begins, in bytes.
    """

    path: Path
    version: int
    entries: tuple[Entry, ...]
    tensors: tuple[Tensor, ...]
    data: int

    @cached_property
    def _values(self) -> dict[str, Entry]:
        return {entry.key: entry for entry in self.entries}

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        return {tensor.name: tensor for tensor in self.tensors}

    def get(self, key: str, default: Any = None) -> Any:
        """Return a value of the metadata."""
        entry = self._values.get(key)
        return default if entry is None else entry.value

    def number(self, key: str, default: int) -> int:
        """Return a whole number of the metadata. Raises ModelError where it is something else."""
        value = self.get(key, default)
        if not isinstance(value, int):
            raise ModelError(f"{self.path} is damaged: {key} is no whole number")
        return value

    @property
    def architecture(self) -> str:
        return str(self.get("general.architecture", ""))

    @property
    def alignment(self) -> int:
        return self.number(ALIGNMENT, 32)

    def tensor(self, name: str) -> Tensor | None:
        return self._tensors.get(name)

    def bytes_of(self, tensor: Tensor) -> bytes:
        """Return a tensor's data."""
        return b"".join(self.pieces_of(tensor))

    def pieces_of(self, tensor: Tensor) -> Iterator[bytes]:
        """Yield a tensor's data in pieces of some megabytes."""
        with self.path.open("rb") as handle:
            handle.seek(self.data + tensor.offset)
            left = tensor.size
            while left:
                piece = handle.read(min(left, _CHUNK))
                if not piece:
                    raise ModelError(f"{self.path} became shorter while it was read")
                left -= len(piece)
                yield piece

    def unchanged(self, tensor: Tensor) -> Written:
        """Return what writes a tensor as it is."""
        return Written(tensor, lambda: self.pieces_of(tensor))


def read(path: Path) -> GgufFile:
    """Read a file's metadata and its list of tensors.

    Raises ModelError: it cannot be opened, is no GGUF, of another version, split, or cut short.
    """
    try:
        with path.open("rb") as handle:
            head = handle.read(24)
            if head[:4] != MAGIC:
                raise ModelError(
                    f"{path} is not a GGUF file; set model.path to a GGUF file or a model folder"
                )
            if len(head) < 24:
                raise ModelError(f"{path} is cut short; copy or download it again")
            version = struct.unpack_from("<I", head, 4)[0]
            if version not in VERSIONS:
                raise ModelError(
                    f"{path} is GGUF of version {version}, or big-endian; versions 2 and 3, "
                    "little-endian, are read: convert it anew with llama.cpp"
                )
            size = path.stat().st_size
            import mmap

            with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                return _parsed(path, version, mapped, size)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error


def write(
    handle: BinaryIO, source: GgufFile, entries: Sequence[Entry], tensors: Sequence[Written]
) -> None:
    """Write a file: metadata in the order given, the tensors' data in the source's order.

    Args:
        source: whose version of the format and order of data are taken.
        tensors: in the order of the list; as many as the source has, by the same names.
    """
    alignment = next((int(e.value) for e in entries if e.key == ALIGNMENT), 32)
    order = {one.name: at for at, one in enumerate(sorted(source.tensors, key=_by_offset))}
    by_data = sorted(tensors, key=lambda one: order[one.tensor.name])
    offsets, at = {}, 0
    for one in by_data:
        offsets[one.tensor.name] = at
        at += _aligned(one.tensor.size, alignment)
    head = bytearray(MAGIC)
    head += struct.pack("<IQQ", source.version, len(tensors), len(entries))
    for entry in entries:
        head += _packed_text(entry.key) + entry.raw
    for one in tensors:
        head += _packed_info(replace(one.tensor, offset=offsets[one.tensor.name]))
    head += bytes(_aligned(len(head), alignment) - len(head))
    handle.write(head)
    for one in by_data:
        written = 0
        for piece in one.pieces():
            handle.write(piece)
            written += len(piece)
        if written != one.tensor.size:
            raise ValueError(f"{one.tensor.name} has {written} bytes, not {one.tensor.size}")
        handle.write(bytes(_aligned(written, alignment) - written))


class _Cursor:
    """Reads numbers, texts and values from a place on."""

    def __init__(self, data: Any, at: int = 0) -> None:
        self.data, self.at = data, at

    def need(self, count: int, size: int = 1) -> None:
        """Raise EOFError where what follows has no room for so many things of a size."""
        if count * size > len(self.data) - self.at:
            raise EOFError

    def take(self, code: str, count: int = 1) -> tuple[Any, ...]:
        size = struct.calcsize(f"<{code}")
        self.need(count, size)
        found = struct.unpack_from(f"<{count}{code}", self.data, self.at)
        self.at += size * count
        return found

    def text(self, longest: int | None = None) -> str:
        (length,) = self.take("Q")
        self.need(length)
        if longest is not None and length > longest:
            raise ValueError(f"a name of {length:,} bytes")
        found = bytes(self.data[self.at : self.at + length])
        self.at += length
        return found.decode("utf-8", "surrogateescape")

    def value(self, kind: int | None = None) -> Any:
        kind = self.take("I")[0] if kind is None else kind
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            inner, count = self.take("I")[0], self.take("Q")[0]
            if inner in _CODES:
                return list(self.take(_CODES[inner], count))
            return [self.value(inner) for _ in range(count)]
        return self.take(_CODES[kind])[0]

    def skip(self) -> None:
        """Pass over a value without building it. Raises ValueError for an unknown type."""
        self._skip(self.take("I")[0], 0)

    def _skip(self, kind: int, depth: int) -> None:
        if kind == _STRING:
            self._pass(self.take("Q")[0])
        elif kind == _ARRAY:
            inner, count = self.take("I")[0], self.take("Q")[0]
            if inner in _CODES:
                self._pass(struct.calcsize(f"<{_CODES[inner]}") * count)
                return
            if inner not in (_STRING, _ARRAY):
                raise ValueError(f"an array of unknown type {inner}")
            if depth == _DEEPEST:
                raise ValueError("arrays in arrays, too many")
            self.need(count, _LEAST_TEXT if inner == _STRING else _LEAST_ARRAY)
            for _ in range(count):
                self._skip(inner, depth + 1)
        elif kind in _CODES:
            self._pass(struct.calcsize(f"<{_CODES[kind]}"))
        else:
            raise ValueError(f"a value of unknown type {kind}")

    def _pass(self, size: int) -> None:
        self.need(size)
        self.at += size


def _parsed(path: Path, version: int, data: Any, size: int) -> GgufFile:
    cursor = _Cursor(data, 8)
    try:
        count, keys = cursor.take("Q", 2)
        entries = _entries(cursor, keys)
        tensors = _infos(cursor, count)
    except EOFError as error:
        raise ModelError(f"{path} is cut short; copy or download it again") from error
    except ValueError as error:
        raise ModelError(f"{path} is damaged or of a newer format: {error}") from error
    found = GgufFile(path, version, entries, tensors, 0)
    if found.number("split.count", 1) > 1:
        raise ModelError(
            f"{path} is one part of a split model; join the parts with llama-gguf-split --merge"
        )
    alignment = found.alignment
    if not 0 < alignment <= _GREATEST_ALIGNMENT or alignment & (alignment - 1):
        raise ModelError(f"{path} is damaged: an alignment of {alignment}, no power of two")
    begin = _aligned(cursor.at, alignment)
    end = max((begin + one.offset + one.size for one in tensors), default=0)
    if end > size:
        raise ModelError(
            f"{path} is cut short: {size:,} bytes of {end:,}; copy or download it again"
        )
    return replace(found, data=begin)


def _entries(cursor: _Cursor, count: int) -> tuple[Entry, ...]:
    cursor.need(count, _LEAST_ENTRY)
    found: dict[str, Entry] = {}
    for _ in range(count):
        key, begin = cursor.text(_LONGEST_NAME), cursor.at
        cursor.skip()
        if key in found:
            raise ValueError(f"the key {key!r} is there twice")
        found[key] = Entry(key, bytes(cursor.data[begin : cursor.at]))
    return tuple(found.values())


def _infos(cursor: _Cursor, count: int) -> tuple[Tensor, ...]:
    cursor.need(count, _LEAST_INFO)
    found: dict[str, Tensor] = {}
    for _ in range(count):
        one = _info(cursor)
        if one.name in found:
            raise ValueError(f"the tensor {one.name!r} is there twice")
        found[one.name] = one
    return tuple(found.values())


def _info(cursor: _Cursor) -> Tensor:
    name = cursor.text(_LONGEST_NAME)
    (dimensions,) = cursor.take("I")
    if not 1 <= dimensions <= 4:
        raise ValueError(f"the tensor {name!r} has {dimensions} dimensions")
    shape = cursor.take("Q", dimensions)
    (kind,) = cursor.take("I")
    (offset,) = cursor.take("Q")
    return Tensor(name, shape, kind, offset, size_of(kind, shape, name))


def size_of(kind: int, shape: Sequence[int], name: str = "a tensor") -> int:
    """Return the bytes of a tensor whose rows have length ``shape[0]``.

    Raises ValueError: the type is not known, or rows are no multiple of its blocks.
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except ValueError as error:
        raise ValueError(f"{name!r} is of a type that is not known ({kind})") from error
    if shape[0] % block:
        raise ValueError(f"{name!r} has rows of {shape[0]} in blocks of {block}")
    return math.prod(shape) // block * size


def _packed_info(tensor: Tensor) -> bytes:
    shape = tensor.shape
    head = _packed_text(tensor.name) + struct.pack("<I", len(shape))
    return head + struct.pack(f"<{len(shape)}QIQ", *shape, tensor.type, tensor.offset)


def _packed_text(text: str) -> bytes:
    data = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(data)) + data


def _aligned(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _by_offset(tensor: Tensor) -> int:
    return tensor.offset
