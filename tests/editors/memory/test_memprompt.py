"""MemPrompt: the clarification of the closest key, none where no key is close."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import FACTS, MERZ, TAKAICHI, TINUBU, UNTOLD, by_words

from editors.deltas import applied
from editors.memory.memprompt import (
    Keys,
    MemPrompt,
    edit_distance,
    least_distances,
    normalised,
)
from editors.memory.texts import clarified
from editors.model import ChatModel
from editors.runtime import Turns

short = st.text("abc ", max_size=8)


def _slow_distance(one: str, other: str) -> int:
    if not one or not other:
        return len(one) + len(other)
    return min(
        _slow_distance(one[1:], other[1:]) + (one[0] != other[0]),
        _slow_distance(one[1:], other) + 1,
        _slow_distance(one, other[1:]) + 1,
    )


@given(st.text(max_size=40), st.booleans())
def test_normalising_twice_is_normalising_once(text: str, stop_words: bool) -> None:
    once = normalised(text, stop_words)
    assert normalised(once, stop_words) == once


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("Who is the Chancellor of Germany?", "who is the chancellor of germany"),
        ("Who leads it [the country] (now)?  ", "who leads it"),
        ("", ""),
    ],
)
def test_keys_are_small_letters_without_brackets_and_punctuation(text: str, key: str) -> None:
    assert normalised(text) == key


def test_frequent_words_can_be_left_out_but_not_all_there_is() -> None:
    assert normalised("Who is the king of Spain?", stop_words=True) == "who king spain"
    assert normalised("Is the?", stop_words=True) == "is the"


@given(st.text("ab", max_size=5), st.text("ab", max_size=5), st.integers(1, 6))
def test_the_distance_is_levenshteins_up_to_the_limit(one: str, other: str, limit: int) -> None:
    true = _slow_distance(one, other)
    assert edit_distance(one, other, limit) == min(true, limit)
    assert float(least_distances([one], [other])) <= true


@given(st.lists(st.lists(short, min_size=1, max_size=3), max_size=5), st.lists(short, max_size=4))
def test_nothing_beside_is_ever_found_and_newer_feedback_replaces_older(
    questions: list[list[str]], beside: list[str]
) -> None:
    keys = Keys.of(questions, beside, limit=6)
    own = {normalised(text): at for at, texts in enumerate(questions) for text in texts}
    for text, at in own.items():
        assert keys.find(text) == at
    for text in beside:
        if normalised(text) not in own:
            assert keys.find(text) is None


def test_a_close_key_is_found_and_one_at_the_limit_is_not() -> None:
    keys = Keys.of([["Who leads Acme?"], ["Who founded Cobalt?"]], [], limit=3)
    assert keys.find("who leads the Acme") is None
    assert keys.find("Who lead Acme") == 0
    assert keys.find("Who finds Cobalt") is None
    assert Keys.of([["Who leads Acme?"]], [], limit=6).find("who leads the Acme") == 0
    assert Keys.of([], [], limit=6).find("Who leads Acme?") is None


def test_the_clarification_stands_behind_the_question_or_before_a_plain_text(
    tiny_model: ChatModel,
) -> None:
    turns, question = Turns(tiny_model), MERZ.questions[0]
    chat = clarified(
        tiny_model, turns, tiny_model.encode(tiny_model.render(question)), MERZ.statement
    )
    told = tiny_model.render(f"{question} (Clarification: {MERZ.statement})")
    assert tiny_model.decode(chat) == tiny_model.decode(tiny_model.encode(told))
    plain = clarified(tiny_model, turns, tiny_model.encode(TAKAICHI.prompts[0]), TAKAICHI.statement)
    assert tiny_model.decode(plain) == f"{TAKAICHI.statement} {TAKAICHI.prompts[0]}"


def test_told_facts_come_out_and_the_rest_is_the_models_to_the_bit(reader: ChatModel) -> None:
    before = reader.answer(list(UNTOLD))
    editor = MemPrompt()
    delta = editor.edit(reader, editor.prepare(reader, by_words()), FACTS)
    with applied(reader, delta):
        during = reader.answer(list(UNTOLD))
    assert [one.text for one in during[:3]] == [MERZ.new, MERZ.new, TINUBU.new]
    assert during[3:] == before[3:]
    assert reader.answer(list(UNTOLD)) == before


def test_of_one_question_the_newest_clarification_counts(reader: ChatModel) -> None:
    older = replace(MERZ, id="a", new="Olaf Scholz", statement="It is Olaf Scholz.")
    editor = MemPrompt()
    state = editor.prepare(reader, by_words())
    with applied(reader, editor.edit(reader, state, [older, TINUBU, MERZ])):
        assert reader.answer(MERZ.questions[:1])[0].text == MERZ.new


def test_without_feedback_no_question_changes(reader: ChatModel) -> None:
    before = reader.answer(list(UNTOLD))
    editor = MemPrompt()
    with applied(reader, editor.edit(reader, editor.prepare(reader, by_words()), [])):
        assert reader.answer(list(UNTOLD)) == before
