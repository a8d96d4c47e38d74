"""Completions: an object where a request's texts say it, as token ids.

An object is said where the model itself would say it: inside the statement that answers a
question in chat ("The chancellor of Germany is" → " Friedrich Merz"), or after a plain prompt
(design.md §4). ``editors.rendering`` renders them; here a request may say another object than
its new one, and what stands before the object is told from the object.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from editors.model import ChatModel
from editors.rendering import BARE, Contexts, renderings, stated_lead, token_before
from editors.requests import EditorError, EditRequest


@dataclass(frozen=True)
class Completion:
    """Token ids: what comes before an object in one rendering, and the object.

    ``bare`` tells the request's own questions and prompts from those in surroundings.
    """

    before: tuple[int, ...]
    value: tuple[int, ...]
    bare: bool


def completions(
    model: ChatModel, request: EditRequest, value: str, contexts: Contexts | None = None
) -> list[Completion]:
    """Return what a request's texts are completed with where they say ``value``.

    Args:
        model: gives template and tokenizer.
        request: its statement says ``new`` (or ``value``); it comes to say ``value`` there.
            Without a statement the answer in chat is the bare value.
        value: the object that is said.
        contexts: surroundings besides the bare question and prompt; where the statement
            begins with its object, it is no plain prompt.

    Raises:
        EditorError: no value, nothing to ask, or a statement that says neither object.
    """
    asked = saying(request, value)
    if contexts and contexts.stated and not stated_lead(asked):
        contexts = replace(contexts, stated=False)
    end = asked.statement.rfind(asked.new) + len(asked.new)
    last = token_before(model, asked.statement, end) + 1
    return [
        Completion(
            (*r.prompt, *r.answer[: r.first]),
            r.answer[r.first : last] if r.chat else r.answer,
            r.context == BARE,
        )
        for r in renderings(model, asked, contexts)
    ]


def saying(request: EditRequest, value: str) -> EditRequest:
    """Return the request with another object, stated in the same words; no subject is sought."""
    if not value.strip():
        raise EditorError(f"edit {request.id} names no object to say")
    said = next((o for o in (request.new, value) if o and o in request.statement), "")
    if request.statement and not said:
        raise EditorError(f"the statement of edit {request.id} says neither its object nor {value}")
    head, _, tail = request.statement.rpartition(said) if said else ("", "", ".")
    return replace(request, new=value, statement=f"{head}{value}{tail}", subject="")
