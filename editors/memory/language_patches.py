"""Language patches: "if this is asked, that holds", mixed in by a gate (Murty et al. 2022; M5).

A patch has a condition and a consequence. The gate ``g`` says how surely the condition applies to
a prompt; the interpreter is the model that is told the consequence. Token by token,
``p = g · p(told) + (1 - g) · p(untold)``: both rows run side by side, each with its own keys and
values, over the same answer so far. Of several patches the one with the largest gate acts.

The gate is SERAC's trained scope, or the model's own word for it (``gate = "likelihood"``): the
log-odds of yes against no when it is asked whether the condition applies, shifted so that own
wordings and strangers lie on either side of even. The paper trains gate and interpreter in one
T5; here nothing in the weights moves. A gate below ``least`` counts as closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from editors.generation import Generation
from editors.memory.attached import MemoryDelta
from editors.memory.scope_head import HeadSettings
from editors.memory.serac import Record, Scopes, scopes
from editors.memory.texts import (
    Progress,
    TextEditor,
    TextSettings,
    TextState,
    Way,
    answered,
    asked_of,
    clarified,
    everyday,
    wordings,
)
from editors.model import ChatModel
from editors.question_embeddings import Asked
from editors.requests import EditorError, EditRequest
from editors.runtime import Turns

NAME = "language-patches"
GATES = ("scope", "likelihood")
APPLIES = (
    "Text 1: {condition}\nText 2: {text}\n"
    "Do both texts ask for exactly the same thing? Answer only yes or no."
)
_CALIBRATED = 16  # patches, the newest, that the likelihood's shift is measured on


@dataclass(frozen=True)
class PatchSettings(HeadSettings, TextSettings):
    gate: str = "scope"  # what opens a patch: scope (trained) or likelihood (the model is asked)
    least: float = 0.1  # gate below which the model is left alone, 0..1
    siblings: int = 4  # times that a condition is about another subject, where it is closed


@dataclass(frozen=True)
class LanguagePatches(PatchSettings, TextEditor):
    """The method by the protocol of ``editors.editor``."""

    def edit(
        self, model: ChatModel, state: TextState, requests: Sequence[EditRequest]
    ) -> MemoryDelta:
        """Return the memory of all requests as patches.

        Raises EditorError: no such gate.
        """
        if self.gate not in GATES:
            raise EditorError(f"gate is one of {', '.join(GATES)}, not {self.gate!r}")
        found = scopes(state, requests, self, self.siblings)
        conditions = tuple(wordings(request)[0].text for request in requests)
        shift = None
        if self.gate == "likelihood" and requests:
            shift = measured_shift(model, requests[-_CALIBRATED:])
        return MemoryDelta(PatchMemory(found, conditions, self.least, shift))


@dataclass(frozen=True)
class PatchMemory:
    """By the protocol of ``editors.generation.Memory``.

    Attributes:
        scopes: the trained gate over the consequences.
        conditions: of each record, by its number.
        least: gate below which a patch is closed.
        shift: log-odds at which the likelihood's gate is half open; None: not asked.
    """

    scopes: Scopes
    conditions: tuple[str, ...]
    least: float
    shift: float | None

    def answer(
        self,
        model: ChatModel,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        progress: Progress | None,
    ) -> list[Generation]:
        """Continue prompts, with the told row mixed in where a gate is open."""
        turns = Turns(model)
        asked = [asked_of(model, turns, prompt) for prompt in prompts]
        ways: list[Way | None] = []
        for number, (prompt, found) in enumerate(
            zip(prompts, self.gates(model, asked), strict=True)
        ):
            way = None
            if found is not None and found[1] >= self.least:
                told = clarified(model, turns, prompt, found[0].statement)
                way = Way(prompt, Mixture(Told(model, told, -1 - number), found[1]))
            ways.append(way)
        return answered(model, prompts, ways, max_new_tokens, progress)

    def gates(self, model: ChatModel, asked: Sequence[Asked]) -> list[tuple[Record, float] | None]:
        """Return each question's patch with the largest gate, and that gate."""
        found = self.scopes.of(asked)
        if self.shift is None:
            return found
        # The model is asked about the likeliest patch only: about all it would take too long.
        open_at = [at for at, one in enumerate(found) if one is not None]
        pairs = [
            (self.conditions[one[0].number], asked[at].text)
            for at, one in enumerate(found)
            if one is not None
        ]
        made = torch.sigmoid(odds(model, pairs) - self.shift).tolist()
        for at, gate in zip(open_at, made, strict=True):
            best = found[at]
            found[at] = (best[0], gate) if best is not None else None
        return found


def mixture(told: torch.Tensor, untold: torch.Tensor, gate: float) -> torch.Tensor:
    """Return the mixed distribution of logits (…, vocab), float32: at gate 0 exactly the untold
    one, at 1 exactly the told one."""
    return gate * told.float().softmax(-1) + (1 - gate) * untold.float().softmax(-1)


class Told:
    """A row that is told something, run beside another one over the same answer."""

    def __init__(self, model: ChatModel, prompt: Sequence[int], row: int) -> None:
        from transformers import DynamicCache

        self._model, self._waiting, self._row = model, list(prompt), row
        self._cache: Any = DynamicCache(config=model.model.config)
        self._seen = 0

    def logits(self, generated: Sequence[int]) -> torch.Tensor:
        """Return the logits (vocab,) after the prompt and an answer so far, which must go on
        from the last call's."""
        answer = list(generated[self._seen :])
        ids = torch.tensor([self._waiting + answer], device=self._model.device)
        before = self._cache.get_seq_length()
        mask = ids.new_ones(1, before + ids.shape[1])
        for runtime in self._model.runtimes:
            runtime.coming((self._row,), ids, mask, not before)
        self._waiting, self._seen = [], len(generated)
        made: torch.Tensor = self._model.model(
            ids,
            attention_mask=mask,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[0, -1]
        return made


@dataclass(frozen=True)
class Mixture:
    """A guide (``editors.generation.Guide``): the likeliest token of the mixture."""

    told: Told
    gate: float

    def choose(self, generated: Sequence[int], logits: torch.Tensor) -> int:
        return int(mixture(self.told.logits(generated), logits, self.gate).argmax())


@torch.inference_mode()
def odds(model: ChatModel, pairs: Sequence[tuple[str, str]]) -> torch.Tensor:
    """Return for conditions and texts (n,) the log-odds of yes against no, by the model."""
    yes, no = (
        [model.encode_answer(word)[0] for word in words] for words in (("Yes", "yes"), ("No", "no"))
    )
    found = []
    for condition, text in pairs:
        ids = model.encode(model.render(APPLIES.format(condition=condition, text=text)))
        made = model.model(torch.tensor([ids], device=model.device), logits_to_keep=1).logits
        last = made[0, -1].float().cpu()
        found.append(last[yes].logsumexp(0) - last[no].logsumexp(0))
    return torch.stack(found) if found else torch.zeros(0)


def measured_shift(model: ChatModel, requests: Sequence[EditRequest]) -> float:
    """Return the log-odds midway between requests' own wordings and strangers."""
    ordinary = everyday()
    own, strange = [], []
    for at, request in enumerate(requests):
        asked = wordings(request)
        own.append((asked[0].text, asked[-1].text))
        beside = request.neighbours[:1] or (ordinary[at % len(ordinary)].text,)
        strange.append((asked[0].text, beside[0]))
    made = odds(model, [*own, *strange])
    return float(made[: len(own)].mean() + made[len(own) :].mean()) / 2
