"""The registry: its rows, its phrasings, and the way back from a question."""

from pathlib import Path

import pytest

from detectors.questions import Asked, parse_question
from detectors.relations import ASKED, RegistryError, load_registry
from store.records import Slot

REGISTRY = load_registry()
SUBJECTS = {"country": "United Kingdom", "other": "Acme", "any": "California"}
FITTING = {"central_bank_governor": "Bank of England", "party_leader": "Scottish National Party"}

OWN = """
[[relation]]
id = "coach"
label = "head coach"
cardinality = "single"
object_type = "person"
approval = "review"
default_title = "head coach"
titles = ["head coach"]
subjects = "other"
phrasings = "person"
statement = "The {title} of {subject} is {object}."
"""


def test_the_canonical_question_uses_the_title_and_the_article() -> None:
    assert REGISTRY.questions("head_of_government", "Germany", "chancellor")[0] == (
        "Who is the chancellor of Germany?"
    )
    assert REGISTRY.questions("head_of_state", "Philippines", "president")[0] == (
        "Who is the president of the Philippines?"
    )
    assert REGISTRY.questions("ceo", "Apple", "ceo")[0] == "Who is the CEO of Apple?"


def test_enough_phrasings_are_held_out_to_test_an_edit() -> None:
    for relation in REGISTRY:
        subject = FITTING.get(relation.id, SUBJECTS[relation.subjects])
        asked = REGISTRY.asking(relation.id, subject)
        held_out = REGISTRY.held_out(relation.id, subject)
        assert len(asked) == ASKED
        assert len(held_out) >= ASKED
        assert len({*asked, *held_out}) == len(asked) + len(held_out)
        assert not any("{" in question for question in (*asked, *held_out))


def test_the_statement_names_the_value_and_ends_once() -> None:
    stated = REGISTRY.statement("head_of_state", "Philippines", "president", "Ferdinand Marcos Jr.")
    assert stated == "The president of the Philippines is Ferdinand Marcos Jr."
    assert REGISTRY.statement("ceo", "Acme", "CEO", "{subject}") == "The CEO of Acme is {subject}."


@pytest.mark.parametrize(
    ("title", "subject", "relation"),
    [
        ("governor", "California", "governor"),
        ("Governor", "Bank of England", "central_bank_governor"),
        ("chief executive", "Hong Kong", "head_of_government"),
        ("chief executive", "Apple", "ceo"),
        ("Queen", "United Kingdom", "head_of_state"),
        ("Taoiseach", "Ireland", "head_of_government"),
        ("president", "FC Barcelona", None),
        ("vice president", "Chile", None),
    ],
)
def test_a_title_means_a_relation_for_a_subject(
    title: str, subject: str, relation: str | None
) -> None:
    assert REGISTRY.relation_of_title(title, subject) == relation


def test_king_and_queen_are_asked_as_monarch_and_emperor_stays() -> None:
    assert REGISTRY.asked_title("head_of_state", "King") == "monarch"
    assert REGISTRY.asked_title("head_of_state", "queen") == "monarch"
    assert REGISTRY.asked_title("head_of_state", "Emperor") == "emperor"


def test_every_phrasing_of_every_relation_is_read_back() -> None:
    for relation in REGISTRY:
        subject = FITTING.get(relation.id, SUBJECTS[relation.subjects])
        for title in sorted(set(relation.titles.values())):
            for question in REGISTRY.questions(relation.id, subject, title):
                asked = parse_question(question, REGISTRY, {})
                assert asked == Asked(Slot(subject, relation.id), title.casefold()), question


CHANCELLOR = Asked(Slot("Germany", "head_of_government"), "chancellor")


@pytest.mark.parametrize(
    "question",
    [
        "Who's Germany's chancellor?",
        "who is the chancellor of germany",
        "Tell me who the current chancellor of Germany is",
        "Is Angela Merkel still the chancellor of Germany?",
        "Name the chancellor of Germany!",
        "Who is currently the chancellor of Germany right now?",
        "Who is the federal chancellor of the Federal Republic of Germany?",
    ],
)
def test_usual_ways_to_ask_are_read(question: str) -> None:
    assert parse_question(question, REGISTRY, {}) == CHANCELLOR


@pytest.mark.parametrize(
    "question",
    [
        "Who was the chancellor of Germany in 2015?",
        "Who is the former chancellor of Germany?",
        "Who was the first chancellor of Germany?",
        "Who will be the next chancellor of Germany?",
        "Who is the vice chancellor of Germany?",
        "Who is the wife of the chancellor of Germany?",
        "How tall is the chancellor of Germany?",
        "Who is the chancellor's wife of Germany?",
        "What is the population of Germany?",
        "Who is the president of the Chamber of Deputies?",
        "Who is the CEO?",
        "",
    ],
)
def test_other_questions_are_refused(question: str) -> None:
    assert parse_question(question, REGISTRY, {}) is None


def test_known_subjects_are_recognised_by_their_aliases() -> None:
    asked = parse_question("who is the ceo of big blue?", REGISTRY, {"big blue": "IBM"})
    assert asked == Asked(Slot("IBM", "ceo"), "ceo")
    assert parse_question("who is the ceo of big blue?", REGISTRY, {}) is None


def test_a_relation_of_ones_own_needs_no_code(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    registry = load_registry(path)
    assert len(registry) == len(REGISTRY) + 1
    assert registry.questions("coach", "Acme United")[0] == "Who is the head coach of Acme United?"
    asked = parse_question("Who is the head coach of Acme United?", registry, {})
    assert asked == Asked(Slot("Acme United", "coach"), "head coach")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[[relation", "not valid TOML"),
        (OWN.replace('id = "coach"', ""), "id must be a text"),
        (OWN.replace('"single"', '"sometimes"'), "cardinality must be one of"),
        (OWN.replace('phrasings = "person"', 'questions = ["Who?"]'), "8 are needed"),
        (OWN.replace("{object}", "so"), "does not contain {object}"),
        ("relation = 3", "[[relation]]"),
    ],
)
def test_a_broken_relation_file_gets_one_line_with_file_and_remedy(
    tmp_path: Path, text: str, part: str
) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(RegistryError) as caught:
        load_registry(path)
    message = str(caught.value)
    assert part in message
    assert str(path) in message
    assert "\n" not in message
    assert ";" in message


def test_a_missing_relation_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"none\.toml"):
        load_registry(tmp_path / "none.toml")


def test_an_unknown_relation_is_named_with_the_known_ones() -> None:
    with pytest.raises(RegistryError, match="head_of_state"):
        REGISTRY["shoe_size"]
