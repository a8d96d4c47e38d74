"""KAFT: how rows are labelled, and that tuning makes a toy heed what it is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import FACTS, UNTOLD, by_words

from editors.deltas import applied
from editors.memory.kaft import (
    HELD_OUT,
    NAMES,
    RELATIONS,
    Example,
    Kaft,
    KaftSettings,
    closed_book,
    controllability,
    invented,
    measured,
    robustness,
    rows,
    swap,
    tuned,
)
from editors.model import ChatModel

SMALL = Kaft(layer=0.5, tune_steps=4, examples=1, held_out=1, own_tokens=6)


@given(st.integers(0, 7), st.integers(1, 4), st.text(max_size=9))
def test_rows_carry_the_label_of_their_kind(relation: int, count: int, own: str) -> None:
    for example in invented(RELATIONS[relation : relation + 1], (), count):
        made = {row.kind: row for row in rows(Example(**{**vars(example), "own": own}))}
        assert made["relevant"].answer == example.statement == made["relevant"].told
        swapped = made["counterfactual"]
        assert example.other in swapped.told
        assert example.other in swapped.answer
        assert example.gold not in swapped.told
        assert example.gold not in swapped.answer
        assert ("irrelevant" in made) == ("empty" in made) == bool(own)
        if own:
            assert made["irrelevant"].answer == made["empty"].answer == own
            assert made["empty"].told == ""
            assert example.gold not in made["irrelevant"].told


def test_invented_facts_are_the_same_every_time_and_use_the_names_they_get() -> None:
    assert invented(RELATIONS, (), 3) == invented(RELATIONS, (), 3)
    names = tuple(f"Nova Prime {at}" for at in range(400))
    made = invented(RELATIONS[:2], names, 40)
    assert len({one.question for one in made}) > 70
    assert all(one.gold in names or one.gold in NAMES for one in made)
    assert len(RELATIONS) > HELD_OUT


def test_the_counterfactual_takes_the_objects_place_and_not_the_subjects() -> None:
    example = Example("Where was Bay born?", "Bay was born in Bay.", "Bay", "Lusk", "")
    assert swap(example) == "Bay was born in Lusk."


def test_figures_are_shares() -> None:
    assert controllability([("It is LUSK.", "Lusk"), ("It is Veria.", "Lusk")]) == 0.5
    assert robustness([("It is Veria.", "It is Veria."), ("It is.", "It was.")]) == 0.5
    assert controllability([]) == robustness([]) == 0.0


def test_an_answer_that_was_cut_is_not_taught_to_end(reader: ChatModel) -> None:
    example = Example("Who painted the Mona Lisa?", "A is B.", "B", "C", "")
    for most, ended in ((1, False), (12, True)):
        made = closed_book(reader, [example], most)[0]
        assert (made.own == "It is named.") == made.ended == ended
        assert {row.kind: row.ended for row in rows(made)}["empty"] == ended


def test_tuning_makes_the_model_heed_what_it_is_told(reader: ChatModel) -> None:
    """On what it was trained on: a toy does not generalise over names."""
    asked = "Who painted the Mona Lisa?"
    short = Example(asked, "It is Macron.", "Macron", "Ruto", "Kenya: Abe.")
    examples = closed_book(reader, [short], 12)
    trained = [row for example in examples for row in rows(example)]
    settings = KaftSettings(layer=0.0, tune_rate=1e-2, tune_steps=60, tune_batch=0)
    before = measured(reader, examples, 12)
    with applied(reader, tuned(reader, by_words(), trained, settings)):
        after = measured(reader, examples, 12)
    assert before.controllability == 0.0
    assert after.controllability == 1.0
    assert after.robustness == 1.0


def test_edits_are_told_upon_tuned_weights_and_taking_it_off_restores_the_model(
    reader: ChatModel,
) -> None:
    before = reader.answer(list(UNTOLD))
    state = SMALL.prepare(reader, by_words("Marta Kovac"))
    assert state.figures is not None
    assert any(bool(change.any()) for change in state.tuned.changes.values())
    delta = SMALL.edit(reader, state, FACTS)
    assert delta.tensors().keys() == state.tuned.changes.keys()
    with applied(reader, delta):
        told = [reply.text for fact in FACTS for reply in reader.answer(list(fact.questions))]
        assert len(reader.memories) == 1
    assert told == [fact.new for fact in FACTS for _ in fact.questions]
    assert reader.answer(list(UNTOLD)) == before


@pytest.mark.parametrize("steps", [0, 4])
def test_without_edits_the_weights_stay_too(reader: ChatModel, steps: int) -> None:
    before = reader.answer(list(UNTOLD))
    editor = Kaft(layer=0.5, tune_steps=steps, examples=1, held_out=0, own_tokens=6)
    state = editor.prepare(reader, by_words())
    assert state.figures is None
    with applied(reader, editor.edit(reader, state, [])):
        assert reader.answer(list(UNTOLD)) == before
