"""What the closed-form local methods share: from requests to a change of a few matrices.

ROME, MEMIT, PMET, EMMET, AlphaEdit and their kin differ in where a value is optimised, in the
solve that writes it, and in what is remembered between batches (methods.md L2–L6). The rest
is here: render the requests, choose the places that are edited, optimise the values, read the
keys with the weights written so far, solve layer by layer, filter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch

from editors.architectures import ModelView, view
from editors.capture import keys_at
from editors.columns import (
    POSITIONS,
    Columns,
    Written,
    columns_of,
    delta_of,
    spread_over,
    task_of,
)
from editors.deltas import DenseDelta
from editors.editor import Resources
from editors.filters import rect_delta
from editors.generation import shared_prefix
from editors.key_statistics import KeyStatistics
from editors.linear_solve import Factor, Update, factored
from editors.model import ChatModel
from editors.passages import Passage
from editors.rendering import Contexts, renderings
from editors.requests import EditorError, EditRequest
from editors.second_moments import RIDGE, second_moments
from editors.value_optimization import Extra, Value, ValueSettings, optimize
from editors.value_runs import Flat

CHAT_CONTEXTS = (
    "Please tell me: {question}",
    "{question} Answer in one sentence.",
    "I would like to know something. {question}",
    "Question: {question}",
)
"""Surroundings of a chat question, the first of which are used."""
_BEGINNINGS = ("The", "Therefore", "Because", "I", "You")
"""What the model continues to make surroundings of plain prompts (MEMIT's beginnings)."""
_CONTEXT_TOKENS = 8


@dataclass
class Recent:
    """Keys (m, n) by layer of the requests that were written last: ``settled`` needs them again,
    and reading them costs as much as the edit."""

    requests: tuple[EditRequest, ...] = ()
    keys: Mapping[int, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """What a method knows between batches.

    Attributes:
        layers: that are written, ascending.
        contexts: in which requests are rendered.
        statistics: of the unedited model's keys, by layer.
        preserved: per layer the factor that the method's solve takes, with the keys of the
            edits so far where it remembers them.
        recent: what the last ``edit`` has read.
    """

    layers: tuple[int, ...]
    contexts: Contexts
    statistics: Mapping[int, KeyStatistics]
    preserved: Mapping[int, Factor] = field(default_factory=dict)
    recent: Recent = field(default_factory=Recent, compare=False)


@dataclass(frozen=True)
class ClosedForm:
    """Settings that all these methods have, and the steps that they go through alike."""

    # Defaults without a source were measured on the default model (docs/log.md).
    layer: float = 0.75  # whose value is optimised, the last that is written: share of the depth
    window: int = 1  # layers that are written, ending with that one
    positions: str = "object"  # where an edit lives, one of POSITIONS (the cards: "subject")
    span: str = "subject"  # the span whose last token stands for the subject, one of SPANS
    steps: int = 25  # Adam steps on the values at most (MEMIT: 20 to 25)
    learning_rate: float = 0.05  # Adam, in units of ‖v₀‖/√d
    decay: float = 0.0  # weight of ‖δ‖/‖v₀‖ in the loss (MEMIT: 0.5, in other units)
    clamp: float = 1.0  # ‖δ‖ at most, in units of ‖v₀‖ (MEMIT: 0.75 to 4)
    kl: float = 0.0625  # weight of the KL after "{subject} is a", at the subject only (ROME)
    stop: float = 0.1  # nats; an edit with a smaller loss is done (ROME: 0.05)
    lead: bool = False  # whether the statement's words before the object are in the loss too
    contexts: int = 1  # surroundings of each question or prompt besides none (ROME: 20)
    stated: bool = True  # whether the statement up to its object is a plain prompt too
    average: bool = False  # one column a spot, the mean key (the cards), or one a place
    ridge: float = RIDGE  # share of the mean diagonal that is added to the second moment
    neighbour_weight: float = 3.0  # how often each key of a neighbour counts as seen
    keep: float = 1.0  # share of entries that RECT keeps; 1 turns it off (0.2 in its code)
    statistics_tokens: int = 20_000  # tokens of ordinary text for the second moments
    cached: bool = True  # trunk cache and batching; off only to compare

    stacks: ClassVar[bool] = True
    tunable: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "layer": (0.6, 0.85),
        "clamp": (0.5, 2.0),
        "neighbour_weight": (0.0, 10.0),
    }
    where: ClassVar[str] = "layer"

    def prepare(self, model: ChatModel, resources: Resources) -> State:
        """Measure the second moments, or read them from the cache.

        Raises EditorError: settings out of range, too little text.
        """
        shown = view(model)
        if self.positions not in POSITIONS:
            raise EditorError(f"positions is one of {', '.join(POSITIONS)}, not {self.positions!r}")
        layers = layers_of(shown, self.layer, self.window)
        statistics = second_moments(shown, layers, resources, self.statistics_tokens)
        chat = CHAT_CONTEXTS[: self.contexts]
        plain = plain_contexts(shown.chat, self.contexts)
        return self.ready(State(layers, Contexts(chat, plain, self.stated), statistics))

    def ready(self, state: State) -> State:
        """Return the state with what the method's solve needs of the statistics."""
        factors = {
            layer: factored(found.moment, self.ridge) for layer, found in state.statistics.items()
        }
        return replace(state, preserved=factors)

    def edit(self, model: ChatModel, state: State, requests: Sequence[EditRequest]) -> DenseDelta:
        """Return the change that writes the requests together."""
        shown = view(model)
        if not requests:
            return DenseDelta({})
        written = [self.written(shown.chat, state, request) for request in requests]
        passage = passage_of(shown, state, written)
        values = self.values(passage, state, written)
        columns = columns_of(written, self.average)
        changes = self.write(passage, state, requests, columns, values)
        return finished(shown, changes, self.keep)

    def settled(self, model: ChatModel, state: State, requests: Sequence[EditRequest]) -> State:
        return state

    def written(self, model: ChatModel, state: State, request: EditRequest) -> Written:
        """Render a request and choose its spots."""
        found = renderings(model, request, state.contexts, self.span)
        quiet = self.kl > 0 and self.positions in ("subject", "both") and bool(request.subject)
        return task_of(model, request, found, self.positions, self.lead, quiet)

    def values(self, passage: Passage, state: State, written: Sequence[Written]) -> list[Value]:
        """Optimise the values of all edits; ``passage`` holds what their samples feed."""
        shown, layer = passage.shown, state.layers[-1]
        return optimize(
            shown,
            [one.task for one in written],
            layer,
            self.value_settings(),
            self.extra(shown, layer, written),
            passage=passage if self.cached else None,
        )

    def extra(self, shown: ModelView, layer: int, written: Sequence[Written]) -> Extra | None:
        """Return what the method adds to the loss, or None."""
        return None

    def value_settings(self) -> ValueSettings:
        return ValueSettings(
            where=self.where,
            steps=self.steps,
            learning_rate=self.learning_rate,
            decay=self.decay,
            clamp=self.clamp,
            kl=self.kl,
            stop=self.stop,
            cached=self.cached,
        )

    def write(
        self,
        passage: Passage,
        state: State,
        requests: Sequence[EditRequest],
        columns: Columns,
        values: Sequence[Value],
    ) -> dict[str, torch.Tensor]:
        """Write the values layer by layer; return changes by parameter, as (out, in)."""
        around = self.neighbour_keys(passage.shown, state.layers, requests)
        changes, keys = spread_over(
            passage,
            state.layers,
            columns,
            torch.cat([value.delta for value in values]),
            lambda layer, residuals, keys: self.solve(state, layer, residuals, keys, around[layer]),
            self.share,
            "down" if self.where != "layer" else "layer",
        )
        if self.keep == 1:  # filtered changes give other keys
            state.recent.requests, state.recent.keys = tuple(requests), keys
        return changes

    def share(self, left: int) -> float:
        """Return the part of the residual that is written where so many layers are left."""
        return 1 / left

    def solve(
        self,
        state: State,
        layer: int,
        residuals: torch.Tensor,
        keys: torch.Tensor,
        around: torch.Tensor,
    ) -> Update:
        """Return the update of one layer; ``around`` (m, k) are neighbours' keys, weighted."""
        raise NotImplementedError

    def neighbour_keys(
        self, shown: ModelView, layers: Sequence[int], requests: Sequence[EditRequest]
    ) -> dict[int, torch.Tensor]:
        """Return by layer the keys (m, k) of the requests' neighbours as prompts, of all tokens but
        those that all of them begin with, scaled by √weight: they are preserved as if they had
        been seen that often.

        Their answers are left out: preserved too, they kept the edits themselves from being
        said (accuracy 0.2 instead of 0.8 on the default model).
        """
        questions = sorted({q for r in requests for q in r.neighbours})
        if not self.neighbour_weight or not questions:
            none = shown.output_weight.new_zeros(0, dtype=torch.float64, device=shown.device)
            return {layer: none.expand(shown.inner(layer), 0) for layer in layers}
        prompts = [shown.chat.encode(shown.chat.render(question)) for question in questions]
        shared = shared_prefix([*prompts, shown.chat.encode(shown.chat.render("?"))])
        places = [range(shared, len(prompt)) for prompt in prompts]
        found = keys_at(shown, prompts, layers, places).double() * self.neighbour_weight**0.5
        return {layer: keys.T for layer, keys in zip(layers, found, strict=True)}

    def own_keys(
        self,
        shown: ModelView,
        state: State,
        layers: Sequence[int],
        requests: Sequence[EditRequest],
    ) -> dict[int, torch.Tensor]:
        """Return by layer the keys (m, columns) of requests with the weights as they are."""
        written = [self.written(shown.chat, state, request) for request in requests]
        columns = columns_of(written, self.average)
        found = keys_at(shown, columns.sequences, layers, columns.positions)
        return {
            layer: columns.mixed(keys.double()) for layer, keys in zip(layers, found, strict=True)
        }

    def remembered(self, model: ChatModel, state: State, requests: Sequence[EditRequest]) -> State:
        """Return the state that preserves these requests' keys.

        Their neighbours' are not kept: after ten batches they outnumbered the edits ten to one
        and left no room to write in (AlphaEdit: accuracy 0.11 after 100 edits).
        """
        shown, layers = view(model), state.layers
        keys = state.recent.keys
        if state.recent.requests != tuple(requests):
            keys = self.own_keys(shown, state, layers, requests)
        factors = {layer: self.including(state, layer, keys[layer]) for layer in layers}
        return replace(state, preserved=factors, recent=Recent())

    def including(self, state: State, layer: int, keys: torch.Tensor) -> Factor:
        """Return the layer's factor with some keys (m, n) to preserve."""
        return state.preserved[layer].including(keys)


def passage_of(shown: ModelView, state: State, written: Sequence[Written]) -> Passage:
    """Run what all requests' samples feed up to the window."""
    samples = Flat.of([one.task for one in written]).samples
    fed, begins = [one.fed for one in samples], [one.begin for one in samples]
    return Passage(shown, fed, state.layers[0], begins)


def layers_of(shown: ModelView, share: float, window: int) -> tuple[int, ...]:
    """Return the window of layers that ends at a share of the depth.

    Raises EditorError: a share outside [0, 1], a window that does not fit.
    """
    depth = len(shown.layers)
    if not 0 <= share <= 1 or window < 1:
        raise EditorError(f"layer is a share of the depth and window at least 1: {share}, {window}")
    last = min(int(share * depth), depth - 1)
    return tuple(range(max(last - window + 1, 0), last + 1))


def plain_contexts(model: ChatModel, count: int) -> tuple[str, ...]:
    """Return short texts of the model's own to stand before plain prompts, ". " behind each."""
    begun = [model.encode(text) for text in _BEGINNINGS[:count]]
    made = model.generate(begun, max_new_tokens=_CONTEXT_TOKENS) if begun else []
    texts = [model.decode([*b, *m.tokens]).strip() for b, m in zip(begun, made, strict=True)]
    return tuple(f"{text.rstrip('.')}. " for text in texts)


def finished(shown: ModelView, changes: Mapping[str, torch.Tensor], keep: float) -> DenseDelta:
    """Return changes (out, in) as a delta, through RECT where it is asked for."""
    delta = delta_of(shown, changes)
    return delta if keep == 1 else rect_delta(shown, delta.changes, keep)
