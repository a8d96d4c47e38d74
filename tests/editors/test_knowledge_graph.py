"""A graph rendered as text: ranks by likelihood, metrics by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from editors.architectures import view
from editors.deltas import DenseDelta, MlpExpansion, applied
from editors.knowledge_graph import (
    Graph,
    Query,
    Ranker,
    Triple,
    edit_change,
    kept_change,
    lowest_layer,
    retained,
    succeeded,
)
from editors.model import ChatModel
from editors.requests import EditorError

GRAPH = Graph(
    (
        Triple("Germany", "capital", "Berlin"),
        Triple("France", "capital", "Paris"),
        Triple("Japan", "capital", "Tokyo"),
        Triple("Kenya", "language", "Swahili"),
        Triple("Kenya", "language", "English"),
        Triple("Nigeria", "language", "English"),
    ),
    {"capital": ("The capital of {} is", "{}'s capital is"), "language": ("People in {} speak",)},
)
ranks = st.lists(st.integers(1, 40), min_size=1, max_size=8)


def test_figures_of_a_toy_ranking_are_those_worked_out_by_hand() -> None:
    before, after = [4, 10, 1, 2], [1, 3, 2, 2]
    assert succeeded(after, 1) == 0.25
    assert succeeded(after, 3) == 1.0
    assert retained([1, 2, 3, 9], [1, 4, 3, 1], k=3) == pytest.approx(2 / 3)
    assert edit_change(before, after) == pytest.approx((3 / 4 + 7 / 10 - 1 + 0) / 4)
    assert kept_change(before, after) == pytest.approx((3 / 4 + 7 / 10 + 1 + 0) / 4)


def test_where_nothing_was_among_the_first_nothing_was_lost() -> None:
    assert retained([5, 9], [1, 20], k=3) == 1.0


@given(ranks=ranks, k=st.integers(1, 10))
def test_ranks_that_stay_lose_and_gain_nothing(ranks: list[int], k: int) -> None:
    assert edit_change(ranks, ranks) == kept_change(ranks, ranks) == 0
    assert retained(ranks, ranks, k) == 1
    assert succeeded(ranks, k) <= succeeded(ranks, k + 1)


def test_no_triple_has_no_figure() -> None:
    for figure in (lambda: succeeded([], 1), lambda: edit_change([], [])):
        with pytest.raises(EditorError):
            figure()


def test_a_query_offers_the_relations_tails_and_no_other_right_answer() -> None:
    query = GRAPH.query(GRAPH.triples[0])
    assert query.prompt == "The capital of Germany is"
    assert set(query.candidates) == {"Berlin", "Paris", "Tokyo"}
    assert GRAPH.query(GRAPH.triples[3]).candidates == ("Swahili",)
    assert set(GRAPH.query(GRAPH.triples[5]).candidates) == {"English", "Swahili"}


def test_bounded_candidates_always_hold_the_right_one_and_are_always_the_same() -> None:
    for triple in GRAPH.triples[:3]:
        query = GRAPH.query(triple, most=2)
        assert len(query.candidates) == 2
        assert triple.tail in query.candidates
        assert query == GRAPH.query(triple, most=2)


def test_a_request_asks_to_continue_the_first_prompt() -> None:
    request = GRAPH.request(GRAPH.triples[1], old="Lyon")
    assert request.prompts == ("The capital of France is",)
    assert request.statement == "The capital of France is Paris."
    assert (request.new, request.old, request.questions) == ("Paris", "Lyon", ())


def test_ranks_are_those_of_mean_log_probabilities(tiny_model: ChatModel) -> None:
    query = Query("The chancellor of Germany is", ("Angela Merkel", "Berlin", "No"), "Berlin")
    scores = []
    for candidate in query.candidates:
        prompt, answer = tiny_model.encode(query.prompt), tiny_model.encode(f" {candidate}")
        with torch.inference_mode():
            found = tiny_model.model(torch.tensor([prompt + answer])).logits[
                0, len(prompt) - 1 : -1
            ]
        logs = found.log_softmax(-1)
        scores.append(float(logs[torch.arange(len(answer)), answer].mean()))
    expected = 1 + sum(score > scores[1] for score in scores)
    (ranked,) = Ranker(tiny_model, 2).rank([query])
    assert ranked.rank == expected
    assert ranked.first == query.candidates[scores.index(max(scores))]


def test_a_model_that_says_nothing_gets_no_credit(tiny_model: ChatModel) -> None:
    name = "model.norm.weight"
    change = DenseDelta({name: -tiny_model.model.get_parameter(name).detach()})
    query = Query("The chancellor is", ("Berlin", "Merkel", "No"), "Berlin")
    ranker = Ranker(tiny_model, 2)
    with applied(tiny_model, change):
        assert ranker.rank([query])[0].rank == 3


def test_a_ranker_follows_changes_from_its_layer_on(tiny_model: ChatModel) -> None:
    names = view(tiny_model).names(3)
    torch.manual_seed(1)
    change = DenseDelta({names.down: torch.randn(32, 64) * 3})
    queries = [GRAPH.query(triple) for triple in GRAPH.triples[:3]]
    ranker = Ranker(tiny_model, 3)
    before = ranker.rank(queries)
    with applied(tiny_model, change):
        after = ranker.rank(queries)
        assert after == Ranker(tiny_model, 0).rank(queries)
    assert after != before
    assert ranker.rank(queries) == before


def test_the_lowest_layer_of_deltas_is_found_by_name(tiny_model: ChatModel) -> None:
    shown = view(tiny_model)
    high, low = (DenseDelta({shown.names(layer).down: torch.zeros(32, 64)}) for layer in (3, 1))
    assert lowest_layer(tiny_model, []) == 3
    assert lowest_layer(tiny_model, [high]) == 3
    assert lowest_layer(tiny_model, [high, low]) == 1
    unknown = DenseDelta({"model.embed_tokens.weight": torch.zeros(1)})
    assert lowest_layer(tiny_model, [high, unknown]) == 0
    wider = MlpExpansion(2, torch.zeros(1, 32), torch.zeros(1, 32), torch.zeros(32, 1))
    assert lowest_layer(tiny_model, [wider]) == 0
