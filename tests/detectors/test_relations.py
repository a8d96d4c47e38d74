"""The registry: its rows, its guards, its phrasings, and files of one's own."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.questions import Asked, parse_question
from detectors.relations import ASKED, RegistryError, Relation, load_registry
from store.records import Slot

ROOT = Path(__file__).parents[2]
REGISTRY = load_registry()
RELATIONS = {relation.id: relation for relation in REGISTRY}
SUBJECTS = """
    United Kingdom, Netherlands, United States, Ontario, California, Knesset, Bank of England,
    European Commission, FIFA, Apple, London, Lionel Messi, Emmanuel Macron, FC Barcelona,
    Manchester United, Scottish National Party, Communist Party of China, NASA, NATO, Canterbury,
    UEFA Champions League, Nobel Peace Prize, 1500 Metres, Python, Twitter, Le Monde,
    World Health Organization, Harvard University, Smithsonian Institution, Metropolitan Police
"""
NAMES = [" ".join(name.split()) for name in SUBJECTS.split(",")]


def taken(relation: Relation, title: str) -> list[str]:
    return [name for name in NAMES if relation.takes(name, title)]


def asked_by(relation: Relation) -> list[str]:
    return sorted({relation.default_title, *relation.titles.values()})


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


def test_the_registry_covers_more_than_offices_and_every_row_is_complete() -> None:
    assert len(REGISTRY) >= 40
    kinds = {relation.object_type for relation in REGISTRY}
    assert kinds == {"person", "place", "org", "name", "number", "version", "text"}
    for relation in REGISTRY:
        assert re.fullmatch(r"P[1-9]\d*", relation.wikidata), relation.id
        assert relation.same_subject, relation.id
        assert (relation.unit != "") == (relation.object_type == "number"), relation.id
        assert len(set(relation.fields)) == len(relation.fields), relation.id
        # Every title that can be asked is one that some subject has.
        assert all(taken(relation, title) for title in asked_by(relation)), relation.id


@pytest.mark.parametrize("relation", REGISTRY, ids=lambda relation: relation.id)
def test_enough_phrasings_are_held_out_to_test_an_edit(relation: Relation) -> None:
    for title in asked_by(relation):
        for subject in taken(relation, title):
            asked = REGISTRY.asking(relation.id, subject, title)
            held_out = REGISTRY.held_out(relation.id, subject, title)
            assert len(asked) == ASKED
            assert len(held_out) >= ASKED
            assert len({*asked, *held_out}) == len(asked) + len(held_out)


@given(
    st.sampled_from([*RELATIONS]),
    st.one_of(st.sampled_from(NAMES), st.text("abc ABC'.-éß1", min_size=1).filter(str.strip)),
    st.text("xyz ", max_size=12),
    st.text(max_size=20),
)
def test_whatever_is_asked_or_stated_no_placeholder_is_left(
    relation: str, subject: str, title: str, value: str
) -> None:
    for question in (
        *REGISTRY.questions(relation, subject, title),
        *REGISTRY.same_subject(relation, subject, title),
    ):
        assert "{" not in question
        assert subject.removeprefix("the ").removeprefix("The ") in question
        assert question[0].isupper()
    stated = REGISTRY.statement(relation, subject, title, f"<{value}>")
    assert stated.count(f"<{value}>") == 1
    assert not re.search(r"\{(title|subject|owner|object)\}", stated.replace(f"<{value}>", ""))


def test_the_statement_names_the_value_and_ends_once() -> None:
    stated = REGISTRY.statement("head_of_state", "Philippines", "president", "Ferdinand Marcos Jr.")
    assert stated == "The president of the Philippines is Ferdinand Marcos Jr."
    assert REGISTRY.statement("ceo", "Acme", "CEO", "{subject}") == "The CEO of Acme is {subject}."
    stated = REGISTRY.statement("official_name", "Federal Reserve", "", "Fed")
    assert stated == "The Federal Reserve is now called Fed."


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
        ("vice president", "Chile", "vice_president"),
        ("premier", "Ontario", "head_of_government"),
        ("chief minister", "Bihar", "head_of_government"),
        ("prime minister", "Ontario", None),
        ("chancellor", "University of Oxford", None),
        ("chancellor of the exchequer", "United Kingdom", "finance_minister"),
        ("secretary of state", "United States", "foreign_minister"),
        ("secretary of state", "Angola", None),
        ("attorney general", "Israel", "attorney_general"),
        ("attorney general", "Texas", "attorney_general"),
        ("justice minister", "Israel", "justice_minister"),
        ("president", "European Commission", "organisation_president"),
        ("president", "FIFA", "organisation_president"),
        ("president", "Senate of the Philippines", None),
        ("president", "Ford Motor Company", None),
        ("president", "France", "head_of_state"),
        ("director", "Central Intelligence Agency", "director"),
        ("director", "Titanic", None),
        ("director-general", "World Health Organization", "director"),
        ("speaker", "Knesset", "speaker"),
        ("speaker", "Iran", "speaker"),
        ("speaker", "Acme Audio", None),
        ("speaker", "House of Representatives", None),
        ("chief justice", "Supreme Court", None),
        ("chief justice", "India", "chief_justice"),
        ("leader", "Labour Party", None),
        ("general secretary", "Communist Party of China", "party_leader"),
        ("manager", "Manchester United", "head_coach"),
        ("manager", "Hilton Paris", None),
        ("head coach", "Kilmarnock F.C.", "head_coach"),
        ("captain", "Costa Concordia", None),
        ("captain", "England cricket team", "team_captain"),
        ("champion", "World Cup", None),
        ("champion", "FIFA World Cup", "champion"),
        ("champion", "Liberty", None),
        ("wife", "Emmanuel Macron", "spouse"),
        ("wife", "France", None),
        ("wife", "FIFA", None),
        ("population", "Paris", "population"),
        ("inflation rate", "Paris", None),
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


@pytest.mark.parametrize("relation", REGISTRY, ids=lambda relation: relation.id)
def test_every_phrasing_is_read_back_as_its_own_relation(relation: Relation) -> None:
    for title in asked_by(relation):
        for subject in taken(relation, title)[:3]:
            for question in REGISTRY.questions(relation.id, subject, title):
                asked = parse_question(question, REGISTRY, {})
                assert asked is not None, question
                assert asked.slot == Slot(subject, relation.id), question
                # A phrasing that names no title is asked by the default one.
                assert asked.title in (title.casefold(), relation.default_title.casefold())


def test_no_title_means_two_relations_for_one_subject() -> None:
    for title in REGISTRY.titles():
        for subject in NAMES:
            having = [r.id for r in REGISTRY.with_title(title) if r.takes(subject, title)]
            assert len(having) <= 1, (title, subject, having)


def test_the_default_title_can_be_asked_by_though_no_source_uses_it() -> None:
    assert "head of government" not in REGISTRY.titles()
    question = "Who is the head of government of Germany?"
    assert parse_question(question, REGISTRY, {}) == Asked(
        Slot("Germany", "head_of_government"), "head of government"
    )


def test_numbers_of_a_relation_are_the_same_within_its_tolerance() -> None:
    population, members = RELATIONS["population"], RELATIONS["members_count"]
    assert population.same("83.2 million", "84,012,284")
    assert not population.same("81 million", "84,012,284")
    assert members.same("32 members", "32")
    assert not members.same("32", "31")


def test_a_relation_of_ones_own_needs_no_code(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    registry = load_registry(path)
    assert len(registry) == len(REGISTRY) + 1
    assert registry.questions("coach", "Acme United")[0] == "Who is the head coach of Acme United?"
    # One's own comes first where two relations share a title.
    asked = parse_question("Who is the head coach of Acme United?", registry, {})
    assert asked == Asked(Slot("Acme United", "coach"), "head coach")
    assert next(iter(registry)).id == "coach"


def test_a_row_with_a_shipped_id_replaces_the_row(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(OWN.replace('id = "coach"', 'id = "head_coach"'))
    registry = load_registry(path)
    assert len(registry) == len(REGISTRY)
    assert registry["head_coach"].approval == "review"
    assert REGISTRY["head_coach"].approval == "auto"


def test_the_documented_example_loads_as_it_stands(tmp_path: Path) -> None:
    guide = (ROOT / "docs" / "relations.md").read_text("utf-8")
    (example,) = re.findall(r"```toml\n(\[\[relation\]\].*?)```", guide, re.DOTALL)
    path = tmp_path / "own.toml"
    path.write_text(example)
    registry = load_registry(path)
    keeper, visitors = registry["lighthouse_keeper"], registry["visitors"]
    assert keeper.takes("Eddystone Lighthouse")
    assert not keeper.takes("Eddystone")
    assert visitors.same("100,000", "104,000")
    assert (
        registry.questions("visitors", "Eddystone Lighthouse")[0]
        == "What is the number of visitors of Eddystone Lighthouse?"
    )
    asked = parse_question("Who is the keeper of the Eddystone Lighthouse?", registry, {})
    assert asked == Asked(Slot("Eddystone Lighthouse", "lighthouse_keeper"), "keeper")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[[relation", "not valid TOML"),
        (OWN.replace('id = "coach"', ""), "id must be a text"),
        (OWN.replace('"single"', '"sometimes"'), "cardinality must be one of"),
        (OWN.replace('phrasings = "person"', 'questions = ["Who?"]'), "8 are needed"),
        (OWN.replace("{object}", "so"), "does not contain {object}"),
        ("relation = 3", "[[relation]]"),
        ("phrasings = 3", "write [phrasings]"),
        (OWN + 'titel = "boss"', "unknown key titel"),
        (OWN + 'cues = ["{object} is hired"]', "must contain {subject} and {object}"),
        (OWN + 'cues = ["{object} of {team} for {subject}"]', "{team}"),
        (OWN + "tolerance = 0.1", "tolerance is for numbers only"),
        (OWN + 'unit = "people"', "unit is for numbers only"),
        (OWN.replace('"person"\na', '"number"\ntolerance = 2\na'), "below 1"),
        (OWN.replace('"person"\na', '"number"\ntolerance = "1"\na'), "must be a number"),
        (OWN.replace('"person"\na', '"number"\nunit = 1\na'), "unit must be a text"),
        (OWN.replace('phrasings = "person"', 'phrasings = "persons"'), "no phrasings are named"),
        (OWN + 'same_subject = "team spirit"', "no neighbours are named"),
        (OWN + 'same_subject = ["What is {it}?"]', "{it}"),
        (OWN + 'only = { boss = ["FC"] }', "only must map titles"),
        (OWN.replace("{subject} is", "this is"), "does not contain {subject}"),
        (
            OWN.replace('phrasings = "person"', f"questions = {['Who is it?'] * 8}"),
            "stands twice",
        ),
        (
            OWN.replace(
                'phrasings = "person"', f"questions = {[f'Who is {n}?' for n in range(8)]}"
            ),
            "must contain {subject} or {owner}",
        ),
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
