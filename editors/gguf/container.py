"""The GGUF container, kept byte for byte.

A file is its metadata, in order and each value as it stands in the file, and its tensors. What
is not changed is copied as bytes, so that a file that is written unchanged is the file that was
read. Format: "GGUF" file specification of ggml, versions 2 and 3, little-endian.
"""

from __future__ import annotations

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
        rows = 1
        for length in self.shape[1:]:
            rows *= length
        return rows


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

    @property
    def architecture(self) -> str:
        return str(self.get("general.architecture", ""))

    @property
    def alignment(self) -> int:
        return int(self.get(ALIGNMENT, 32))

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

    def take(self, code: str, count: int = 1) -> tuple[Any, ...]:
        form = f"<{count}{code}"
        size = struct.calcsize(form)
        if self.at + size > len(self.data):
            raise EOFError
        found = struct.unpack_from(form, self.data, self.at)
        self.at += size
        return found

    def text(self) -> str:
        (length,) = self.take("Q")
        if self.at + length > len(self.data):
            raise EOFError
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
        if kind not in _CODES:
            raise ValueError(f"a value of unknown type {kind}")
        return self.take(_CODES[kind])[0]

    def skip(self) -> None:
        """Pass over a value without building it."""
        self._skip(self.take("I")[0])

    def _skip(self, kind: int) -> None:
        if kind == _STRING:
            (length,) = self.take("Q")
            self.at += length
        elif kind == _ARRAY:
            inner, count = self.take("I")[0], self.take("Q")[0]
            if inner in _CODES:
                self.at += struct.calcsize(f"<{_CODES[inner]}") * count
            else:
                for _ in range(count):
                    self._skip(inner)
        elif kind in _CODES:
            self.at += struct.calcsize(f"<{_CODES[kind]}")
        else:
            raise ValueError(f"a value of unknown type {kind}")
        if self.at > len(self.data):
            raise EOFError


def _parsed(path: Path, version: int, data: Any, size: int) -> GgufFile:
    cursor = _Cursor(data, 8)
    try:
        count, keys = cursor.take("Q", 2)
        entries = []
        for _ in range(keys):
            key, begin = cursor.text(), cursor.at
            cursor.skip()
            entries.append(Entry(key, bytes(data[begin : cursor.at])))
        tensors = [_info(cursor) for _ in range(count)]
    except (EOFError, OverflowError, MemoryError) as error:
        raise ModelError(f"{path} is cut short; copy or download it again") from error
    except (ValueError, KeyError) as error:
        raise ModelError(f"{path} is damaged or of a newer format: {error}") from error
    found = GgufFile(path, version, tuple(entries), tuple(tensors), 0)
    if int(found.get("split.count", 1) or 1) > 1:
        raise ModelError(
            f"{path} is one part of a split model; join the parts with llama-gguf-split --merge"
        )
    if found.alignment <= 0:
        raise ModelError(f"{path} is damaged: an alignment of {found.alignment}")
    begin = _aligned(cursor.at, found.alignment)
    end = max((begin + one.offset + one.size for one in tensors), default=begin)
    if end > size:
        raise ModelError(
            f"{path} is cut short: {size:,} bytes of {end:,}; copy or download it again"
        )
    return replace(found, data=begin)


def _info(cursor: _Cursor) -> Tensor:
    name = cursor.text()
    (dimensions,) = cursor.take("I")
    if not 1 <= dimensions <= 4:
        raise ValueError(f"tensor {name} has {dimensions} dimensions")
    shape = cursor.take("Q", dimensions)
    (kind,) = cursor.take("I")
    (offset,) = cursor.take("Q")
    elements = 1
    for length in shape:
        elements *= length
    return Tensor(name, tuple(shape), kind, offset, size_of(kind, elements, name))


def size_of(kind: int, elements: int, name: str = "a tensor") -> int:
    """Return the bytes of so many elements. Raises ValueError for a type that is not known."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except ValueError as error:
        raise ValueError(f"{name} is of a type that is not known ({kind})") from error
    return elements // block * size


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
