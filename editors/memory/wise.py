"""WISE: a side copy of one MLP output matrix, and a router (Wang et al. 2024; X5).

Nothing in the weights moves. Edits train a change of one layer's down projection, on a random
part of its entries that is drawn for every shard of edits. What is asked is looked at in the same
place: the mean over the question's tokens of how far the side copy's output lies from the main
one's. Training pushes that apart for the edits' questions and keeps it small for others, so at
run time a prompt takes the side copy where its distance passes a share of the least that an edit
of the shard had; any other prompt meets the unedited model, to the bit. After ``shard`` edits a
new side copy begins; several are kept and the one whose distance is largest for its threshold
answers (``retrieve``), or as many as ``merge`` says become one by TIES.

Other than in the paper the side copy acts from the last prompt token on, as every runtime here
does; the margins are in units of the layer's own output, measured on ordinary questions; Adam
stands for gradient descent with a rate of 1; and some earlier edits of the shard are trained
along (``replay`` = 0: not, as in the paper).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from editors.architectures import ModelView, view
from editors.capture import Site, frozen, keys_at
from editors.deltas import DeltaError
from editors.editor import Resources
from editors.key_statistics import everyday_questions
from editors.model import ChatModel
from editors.optimize.anchors import anchors_of, names_in
from editors.question_embeddings import Asked, question_at
from editors.rendering import renderings
from editors.requests import EditorError, EditRequest
from editors.runtime import Runtime, Turns, silent
from editors.trunk import Sample, label_logits, resume, run_trunk, with_values

NAME = "wise"


@dataclass(frozen=True)
class WiseSettings:
    layer: float = 0.7  # whose down projection has a side copy, as a share of the depth (0.84)
    density: float = 0.2  # share of the entries that a shard may change (paper)
    bound: float = 2.0  # of an entry's change, in units of the matrix's mean size (paper: 1.0)
    steps: int = 60  # Adam, at most, a batch of requests (paper: 70)
    learning_rate: float = 0.05  # of it, in units of the matrix's mean size
    sure: float = 0.8  # least probability of each label that may end the training
    alpha: float = 0.1  # α, most distance of others, in units of the output (paper: 5, absolute)
    beta: float = 0.4  # β, least distance of edits, in the same units (paper: 4 α)
    gamma: float = 0.2  # γ, least difference of the two, in the same units (paper: 2 α)
    share: float = 0.88  # of the least distance of an edit, that routes a prompt (paper)
    shard: int = 100  # edits of a side copy (paper: 500)
    merge: int = 0  # side copies that TIES makes one; 0: never, retrieve (paper: 2)
    kept: float = 0.53  # share of a side copy's entries that TIES keeps (paper)
    replay: int = 8  # earlier edits of the shard that are trained along (paper: 0)
    siblings: int = 8  # questions on other subjects that must not be routed
    everyday: int = 8  # everyday questions a batch that must not be routed


@dataclass(frozen=True)
class Side:
    """A side copy: (out, in) change of the matrix, and the least distance of its edits."""

    change: torch.Tensor
    least: float


@dataclass(frozen=True)
class WiseDelta:
    """The side copies and their router: layer, copies, and the share of an edit's least distance
    that routes a prompt."""

    layer: int
    sides: tuple[Side, ...]
    share: float

    @property
    def parameters_added(self) -> int:
        return sum(int(side.change.count_nonzero()) for side in self.sides)

    def apply(self, model: ChatModel) -> Callable[[], None]:
        """Attach the router; the weights stay as they are."""
        shown = view(model)
        wanted = shown.matrix(shown.names(self.layer).down).shape
        for side in self.sides:
            if side.change.shape != wanted:
                raise DeltaError(
                    f"a side copy of {tuple(side.change.shape)}, not of {tuple(wanted)}"
                )
        turns, site = Turns(model), Site(self.layer, "down")
        changes = [side.change.to(shown.device) for side in self.sides]

        def choose(ids: Sequence[int], keys: torch.Tensor) -> int | None:
            at = question_at(turns, ids) if ids else slice(None)
            return self.route(keys[at])

        def effect(
            _: Site, acting: Hashable, inputs: torch.Tensor, outputs: torch.Tensor
        ) -> torch.Tensor:
            assert isinstance(acting, int)
            return outputs + inputs @ changes[acting].to(inputs).T

        return Runtime(shown, site, choose, [site], effect, turns.last, side="input").attach()

    def route(self, keys: torch.Tensor) -> int | None:
        """Return the side copy for a question's keys (tokens, in), or None for the main one."""
        best, chosen = 1.0, None
        for at, side in enumerate(self.sides):
            found = float(distance(side.change, keys)) / max(self.share * side.least, 1e-12)
            if found > best:
                best, chosen = found, at
        return chosen

    def tensors(self) -> dict[str, torch.Tensor]:
        made = {
            "router.layer": torch.tensor(self.layer),
            "router.share": torch.tensor(self.share),
            "router.least": torch.tensor([side.least for side in self.sides]),
        }
        return made | {
            f"sides.{at}": side.change.contiguous() for at, side in enumerate(self.sides)
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor]) -> WiseDelta:
        """Rebuild from ``tensors()`` output."""
        least = tensors["router.least"].tolist()
        sides = [Side(tensors[f"sides.{at}"], one) for at, one in enumerate(least)]
        return cls(int(tensors["router.layer"]), tuple(sides), float(tensors["router.share"]))


@dataclass(frozen=True)
class Taught:
    """One request of the shard: what it is to say, and its questions' keys (tokens, in)."""

    samples: tuple[Sample, ...]
    keys: tuple[torch.Tensor, ...]


@dataclass
class WiseState:
    """What lasts from batch to batch.

    Attributes:
        unit: median length of the layer's output on ordinary questions.
        names: other subjects.
        ordinary: keys of everyday questions, each (tokens, in).
        seed: of the masks.
        finished: side copies that are full, with what they were taught.
        taught: by id what the present one was taught.
        side: the present one; None before its first edit.
        shards: how many side copies were begun before it.
        done: ids of all requests so far.
        pending: the state after the last ``edit``, until it is settled.
    """

    unit: float
    names: tuple[str, ...]
    ordinary: list[torch.Tensor]
    seed: int
    finished: tuple[tuple[Side, tuple[Taught, ...]], ...] = ()
    taught: dict[str, Taught] = field(default_factory=dict)
    side: Side | None = None
    shards: int = 0
    done: frozenset[str] = frozenset()
    pending: WiseState | None = None


@dataclass(frozen=True)
class Wise(WiseSettings):
    """The method by the protocol of ``editors.editor``: each delta carries all side copies."""

    stacks: ClassVar[bool] = False

    def prepare(self, model: ChatModel, resources: Resources) -> WiseState:
        """Measure the layer's output on everyday questions."""
        if not 0 < self.density <= 1 or self.shard < 1:
            raise EditorError("a side copy needs a density above 0 and a shard of 1 edit or more")
        shown = view(model)
        layer = self._layer(shown)
        asked = [Asked(question, True) for question in everyday_questions()]
        keys = question_keys(shown, asked, layer)
        weight = shown.matrix(shown.names(layer).down).detach().float()
        unit = float(torch.cat([one @ weight.T for one in keys]).norm(dim=-1).median())
        return WiseState(unit, names_in(resources.texts), keys, resources.seed)

    def edit(
        self, model: ChatModel, state: WiseState, requests: Sequence[EditRequest]
    ) -> WiseDelta:
        """Teach the present side copy the requests that no copy was taught yet."""
        shown = view(model)
        layer = self._layer(shown)
        new = [request for request in requests if request.id not in state.done]
        made = replace(state, taught=dict(state.taught), pending=None)
        if new:
            if len(made.taught) >= self.shard:
                made = self._finish(made)
            with silent(model):
                fresh = {request.id: taught_of(shown, request, layer) for request in new}
                asked = {sample.prompt for one in fresh.values() for sample in one.samples}
                made.taught = {  # asked again, what was taught before no longer holds
                    name: one
                    for name, one in made.taught.items()
                    if all(sample.prompt not in asked for sample in one.samples)
                }
                made.side = self._train(shown, made, new, list(fresh.values()))
            made.taught |= fresh
            made.done = made.done | fresh.keys()
        state.pending = made
        sides = [side for side, _ in made.finished]
        present = [made.side] if made.side is not None else []
        return WiseDelta(layer, (*sides, *present), self.share)

    def settled(
        self, model: ChatModel, state: WiseState, requests: Sequence[EditRequest]
    ) -> WiseState:
        made = state.pending
        if made is None or not {request.id for request in requests} <= made.done:
            return state
        return made

    def _layer(self, shown: ModelView) -> int:
        return min(int(self.layer * len(shown.layers)), len(shown.layers) - 1)

    def _finish(self, state: WiseState) -> WiseState:
        """Lay the present side copy by, and make one of several where they are to be merged."""
        assert state.side is not None
        finished = (*state.finished, (state.side, tuple(state.taught.values())))
        if self.merge and len(finished) >= self.merge:
            every = tuple(one for _, some in finished for one in some)
            change = ties([side.change for side, _ in finished], self.kept)
            finished = ((Side(change, least_of(change, every)), every),)
        return replace(
            state, finished=finished, taught={}, side=None, shards=state.shards + 1, pending=None
        )

    def _train(
        self,
        shown: ModelView,
        state: WiseState,
        requests: Sequence[EditRequest],
        fresh: Sequence[Taught],
    ) -> Side:
        layer = self._layer(shown)
        draw = random.Random(f"replay of {state.seed} at {len(state.done)}")
        before = list(state.taught.values())
        together = [*fresh, *draw.sample(before, min(self.replay, len(before)))]
        samples = [sample for one in together for sample in one.samples]
        edits = [keys for one in together for keys in one.keys]
        others = self._others(shown, state, requests, draw)
        trunk = run_trunk(shown, samples, layer)
        weight = shown.matrix(shown.names(layer).down).detach().float()
        size = float(weight.abs().mean())
        mask = mask_of(weight.shape, self.density, state.seed, state.shards).to(weight.device)
        start = torch.zeros_like(weight) if state.side is None else state.side.change.to(weight)
        raw = (start[mask] / size).requires_grad_(True)
        optimiser = torch.optim.Adam([raw], lr=self.learning_rate)
        change = start
        with frozen(shown):
            for step in range(self.steps + 1):
                change = torch.zeros_like(weight).masked_scatter(mask, raw * size)
                values = trunk.values + trunk.keys @ change.to(trunk.keys).T
                final = resume(shown, trunk, with_values(shown, trunk, values))
                logits, wanted, _ = label_logits(shown, final, trunk.targets)
                each = torch.nn.functional.cross_entropy(logits.float(), wanted, reduction="none")
                near, far = distances(change, edits), distances(change, others)
                apart = margin_loss(near / state.unit, far / state.unit, self)
                known = float((-each.detach().max()).exp()) >= self.sure
                if step == self.steps or (known and float(apart.detach()) == 0):
                    break
                (raw.grad,) = torch.autograd.grad(each.mean() + apart, [raw])
                optimiser.step()
                with torch.no_grad():
                    raw.clamp_(-self.bound, self.bound)
        change = change.detach().cpu()
        found = least_of(change, together)
        # The threshold only ever falls: what was in reach once stays so (methods.md X5).
        return Side(change, found if state.side is None else min(found, state.side.least))

    def _others(
        self,
        shown: ModelView,
        state: WiseState,
        requests: Sequence[EditRequest],
        draw: random.Random,
    ) -> list[torch.Tensor]:
        """Return the keys of questions that must not be routed."""
        subjects = [request.subject for request in requests]
        beside = dict.fromkeys(
            one
            for request in requests
            for one in anchors_of(request, state.names, self.siblings, subjects)
        )
        for request in requests:
            for one in request.questions:
                beside.pop(Asked(one, True), None)
        some = draw.sample(state.ordinary, min(self.everyday, len(state.ordinary)))
        return [*question_keys(shown, list(beside), self._layer(shown)), *some]


def distance(change: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Return the mean over tokens of the side output's distance from the main one, for keys
    (tokens, in)."""
    return (keys @ change.to(keys).T).norm(dim=-1).mean()


def distances(change: torch.Tensor, keys: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return ``distance`` of several questions, (n,), in one product."""
    moved = torch.cat(list(keys)) @ change.T
    # The square root has no slope at 0, where every side copy begins.
    lengths = (moved.square().sum(-1) + 1e-12).sqrt()
    return torch.stack([part.mean() for part in lengths.split([len(one) for one in keys])])


def margin_loss(near: torch.Tensor, far: torch.Tensor, settings: WiseSettings) -> torch.Tensor:
    """Return L_a of the edits' distances (n,) and the others' (m,): means of what is lacking."""
    low = (far - settings.alpha).clamp(min=0).mean()
    high = (settings.beta - near).clamp(min=0).mean()
    apart = (settings.gamma - (near[:, None] - far[None])).clamp(min=0).mean()
    return low + high + apart


def mask_of(shape: Sequence[int], density: float, seed: int, shard: int) -> torch.Tensor:
    """Return which entries a shard may change, the same for the same seed and shard."""
    draw = torch.Generator().manual_seed(seed * 10_007 + shard)
    return torch.rand(tuple(shape), generator=draw) < density


def ties(changes: Sequence[torch.Tensor], density: float) -> torch.Tensor:
    """Merge changes (Yadav et al. 2023): of each keep the largest entries, a share ``density``
    of all; elect each entry's sign by the sum; return the mean of those that agree with it."""
    trimmed = []
    for change in changes:
        count = max(1, round(density * change.numel()))
        least = change.abs().flatten().topk(count).values[-1]
        trimmed.append(torch.where(change.abs() >= least, change, 0))
    stacked = torch.stack(trimmed)
    agree = (stacked.sign() == stacked.sum(0).sign()) & (stacked != 0)
    return (stacked * agree).sum(0) / agree.sum(0).clamp(min=1)


def least_of(change: torch.Tensor, taught: Sequence[Taught]) -> float:
    """Return the least distance of a question that a side copy was taught."""
    return min(float(distance(change.to(keys), keys)) for one in taught for keys in one.keys)


def taught_of(shown: ModelView, request: EditRequest, layer: int) -> Taught:
    """Return what a request teaches."""
    asked = [
        *(Asked(question, True) for question in request.questions),
        *(Asked(prompt, False) for prompt in request.prompts),
    ]
    samples = [Sample(one.prompt, one.answer) for one in renderings(shown.chat, request)]
    return Taught(tuple(samples), tuple(question_keys(shown, asked, layer)))


def question_keys(shown: ModelView, asked: Sequence[Asked], layer: int) -> list[torch.Tensor]:
    """Return what enters a layer's down projection on each question's own tokens, (tokens, in)
    float32."""
    if not asked:
        return []
    turns, chat = Turns(shown.chat), shown.chat
    texts = [chat.encode(chat.render(a.text) if a.chat else a.text) for a in asked]
    places = [list(range(len(ids)))[question_at(turns, ids)] for ids in texts]
    found = keys_at(shown, texts, [layer], places)[0].float()
    return list(found.split([len(at) for at in places]))
