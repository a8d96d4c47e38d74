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
