"""MELO: low-rank blocks that a vector database turns on, one at a time (Yu et al. 2023; X4).

Nothing in the weights moves. Each batch of requests trains a block, a change of rank ``rank`` of
some layers' MLP input matrices. The keys of what was asked lie in clusters, one ball an answer
(``editors.memory.codebook``), and every key knows its block. A prompt whose key is in a ball has
the block of the ball's nearest key turned on, from the prompt's last token on; any other prompt
meets the unedited model, to the bit. Where balls of two answers are halved, keys that come to lie
outside get balls of their own; the reference forgets them.

Keys and radius are made as GRACE's are (``editors.memory.prompt_keys``): question embeddings, or
the last prompt token's state as in the paper. A block's output has a constant scale; in the
reference it depends on how many blocks there are.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from editors.architectures import ModelView, view
from editors.capture import Site
from editors.deltas import DeltaError
from editors.editor import Resources
from editors.memory.codebook import Codebook, empty
from editors.memory.grace import label_of
from editors.memory.prompt_keys import (
    Keyring,
    Shelf,
    embedder_of,
    embedder_tensors,
    keyring,
    shelved,
)
from editors.model import ChatModel
from editors.optimize.anchors import anchors_of, names_in
from editors.optimize.matrix_training import Schedule, train
from editors.optimize.parameters import LowRank
from editors.optimize.ppa import Pair, answer_rows, sites_of
from editors.optimize.tuning import adam
from editors.question_embeddings import Asked, Embedder
from editors.rendering import renderings
from editors.requests import EditorError, EditRequest
from editors.runtime import Runtime, Turns, silent
from editors.trunk import Sample

NAME = "melo"
Block = Mapping[str, Pair]
"""By parameter name A (rank, in) and scaled B (out, rank)."""


@dataclass(frozen=True)
class MeloSettings:
    first: float = 0.7  # the lowest layer with blocks, as a share of the depth (paper: 0.75)
    layers: int = 4  # how many layers have them (paper: 2)
    key: str = "question"  # what a key is made of: question, or last (the paper's)
    read: float = 0.3  # where keys are read, as a share of the depth (paper: 0.73)
    rank: int = 4  # of a block (paper: 2)
    scale: float = 4.0  # of a block's output, whatever their number
    radius: float = 1.0  # of a ball, in units of the radius measured on the model
    steps: int = 60  # Adam, at most, a block (paper: 50)
    learning_rate: float = 5e-3  # of it (paper: 1e-3 to 1e-2)
    batch: int = 16  # lessons a step, those least known first; 0: all
    sure: float = 0.8  # least probability of each label that ends the training
    siblings: int = 8  # questions on other subjects that no ball may reach


@dataclass(frozen=True)
class MeloDelta:
    """The database and its blocks.

    Attributes:
        embedder: makes the keys.
        book: a ball an answer, or several.
        points: (n, width), the keys of all that was asked.
        labels: of each point the ball's label.
        owners: of each point the number of its block.
        blocks: oldest first.
    """

    embedder: Embedder
    book: Codebook
    points: torch.Tensor
    labels: tuple[str, ...]
    owners: tuple[int, ...]
    blocks: tuple[Block, ...]

    @property
    def parameters_added(self) -> int:
        pairs = [t for block in self.blocks for pair in block.values() for t in pair]
        return sum(t.numel() for t in (self.book.keys, self.book.radii, self.points, *pairs))

    def apply(self, model: ChatModel) -> Callable[[], None]:
        """Attach the router and its blocks; the weights stay as they are."""
        shown = view(model)
        width = len(self.embedder.whiten)
        if width != shown.hidden:
            raise DeltaError(f"blocks for a hidden size of {width}, not {shown.hidden}")
        sites = sites_of(shown, {name for block in self.blocks for name in block})
        turns = Turns(model)

        def choose(ids: Sequence[int], states: torch.Tensor) -> int | None:
            return self.route(self.embedder.of_prompt(turns, ids, states))

        def effect(
            site: Site, acting: Hashable, inputs: torch.Tensor, outputs: torch.Tensor
        ) -> torch.Tensor:
            assert isinstance(acting, int)
            pair = self.blocks[acting].get(sites[site])
            if pair is None:
                return outputs
            a, b = (t.to(inputs) for t in pair)
            return outputs + inputs @ a.T @ b.T

        read = Site(self.embedder.layer, "layer")
        return Runtime(shown, read, choose, list(sites), effect, turns.last).attach()

    def route(self, query: torch.Tensor) -> int | None:
        """Return the block that is on for a key (width,), or None: the block of the nearest
        point of the ball's answer, of equally near ones the newest."""
        at = self.book.find(query)
        if at is None:
            return None
        apart = torch.linalg.vector_norm(self.points - query.to(self.points), dim=-1).tolist()
        answer = self.book.labels[at]
        points = zip(apart, self.owners, self.labels, strict=True)
        near = [(far, -owner) for far, owner, label in points if label == answer]
        return -min(near)[1] if near else None

    def tensors(self) -> dict[str, torch.Tensor]:
        points = Codebook(self.points, torch.zeros(len(self.labels)), self.labels)
        made = {
            **embedder_tensors(self.embedder),
            **self.book.tensors("balls"),
            **points.tensors("points"),
            "points.owners": torch.tensor(self.owners, dtype=torch.long),
        }
        for at, block in enumerate(self.blocks):
            for name, (a, b) in block.items():
                made[f"blocks.{at}.{name}.a"] = a.contiguous()
                made[f"blocks.{at}.{name}.b"] = b.contiguous()
        return made

    @classmethod
    def from_tensors(cls, tensors: dict[str, torch.Tensor]) -> MeloDelta:
        """Rebuild from ``tensors()`` output."""
        points = Codebook.from_tensors(tensors, "points")
        blocks: dict[int, dict[str, Pair]] = {}
        for key in sorted(tensors):
            if key.startswith("blocks.") and key.endswith(".a"):
                number, _, name = key.removeprefix("blocks.").removesuffix(".a").partition(".")
                pair = tensors[key], tensors[f"blocks.{number}.{name}.b"]
                blocks.setdefault(int(number), {})[name] = pair
        owners = tuple(tensors["points.owners"].tolist())
        ordered = tuple(blocks[at] for at in sorted(blocks))
        book = Codebook.from_tensors(tensors, "balls")
        return cls(embedder_of(tensors), book, points.keys, points.labels, owners, ordered)


@dataclass
class MeloState:
    """What lasts from batch to batch: keys and radius, other subjects' names, the database, by
    what is asked the number of its block, and the blocks. ``pending`` is the state after the
    last ``edit``, until it is settled."""

    ring: Keyring
    names: tuple[str, ...]
    shelf: Shelf
    owners: dict[Asked, int] = field(default_factory=dict)
    blocks: tuple[Block, ...] = ()
    done: frozenset[str] = frozenset()
    pending: MeloState | None = None


@dataclass(frozen=True)
class Melo(MeloSettings):
    """The method by the protocol of ``editors.editor``: each delta carries all blocks so far, of
    which only the newest is trained."""

    stacks: ClassVar[bool] = False

    def prepare(self, model: ChatModel, resources: Resources) -> MeloState:
        """Measure the keys of ordinary questions, and from them the radius."""
        shown = view(model)
        first = self._layers(shown)[0]
        read = first - 1 if self.key == "last" else int(self.read * len(shown.layers))
        if not 0 <= read < first:
            raise EditorError(f"keys are read at layer {read}, not below layer {first}")
        ring = keyring(shown, read, self.key)
        return MeloState(ring, names_in(resources.texts), Shelf(empty(shown.hidden), {}))

    def edit(
        self, model: ChatModel, state: MeloState, requests: Sequence[EditRequest]
    ) -> MeloDelta:
        """Train one block on the requests that no block has yet."""
        shown = view(model)
        new = [request for request in requests if request.id not in state.done]
        made = replace(state, pending=None)
        if new:
            with silent(model):
                block = self._block(shown, new, len(state.blocks))
                made = self._entered(shown, made, new, block)
        state.pending = made
        members = made.shelf.members
        return MeloDelta(
            made.ring.embedder,
            made.shelf.book,
            made.shelf.keys,
            tuple(label for label, _ in members.values()),
            tuple(made.owners[one] for one in members),
            made.blocks,
        )

    def settled(
        self, model: ChatModel, state: MeloState, requests: Sequence[EditRequest]
    ) -> MeloState:
        made = state.pending
        if made is None or not {request.id for request in requests} <= made.done:
            return state
        return made

    def _layers(self, shown: ModelView) -> range:
        first = min(int(self.first * len(shown.layers)), len(shown.layers) - 1)
        return range(first, min(first + max(self.layers, 1), len(shown.layers)))

    def _block(self, shown: ModelView, requests: Sequence[EditRequest], seed: int) -> Block:
        layers = self._layers(shown)
        named = [shown.names(layer) for layer in layers]
        names = dict.fromkeys(n for one in named for n in (one.gate, one.up) if n)
        start = {name: shown.parameter(name).detach() for name in names}
        parameters = LowRank(shown, start, self.rank, self.scale, seed)
        samples = [
            Sample(one.prompt, one.answer)
            for request in requests
            for one in renderings(shown.chat, request)
        ]
        lessons, finals = answer_rows(shown, samples, layers[0] - 1)
        schedule = Schedule(self.steps, self.batch, keep=0.0, sure=self.sure)
        train(shown, finals, lessons, [], parameters, schedule, adam(self.learning_rate))
        return parameters.pairs()

    def _entered(
        self, shown: ModelView, state: MeloState, requests: Sequence[EditRequest], block: Block
    ) -> MeloState:
        """Return the state with a block, and what turns it on."""
        subjects = [request.subject for request in requests]
        shelf, owners = state.shelf, dict(state.owners)
        for request in requests:
            labels = [label_of(shown.chat, r.answer) for r in renderings(shown.chat, request)]
            beside = anchors_of(request, state.names, self.siblings, subjects)
            shelf = shelved(shown, state.ring, shelf, request, labels, beside, self.radius)
            asked = [
                *(Asked(question, True) for question in request.questions),
                *(Asked(prompt, False) for prompt in request.prompts),
            ]
            owners |= dict.fromkeys(asked, len(state.blocks))
        done = state.done | {request.id for request in requests}
        return replace(state, shelf=shelf, owners=owners, blocks=(*state.blocks, block), done=done)
