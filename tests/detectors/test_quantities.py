"""Numbers and versions as texts write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.judge import mentions, same
from detectors.quantities import numbers, quantity, same_number, version


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("84,012,284 (2025 est.)", 84_012_284),
        ("84 012 284", 84_012_284),
        ("84\u202f012\u202f284", 84_012_284),
        ("83.200.000", 83_200_000),
        ("1.4 billion people", 1.4e9),
        ("83,2 million", 83.2e6),
        ("about 164k", 164_000),
        ("US$1.2 trillion", 1.2e12),
        ("$3,860,923,000,000 (2019 est.)", 3_860_923_000_000),
        ("5.95 %", 5.95),
        ("12 per cent", 12),
        ("-0.12% (2023 est.)", -0.12),
        ("In 2020, the population was 83 million.", 83e6),
        ("On 1 July 2013 it had 146,836 inhabitants.", 146_836),
        ("As of 2023-07-01: 1,618", 1618),
        ("1950", 1950),
        ("1950 people", 1950),
        ("0.512", 0.512),
    ],
)
def test_a_number_is_read_in_any_usual_spelling(text: str, value: float) -> None:
    assert quantity(text) == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    [
        "in 2020",
        "the 32nd member of the G20",
        "between 80 and 85 million",
        "3-5 %",
        "since 1 July 2013",
        "the 2020 census",
        "version 24H2",
        "",
    ],
)
def test_years_ordinals_and_ranges_are_no_quantities(text: str) -> None:
    assert numbers(text) == []


@pytest.mark.parametrize(
    ("one", "other", "tolerance", "expected"),
    [
        ("83.2 million", "84,012,284", 0.01, True),
        ("83 million", "84,012,284", 0.01, False),
        ("83 million", "84,012,284", 0.02, True),
        ("32", "32 members", 0.0, True),
        ("32", "31", 0.0, False),
        ("-0.1 %", "0.1 %", 0.5, False),
        ("many", "many", 0.5, False),
    ],
)
def test_two_numbers_are_the_same_within_the_tolerance(
    one: str, other: str, tolerance: float, expected: bool
) -> None:
    assert same_number(one, other, tolerance) is expected
    assert same_number(other, one, tolerance) is expected


def test_the_tolerance_of_one_percent_stands_where_none_is_given() -> None:
    assert same("100", "101", "number")
    assert not same("100", "102", "number")
    assert same("100", "102", "number", tolerance=0.02)
    assert mentions("There are 102.", "100", "number", tolerance=0.02)
    assert not mentions("There are 102.", "100", "number")


@given(st.integers(3000, 10**13))
def test_thousands_may_be_separated_in_any_way(value: int) -> None:
    for mark in (",", "\u00a0", "\u202f", "'"):
        assert quantity(f"It has {value:,} people.".replace(",", mark)) == value


@given(st.floats(0.1, 999).map(lambda value: round(value, 1)))
def test_a_number_and_its_scaled_spelling_are_the_same(value: float) -> None:
    assert same(f"{value} million", f"{round(value * 1e6):,}", "number", tolerance=1e-6)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("3.14.1", "Python 3.14.1", True),
        ("v3.14.1", "3.14.1", True),
        ("3.14", "3.14.0", True),
        ("3.14", "3.14.1", False),
        ("3.14.0rc1", "3.14.0", False),
        ("3.14.0rc1", "3.14.0-rc.1", True),
        ("1.0 beta 2", "1.0-b2", False),
        ("24.04 LTS", "Ubuntu 24.04", True),
        ("Windows 11 version 24H2", "24H2", True),
        ("1.1.1w", "1.1.1", False),
        ("3.14.1 (2 December 2025)", "3.14.1", True),
        ("Office 2024", "2024", True),
        ("3.x", "3", False),
        ("newest", "latest", False),
    ],
)
def test_versions_are_the_same_only_in_every_part(one: str, other: str, expected: bool) -> None:
    assert same(one, other, "version") is expected
    assert same(other, one, "version") is expected


def test_a_version_is_found_in_a_text_as_itself_only() -> None:
    assert mentions("It is Python 3.14.1 now.", "3.14.1", "version")
    assert not mentions("It is Python 3.14.1 now.", "3.14", "version")
    assert not mentions("It is Python 3.14 now.", "3.14.1", "version")


@given(st.text(max_size=60))
def test_any_text_can_be_searched_for_figures(text: str) -> None:
    for number in numbers(text):
        assert any(char.isdigit() for char in text[number.start : number.end])
    found = version(text)
    assert found is None or any(char.isdigit() for char in text[found.start : found.end])
