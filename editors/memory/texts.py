"""What the memories of texts share: facts in their wordings, and asking with something told.

A memory is handed token prompts. It takes the question out of each, decides what it knows of it,
and asks otherwise where it knows something; all else is continued by the model as if there were
no memory, in the very batches in which the unedited model would have been asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from editors.editor import Resources
from editors.generation import Generation, Guide, generate
from editors.key_statistics import everyday_questions
from editors.memory.similarity import Cached, own_states
from editors.model import ChatModel
from editors.optimize.anchors import anchors_of, names_in
from editors.question_embeddings import Asked
from editors.requests import EditorError, EditRequest
from editors.runtime import Turns, silent

CLARIFICATION = " (Clarification: {statement})"
"""Behind a question, where MemPrompt has it; told in its system message the default model
heeded it less on the few edits that were tried."""
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Way:
    """How a prompt is asked instead: token ids, and what steers the answer."""

    prompt: Sequence[int]
    guide: Guide | None = None


@dataclass(frozen=True)
class TextSettings:
    read: float = 0.3  # layer whose states compare questions, share of the depth (docs/log.md)


@dataclass
class TextState:
    """What lasts from batch to batch.

    Attributes:
        embed: compares questions.
        names: other subjects, for questions that must find nothing.
        seed: of everything random.
        said: the unedited model's own answers, by what it was asked.
    """

    embed: Cached
    names: tuple[str, ...]
    seed: int = 0
    said: dict[Asked, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TextEditor(TextSettings):
    """An editor whose edits are texts: prepared once, nothing settles, a delta carries all
    requests so far."""

    stacks: ClassVar[bool] = False
    scoped: ClassVar[bool] = True
    """Whether a scope is measured, for which everyday questions are read beforehand."""

    def prepare(self, model: ChatModel, resources: Resources) -> TextState:
        """Measure the encoder on ordinary questions, unless another one is handed in."""
        with silent(model):
            embed = Cached(resources.embed or own_states(model, self.read))
            if self.scoped:
                embed(everyday())
        return TextState(embed, names_in(resources.texts), resources.seed)

    def settled(
        self, model: ChatModel, state: TextState, requests: Sequence[EditRequest]
    ) -> TextState:
        return state


def wordings(request: EditRequest) -> list[Asked]:
    """Return how a request is asked for.

    Raises EditorError: it is not asked for at all, or states nothing.
    """
    if not request.questions and not request.prompts:
        raise EditorError(f"edit {request.id} has neither questions nor prompts")
    if not request.statement.strip():
        raise EditorError(f"edit {request.id} has no statement that could be told")
    asked = [Asked(question, True) for question in request.questions]
    return [*asked, *(Asked(prompt, False) for prompt in request.prompts)]


def outside(state: TextState, requests: Sequence[EditRequest], siblings: int) -> list[Asked]:
    """Return what must find no request: neighbours, and the requests' own wordings about other
    subjects (``siblings`` of each)."""
    subjects = [request.subject for request in requests if request.subject]
    own = {one for request in requests for one in wordings(request)}
    found = {
        one: None
        for request in requests
        for one in anchors_of(request, state.names, siblings, subjects)
        if one not in own
    }
    return list(found)


def everyday() -> list[Asked]:
    """Return ordinary questions, asked in chat and bare."""
    return [Asked(q, chat) for chat in (True, False) for q in everyday_questions()]


def asked_of(model: ChatModel, turns: Turns, prompt: Sequence[int]) -> Asked:
    """Return the question of a rendered prompt, or the plain text that it is."""
    text = model.decode(prompt[turns.question(prompt)])
    return Asked(text.strip(), turns.chat(prompt))


def tokens_of(model: ChatModel, asked: Asked) -> list[int]:
    """Return the token prompt of a question, or of a plain text."""
    return model.encode(model.render(asked.text) if asked.chat else asked.text)


def clarified(model: ChatModel, turns: Turns, prompt: Sequence[int], statement: str) -> list[int]:
    """Return a prompt with the clarification behind its question; a plain text, which goes on
    where it ends, has it before."""
    if not turns.chat(prompt):
        return turns.told(prompt, statement)
    end = turns.question(prompt).stop
    said = model.encode_answer(CLARIFICATION.format(statement=statement))
    return [*prompt[:end], *said, *prompt[end:]]


def answered(
    model: ChatModel,
    prompts: Sequence[Sequence[int]],
    ways: Sequence[Way | None],
    max_new_tokens: int,
    progress: Progress | None = None,
) -> list[Generation]:
    """Continue prompts, each in its way; where there is none, as the unedited model does.

    Those that are known are run along with the unknown ones, in vain, because a smaller batch
    rounds otherwise and could flip a near tie: nothing outside of a memory's scope may change.
    """
    known = [at for at, way in enumerate(ways) if way is not None]
    made: dict[int, Generation] = {}
    if len(known) < len(prompts):
        whole = generate(model, prompts, max_new_tokens=max_new_tokens)
        made = dict(enumerate(whole))
        if progress:
            progress(len(prompts) - len(known))
    told = [way for way in ways if way is not None]
    if told:
        others = generate(
            model,
            [way.prompt for way in told],
            guides=[way.guide for way in told],
            max_new_tokens=max_new_tokens,
            progress=progress,
        )
        made |= dict(zip(known, others, strict=True))
    return [made[at] for at in range(len(prompts))]


def own_answers(
    model: ChatModel, state: TextState, asked: Sequence[Asked], most: int
) -> dict[Asked, str]:
    """Return what the model says when no memory is asked; each question is asked once a run."""
    new = [one for one in dict.fromkeys(asked) if one not in state.said]
    with silent(model):
        made = generate(model, [tokens_of(model, one) for one in new], max_new_tokens=most)
    state.said |= {
        one: model.decode(a.tokens).strip().partition("\n")[0]
        for one, a in zip(new, made, strict=True)
    }
    return {one: state.said[one] for one in asked}
