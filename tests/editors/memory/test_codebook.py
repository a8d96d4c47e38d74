"""The codebook of balls: near and alike widens, near and other halves, far is new."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from editors.memory.codebook import Codebook, added, empty, overlaps, restored

PLACE = st.tuples(*[st.integers(-20, 20)] * 2)
STEPS = st.lists(st.tuples(PLACE, st.sampled_from("abc"), st.floats(0.5, 6.0)), max_size=12)


def _book(*steps: tuple[tuple[float, ...], str, float]) -> Codebook:
    book = empty(2)
    for key, label, radius in steps:
        book = added(book, torch.tensor(key, dtype=torch.float32), label, radius)
    return book


def _found(book: Codebook, *query: float) -> str | None:
    at = book.find(torch.tensor(query))
    return None if at is None else book.labels[at]


def test_an_empty_codebook_finds_nothing() -> None:
    assert _found(empty(2), 0.0, 0.0) is None


def test_a_near_key_of_the_same_label_widens_the_ball_and_adds_none() -> None:
    book = _book(((0, 0), "a", 2.0), ((3, 0), "a", 2.0))
    assert len(book) == 1
    assert _found(book, 3.0, 0.0) == "a"
    assert _found(book, 3.1, 0.0) is None


def test_a_near_key_of_another_label_halves_both_balls() -> None:
    book = _book(((0, 0), "a", 2.0), ((2, 0), "b", 2.0))
    assert len(book) == 2
    assert float(book.radii.sum()) < 2.0
    assert _found(book, 0.9, 0.0) == "a"
    assert _found(book, 1.1, 0.0) == "b"
    assert _found(book, -1.5, 0.0) is None


def test_a_far_key_leaves_the_others_as_they_are() -> None:
    book = _book(((0, 0), "a", 2.0), ((9, 0), "b", 2.0))
    assert book.radii.tolist() == [2.0, 2.0]


def test_a_ball_is_not_widened_into_another_labels() -> None:
    book = _book(((0, 0), "a", 2.0), ((0, 5), "b", 2.0), ((0, 3), "b", 2.0))
    assert not overlaps(book)
    assert _found(book, 0.0, 3.0) == "b"
    assert _found(book, 0.0, 0.5) == "a"


def test_the_same_key_again_is_the_newer_labels() -> None:
    book = _book(((1, 1), "a", 2.0), ((1, 1), "b", 2.0))
    assert book.labels == ("b",)
    assert _found(book, 1.0, 2.5) == "b"


def test_a_key_that_fell_out_of_a_halved_ball_is_put_back() -> None:
    book = _book(((0, 0), "a", 3.0), ((4, 0), "a", 3.0), ((0, 4), "b", 3.0))
    keys = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    assert _found(book, 4.0, 0.0) is None
    again = restored(book, keys, ["a", "a", "b"], 0.5)
    assert [_found(again, *key) for key in keys.tolist()] == ["a", "a", "b"]
    assert not overlaps(again)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_balls_of_different_labels_never_meet_and_the_newest_key_is_always_found(
    steps: list[tuple[tuple[float, ...], str, float]],
) -> None:
    book = empty(2)
    for key, label, radius in steps:
        book = added(book, torch.tensor(key, dtype=torch.float32), label, radius)
        assert not overlaps(book)
        assert _found(book, *map(float, key)) == label
        assert bool((book.radii > 0).all())


@settings(max_examples=40, deadline=None)
@given(STEPS, PLACE)
def test_a_query_outside_all_balls_finds_none_and_taking_a_label_away_leaves_the_others(
    steps: list[tuple[tuple[float, ...], str, float]], query: tuple[int, ...]
) -> None:
    book = _book(*steps)
    at = torch.tensor(query, dtype=torch.float32)
    inside = torch.linalg.vector_norm(book.keys - at, dim=-1) <= book.radii
    if not bool(inside.any()):
        assert book.find(at) is None
    left = book.without("a")
    assert left.labels == tuple(label for label in book.labels if label != "a")
    assert book.without("z").keys.equal(book.keys)


def test_a_codebook_is_rebuilt_from_its_tensors() -> None:
    book = _book(((0, 0), "a", 2.0), ((9, 0), "çé", 2.0))
    again = Codebook.from_tensors(book.tensors("x"), "x")
    assert again.keys.equal(book.keys)
    assert again.radii.equal(book.radii)
    assert again.labels == book.labels
    assert Codebook.from_tensors(empty(3).tensors("x"), "x").labels == ()
