"""The scope: a fact's own question in any words, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from editors.memory.relation_match import RelationMatch
from editors.memory.scope import Fact, Match, Meaning, Scope


def fact(
    id: str, subject: str, question: str, new: str, statement: str = "", key: str = ""
) -> Fact:
    return Fact(id, (subject,), (question,), new, statement or f"{new}.", (), key)


MERZ = fact(
    "merz",
    "Germany",
    "Who is the chancellor of Germany?",
    "Friedrich Merz",
    "The chancellor of Germany is Friedrich Merz.",
)
BERLIN = fact("berlin", "Germany", "What is the capital of Germany?", "Bonn")
WIFE = fact("wife", "Friedrich Merz", "Who is the wife of Friedrich Merz?", "Charlotte Merz")
TOPICS = ("chancellor", "leads", "capital", "wife", "born")


class ByTopic(RelationMatch):
    """A head that takes equal vectors for the same."""

    def alike(self, asked: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        return (known @ asked).clamp(0, 1)


class Embedding:
    """A vector a topic; "leads" means what "chancellor" does, "runs" may mean it, and "visits"
    hardly. Counts the texts it is given."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        self.seen += texts
        found = []
        for text in texts:
            topic = next((t for t in TOPICS if t in text.lower()), "")
            vector = torch.zeros(len(TOPICS))
            for word, sure in (("runs", 0.1), ("visits", 0.01)):
                if word in text:
                    vector[TOPICS.index("chancellor")] = sure
            if topic:
                vector[TOPICS.index("chancellor" if topic == "leads" else topic)] = 1.0
            found.append(vector)
        return torch.stack(found)


def a_scope(
    *facts: Fact, parse: Callable[[str], str | None] | None = None
) -> tuple[Scope, Embedding]:
    embed = Embedding()
    head = ByTopic(len(TOPICS), 2)
    scope = Scope(Meaning(embed, lambda: head), parse)
    scope.add(facts)
    return scope, embed


def one(scope: Scope, prompt: str) -> Match | None:
    (found,) = scope.match([prompt])
    return found


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("Who is the chancellor of Germany?", MERZ),
        ("who is the chancellor of GERMANY", MERZ),
        ("Tell me who leads Germany.", MERZ),
        ("It is late. The chancellor of Germany is", MERZ),
        ("Which city is Germany's capital?", BERLIN),
        ("What is Germany known for?", None),
        ("Who leads France?", None),
        ("Who was the chancellor of Germany in 2015?", None),
        ("Who is not the chancellor of Germany?", None),
        ("Who leads New Germany?", None),
        ("Germany", None),
        ("", None),
    ],
)
def test_what_is_asked_of_a_subject_decides(prompt: str, wanted: Fact | None) -> None:
    scope, _ = a_scope(MERZ, BERLIN)
    found = one(scope, prompt)
    assert (found.fact if found else None) == wanted


def test_a_subject_is_named_whatever_is_asked_of_it() -> None:
    scope, embed = a_scope(MERZ, WIFE)
    asked = ["What is germany known for?", "Where is Friedrich Merz?", "Who leads France?", ""]
    assert scope.named(asked) == [True, True, False, False]
    assert embed.seen == []
    assert Scope().named(asked) == [False] * 4


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("Who leads Germany?", True),
        ("Who runs Germany?", True),  # out of scope, but may be meant
        ("Who visits Germany?", False),
        ("What is Germany known for?", False),
        ("Who runs France?", False),
        ("Who was running Germany in 2015, or who runs it?", False),
        ("Where is the wife of the chancellor of Germany?", True),  # by way of the object
    ],
)
def test_the_edited_weights_are_due_where_a_fact_may_be_asked_for(
    prompt: str, wanted: bool
) -> None:
    scope, _ = a_scope(MERZ)
    assert scope.heard([prompt]) == [wanted]


def test_what_is_read_as_another_slot_is_no_matter_of_the_edited_weights() -> None:
    scope, _ = a_scope(MERZ, parse=lambda prompt: "capital" if "capital" in prompt else None)
    assert scope.heard(["What is the capital of Germany, and who runs it?"]) == [False]


def test_without_embeddings_the_edited_weights_are_due_where_a_subject_is_named() -> None:
    scope = Scope()
    scope.add([MERZ])
    assert scope.heard(["What is Germany known for?", "Who leads France?"]) == [True, False]


def test_nothing_is_embedded_where_no_subject_is_named_or_the_wording_is_known() -> None:
    scope, embed = a_scope(MERZ)
    assert one(scope, "Who leads France, and who leads Spain?") is None
    assert one(scope, MERZ.wordings[0]) is not None
    assert embed.seen == []


def test_a_facts_wordings_are_embedded_once() -> None:
    scope, embed = a_scope(MERZ)
    for _ in range(3):
        one(scope, "Who leads Germany?")
    assert embed.seen.count("Who is the chancellor of this?") == 1


def test_without_embeddings_only_the_very_wordings_are_in_scope() -> None:
    scope = Scope()
    scope.add([MERZ])
    assert one(scope, "who is the chancellor of Germany") is not None
    assert one(scope, "The chancellor of Germany is") is not None  # its statement's beginning
    assert one(scope, "Who leads Germany?") is None


def test_what_a_question_is_known_to_ask_is_not_asked_of_another_slot() -> None:
    scope, _ = a_scope(MERZ, parse={"Who leads Germany?": "germany|capital"}.get)
    assert one(scope, "Who leads Germany?") is None


def test_a_newer_fact_of_a_slot_replaces_the_older() -> None:
    older = fact("a", "Germany", "Who leads Germany?", "Scholz", key="k")
    newer = fact("b", "Germany", "Who leads Germany?", "Merz", key="k")
    scope, _ = a_scope(older, newer)
    assert scope.facts() == [newer]
    assert scope.of_slot("k") == newer
    found = one(scope, "Who leads Germany?")
    assert found is not None
    assert found.fact == newer


def test_of_two_facts_that_one_wording_asks_for_the_newer_answers() -> None:
    first = fact("a", "Germany", "Who leads Germany?", "Scholz")
    second = fact("b", "Germany", "Who leads Germany?", "Merz")
    scope, _ = a_scope(first, second)
    found = one(scope, "Who leads Germany?")
    assert found is not None
    assert found.fact == second


def test_removing_a_fact_leaves_no_trace() -> None:
    scope, _ = a_scope(MERZ, BERLIN)
    alone, _ = a_scope(BERLIN)
    scope.remove("merz")
    scope.remove("merz")
    assert scope.facts() == alone.facts()
    assert one(scope, "Who leads Germany?") is None
    scope.remove("berlin")
    assert scope._names == {}


def test_a_question_about_an_object_goes_on_to_that_objects_facts() -> None:
    scope, _ = a_scope(MERZ, WIFE)
    found = one(scope, "Who is the wife of the chancellor of Germany?")
    assert found is not None
    assert found.fact == WIFE
    assert found.hops == (MERZ,)
    assert found.used == (MERZ, WIFE)
    assert found.asked == "Who is the wife of Friedrich Merz?"


def test_a_question_about_an_object_of_which_nothing_is_known_still_names_it() -> None:
    scope, _ = a_scope(MERZ)
    found = one(scope, "Where was the chancellor of Germany born?")
    assert found is not None
    assert found.fact is None
    assert found.asked == "Where was Friedrich Merz born?"
    assert found.used == (MERZ,)


def test_hops_end_though_facts_lead_in_a_circle() -> None:
    circle = Fact(
        "c", ("A",), ("What is the wife of A?",), "the wife of A", "The wife of A is the wife of A."
    )
    scope, _ = a_scope(circle)
    found = one(scope, "Where was the wife of A born?")
    assert found is not None
    assert len(found.hops) <= 4


def test_many_prompts_are_matched_as_each_alone() -> None:
    scope, _ = a_scope(MERZ, BERLIN, WIFE)
    prompts = ["Who leads Germany?", "Hi", "Germany's capital?", "Who is Friedrich Merz's wife?"]
    together = scope.match(prompts)
    assert together == [one(scope, prompt) for prompt in prompts]
    assert [m.fact.id if m and m.fact else None for m in together] == [
        "merz",
        None,
        "berlin",
        "wife",
    ]


def test_the_cost_of_a_look_does_not_grow_with_the_facts() -> None:
    """Subjects are looked up, not gone through: of 20,000 facts only two are ever compared."""
    scope, embed = a_scope(
        *(fact(str(n), f"Town {n}", f"Who leads Town {n}?", "X") for n in range(20_000)), MERZ
    )
    assert one(scope, "So who leads Germany?") is not None
    assert len(embed.seen) <= 3
