"""A request in its renderings: what is fed, where the subject ends, where the object begins.

A chat question is answered with the statement and the end of the turn, in the model's own way
of answering (design.md §4); a plain prompt is continued with a space and the object. Positions
are found by the tokenizer's character offsets on the *rendered* string: a subject that is
tokenised alone gives other tokens than the same subject in a text (methods.md §1.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from editors.model import ChatModel
from editors.requests import EditorError, EditRequest

SPANS = ("subject", "verb", "object")
"""What an edit can be keyed on in a text (methods.md L10): the subject as it is spelled, the
word after it, the text's last word."""
BARE = 0
"""The context that is none: its key counts as much as all other contexts' together."""


@dataclass(frozen=True)
class Contexts:
    """Surroundings in which an edit is made besides the bare question or prompt.

    Attributes:
        chat: templates with ``{question}``, put into the user's turn.
        plain: texts that stand before a plain prompt.
        stated: whether the statement up to its object serves as a plain prompt too.
    """

    chat: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    stated: bool = False


@dataclass(frozen=True)
class Rendering:
    """One way to ask for the fact, with the answer that is wanted, as token ids.

    Attributes:
        prompt, answer: token ids; a chat answer ends with the end of the turn.
        subject: position in ``prompt`` of the last token of the span that is edited on, or
            None where the request names no subject.
        first: index in ``answer`` of the first token of the object.
        context: ``BARE``, or the number of the context.
        chat: whether it is asked in the chat template.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    subject: int | None
    first: int
    context: int
    chat: bool

    @property
    def fed(self) -> tuple[int, ...]:
        """The tokens that are run: the last answer token predicts nothing that is asked."""
        return (*self.prompt, *self.answer[:-1])

    def at_subject(self) -> int:
        """Return the subject's position.

        Raises EditorError where there is none.
        """
        if self.subject is None:
            raise EditorError(
                "methods that edit at the subject's last token need the request's subject"
            )
        return self.subject


def renderings(
    model: ChatModel,
    request: EditRequest,
    contexts: Contexts | None = None,
    span: str = "subject",
) -> list[Rendering]:
    """Return a request's renderings: questions, then prompts, each bare and in its contexts.

    Args:
        model: gives template, tokenizer and end of the turn.
        request: with questions, prompts or both.
        contexts: surroundings; none by default.
        span: which span's last token is found, one of ``SPANS``.

    Raises:
        EditorError: nothing to ask, a text that does not spell the subject, a statement that
            does not contain the object, a tokenizer without character offsets.
    """
    contexts = contexts or Contexts()
    if not request.questions and not request.prompts:
        raise EditorError(f"edit {request.id} has neither questions nor prompts")
    made = []
    for question in request.questions:
        templates = ("{question}", *contexts.chat)
        made += [_chat(model, request, question, t, i, span) for i, t in enumerate(templates)]
    prompts = request.prompts
    if contexts.stated and not prompts:
        lead = stated_lead(request)
        # A bare object ("Rome.") has no lead, another one does not say whom it is about.
        prompts = (lead,) if lead and request.subject in lead else ()
    for at, prompt in enumerate(prompts):
        before = ("", *contexts.plain)
        # Where questions are asked, a prompt made of the statement is a context among others.
        shift = len(contexts.chat) + 1 + at if request.questions and not request.prompts else 0
        made += [_plain(model, request, prompt, b, shift + i, span) for i, b in enumerate(before)]
    return made


def stated_lead(request: EditRequest) -> str:
    """Return the statement up to its object, without the space between.

    Raises EditorError where the statement does not contain the object.
    """
    return request.statement[: _object_at(request)].rstrip()


def span_end(text: str, subject: str, span: str = "subject") -> int:
    """Return the character offset behind a span of a text.

    The subject is taken where it is spelled last; "verb" is the word after it, or the one
    before it where none follows; "object" is the text's last word.

    Raises EditorError: the subject is not in the text, or there is no such span.
    """
    if span not in SPANS:
        raise EditorError(f"a span is one of {', '.join(SPANS)}, not {span!r}")
    if span == "object":
        return _last_word_end(text, len(text))
    start = text.rfind(subject) if subject else -1
    if start < 0:
        raise EditorError(f"the subject {subject!r} is not spelled in {text!r}")
    end = start + len(subject)
    if span == "subject":
        return end
    begin = next((i for i in range(end, len(text)) if _wordy(text[i])), None)
    if begin is None:
        return _last_word_end(text, start)
    return next((i for i in range(begin, len(text)) if not _wordy(text[i])), len(text))


def token_before(model: ChatModel, text: str, end: int) -> int:
    """Return the index of the token that holds the character before offset ``end``.

    Of several tokens for one character (a byte-level tokenizer splits some) the last.

    Raises EditorError: the tokenizer gives no offsets, or no token holds that character.
    """
    for index, (start, stop) in reversed(list(enumerate(_offsets(model, text)))):
        if start < end <= stop:
            return index
    raise EditorError(f"no token of {text!r} ends at character {end}")


def _chat(
    model: ChatModel, request: EditRequest, question: str, template: str, context: int, span: str
) -> Rendering:
    asked = template.format(question=question)
    rendered = model.render(asked)
    prompt = tuple(model.encode(rendered))
    at: int | None = None
    if request.subject:
        # Searched in the question alone: a system message may spell the subject too.
        inside = asked.rfind(question) + span_end(question, request.subject, span)
        at = token_before(model, rendered, rendered.rfind(asked) + inside)
    body = model.encode_answer(request.statement)
    first = _token_from(model, request.statement, _object_at(request))
    answer = (*body, min(model.stop_ids))
    return Rendering(prompt, answer, at, first, context, True)


def _plain(
    model: ChatModel, request: EditRequest, prompt: str, before: str, context: int, span: str
) -> Rendering:
    text = f"{before}{prompt}"
    at: int | None = None
    if request.subject:
        end = len(before) + span_end(prompt, request.subject, span)
        at = token_before(model, text, end)
    answer = tuple(model.encode_answer(f" {request.new}"))
    return Rendering(tuple(model.encode(text)), answer, at, 0, context, False)


def _object_at(request: EditRequest) -> int:
    at = request.statement.rfind(request.new) if request.new else -1
    if at < 0:
        raise EditorError(
            f"the statement of edit {request.id} does not contain the object {request.new!r}"
        )
    return at


def _token_from(model: ChatModel, text: str, start: int) -> int:
    """Return the index of the first token that holds a character from offset ``start`` on."""
    return next(i for i, (_, stop) in enumerate(_offsets(model, text, True)) if stop > start)


def _offsets(model: ChatModel, text: str, answer: bool = False) -> Sequence[tuple[int, int]]:
    if not getattr(model.tokenizer, "is_fast", False):
        raise EditorError(
            f"the tokenizer of {model.name} gives no character offsets; load its fast version"
        )
    options = {"split_special_tokens": True} if answer else {}
    made = model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, **options)
    offsets: Sequence[tuple[int, int]] = made["offset_mapping"]
    return offsets


def _last_word_end(text: str, before: int) -> int:
    end = next((i for i in range(before, 0, -1) if _wordy(text[i - 1])), None)
    if end is None:
        raise EditorError(f"there is no word to edit on in {text!r}")
    return end


def _wordy(character: str) -> bool:
    return character.isalnum() or character in "'’-"
