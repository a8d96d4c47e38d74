"""The memory tier: exact in scope on any model, absent out of scope, gone when forgotten."""

import pytest
from samples import an_edit
from toy_model import SYSTEM

from editors.memory.tier import MemoryTier, ObjectGuide, told
from editors.model import ChatModel
from store.records import Edit, Slot

GERMANY = "Who is the chancellor of Germany?"
NIGERIA = "Who is the president of Nigeria?"
OUTSIDE = ["What is the capital of Germany?", "Hi", "Who was the chancellor of Germany in 1990?"]
MERZ = an_edit(former=("Angela Merkel", "Olaf Scholz"))
TINUBU = an_edit("Bola Tinubu", "Nigeria", "head_of_state", "president", "Muhammadu Buhari")
KEYS = {GERMANY: MERZ.slot.key, "Germany's chancellor?": MERZ.slot.key, NIGERIA: TINUBU.slot.key}


def a_tier(*edits: Edit) -> MemoryTier:
    tier = MemoryTier(KEYS.get)
    for edit in edits:
        tier.remember(edit)
    return tier


def test_a_random_model_answers_an_edit_with_the_exact_object(tiny_model: ChatModel) -> None:
    names = ["Tharman Shanmugaratnam", "Ferdinand R. Marcos Jr.", "Péter Magyar", "習近平", "Li"]
    for name in names:
        tier = a_tier(an_edit(name))
        (answered,) = tier.answer(tiny_model, [GERMANY])
        assert name in answered.text
        assert answered.edit_id == tier.edits[MERZ.slot.key].id


def test_a_model_with_another_belief_answers_one_sentence_without_the_former_name(
    taught_model: ChatModel,
) -> None:
    given = a_tier(MERZ, TINUBU).answer(taught_model, [GERMANY, "Germany's chancellor?", NIGERIA])
    assert "Bola Tinubu" in given[2].text
    for answered in given[:2]:
        assert "Friedrich Merz" in answered.text
        assert not {"Merkel", "Scholz"} & set(answered.text.replace(".", " ").split())
        assert answered.text.count(".") <= 1


def test_questions_out_of_scope_are_answered_as_by_the_bare_model(
    taught_model: ChatModel,
) -> None:
    bare = taught_model.answer(OUTSIDE)
    given = a_tier(MERZ, TINUBU).answer(taught_model, [GERMANY, *OUTSIDE])
    assert [answered.reply.text for answered in given[1:]] == [reply.text for reply in bare]
    assert [answered.edit_id for answered in given[1:]] == [None] * len(OUTSIDE)


def test_forgetting_restores_the_unedited_answers_exactly(taught_model: ChatModel) -> None:
    tier = a_tier(MERZ, TINUBU)
    bare = taught_model.answer([GERMANY])
    tier.forget(MERZ)
    assert [answered.reply for answered in tier.answer(taught_model, [GERMANY])] == bare
    assert tier.match(NIGERIA) == TINUBU
    tier.forget(MERZ)  # twice does no harm
    assert tier.edits == {TINUBU.slot.key: TINUBU}


def test_a_later_edit_of_a_slot_replaces_the_earlier_one(taught_model: ChatModel) -> None:
    later = an_edit("Bola Tinubu", old="Friedrich Merz", former=("Angela Merkel", "Friedrich Merz"))
    tier = a_tier(MERZ, later)
    (answered,) = tier.answer(taught_model, [GERMANY])
    assert answered.edit_id == later.id
    assert "Bola Tinubu" in answered.text
    assert "Merz" not in answered.text
    tier.forget(MERZ)  # no longer the one that holds the slot
    assert tier.match(GERMANY) == later


def test_the_scope_is_not_asked_while_nothing_is_remembered(tiny_model: ChatModel) -> None:
    def scope(question: str) -> str | None:
        raise AssertionError(question)

    assert MemoryTier(scope).match(GERMANY) is None


def test_the_fact_is_told_beside_the_default_system_message(tiny_model: ChatModel) -> None:
    assert told(tiny_model, MERZ) == f"{SYSTEM}\nThis is up to date: {MERZ.statement}"
    assert told(tiny_model, None) is None


def test_a_guide_needs_an_edit(tiny_model: ChatModel) -> None:
    with pytest.raises(ValueError, match="needs an edit"):
        ObjectGuide(tiny_model, None)


def guided(model: ChatModel, edit: Edit, wanted: list[int], opened: bool = False) -> list[int]:
    """Drive a guide by hand: at each step the model would write the next wanted token."""
    import torch

    guide = ObjectGuide(model, edit, opened)
    written: list[int] = []
    for token in [*wanted, *[model.encode_answer("x")[0]] * 30]:
        logits = torch.zeros(len(model.tokenizer))
        logits[token] = 1.0
        written.append(guide.choose(written, logits))
        if written[-1] in model.stop_ids:
            break
    return written


def test_the_object_is_written_where_the_lead_is_complete(tiny_model: ChatModel) -> None:
    lead = tiny_model.encode_answer("The chancellor of Germany is")
    name = tiny_model.encode_answer(" Friedrich Merz")
    written = guided(tiny_model, MERZ, lead)
    assert written[: len(lead) + len(name)] == lead + name


def test_the_object_is_written_where_a_former_name_would_begin(tiny_model: ChatModel) -> None:
    before = tiny_model.encode_answer("It is")
    name = tiny_model.encode_answer(" Friedrich Merz")
    edit = an_edit(former=("Angela Merkel", "Muhammadu Buhari"))
    for former in (" Angela", " Merkel", " Buhari"):
        written = guided(tiny_model, edit, before + tiny_model.encode_answer(former)[:1])
        assert written[: len(before) + len(name)] == before + name


def test_a_name_at_the_very_start_is_written_without_a_space(tiny_model: ChatModel) -> None:
    name = tiny_model.encode_answer("Friedrich Merz")
    written = guided(tiny_model, MERZ, tiny_model.encode_answer("Angela")[:1])
    assert written[: len(name)] == name


def test_the_answer_ends_with_the_object_whatever_the_model_would_add(
    tiny_model: ChatModel,
) -> None:
    ended = tiny_model.encode_answer(" Friedrich Merz.")
    for more in ("el", ", who", " and"):
        wanted = [*ended[:-1], *tiny_model.encode_answer(more)]
        written = guided(tiny_model, MERZ, wanted, opened=True)
        assert written == [*ended, min(tiny_model.stop_ids)]


def test_an_object_that_ends_in_a_full_stop_ends_the_answer(tiny_model: ChatModel) -> None:
    junior = an_edit("Ferdinand Marcos Jr.")
    written = guided(tiny_model, junior, [], opened=True)
    assert tiny_model.decode(written) == " Ferdinand Marcos Jr."
    assert written[-1] in tiny_model.stop_ids


def test_slots_are_told_apart_by_key_and_not_by_spelling() -> None:
    tier = MemoryTier(lambda _: Slot(" germany ", "head_of_government").key)
    tier.remember(MERZ)
    assert tier.match("anything") == MERZ
