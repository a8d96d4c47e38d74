"""Lookup neurons: facts as gated neurons of the last layer, all in closed form.

Compiled memory (methods.md X2) where nothing comes after it. A neuron of the last layer's MLP
writes one answer token of one edit. As no layer follows, an edit changes no other position's
states: the keys are those of the unedited model, the same whatever else is edited, and what a
column must be follows from the output head. So nothing is trained, and what was run for an edit
once (its wordings, its negatives) serves every later night.

The gate is that of compiled memory, ``SiLU(s·(a·x − θ·b·x))·(a·x)``: ``a`` answers 1 on the
neuron's own keys and 0 on ordinary text and on others' keys; ``b`` answers 1 on every token; θ is
each neuron's own, above what its highest negative answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from editors.architectures import ModelView, view
from editors.capture import keys_at
from editors.deltas import MlpExpansion
from editors.editor import Resources
from editors.key_statistics import everyday_chat, windows
from editors.linear_solve import ridged
from editors.memory.compiled import own_lead
from editors.memory.relation_match import HEAD, load
from editors.memory.shared_wordings import Lent, lent
from editors.model import ChatModel
from editors.question_embeddings import Asked, Embed
from editors.requests import EditorError, EditRequest

NAME = "lookup"
_WINDOW = 256


@dataclass(frozen=True)
class LookupSettings:
    wordings: int = 8  # that an edit is lent by others which ask the same
    beside: int = 12  # questions on its subject that others lend it, to be left alone
    elsewhere: int = 8  # its own wordings on others' subjects, to be left alone
    own_weight: float = 50.0  # weight of a neuron's own keys in its solve, together
    ridge: float = 0.02  # share of the mean diagonal added to the moment
    sharpness: float = 30.0  # s: how steeply a gate opens at its threshold
    lowest: float = 0.7  # least threshold θ
    highest: float = 0.85  # largest threshold, as a share of its weakest edited key's answer
    margin: float = 0.05  # of θ above the highest negative
    strength: float = 3.0  # of a column just above θ, in norms of the last layer's output
    statistics_tokens: int = 8192  # of ordinary text


@dataclass
class LookupState:
    """What is constant: states of ordinary text (tokens, hidden), and of every sequence that was
    run for an edit so far; replies of the unedited model."""

    ordinary: torch.Tensor
    size: float
    embed: Embed | None
    keys: dict[tuple[tuple[int, ...], int], torch.Tensor] = field(default_factory=dict)
    replies: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Line:
    """A sequence to run: ``count`` states before its end are wanted, the last ones.

    ``targets`` are what these are to write (none: a negative); ``bare`` says that the answer
    begins at once, without a lead; ``own`` that the request itself asks so.
    """

    ids: tuple[int, ...]
    count: int
    targets: tuple[int, ...] = ()
    bare: bool = True
    own: bool = False


@dataclass(frozen=True)
class Lookup(LookupSettings):
    """The method by the protocol of ``editors.editor``."""

    stacks: ClassVar[bool] = False

    def prepare(self, model: ChatModel, resources: Resources) -> LookupState:
        """Run ordinary text and everyday chat."""
        shown = view(model)
        last = len(shown.layers) - 1
        texts = windows(model, resources.texts, self.statistics_tokens, _WINDOW)
        ordinary = keys_at(shown, [*texts, *everyday_chat(model)], [last], part="mlp")[0]
        output = keys_at(shown, texts[:4], [last], part="layer", side="output")[0]
        size = float(output.norm(dim=-1).median())
        return LookupState(ordinary.float(), size, resources.embed)

    def edit(
        self, model: ChatModel, state: LookupState, requests: Sequence[EditRequest]
    ) -> MlpExpansion:
        """Compile all requests together; ``model`` is the unedited one."""
        shown = view(model)
        last = len(shown.layers) - 1
        if not requests:
            none = torch.zeros(0, shown.hidden)
            return MlpExpansion(last, none, none.clone(), none.T.clone())
        if not shown.gated:
            raise EditorError(f"lookup neurons need a gated MLP, and {model.name} has none")
        lines = self._lines(model, state, requests)
        _run(shown, state, [line for some in lines for line in some], last)
        gate, up, tokens = self._gates(state, lines)
        columns = self._columns(shown, tokens) * state.size
        return MlpExpansion(last, gate.float(), up.float(), columns.T.contiguous().cpu())

    def settled(
        self, model: ChatModel, state: LookupState, requests: Sequence[EditRequest]
    ) -> LookupState:
        return state

    def _lines(
        self, model: ChatModel, state: LookupState, requests: Sequence[EditRequest]
    ) -> list[list[_Line]]:
        """Return by request what is run for it."""
        embed = state.embed
        given = [Lent() for _ in requests]
        if embed is not None:
            given = lent(
                requests,
                lambda texts: embed([Asked(text, chat=False) for text in texts]),
                load(HEAD),
                alike=self.wordings,
                beside=self.beside,
                elsewhere=self.elsewhere,
            )
        asked = sorted({q for r in requests for q in (*r.questions, *r.neighbours)})
        missing = [question for question in asked if question not in state.replies]
        replies = model.answer(missing, max_new_tokens=24)
        state.replies.update((reply.question, reply.text) for reply in replies)
        return [
            _lines_of(model, request, one, state.replies)
            for request, one in zip(requests, given, strict=True)
        ]

    def _gates(
        self, state: LookupState, lines: Sequence[Sequence[_Line]]
    ) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        """Solve all gates: (neurons, hidden) gate rows and up rows, and the token of each."""
        flat = [(at, line) for at, some in enumerate(lines) for line in some]
        keys = torch.cat([state.keys[line.ids, line.count] for _, line in flat]).double()
        owner: list[int] = []  # of each row: its neuron, or -1
        edited: list[bool] = []  # whether the request itself asks so
        numbers: dict[tuple[int, object], int] = {}
        tokens: list[int] = []
        for at, line in flat:
            if not line.targets:
                owner += [-1] * line.count
                edited += [False] * line.count
            for place in range(len(line.targets)):
                tail = line.targets[place:]
                name = (at, (tail, line.bare if not place else None))
                if name not in numbers:
                    numbers[name] = len(numbers)
                    tokens.append(tail[0])
                owner.append(numbers[name])
                edited.append(line.own)
        of, own = torch.tensor(owner), torch.tensor(edited)
        ordinary = state.ordinary.double()
        base = ordinary.T @ ordinary / len(ordinary)
        shut = keys.T @ keys / len(keys)
        moment = ridged(base + shut, self.ridge)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(moment))
        every = torch.cat([keys, ordinary])
        b = torch.linalg.solve(ridged(every.T @ every / len(every), self.ridge), every.mean(0))
        rows = [(of == neuron).nonzero()[:, 0] for neuron in range(len(tokens))]
        a = self._solved(inverse, keys, rows)
        foreign = torch.cat([of, of.new_full((len(ordinary),), -1)])
        scores = every.float() @ a.T.float()
        level = (every @ b).float()
        mine = foreign[:, None] == torch.arange(len(tokens))
        # What a neuron is compared with is a·x − θ·b·x, so a·x by b·x is what θ stands above.
        share = scores / level.clamp(min=0.2)[:, None]
        highest = share.masked_fill(mine, -1.0).amax(0)
        asked = torch.cat([own, own.new_zeros(len(ordinary))])
        weakest = share.masked_fill(~(mine & asked[:, None]), 9.0).amin(0)
        theta = (highest + self.margin).clamp(min=self.lowest)
        theta = torch.minimum(theta, self.highest * weakest)
        gate = self.sharpness * (a - theta.double()[:, None] * b)
        return gate, self._up(a, theta), tokens

    def _up(self, a: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        """Scale ``a`` so that a gate a little above its threshold gives an activation of 1."""
        above = self.sharpness * self.margin
        opened = nn.functional.silu(torch.tensor(above)) * (theta + self.margin)
        return a / opened.double()[:, None]

    def _solved(
        self, inverse: torch.Tensor, keys: torch.Tensor, rows: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Return (neurons, hidden): 1 on each neuron's own rows on average, 0 elsewhere, by
        Woodbury's identity above one inverse for all."""
        found = []
        for own in rows:
            k = keys[own]
            solved = inverse @ k.T
            eye = torch.eye(len(k), dtype=k.dtype) * (len(k) / self.own_weight)
            a = solved @ torch.linalg.solve(eye + k @ solved, k.new_ones(len(k)))
            found.append(a / (k @ a).mean())
        return torch.stack(found)

    def _columns(self, shown: ModelView, tokens: Sequence[int]) -> torch.Tensor:
        """Return (neurons, hidden) columns that write each token, ``strength`` long.

        With G the second moment of what the head reads, ``(G + λ)⁻¹ g`` raises g's token over
        all others the most for its length.
        """
        head = shown.head.weight.detach().float()
        scale = shown.finish(torch.ones(1, shown.hidden, device=head.device)).float()
        read = head * scale
        moment = ridged((read.T @ read / len(read)).double(), self.ridge)
        unique = sorted(set(tokens))
        made = torch.linalg.solve(moment, read[unique].double().T).T.float()
        made = nn.functional.normalize(made, dim=-1) * self.strength
        number = {token: at for at, token in enumerate(unique)}
        return made[[number[token] for token in tokens]]


def _lines_of(
    model: ChatModel, request: EditRequest, given: Lent, replies: dict[str, str]
) -> list[_Line]:
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
    made += [_Line(_prompt(model, asked), 1) for asked in (*given.beside, *given.elsewhere)]
    for question in request.neighbours:
        prompt = _prompt(model, Asked(question, True))
        reply = tuple(model.encode_answer(replies.get(question, "")))
        made.append(_Line((*prompt, *reply), len(reply) + 1))
    return made


def _answered(prompt: tuple[int, ...], answer: tuple[int, ...], bare: bool, own: bool) -> _Line:
    return _Line((*prompt, *answer[:-1]), len(answer), answer, bare, own)


def _prompt(model: ChatModel, asked: Asked) -> tuple[int, ...]:
    return tuple(model.encode(model.render(asked.text) if asked.chat else asked.text))


def _run(shown: ModelView, state: LookupState, lines: Sequence[_Line], layer: int) -> None:
    """Run what was not run before, and keep its states."""
    missing = sorted({(line.ids, line.count) for line in lines} - state.keys.keys())
    if not missing:
        return
    # Chat and plain texts begin differently: apart, what the chats begin with is run once.
    begin: dict[int, list[tuple[tuple[int, ...], int]]] = {}
    for one in missing:
        begin.setdefault(one[0][0], []).append(one)
    for some in begin.values():
        places = [list(range(len(ids) - count, len(ids))) for ids, count in some]
        found = keys_at(shown, [ids for ids, _ in some], [layer], places, part="mlp")[0]
        parts = found.float().split([count for _, count in some])
        state.keys.update((one, part.clone()) for one, part in zip(some, parts, strict=True))
