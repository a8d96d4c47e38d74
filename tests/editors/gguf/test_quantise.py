"""Numbers become ggml's blocks and numbers again, as llama.cpp does it."""

from __future__ import annotations

import importlib.util

import gguf
import numpy as np
import pytest
from gguf_samples import Q4_K, Q8_0, numbers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from editors.gguf import quantise
from editors.gguf.quantise import FILE_TYPES, NAMES, TYPES, decode, encode, fitting
from editors.model_files import ModelError

BITS = {
    "f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.5, "q6_k": 6.5625, "q5_k": 5.5, "q5_1": 6,
    "q5_0": 5.5, "q4_k": 4.5, "q4_1": 5, "q4_0": 4.5, "q3_k": 3.4375, "q2_k": 2.625,
}  # fmt: skip
# The greatest error of normally distributed numbers, as a share of their block's greatest number:
# half a step, and somewhat more where steps are rounded to six bits in K-quants.
ERRORS = {
    "f32": 0, "f16": 2**-11, "bf16": 2**-8, "q8_0": 0.5 / 127 + 2**-11, "q6_k": 0.5 / 31 + 0.01,
    "q5_k": 0.5 / 15 + 0.03, "q5_1": 0.5 / 15, "q5_0": 1 / 16 + 0.001, "q4_k": 0.5 / 7 + 0.03,
    "q4_1": 0.5 / 7, "q4_0": 1 / 8 + 0.001, "q3_k": 0.22, "q2_k": 0.4,
}  # fmt: skip
IN_32 = ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0"]
BY_C = ["q2_k", "q3_k", "q4_k", "q5_k", "q6_k"]
UNREADABLE = {9, 15, *range(24, 29), 41}  # Q8_1, Q8_K, whole numbers, F64, Q1_0
needs_c = pytest.mark.skipif(
    importlib.util.find_spec("libgguf") is None, reason="libgguf is not installed"
)


def each(names: list[str]) -> pytest.MarkDecorator:
    marks = {name: [needs_c] if name in BY_C else [] for name in names}
    return pytest.mark.parametrize("name", [pytest.param(n, marks=marks[n]) for n in names])


@each(list(TYPES))
def test_rows_take_the_bytes_of_their_type(name: str) -> None:
    data = encode(numbers(name, 3, 512), TYPES[name])
    assert (data.shape, data.dtype) == ((3, int(512 * BITS[name] / 8)), np.uint8)
    assert decode(data, TYPES[name], 512).shape == (3, 512)
    assert decode(data, TYPES[name], 512).dtype == np.float32


def test_every_type_has_ggmls_number_and_the_files() -> None:
    assert {name: gguf.GGMLQuantizationType[name.upper()] for name in TYPES} == TYPES
    assert TYPES.keys() == FILE_TYPES.keys() == BITS.keys()
    for name, number in FILE_TYPES.items():
        said = gguf.LlamaFileType(number).name.removeprefix("MOSTLY_").removeprefix("ALL_")
        assert said.removesuffix("_M") in (name.upper(), f"{name.upper()}_S")
    assert {quantise.name_of(number): number for number in NAMES} == TYPES


@each(list(TYPES))
def test_numbers_come_back_with_no_more_than_the_types_error(name: str) -> None:
    values = numbers(name, 40, 512)
    back = decode(encode(values, TYPES[name]), TYPES[name], 512)
    size = max(quantise.block(TYPES[name]), 32)
    error = np.abs(back - values).reshape(-1, size).max(1)
    greatest = np.abs(values).reshape(-1, size).max(1)
    assert (error / greatest).max() <= ERRORS[name]


@each(list(TYPES))
def test_zeros_come_back_as_zeros_and_so_do_bytes_of_zero(name: str) -> None:
    data = encode(np.zeros((2, 256), np.float32), TYPES[name])
    assert not decode(data, TYPES[name], 256).any()
    assert not decode(np.zeros_like(data), TYPES[name], 256).any()


@pytest.mark.parametrize("type", [t for t in gguf.GGMLQuantizationType if t not in UNREADABLE])
def test_bytes_of_zero_are_zeros_in_every_type(type: int) -> None:
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(type)]
    found = decode(np.zeros((2, 3 * size), np.uint8), type, 3 * block)
    assert found.shape == (2, 3 * block)
    assert not found.any()


@pytest.mark.parametrize("name", ["q8_k", "i32", "f64"])
def test_types_that_nothing_can_read_are_said(name: str) -> None:
    type = gguf.GGMLQuantizationType[name.upper()]
    data = np.zeros((1, gguf.GGML_QUANT_SIZES[type][1]), np.uint8)
    with pytest.raises(ModelError, match=f"type {name} cannot be read"):
        decode(data, type, 256)


@each([name for name in TYPES if name not in BY_C])
def test_writing_what_was_read_gives_the_same_bytes(name: str) -> None:
    data = encode(numbers(name, 40, 512), TYPES[name])
    assert encode(decode(data, TYPES[name], 512), TYPES[name]).tobytes() == data.tobytes()


@needs_c
@pytest.mark.parametrize("name", BY_C)
def test_writing_what_was_read_as_a_k_quant_hardly_changes_it(name: str) -> None:
    values = decode(encode(numbers(name, 40, 512), TYPES[name]), TYPES[name], 512)
    again = decode(encode(values, TYPES[name]), TYPES[name], 512)
    assert np.abs(again - values).mean() < 0.01 * np.abs(values).mean()


@needs_c
@pytest.mark.parametrize("name", IN_32)
def test_types_in_blocks_of_32_are_llama_cpps_to_the_byte(name: str) -> None:
    import libgguf

    values = numbers(name, 200, 320) * np.float32(10) ** numbers("scale", 200, 1)
    values[0] = 0
    values[1, ::2] = 0
    theirs = libgguf.quantize_rows(values, TYPES[name])
    assert encode(values, TYPES[name]).tobytes() == theirs.tobytes()


@needs_c
@pytest.mark.parametrize("name", [*IN_32, *BY_C])
def test_blocks_are_read_as_llama_cpp_reads_them(name: str) -> None:
    import libgguf

    data = encode(numbers(name, 20, 512), TYPES[name])
    theirs = libgguf.dequantize_rows_raw(TYPES[name], data, 20, 512)
    assert decode(data, TYPES[name], 512).tobytes() == theirs


@pytest.mark.parametrize("name", ["f32", "f16", "bf16", *IN_32])
@given(
    values=arrays.arrays(
        np.float32, (2, 64), elements=st.floats(-60000, 60000, width=32, allow_subnormal=True)
    )
)
@example(values=np.full((2, 64), 1e-5, np.float32))
@settings(max_examples=50, deadline=None)
def test_any_numbers_of_a_half_floats_range_can_be_written(name: str, values: np.ndarray) -> None:
    back = decode(encode(values, TYPES[name]), TYPES[name], 64)
    error = np.abs(back - values).reshape(-1, 32).max(1)
    greatest = np.abs(values).reshape(-1, 32).max(1)
    # A span of numbers may be twice the greatest of them. A scale is off by up to half of a half
    # float's least step, and that as many times as the type counts from zero (Q8_0: 127, Q5_1: 31).
    levels = 127 if name == "q8_0" else 32
    assert (error <= (2 * ERRORS[name] + 0.001) * greatest + levels * 2.0**-25).all()


@pytest.mark.parametrize("name", IN_32)
def test_numbers_too_small_for_any_scale_become_zeros(name: str) -> None:
    values = np.full((1, 32), 1e-40, np.float32)
    values[0, ::2] *= -1
    assert not decode(encode(values, TYPES[name]), TYPES[name], 32).any()


@each([name for name in TYPES if name not in ("f32", "bf16")])
def test_numbers_too_large_for_a_type_are_said(name: str) -> None:
    values = np.zeros((1, 256), np.float32)
    values[0, :2] = 1e9, -1e9
    with pytest.raises(ModelError, match=f"too large for {name}; use --type"):
        encode(values, TYPES[name])


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@each(list(TYPES))
def test_what_is_no_number_is_said(name: str, number: float) -> None:
    values = np.zeros((1, 256), np.float32)
    values[0, 7] = number
    with pytest.raises(ModelError, match="infinite or no numbers"):
        encode(values, TYPES[name])


@pytest.mark.parametrize(
    ("name", "columns", "falls_to"),
    [
        ("q2_k", 576, "iq4_nl"),
        ("q3_k", 576, "iq4_nl"),
        ("q4_k", 576, "q5_0"),
        ("q5_k", 576, "q5_1"),
        ("q6_k", 576, "q8_0"),
        ("q4_k", 1536, "q4_k"),
        ("q4_k", 48, "f16"),
        ("q2_k", 48, "f16"),
        ("q8_0", 48, "f16"),
        ("q4_0", 576, "q4_0"),
        ("q4_1", 7, "f16"),
        ("f16", 7, "f16"),
        ("bf16", 7, "bf16"),
        ("f32", 7, "f32"),
    ],
)
def test_rows_that_a_type_does_not_fit_go_where_llama_cpp_puts_them(
    name: str, columns: int, falls_to: str
) -> None:
    assert quantise.name_of(fitting(TYPES[name], columns)) == falls_to


@needs_c
@pytest.mark.parametrize("name", list(TYPES))
def test_what_rows_fall_back_to_can_be_written(name: str) -> None:
    for columns in (576, 48):
        type = fitting(TYPES[name], columns)
        assert quantise.writable(type)
        values = numbers(name, 2, columns)
        back = decode(encode(values, type), type, columns)
        assert np.abs(back - values).max() <= 0.13 * np.abs(values).max()


@pytest.mark.parametrize("type", [17, 23, 28, 41])
def test_types_that_nothing_can_write_are_said(type: int) -> None:
    assert not quantise.writable(type)
    with pytest.raises(ModelError, match=f"type {quantise.name_of(type)} cannot be written"):
        encode(np.zeros((1, 256), np.float32), type)


def test_without_its_package_a_k_quant_is_refused_and_all_else_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(quantise, "find_spec", lambda name: None)
    for type in (Q4_K, fitting(TYPES["q2_k"], 576)):
        with pytest.raises(ModelError, match=r"pip install 'corrigenda\[gguf\]'"):
            encode(np.zeros((1, 256), np.float32), type)
    assert encode(np.zeros((1, 256), np.float32), Q8_0).shape == (1, 272)
