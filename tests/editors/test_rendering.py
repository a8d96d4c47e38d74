"""A request's renderings: the subject's last token, un-spaced and spaced targets."""

import dataclasses

import pytest
from closed_form_samples import request
from hypothesis import given, settings
from hypothesis import strategies as st

from editors.model import ChatModel
from editors.rendering import Contexts, renderings, span_end, stated_lead, token_before
from editors.requests import EditorError, EditRequest


@pytest.fixture(scope="session")
def words(_random_model: ChatModel) -> ChatModel:
    """A model whose tokenizer alone is used."""
    return _random_model


def upto(model: ChatModel, prompt: tuple[int, ...], at: int) -> str:
    return model.decode(prompt[: at + 1])


def test_a_question_is_answered_with_the_statement_and_the_end_of_the_turn(
    tiny_model: ChatModel,
) -> None:
    (made,) = renderings(tiny_model, request())
    assert made.chat
    assert made.answer[-1] in tiny_model.stop_ids
    assert tiny_model.decode(made.answer) == "The chancellor of Germany is Tim Cook."
    assert tiny_model.decode(made.answer[made.first :]).strip() == "Tim Cook."
    # The answer follows a newline: its first token has no space.
    assert made.answer[0] == tiny_model.encode("The")[0]


def test_a_plain_prompt_is_continued_with_a_space_and_the_object(tiny_model: ChatModel) -> None:
    asked = request(questions=(), prompts=("The chancellor of Germany is",))
    (made,) = renderings(tiny_model, asked)
    assert not made.chat
    assert made.first == 0
    assert tiny_model.decode(made.answer) == " Tim Cook"
    assert tiny_model.decode(made.prompt) == "The chancellor of Germany is"


def test_the_subjects_last_token_is_found_on_the_rendered_string(tiny_model: ChatModel) -> None:
    asked = request("Nigeria", prompts=("In Nigeria, the president of Nigeria is",))
    question, prompt = renderings(tiny_model, asked)
    assert question.subject is not None
    assert prompt.subject is not None
    assert upto(tiny_model, question.prompt, question.subject).endswith("chancellor of Nigeria")
    # Spelled twice: the last one counts, after which the whole prompt is known.
    assert upto(tiny_model, prompt.prompt, prompt.subject).endswith("president of Nigeria")


def test_a_subject_that_the_system_message_spells_is_looked_for_in_the_question(
    tiny_model: ChatModel,
) -> None:
    asked = request("brief", questions=("Who is brief?",), statement="It is Tim Cook.")
    (made,) = renderings(tiny_model, asked)
    assert made.subject is not None
    assert upto(tiny_model, made.prompt, made.subject).endswith("Who is brief")


def test_contexts_surround_the_bare_rendering_which_comes_first(tiny_model: ChatModel) -> None:
    contexts = Contexts(chat=("{question} Really?",), plain=("I think so. ",))
    asked = request(prompts=("The chancellor of Germany is",))
    made = renderings(tiny_model, asked, contexts)
    assert [(one.chat, one.context) for one in made] == [
        (True, 0),
        (True, 1),
        (False, 0),
        (False, 1),
    ]
    assert "Germany? Really?" in tiny_model.decode(made[1].prompt)
    assert tiny_model.decode(made[3].prompt) == "I think so. The chancellor of Germany is"
    assert all(one.subject is not None for one in made)


def test_the_statement_up_to_its_object_is_a_prompt_where_that_is_wanted(
    tiny_model: ChatModel,
) -> None:
    question, stated = renderings(tiny_model, request(), Contexts(stated=True))
    assert (question.chat, stated.chat) == (True, False)
    assert tiny_model.decode(stated.prompt) == "The chancellor of Germany is"
    assert stated.context != 0, "it is a context of the question, not a fact of its own"
    given_prompt = request(prompts=("Germany's chancellor is",))
    assert len(renderings(tiny_model, given_prompt, Contexts(stated=True))) == 2


def test_without_a_subject_there_is_no_position_and_asking_for_it_says_so(
    tiny_model: ChatModel,
) -> None:
    (made,) = renderings(tiny_model, request(subject=""))
    assert made.subject is None
    with pytest.raises(EditorError, match="need the request's subject"):
        made.at_subject()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"questions": ()}, "neither questions nor prompts"),
        ({"subject": "France"}, "'France' is not spelled in"),
        ({"new": "Bola"}, "does not contain the object 'Bola'"),
        ({"new": ""}, "does not contain the object ''"),
    ],
)
def test_what_cannot_be_rendered_is_said(
    tiny_model: ChatModel, changed: dict[str, object], said: str
) -> None:
    with pytest.raises(EditorError, match=said):
        renderings(tiny_model, dataclasses.replace(request(), **changed))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "subject", "span", "ends"),
    [
        ("cats eat mice", "cats", "subject", "cats"),
        ("cats eat mice", "cats", "verb", "cats eat"),
        ("cats eat mice.", "cats", "object", "cats eat mice"),
        ("Who leads France?", "France", "verb", "Who leads"),
        ("Who leads France?", "France", "object", "Who leads France"),
    ],
)
def test_a_span_ends_with_its_last_character(text: str, subject: str, span: str, ends: str) -> None:
    assert text[: span_end(text, subject, span)] == ends


def test_a_span_that_is_not_there_is_refused() -> None:
    with pytest.raises(EditorError, match="one of subject, verb, object"):
        span_end("cats eat", "cats", "tail")
    with pytest.raises(EditorError, match="no word"):
        span_end("?!", "", "object")


def test_a_tokenizer_without_offsets_is_refused(tiny_model: ChatModel) -> None:
    class Slow:
        is_fast = False

    model = ChatModel(tiny_model.model, tiny_model.tokenizer, "0", "slow toy")
    model.tokenizer = Slow()
    with pytest.raises(EditorError, match="slow toy gives no character offsets"):
        token_before(model, "text", 2)


@settings(deadline=None)
@given(st.text(st.characters(max_codepoint=126, min_codepoint=32), min_size=1), st.data())
def test_the_token_that_is_found_is_the_one_with_the_character(
    words: ChatModel, text: str, data: st.DataObject
) -> None:
    end = data.draw(st.integers(1, len(text)))
    at = token_before(words, text, end)
    ids = words.encode(text)
    assert len(words.decode(ids[:at])) < end <= len(words.decode(ids[: at + 1]))


def test_a_character_of_several_tokens_ends_with_the_last_of_them(tiny_model: ChatModel) -> None:
    ids = tiny_model.encode("Ł")
    assert len(ids) > 1, "else this shows nothing"
    assert token_before(tiny_model, "Ł", 1) == len(ids) - 1


def test_the_lead_of_a_statement_is_what_stands_before_the_object() -> None:
    assert stated_lead(request()) == "The chancellor of Germany is"
    twice = EditRequest("1", ("?",), "Oslo", "The capital Oslo is called Oslo.")
    assert stated_lead(twice) == "The capital Oslo is called"
