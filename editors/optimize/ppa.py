"""PPA, plug-and-play adaptation: a low-rank expert a batch, and a router (Lee et al. 2022; G3).

Nothing in the weights moves. Each batch of requests trains its own low-rank change of the MLP
matrices of the upper layers (earlier experts are frozen and off meanwhile), and leaves the
embeddings of its questions. At run time a prompt's embedding is compared with all of them:
above a threshold the nearest one's expert is on for that row, else the model is the unedited one
to the bit. Of equally near questions the newest batch's wins.

The paper adapts the decoder of an encoder-decoder and routes by the frozen encoder's states. In a
decoder-only model an expert acts from the last prompt token on, which is what a decoder sees, and
the embedding is of the states at a layer below the lowest expert (what is frozen there, as an
encoder is): one forward is enough to route and to answer. Beyond the paper an expert remembers
its requests' neighbours too, and is on only where its own questions are nearer by ``margin``.
Dropout is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import nn

from editors.architectures import ModelView, view
from editors.capture import Site
from editors.deltas import DeltaError
from editors.editor import Resources
from editors.model import ChatModel
from editors.optimize.anchors import anchors_of, names_in
from editors.optimize.matrix_training import Schedule, train
from editors.optimize.parameters import LowRank
from editors.optimize.stage import Row
from editors.optimize.tuning import adam
from editors.question_embeddings import Asked, Embedder, embedder, embeddings, question_at
from editors.rendering import renderings
from editors.requests import EditorError, EditRequest
from editors.runtime import Runtime, Turns, silent
from editors.trunk import Sample, resume, run_trunk, select

NAME = "ppa"
PARTS = ("gate", "up", "down")
Pair = tuple[torch.Tensor, torch.Tensor]
_SAME = 0.99  # cosine from which on two questions are one


@dataclass(frozen=True)
class PpaSettings:
    first: float = 0.7  # the lowest layer with experts, as a share of the depth
    read: float = 0.3  # the layer whose states are the embedding, as a share of the depth
    rank: int = 8  # of an expert (paper: 256, for thousands of facts)
    scale: float = 4.0  # of its output (paper: alpha / rank = 4)
    learning_rate: float = 2e-3  # AdamW (paper: 4e-4)
    decay: float = 0.01  # weight decay (paper)
    steps: int = 60  # at most, a batch of requests
    batch: int = 16  # lessons a step, those least known first; 0: all
    sure: float = 0.8  # least probability of each label that ends the training
    threshold: float = 0.6  # τ, least cosine (paper: 0.9, of another kind of states)
    margin: float = 0.02  # by which an expert's questions must be nearer than their neighbours
    siblings: int = 8  # questions on other subjects that count as neighbours


@dataclass(frozen=True)
class Expert:
    """One batch's plug-in.

    Attributes:
        pairs: by parameter name A (rank, in) and scaled B (out, rank).
        memory: (questions, hidden), unit embeddings of what it was trained on.
        beside: (neighbours, hidden), unit embeddings of what must not turn it on.
    """

    pairs: Mapping[str, Pair]
    memory: torch.Tensor
    beside: torch.Tensor


@dataclass(frozen=True)
class PpaDelta:
    """The bank of experts and its router.

    Attributes:
        embedder: makes the embeddings.
        experts: oldest first.
        threshold, margin: as in ``PpaSettings``.
    """

    embedder: Embedder
    experts: tuple[Expert, ...]
    threshold: float
    margin: float

    @property
    def parameters_added(self) -> int:
        return sum(
            t.numel()
            for expert in self.experts
            for t in (expert.memory, expert.beside, *(t for p in expert.pairs.values() for t in p))
        )

    def apply(self, model: ChatModel) -> Callable[[], None]:
        """Attach the router and its experts; the weights stay as they are."""
        shown = view(model)
        sites = sites_of(shown, {name for expert in self.experts for name in expert.pairs})
        width = len(self.embedder.whiten)
        if width != shown.hidden:
            raise DeltaError(f"experts for a hidden size of {width}, not {shown.hidden}")
        pairs = {
            (at, site): (expert.pairs[name][0], expert.pairs[name][1])
            for at, expert in enumerate(self.experts)
            for site, name in sites.items()
            if name in expert.pairs
        }
        turns = Turns(model)

        def choose(ids: Sequence[int], states: torch.Tensor) -> int | None:
            asked = states[question_at(turns, ids)] if ids else states
            return self.route(self.embedder.embedding(asked, turns.chat(ids)))

        def effect(
            site: Site, expert: object, inputs: torch.Tensor, outputs: torch.Tensor
        ) -> torch.Tensor:
            pair = pairs.get((expert, site))  # type: ignore[arg-type]
            if pair is None:
                return outputs
            a, b = (t.to(inputs) for t in pair)
            return outputs + inputs @ a.T @ b.T

        read = Site(self.embedder.layer, "layer")
        return Runtime(shown, read, choose, list(sites), effect, turns.last).attach()

    def route(self, query: torch.Tensor) -> int | None:
        """Return the number of the expert that is on for an embedding, or None."""
        best, chosen = -2.0, None
        for at, expert in enumerate(self.experts):
            near = float((expert.memory @ query.to(expert.memory)).max())
            least = self.threshold
            # The very question is never another one's neighbour.
            if len(expert.beside) and near < _SAME:
                beside = expert.beside @ query.to(expert.beside)
                least = max(least, float(beside.max()) + self.margin)
            # The same question again, rounded otherwise, is the newer expert's.
            if near >= least and near > best - 1e-4:
                best, chosen = near, at
        return chosen

    def tensors(self) -> dict[str, torch.Tensor]:
        made = {
            "router.whiten": self.embedder.whiten,
            "router.chat": self.embedder.chat,
            "router.plain": self.embedder.plain,
            "router.layer": torch.tensor(self.embedder.layer),
            "router.limits": torch.tensor([self.threshold, self.margin]),
        }
        for at, expert in enumerate(self.experts):
            made[f"experts.{at}.memory"] = expert.memory.contiguous()
            made[f"experts.{at}.beside"] = expert.beside.contiguous()
            for name, (a, b) in expert.pairs.items():
                made[f"experts.{at}.{name}.a"] = a.contiguous()
                made[f"experts.{at}.{name}.b"] = b.contiguous()
        return made


@dataclass
class PpaState:
    """Experts of the batches settled so far by their requests' ids; ``pending`` is the last
    ``edit``'s, until it is settled."""

    embedder: Embedder
    names: tuple[str, ...]
    experts: dict[tuple[str, ...], Expert] = field(default_factory=dict)
    pending: dict[tuple[str, ...], Expert] = field(default_factory=dict)


@dataclass(frozen=True)
class Ppa(PpaSettings):
    """The method by the protocol of ``editors.editor``: each delta carries all experts so far,
    of which only the newest is trained."""

    stacks: ClassVar[bool] = False

    def prepare(self, model: ChatModel, resources: Resources) -> PpaState:
        """Measure the embeddings of ordinary questions."""
        shown = view(model)
        return PpaState(embedder(shown, self._read_at(shown)), names_in(resources.texts))

    def edit(self, model: ChatModel, state: PpaState, requests: Sequence[EditRequest]) -> PpaDelta:
        """Train one expert on the requests that no expert has yet."""
        settled = {one for ids in state.experts for one in ids}
        new = [request for request in requests if request.id not in settled]
        experts = list(state.experts.values())
        if new:
            with silent(model):
                expert = self._expert(view(model), state, new)
            state.pending = {tuple(request.id for request in new): expert}
            experts.append(expert)
        return PpaDelta(state.embedder, tuple(experts), self.threshold, self.margin)

    def settled(
        self, model: ChatModel, state: PpaState, requests: Sequence[EditRequest]
    ) -> PpaState:
        done = {request.id for request in requests}
        kept = {ids: one for ids, one in state.pending.items() if set(ids) <= done}
        return PpaState(state.embedder, state.names, {**state.experts, **kept})

    def _read_at(self, shown: ModelView) -> int:
        depth = len(shown.layers)
        read, first = int(self.read * depth), int(self.first * depth)
        if not 0 <= read < first < depth:
            raise EditorError(
                f"the router reads layer {read} and experts begin at layer {first} of {depth}: "
                "experts must lie above what is read"
            )
        return read

    def _expert(self, shown: ModelView, state: PpaState, requests: Sequence[EditRequest]) -> Expert:
        first = int(self.first * len(shown.layers))
        start = {name: shown.parameter(name).detach() for name in expert_names(shown, first)}
        parameters = LowRank(shown, start, self.rank, self.scale, len(state.experts))
        samples = [
            Sample(one.prompt, one.answer)
            for request in requests
            for one in renderings(shown.chat, request)
        ]
        lessons, finals = answer_rows(shown, samples, first - 1)
        schedule = Schedule(self.steps, self.batch, keep=0.0, sure=self.sure)
        train(shown, finals, lessons, [], parameters, schedule, self._optimise)
        return Expert(parameters.pairs(), *self._memory(shown, state, requests))

    def _optimise(self, trained: list[nn.Parameter]) -> torch.optim.Optimizer:
        if not self.decay:
            return adam(self.learning_rate)(trained)
        return torch.optim.AdamW(trained, lr=self.learning_rate, weight_decay=self.decay)

    def _memory(
        self, shown: ModelView, state: PpaState, requests: Sequence[EditRequest]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the embeddings of what the requests ask, and of their neighbours."""
        subjects = [request.subject for request in requests]
        asked, around = [], []
        for request in requests:
            asked += [Asked(question, True) for question in request.questions]
            asked += [Asked(prompt, False) for prompt in request.prompts]
            around += anchors_of(request, state.names, self.siblings, subjects)
        around = [one for one in around if one not in asked]
        made = embeddings(shown, [*asked, *around], state.embedder)
        return made[: len(asked)].clone(), made[len(asked) :].clone()


def expert_names(shown: ModelView, first: int) -> list[str]:
    """Return the names of the matrices with experts: all of the MLPs from a layer on."""
    found: dict[str, None] = {}
    for layer in range(first, len(shown.layers)):
        names = shown.names(layer)
        found.update(dict.fromkeys(n for n in (names.gate, names.up, names.down) if n))
    return list(found)


def sites_of(shown: ModelView, names: set[str]) -> dict[Site, str]:
    """Return the modules that hold these matrices, each once (gate and up may be fused).

    Raises DeltaError: a matrix that no MLP of the model has.
    """
    found: dict[str, Site] = {}
    for layer in range(len(shown.layers)):
        held = shown.names(layer)
        for part in PARTS:
            name = getattr(held, part)
            if name in names and name not in found:
                found[name] = Site(layer, part)
    if missing := names - found.keys():
        raise DeltaError(f"{shown.chat.name} has no matrix {', '.join(sorted(missing))}")
    return {site: name for name, site in found.items()}


def answer_rows(
    shown: ModelView, samples: Sequence[Sample], layer: int
) -> tuple[list[Row], Callable[[Sequence[Row]], torch.Tensor]]:
    """Return samples as rows above a trunk that ends before the answers, and what gives their
    final states: only answer tokens are run again, everything before them is constant."""
    trunk = run_trunk(shown, samples, layer)
    rows = []
    for at in range(len(samples)):
        columns = (trunk.targets[at] >= 0).nonzero()[:, 0]
        rows.append(Row(trunk.hidden[at], 0, columns, trunk.targets[at][columns]))
    number = {id(row): at for at, row in enumerate(rows)}

    def finals(some: Sequence[Row]) -> torch.Tensor:
        part = select(trunk, torch.tensor([number[id(row)] for row in some], device=shown.device))
        final = resume(shown, part, part.hidden)
        return torch.cat([final[at, row.columns] for at, row in enumerate(some)])

    return rows, finals
