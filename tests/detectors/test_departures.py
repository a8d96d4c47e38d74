"""Who leaves an office, who follows, and what only sounds like leaving."""

from datetime import UTC, datetime

import pytest

from detectors.extractors import patterns
from detectors.relations import load_registry
from store.records import Claim, ClaimRole, Document

NOW = datetime(2026, 3, 1, tzinfo=UTC)
PUBLISHED = datetime(2025, 12, 9, 15, tzinfo=UTC)
REGISTRY = load_registry()


def _claims(text: str) -> list[Claim]:
    document = Document("d", "feed", "u", "", text, NOW, PUBLISHED, "h")
    claims = patterns.extract(document, REGISTRY, NOW)
    assert all(text[claim.start : claim.end] == claim.quote for claim in claims)
    return claims


def _said(text: str) -> list[tuple[str, str, str, str]]:
    return [(c.subject, c.relation, c.object, c.role.value) for c in _claims(text)]


CHILE = ("Chile", "head_of_state", "Jane Doe", "former")

LEAVING = [
    "Jane Doe resigns as president of Chile.",
    "Jane Doe steps down as the president of Chile amid protests.",
    "Jane Doe stands down from her position as President of Chile.",
    "Jane Doe is removed as president of Chile.",
    "Jane Doe was ousted as president of Chile on Monday.",
    "Jane Doe, the president of Chile, dies at the age of 80.",
    "Jane Doe (president of Chile) resigns.",
    "The president of Chile, Jane Doe, resigns.",
    "The president of Chile, Jane Doe resigns after a ruling.",
    "President of Chile Jane Doe is assassinated.",
    "President Jane Doe of Chile resigns.",
    "Chile's first female president Jane Doe resigns from office.",
    "Chilean president Jane Doe, who took office in March, steps down.",
    "The Chilean army ousts president Jane Doe.",
    "Chilean president Jane Doe leaves office.",
    "The army ousts Chilean president Jane Doe.",
    "After weeks of protests, Chilean President Jane Doe abdicates.",
    "After losing a no-confidence vote, Chilean president Jane Doe resigns.",
    "Chilean president Jane Doe, who had been ill since May, dies.",
    "Jane Doe announces her resignation as president of Chile.",
    "Chilean president Jane Doe announces that she is resigning.",
    "Chilean president Jane Doe resigns to face the charges.",
    "Chilean president Jane Doe and her cabinet have resigned.",
    "Chilean president Jane Doe temporarily steps down.",
    "Chile's government is shaken. President Jane Doe resigns.",
]


@pytest.mark.parametrize("text", LEAVING)
def test_a_plain_departure_makes_a_former_holder(text: str) -> None:
    assert _said(text) == [CHILE]


STAYING = [
    "Jane Doe announces that she will resign as president of Chile.",
    "Jane Doe offers to resign as president of Chile.",
    "Jane Doe refuses to resign as president of Chile.",
    "Jane Doe may resign as president of Chile.",
    "Jane Doe does not resign as president of Chile.",
    "Jane Doe resigns as president of Chile, effective 7 February 2026.",
    "Jane Doe resigns as president of Chile effective 7 February.",
    "Protesters demand that Chilean president Jane Doe resigns.",
    "Lawmakers call for the resignation of Chilean president Jane Doe.",
    '"Jane Doe resigns as president of Chile," says the novel.',
    "The House impeaches Chilean president Jane Doe.",
    "Chilean president Jane Doe resigns from the Socialist Party.",
    "Chilean president Jane Doe dismisses the rumours.",
    "Chilean president Jane Doe leaves for Peru.",
    "Chilean president Jane Doe removes a statue.",
    "Jane Doe, an adviser to Chilean president John Roe, resigns.",
    "The son of Chilean president John Roe dies.",
    "The government of Chilean president John Roe is ousted.",
    "Jane Doe resigned as president of Chile in 2010.",
    "President Jane Doe resigns.",
]


@pytest.mark.parametrize("text", STAYING)
def test_what_is_no_departure_leaves_the_holder_in_office(text: str) -> None:
    assert _said(text) == []


def test_a_departure_is_dated_by_the_text_before_the_publication() -> None:
    (claim,) = _claims("Apple CEO Tim Cook steps down on 1 December 2025.")
    assert (claim.valid_from, claim.valid_until, claim.dated_by) == (None, "2025-12-01", "text")
    (claim,) = _claims("Apple CEO Tim Cook steps down.")
    assert (claim.valid_until, claim.dated_by) == ("2025-12-09", "published")


def test_an_acting_holder_who_leaves_was_acting() -> None:
    (claim,) = _claims("Jane Doe resigns as the acting president of Chile.")
    assert claim.acting
    assert claim.role is ClaimRole.FORMER


def test_leaving_two_offices_at_once_ends_both() -> None:
    assert _said("John Stumpf resigns as CEO and chairman of Wells Fargo.") == [
        ("Wells Fargo", "ceo", "John Stumpf", "former"),
        ("Wells Fargo", "chair", "John Stumpf", "former"),
    ]


SUCCESSION = [
    "Peruvian foreign minister Jane Doe resigns and is replaced by John Roe.",
    "Peruvian foreign minister Jane Doe resigns. She is succeeded by Mayor John Roe.",
    "Peruvian foreign minister Jane Doe resigns. Lawyer John Roe takes her place.",
    "Jane Doe is replaced as foreign minister of Peru by John Roe.",
    "Peru's president fires foreign minister Jane Doe and replaces her with John Roe.",
]


@pytest.mark.parametrize("text", SUCCESSION)
def test_who_follows_is_found_in_the_same_breath_or_the_next_sentence(text: str) -> None:
    assert _said(text) == [
        ("Peru", "foreign_minister", "Jane Doe", "former"),
        ("Peru", "foreign_minister", "John Roe", "current"),
    ]


def test_who_follows_for_the_time_being_is_acting() -> None:
    _, new = _claims("Chilean president Jane Doe dies. She is succeeded ad interim by John Roe.")
    assert (new.object, new.acting) == ("John Roe", True)


def test_who_will_follow_does_not_hold_the_office_yet() -> None:
    _, new = _claims("Chilean president Jane Doe resigns. John Roe will succeed her.")
    assert (new.object, new.role, new.valid_from) == ("John Roe", ClaimRole.FUTURE, None)


ANNOUNCED = [
    "Chilean president Jane Doe announces that she will resign and will be succeeded by John Roe.",
    "Jane Doe announces she will step down as president of Chile. She will be replaced by "
    "finance minister John Roe.",
]


@pytest.mark.parametrize("text", ANNOUNCED)
def test_of_a_departure_to_come_only_the_successor_is_told(text: str) -> None:
    assert _said(text) == [("Chile", "head_of_state", "John Roe", "future")]


def test_a_departure_to_come_is_not_yet_followed() -> None:
    text = "Chilean president Jane Doe announces that she will resign. John Roe succeeds her."
    assert _said(text) == []


def test_a_sentence_about_someone_else_ends_the_thread() -> None:
    text = "Chilean president Jane Doe resigns. It rains. He is succeeded by John Roe."
    assert [claim.object for claim in _claims(text)] == ["Jane Doe"]


def test_the_end_of_a_predecessor_is_background_without_a_date() -> None:
    text = "Following the resignation of Swiss Defence Minister Viola Amherd, parliament votes."
    (claim,) = _claims(text)
    assert (claim.object, claim.role, claim.valid_until) == (
        "Viola Amherd",
        ClaimRole.FORMER,
        None,
    )
