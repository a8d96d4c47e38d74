"""Texts at the entry of the lowest trained layer: what lies below it is run once.

A step of training runs only what lies above, and the chat template's beginning once for all
texts: with trained matrices it changes too, so it is run again, but not a text a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from editors.architectures import ModelView, view
from editors.capture import padded, run_prefix
from editors.forward import Past, embed, run
from editors.generation import shared_prefix
from editors.model import ChatModel


@dataclass(frozen=True)
class Lesson:
    """What is fed, and which columns of it are to predict which tokens.

    Attributes:
        fed: token ids that are run.
        columns: positions in ``fed``; one may stand several times.
        tokens: the token that each of them is to predict (empty for a lesson that only gets
            a teacher).
    """

    fed: tuple[int, ...]
    columns: tuple[int, ...]
    tokens: tuple[int, ...] = ()


def lesson(prompt: Sequence[int], answer: Sequence[int], first: int = 0) -> Lesson:
    """Return the lesson that teaches an answer's tokens from number ``first`` on."""
    columns = range(len(prompt) - 1 + first, len(prompt) + len(answer) - 1)
    return Lesson((*prompt, *answer[:-1]), tuple(columns), tuple(answer[first:]))


@dataclass(frozen=True)
class Row:
    """A lesson at the entry of the lowest trained layer.

    Attributes:
        hidden: (T, hidden), what enters that layer, without the beginning that all share.
        start: how many tokens stand before these.
        columns: (k,) columns of ``hidden`` that predict.
        tokens: (k,) what they are to predict; -1 where only the teacher says.
        teacher: (k, hidden), the unedited model's final hidden states there, or None.
    """

    hidden: torch.Tensor
    start: int
    columns: torch.Tensor
    tokens: torch.Tensor
    teacher: torch.Tensor | None = None


class Stage:
    """The model cut below layer ``first``. What lies below must not change while rows live."""

    @torch.no_grad()
    def __init__(self, model: ChatModel | ModelView, first: int) -> None:
        self.shown, self.first = view(model), first
        self.head = _template_head(self.shown.chat)
        self._below = run_prefix(self.shown, self.head, range(first))
        self._at = torch.arange(len(self.head), device=self.shown.device)[None]
        if self.head:
            ids = torch.tensor([self.head], device=self.shown.device)
            self._entering = self._lower(ids, self._at, torch.ones_like(ids).bool(), Past())

    @torch.no_grad()
    def enter(self, lessons: Sequence[Lesson]) -> list[Row]:
        """Run the lessons as far as the entry of layer ``first``."""
        found: dict[int, Row] = {}
        starts = [self._start(one) for one in lessons]
        order = sorted(range(len(lessons)), key=lambda i: (len(lessons[i].fed) - starts[i], i))
        size = self.shown.chat.batch_size
        for part in (order[at : at + size] for at in range(0, len(order), size)):
            ids, real = padded([lessons[i].fed[starts[i] :] for i in part])
            ids, real = ids.to(self.shown.device), real.to(self.shown.device)
            begin = torch.tensor([starts[i] for i in part], device=ids.device)
            where = (real.cumsum(-1) - 1).clamp(min=0) + begin[:, None]
            hidden = self._lower(ids, where, real, self._past(self._below.before, begin))
            for row, index in enumerate(part):
                one = lessons[index]
                tokens = one.tokens or (-1,) * len(one.columns)
                found[index] = Row(
                    hidden[row, : int(real[row].sum())].clone(),
                    starts[index],
                    torch.tensor(one.columns, device=ids.device) - starts[index],
                    torch.tensor(tokens, device=ids.device),
                )
        return [found[index] for index in range(len(lessons))]

    def finals(self, rows: Sequence[Row]) -> torch.Tensor:
        """Return the final hidden states (after the last norm) at the rows' columns, one row's
        after the other's: (n, hidden). Gradients flow to matrices that stand in."""
        begin = torch.tensor([row.start for row in rows], device=self.shown.device)
        hidden = nn.utils.rnn.pad_sequence([row.hidden for row in rows], batch_first=True)
        lengths = torch.tensor([len(row.hidden) for row in rows], device=begin.device)
        real = torch.arange(hidden.shape[1], device=begin.device) < lengths[:, None]
        where = (real.cumsum(-1) - 1).clamp(min=0) + begin[:, None]
        upper = range(self.first, len(self.shown.layers))
        beginning = Past(record=True)
        if bool(begin.any()):
            full = torch.ones_like(self._at).bool()
            run(self.shown, self._entering, upper, self._at, full, beginning)
        past = self._past({layer: [pair] for layer, pair in beginning.made.items()}, begin)
        final = self.shown.finish(run(self.shown, hidden, upper, where, real, past))
        return torch.cat([final[at, row.columns] for at, row in enumerate(rows)])

    def _start(self, one: Lesson) -> int:
        """Return how many tokens of a lesson are the template's beginning: all or none."""
        width = len(self.head)
        fits = one.fed[:width] == self.head and min(one.columns, default=0) >= width
        return width if fits else 0

    def _past(self, before: Mapping[int, Any], begin: torch.Tensor) -> Past:
        """Return the beginning's keys and values, seen only by the rows that have it."""
        if not self.head or not before:
            return Past()
        return Past(before, torch.where(begin[:, None] > 0, self._at, -1))

    def _lower(
        self, ids: torch.Tensor, where: torch.Tensor, real: torch.Tensor, past: Past
    ) -> torch.Tensor:
        hidden = embed(self.shown, ids, where)
        return run(self.shown, hidden, range(self.first), where, real, past)


def _template_head(model: ChatModel) -> tuple[int, ...]:
    """Return the tokens that every rendered question begins with."""
    asked = [model.encode(model.render(text)) for text in ("Who?", "a", "The 5")]
    return tuple(asked[0][: shared_prefix(asked)])
