"""GRACE: values that a codebook looks up in place of an MLP's output (Hartvigsen et al. 2023; X3).

Nothing in the weights moves. Each request leaves balls around the keys of its questions, and a
value. A prompt whose key is in a ball has the output of one MLP replaced by the ball's value from
the prompt's last token on; any other prompt meets the unedited model, to the bit. Balls of
different answers that meet are halved; a near key of the same answer widens a ball
(``editors.memory.codebook``). Balls of one answer share its value, which is trained on all that
is asked for it.

Two things differ from the paper. One value at the last prompt token has to bring forth a whole
sentence, which a small model takes long to learn, or never does; here each place of the answer
has a value of its own (``places`` = 1 is the paper's), so that a name of several tokens comes
out, and the tokens behind the last place are the unedited model's. And the keys are embeddings
of the question, with a radius that is measured (``editors.memory.prompt_keys``); ``key`` =
"last" reads the prompt's last token below the edited layer, as the paper does.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from editors.architectures import ModelView, view
from editors.capture import Site, frozen
from editors.deltas import DeltaError
from editors.editor import Resources
from editors.memory.codebook import Codebook, empty
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
from editors.question_embeddings import Embedder
from editors.rendering import renderings
from editors.requests import EditorError, EditRequest
from editors.runtime import Runtime, Turns, silent
from editors.trunk import Sample, label_logits, resume, run_trunk, with_values

NAME = "grace"
_TOGETHER = 16  # prompts of one answer that its value is trained on, the newest ones


@dataclass(frozen=True)
class GraceSettings:
    layer: float = 0.7  # whose MLP output is replaced, as a share of the depth (paper: 0.84)
    key: str = "question"  # what a key is made of: question, or last (the paper's)
    read: float = 0.3  # where question keys are read, as a share of the depth
    places: int = 0  # answer places that have a value; 0: all, 1: the paper's
    radius: float = 1.0  # of a ball, in units of the radius measured on the model
    steps: int = 60  # Adam, at most, a value (paper: 100)
    learning_rate: float = 0.3  # in units of the output's mean size (paper: 1.0, absolute)
    sure: float = 0.9  # least probability of each label that ends the training
    siblings: int = 8  # questions on other subjects that no ball may reach


@dataclass(frozen=True)
class GraceDelta:
    """The codebook and its values.

    Attributes:
        layer: whose MLP output is replaced.
        embedder: makes the keys.
        book: its labels name ``values``.
        values: by label (places, hidden).
    """

    layer: int
    embedder: Embedder
    book: Codebook
    values: Mapping[str, torch.Tensor]

    @property
    def parameters_added(self) -> int:
        return (
            self.book.keys.numel() + len(self.book) + sum(v.numel() for v in self.values.values())
        )

    def apply(self, model: ChatModel) -> Callable[[], None]:
        """Attach the codebook; the weights stay as they are."""
        shown = view(model)
        if len(self.embedder.whiten) != shown.hidden:
            width = len(self.embedder.whiten)
            raise DeltaError(f"a codebook for a hidden size of {width}, not {shown.hidden}")
        turns = Turns(model)
        values = {label: value.to(shown.device) for label, value in self.values.items()}

        def choose(ids: Sequence[int], states: torch.Tensor) -> str | None:
            at = self.book.find(self.embedder.of_prompt(turns, ids, states))
            return None if at is None else self.book.labels[at]

        def effect(
            site: Site, acting: Hashable, inputs: torch.Tensor, outputs: torch.Tensor
        ) -> torch.Tensor:
            assert isinstance(acting, tuple)
            label, place = acting
            if place >= len(values[label]):
                return outputs
            return values[label][place].to(outputs).expand_as(outputs)

        read, write = Site(self.embedder.layer, "layer"), Site(self.layer, "down")
        return Runtime(shown, read, choose, [write], effect, turns.last, paced=True).attach()

    def without(self, label: str) -> GraceDelta:
        """Return the delta without an answer's entries: roll-back of one answer."""
        left = {name: value for name, value in self.values.items() if name != label}
        return replace(self, book=self.book.without(label), values=left)

    def tensors(self) -> dict[str, torch.Tensor]:
        order = sorted(self.values)
        made = {
            **embedder_tensors(self.embedder),
            **self.book.tensors("balls"),
            "values.layer": torch.tensor(self.layer),
            "values.labels": _index(self.book, order),
        }
        return made | {f"values.{at}": self.values[n].contiguous() for at, n in enumerate(order)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, torch.Tensor]) -> GraceDelta:
        """Rebuild from ``tensors()`` output."""
        book = Codebook.from_tensors(tensors, "balls")
        at = tensors["values.labels"].tolist()
        values = {
            label: tensors[f"values.{number}"]
            for label, number in zip(book.labels, at, strict=True)
        }
        return cls(int(tensors["values.layer"]), embedder_of(tensors), book, values)


@dataclass
class GraceState:
    """What lasts from batch to batch: keys and radius, other subjects' names, the codebook with
    its values, and by label the prompts that its value was trained on. ``pending`` is the state
    after the last ``edit``, until it is settled."""

    ring: Keyring
    names: tuple[str, ...]
    shelf: Shelf
    values: dict[str, torch.Tensor] = field(default_factory=dict)
    asked: dict[str, tuple[Sample, ...]] = field(default_factory=dict)
    done: frozenset[str] = frozenset()
    pending: GraceState | None = None


@dataclass(frozen=True)
class Grace(GraceSettings):
    """The method by the protocol of ``editors.editor``: each delta carries all entries so far,
    of which only those of new requests are trained."""

    stacks: ClassVar[bool] = False

    def prepare(self, model: ChatModel, resources: Resources) -> GraceState:
        """Measure the keys of ordinary questions, and from them the radius."""
        shown = view(model)
        layer = self._layer(shown)
        read = layer - 1 if self.key == "last" else int(self.read * len(shown.layers))
        if not 0 <= read < layer:
            raise EditorError(f"keys are read at layer {read}, not below layer {layer}")
        ring = keyring(shown, read, self.key)
        return GraceState(ring, names_in(resources.texts), Shelf(empty(shown.hidden), {}))

    def edit(
        self, model: ChatModel, state: GraceState, requests: Sequence[EditRequest]
    ) -> GraceDelta:
        """Enter the requests that are not in the codebook yet, and train their values."""
        shown = view(model)
        new = [request for request in requests if request.id not in state.done]
        made = replace(
            state,
            values=dict(state.values),
            asked=dict(state.asked),
            done=state.done | {request.id for request in new},
            pending=None,
        )
        with silent(model):
            touched = self._enter(shown, made, new)
            for label in touched:
                made.values[label] = self._value(shown, made.asked[label], made.values.get(label))
        held = set(made.shelf.book.labels)  # the newer answer to the same question took the ball
        made.values = {label: value for label, value in made.values.items() if label in held}
        state.pending = made
        return GraceDelta(self._layer(shown), state.ring.embedder, made.shelf.book, made.values)

    def settled(
        self, model: ChatModel, state: GraceState, requests: Sequence[EditRequest]
    ) -> GraceState:
        made = state.pending
        if made is None or not {request.id for request in requests} <= made.done:
            return state
        return made

    def _layer(self, shown: ModelView) -> int:
        return min(int(self.layer * len(shown.layers)), len(shown.layers) - 1)

    def _enter(
        self, shown: ModelView, state: GraceState, requests: Sequence[EditRequest]
    ) -> list[str]:
        """Put the requests into the state's codebook; return the labels that need training."""
        subjects = [request.subject for request in requests]
        touched: dict[str, None] = {}
        for request in requests:
            found = renderings(shown.chat, request)
            labels = [label_of(shown.chat, one.answer) for one in found]
            beside = anchors_of(request, state.names, self.siblings, subjects)
            state.shelf = shelved(
                shown, state.ring, state.shelf, request, labels, beside, self.radius
            )
            for one, label in zip(found, labels, strict=True):
                before = state.asked.get(label, ())
                sample = Sample(one.prompt, one.answer)
                if sample not in before:
                    state.asked[label] = (*before, sample)[-_TOGETHER:]
                touched[label] = None
        return list(touched)

    def _value(
        self, shown: ModelView, samples: Sequence[Sample], start: torch.Tensor | None
    ) -> torch.Tensor:
        """Return an answer's value (places, hidden), trained on all that is asked for it."""
        trunk = run_trunk(shown, samples, self._layer(shown))
        places = trunk.values.shape[1]  # one answer: as many of every sample
        places = min(self.places, places) if self.places else places
        natural = trunk.values[:, :places].mean(0)
        if start is not None and start.shape == natural.shape:
            natural = start.to(natural)
        unit = trunk.values.norm(dim=-1).mean() / shown.hidden**0.5
        moved = torch.zeros_like(natural, requires_grad=True)
        optimiser = torch.optim.Adam([moved], lr=self.learning_rate)
        with frozen(shown):
            for _ in range(self.steps):
                value = (natural + unit * moved).expand(len(samples), -1, -1)
                values = torch.cat([value, trunk.values[:, places:]], dim=1)
                final = resume(shown, trunk, with_values(shown, trunk, values))
                logits, wanted, _ = label_logits(shown, final, trunk.targets)
                each = torch.nn.functional.cross_entropy(logits.float(), wanted, reduction="none")
                if float((-each.detach().max()).exp()) >= self.sure:
                    break
                (moved.grad,) = torch.autograd.grad(each.mean(), [moved])
                optimiser.step()
        return (natural + unit * moved).detach().float().cpu()


def label_of(model: ChatModel, answer: Sequence[int]) -> str:
    """Return an answer's label: its whole text, which a plain answer begins with a space, so
    that the two renderings of one object have values of their own."""
    return model.tokenizer.decode(list(answer))


def _index(book: Codebook, order: Sequence[str]) -> torch.Tensor:
    return torch.tensor([order.index(label) for label in book.labels], dtype=torch.long)
