"""Retrieval only: the honest baseline beside every edit (design.md §5.6).

The same question to the same unedited model, with the best passages of the evidence store
in the user turn; decoding is not guided.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from editors.model import ChatModel
from store.records import Reply


def answer_with_passages(
    model: ChatModel,
    questions: Sequence[str],
    passages: Sequence[Sequence[str]],
    max_new_tokens: int = 48,
    progress: Callable[[int], None] | None = None,
) -> list[Reply]:
    """Answer each question with its own passages in the prompt; replies carry the question."""
    prompts = [
        "Use these passages to answer.\n\n" + "\n\n".join(found) + f"\n\nQuestion: {question}"
        if found
        else question
        for question, found in zip(questions, passages, strict=True)
    ]
    replies = model.answer(prompts, max_new_tokens=max_new_tokens, progress=progress)
    return [
        Reply(question, reply.text, reply.logprob)
        for question, reply in zip(questions, replies, strict=True)
    ]
