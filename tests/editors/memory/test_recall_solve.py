"""The algebra of recall heads, on random states."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from editors.memory import recall_solve as solve
from editors.requests import EditorError

HIDDEN = 24


def states(n: int, seed: int) -> torch.Tensor:
    """States around a common mean, so that a level can be read of them."""
    made = torch.randn(n, HIDDEN, generator=torch.Generator().manual_seed(seed))
    return made * 0.3 + torch.linspace(-1, 1, HIDDEN)


def a_ground(edited: torch.Tensor, ordinary: torch.Tensor) -> solve.Ground:
    first = torch.zeros(len(ordinary), dtype=torch.bool)
    first[:3] = True
    return solve.ground(edited, ordinary, first, 0.001)


def massive(ordinary: torch.Tensor) -> torch.Tensor:
    """The first three states are what texts begin with: another, large vector."""
    ordinary[:3] = 20 * torch.eye(HIDDEN)[0] + 0.01 * ordinary[:3]
    return ordinary


def test_the_level_is_one_everywhere_and_the_start_only_where_a_text_begins() -> None:
    ordinary = massive(states(400, 1))
    ground = a_ground(states(100, 2), ordinary)
    level = ordinary[3:].double() @ ground.level
    start = ordinary.double() @ ground.start
    assert (level - 1).abs().mean() < 0.1
    assert (start[:3] - 1).abs().max() < 0.01
    assert start[3:].abs().max() < 0.2


def test_a_gate_is_shut_where_a_text_begins_whatever_it_answered_there() -> None:
    ordinary = massive(states(400, 1))
    own = states(5, 3)
    own[0] = ordinary[0]  # it even was among its own
    ground = a_ground(states(100, 2), ordinary)
    made = solve.direction(ground.inverse, own, 50.0)
    gate = ground.gate(made, torch.tensor(0.5, dtype=torch.float64))
    assert (ordinary[:3].double() @ gate).min() > 0.1
    shut = ground.shut(made, own[1:])
    gate = ground.gate(shut, torch.tensor(0.5, dtype=torch.float64))
    assert (ordinary[:3].double() @ gate).max() < 0
    assert float((own[1:].double() @ shut).mean()) == pytest.approx(1)


def test_the_level_is_nothing_where_a_text_begins() -> None:
    ordinary = massive(states(400, 1))
    ground = a_ground(states(100, 2), ordinary)
    assert float((ordinary[:3].double() @ ground.level).abs().max()) < 0.01


def test_a_head_that_is_turned_ahead_is_met_after_so_many_tokens() -> None:
    """Against the rotation that transformers uses."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    width, distance = 8, 5.0
    turns = torch.tensor([1.0, 0.3, 0.1, 0.03])
    query, key = torch.randn(2, width, 1, generator=torch.Generator().manual_seed(0))
    ahead = solve.turned(key, distance * turns)
    angles = torch.stack([2.0 * turns, (2.0 + distance) * turns]).repeat(1, 2)
    both = torch.stack([ahead[:, 0], query[:, 0]])[None, None]
    met, _ = apply_rotary_pos_emb(both, both, angles.cos()[None], angles.sin()[None])
    assert float(met[0, 0, 1] @ met[0, 0, 0]) == pytest.approx(float(query[:, 0] @ key[:, 0]))


@given(st.integers(1, 6), st.integers(0, 5), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_a_direction_answers_one_on_its_own_and_nothing_on_what_is_apart(
    own: int, apart: int, seed: int
) -> None:
    edited = states(200, seed)
    inverse = torch.linalg.inv((edited.T @ edited / 200).double() + 1e-3 * torch.eye(HIDDEN))
    mine, others = edited[:own], edited[100 : 100 + apart]
    made = solve.direction(inverse, mine, 1e6, (others, 1e6))
    assert float((mine.double() @ made).mean()) == pytest.approx(1, abs=1e-6)
    if apart:
        assert float((others.double() @ made).abs().max()) < 0.05


def test_a_threshold_is_above_the_highest_negative_and_below_its_own() -> None:
    shares = torch.tensor([[1.0, 0.1], [0.9, 0.2], [0.3, 1.0], [0.1, 0.7]])
    owners = torch.tensor([0, 0, 1, -1])
    found = solve.thresholds(shares, owners, least=0.2, most=0.9, margin=0.05)
    assert found.tolist() == pytest.approx([0.35, 0.75])
    crowded = torch.tensor([[1.0], [0.99]])
    found = solve.thresholds(crowded, torch.tensor([0, -1]), least=0.2, most=0.9, margin=0.05)
    assert found.tolist() == pytest.approx([0.9])


def a_room(rows: int, dims: int) -> tuple[torch.Tensor, torch.Tensor, solve.Room]:
    reading = torch.randn(rows, HIDDEN, generator=torch.Generator().manual_seed(5))
    gains = torch.linspace(0.5, 1.5, HIDDEN)
    ordinary = massive(states(300, 1))
    sizes = torch.tensor([9.0] * (dims - 1) + [4.5])
    made = solve.room(reading, gains, [ordinary[3:], states(50, 2)], begun(), sizes)
    return reading, gains, made


def begun() -> torch.Tensor:
    """What texts begin with: most of them with the same."""
    return massive(states(300, 1))[[0, 1, 1, 2]]


def test_what_is_written_in_a_room_no_head_reads_and_the_room_reads_exactly() -> None:
    reading, gains, room = a_room(10, 8)
    values = torch.randn(4, 8, generator=torch.Generator().manual_seed(6)).double()
    written = (values * room.size) @ room.basis.T
    normed = written * gains
    assert (normed @ reading.double().T).abs().max() < 1e-5
    torch.testing.assert_close(normed @ room.read.T, values, atol=1e-5, rtol=0)


def test_a_room_reads_little_where_there_is_no_flag() -> None:
    _, _, room = a_room(10, 8)
    noise = (states(300, 7).double() @ room.read.T).std(0)
    assert noise[:-1].max() < 1.5 / 9
    assert noise[-1] < 1.5 / 4.5


def test_a_room_reads_nothing_at_all_of_what_most_texts_begin_with() -> None:
    _, _, room = a_room(10, 8)
    read = (begun().double() @ room.read.T).abs().amax(1)
    assert float(read[1]) < 1e-9 < float(read[0])


def test_heads_that_read_too_much_leave_no_room() -> None:
    with pytest.raises(EditorError, match=r"need 8 directions .* there are 4"):
        a_room(20, 8)


@given(st.integers(1, 6))
@settings(max_examples=6, deadline=None)
def test_filters_of_full_rank_answer_what_the_directions_do(edits: int) -> None:
    made = torch.randn(edits, HIDDEN, generator=torch.Generator().manual_seed(edits)).double()
    edited = states(200, 4).double()
    second = edited.T @ edited / 200 + 1e-6 * torch.eye(HIDDEN)
    query, own = solve.factors(made, second, HIDDEN, torch.ones(edits))
    torch.testing.assert_close(own @ query, made, atol=1e-6, rtol=1e-6)


def test_filters_of_unlike_directions_are_disturbed_less_than_with_queries_of_one_size() -> None:
    """Disturbed keys change what a query answers by as much as the query is large."""
    draw = torch.Generator().manual_seed(9)
    scales = 2.0 ** -torch.arange(HIDDEN).double()
    made = torch.randn(40, HIDDEN, generator=draw).double() * scales
    found = solve.factors(made, torch.eye(HIDDEN).double(), 12, torch.ones(40))
    flat = torch.linalg.svd(made, full_matrices=False)[2][:12]
    keys = made @ flat.T
    even, one = (
        float(query.square().sum() * own.square().sum()) for query, own in (found, (flat, keys))
    )
    assert even < 0.5 * one


def test_the_keys_of_a_relation_are_as_large_however_many_edits_ask_for_it() -> None:
    one, other = torch.eye(HIDDEN).double()[:2]
    sizes = []
    for many in (2, 200):
        made = torch.stack([one] * many + [other])
        alike = torch.tensor([many] * many + [1])
        query, keys = solve.factors(made, torch.eye(HIDDEN).double(), 2, alike)
        torch.testing.assert_close(keys @ query, made, atol=1e-6, rtol=1e-6)
        sizes.append(float(keys[0].norm() / keys[-1].norm()))
    assert sizes == pytest.approx([1.0, 1.0])


def test_one_key_of_two_answers_to_each_as_its_own_does() -> None:
    draw = torch.Generator().manual_seed(4)
    keys, asked = torch.randn(2, 2, HIDDEN, generator=draw).double()
    keys[1] = keys[0] + 0.5 * keys[1]
    asked[1] = asked[0] + 0.5 * asked[1]
    both = solve.together(keys, asked, torch.arange(2))
    torch.testing.assert_close(asked @ both, (asked * keys).sum(1), rtol=0.05, atol=0.05)


def test_one_key_of_two_that_ask_the_same_is_no_louder_than_each() -> None:
    key, asked = torch.randn(2, HIDDEN, generator=torch.Generator().manual_seed(5)).double()
    places = torch.stack([asked, asked])
    twice = solve.together(torch.stack([key, key]), places, torch.arange(2))
    torch.testing.assert_close(twice, key, rtol=0.01, atol=0.01)


def test_a_key_is_lifted_where_it_is_weak_and_hardly_changed_elsewhere() -> None:
    some, usual = states(6, 7).double(), states(400, 8).double()
    key = torch.linalg.pinv(some) @ torch.tensor([1.5, 1.0, 1.2, 0.2, 0.5, 1.0]).double()
    inverse = torch.linalg.inv(usual.T @ usual / 400)
    made = solve.lifted(key, some, 0.9, inverse)
    assert float((some @ made)[3:5].amin()) > 0.85
    assert float((usual @ (made - key)).square().mean()) < 0.7**2 + 0.4**2
    assert solve.lifted(made, some[:3], 0.5, inverse) is made


def test_the_slowest_pairs_come_first_and_the_very_slowest_is_left_out() -> None:
    assert solve.turning(16, 6) == [6, 14, 5, 13, 4, 12]
    assert {7, 15}.isdisjoint(solve.turning(16, 14))


def test_codes_are_unit_vectors_and_the_same_every_time() -> None:
    made = solve.codes(90, 64)
    torch.testing.assert_close(made.norm(dim=1), torch.ones(90).double())
    assert made.equal(solve.codes(90, 64))
    assert float((made @ made.T - torch.eye(90)).abs().max()) < 0.7
    with pytest.raises(EditorError, match="8 dimensions for codes, got 4"):
        solve.codes(50, 4)


def test_codes_of_many_overlap_far_less_than_as_they_are_drawn() -> None:
    made = solve.codes(300, 32)
    drawn = torch.randn(300, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = torch.nn.functional.normalize(drawn, dim=1)

    def largest(vectors: torch.Tensor) -> float:
        return float((vectors @ vectors.T).fill_diagonal_(0.0).abs().amax())

    assert largest(drawn) > 0.5
    assert largest(made) < 0.3


def test_codes_of_few_subjects_are_square_to_one_another() -> None:
    made = solve.codes(9, 12)
    assert (made @ made.T).equal(torch.eye(9).double())


def test_a_flag_is_the_larger_the_more_subjects_it_is_told_from() -> None:
    """The largest of many normal readings, drawn."""
    drawn = torch.randn(2000, 1000, generator=torch.Generator().manual_seed(8)).amax(1).mean()
    assert solve.loudest(1000) == pytest.approx(float(drawn), rel=0.2)
    assert solve.loudest(1) <= solve.loudest(10) < solve.loudest(1000)


def test_a_column_raises_its_own_token_the_most() -> None:
    read = torch.randn(40, HIDDEN, generator=torch.Generator().manual_seed(8))
    made = solve.columns(read, [3, 7, 3], 0.02)
    assert (made @ read.double().T).argmax(1).tolist() == [3, 7, 3]
    torch.testing.assert_close(made.norm(dim=1), torch.ones(3).double())
