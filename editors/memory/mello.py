"""MeLLo: questions of several hops, each hop checked against the memory (Zhong et al. 2023; M3).

Per round the question gets a sub-question and a tentative answer; only then is the stored fact
nearest to the sub-question looked up, and where it contradicts the answer it takes its place. At
most four rounds. The scaffold is written here and a model fills its slots, because small models
do not keep to a format; whether a fact contradicts is decided by likelihood: told the fact, the
model finds its own answer less likely. No fact in scope, no contradiction.

As an editor a question in scope of a fact is its own single sub-question. ``decompose`` lets the
model write sub-questions to all others, which takes a model that can (methods.md M3). What was
contradicted is told, and the model answers in its own way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from editors.generation import Generation, generate
from editors.memory.attached import MemoryDelta
from editors.memory.similarity import Index
from editors.memory.texts import (
    Progress,
    TextEditor,
    TextSettings,
    TextState,
    asked_of,
    clarified,
    everyday,
    outside,
    wordings,
)
from editors.model import ChatModel
from editors.question_embeddings import Asked
from editors.requests import EditRequest
from editors.runtime import Turns

NAME = "mello"
MOST_ROUNDS = 4
SCAFFOLD = """Question: In which city was the head of the Tessel Institute born?
Subquestion: Who is the head of the Tessel Institute?
Generated answer: The head of the Tessel Institute is Mira Holt.
Retrieved fact: The head of the Tessel Institute is Jon Varga.
Intermediate answer: Jon Varga
Subquestion: In which city was Jon Varga born?
Generated answer: Jon Varga was born in Lusk.
Intermediate answer: Lusk
Final answer: Lusk

Question: What language is spoken in the country of the Orlo river?
Subquestion: In which country is the Orlo river?
Generated answer: The Orlo river is in Norland.
Intermediate answer: Norland
Subquestion: What language is spoken in Norland?
Generated answer: Norlandic is spoken in Norland.
Intermediate answer: Norlandic
Final answer: Norlandic

"""
_SLOT = 40  # tokens of a slot at most


@dataclass(frozen=True)
class Hop:
    """One round: what was asked, the tentative answer, the fact looked up (None: none in
    scope), whether it contradicts, and the answer that goes on."""

    subquestion: str
    tentative: str
    fact: EditRequest | None
    contradicted: bool
    answer: str


class Slots(Protocol):
    """What fills the scaffold's slots: a model, or an oracle in tests."""

    def subquestion(self, question: str, hops: Sequence[Hop]) -> str | None:
        """Return the next sub-question; None where the last answer is the final one."""
        ...

    def tentative(self, subquestion: str) -> str:
        """Return the model's own answer."""
        ...

    def contradicts(self, subquestion: str, tentative: str, fact: EditRequest) -> bool:
        """Whether a stored fact contradicts it."""
        ...


Retrieve = Callable[[str], EditRequest | None]
"""Gives the stored fact that a sub-question asks for, or None."""


def solve(question: str, slots: Slots, retrieve: Retrieve, rounds: int = MOST_ROUNDS) -> list[Hop]:
    """Return the hops of a question, at most ``rounds``; the last one's answer is the final one."""
    hops: list[Hop] = []
    while len(hops) < rounds:
        asked = slots.subquestion(question, hops)
        if asked is None or any(hop.subquestion == asked for hop in hops):
            break
        tentative = slots.tentative(asked)
        fact = retrieve(asked)
        wrong = fact is not None and slots.contradicts(asked, tentative, fact)
        answer = fact.new if fact is not None and wrong else tentative
        hops.append(Hop(asked, tentative, fact, wrong, answer))
    return hops


@dataclass(frozen=True)
class MelloSettings(TextSettings):
    decompose: bool = False  # whether the model writes sub-questions to what is in no scope
    rounds: int = MOST_ROUNDS  # sub-questions a question at most (paper: 4)
    strangers: float = 0.05  # share of what must find nothing that may, by embedding
    siblings: int = 4  # times that a request's question is about another subject


@dataclass(frozen=True)
class Mello(MelloSettings, TextEditor):
    """The method by the protocol of ``editors.editor``."""

    def edit(
        self, model: ChatModel, state: TextState, requests: Sequence[EditRequest]
    ) -> MemoryDelta:
        """Return the memory of all requests."""
        beside = outside(state, requests, self.siblings)
        index = Index(state.embed, [wordings(request) for request in requests], beside)
        least = index.calibrated(everyday(), self.strangers)
        return MemoryDelta(MelloMemory(index, tuple(requests), least, self))


@dataclass(frozen=True)
class MelloMemory:
    """By the protocol of ``editors.generation.Memory``.

    Attributes:
        index: the requests by their wordings.
        requests: the facts, oldest first.
        least: cosine from which on a fact is in scope.
        settings: of the method.
    """

    index: Index
    requests: tuple[EditRequest, ...]
    least: float
    settings: MelloSettings

    def answer(
        self,
        model: ChatModel,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        progress: Progress | None,
    ) -> list[Generation]:
        """Continue prompts; those whose own answer is contradicted, told better."""
        turns = Turns(model)
        made = generate(model, prompts, max_new_tokens=max_new_tokens)
        told = {}
        for at, facts in enumerate(self._contradicted(model, turns, prompts, made)):
            if facts:
                text = " ".join(fact.statement for fact in facts)
                told[at] = clarified(model, turns, prompts[at], text)
        if progress:
            progress(len(prompts) - len(told))
        others = generate(
            model, list(told.values()), max_new_tokens=max_new_tokens, progress=progress
        )
        for at, one in zip(told, others, strict=True):
            made[at] = one
        return made

    def _contradicted(
        self,
        model: ChatModel,
        turns: Turns,
        prompts: Sequence[Sequence[int]],
        made: Sequence[Generation],
    ) -> list[list[EditRequest]]:
        """Return for each prompt the facts that its own answer, or a hop's, goes against."""
        asked = [asked_of(model, turns, prompt) for prompt in prompts]
        found: list[list[EditRequest]] = []
        for at, number in enumerate(self.index.match(asked, self.least)):
            facts: list[EditRequest] = []
            if number is not None:
                fact = self.requests[number]
                if contradicted(model, turns, prompts[at], made[at].tokens, fact):
                    facts = [fact]
            elif self.settings.decompose and self.requests and asked[at].chat:
                hops = solve(
                    asked[at].text,
                    ModelSlots(model, turns),
                    self.retrieve,
                    min(self.settings.rounds, MOST_ROUNDS),
                )
                facts = [hop.fact for hop in hops if hop.contradicted and hop.fact is not None]
            found.append(facts)
        return found

    def retrieve(self, subquestion: str) -> EditRequest | None:
        """Return the fact in whose scope a sub-question lies."""
        at = self.index.match([Asked(subquestion, True)], self.least)[0]
        return None if at is None else self.requests[at]


@dataclass(frozen=True)
class ModelSlots:
    """The slots filled by a model, without its memory: sub-questions in the scaffold, tentative
    answers in chat, in its own way of answering."""

    model: ChatModel
    turns: Turns

    def subquestion(self, question: str, hops: Sequence[Hop]) -> str | None:
        written = scaffold(question, hops)
        labels = ("Subquestion:", "Final answer:")
        if hops and self._likelier(written, labels) == labels[1]:
            return None
        line = self._line(self.model.encode(f"{written}{labels[0]}"))
        return line or None

    def tentative(self, subquestion: str) -> str:
        return self._line(self.model.encode(self.model.render(subquestion)))

    def contradicts(self, subquestion: str, tentative: str, fact: EditRequest) -> bool:
        prompt = self.model.encode(self.model.render(subquestion))
        answer = self.model.encode_answer(tentative)
        return contradicted(self.model, self.turns, prompt, answer, fact)

    def _likelier(self, written: str, labels: Sequence[str]) -> str:
        prompt = self.model.encode(written)
        return max(
            labels, key=lambda label: likelihood(self.model, prompt, self.model.encode(label))
        )

    def _line(self, prompt: Sequence[int]) -> str:
        made = generate(self.model, [prompt], max_new_tokens=_SLOT)[0]
        return self.model.decode(made.tokens).strip().partition("\n")[0].strip()


def scaffold(question: str, hops: Sequence[Hop]) -> str:
    """Return the worked examples and a question with its hops so far, ready for a label."""
    lines = [f"{SCAFFOLD}Question: {question}\n"]
    for hop in hops:
        lines.append(f"Subquestion: {hop.subquestion}\nGenerated answer: {hop.tentative}\n")
        if hop.fact is not None:
            lines.append(f"Retrieved fact: {hop.fact.statement}\n")
        lines.append(f"Intermediate answer: {hop.answer}\n")
    return "".join(lines)


def contradicted(
    model: ChatModel, turns: Turns, prompt: Sequence[int], answer: Sequence[int], fact: EditRequest
) -> bool:
    """Whether a model's answer to a prompt goes against a fact: it does not say the object, and
    is less likely when the fact is told."""
    if fact.new.casefold() in model.decode(answer).casefold():
        return False
    told = clarified(model, turns, prompt, fact.statement)
    return likelihood(model, told, answer) < likelihood(model, prompt, answer)


@torch.inference_mode()
def likelihood(model: ChatModel, prompt: Sequence[int], answer: Sequence[int]) -> float:
    """Return the mean log-probability of an answer's tokens; of no answer, that of ending."""
    wanted = list(answer) or [min(model.stop_ids)]
    ids = torch.tensor([[*prompt, *wanted]], device=model.device)
    logits = model.model(ids, logits_to_keep=len(wanted) + 1).logits[0, :-1].float()
    return float(logits.log_softmax(-1).gather(1, ids[0, -len(wanted) :, None]).mean())
