"""IKE: the paper's format, kinds in their ratio, never the fact itself, the nearest fact."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reading import FACTS, MERZ, TAKAICHI, TINUBU, UNTOLD, by_words

from editors.deltas import applied
from editors.memory.attached import MemoryDelta
from editors.memory.ike import (
    Demonstration,
    EndOfLine,
    Ike,
    IkeMemory,
    PoolFact,
    chat_turn,
    chosen,
    plain_prompt,
    shown_by,
)
from editors.memory.texts import asked_of
from editors.model import ChatModel
from editors.question_embeddings import Asked
from editors.requests import EditorError, EditRequest
from editors.runtime import Turns


def _pool(count: int) -> list[PoolFact]:
    """Facts that give every kind, in chat and plain."""
    made = []
    for at in range(count):
        request = EditRequest(
            f"f{at}",
            (f"Who leads {at}?", f"Name who leads {at}."),
            f"N{at}",
            f"The leader of {at} is N{at}.",
            prompts=(f"The leader of {at} is", f"{at} is led by"),
        )
        beside = [(Asked(f"What is {at}?", True), "It."), (Asked(f"{at} lies in", False), "P")]
        made.append(PoolFact(request, shown_by(request, beside)))
    return made


def test_the_plain_format_is_the_papers() -> None:
    shown = [
        Demonstration("copy", "A is B", "A is", "B"),
        Demonstration("retain", "A is B", "C is", "D"),
    ]
    assert plain_prompt(shown, "X is Y", "X is Y", "X, then, is") == (
        "New Fact: A is B\nPrompt: A is B\n\n"
        "New Fact: A is B\nPrompt: C is D\n\n"
        "New Fact: X is Y\nPrompt: X is Y\n\n"
        "New Fact: X is Y\nPrompt: X, then, is"
    )


def test_in_chat_the_same_stands_before_the_question() -> None:
    shown = [Demonstration("update", "A is B.", "Who is A?", "A is B.")]
    assert chat_turn(shown, "X is Y.") == (
        "New Fact: A is B.\nPrompt: Who is A?\nAnswer: A is B.\n\nNew Fact: X is Y.\nPrompt: "
    )


@given(st.integers(0, 4), st.booleans(), st.integers(0, 99))
def test_kinds_stand_as_one_to_three_to_four(eights: int, chat: bool, seed: int) -> None:
    pool = _pool(8 * eights + 1)
    near = torch.rand(len(pool), generator=torch.Generator().manual_seed(seed))
    made = chosen(pool, pool[0].request, near, chat, 8 * eights, seed)
    counts = Counter(one.kind for one in made)
    assert counts == Counter(copy=eights, update=3 * eights, retain=4 * eights)


@given(st.integers(1, 12), st.integers(0, 11), st.integers(0, 99))
def test_no_demonstration_is_of_the_fact_itself_and_the_nearest_stands_last(
    count: int, own: int, seed: int
) -> None:
    pool = _pool(count)
    fact = pool[own % count].request
    again = PoolFact(replace(fact, id="again", new="Z"), pool[own % count].shown)
    near = torch.rand(count + 1, generator=torch.Generator().manual_seed(seed))
    made = chosen([*pool, again], fact, near, True, 8, seed)
    assert fact.statement not in {one.fact for one in made}
    assert len(made) == min(count - 1, 8)
    order = {one.request.statement: float(near[at]) for at, one in enumerate(pool)}
    distances = [order[one.fact] for one in made]
    assert distances == sorted(distances)


def test_a_demonstration_retains_what_the_unedited_model_says() -> None:
    shown = shown_by(MERZ, [(Asked(MERZ.neighbours[0], True), "It is Berlin.")])
    assert shown["retain", True].answer == "It is Berlin."
    assert shown["copy", True].answer == MERZ.statement
    assert shown["update", True].asked == MERZ.questions[1] != shown["copy", True].asked
    assert ("copy", False) not in shown
    assert "update" not in {kind for kind, _ in shown_by(TAKAICHI, [])}, "only one wording"


def _delta(model: ChatModel, editor: Ike, *requests: EditRequest) -> MemoryDelta:
    return editor.edit(model, editor.prepare(model, by_words()), requests)


def test_told_facts_come_out_and_taking_the_memory_off_restores_the_model(
    reader: ChatModel,
) -> None:
    before = reader.answer(list(UNTOLD))
    with applied(reader, _delta(reader, Ike(demonstrations=0), *FACTS)):
        told = [reader.answer(list(fact.questions)) for fact in FACTS]
    for fact, replies in zip(FACTS, told, strict=True):
        assert [reply.text for reply in replies] == [fact.new] * len(replies)
    assert reader.answer(list(UNTOLD)) == before


def test_with_a_scope_questions_below_it_are_answered_as_before(reader: ChatModel) -> None:
    before = reader.answer(list(UNTOLD))
    with applied(reader, _delta(reader, Ike(demonstrations=0, scope=0.99), MERZ)):
        during = reader.answer(list(UNTOLD))
    assert during[0].text == during[1].text == MERZ.new
    assert during[2:] == before[2:]


def test_without_facts_nothing_is_told(reader: ChatModel) -> None:
    before = reader.answer(list(UNTOLD))
    with applied(reader, _delta(reader, Ike())):
        assert reader.answer(list(UNTOLD)) == before


def test_prompts_hold_the_demonstrations_and_the_nearest_fact(tiny_model: ChatModel) -> None:
    delta = _delta(tiny_model, Ike(demonstrations=8), MERZ, TINUBU, TAKAICHI)
    memory = delta.memory
    assert isinstance(memory, IkeMemory)
    asked: list[str] = []

    def told(question: str, chat: bool) -> str:
        turns, text = Turns(tiny_model), tiny_model.render(question) if chat else question
        prompt = tiny_model.encode(text)
        one = asked_of(tiny_model, turns, prompt)
        asked.append(one.text)
        way = memory._way(tiny_model, turns, prompt, one, memory.index.likeness([one])[0])
        assert way is not None
        return tiny_model.decode(way.prompt)

    chat = told("So who is the chancellor of Germany?", True)
    assert f"New Fact: {MERZ.statement}" in chat
    assert TINUBU.statement in chat, "the other fact demonstrates"
    assert chat.count(MERZ.statement) == 1
    plain = told(TAKAICHI.prompts[0], False)
    fact = f"{TAKAICHI.prompts[0]} {TAKAICHI.new}"
    assert plain == f"New Fact: {fact}\nPrompt: {fact}\n\nNew Fact: {fact}\nPrompt: {asked[1]}"


def test_a_plain_prompt_ends_with_its_line_and_others_go_on_as_before(
    tiny_model: ChatModel,
) -> None:
    prompts = [tiny_model.encode(TAKAICHI.prompts[0]), tiny_model.encode("The harbour was")]
    before = tiny_model.generate(prompts, max_new_tokens=3)
    with applied(tiny_model, _delta(tiny_model, Ike(demonstrations=2, scope=0.999), TAKAICHI)):
        during = tiny_model.generate(prompts, max_new_tokens=3)
    assert during[1] == before[1]
    newline, other = (tiny_model.encode_answer(text)[0] for text in ("\n", "It"))
    guide, logits = EndOfLine(tiny_model), torch.zeros(len(tiny_model.tokenizer))
    assert guide.choose((), logits.index_fill(0, torch.tensor(other), 1.0)) == other
    ended = guide.choose((), logits.index_fill(0, torch.tensor(newline), 1.0))
    assert ended in tiny_model.stop_ids


def test_the_unedited_answers_are_asked_past_an_attached_memory(reader: ChatModel) -> None:
    """In a run of edits the memory so far is attached while the next one is made."""
    editor = Ike(demonstrations=8)
    state = editor.prepare(reader, by_words())
    with applied(reader, editor.edit(reader, state, [MERZ])):
        editor.edit(reader, state, FACTS)
    assert set(state.said.values()) == {"It is Berlin.", "It is English."}


def test_the_kinds_order_is_seeded(tiny_model: ChatModel) -> None:
    pool, near = _pool(20), torch.rand(20, generator=torch.Generator().manual_seed(3))
    orders = {
        tuple(d.kind for d in chosen(pool, pool[0].request, near, True, 8, seed))
        for seed in range(9)
    }
    assert len(orders) > 1


@pytest.mark.parametrize(
    ("request_", "said"),
    [(replace(MERZ, questions=()), "neither"), (replace(MERZ, statement=" "), "no statement")],
)
def test_what_cannot_be_asked_or_told_is_refused(
    tiny_model: ChatModel, request_: EditRequest, said: str
) -> None:
    with pytest.raises(EditorError, match=said):
        _delta(tiny_model, Ike(), request_)
