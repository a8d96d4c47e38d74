"""Finer types, one after the other, until the edits hold, and no finer than that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from expansions import joint
from toy_model import one_thread

import agent.rescue
from agent.rescue import Try, least, rescued
from editors.deltas import EditDelta, MlpExpansion, head_group
from editors.gguf import container
from editors.gguf.container import GgufFile
from editors.gguf.from_hf import full_gguf
from editors.gguf.quantise import TYPES
from editors.gguf.widening import Form
from editors.metrics import Interval, wilson
from editors.model import ChatModel
from editors.model_files import ModelError


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture
def source(tiny_model: ChatModel, tmp_path: Path) -> GgufFile:
    full_gguf(tiny_model, tmp_path / "toy.gguf", TYPES["q4_0"])
    return container.read(tmp_path / "toy.gguf")


@pytest.fixture
def delta(tiny_model: ChatModel) -> MlpExpansion:
    drawn = torch.Generator().manual_seed(0)
    gate, up, down = torch.randn(3, 5, tiny_model.hidden_size, generator=drawn)
    return MlpExpansion(1, gate, up, down.T.contiguous())


def asked(
    path: Path, shares: Sequence[int], seen: list[bytes] | None = None
) -> Callable[[], Interval]:
    """Return what says, one after the other, how many of ten are right."""
    left = iter(shares)

    def passed() -> Interval:
        if seen is not None:
            seen.append(path.read_bytes())
        return wilson(next(left), 10)

    return passed


def types(tries: Sequence[Try]) -> list[str]:
    return [" ".join(one.types.values()) for one in tries]


def run(
    source: GgufFile,
    delta: EditDelta,
    shares: Sequence[int],
    form: Form | None = None,
    seen: list[bytes] | None = None,
) -> tuple[Path, tuple[Try, ...], int]:
    path = source.path.with_name("out.gguf")
    passed = asked(path, shares, seen)
    _, tries, best = rescued(path, source, delta, form or Form(), (), passed, wilson(91, 100))
    return path, tries, best


def test_what_holds_as_it_is_is_not_made_finer(source: GgufFile, delta: MlpExpansion) -> None:
    _, tries, best = run(source, delta, [9])
    assert (types(tries), best) == (["q4_0 q4_0 q4_0"], 0)


def test_types_get_finer_until_enough_passes(source: GgufFile, delta: MlpExpansion) -> None:
    path, tries, best = run(source, delta, [1, 2, 9])
    assert types(tries) == ["q4_0 q4_0 q4_0", "q8_0 q8_0 q4_0", "q8_0 q8_0 q8_0"]
    assert best == 2
    assert [one.size for one in tries] == sorted(one.size for one in tries)
    written = container.read(path).tensor("blk.1.ffn_down.weight")
    assert written is not None
    assert written.type == TYPES["q8_0"]


def test_where_nothing_is_enough_the_smallest_stays_that_loses_no_more_than_the_best(
    source: GgufFile, delta: MlpExpansion
) -> None:
    seen: list[bytes] = []
    path, tries, best = run(source, delta, [1, 6, 6, 5, 6, 2], seen=seen)
    assert (len(tries), best) == (6, 1)
    assert path.read_bytes() == seen[1]


def test_a_finer_source_is_never_made_coarser(source: GgufFile, delta: MlpExpansion) -> None:
    _, tries, _ = run(source, delta, [0, 0], Form(TYPES["f16"]))
    assert types(tries) == ["f16 f16 f16", "f32 f32 f32"]


def test_a_type_that_cannot_hold_the_numbers_is_passed_over(
    source: GgufFile, delta: MlpExpansion, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = MlpExpansion(1, delta.gate_rows * 1e5, delta.up_rows, delta.down_columns)
    _, tries, _ = run(source, large, [0] * 6)
    assert tries
    assert "f16 f16 f16" not in types(tries)

    def refuse(*args: object) -> None:
        raise ModelError("too large")

    monkeypatch.setattr(agent.rescue, "write", refuse)
    with pytest.raises(ModelError, match="no type that can be written"):
        run(source, large, [])


@pytest.mark.parametrize(
    ("right", "of", "fewest"), [(90, 100, 89), (900, 1000, 890), (55, 74, 54), (7, 7, 7), (0, 0, 0)]
)
def test_a_file_may_lose_a_point_or_one_question_of_not_so_few(
    right: int, of: int, fewest: int
) -> None:
    wanted = least(wilson(right, of))
    assert wilson(fewest, of).point >= wanted
    assert fewest == 0 or wilson(fewest - 1, of).point < wanted


def test_what_heads_match_by_is_in_half_floats_from_the_beginning(
    source: GgufFile, tiny_model: ChatModel
) -> None:
    group, width = head_group(tiny_model)
    delta = joint(hidden=tiny_model.hidden_size, group=group, width=width)
    _, tries, best = run(source, delta, [3, 9])
    assert best == 1
    kept = {part for part, type in tries[0].types.items() if type == "q4_0"}
    assert kept == {"up", "down", "v"}  # its columns are too few for a block
    assert set(tries[0].types.values()) == {"q4_0", "f16"}
    assert set(tries[1].types.values()) == {"q8_0", "f16"}
