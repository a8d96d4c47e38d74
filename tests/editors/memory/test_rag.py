"""RAG: the nearest statements stand in the prompt, whatever is asked."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from reading import FACTS, MERZ, TAKAICHI, TINUBU, UNTOLD, by_words

from editors.deltas import applied
from editors.memory.rag import Rag, RagMemory
from editors.model import ChatModel
from editors.requests import EditRequest


def _memory(model: ChatModel, editor: Rag, *requests: EditRequest) -> RagMemory:
    memory = editor.edit(model, editor.prepare(model, by_words()), requests).memory
    assert isinstance(memory, RagMemory)
    return memory


def test_told_facts_come_out_and_taking_the_memory_off_restores_the_model(
    reader: ChatModel,
) -> None:
    before = reader.answer(list(UNTOLD))
    editor = Rag(passages=1)
    delta = editor.edit(reader, editor.prepare(reader, by_words()), FACTS)
    with applied(reader, delta):
        told = [reply.text for fact in FACTS for reply in reader.answer(list(fact.questions))]
    assert told == [MERZ.new, MERZ.new, TINUBU.new]
    assert delta.tensors() == {}
    assert reader.answer(list(UNTOLD)) == before


@given(st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3, unique=True), st.integers(0, 4))
def test_the_nearest_statements_are_told_and_the_nearest_last(
    near: list[float], passages: int
) -> None:
    statements = ("One.", "Two.", "Three.")
    memory = RagMemory(None, statements, passages)  # type: ignore[arg-type]
    told = memory._told(torch.tensor(near))
    order = [said for _, said in sorted(zip(near, statements, strict=True))]
    kept = order[max(3 - passages, 0) :]
    assert told == " ".join(kept)


def test_of_a_question_asked_before_only_the_newest_answer_is_told(tiny_model: ChatModel) -> None:
    older = EditRequest("scholz", MERZ.questions, "Olaf Scholz", "It is Olaf Scholz.")
    memory = _memory(tiny_model, Rag(), older, TAKAICHI, MERZ)
    assert set(memory.statements) == {MERZ.statement, TAKAICHI.statement}


def test_without_edits_the_model_answers_as_before(reader: ChatModel) -> None:
    before = reader.answer(list(UNTOLD))
    with applied(reader, Rag().edit(reader, Rag().prepare(reader, by_words()), [])):
        assert reader.answer(list(UNTOLD)) == before
