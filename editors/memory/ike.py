"""IKE, in-context knowledge editing: a new fact after worked examples (Zheng et al. 2023; M2).

Nothing in the weights moves. A prompt is preceded by ``k`` demonstrations and the new fact. A
demonstration shows another fact being copied, asked for in other words, or (half of them) rightly
*not* used: a neighbouring question keeps its old answer. They come from the other requests of
the run, those most like the prompt nearest to it; never from the fact itself.

The fact is the nearest one, whatever is asked: IKE has no scope, and on questions beside the
edits it depends on the demonstrations of the third kind. ``scope`` sets a least likeness. A plain
prompt has the paper's exact format; in chat the same stands in the user's turn.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from editors.generation import Generation
from editors.memory.attached import MemoryDelta
from editors.memory.similarity import Index, best
from editors.memory.texts import (
    Progress,
    TextEditor,
    TextSettings,
    TextState,
    Way,
    answered,
    asked_of,
    own_answers,
    wordings,
)
from editors.model import ChatModel
from editors.optimize.anchors import anchors_of
from editors.question_embeddings import Asked
from editors.requests import EditRequest
from editors.runtime import Turns

NAME = "ike"
RATIO = {"copy": 1, "update": 3, "retain": 4}
"""Kinds of demonstrations, and how many of each stand together (paper)."""


@dataclass(frozen=True)
class IkeSettings(TextSettings):
    demonstrations: int = 8  # k, other facts shown (paper: 32; a small model copies with few)
    scope: float = 0.0  # least cosine of question and fact, 0..1; 0: a fact whatever is asked
    retain_tokens: int = 12  # of the unedited answer that a demonstration retains


@dataclass(frozen=True)
class Demonstration:
    """One worked example: a fact, what is asked, the right answer."""

    kind: str
    fact: str
    asked: str
    answer: str


@dataclass(frozen=True)
class PoolFact:
    """A request as demonstrations: those of each kind that it can give, in chat and plain."""

    request: EditRequest
    shown: Mapping[tuple[str, bool], Demonstration]


@dataclass(frozen=True)
class Ike(IkeSettings, TextEditor):
    """The method by the protocol of ``editors.editor``."""

    scoped: ClassVar[bool] = False

    def edit(
        self, model: ChatModel, state: TextState, requests: Sequence[EditRequest]
    ) -> MemoryDelta:
        """Return the memory of all requests."""
        index = Index(state.embed, [wordings(request) for request in requests])
        pool = self._pool(model, state, requests) if self.demonstrations else []
        return MemoryDelta(IkeMemory(index, tuple(requests), tuple(pool), self, state.seed))

    def _pool(
        self, model: ChatModel, state: TextState, requests: Sequence[EditRequest]
    ) -> list[PoolFact]:
        """Return the requests as demonstrations; neighbours keep the unedited answer."""
        subjects = [request.subject for request in requests]
        around = []
        for request in requests:
            beside = anchors_of(request, state.names, 1, subjects)
            kinds = (True, False)
            around.append([next((a for a in beside if a.chat is chat), None) for chat in kinds])
        asked = [one for pair in around for one in pair if one is not None]
        said = own_answers(model, state, asked, self.retain_tokens)
        return [
            PoolFact(request, shown_by(request, [(a, said[a]) for a in pair if a is not None]))
            for request, pair in zip(requests, around, strict=True)
        ]


def shown_by(
    request: EditRequest, retained: Sequence[tuple[Asked, str]]
) -> dict[tuple[str, bool], Demonstration]:
    """Return the demonstrations that a request gives, by kind and whether they are for chat.

    Args:
        request: with questions or prompts.
        retained: neighbouring questions with the answers that stay.
    """
    found: dict[tuple[str, bool], Demonstration] = {}
    for chat, texts in ((True, request.questions), (False, request.prompts)):
        if not texts:
            continue
        fact = fact_of(request, chat)
        answer = request.statement if chat else request.new
        found["copy", chat] = Demonstration("copy", fact, texts[0], answer)
        # In chat the fact is a statement, so that the first question already is another wording.
        other = texts[-1] if chat or len(texts) > 1 else None
        if other is not None:
            found["update", chat] = Demonstration("update", fact, other, answer)
    for asked, answer in retained:
        if answer:
            fact = fact_of(request, asked.chat)
            found["retain", asked.chat] = Demonstration("retain", fact, asked.text, answer)
    return found


def fact_of(request: EditRequest, chat: bool) -> str:
    """Return a fact as it is told: a statement, or the prompt with its new object (paper)."""
    if request.prompts and not chat:
        return f"{request.prompts[0]} {request.new}"
    return request.statement


def chosen(
    pool: Sequence[PoolFact], fact: EditRequest, near: torch.Tensor, chat: bool, k: int, seed: int
) -> list[Demonstration]:
    """Return at most ``k`` demonstrations for a prompt, the nearest one last.

    Args:
        pool: the facts that demonstrate.
        fact: the one that is asked for, which must not.
        near: (pool,) each fact's likeness with the prompt.
        chat: for which rendering.
        k: how many; copy, update and retain stand as 1 : 3 : 4 where the pool has them all.
        seed: of the order of kinds.
    """
    kinds = _kinds(k, random.Random(f"{seed} {fact.id}"))
    found: list[Demonstration] = []
    own = set(wordings(fact))
    for at in near.argsort(descending=True, stable=True).tolist():
        request = pool[at].request
        if request.id == fact.id or request.statement == fact.statement:
            continue
        if own & set(wordings(request)):  # an earlier answer to the same question
            continue
        kind = next((kind for kind in kinds if (kind, chat) in pool[at].shown), None)
        if kind is not None:
            kinds.remove(kind)
            found.append(pool[at].shown[kind, chat])
        if not kinds:
            break
    return found[::-1]


def plain_prompt(shown: Sequence[Demonstration], fact: str, copied: str, prompt: str) -> str:
    """Return a plain prompt in the paper's format.

    Args:
        shown: the demonstrations.
        fact: the new fact.
        copied: its own wording with its object, the last demonstration.
        prompt: what is to be continued.
    """
    lines = [f"New Fact: {d.fact}\nPrompt: {d.asked} {d.answer}\n\n" for d in shown]
    lines.append(f"New Fact: {fact}\nPrompt: {copied}\n\n")
    return f"{''.join(lines)}New Fact: {fact}\nPrompt: {prompt}"


def chat_turn(shown: Sequence[Demonstration], fact: str) -> str:
    """Return what stands before a question in chat, in the user's turn."""
    lines = [f"New Fact: {d.fact}\nPrompt: {d.asked}\nAnswer: {d.answer}\n\n" for d in shown]
    return f"{''.join(lines)}New Fact: {fact}\nPrompt: "


class EndOfLine:
    """Ends an answer with its line: in the paper's format the next example would follow."""

    def __init__(self, model: ChatModel) -> None:
        self._model, self._stop = model, min(model.stop_ids)

    def choose(self, generated: Sequence[int], logits: torch.Tensor) -> int:
        token = int(logits.argmax())
        return self._stop if "\n" in self._model.decode([token]) else token


@dataclass(frozen=True)
class IkeMemory:
    """By the protocol of ``editors.generation.Memory``.

    Attributes:
        index: the requests by their wordings.
        requests: the facts, oldest first.
        pool: what demonstrates, in the same order; empty: nothing does.
        settings: of the method.
        seed: of the demonstrations' order.
    """

    index: Index
    requests: tuple[EditRequest, ...]
    pool: tuple[PoolFact, ...]
    settings: IkeSettings
    seed: int

    def answer(
        self,
        model: ChatModel,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        progress: Progress | None,
    ) -> list[Generation]:
        """Continue prompts, each after the nearest fact."""
        turns = Turns(model)
        asked = [asked_of(model, turns, prompt) for prompt in prompts]
        near = self.index.likeness(asked)
        ways = [self._way(model, turns, *one) for one in zip(prompts, asked, near, strict=True)]
        return answered(model, prompts, ways, max_new_tokens, progress)

    def _way(
        self,
        model: ChatModel,
        turns: Turns,
        prompt: Sequence[int],
        asked: Asked,
        near: torch.Tensor,
    ) -> Way | None:
        if not self.requests:
            return None
        at, cosine = best(near)
        if self.settings.scope > 0 and cosine < self.settings.scope:
            return None
        fact = self.requests[at]
        k = self.settings.demonstrations if self.pool else 0
        shown = chosen(self.pool, fact, near, asked.chat, k, self.seed) if k else []
        told = fact_of(fact, asked.chat)
        if asked.chat:
            span = turns.question(prompt)
            # Tokenised anew as a whole: a question's first token is another one after a space.
            turn = model.encode_answer(f"{chat_turn(shown, told)}{model.decode(prompt[span])}")
            return Way([*prompt[: span.start], *turn, *prompt[span.stop :]])
        copied = told if fact.prompts else fact.statement
        text = plain_prompt(shown, told, copied, model.decode(prompt))
        return Way(model.encode(text), EndOfLine(model))


def _kinds(k: int, drawn: random.Random) -> list[str]:
    """Return ``k`` kinds in the paper's ratio, shuffled; the rest of a division retains."""
    total = sum(RATIO.values())
    counts = {kind: k * share // total for kind, share in RATIO.items()}
    counts["retain"] += k - sum(counts.values())
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    drawn.shuffle(kinds)
    return kinds
