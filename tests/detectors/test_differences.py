"""What the difference between two versions of one page says."""

import dataclasses
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.extractors import differences
from detectors.relations import load_registry
from store.records import Claim, ClaimRole, Document

REGISTRY = load_registry()
THEN = datetime(2021, 12, 31, tzinfo=UTC)
NOW = datetime(2023, 12, 31, tzinfo=UTC)

OTHERS = (
    "Industry: machines",
    "Founded: 1901",
    "Traded as: ACME",
    "Products: anvils, rockets",
)


def _version(at: datetime, *lines: str, title: str = "Acme Inc.") -> Document:
    return Document(str(at), "feed", "u", title, "\n".join(lines), at, at, str(at))


def _claims(old: str, new: str, title: str = "Acme Inc.") -> list[Claim]:
    previous = _version(THEN, old, *OTHERS, title=title)
    document = _version(NOW, *OTHERS, new, title=title)
    claims = differences.extract(document, previous, REGISTRY, NOW)
    assert all(document.text[c.start : c.end] == c.quote for c in claims)
    assert all(c.document_id == document.id for c in claims)
    return claims


def test_a_replaced_holder_is_former_from_the_day_of_the_new_version() -> None:
    (claim,) = _claims("CEO: Jane Doe (since 2011)", "CEO: John Roe")
    assert (claim.subject, claim.relation, claim.object) == ("Acme", "ceo", "Jane Doe")
    assert (claim.role, claim.extractor) == (ClaimRole.FORMER, "differences")
    assert (claim.valid_from, claim.valid_until) == ("2011", "2023-12-31")
    assert (claim.dated_by, claim.quote) == ("published", "John Roe")


def test_the_date_in_the_new_text_ends_the_old_value() -> None:
    (claim,) = _claims("CEO: Jane Doe (since 2011)", "CEO: John Roe (since 3 May 2022)")
    assert (claim.valid_until, claim.dated_by) == ("2022-05-03", "text")
    assert claim.quote == "John Roe (since 3 May 2022)"


def test_places_versions_and_numbers_change_too() -> None:
    assert [c.object for c in _claims("Headquarters: Oslo", "Headquarters: Bergen")] == ["Oslo"]
    assert [c.object for c in _claims("Latest release: 3.1", "Latest release: 3.2")] == ["3.1"]
    (claim,) = _claims("employees: 5,000 (2020)", "employees: 6,000 (2022)")
    assert (claim.object, claim.valid_from, claim.valid_until) == ("5,000", "2020", "2022")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("CEO: Jane Doe", "CEO: Jane Doe"),
        ("CEO: Jane Doe", "CEO: Jane DOE"),
        ("CEO: Jane Mary Doe", "CEO: Jane M. Doe"),
        ("CEO: Jane Doe", "CEO: Jane Doe; note - also chair"),
        ("CEO: Jane Doe (since 2011)", "CEO: Jane Doe (since 3 May 2011)"),
        ("CEO: Jane Doe", "Founded in: 1901"),
        ("CEO: Jane Doe", "CEO: vacant"),
        ("CEO: Jane Doe", "CEO: Jane Doe and John Roe"),
        # With the same beginning, or an earlier one, it is a correction.
        ("CEO: Jane Doe (since 2011)", "CEO: John Roe (since 2011)"),
        ("employees: 5,000 (2020)", "employees: 6,000 (2020)"),
        ("employees: 5,000 (2020)", "employees: 5,040 (2022)"),
    ],
)
def test_what_is_no_change_of_the_value_makes_nothing_former(old: str, new: str) -> None:
    assert _claims(old, new) == []


def test_a_value_that_left_a_list_is_not_former() -> None:
    assert _claims("CEO: Jane Doe; John Roe", "CEO: John Roe") == []


def test_a_page_of_which_most_fields_changed_is_another_page() -> None:
    previous = _version(THEN, "CEO: Jane Doe", "Industry: machines", "Founded: in Oslo")
    document = _version(NOW, "CEO: John Roe", "Industry: banking", "Founded: in Oslo")
    assert differences.extract(document, previous, REGISTRY, NOW) == []
    kept = _version(NOW, "CEO: John Roe", "Industry: machines", "Founded: in Oslo")
    assert len(differences.extract(kept, previous, REGISTRY, NOW)) == 1


def test_only_a_later_version_of_the_same_page_is_compared() -> None:
    previous = _version(THEN, "CEO: Jane Doe", *OTHERS)
    document = _version(NOW, "CEO: John Roe", *OTHERS)
    assert len(differences.extract(document, previous, REGISTRY, NOW)) == 1
    for other in (
        dataclasses.replace(previous, url="v"),
        dataclasses.replace(previous, feed="another"),
        dataclasses.replace(previous, title="Ajax"),
    ):
        assert differences.extract(document, other, REGISTRY, NOW) == []
    assert differences.extract(previous, document, REGISTRY, NOW) == []


@settings(deadline=None)
@given(st.permutations((*OTHERS, "CEO: John Roe", "Headquarters: Bergen")))
def test_the_order_of_the_lines_says_nothing(lines: list[str]) -> None:
    previous = _version(THEN, *OTHERS, "CEO: Jane Doe", "Headquarters: Oslo")
    document = _version(NOW, *lines)
    claims = differences.extract(document, previous, REGISTRY, NOW)
    assert {c.object for c in claims} == {"Jane Doe", "Oslo"}
    assert claims == differences.extract(document, previous, REGISTRY, NOW)
    assert [c.start for c in claims] == sorted(c.start for c in claims)


@settings(deadline=None)
@given(st.text(max_size=80), st.text(max_size=80))
def test_texts_without_known_fields_say_nothing(old: str, new: str) -> None:
    assert _claims(f"colour: {old}".replace("\n", " "), f"colour: {new}".replace("\n", " ")) == []
