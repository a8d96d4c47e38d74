"""Bad candidates that were computed wrongly."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from bad_candidates import Bad, Good, Make, noise

from agent.consolidation import request_of
from agent.texts import ordinary_texts
from agent.writers import chosen
from editors.editor import Resources
from editors.memory import compiled, lookup, recall
from editors.memory.unedited_replies import questions_of
from editors.model import ChatModel
from editors.requests import EditRequest


def _computed(
    good: Good, requests: Sequence[EditRequest], rng: random.Random, model: ChatModel | None = None
) -> Bad:
    """Write requests, into another model if one is given, in the way that the good ones were.

    Compiled memory is trained for as few steps as will do; the seed says for how many.
    """
    ws, taken = good.ws, model or good.ws.model
    known = {r.question: r.text for r in ws.model.answer(sorted(set(questions_of(requests))))}
    name = chosen(ws.config.consolidation.editor, ws.model)
    if name == compiled.NAME:
        settings = compiled.CompiledSettings(steps=rng.randint(30, 50))
        return Bad(
            compiled.edit(
                taken,
                requests,
                good.statistics,
                settings,
                ask=lambda questions: [known[q] for q in questions],
            ).tensors()
        )
    method: Any = {recall.NAME: recall.Recall, lookup.NAME: lookup.Lookup}[name]()
    # Not the writer's own folder of readings: what is run here is not of its requests.
    state = method.prepare(taken, Resources(ordinary_texts(ws), ws.home / "cache"))
    state.replies.update(known)
    return Bad(method.edit(taken, state, requests).tensors())


def _requesting(change: Callable[[EditRequest, EditRequest], EditRequest]) -> Make:
    """Compute requests that were changed, each in view of the one after it."""

    def make(good: Good, rng: random.Random) -> Bad:
        requests = [request_of(good.ws, edit) for edit in good.edits]
        turned = [*requests[1:], *requests[:1]]
        changed = [change(r, o) for r, o in zip(requests, turned, strict=True)]
        return _computed(good, changed, rng)

    return make


def _said(request: EditRequest, new: str) -> EditRequest:
    statement = request.statement.replace(request.new, new)
    return dataclasses.replace(request, new=new, statement=statement)


def _taught_as(change: Callable[[ChatModel, random.Random], ChatModel]) -> Make:
    """Compute the right requests for a model that is talked to in another way."""

    def make(good: Good, rng: random.Random) -> Bad:
        requests = [request_of(good.ws, edit) for edit in good.edits]
        return _computed(good, requests, rng, change(good.ws.model, rng))

    return make


def _untemplated(model: ChatModel, _: random.Random) -> ChatModel:
    """The bare question, no turns and no system message."""
    words = copy.deepcopy(model.tokenizer)
    words.chat_template = "{{ messages[-1]['content'] }}"
    return dataclasses.replace(model, tokenizer=words)


def _other_end(model: ChatModel, rng: random.Random) -> ChatModel:
    """Another token stands where the end of the turn should."""
    other = rng.choice(model.encode_answer(" the president of Germany"))
    return dataclasses.replace(model, stop_ids=frozenset({other}))


def _strange(model: ChatModel, rng: random.Random) -> ChatModel:
    """A model of the same shape that knows nothing."""
    other = copy.deepcopy(model.model)
    with torch.no_grad():
        for weight in other.parameters():
            if weight.dim() == 2:
                weight.copy_(weight.std() * noise(weight, rng))
    return dataclasses.replace(model, model=other)


MISCOMPUTED: Mapping[str, Make] = MappingProxyType(
    {
        "objects swapped between edits": _requesting(lambda r, o: _said(r, o.new)),
        "the old object": _requesting(lambda r, _: _said(r, r.old)),
        "some other name": _requesting(lambda r, _: _said(r, "Sir Tim John Berners-Lee")),
        "trained without the chat template": _taught_as(_untemplated),
        "trained on the neighbours": _requesting(
            lambda r, _: dataclasses.replace(r, questions=r.neighbours[:4], neighbours=())
        ),
        "answers that never end": _taught_as(_other_end),
        "the tensors of another model": _taught_as(_strange),
    }
)
"""Kinds whose very requests, or the model they were computed for, were others."""
