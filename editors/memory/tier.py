"""The memory tier: an approved edit is answered at once, the weights untouched.

A question in scope of a fact (``editors.memory.scope``) is asked with the fact in the system
message, and decoding is guided along the object's tokens once the answer reaches it, because a
small model misspells names that it was told (design.md §4). A plain text in scope goes on with the
object. What is out of scope never meets the tier, so removing a fact restores the unedited answers
exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from editors.memory.guide import ObjectGuide, lead
from editors.memory.scope import Fact, Match, Scope
from store.records import Reply

if TYPE_CHECKING:
    from editors.generation import Generation, Guide
    from editors.model import ChatModel
    from editors.runtime import Turns

TOLD = "This is up to date: "


@dataclass(frozen=True)
class Answered:
    """A reply, and the edits that the memory tier used for it, in order."""

    reply: Reply
    edit_ids: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return self.reply.text

    @property
    def edit_id(self) -> str | None:
        """The edit whose object was asked for, or about."""
        return self.edit_ids[-1] if self.edit_ids else None


@dataclass
class MemoryTier:
    """Facts in scope, and how they are said. By the protocol of ``editors.generation.Memory``: it
    may be attached to a model (``editors.memory.attached``)."""

    scope: Scope
    _turns: tuple[ChatModel, Turns] | None = field(default=None, repr=False)

    def ask(
        self,
        model: ChatModel,
        questions: Sequence[str],
        *,
        max_new_tokens: int = 48,
        progress: Callable[[int], None] | None = None,
    ) -> list[Answered]:
        """Answer questions in chat, each with the fact it falls under or as the bare model."""
        matches = self.scope.match(questions)
        systems = [_system(model, match) for match in matches]
        asked = [m.asked if m else q for q, m in zip(questions, matches, strict=True)]
        replies = model.answer(
            asked,
            systems=systems,
            guides=[
                ObjectGuide(model, match.fact) if match and match.fact else None
                for match in matches
            ],
            max_new_tokens=max_new_tokens,
            progress=progress,
        )
        missed = _missed(matches, [reply.text for reply in replies])
        if missed:  # the answer never came to its object: begin it with the statement
            again = model.answer(
                [asked[i] for i, _ in missed],
                systems=[systems[i] for i, _ in missed],
                guides=[ObjectGuide(model, fact, opened=True) for _, fact in missed],
                starts=[lead(fact) for _, fact in missed],
                max_new_tokens=max_new_tokens,
            )
            for (i, _), reply in zip(missed, again, strict=True):
                replies[i] = reply
        return [
            Answered(
                replace(reply, question=question),
                tuple(fact.id for fact in match.used) if match else (),
            )
            for question, match, reply in zip(questions, matches, replies, strict=True)
        ]

    def answer(
        self,
        model: ChatModel,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        progress: Callable[[int], None] | None,
    ) -> list[Generation]:
        """Continue token prompts, renderings of a chat or plain texts."""
        matches = self.matches(model, prompts)
        return self.continued(model, prompts, matches, max_new_tokens, progress)

    def matches(self, model: ChatModel, prompts: Sequence[Sequence[int]]) -> list[Match | None]:
        """Return what each token prompt's last question, or its plain text, comes to."""
        turns = self._turns_of(model)
        return self.scope.match(
            [model.decode(prompt[turns.question(prompt)]) for prompt in prompts]
        )

    def told(
        self, model: ChatModel, prompt: Sequence[int], match: Match
    ) -> tuple[list[int], Guide | None]:
        """Return the prompt that is asked in place of one, and what guides its answer."""
        turns = self._turns_of(model)
        guide = (
            ObjectGuide(model, match.fact, opened=not turns.chat(prompt)) if match.fact else None
        )
        return _told(model, turns, prompt, match), guide

    def continued(
        self,
        model: ChatModel,
        prompts: Sequence[Sequence[int]],
        matches: Sequence[Match | None],
        max_new_tokens: int,
        progress: Callable[[int], None] | None = None,
    ) -> list[Generation]:
        """Continue token prompts that ``matches`` says what they come to."""
        from editors.generation import Generation, generate

        if not any(matches):
            return generate(model, prompts, max_new_tokens=max_new_tokens, progress=progress)
        pairs = [
            self.told(model, prompt, match) if match else (list(prompt), None)
            for prompt, match in zip(prompts, matches, strict=True)
        ]
        told, guides = [ids for ids, _ in pairs], [guide for _, guide in pairs]
        made = generate(
            model, told, guides=guides, max_new_tokens=max_new_tokens, progress=progress
        )
        missed = _missed(matches, [model.decode(one.tokens) for one in made])
        if missed:
            leads = [model.encode_answer(lead(fact)) for _, fact in missed]
            again = generate(
                model,
                [[*told[i], *begun] for (i, _), begun in zip(missed, leads, strict=True)],
                guides=[ObjectGuide(model, fact, opened=True) for _, fact in missed],
                max_new_tokens=max_new_tokens,
            )
            for (i, _), begun, one in zip(missed, leads, again, strict=True):
                made[i] = Generation((*begun, *one.tokens), one.logprobs, one.stopped)
        return made

    def _turns_of(self, model: ChatModel) -> Turns:
        from editors.runtime import Turns

        if self._turns is None or self._turns[0] is not model:
            self._turns = (model, Turns(model))
        return self._turns[1]


def _missed(matches: Sequence[Match | None], texts: Sequence[str]) -> list[tuple[int, Fact]]:
    """Return which answers lack the object of their fact, and the facts."""
    return [
        (i, match.fact)
        for i, (match, text) in enumerate(zip(matches, texts, strict=True))
        if match and match.fact and match.fact.new not in text
    ]


def _system(model: ChatModel, match: Match | None) -> str | None:
    """Return the system message that tells a match's facts; None: the default one."""
    if match is None:
        return None
    return f"{model.default_system()}\n{_facts(match)}".strip()


def _facts(match: Match) -> str:
    return TOLD + " ".join(fact.statement for fact in match.used)


def _told(model: ChatModel, turns: Turns, prompt: Sequence[int], match: Match) -> list[int]:
    """Return a prompt that tells the facts, and asks about the objects in place of their names."""
    ids = list(prompt)
    if match.hops:
        at = turns.question(ids)
        ids[at] = model.encode_answer(match.asked) if turns.chat(ids) else model.encode(match.asked)
    if not turns.chat(ids):
        return ids  # the object is written at once
    return turns.told(ids, _facts(match))
