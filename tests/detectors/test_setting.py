"""What the words around a sentence say for it: the country, and whole names."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.entities import is_country
from detectors.extractors import patterns
from detectors.extractors.setting import Setting, countries, place_of
from detectors.relations import load_registry
from store.records import Document

NOW = datetime(2026, 3, 1, tzinfo=UTC)
REGISTRY = load_registry()


def _said(text: str) -> list[tuple[str, str, str, str]]:
    document = Document("d", "feed", "u", "", text, NOW, NOW, "h")
    claims = patterns.extract(document, REGISTRY, NOW)
    return [(c.subject, c.relation, c.object, c.role.value) for c in claims]


SETTINGS = [
    ("The Parliament of Lesotho meets.", "", "Lesotho"),
    ("She is sworn in.", "The Parliament of Lesotho meets.", "Lesotho"),
    ("She is sworn in.", "Peru rejoices. The Parliament of Lesotho meets. It rains.", "Lesotho"),
    ("Peru's parliament thanks Chile.", "", "Peru"),
    ("The Chilean government thanks Peru.", "", "Chile"),
    ("The Knesset meets.", "", "Israel"),
    ("In the Netherlands, a Belgian is sworn in.", "", "Netherlands"),
    ("Peru thanks Chile.", "", None),
    ("She is sworn in.", "Peru thanks Chile.", None),
    ("She is sworn in.", "", None),
]


@pytest.mark.parametrize(("sentence", "before", "country"), SETTINGS)
def test_the_country_is_the_only_one_named_or_the_one_whose_politics_are_told(
    sentence: str, before: str, country: str | None
) -> None:
    assert Setting(sentence, before).country == country


@pytest.mark.parametrize(
    "text", ["Jordan Spieth", "Northern Ireland", "the New Jersey side", "Jane Doe (US)", "peru"]
)
def test_a_name_with_a_country_in_it_is_no_country(text: str) -> None:
    assert list(countries(text)) == []


def test_a_region_is_known_from_where_the_sentence_begins() -> None:
    assert Setting("In Kentucky, voters choose.", "").region == "Kentucky"
    assert Setting("In Narnia, voters choose.", "").region is None
    assert place_of("In Narnia, voters choose.") is None


def test_a_surname_means_the_one_whole_name_that_bears_it() -> None:
    setting = Setting("Doe wins.", "Jane Doe runs.")
    assert setting.whole_name("Doe") == "Jane Doe"
    assert setting.whole_name("Roe") is None
    assert Setting("Doe wins.", "Jane Doe runs. John Doe runs.").whole_name("Doe") is None


FILLED = [
    (
        "Peru votes. Jane Doe is elected president of the Senate.",
        ("Senate (Peru)", "speaker", "Jane Doe", "current"),
    ),
    (
        "Peru's congress votes. Jane Doe is sworn in as president.",
        ("Peru", "head_of_state", "Jane Doe", "current"),
    ),
    (
        "Azerbaijani writer Jane Doe is named vice president.",
        ("Azerbaijan", "vice_president", "Jane Doe", "current"),
    ),
    (
        "In Kentucky, Governor Jane Doe is re-elected, defeating John Roe.",
        ("Kentucky", "governor", "Jane Doe", "current"),
    ),
    (
        "Vietnam's capital is calm. Jane Doe is elected speaker of the National Assembly.",
        ("National Assembly (Vietnam)", "speaker", "Jane Doe", "current"),
    ),
    (
        "The Movement for Justice party appoints Jane Doe as its new chairman.",
        ("Movement for Justice", "chair", "Jane Doe", "current"),
    ),
]


@pytest.mark.parametrize(("text", "expected"), FILLED)
def test_what_is_left_unsaid_is_filled_in(text: str, expected: tuple[str, ...]) -> None:
    assert _said(text) == [expected]


FOREIGN = [
    "Jane Doe is elected president amid interference by the Russian government.",
    "Jane Doe is sworn in as president after Russian troops leave the capital.",
    "Jane Doe, an ally of the Russian president, is sworn in as president.",
    "Jane Doe, born in Peru, is sworn in as prime minister.",
    "Jane Doe becomes president, defeating the Chilean-born John Roe.",
    "The Russian president congratulates Jane Doe, who is elected president.",
    "The Russian president congratulates Jane Doe. Jane Doe is sworn in as prime minister.",
    "Russia imposes sanctions. Jane Doe is sworn in as prime minister.",
    "With Russian government support, Jane Doe is elected president.",
    "Jane Doe is sworn in as president after talks with the Russian government.",
    "Jane Doe resigns as president during a visit to the parliament of Chile.",
    "President Jane Doe resigns and flees to Russia.",
    "Russian forces advance. The president appoints Jane Doe as prime minister.",
    "The embassy of Peru closes. Jane Doe is sworn in as prime minister.",
    "Backed by the Peruvian government, Jane Doe is sworn in as prime minister.",
]


@pytest.mark.parametrize("text", FOREIGN)
def test_a_foreign_party_to_the_event_lends_no_country(text: str) -> None:
    assert _said(text) == []


SCENES = [
    ("In Peru, Jane Doe is sworn in as president.", "Peru"),
    ("The Saeima meets. Jane Doe is sworn in as president.", "Latvia"),
    ("Jane Doe is sworn in by the Riigikogu as prime minister.", "Estonia"),
    ("Voters in Chile go to the polls. Jane Doe is elected president.", "Chile"),
    ("The Legislative Yuan votes. Jane Doe is sworn in as premier.", "Taiwan"),
    ("President John Roe of Peru appoints Jane Doe as prime minister.", "Peru"),
    ("Jane Doe wins the presidential election. She will be Peru's first female president.", "Peru"),
    ("Chilean president John Roe appoints Jane Doe as defence minister.", "Chile"),
]


@pytest.mark.parametrize(("text", "country"), SCENES)
def test_the_scene_of_the_office_lends_its_country(text: str, country: str) -> None:
    assert {subject for subject, _, _, _ in _said(text)} == {country}


def test_the_office_of_a_president_is_not_that_of_the_presidents_staff() -> None:
    assert _said("Jane Doe resigns as US President John Roe's spokeswoman.") == []


def test_what_was_left_in_the_sentence_before_is_taken_in_this_one() -> None:
    left = "Jane Doe resigns as leader of the Scottish National Party. "
    taken = ("Scottish National Party", "party_leader", "John Roe", "current")
    assert taken in _said(left + "A caucus elects John Roe as the party's new leader.")
    assert taken not in _said(left + "It rains. John Roe is elected as the new leader.")
    assert taken not in _said(left + "John Roe is elected as the new president.")


TAKEN_TOO = [
    (
        "Jane Doe is sworn in as President of Peru, with John Roe as her Vice President.",
        ("Peru", "vice_president", "John Roe", "current"),
    ),
    (
        "Acme co-founder Jane Doe steps down as CEO.",
        ("Acme", "ceo", "Jane Doe", "former"),
    ),
    (
        "Jane Doe is elected President of the Senate of Chile.",
        ("Senate of Chile", "speaker", "Jane Doe", "current"),
    ),
    (
        "The United States Senate votes 52–48 to confirm Jane Doe as Attorney General.",
        ("United States", "attorney_general", "Jane Doe", "current"),
    ),
    (
        "Jane Doe is appointed as Minister of Health, Family and Social Welfare of Peru.",
        ("Peru", "health_minister", "Jane Doe", "current"),
    ),
    (
        "Prime Minister of Peru Jane Doe and her cabinet resign.",
        ("Peru", "head_of_government", "Jane Doe", "former"),
    ),
    (
        "Jane Doe loses the vote and is removed as Prime Minister of Peru.",
        ("Peru", "head_of_government", "Jane Doe", "former"),
    ),
]


@pytest.mark.parametrize(("text", "expected"), TAKEN_TOO)
def test_the_words_around_say_of_what_and_who(text: str, expected: tuple[str, ...]) -> None:
    assert expected in _said(text)


def test_who_takes_leave_does_not_leave_the_office() -> None:
    assert (
        _said("Peruvian President Jane Doe takes a leave of absence and is succeeded by John Roe.")
        == []
    )


def test_people_who_are_only_described_get_no_country() -> None:
    assert _said("In Kabul of Afghanistan Doe meets former president John Roe.") == []


TEXT = "Peru Chilean Jane Doe . , the (US) parliament of Northern Ireland's"
WORDS = st.sampled_from([*TEXT.split()])


@given(st.lists(WORDS, max_size=30).map(" ".join), st.lists(WORDS, max_size=30).map(" ".join))
def test_any_words_give_a_country_or_none(sentence: str, before: str) -> None:
    country = Setting(sentence, before).country
    assert country is None or is_country(country)
    for start, end, name in countries(sentence):
        assert sentence[start:end].strip()
        assert is_country(name)
