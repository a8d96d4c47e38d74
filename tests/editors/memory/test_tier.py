"""The memory tier: exact in scope on any model, absent out of scope, gone when forgotten."""

import torch
from samples import an_edit
from toy_model import SYSTEM

from agent.served import fact_of
from editors.deltas import applied
from editors.memory.attached import MemoryDelta
from editors.memory.guide import ObjectGuide
from editors.memory.scope import Fact, Scope
from editors.memory.tier import MemoryTier
from editors.model import ChatModel
from store.records import Edit

GERMANY = "Who is the chancellor of Germany?"
NIGERIA = "Who is the president of Nigeria?"
OUTSIDE = ["What is the capital of Germany?", "Hi", "Who was the chancellor of Germany in 1990?"]
MERZ = an_edit(former=("Angela Merkel", "Olaf Scholz"))
TINUBU = an_edit("Bola Tinubu", "Nigeria", "head_of_state", "president", "Muhammadu Buhari")
KEYS = {GERMANY: MERZ.slot.key, "Germany's chancellor?": MERZ.slot.key, NIGERIA: TINUBU.slot.key}


def a_tier(*edits: Edit) -> MemoryTier:
    scope = Scope(parse=KEYS.get)
    scope.add(map(fact_of, edits))
    return MemoryTier(scope)


def test_a_random_model_answers_an_edit_with_the_exact_object(tiny_model: ChatModel) -> None:
    names = ["Tharman Shanmugaratnam", "Ferdinand R. Marcos Jr.", "Péter Magyar", "習近平", "Li"]
    for name in names:
        edit = an_edit(name)
        (answered,) = a_tier(edit).ask(tiny_model, [GERMANY])
        assert name in answered.text
        assert answered.edit_ids == (edit.id,)


def test_a_model_with_another_belief_answers_one_sentence_without_the_former_name(
    taught_model: ChatModel,
) -> None:
    given = a_tier(MERZ, TINUBU).ask(taught_model, [GERMANY, "Germany's chancellor?", NIGERIA])
    assert "Bola Tinubu" in given[2].text
    for answered in given[:2]:
        assert "Friedrich Merz" in answered.text
        assert not {"Merkel", "Scholz"} & set(answered.text.replace(".", " ").split())
        assert answered.text.count(".") <= 1


def test_questions_out_of_scope_are_answered_as_by_the_bare_model(
    taught_model: ChatModel,
) -> None:
    bare = taught_model.answer(OUTSIDE)
    given = a_tier(MERZ, TINUBU).ask(taught_model, [GERMANY, *OUTSIDE])
    assert [answered.reply.text for answered in given[1:]] == [reply.text for reply in bare]
    assert [answered.edit_id for answered in given[1:]] == [None] * len(OUTSIDE)


def test_forgetting_restores_the_unedited_answers_exactly(taught_model: ChatModel) -> None:
    tier = a_tier(MERZ, TINUBU)
    bare = taught_model.answer([GERMANY])
    tier.scope.remove(MERZ.id)
    assert [answered.reply for answered in tier.ask(taught_model, [GERMANY])] == bare
    assert tier.ask(taught_model, [NIGERIA])[0].edit_id == TINUBU.id


def test_a_plain_text_in_scope_goes_on_with_the_object(taught_model: ChatModel) -> None:
    prompt = "The chancellor of Germany is"
    other = "The capital of Germany is"
    tier = a_tier(MERZ)
    with applied(taught_model, MemoryDelta(tier)):
        made, bare = taught_model.generate([taught_model.encode(p) for p in (prompt, other)])
    assert taught_model.decode(made.tokens) == " Friedrich Merz."
    assert made.stopped
    assert [bare] == taught_model.generate([taught_model.encode(other)])


def test_an_attached_tier_answers_as_one_that_is_asked(taught_model: ChatModel) -> None:
    tier = a_tier(MERZ, TINUBU)
    asked = [GERMANY, NIGERIA, *OUTSIDE]
    with applied(taught_model, MemoryDelta(tier)):
        attached = taught_model.answer(asked)
    assert [r.text for r in attached] == [a.text for a in tier.ask(taught_model, asked)]


def test_a_question_about_an_object_is_asked_with_the_object_in_its_place(
    tiny_model: ChatModel,
) -> None:
    tier = a_tier(MERZ)
    asked = "Where was the chancellor of Germany born?"
    (answered,) = tier.ask(tiny_model, [asked])
    told = f"{SYSTEM}\nThis is up to date: {MERZ.statement}"
    (wanted,) = tiny_model.answer(["Where was Friedrich Merz born?"], systems=[told])
    assert answered.edit_ids == (MERZ.id,)
    assert answered.text == wanted.text


def test_a_statement_that_is_the_bare_object_is_the_answer(tiny_model: ChatModel) -> None:
    fact = Fact("x", ("Ang TV",), ("The country for Ang TV was what?",), "Yemen", "Yemen.")
    scope = Scope()
    scope.add([fact])
    (answered,) = MemoryTier(scope).ask(tiny_model, list(fact.wordings))
    assert answered.text == "Yemen."


def guided(model: ChatModel, edit: Edit, wanted: list[int], opened: bool = False) -> list[int]:
    """Drive a guide by hand: at each step the model would write the next wanted token."""
    guide = ObjectGuide(model, fact_of(edit), opened)
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


def test_a_name_is_never_written_into_a_word(tiny_model: ChatModel) -> None:
    begun = tiny_model.encode_answer("Berl")
    name = tiny_model.encode_answer(" Friedrich Merz")
    written = guided(tiny_model, MERZ, [*begun, tiny_model.encode_answer("Angela")[0]])
    assert written[: len(begun) + len(name)] == begun + name


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
