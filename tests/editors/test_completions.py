"""What a request's texts are completed with."""

from __future__ import annotations

import pytest

from editors.completions import completions, saying
from editors.model import ChatModel
from editors.rendering import Contexts
from editors.requests import EditorError, EditRequest

QUESTION = "Who is the chancellor of Germany?"
REQUEST = EditRequest(
    "1",
    (QUESTION,),
    "Friedrich Merz",
    "The chancellor of Germany is Friedrich Merz.",
    old="Angela Merkel",
    prompts=("The chancellor of Germany is",),
)


def test_the_object_stands_between_its_lead_and_what_follows(tiny_model: ChatModel) -> None:
    for value in ("Friedrich Merz", "Angela Merkel"):
        chat, plain = completions(tiny_model, REQUEST, value)
        turn = tiny_model.render(QUESTION)
        said = tiny_model.tokenizer.decode([*chat.before, *chat.value])
        assert said == f"{turn}The chancellor of Germany is {value}"
        assert tiny_model.decode(chat.value).strip() == value
        assert tiny_model.decode(plain.before) == "The chancellor of Germany is"
        assert tiny_model.decode(plain.value) == f" {value}"


def test_the_statement_can_be_a_plain_prompt_too(tiny_model: ChatModel) -> None:
    request = EditRequest("1", (QUESTION,), "Merz", "The chancellor is Merz.")
    found = completions(tiny_model, request, "Merkel", Contexts(stated=True))
    assert [tiny_model.decode(one.before) for one in found[1:]] == ["The chancellor is"]
    bare = EditRequest("1", (QUESTION,), "Merz", "Merz it is.")
    assert len(completions(tiny_model, bare, "Merkel", Contexts(stated=True))) == 1


def test_without_a_statement_the_object_is_the_answer(tiny_model: ChatModel) -> None:
    request = EditRequest("1", (QUESTION,), "", "", old="Angela Merkel")
    (one,) = completions(tiny_model, request, "Angela Merkel")
    assert tiny_model.decode(one.value) == "Angela Merkel"
    assert list(one.before) == tiny_model.encode(tiny_model.render(QUESTION))


def test_a_statement_may_say_the_old_object_and_must_say_one() -> None:
    old = EditRequest("1", (QUESTION,), "Merz", "It is Angela Merkel still.", old="Angela Merkel")
    assert saying(old, "Angela Merkel").statement == "It is Angela Merkel still."
    with pytest.raises(EditorError, match="says neither its object nor Olaf"):
        saying(old, "Olaf")
    with pytest.raises(EditorError, match="no object"):
        saying(old, " ")
