"""Recall heads: facts in the weights, looked up by subject and by what is asked of it.

Lookup neurons (``editors.memory.lookup``) open on the state in which an answer begins; there a
small model knows what is asked, and hardly of whom. Here the subject is caught where it is named,
and what is asked where the answer is made, and one attention head brings the two together:

- *Flags.* In the layer below, neurons open at an edited subject's last token and write a flag, in
  directions that the keys and values of the next layer's own heads do not read. A flag holds
  a key for each relation that is edited, and a code for the subject.
- *A head.* Its query is what is asked (a few dimensions that tell relations apart). It rests on the
  first token, whose value is nothing; only a flag whose key is asked for outweighs that. It
  then brings the subject's code.
- *Answers.* Neurons of the head's layer open where a subject's code has come in, each at its place
  of the answer, and write one token.

All of it is solved in closed form from states of the unedited model, and stays exact: the model's
own heads do not read flags in that layer, and what is written there changes no state that a gate
reads. Where no edited subject is named, or something else is asked of it, the model
computes what it did, but for what the layers above make of the flag itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from editors.architectures import ModelView, view
from editors.deltas import HeadExpansion, JointDelta, MlpExpansion
from editors.editor import Resources
from editors.key_statistics import everyday_chat, windows
from editors.linear_solve import moment
from editors.memory import recall_solve as solve
from editors.memory.recall_lines import (
    REPLY_TOKENS,
    Line,
    Ordinary,
    Readings,
    lines_of,
    masked_of,
    ordinary,
)
from editors.memory.recall_rows import Rows, rows_of
from editors.memory.relation_match import HEAD, load
from editors.memory.shared_wordings import Lent, lent
from editors.model import ChatModel
from editors.question_embeddings import Asked, Embed
from editors.requests import EditorError, EditRequest

NAME = "recall"
_WINDOW = 256
_FITTING = ("llama", "mistral")
"""Architectures whose heads have neither biases nor norms of their own."""


@dataclass(frozen=True)
class RecallSettings:
    depth: float = 0.78  # share of the layers below the head's
    wordings: int = 8  # that an edit is lent by others which ask the same
    beside: int = 8  # questions on its subject that others lend it, to be left alone
    elsewhere: int = 8  # its own wordings on others' subjects: what is asked is the same
    alike: float = 0.8  # probability from which on two wordings ask the same
    pool: int = 200  # places of other edits that ask the same, to solve a filter on
    own_weight: float = 50.0  # weight of what a reading is to answer 1 on, together
    ridge: float = 0.02  # share of the mean diagonal added to the moments
    sharpness: float = 300.0  # how steeply gates open
    flag_least: float = 0.8  # least threshold of a flag
    flag_most: float = 0.9  # largest, as a share of its weakest subject token's answer
    flag_ramp: float = 0.02  # above the threshold, where a flag is whole
    flag_size: float = 9.0  # in standard deviations of what is read where there is none
    present: float = 4.5  # the same of the one dimension that tells of any flag
    rank: int = 40  # dimensions that relations are told apart by
    codes: int = 64  # dimensions that subjects are told apart by
    steepness: float = 60.0  # of the head's choice between flag and rest
    match: float = 0.6  # what the rest weighs, where a flag that is meant has 1
    hush: float = 0.5  # how far below nothing a token without a flag is
    asked_least: float = 0.5  # least share of what its own wordings answer that a match takes
    asked_most: float = 0.65  # largest share of what the weakest of them answers
    code_size: float = 10.0  # of a code, in standard deviations of what stands there without
    code_weight: float = 0.8  # of the code in an answer's gate; its place has about 1
    place_least: float = 0.4  # least share of its place that an answer's gate takes
    place_most: float = 0.55  # largest
    strength: float = 8.0  # of a column, in norms of the state
    statistics_tokens: int = 8192  # of ordinary text


@dataclass
class RecallState:
    """What is constant: readings of ordinary text and of what was run for edits, replies of the
    unedited model by question."""

    ordinary: Ordinary
    embed: Embed | None = None
    readings: Readings = field(default_factory=Readings)
    replies: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Recall(RecallSettings):
    """The method by the protocol of ``editors.editor``."""

    stacks: ClassVar[bool] = False

    def prepare(self, model: ChatModel, resources: Resources) -> RecallState:
        """Run ordinary text and everyday chat."""
        shown = view(model)
        layer = self._layer(shown)
        texts = windows(model, resources.texts, self.statistics_tokens, _WINDOW)
        seen = ordinary(shown, layer, [*texts, *everyday_chat(model)])
        return RecallState(seen, resources.embed)

    def edit(
        self, model: ChatModel, state: RecallState, requests: Sequence[EditRequest]
    ) -> JointDelta:
        """Solve all requests together; ``model`` is the unedited one."""
        shown = view(model)
        layer = self._layer(shown)
        if not requests:
            return JointDelta(())
        if nameless := [request.id for request in requests if not request.subject]:
            raise EditorError(f"recall heads need the subject of edit {nameless[0]}")
        lines = self._lines(model, state, requests)
        state.readings.run(shown, layer, (line for some in lines for line in some))
        rows = rows_of(requests, lines, state.readings)
        return self._solved(shown, layer, state, requests, rows)

    def settled(
        self, model: ChatModel, state: RecallState, requests: Sequence[EditRequest]
    ) -> RecallState:
        return state

    def _layer(self, shown: ModelView) -> int:
        layer = max(int(self.depth * len(shown.layers)), 1)
        attention: Any = getattr(shown.layers[layer], "self_attn", None)
        biased = getattr(getattr(attention, "q_proj", None), "bias", None) is not None
        if shown.row.name not in _FITTING or biased or shown.window(layer):
            raise EditorError(
                f"recall heads need an attention without biases, norms or window of its own, and "
                f"{shown.chat.name} ({shown.row.name}) has another; use compiled memory"
            )
        return layer

    def _lines(
        self, model: ChatModel, state: RecallState, requests: Sequence[EditRequest]
    ) -> list[list[Line]]:
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
        replies = model.answer(missing, max_new_tokens=REPLY_TOKENS)
        state.replies.update((reply.question, reply.text) for reply in replies)
        subjects = sorted({request.subject for request in requests})
        wordings = _Wordings(requests)
        return [
            lines_of(
                model,
                request,
                one,
                state.replies,
                # Another subject to make alike names with, always the same one.
                subjects[subjects.index(request.subject) - 1] if len(subjects) > 1 else "",
                wordings.of,
            )
            for request, one in zip(requests, given, strict=True)
        ]

    def _solved(
        self,
        shown: ModelView,
        layer: int,
        state: RecallState,
        requests: Sequence[EditRequest],
        rows: Rows,
    ) -> JointDelta:
        attention: Any = shown.layers[layer].self_attn
        width = int(attention.head_dim)
        group = attention.q_proj.out_features // attention.k_proj.out_features
        asks = self._alike(state, requests, rows)
        filters = self._filters(state, rows, asks, width)
        room = self._room(shown, layer, state, rows, len(filters.query), width)
        rank = len(filters.query)
        codes = solve.codes(len(rows.subjects), len(room.size) - rank - 1)
        flags = self._flags(state, rows, filters, codes, room)
        head, read = self._head(shown, layer, state, rows, filters, room, width, group)
        answers = self._answers(shown, layer, state, rows, asks, codes, read)
        return JointDelta((MlpExpansion(layer - 1, *flags), head, answers))

    def _alike(
        self, state: RecallState, requests: Sequence[EditRequest], rows: Rows
    ) -> torch.Tensor:
        """Return (edits, rows) bool: where an edit's own fact, or the same of another subject, is
        asked for."""
        texts = rows.wordings
        own = torch.zeros(len(requests), max(len(texts), 1))
        number = {text: at for at, text in enumerate(texts)}
        mine = [
            [number[m] for t in (*r.questions, *r.prompts) if (m := masked_of(t, r.subject))]
            for r in requests
        ]
        sure = torch.eye(max(len(texts), 1))
        if state.embed is not None and texts:
            vectors = state.embed([Asked(text, chat=False) for text in texts])
            head = load(HEAD)
            sure = torch.stack([head.alike(vector, vectors) for vector in vectors])
        for at, some in enumerate(mine):
            if some:
                own[at] = sure[some].amax(0)
        known = rows.wording >= 0
        same = (own[:, rows.wording.clamp(min=0)] >= self.alike) & known
        edits = torch.arange(len(requests))[:, None]
        return same | ((rows.edit == edits) & rows.asked)

    def _pooled(self, same: torch.Tensor, rows: Rows, edit: int) -> torch.Tensor:
        """Return an edit's own places, and some of others which ask the same: as many at the
        answer's beginning as later."""
        own = ((rows.edit == edit) & rows.asked).nonzero()[:, 0]
        found = [own]
        for later in (False, True):
            others = (same & (rows.edit != edit) & (rows.later == later)).nonzero()[:, 0]
            found.append(_spread(others, self.pool))
        return torch.cat(found)

    def _filters(
        self, state: RecallState, rows: Rows, asks: torch.Tensor, width: int
    ) -> solve.Filters:
        """Solve what tells relations apart, scaled so that each edit's threshold is ``match``."""
        seen, text = rows.query, state.ordinary
        usual = text.query[~text.first]
        place = solve.ground(seen, text.query, text.first, self.ridge)
        made = torch.stack(
            [
                solve.direction(
                    place.inverse, seen[self._pooled(asks[at], rows, at)], self.own_weight
                )
                for at in range(len(asks))
            ]
        )
        second = moment(seen)[0] + moment(usual)[0]
        found = solve.filters(made, second, min(self.rank, width - 2))
        keys = found.keys
        level = place.levels(seen)
        shares = (seen @ found.query.T.float() @ keys.T.float()) / level[:, None]
        for at in range(len(keys)):
            mine = rows.edit == at
            first = mine & rows.asked & ~rows.later
            share = shares[:, at] / shares[first, at].mean()
            keys[at] /= float(shares[first, at].mean())
            weakest = share[first & rows.own].amin()
            later = share[mine & rows.asked & rows.own & rows.later]
            if len(later):
                weakest = torch.minimum(weakest, later.amin().clamp(min=self.match))
            beside = share[mine & rows.beside]
            highest = beside.amax() + 0.05 if len(beside) else share.new_tensor(0.0)
            threshold = torch.minimum(
                highest.clamp(min=self.asked_least), self.asked_most * weakest
            )
            keys[at] *= self.match / float(threshold)
        size = keys.norm(dim=1).mean()
        return solve.Filters(found.query * size, keys / size)

    def _room(
        self, shown: ModelView, layer: int, state: RecallState, rows: Rows, rank: int, width: int
    ) -> solve.Room:
        attention: Any = shown.layers[layer].self_attn
        reading = torch.cat([attention.k_proj.weight, attention.v_proj.weight]).detach().cpu()
        text = state.ordinary
        free = shown.hidden - len(reading)
        dims = rank + 1 + max(min(self.codes, width, free - rank - 1), 1)
        return solve.room(
            reading,
            _gains(shown.layers[layer].input_layernorm),
            [text.query[~text.first], rows.query, rows.states],
            text.query[text.first],
            dims,
            self.flag_size,
            self.present,
        )

    def _flags(
        self,
        state: RecallState,
        rows: Rows,
        filters: solve.Filters,
        codes: torch.Tensor,
        room: solve.Room,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return gate rows, up rows and down columns: two neurons a subject, whose difference is
        a step, so that a flag is whole wherever it is written."""
        text, seen = state.ordinary, rows.named
        place = solve.ground(seen, text.flag, text.first, self.ridge)
        made = torch.stack(
            [
                solve.direction(place.inverse, seen[rows.owner == at], self.own_weight)
                for at in range(len(rows.subjects))
            ]
        )
        every = torch.cat([seen, rows.lookalikes, text.flag])
        owner = torch.full((len(every),), -1)
        owner[: len(seen)] = rows.owner
        shares = every @ made.T.float() / place.levels(every)[:, None]
        opens = solve.thresholds(shares, owner, self.flag_least, self.flag_most, 0.05).double()
        gates, columns = [], []
        tall = self.sharpness * self.flag_ramp
        flags = _written(rows, filters, codes, room) * float(rows.spread.mean())
        for at, (one, open_) in enumerate(zip(made, opens, strict=True)):
            low, high = (
                self.sharpness * place.gate(one, threshold)
                for threshold in (open_, open_ + self.flag_ramp)
            )
            gates += [low, high]
            # As it is written on the subject's own tokens on average.
            own = seen[rows.owner == at].double()
            step = nn.functional.silu(own @ low) - nn.functional.silu(own @ high)
            there = step * (own @ place.level) / tall * rows.spread.mean()
            there = there / rows.spread[rows.owner == at]
            whole = there[there > 0.3]
            flag = flags[at] / (whole.mean() if len(whole) else 1.0)
            columns += [flag, -flag]
        up = (place.level / tall).expand(len(gates), -1)
        return torch.stack(gates).float(), up.float().contiguous(), _columns(columns)

    def _head(
        self,
        shown: ModelView,
        layer: int,
        state: RecallState,
        rows: Rows,
        filters: solve.Filters,
        room: solve.Room,
        width: int,
        group: int,
    ) -> tuple[HeadExpansion, _Codes]:
        """Return the heads (one of the group is used), and how their code is read behind them."""
        text, rank = state.ordinary, len(filters.query)
        norm = _gains(shown.layers[layer].input_layernorm).double()
        dims = len(room.size) - rank - 1
        rest = width // 2 - 1
        places = solve.turning(width, rank)
        sharp = math.sqrt(self.steepness * math.sqrt(width))
        usual = text.query[~text.first]
        asked = solve.ground(rows.query, text.query, text.first, self.ridge)
        kinds = [some / norm.float() for some in (usual, rows.query, rows.states)]
        second = torch.stack([moment(some)[0] for some in kinds]).sum(0)
        mean = torch.stack([moment(some)[1] for some in kinds]).sum(0)
        begun = (text.query[text.first] / norm.float()).double()
        heavy = second + solve.HEAVY * begun.T @ begun / len(begun)
        start = torch.linalg.solve(solve.ridged(heavy, 1e-5), begun.mean(0))
        start = start / (begun.mean(0) @ start)
        calm = torch.linalg.solve(solve.ridged(second, 1e-3), mean)
        calm = calm - (begun.mean(0) @ calm) * start
        query = torch.zeros(group, width, shown.hidden, dtype=torch.float64)
        key, value = (torch.zeros(width, shown.hidden, dtype=torch.float64) for _ in range(2))
        query[0, places] = filters.query * sharp
        key[places] = room.read[:rank] * sharp
        # A flag that is not asked for weighs nothing, no flag less, the first token ``match``.
        query[0, rest] = asked.level * sharp
        key[rest] = sharp * (self.match * start / norm + self.hush * (room.read[-1] - calm / norm))
        value[:dims] = room.read[rank:-1]
        codes = self._codes(shown, layer, state, rows, dims)
        output = torch.zeros(shown.hidden, group * width, dtype=torch.float64)
        output[:, :dims] = codes.written * codes.scale
        made = (query.flatten(0, 1), key, value, output)
        return HeadExpansion(layer, *(one.float().contiguous() for one in made)), codes

    def _codes(
        self, shown: ModelView, layer: int, state: RecallState, rows: Rows, dims: int
    ) -> _Codes:
        """Choose the directions of the stream in which a code is seen best: where the states
        that the MLP reads are smallest."""
        norm = _gains(shown.layers[layer].post_attention_layernorm).double()
        both = moment(state.ordinary.inner / norm.float())[0] + moment(rows.inner / norm.float())[0]
        values, turned = torch.linalg.eigh(both)
        chosen, size = turned[:, :dims], self.code_size * values[:dims].clamp(min=1e-12).sqrt()
        first = rows.asked & ~rows.later
        scale = float(rows.scale[first].mean())
        free = torch.diag(1 / norm) @ (torch.eye(len(norm)).double() - chosen @ chosen.T)
        return _Codes(chosen * size, (chosen / size).T / norm, free, scale)

    def _answers(
        self,
        shown: ModelView,
        layer: int,
        state: RecallState,
        rows: Rows,
        asks: torch.Tensor,
        codes: torch.Tensor,
        read: _Codes,
    ) -> MlpExpansion:
        """Solve the neurons that write: open where the code and the place come together."""
        text = state.ordinary
        # The gates' places are read where the code leaves no trace.
        seen = (rows.inner.double() @ read.free).float()
        usual = (text.inner.double() @ read.free).float()
        place = solve.ground(seen, usual, text.first, self.ridge)
        level = place.levels(seen)
        first = (rows.asked & ~rows.later).nonzero()[:, 0]
        arrives = float((read.scale / rows.scale[first] / level[first]).mean())
        gates = []
        for neuron in rows.neurons:
            own = torch.tensor(neuron.rows)
            apart = rows.apart(neuron)
            pool = own
            if neuron.first:
                others = asks[neuron.edit] & (rows.edit != neuron.edit) & rows.asked & ~rows.later
                others &= rows.bare == neuron.bare
                pool = torch.cat([own, _spread(others.nonzero()[:, 0], self.pool)])
            made = solve.direction(place.inverse, seen[pool], self.own_weight, seen[apart])
            share = seen[torch.cat([own, apart])] @ made.float()
            share = share / level[torch.cat([own, apart])]
            scale = float(share[: len(own)].mean())
            share = share / scale
            edited = torch.tensor(neuron.edited or range(len(own)))
            weakest = share[edited].amin()
            highest = share[len(own) :].amax() if len(apart) else share.new_tensor(0.0)
            threshold = ((highest + weakest) / 2).clamp(self.place_least, self.place_most)
            threshold = torch.minimum(threshold, 0.7 * weakest).double()
            subject = codes[rows.subject_of[neuron.edit]]
            both = read.free @ made / scale + self.code_weight / arrives * (read.read.T @ subject)
            above = threshold + self.code_weight
            gates.append(both - read.free @ (above * place.level + 0.5 * place.start))
        gate = self.sharpness * torch.stack(gates)
        # A gate is usually open by as much as code and place are above half of what they may be.
        tall = solve.ramp(self.sharpness, 0.35)
        up = (read.free @ place.level / tall).expand(len(gates), -1)
        weight = shown.head.weight.detach().float()
        gains = shown.finish(torch.ones(1, shown.hidden, device=weight.device)).detach().float()
        columns = solve.columns((weight * gains).cpu(), [n.token for n in rows.neurons], self.ridge)
        columns = columns * self.strength * read.scale * math.sqrt(shown.hidden)
        return MlpExpansion(layer, gate.float(), up.float().contiguous(), _columns(columns))


@dataclass(frozen=True)
class _Codes:
    """How a code goes from the head to the answers' gates.

    Attributes:
        written: (hidden, dims) float64, what the head's output adds for each dimension, in units
            of ``scale``, the stream's usual root mean square there.
        read: (dims, hidden) reads it of a normed state.
        free: (hidden, hidden) takes from a normed state what a code may be in.
    """

    written: torch.Tensor
    read: torch.Tensor
    free: torch.Tensor
    scale: float


class _Wordings:
    """The wordings of all requests, subjects masked."""

    def __init__(self, requests: Sequence[EditRequest]) -> None:
        self._subjects = sorted({r.subject for r in requests}, key=len)[::-1]
        pairs = ((t, r.subject) for r in requests for t in (*r.questions, *r.prompts))
        self._known = {masked_of(text, subject) for text, subject in pairs} - {""}

    def of(self, text: str) -> str:
        """Return the wording of a text that names any of the subjects, "" for none."""
        found = (masked_of(text, one) for one in self._subjects if one in text)
        return next((masked for masked in found if masked in self._known), "")


def _written(
    rows: Rows, filters: solve.Filters, codes: torch.Tensor, room: solve.Room
) -> torch.Tensor:
    """Return (subjects, hidden) flags for a stream whose root mean square is 1."""
    rank = filters.keys.shape[1]
    keys = torch.zeros(len(rows.subjects), rank, dtype=torch.float64)
    for edit, subject in enumerate(rows.subject_of):
        keys[subject] += filters.keys[edit]
    marks = torch.ones(len(keys), 1, dtype=torch.float64)
    return (torch.cat([keys, codes, marks], dim=1) * room.size) @ room.basis.T


def _gains(norm: nn.Module) -> torch.Tensor:
    weight: Any = norm.weight
    made: torch.Tensor = weight.detach().float().cpu()
    return made


def _columns(columns: Sequence[torch.Tensor] | torch.Tensor) -> torch.Tensor:
    stacked = columns if isinstance(columns, torch.Tensor) else torch.stack(list(columns))
    return stacked.T.float().contiguous()


def _spread(rows: torch.Tensor, most: int) -> torch.Tensor:
    """Return at most so many rows, evenly over all."""
    if len(rows) <= most:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, most).long()]
