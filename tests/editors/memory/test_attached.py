"""A memory attached to a model answers in its stead, and leaves no trace when taken off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from editors.deltas import applied
from editors.generation import Generation, generate
from editors.memory.attached import MemoryDelta
from editors.model import ChatModel


@dataclass(frozen=True)
class Parrot:
    """Says one text to prompts that hold a word, and leaves the others to the model."""

    word: str
    text: str

    def answer(
        self,
        model: ChatModel,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        progress: Callable[[int], None] | None,
    ) -> list[Generation]:
        made = generate(model, prompts, max_new_tokens=max_new_tokens, progress=progress)
        said = Generation(tuple(model.encode_answer(self.text)), (), True)
        return [
            said if self.word in model.decode(prompt) else one
            for prompt, one in zip(prompts, made, strict=True)
        ]


QUESTIONS = ["Who is the chancellor of Germany?", "What is the capital of Peru?"]


def test_an_attached_memory_answers_and_the_rest_is_the_models(tiny_model: ChatModel) -> None:
    before = tiny_model.answer(QUESTIONS, max_new_tokens=6)
    with applied(tiny_model, MemoryDelta(Parrot("Germany", "It is Berlin."))):
        during = tiny_model.answer(QUESTIONS, max_new_tokens=6)
    assert during[0].text == "It is Berlin."
    assert during[1] == before[1]
    assert tiny_model.memories == []
    assert tiny_model.answer(QUESTIONS, max_new_tokens=6) == before


def test_the_newest_memory_answers_and_each_is_taken_off_by_itself(tiny_model: ChatModel) -> None:
    first, second = (MemoryDelta(Parrot("Germany", "It is Berlin.")) for _ in range(2))
    undo_first, undo_second = first.apply(tiny_model), second.apply(tiny_model)
    undo_first()
    assert tiny_model.memories[0] is second.memory
    undo_second()
    assert tiny_model.memories == []
