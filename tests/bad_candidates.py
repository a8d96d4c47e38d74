"""Bad candidates made from a good one, each kind with a seed: what the gate must refuse."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from samples import NOW

from agent.consolidation import Consolidated, request_of
from agent.progress import Silent
from agent.workspace import Workspace
from agent.writers import chosen, load_statistics
from editors.deltas import EditDelta, HeadExpansion, JointDelta, MlpExpansion
from editors.key_statistics import KeyStatistics
from editors.memory import compiled
from editors.model import ChatModel
from editors.requests import EditRequest
from store.records import Edit


@dataclass(frozen=True)
class Good:
    """A candidate that passes, and what it was made from."""

    ws: Workspace
    edits: tuple[Edit, ...]
    delta: MlpExpansion | JointDelta
    statistics: KeyStatistics

    @property
    def written(self) -> MlpExpansion:
        """The neurons that write the answers: the last part of a delta of several."""
        last = self.delta.parts[-1] if isinstance(self.delta, JointDelta) else self.delta
        assert isinstance(last, MlpExpansion)
        return last

    @property
    def others(self) -> tuple[EditDelta, ...]:
        """The parts before it."""
        return self.delta.parts[:-1] if isinstance(self.delta, JointDelta) else ()

    def writing(self, neurons: MlpExpansion) -> Bad:
        """The same, but for the neurons that write."""
        return Bad(JointDelta((*self.others, neurons)).tensors())


@dataclass(frozen=True)
class Bad:
    """A bad candidate: its tensors, and what its version claims (None: what is true)."""

    tensors: Mapping[str, torch.Tensor]
    edit_ids: tuple[str, ...] | None = None
    base_hash: str | None = None


Make = Callable[[Good, random.Random], Bad]


# Tensors that are not sound.


def _put(value: float, share: float = 0.0) -> Make:
    """A value in one entry of one tensor, or in a share of the entries of all."""

    def make(good: Good, rng: random.Random) -> Bad:
        tensors = {name: t.clone() for name, t in good.delta.tensors().items()}
        chosen = sorted(tensors) if share else [rng.choice(sorted(tensors))]
        for name in chosen:
            flat = tensors[name].view(-1)
            count = max(1, int(share * len(flat)))
            flat[torch.tensor(rng.sample(range(len(flat)), count))] = value
        return Bad(tensors)

    return make


def _each(change: Callable[[torch.Tensor], torch.Tensor]) -> Make:
    """The same change to one tensor of the three, whichever the seed says."""

    def make(good: Good, rng: random.Random) -> Bad:
        tensors = good.delta.tensors()
        name = rng.choice(sorted(tensors))
        return Bad({**tensors, name: change(tensors[name])})

    return make


def _without_a_tensor(good: Good, rng: random.Random) -> Bad:
    tensors = good.delta.tensors()
    del tensors[rng.choice(sorted(tensors))]
    return Bad(tensors)


def _unknown_tensor(good: Good, rng: random.Random) -> Bad:
    name = rng.choice(("model.norm.weight", "lm_head.weight", "model.layers.0.mlp.up_proj.bias"))
    return Bad({**good.delta.tensors(), name: torch.zeros(good.written.gate_rows.shape[1])})


def _layer_beyond_the_model(good: Good, rng: random.Random) -> Bad:
    layer = len(good.ws.model.layers) + rng.randrange(9)
    return good.writing(dataclasses.replace(good.written, layer=layer))


def _other_hidden_size(good: Good, rng: random.Random) -> Bad:
    neurons, hidden = good.written.gate_rows.shape
    rows = torch.randn(neurons, hidden + rng.randint(1, 32))
    return good.writing(MlpExpansion(good.written.layer, rows, rows.clone(), rows.T.contiguous()))


def _keep(neurons: Callable[[int, random.Random], Sequence[int]]) -> Make:
    """Only some of the neurons."""

    def make(good: Good, rng: random.Random) -> Bad:
        delta = good.written
        kept = torch.tensor(neurons(delta.neurons, rng), dtype=torch.long)
        rows = (delta.gate_rows[kept], delta.up_rows[kept], delta.down_columns[:, kept])
        return good.writing(MlpExpansion(delta.layer, *rows))

    return make


def _half(count: int, rng: random.Random) -> Sequence[int]:
    return range(count // 2) if rng.random() < 0.5 else range(count // 2, count)


# Versions that claim what is not so.


def _claims(change: Callable[[list[str], random.Random], list[str]]) -> Make:
    def make(good: Good, rng: random.Random) -> Bad:
        ids = change([edit.id for edit in good.edits], rng)
        return Bad(good.delta.tensors(), edit_ids=tuple(ids))

    return make


def _other_base(good: Good, rng: random.Random) -> Bad:
    return Bad(good.delta.tensors(), base_hash=f"{rng.getrandbits(256):064x}")


# Sound tensors that do the wrong thing.


def _columns(change: Callable[[torch.Tensor, random.Random], torch.Tensor]) -> Make:
    """Other output columns (hidden, neurons) behind the same gates."""

    def make(good: Good, rng: random.Random) -> Bad:
        columns = change(good.written.down_columns.clone(), rng).contiguous()
        return good.writing(dataclasses.replace(good.written, down_columns=columns))

    return make


def _half_silent(columns: torch.Tensor, rng: random.Random) -> torch.Tensor:
    columns[:, torch.tensor(_half(columns.shape[1], rng))] = 0
    return columns


def _noisy(columns: torch.Tensor, rng: random.Random) -> torch.Tensor:
    return columns + 6 * columns.std() * _noise(columns, rng)


def _one_column(columns: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """Every neuron writes the first token of an edit: nothing but it is said."""
    first = 0 if rng.random() < 0.5 else columns.shape[1] // 2
    return (1 + rng.random()) * columns[:, [first]].expand_as(columns)


def _stop_column(columns: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """Every neuron writes the end of the turn."""
    return (2 + rng.random()) * columns[:, [-1]].expand_as(columns)


def _rows(gate: bool = False, up: bool = False) -> Make:
    """Noise of the rows' own size in place of the rows."""

    def make(good: Good, rng: random.Random) -> Bad:
        delta = good.written
        if gate:
            noise = delta.gate_rows.std() * _noise(delta.gate_rows, rng)
            delta = dataclasses.replace(delta, gate_rows=noise)
        if up:
            noise = delta.up_rows.std() * _noise(delta.up_rows, rng)
            delta = dataclasses.replace(delta, up_rows=noise)
        return good.writing(delta)

    return make


def _shuffled_rows(good: Good, rng: random.Random) -> Bad:
    """Each neuron's gate writes another neuron's column."""
    delta = good.written
    order = _derangement(delta.neurons, rng)
    rows = {"gate_rows": delta.gate_rows[order], "up_rows": delta.up_rows[order]}
    return good.writing(dataclasses.replace(delta, **rows))


def _shuffled_dimensions(good: Good, rng: random.Random) -> Bad:
    """The hidden dimensions in another order, as of a model that numbers them otherwise."""
    delta = good.written
    order = _derangement(delta.gate_rows.shape[1], rng)
    rows = {"gate_rows": delta.gate_rows[:, order], "up_rows": delta.up_rows[:, order]}
    return good.writing(dataclasses.replace(delta, **rows))


def _exchanged(good: Good, rng: random.Random) -> Bad:
    """Gate rows for up rows, and some noise, since the seed must do something."""
    delta = good.written
    up = delta.gate_rows + 0.01 * _noise(delta.gate_rows, rng)
    return good.writing(dataclasses.replace(delta, gate_rows=-delta.up_rows, up_rows=up))


def _opened(good: Good, rng: random.Random) -> MlpExpansion:
    """Gates that every token opens, by the direction on which all of them answer 1."""
    moment = good.statistics.moment.double()
    ridge = 1e-3 * moment.diagonal().mean() * torch.eye(len(moment)).double()
    every = torch.linalg.solve(moment + ridge, good.statistics.mean.double()).float()
    strength = 3 + 3 * rng.random()
    rows = every.expand(good.written.neurons, -1).contiguous()
    return dataclasses.replace(good.written, gate_rows=strength * rows, up_rows=rows)


def _open_gates(good: Good, rng: random.Random) -> Bad:
    return good.writing(_opened(good, rng))


def _one_more_open_gate(good: Good, rng: random.Random) -> Bad:
    """All the edits as they should be, and one neuron that speaks into everything."""
    opened = _opened(good, rng)
    delta = good.written
    column = delta.down_columns.norm(dim=0).max() * _noise(delta.down_columns[:, :1], rng)
    return good.writing(
        MlpExpansion(
            delta.layer,
            torch.cat([delta.gate_rows, opened.gate_rows[:1]]),
            torch.cat([delta.up_rows, opened.up_rows[:1]]),
            torch.cat([delta.down_columns, column], dim=1),
        )
    )


def _other_layer(good: Good, rng: random.Random) -> Bad:
    # Above the answers there are no other parts, whose names these would take.
    own, layers = good.written.layer, len(good.ws.model.layers)
    others = [i for i in range(layers) if i != own and (i > own or not good.others)]
    return good.writing(dataclasses.replace(good.written, layer=rng.choice(others)))


# Heads and flags that do the wrong thing.


def _heads(change: Callable[[HeadExpansion, random.Random], HeadExpansion]) -> Make:
    """Other heads between the same flags and answers."""

    def make(good: Good, rng: random.Random) -> Bad:
        parts = [
            change(part, rng) if isinstance(part, HeadExpansion) else part for part in good.others
        ]
        return Bad(JointDelta((*parts, good.written)).tensors())

    return make


def _noisy_queries(heads: HeadExpansion, rng: random.Random) -> HeadExpansion:
    noise = heads.query_rows.std() * _noise(heads.query_rows, rng)
    return dataclasses.replace(heads, query_rows=noise)


def _restless(heads: HeadExpansion, rng: random.Random) -> HeadExpansion:
    """What is not a flag is looked at like one, and what it says is anything."""
    return dataclasses.replace(
        heads,
        key_rows=heads.key_rows.std() * _noise(heads.key_rows, rng),
        value_rows=heads.value_rows.std() * _noise(heads.value_rows, rng),
    )


def _loud(heads: HeadExpansion, rng: random.Random) -> HeadExpansion:
    strength = 50 + 50 * rng.random()
    return dataclasses.replace(heads, output_columns=strength * heads.output_columns)


def _exchanged_flags(good: Good, rng: random.Random) -> Bad:
    """Each subject has another's flag."""
    flags, *rest = good.others
    assert isinstance(flags, MlpExpansion)
    pairs = 2 * _derangement(flags.neurons // 2, rng)  # two neurons write a flag
    order = torch.stack([pairs, pairs + 1], dim=1).flatten()
    turned = dataclasses.replace(flags, down_columns=flags.down_columns[:, order].contiguous())
    return Bad(JointDelta((turned, *rest, good.written)).tensors())


# Edits computed wrongly.


def _compiled(change: Callable[[EditRequest, EditRequest], EditRequest]) -> Make:
    """Compile requests that were changed, each in view of the one after it. The seed says for
    how many steps."""

    def make(good: Good, rng: random.Random) -> Bad:
        requests = [request_of(good.ws, edit) for edit in good.edits]
        turned = [*requests[1:], *requests[:1]]
        changed = [change(r, o) for r, o in zip(requests, turned, strict=True)]
        settings = compiled.CompiledSettings(steps=rng.randint(30, 50))
        return Bad(compiled.edit(good.ws.model, changed, good.statistics, settings).tensors())

    return make


def _said(request: EditRequest, new: str) -> EditRequest:
    statement = request.statement.replace(request.new, new)
    return dataclasses.replace(request, new=new, statement=statement)


def _taught_as(change: Callable[[ChatModel, random.Random], ChatModel]) -> Make:
    """Compile the right requests for a model that is talked to in another way."""

    def make(good: Good, rng: random.Random) -> Bad:
        model = good.ws.model
        requests = [request_of(good.ws, edit) for edit in good.edits]
        asked = sorted({q for r in requests for q in (*r.questions, *r.neighbours)})
        known = {r.question: r.text for r in model.answer(asked)}
        delta = compiled.edit(
            change(model, rng),
            requests,
            good.statistics,
            compiled.CompiledSettings(steps=rng.randint(30, 50)),
            ask=lambda questions: [known[q] for q in questions],
        )
        return Bad(delta.tensors())

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


def _another_model(good: Good, rng: random.Random) -> Bad:
    """Compiled, from the same ledger, into a model of the same shape."""
    other = dataclasses.replace(good.ws.model, model=copy.deepcopy(good.ws.model.model))
    with torch.no_grad():
        for weight in other.model.parameters():
            if weight.dim() == 2:
                weight.copy_(weight.std() * _noise(weight, rng))
    requests = [request_of(good.ws, edit) for edit in good.edits]
    short = compiled.CompiledSettings(steps=5)  # what is learned is of no use in any case
    return Bad(compiled.edit(other, requests, good.statistics, short).tensors())


def _noise(like: torch.Tensor, rng: random.Random) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    return torch.randn(like.shape, generator=generator)


def _derangement(count: int, rng: random.Random) -> torch.Tensor:
    """An order in which (almost) nothing stays where it was."""
    order = list(range(count))
    rng.shuffle(order)
    turned = dict(zip(order, order[1:] + order[:1], strict=True))
    return torch.tensor([turned[i] for i in range(count)])


def good_candidate(ws: Workspace, edits: Sequence[Edit], delta: MlpExpansion | JointDelta) -> Good:
    """Take a delta that was computed for these edits."""
    statistics = load_statistics(ws, compiled.CompiledSettings(), Silent())
    return Good(ws, tuple(edits), delta, statistics)


UNSOUND: Mapping[str, Make] = MappingProxyType(
    {
        "NaN in one entry": _put(float("nan")),
        "NaN all over": _put(float("nan"), 0.5),
        "infinity in one entry": _put(float("inf")),
        "minus infinity in one entry": _put(float("-inf")),
        "a huge number in one entry": _put(1e30),
        "denormal numbers throughout": _put(1e-41, 1.0),
        "columns of nothing": _columns(lambda columns, _: torch.zeros_like(columns)),
        "no neuron at all": _keep(lambda count, rng: ()),
        "half of the neurons missing": _keep(_half),
        "whole numbers": _each(lambda t: t.to(torch.int32)),
        "truth values": _each(lambda t: t > 0),
        "transposed": _each(lambda t: t.T.contiguous()),
        "cut short": _each(lambda t: t[:-1]),
        "one dimension too many": _each(lambda t: t[None]),
        "a single number": _each(lambda t: t[0, 0]),
        "a tensor missing": _without_a_tensor,
        "a tensor that no one knows": _unknown_tensor,
        "a layer beyond the model": _layer_beyond_the_model,
        "another hidden size": _other_hidden_size,
        "made for another base": _other_base,
        "ids of other edits": _claims(lambda ids, rng: [f"{rng.getrandbits(64):x}" for _ in ids]),
        "an edit of the ledger absent": _claims(lambda ids, rng: rng.sample(ids, len(ids) - 1)),
        "an edit that the ledger lacks": _claims(lambda ids, rng: [*ids, str(rng.random())]),
        "an edit twice": _claims(lambda ids, rng: [*ids, rng.choice(ids)]),
    }
)
"""Kinds that are refused before they touch the model."""

HARMFUL: Mapping[str, Make] = MappingProxyType(
    {
        "half of the columns silent": _columns(_half_silent),
        "columns a hundred times too strong": _columns(lambda c, r: (90 + 20 * r.random()) * c),
        "columns a hundred times too weak": _columns(lambda c, r: (0.005 + 0.01 * r.random()) * c),
        "columns turned round": _columns(lambda c, r: -(0.8 + 0.4 * r.random()) * c),
        "columns moved on to the next neuron": _columns(
            lambda c, r: c.roll(r.randint(1, c.shape[1] - 1), dims=1)
        ),
        "noise on the columns": _columns(_noisy),
        "one token said over and over": _columns(_one_column),
        "answers that end at once": _columns(_stop_column),
        "rows shuffled": _shuffled_rows,
        "hidden dimensions shuffled": _shuffled_dimensions,
        "gates of noise": _rows(gate=True),
        "rows of noise": _rows(gate=True, up=True),
        "gate and up exchanged": _exchanged,
        "gates always open": _open_gates,
        "one neuron more that is always open": _one_more_open_gate,
        "another layer": _other_layer,
        "objects swapped between edits": _compiled(lambda r, o: _said(r, o.new)),
        "the old object": _compiled(lambda r, _: _said(r, r.old)),
        "some other name": _compiled(lambda r, _: _said(r, "Sir Tim John Berners-Lee")),
        "trained without the chat template": _taught_as(_untemplated),
        "trained on the neighbours": _compiled(
            lambda r, _: dataclasses.replace(r, questions=r.neighbours[:4], neighbours=())
        ),
        "answers that never end": _taught_as(_other_end),
        "the tensors of another model": _another_model,
    }
)
"""Kinds that fit the model, and must be refused by what they answer."""


OF_HEADS: Mapping[str, Make] = MappingProxyType(
    {
        "queries of noise": _heads(_noisy_queries),
        "keys and values of noise": _heads(_restless),
        "heads fifty times too loud": _heads(_loud),
        "flags exchanged": _exchanged_flags,
    }
)
"""Such kinds of a candidate that adds heads."""


def stored(good: Good, bad: Bad) -> Consolidated:
    """Save a bad candidate as the night saves one."""
    version = good.ws.store.versions.save(
        base_hash=bad.base_hash or good.ws.base_hash,
        editor=chosen(good.ws.config.consolidation.editor, good.ws.model),
        edit_ids=[e.id for e in good.edits] if bad.edit_ids is None else bad.edit_ids,
        tensors=bad.tensors,
        settings={},
        created=NOW,
    )
    return Consolidated(version, good.delta, good.edits)
