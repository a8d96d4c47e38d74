"""Spellings: dates, people, subjects."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detectors.dates import begins, day_of, ends, find_days, parse_day
from detectors.entities import (
    canonical_subject,
    country_of,
    is_country,
    normalise,
    possessive,
    subject_aliases,
    with_article,
)
from detectors.names import display_name, person, strip_titles


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("6 May 2025", "2025-05-06"),
        ("6th of May 2025", "2025-05-06"),
        ("May 6, 2025", "2025-05-06"),
        ("21 Oct 2024", "2024-10-21"),
        ("Sept. 5, 2025", "2025-09-05"),
        ("May 2025", "2025-05"),
        ("2025-05-06", "2025-05-06"),
        ("2025", "2025"),
        ("31 February 2025", None),
        ("5/6/2025", None),
        ("Smarch 2025", None),
        ("25", None),
    ],
)
def test_a_date_is_read_as_exactly_as_it_is_written(text: str, day: str | None) -> None:
    assert parse_day(text) == day


@given(st.dates(min_value=date(1500, 1, 1), max_value=date(2099, 12, 31)))
def test_every_calendar_day_is_read_back_from_its_spellings(day: date) -> None:
    iso = day_of(day)
    assert parse_day(iso) == iso
    assert parse_day(f"{day.day} {day:%B} {day.year}") == iso
    assert parse_day(f"{day:%b} {day.day}, {day.year}") == iso
    assert begins(iso) == ends(iso) == day
    assert begins(iso[:7]) <= day <= ends(iso[:7])
    assert begins(iso[:4]) <= day <= ends(iso[:4])


def test_dates_are_found_in_running_text_with_their_spans() -> None:
    text = "He served from 22 November 2005 to Dec. 2021, and may visit in 2026."
    found = find_days(text)
    assert [span.day for span in found] == ["2005-11-22", "2021-12", "2026"]
    assert text[found[0].start : found[0].end] == "22 November 2005"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("Friedrich MERZ", "Friedrich Merz"),
        ("XI Jinping", "Xi Jinping"),
        ("King CHARLES III", "Charles III"),
        ("CARL XVI GUSTAF", "Carl XVI Gustaf"),
        ('Ferdinand "BongBong" MARCOS, Jr.', "Ferdinand Marcos Jr."),
        ("Alexander VAN DER BELLEN", "Alexander Van der Bellen"),
        ("Marcelo REBELO DE SOUSA", "Marcelo Rebelo de Sousa"),
        ("MUHAMMAD BIN SALMAN", "Muhammad bin Salman"),
        ("Mohammed al-MANFI", "Mohammed al-Manfi"),
        ("Peter Paire O'NEILL", "Peter Paire O'Neill"),
        ("Peter J.M. SQUIRES", "Peter J.M. Squires"),
        ("Denis SASSOU-Nguesso", "Denis Sassou-Nguesso"),
        ("Idriss DEBY Itno, Lt. Gen.", "Idriss Deby Itno"),
        ("President Col. Mamady DOUMBOUYA", "Mamady Doumbouya"),
        ("KP Sharma Oli", "KP Sharma Oli"),
    ],
)
def test_a_name_is_shown_as_running_text_spells_it(raw: str, shown: str) -> None:
    assert display_name(raw) == shown


def test_titles_before_a_name_are_dropped_but_never_the_whole_name() -> None:
    assert strip_titles("Her Majesty Queen Elizabeth II") == "Elizabeth II"
    assert strip_titles("President") == "President"
    assert strip_titles("Sheikh Hasina") == "Sheikh Hasina"


@pytest.mark.parametrize(
    ("run", "name"),
    [
        ("Austrian president Alexander Van der Bellen", "Alexander Van der Bellen"),
        ("Costa Rican Vice President Rebeca Grynspan", "Rebeca Grynspan"),
        ("Senate's President Ilie Bolojan", "Ilie Bolojan"),
        ("Labour Party", None),
        ("President", None),
        ("Area 51", None),
    ],
)
def test_only_what_reads_as_a_person_is_one(run: str, name: str | None) -> None:
    assert person(run) == name


def test_the_normal_form_forgets_case_accents_punctuation_and_article() -> None:
    assert normalise("The Côte d'Ivoire") == normalise("cote d’ivoire") == "cote divoire"
    assert normalise("U.S.") == normalise("US") == "us"
    assert normalise("Al-Sisi") == "al sisi"
    assert normalise("Łukasz Ørsted") == "lukasz orsted"


@given(st.text(max_size=40))
def test_the_normal_form_is_stable(text: str) -> None:
    once = normalise(text)
    # Each pass may drop one leading article, and nothing else.
    assert normalise(once) == once.removeprefix("the ") or once == "the"


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("Burma", "Myanmar"),
        ("the UK", "United Kingdom"),
        ("U.S.A.", "United States"),
        ("The Gambia", "Gambia"),
        ("Republic of China", "Taiwan"),
        ("People's Republic of China", "China"),
        ("Apple Inc.", "Apple"),
        ("the Bank of England", "Bank of England"),
        ("Atlantis", "Atlantis"),
    ],
)
def test_every_name_of_a_subject_is_filed_under_one(name: str, subject: str) -> None:
    assert canonical_subject(name) == subject


def test_only_listed_countries_are_countries() -> None:
    assert is_country("Swiss Confederation")
    assert not is_country("Chamber of Deputies")
    assert country_of("Dutch") == "Netherlands"
    assert country_of("Georgian") == "Georgia"
    assert country_of("Presidential") is None


@pytest.mark.parametrize(
    ("name", "sentence", "owner"),
    [
        ("Germany", "Germany", "Germany's"),
        ("Philippines", "the Philippines", "the Philippines'"),
        ("United Kingdom", "the United Kingdom", "the United Kingdom's"),
        ("UK", "the UK", "the UK's"),
        ("Britain", "Britain", "Britain's"),
        ("Federal Republic of Germany", "the Federal Republic of Germany", None),
        ("Bank of England", "the Bank of England", "the Bank of England's"),
        ("Democratic Party", "the Democratic Party", "the Democratic Party's"),
        ("California", "California", "California's"),
    ],
)
def test_a_subject_takes_the_article_it_needs(name: str, sentence: str, owner: str | None) -> None:
    assert with_article(name) == sentence
    assert owner is None or possessive(name) == owner


def test_usual_names_come_first_among_the_aliases() -> None:
    assert subject_aliases("United Kingdom")[:2] == ("UK", "Britain")
    assert "USA" in subject_aliases("America")
    assert subject_aliases("Atlantis") == ()
