"""Lookup neurons: facts as gated neurons of the last layer, all in closed form.

Compiled memory (methods.md X2) where nothing comes after it. A neuron of the last layer's MLP
writes one answer token of one edit. As no layer follows, an edit changes no other position's
states: the keys are those of the unedited model, the same whatever else is edited, and what a
column must be follows from the output head. So nothing is trained, and what was run for an edit
once (its wordings, its negatives) serves every later night (``states``).

The gate is that of compiled memory, ``SiLU(s·(a·x − θ·b·x))·(a·x)``: ``a`` answers 1 on the
neuron's own keys and 0 on ordinary text and on others' keys; ``b`` answers 1 on every token; θ is
each neuron's own, above what its highest negative answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from torch import nn

from editors.architectures import ModelView, view
from editors.capture import keys_at
from editors.deltas import MlpExpansion
from editors.editor import Resources
from editors.key_statistics import everyday_chat, windows
from editors.linear_solve import moment, ridged
from editors.memory.lookup_lines import Line, lines_of, read
from editors.memory.shared_wordings import lent_where_known
from editors.memory.states import States, run
from editors.memory.unedited_replies import complete
from editors.model import ChatModel
from editors.question_embeddings import Embed
from editors.requests import EditorError, EditRequest
from store.files import Files

NAME = "lookup"
_WINDOW = 256
_AT_ONCE = 256  # neurons that are scored together


@dataclass(frozen=True)
class LookupSettings:
    wordings: int = 8  # that an edit is lent by others which ask the same
    beside: int = 8  # questions on its subject that others lend it, to be left alone
    elsewhere: int = 8  # its own wordings on others' subjects, to be left alone
    own_weight: float = 50.0  # weight of a neuron's own keys in its solve, together
    ridge: float = 0.02  # share of the mean diagonal added to the moment
    sharpness: float = 30.0  # s: how steeply a gate opens at its threshold
    lowest: float = 0.85  # least threshold θ
    highest: float = 0.95  # largest threshold, as a share of its weakest edited key's answer
    margin: float = 0.05  # of θ above the highest negative
    strength: float = 3.0  # of a column just above θ, in norms of the last layer's output
    statistics_tokens: int = 8192  # of ordinary text


@dataclass
class LookupState:
    """What is constant: states of ordinary text (tokens, hidden), the median norm of the last
    layer's output, states of what was run for edits, replies of the unedited model by question."""

    ordinary: torch.Tensor
    size: float
    embed: Embed | None = None
    states: States = field(default_factory=States)
    replies: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Keys:
    """The rows that gates are solved on.

    Attributes:
        states: (rows, hidden) float32, the edits' first, then ordinary text.
        count: how many of them are the edits'.
        rows: by neuron its own rows.
        edited: by neuron those of them that its request asks itself.
        tokens: by neuron the token that it writes.
    """

    states: torch.Tensor
    count: int
    rows: list[torch.Tensor]
    edited: list[torch.Tensor]
    tokens: list[int]


@dataclass(frozen=True)
class Lookup(LookupSettings):
    """The method by the protocol of ``editors.editor``."""

    stacks: ClassVar[bool] = False

    def prepare(self, model: ChatModel, resources: Resources) -> LookupState:
        """Run ordinary text and everyday chat, or read their states from the cache.

        What is run for edits is kept in memory alone, unless the caller puts ``States`` with a
        folder into the state.
        """
        mark = hashlib.sha256("\n".join(resources.texts).encode()).hexdigest()[:12]
        name = f"{model.base_hash[:16]}-{self.statistics_tokens}-{mark}"
        if resources.cache is None:
            return LookupState(*self._ordinary(model, resources), resources.embed)
        path = resources.cache / NAME / f"{name}.safetensors"
        if not path.exists():
            from safetensors.torch import save

            ordinary, size = self._ordinary(model, resources)
            made = save({"ordinary": ordinary.contiguous(), "size": torch.tensor(size)})
            Files().replace(path, made)
        from safetensors.torch import load_file

        found = load_file(path)
        return LookupState(found["ordinary"], float(found["size"]), resources.embed)

    def kept(self, model: ChatModel) -> str:
        """Return a name for what ``States`` of a model hold."""
        return model.base_hash[:16]

    def edit(
        self, model: ChatModel, state: LookupState, requests: Sequence[EditRequest]
    ) -> MlpExpansion:
        """Compile all requests together; ``model`` is the unedited one."""
        return self.within(model, state, requests)[0]

    def within(
        self,
        model: ChatModel,
        state: LookupState,
        requests: Sequence[EditRequest],
        step: Callable[[int, int], None] = lambda done, of: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> tuple[MlpExpansion, int]:
        """Compile as many of the requests, the first ones, as there is time for.

        Args:
            step: told how many requests' sequences were run, of how many.
            stop: whether the time is over.

        Returns:
            The neurons, and how many requests they carry.
        """
        shown = view(model)
        last = len(shown.layers) - 1
        if not fits(model):
            raise EditorError(
                f"lookup neurons need a gated MLP whose output is added as it is, and {model.name} "
                "has none; use compiled memory"
            )
        lines = self._lines(model, state, requests) if requests else []
        carried = run(state.states, lines, partial(read, shown, last), step, stop)
        if not carried:
            none = torch.zeros(0, shown.hidden)
            return MlpExpansion(last, none, none.clone(), none.T.clone()), 0
        state.states.keep_only(line for some in lines for line in some)
        keys = _keys(state, lines[:carried])
        gate, up = self._gates(keys)
        columns = self._columns(shown, keys.tokens) * state.size
        delta = MlpExpansion(last, gate.float(), up.float(), columns.T.contiguous().cpu())
        return delta, carried

    def settled(
        self, model: ChatModel, state: LookupState, requests: Sequence[EditRequest]
    ) -> LookupState:
        return state

    def _ordinary(self, model: ChatModel, resources: Resources) -> tuple[torch.Tensor, float]:
        """Return the states of ordinary text, and the usual norm of the last layer's output."""
        shown = view(model)
        last = len(shown.layers) - 1
        texts = windows(model, resources.texts, self.statistics_tokens, _WINDOW)
        ordinary = keys_at(
            shown, [*texts, *everyday_chat(model, resources.cache)], [last], part="mlp"
        )[0]
        output = keys_at(shown, texts[:4], [last], part="layer", side="output")[0]
        return ordinary.float().cpu(), float(output.norm(dim=-1).median())

    def _lines(
        self, model: ChatModel, state: LookupState, requests: Sequence[EditRequest]
    ) -> list[list[Line]]:
        """Return by request what is run for it."""
        given = lent_where_known(
            requests,
            state.embed,
            alike=self.wordings,
            beside=self.beside,
            elsewhere=self.elsewhere,
        )
        complete(state.replies, model, requests)
        return [
            lines_of(model, request, one, state.replies)
            for request, one in zip(requests, given, strict=True)
        ]

    def _gates(self, keys: _Keys) -> tuple[torch.Tensor, torch.Tensor]:
        """Solve all gates: gate rows and up rows, both (neurons, hidden)."""
        states = keys.states
        # Edits and ordinary text weigh the same, however many there are of either.
        (shut, mine), (base, usual) = moment(states[: keys.count]), moment(states[keys.count :])
        second, mean = shut + base, mine + usual
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(ridged(second, self.ridge)))
        b = inverse @ mean
        # What a neuron is compared with is a·x − θ·b·x, so a·x by b·x is what θ stands above.
        level = (states @ b.float()).clamp(min=0.2)[:, None]
        rows, thresholds = [], []
        for at in range(0, len(keys.rows), _AT_ONCE):
            some = slice(at, at + _AT_ONCE)
            a = self._solved(inverse, states, keys.rows[some])
            rows.append(a)
            thresholds.append(self._thresholds(states @ a.T.float() / level, keys, some))
        a, theta = torch.cat(rows), torch.cat(thresholds)
        return self.sharpness * (a - theta.double()[:, None] * b), self._up(a, theta)

    def _thresholds(self, share: torch.Tensor, keys: _Keys, some: slice) -> torch.Tensor:
        """Return θ of some neurons, given what they answer on every row (rows, neurons): above
        the highest negative, below the weakest key that is asked for itself."""
        found = []
        for at, (own, edited) in enumerate(zip(keys.rows[some], keys.edited[some], strict=True)):
            weakest = share[edited, at].amin() if len(edited) else share.new_tensor(9.0)
            share[own, at] = -1.0
            least = (share[:, at].amax() + self.margin).clamp(min=self.lowest)
            found.append(torch.minimum(least, self.highest * weakest))
        return torch.stack(found)

    def _up(self, a: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        """Scale ``a`` so that a gate a little above its threshold gives an activation of 1."""
        above = self.sharpness * self.margin
        opened = nn.functional.silu(torch.tensor(above)) * (theta + self.margin)
        return a / opened.double()[:, None]

    def _solved(
        self, inverse: torch.Tensor, states: torch.Tensor, rows: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Return (neurons, hidden) float64: 1 on each neuron's own rows on average, 0 elsewhere,
        by Woodbury's identity above one inverse for all."""
        found = []
        for own in rows:
            k = states[own].double()
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


def fits(model: ChatModel) -> bool:
    """Return whether lookup neurons can write in a model: Gemma puts a norm behind its MLPs,
    which takes from a column how long it is."""
    shown = view(model)
    return shown.gated and not shown.row.mlp_leaves


def _keys(state: LookupState, lines: Sequence[Sequence[Line]]) -> _Keys:
    """Lay out the rows; a neuron is one token that one edit writes, after the same beginning."""
    parts: list[torch.Tensor] = []
    rows: dict[tuple[int, object], list[int]] = {}
    edited: dict[tuple[int, object], list[int]] = {}
    tokens: list[int] = []
    at = 0
    for number, some in enumerate(lines):
        for line in some:
            parts.append(state.states.of(line))
            for place in range(len(line.targets)):
                tail = line.targets[place:]
                name = (number, (tail, line.bare if not place else None))
                if name not in rows:
                    rows[name], edited[name] = [], []
                    tokens.append(tail[0])
                rows[name].append(at + place)
                if line.own:
                    edited[name].append(at + place)
            at += line.count
    return _Keys(
        torch.cat([*parts, state.ordinary]),
        at,
        [torch.tensor(own) for own in rows.values()],
        [torch.tensor(own, dtype=torch.long) for own in edited.values()],
        tokens,
    )
