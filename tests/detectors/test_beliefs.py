"""Beliefs: what is asked of each slot, and how sure the answers are."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.beliefs import agreement, ask_beliefs, mean_logprob
from detectors.relations import load_registry
from detectors.verdict import decide, verdict_for
from store.records import Belief, Fact, Reply, Slot, from_json, to_json

NOW = datetime(2026, 3, 1, tzinfo=UTC)
TODAY = "2026-03-01"
REGISTRY = load_registry()
SLOT = Slot("Germany", "head_of_government")
HEAD = REGISTRY[SLOT.relation]
MERKEL = "The chancellor of Germany is Angela Merkel."
MERZ = "The chancellor of Germany is Friedrich Merz."
NOBODY = "The chancellor is the head of the government."
FACTS = [
    Fact("1", SLOT.subject, SLOT.relation, "Angela Merkel", (), NOW, None, "2005", "2021"),
    Fact("2", SLOT.subject, SLOT.relation, "Friedrich Merz", (), NOW, None, "2025"),
]


class _Model:
    model = "toy"

    def __init__(self, drawn: Sequence[str] = ()) -> None:
        self.asked: list[tuple[str, int]] = []
        self._drawn = tuple(drawn)

    def ask(self, questions: Sequence[str], samples: Sequence[int] = ()) -> list[Reply]:
        counts = samples or [0] * len(questions)
        self.asked += zip(questions, counts, strict=True)
        return [Reply(q, MERKEL, -0.5, 8, self._drawn[:n]) for q, n in self.asked]


class _Plain:
    """An asker that knows nothing of drawn answers."""

    model = "plain"

    def ask(self, questions: Sequence[str]) -> list[Reply]:
        return [Reply(question, MERKEL, -0.5) for question in questions]


def test_answers_are_drawn_to_the_canonical_phrasing_of_each_slot_alone() -> None:
    model = _Model([MERKEL, MERZ, MERKEL])
    slots = [(SLOT, "chancellor"), (Slot("Apple", "ceo"), "ceo")]
    germany, apple = ask_beliefs(model, slots, REGISTRY, NOW, phrasings=2, samples=3)
    assert [count for _, count in model.asked] == [3, 0, 3, 0]
    assert model.asked[0][0] == "Who is the chancellor of Germany?"
    assert germany.replies[0].samples == (MERKEL, MERZ, MERKEL)
    assert germany.agreement == 4 / 5
    assert apple.replies[1].samples == ()


def test_without_drawn_answers_everything_is_as_if_there_were_none() -> None:
    (plain,) = ask_beliefs(_Plain(), [(SLOT, "chancellor")], REGISTRY, NOW, samples=0)
    (drawn,) = ask_beliefs(_Model(), [(SLOT, "chancellor")], REGISTRY, NOW, samples=0)
    assert [reply.text for reply in plain.replies] == [reply.text for reply in drawn.replies]
    assert (plain.agreement, drawn.agreement) == (1.0, 1.0)
    assert plain.logprob is None  # who counts no tokens measures no probability


@given(
    greedy=st.lists(st.sampled_from([MERKEL, MERZ, NOBODY]), min_size=1, max_size=5),
    drawn=st.lists(st.sampled_from([MERKEL, MERZ, NOBODY]), max_size=5),
)
def test_drawn_answers_never_change_a_verdict(greedy: list[str], drawn: list[str]) -> None:
    replies = tuple(Reply("Who?", text, -0.5, 4) for text in greedy)
    with_drawn = (replace(replies[0], samples=tuple(drawn)), *replies[1:])
    plain, sampled = (
        decide(Belief(SLOT.subject, SLOT.relation, given, "m", NOW, 0.5, -0.5), FACTS, TODAY, HEAD)
        for given in (replies, with_drawn)
    )
    assert plain == sampled


@given(
    greedy=st.lists(st.sampled_from([MERKEL, MERZ, NOBODY]), min_size=1, max_size=4),
    drawn=st.lists(st.sampled_from([MERKEL, MERZ, NOBODY]), max_size=4),
)
def test_agreement_is_the_share_of_all_answers_that_name_the_commonest(
    greedy: list[str], drawn: list[str]
) -> None:
    first, *others = (Reply("Who?", text, -0.5) for text in greedy)
    replies = [replace(first, samples=tuple(drawn)), *others]
    every = [*greedy, *drawn]
    commonest = max(every.count(MERKEL), every.count(MERZ))
    assert agreement(replies, "person") == commonest / len(every)


def test_agreement_takes_numbers_as_the_relation_does() -> None:
    replies = [
        Reply("How many?", f"The population is {n}.", -0.5) for n in ("1,000,000", "1,040,000")
    ]
    assert agreement(replies, "number", tolerance=0.05) == 1.0
    assert agreement(replies, "number", tolerance=0.01) == 0.5


def test_the_probability_of_a_belief_is_that_of_a_token_of_its_answers() -> None:
    long, short = Reply("a", "x", -0.1, 9), Reply("b", "y", -1.1, 1)
    assert long.total == pytest.approx(-0.9)
    assert mean_logprob([long, short]) == pytest.approx(-0.2)
    assert mean_logprob([]) is None


def test_the_path_of_a_verdict_says_how_sure_the_model_is() -> None:
    (belief,) = ask_beliefs(
        _Model([MERKEL, MERZ, NOBODY]), [(SLOT, "chancellor")], REGISTRY, NOW, samples=3
    )
    verdict = verdict_for(belief, FACTS, TODAY, HEAD, NOW, "chancellor")
    assert "agreement 0.71, mean log-probability -0.5" in verdict.path
    silent = verdict_for(replace(belief, logprob=None), FACTS, TODAY, HEAD, NOW, "chancellor")
    assert not any("agreement" in line for line in silent.path)


def test_a_belief_survives_being_written_down_and_an_old_one_can_be_read() -> None:
    (belief,) = ask_beliefs(_Model([MERZ]), [(SLOT, "chancellor")], REGISTRY, NOW, samples=1)
    assert from_json(Belief, to_json(belief)) == belief
    old = to_json(belief)
    del old["logprob"]
    for reply in old["replies"]:
        del reply["samples"], reply["tokens"]
    assert from_json(Belief, old).logprob is None
