"""What the words of a prompt say about its subject and its time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from editors.memory.wording import (
    beside,
    denies,
    find,
    mask,
    name_of,
    noun_phrases,
    of_another_time,
    within,
    words,
)

NOW = ["Who is the chancellor of this?", "The chancellor of this is"]


@pytest.mark.parametrize(
    ("text", "subject", "wanted"),
    [
        ("Who is Germany's chancellor?", "Germany", "Who is this's chancellor?"),
        ("who leads CÔTE D’IVOIRE?", "Côte d'Ivoire", "who leads this?"),
        ("The capital of the Netherlands is", "The Netherlands", "The capital of the this is"),
        ("It rained. Nobody came. Ann Lee, a native", "Ann Lee", "this, a native"),
        ("It rained. iPod, made by", "iPod", "this, made by"),
        ("Mr. Ann Lee is", "Ann Lee", "this is"),
        ("Dr. No premiered in", "Dr. No", "this premiered in"),
        ("Who is Lee?", "Ann Lee", None),
    ],
)
def test_the_sentence_that_names_a_subject_is_masked(
    text: str, subject: str, wanted: str | None
) -> None:
    assert mask(text, [name_of(subject)]) == wanted


def test_the_longest_of_several_names_is_found() -> None:
    names = [name_of("Germany"), name_of("East Germany")]
    span = find("Who led East Germany?", names)
    assert span is not None
    assert "Who led East Germany?"[slice(*span)] == "East Germany"


@given(text=st.text(max_size=60), subject=st.text(max_size=12))
def test_a_mask_never_fails_and_names_the_mask(text: str, subject: str) -> None:
    found = mask(text, [name_of(subject)]) if name_of(subject) else None
    assert found is None or "this" in found
    assert all(text[w.start : w.end] for w in words(text))


@pytest.mark.parametrize(
    ("text", "name", "wanted"),
    [
        ("When was Hotel Ukraine built?", "Ukraine", "hotel"),
        ("What is Ukraine known for?", "Ukraine", ""),
        ("Apple A5 was created by", "Apple", "a5"),
        ("Is President Emmanuel Macron tall?", "Emmanuel Macron", ""),
        ("In France, people speak", "France", ""),
        ("It snowed. Russia is", "Russia", ""),
        ("Who owns Twitter Inc?", "Twitter", ""),
    ],
)
def test_a_capitalised_neighbour_makes_a_longer_name(text: str, name: str, wanted: str) -> None:
    start = text.index(name)
    assert beside(text, start, start + len(name)) == wanted


@pytest.mark.parametrize(
    "asked",
    [
        "Who was the chancellor of this?",
        "Who was the chancellor of this in 2015?",
        "Who is the former chancellor of this?",
        "Who will be the next chancellor of this?",
        "Who was the first chancellor of this?",
        "Who is the vice chancellor of this?",
        "Who was chancellor of this before the war?",
    ],
)
def test_another_time_or_office_is_none_of_the_edits(asked: str) -> None:
    assert of_another_time(asked, NOW)


@pytest.mark.parametrize(
    ("asked", "wording"),
    [
        ("Who currently is the chancellor of this?", NOW[0]),
        ("Where was this born?", "The place of birth of this is"),
        ("What was the cause of death of this?", "What was this's cause of death?"),
        ("this first aired on", "this premiered on"),
        ("Who won the 2022 this?", "The winner of the 2022 this is"),
        ("In what work would you find this?", "What work is this in?"),
    ],
)
def test_the_past_of_what_is_past_is_no_other_time(asked: str, wording: str) -> None:
    assert not of_another_time(asked, [wording])


def test_a_time_that_one_of_the_wordings_names_is_the_edits_own() -> None:
    assert not of_another_time(
        "Who won the 2022 this?", ["Who won the 2022 this?", "It was won by"]
    )


def test_a_denial_is_out_unless_the_edit_denies_too() -> None:
    assert denies("Who isn't the chancellor of this?", NOW)
    assert not denies("Who is the chancellor of this?", NOW)
    assert not denies("What is not made in this?", ["What is not made by this?"])


def test_a_statement_names_its_object() -> None:
    statement = "The chancellor of Germany is Friedrich Merz."
    phrases = noun_phrases(statement, "Friedrich Merz", "Germany")
    assert phrases[0] == "the chancellor of Germany"
    for text in (
        "Who is the wife of the chancellor of Germany?",
        "Where was Germany’s chancellor born?",
        "How tall is the Chancellor of Germany?",
    ):
        span = within(text, phrases)
        assert span is not None
        assert "ermany" in text[slice(*span)]
    for text in (
        "Who is the chancellor of Germany?",
        "Who is Germany's chancellor now?",
        "What is the capital of Germany?",
        "Who was the wife of the former chancellor of Germany?",
        "Who is the deputy chancellor of Germany?",
        "Who is the person who's the chancellor of Germany?",
    ):
        assert within(text, phrases) is None
    assert noun_phrases("Rome.", "Rome", "Italy") == ()
