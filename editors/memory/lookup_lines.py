"""What is run for an edit of lookup neurons: its wordings with the answer, and its negatives.

The states are those of the unedited model at its last layer: nothing that is edited changes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from editors.architectures import ModelView
from editors.capture import keys_at
from editors.memory.compiled import own_lead
from editors.memory.shared_wordings import Lent
from editors.memory.states import digest
from editors.memory.unedited_replies import REPLY_TOKENS
from editors.model import ChatModel
from editors.question_embeddings import Asked
from editors.requests import EditRequest


@dataclass(frozen=True)
class Line:
    """A sequence to run: ``count`` states before its end are wanted, the last ones.

    ``targets`` are what these are to write (none: a negative); ``bare`` says that the answer
    begins at once, without a lead; ``own`` that the request itself asks so.
    """

    ids: tuple[int, ...]
    count: int
    targets: tuple[int, ...] = ()
    bare: bool = True
    own: bool = False

    @property
    def name(self) -> str:
        """A digest of what is run."""
        return digest(self.count, *self.ids)


def lines_of(
    model: ChatModel, request: EditRequest, given: Lent, replies: Mapping[str, str]
) -> list[Line]:
    """Return what is run for one request: its wordings with the answer, then its negatives."""
    stop = min(model.stop_ids)
    bare = tuple(model.encode_answer(request.new))
    spaced = tuple(model.encode_answer(f" {request.new}"))
    made = []
    own = [Asked(q, True) for q in request.questions] + [Asked(p, False) for p in request.prompts]
    for asked in (*own, *given.alike):
        prompt = _prompt(model, asked)
        answer = (*bare, stop) if asked.chat else spaced
        made.append(_answered(prompt, answer, bare=True, own=asked in own))
        if asked.chat and (lead := own_lead(replies.get(asked.text, ""), request.old)):
            begun = (*prompt, *model.encode_answer(lead))
            made.append(_answered(begun, (*spaced, stop), bare=False, own=asked in own))
    made += [Line(_prompt(model, asked), 1) for asked in (*given.beside, *given.elsewhere)]
    for question in request.neighbours:
        prompt = _prompt(model, Asked(question, True))
        reply = tuple(model.encode_answer(replies.get(question, ""))[:REPLY_TOKENS])
        made.append(Line((*prompt, *reply), len(reply) + 1))
    return made


def read(shown: ModelView, layer: int, lines: Sequence[Line]) -> dict[str, torch.Tensor]:
    """Run lines: what enters a layer's MLP at their last places, (count, hidden) by name."""
    places = [list(range(len(one.ids) - one.count, len(one.ids))) for one in lines]
    found = keys_at(shown, [one.ids for one in lines], [layer], places, part="mlp")[0].cpu()
    parts = found.split([one.count for one in lines])
    return {one.name: part for one, part in zip(lines, parts, strict=True)}


def _answered(prompt: tuple[int, ...], answer: tuple[int, ...], bare: bool, own: bool) -> Line:
    return Line((*prompt, *answer[:-1]), len(answer), answer, bare, own)


def _prompt(model: ChatModel, asked: Asked) -> tuple[int, ...]:
    return tuple(model.encode(model.render(asked.text) if asked.chat else asked.text))
