"""What an answer names where the value is no person: bodies, numbers, versions, plain words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.answers import named, read


@pytest.mark.parametrize(
    ("answer", "object_type", "value"),
    [
        ("The population of Germany is approximately 83 million people.", "number", "83 million"),
        ("In 2020, the population was 83 million.", "number", "83 million"),
        ("As of 2023, the population of Niue is 1,618.", "number", "1,618"),
        ("The inflation rate was 64.8% in December 2023.", "number", "64.8%"),
        ("NATO has 32 members.", "number", "32"),
        ("$4.26 trillion", "number", "$4.26 trillion"),
        # several numbers, a range, none
        ("Germany has 16 states and a population of 83 million people.", "number", ""),
        ("It has between 80 and 85 million people.", "number", ""),
        ("I have no data after 2021.", "number", ""),
        ("The latest version of Python is Python 3.11.4, of June 2023.", "version", "3.11.4"),
        ("As of 2023 it is Windows 11, version 22H2.", "version", "22H2"),
        ("The latest version is not known.", "version", ""),
        ("He is a footballer who plays as a forward for Inter Miami.", "org", "Inter Miami"),
        ("Inter Miami", "org", "Inter Miami"),
        ("Messi left for Florida", "org", ""),
        ("Real Madrid is the reigning champion of the league.", "name", "Real Madrid"),
        ("The reigning champion is Magnus Carlsen, of Norway.", "name", "Magnus Carlsen"),
        ("He is the champion.", "name", ""),
        ("Elon Musk owns Twitter.", "name", "Elon Musk"),
        ("Twitter is owned by Elon Musk.", "name", "Elon Musk"),
        ("The currency of Germany is the euro.", "text", "euro"),
        ("Twitter is now called X.", "text", "X"),
        ("The currency is a matter of debate.", "text", ""),
        ("Apple is based in Cupertino, California.", "place", "Cupertino"),
    ],
)
def test_the_head_of_an_answer_fits_the_kind_of_value(
    answer: str, object_type: str, value: str
) -> None:
    assert named(answer, object_type) == value


def test_a_number_is_read_as_a_known_value_within_the_tolerance() -> None:
    values = ["84,012,284", "81,000,000"]
    answer = "The population is 83 million."
    assert read(answer, values, "number") == ()
    assert read(answer, values, "number", tolerance=0.02) == ("84,012,284",)


def test_a_version_is_read_as_itself_and_no_other() -> None:
    values = ["3.11", "3.11.4", "3.12.0"]
    assert read("The latest version of Python is 3.11.4.", values, "version") == ("3.11.4",)
    assert read("It is Python 3.12", values, "version") == ("3.12.0",)


def test_two_clubs_of_one_town_are_told_apart() -> None:
    values = ["Manchester United", "Manchester City F.C."]
    assert read("He plays for Manchester City.", values, "org") == ("Manchester City F.C.",)
    assert read("He plays for Manchester.", values, "org") == tuple(values)


@given(st.text(max_size=80), st.sampled_from(["org", "name", "number", "version", "text", "place"]))
def test_any_answer_can_be_read_for_any_kind(answer: str, object_type: str) -> None:
    values = ["Real Madrid", "83 million", "3.14.1", "euro"]
    assert set(read(answer, values, object_type)) <= set(values)
    assert isinstance(named(answer, object_type), str)


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("S.U. 1º de Dezembro", "S.U. 1º de Dezembro"),
        ("Ana Silva plays for S.U. 1º de Dezembro.", "S.U. 1º de Dezembro"),
        ("The employer is Smith, Jones and Co. of Leeds.", "Smith, Jones and Co."),
    ],
)
def test_a_stop_inside_a_name_does_not_end_it(answer: str, value: str) -> None:
    assert read(answer, [value, "Another Club"], "org") == (value,)
    assert read(answer, ["Another Club"], "org") == ()


def test_a_longer_name_that_only_begins_alike_is_not_read_into_an_answer() -> None:
    assert read("Real Madrid.", ["Real Sociedad"], "org") == ()
    assert read("It is not S.U. 1º de Dezembro.", ["S.U. 1º de Dezembro"], "org") == ()
