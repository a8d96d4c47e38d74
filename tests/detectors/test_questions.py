"""From a person's question to the slot that it asks for, and to nothing where it asks for none."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.questions import Asked, parse_question
from detectors.relations import load_registry
from store.records import Slot

REGISTRY = load_registry()
CHANCELLOR = Asked(Slot("Germany", "head_of_government"), "chancellor")


@pytest.mark.parametrize(
    "question",
    [
        "Who's Germany's chancellor?",
        "who is the chancellor of germany",
        "Tell me who the current chancellor of Germany is",
        "Is Angela Merkel still the chancellor of Germany?",
        "Is Angela Merkel Germany's chancellor?",
        "Name the chancellor of Germany!",
        "Who is currently the chancellor of Germany right now?",
        "Who is the federal chancellor of the Federal Republic of Germany?",
    ],
)
def test_usual_ways_to_ask_are_read(question: str) -> None:
    assert parse_question(question, REGISTRY, {}) == CHANCELLOR


@pytest.mark.parametrize(
    ("question", "subject", "relation", "title"),
    [
        ("Who is the vice chancellor of Germany?", "Germany", "deputy_head_of_government", ""),
        ("Is Jane Doe the vice president of Chile?", "Chile", "vice_president", ""),
        ("Who is the first minister of Scotland?", "Scotland", "head_of_government", ""),
        ("Who's the premier of Ontario?", "Ontario", "head_of_government", ""),
        ("Who is the UK's chancellor of the exchequer?", "United Kingdom", "finance_minister", ""),
        ("What is the population of Germany?", "Germany", "population", "population"),
        ("How many people live in Paris today?", "Paris", "population", "population"),
        ("Which team does Lionel Messi play for?", "Lionel Messi", "member_of_team", "team"),
        ("Who is President Emmanuel Macron's wife?", "Emmanuel Macron", "spouse", "wife"),
        ("What is Swaziland Times called now?", "Swaziland Times", "official_name", "new name"),
        ("Who is the CEO of 3M?", "3M", "ceo", "ceo"),
        ("Who is the record holder of the 1500 metres?", "1500 metres", "record_holder", ""),
        ("What is the latest version of Python?", "Python", "latest_version", "latest version"),
        ("Where is NATO based?", "NATO", "headquarters", "headquarters"),
    ],
)  # fmt: skip
def test_other_relations_are_asked_in_their_own_ways(
    question: str, subject: str, relation: str, title: str
) -> None:
    asked = parse_question(question, REGISTRY, {})
    assert asked is not None
    assert asked.slot == Slot(subject, relation)
    assert not title or asked.title == title


@pytest.mark.parametrize(
    "question",
    [
        "Who was the chancellor of Germany in 2015?",
        "Who is the former chancellor of Germany?",
        "Who was the first chancellor of Germany?",
        "Who is the first chancellor of Germany?",
        "Who will be the next chancellor of Germany?",
        "Is Jane Doe the assistant head coach of Acme United?",
        "Is Jane Doe the vice captain of Acme United?",
        "Who is the wife of the chancellor of Germany?",
        "How tall is the chancellor of Germany?",
        "Who is the chancellor's wife of Germany?",
        "What was the population of Germany in 1990?",
        "What is the area of Germany?",
        "Who is the president of the Chamber of Deputies?",
        "Who is the leader of the Labour Party?",
        "Who is the director of Titanic?",
        "Who is the reigning champion of the 2022 FIFA World Cup?",
        "Who is the CEO?",
        "",
        "Who is the CEO of Apple" + " and Apple" * 40,
    ],
)
def test_other_questions_are_refused(question: str) -> None:
    assert parse_question(question, REGISTRY, {}) is None


def test_known_subjects_are_recognised_by_their_aliases() -> None:
    asked = parse_question("who is the ceo of big blue?", REGISTRY, {"big blue": "IBM"})
    assert asked == Asked(Slot("IBM", "ceo"), "ceo")
    assert parse_question("who is the ceo of big blue?", REGISTRY, {}) is None


WORDS = st.sampled_from(
    ["who", "what", "is", "the", "of", "for", "Germany's", "Germany", "president", "'s", "İ", "ß"]
)


@given(st.one_of(st.text(max_size=120), st.lists(WORDS, max_size=60).map(" ".join)))
def test_any_text_can_be_asked(question: str) -> None:
    asked = parse_question(question, REGISTRY, {})
    assert asked is None or REGISTRY[asked.slot.relation].takes(asked.slot.subject, asked.title)


@pytest.mark.parametrize(
    "question",
    [
        "Who is the chancellor of Germany?",
        "Write me a poem about the sea, the sky and the chancellor of the exchequer in May",
        "is " + "the president of " * 15,
        "Germany's " * 25,
    ],
)
def test_a_question_takes_less_than_two_milliseconds(question: str) -> None:
    def spent() -> float:
        before = time.perf_counter()
        parse_question(question, REGISTRY, {})
        return time.perf_counter() - before

    spent()
    assert min(spent() for _ in range(20)) < 0.002
