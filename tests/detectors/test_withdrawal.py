"""Claims that no longer count, and words that are our own."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import NOW, a_claim, a_document

from detectors.withdrawal import OwnWords, disowned, outdated, repeated, superseded
from store.records import Claim, ClaimRole, Document

STORY = "Anna Adler was named chancellor. She grew up in Ulm and studied law in two cities."
LONG = "Filler. " * 200


def version(text: str, hours: float = 0, **more: Any) -> Document:
    document = a_document(text, **more)
    return replace(document, fetched=NOW + timedelta(hours=hours))


def same(one: str, other: str) -> bool:
    return one == other


def why(new: str, *claims: tuple[str, dict[str, Any]]) -> str:
    """Why the first version's claim no longer counts beside a new text with its claims."""
    old, newest = version(STORY), version(new, 1)
    made = [a_claim(newest, object, **more) for object, more in claims]
    claim = a_claim(old, "Anna Adler", valid_from="2026-03-01", dated_by="published")
    return outdated(claim, old, newest, made, same)


def test_a_page_that_goes_on_saying_so_supports_it() -> None:
    assert why(f"{STORY} More follows.", ("Anna Adler", {})) == ""
    assert why(f"{STORY} She has left.", ("Anna Adler", {"role": ClaimRole.FORMER})) == ""


def test_a_page_that_says_something_else_does_not() -> None:
    assert why("Bela Brandt was named chancellor.", ("Bela Brandt", {})) == (
        "the page now names Bela Brandt"
    )
    assert why(STORY.replace("was", "was not")) == "the page no longer says so"
    assert why("Anna Adler stays in Ulm.") == "the page no longer says so"
    assert why("Correction: Anna Adler was not named.") == "the page was corrected"
    assert why(f"RETRACTION: false. {STORY}", ("Anna Adler", {})) == "the page was corrected"


def test_a_successor_dated_by_the_text_is_news_and_no_correction() -> None:
    later = {"valid_from": "2026-03-20", "dated_by": "text"}
    assert why("Bela Brandt since 20 March.", ("Bela Brandt", later)) == ""
    earlier = later | {"valid_from": "2026-03-01"}
    assert why("Bela Brandt since 1 March.", ("Bela Brandt", earlier))
    assert why("Bela Brandt took over.", ("Bela Brandt", later | {"dated_by": "published"}))


def test_a_page_that_moved_on_says_nothing_of_the_old_story() -> None:
    assert why("Rain is expected in Lisbon and Porto until the end of the week.") == ""


@pytest.mark.parametrize(
    ("text", "taken_back"),
    [
        (STORY, False),
        (f"{STORY}\nCorrection: the law school has three faculties.", False),
        (f"{STORY}\nCorrection (2 March): Adler was not named.", True),
        (f"{STORY}\nEditor's note: we misread the letter about Anna Adler.", True),
        (f"This article has been retracted.\n{STORY}", True),
        ("Correction: Anna Adler, not Bela Brandt, was named chancellor.", False),
        (f"Corrections Minister Carla Castro spoke.\n{STORY}", False),
        (f"{STORY}\n{LONG}\nA journal's article was retracted.\n{LONG}", False),
    ],
)  # fmt: skip
def test_a_document_may_take_its_own_claim_back(text: str, taken_back: bool) -> None:
    document = a_document(text)
    assert bool(disowned(a_claim(document, "Anna Adler"), document)) is taken_back


def test_the_newest_document_of_an_address_supersedes_the_others() -> None:
    first, second, third = (version(text, n) for n, text in enumerate("abc"))
    assert superseded([first, second, third]) == {first.id: third, second.id: third}
    assert superseded([first]) == {}


def test_items_without_addresses_of_their_own_are_told_apart_by_their_guids() -> None:
    first = [version(text, guid=text) for text in "abc"]
    again = version("a, corrected", 1, guid="a")
    nameless = [version("d"), version("e", 1)]
    assert superseded([*first, *nameless, again]) == {first[0].id: again}


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["", "a", "b"])), max_size=8))
def test_the_newest_version_is_never_superseded(made: list[tuple[int, str]]) -> None:
    versions = [
        version(f"text {n}", hours, guid=guid) for n, (hours, guid) in enumerate(sorted(made))
    ]
    found = superseded(versions)
    assert all(found[id].id not in found for id in found)
    if versions:
        assert versions[-1].id not in found


STATEMENTS = ("The chancellor of Germany is Friedrich Merz.", "The CEO of Apple is Anna Adler.")


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        (" ".join(STATEMENTS), True),
        ("We asked. The chancellor of Germany is Friedrich Merz.", True),
        ("corrigenda · drift report\nWhat changed", True),
        ("corrigenda.report/1", True),
        ("To take it back: corrigenda edits revert 3f2a9c11", True),
        ("Friedrich Merz is sworn in as chancellor of Germany, succeeding Olaf Scholz.", False),
        (f"{'The session began at nine. ' * 3}{STATEMENTS[0]} He spoke for an hour.", False),
        ("An annual drift report on glaciers was published.", False),
        ("", False),
    ],
)
def test_a_document_that_is_mostly_our_statements_is_our_own(text: str, ours: bool) -> None:
    assert bool(OwnWords(STATEMENTS).recognises(a_document(text))) is ours


def test_a_claim_is_an_echo_where_its_line_is_our_statement() -> None:
    said = a_document(f"It rained.\nAs is known, {STATEMENTS[0]}")
    claim: Claim = a_claim(said, "Friedrich Merz")
    assert repeated(claim, said, STATEMENTS)
    assert not repeated(claim, said, STATEMENTS[1:])
    other = a_document("Friedrich Merz became chancellor of Germany.")
    assert not repeated(a_claim(other, "Friedrich Merz"), other, STATEMENTS)
