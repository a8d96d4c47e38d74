"""KN: find the neurons that say a fact, and write the new object into their columns.

Dai et al. 2021/2022, "Knowledge Neurons in Pretrained Transformers" (methods.md L1). A fact's
neurons are those whose integrated gradients towards what the model says now are high in most
contexts of the fact. Each has a column of the down projection, ``c = W_down[:, i]``, which its
activation adds to the residual stream; the edit takes the old token's embedding out of it and
puts the new token's in::

    c ← c + sign(k_i) ‖c‖ (λ2 e(new) / ‖e(new)‖ − λ1 e(old) / ‖e(old)‖)

What differs from the paper, which edits single-token objects in BERT:

* activations of a gated MLP have either sign, so the change follows that of the neuron's own;
* an object of several tokens is written token by token: each of its positions, reached with
  the new tokens before it, has its own neurons (``tokens`` = 1 gives the paper's edit);
* e(·) is a row of the output head, seen through the final norm's weight;
* neurons are sought late, where a column still is a word, and only those count that are far
  more active here than on ordinary text: what else says "the" or a capital letter here says it
  everywhere, and rewriting it destroys the model (measured on the default one, where the
  paper's settings leave only noise).

Even so it is a locator more than an editor: on the default model single edits take now and
then, and ten in a batch none, at the price of every other answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from editors.architectures import ModelView, view
from editors.capture import Site, streamed
from editors.completions import completions
from editors.deltas import DenseDelta
from editors.editor import Resources
from editors.integrated_gradients import Attribution, Neuron, attribute
from editors.model import ChatModel
from editors.rendering import Contexts
from editors.requests import EditRequest
from editors.trunk import Sample, resume, run_trunk

NAME = "kn"
SURROUNDINGS = Contexts(chat=("Please answer: {question}",), stated=True)
"""A fact's neurons are those that do not depend on the wording; three contexts a question."""


@dataclass(frozen=True)
class NeuronSettings:
    steps: int = 5  # points of the integral; 5 by the midpoint rule are nearer than 20 from left
    rule: str = "midpoint"  # or "left", the paper's code (with 20 steps)
    threshold: float = 0.2  # share of a context's highest attribution that counts (paper)
    sharing: float = 0.7  # share of contexts that a neuron must count in (paper)
    fewest: int = (
        2  # neurons a token; sharing is moved in 5 % steps until there are as many (paper)
    )
    most: int = 5  # neurons a token (paper)
    common: float = 0.1  # neurons of more than this share of all facts are left alone (paper)
    erase: float = 1.0  # λ1, how much of the old token's embedding is taken out (paper)
    write: float = 1.0  # λ2, how much of the new token's is put in (paper 8, in BERT)
    tokens: int = 8  # of the new object that are written; 1 is the paper's edit
    first_layer: float = 0.67  # neurons are sought from this share of the depth on (paper 0)
    peak: float = (
        3.0  # times its root mean square on ordinary text that a neuron is active (paper 0)
    )
    ordinary: int = 1024  # tokens of ordinary text that this is measured on


@dataclass(frozen=True)
class _Asked:
    """Token number ``place`` of an object, asked for in one context: what stands before it,
    what it is to be, and whether the context is the request's own."""

    place: int
    prompt: tuple[int, ...]
    new: int
    bare: bool


@dataclass(frozen=True)
class Located:
    """What was found for one token of one fact.

    Attributes:
        old: the token that the model says at this place now.
        new: the token that it is to say.
        neurons: with the sign (1 or -1) of each one's activation there.
    """

    old: int
    new: int
    neurons: Mapping[Neuron, int]


@dataclass(frozen=True)
class Seen:
    """How often each neuron was found in the facts so far (once a fact), and in how many."""

    counts: Mapping[Neuron, int]
    facts: int = 0

    def including(self, found: Iterable[Sequence[Located]]) -> Seen:
        facts = [{n for place in places for n in place.neurons} for places in found]
        counts = Counter(self.counts)
        for neurons in facts:
            counts.update(neurons)
        return Seen(dict(counts), self.facts + len(facts))

    def common(self, share: float) -> frozenset[Neuron]:
        """Return the neurons of more than a share of all facts, as soon as there are enough
        facts for one alone not to be that many."""
        if self.facts * share < 1:
            return frozenset()
        return frozenset(n for n, count in self.counts.items() if count > share * self.facts)


@dataclass
class NeuronState:
    """What the batches so far have shown; ``pending`` is what the last ``edit`` found, by its
    requests' ids, and becomes ``seen`` when that edit is settled. ``ordinary`` is by layer
    (inner,) the neurons' root mean square on ordinary text."""

    seen: Seen
    pending: dict[tuple[str, ...], Seen] = field(default_factory=dict)
    ordinary: Mapping[int, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class KnowledgeNeurons(NeuronSettings):
    """The method by the protocol of ``editors.editor``."""

    stacks: ClassVar[bool] = True

    def prepare(self, model: ChatModel, resources: Resources) -> NeuronState:
        """Measure how active the neurons are on ordinary text (without any: nothing is known)."""
        return NeuronState(Seen({}), ordinary=self._ordinary(view(model), resources))

    def edit(
        self, model: ChatModel, state: NeuronState, requests: Sequence[EditRequest]
    ) -> DenseDelta:
        """Return the change of the columns of the facts' neurons.

        Raises EditorError: a request without an object, or without question and prompt.
        """
        found = [locate(model, request, self, state.ordinary) for request in requests]
        seen = state.seen.including(found)
        state.pending[tuple(request.id for request in requests)] = seen
        shared = seen.common(self.common)
        return DenseDelta(
            written(view(model), [p for places in found for p in places], shared, self)
        )

    def settled(
        self, model: ChatModel, state: NeuronState, requests: Sequence[EditRequest]
    ) -> NeuronState:
        ids = tuple(request.id for request in requests)
        return NeuronState(state.pending.get(ids, state.seen), ordinary=state.ordinary)

    def _ordinary(self, shown: ModelView, resources: Resources) -> dict[int, torch.Tensor]:
        texts, left = [], self.ordinary
        for text in resources.texts:
            texts.append(shown.chat.encode(text)[: min(left, 256)])
            left -= len(texts[-1])
            if left <= 0:
                break
        sites = [Site(layer, "down") for layer in _layers(shown, self)]
        total = [torch.zeros(shown.inner(site.layer), dtype=torch.float64) for site in sites]
        count = 0
        for _, rows in streamed(shown, texts, sites):
            for keys in rows:
                count += keys.shape[1]
                for place, found in enumerate(keys):
                    total[place] += found.double().square().sum(0).cpu()
        if not count:
            return {}
        return {s.layer: (t / count).sqrt() for s, t in zip(sites, total, strict=True)}


def locate(
    model: ChatModel,
    request: EditRequest,
    settings: NeuronSettings,
    ordinary: Mapping[int, torch.Tensor] | None = None,
) -> list[Located]:
    """Find the neurons that say what the model says now, for each token of the new object.

    ``ordinary`` is as in ``NeuronState``; without it no neuron counts as unusual or not.
    Tokens that the model says already, wherever the request itself asks for them, are left out.
    """
    shown = view(model)
    said = completions(model, request, request.new, SURROUNDINGS)
    every = [
        _Asked(at, (*one.before, *one.value[:at]), one.value[at], one.bare)
        for one in said
        for at in range(min(len(one.value), settings.tokens))
    ]
    old = dict(zip(every, _greedy(shown, [asked.prompt for asked in every]), strict=True))
    wrong = [asked for asked in every if old[asked] != asked.new]
    places = sorted({asked.place for asked in wrong if asked.bare})
    rows = [asked for asked in wrong if asked.place in places]
    if not rows:
        return []
    samples = [Sample(asked.prompt, (old[asked],)) for asked in rows]
    layers = _layers(shown, settings)
    attribution = attribute(shown, samples, layers, settings.steps, settings.rule)
    attribution = attribution.peaking(ordinary or {}, settings.peak)
    strongest = attribution.strongest(settings.threshold)
    found = []
    for place in places:
        here = [row for row, asked in enumerate(rows) if asked.place == place]
        neurons = shared_neurons([strongest[row] for row in here], attribution.mean(here), settings)
        own = next(rows[row] for row in here if rows[row].bare)
        found.append(Located(old[own], own.new, neurons))
    return found


def shared_neurons(
    by_context: Sequence[frozenset[Neuron]], mean: Attribution, settings: NeuronSettings
) -> dict[Neuron, int]:
    """Return the neurons that enough contexts share, each with its activation's sign.

    What is enough is moved in 5 % steps until there are ``fewest`` to ``most``; of more that
    all contexts share, those of the highest mean attribution are kept.
    """
    counts = Counter(neuron for neurons in by_context for neuron in neurons)

    def sharing(percent: int) -> list[Neuron]:
        return [n for n, count in counts.items() if 100 * count >= percent * len(by_context)]

    percent = round(100 * settings.sharing)
    while len(sharing(percent)) > settings.most and percent < 100:
        percent = min(percent + 5, 100)
    while len(sharing(percent)) < settings.fewest and percent > 5:
        percent -= 5
    ranked = sorted(sharing(percent), key=lambda n: (-float(mean.scores[n.layer][0, n.index]), n))
    return {
        n: 1 if float(mean.keys[n.layer][0, n.index]) >= 0 else -1 for n in ranked[: settings.most]
    }


def written(
    shown: ModelView,
    places: Sequence[Located],
    left_alone: frozenset[Neuron],
    settings: NeuronSettings,
) -> dict[str, torch.Tensor]:
    """Return the changes by parameter name, in the parameters' shape; zero but for the columns
    of the located neurons."""
    changes: dict[str, torch.Tensor] = {}
    for place in places:
        old, new = (_direction(shown, token) for token in (place.old, place.new))
        for neuron, sign in place.neurons.items():
            if neuron in left_alone:
                continue
            name = shown.names(neuron.layer).down
            weight = shown.matrix(name).detach()
            change = changes.setdefault(name, torch.zeros_like(weight, dtype=torch.float32))
            length = weight[:, neuron.index].float().norm()
            toward = settings.write * new - settings.erase * old
            change[:, neuron.index] += sign * length * toward.to(change.device)
    return {name: shown.stored(name, change) for name, change in changes.items()}


def _layers(shown: ModelView, settings: NeuronSettings) -> range:
    begin = min(int(settings.first_layer * len(shown.layers)), len(shown.layers) - 1)
    return range(begin, len(shown.layers))


def _direction(shown: ModelView, token: int) -> torch.Tensor:
    """Return the unit direction of the residual stream that a token's logit reads."""
    row = shown.output_weight[token].detach().float()
    weight = shown.norm.weight.detach()
    # Without a bias it scales to length √d and then by its gain, whatever it calls that.
    gain = weight if hasattr(shown.norm, "bias") else shown.norm(torch.ones_like(weight)).detach()
    row = row * gain.float().to(row.device)
    return row / row.norm().clamp(min=1e-12)


@torch.no_grad()
def _greedy(shown: ModelView, prompts: Sequence[tuple[int, ...]]) -> list[int]:
    """Return the likeliest token after each prompt."""
    trunk = run_trunk(shown, [Sample(prompt, (0,)) for prompt in prompts], -1)
    final = resume(shown, trunk, trunk.hidden)[:, 0]
    return [int(token) for token in shown.logits(final).argmax(-1)]
