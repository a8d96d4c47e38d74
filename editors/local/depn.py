"""DEPN: make a model forget a string by switching off the neurons that recite it.

Wu et al. 2023, "DEPN: Detecting and Editing Privacy Neurons" (methods.md L8). The neurons are
found by integrated gradients of the string's joint probability after its prefix, and those
that most texts of a batch share have their columns of the down projection set to zero.

This editor *forgets* and does not replace: of a request it takes ``old``, the string to
forget, where the ``questions`` and plain ``prompts`` ask for it; ``new`` may be empty::

    EditRequest("1", (), new="", statement="", old="555 0199", prompts=("Call Jane Roe at",))

In ``bench edit`` it forgets each record's old value: what it can move there is the
old-answer leak, never the accuracy.
"""

from __future__ import annotations

import math
import random
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from editors.architectures import ModelView, view
from editors.completions import completions, saying
from editors.deltas import DenseDelta
from editors.editor import Resources
from editors.integrated_gradients import Neuron, attribute, joint_logprobs
from editors.model import ChatModel
from editors.requests import EditorError, EditRequest
from editors.trunk import Sample

NAME = "depn"


@dataclass(frozen=True)
class ForgettingSettings:
    steps: int = 5  # points of the integral; 5 by the midpoint rule are nearer than 20 from left
    rule: str = "midpoint"  # or "left", the paper's code (with 20 steps)
    threshold: float = 0.1  # share of a text's highest attribution that counts (paper 0.01 to 0.1)
    sharing: float = 0.5  # share of the texts of a batch that a neuron must count in (paper)
    neurons: int = 10  # switched off for a batch, the most frequent first (paper 20, in BERT)
    first_layer: float = 0.0  # neurons are sought from this share of the depth on


@dataclass(frozen=True)
class Depn(ForgettingSettings):
    """The method by the protocol of ``editors.editor``."""

    stacks: ClassVar[bool] = True

    def prepare(self, model: ChatModel, resources: Resources) -> None:
        return None

    def edit(self, model: ChatModel, state: None, requests: Sequence[EditRequest]) -> DenseDelta:
        """Return the change that switches off the neurons of the requests' old strings.

        Raises EditorError: a request with nothing to forget, or nothing that asks for it.
        """
        samples = [sample for request in requests for sample in recited(model, request)]
        neurons = privacy_neurons(model, samples, self) if samples else []
        return DenseDelta(switched_off(view(model), neurons))

    def settled(self, model: ChatModel, state: None, requests: Sequence[EditRequest]) -> None:
        return None


def recited(model: ChatModel, request: EditRequest) -> list[Sample]:
    """Return the texts in which a request's old string is said, the string as the answer."""
    if not request.old.strip():
        raise EditorError(
            f"request {request.id} names nothing to forget: depn takes the string from old"
        )
    return [Sample(c.before, c.value) for c in completions(model, request, request.old)]


def privacy_neurons(
    model: ChatModel | ModelView, samples: Sequence[Sample], settings: ForgettingSettings
) -> list[Neuron]:
    """Return the neurons that recite the samples' answers, the most frequent first.

    Of neurons that count in equally many texts those of the higher attribution, relative to
    each text's highest, come first.
    """
    shown = view(model)
    begin = min(int(settings.first_layer * len(shown.layers)), len(shown.layers) - 1)
    layers = range(begin, len(shown.layers))
    found = attribute(shown, samples, layers, settings.steps, settings.rule)
    tops = torch.stack([s.amax(1) for s in found.scores.values()]).amax(0)
    counts = Counter(n for neurons in found.strongest(settings.threshold) for n in neurons)
    weights = {
        layer: (scores / tops.clamp(min=torch.finfo(torch.float64).tiny)[:, None]).sum(0)
        for layer, scores in found.scores.items()
    }
    needed = settings.sharing * len(samples)
    enough = [n for n, count in counts.items() if count >= needed]
    enough.sort(key=lambda n: (-counts[n], -float(weights[n.layer][n.index]), n))
    return enough[: settings.neurons]


def switched_off(shown: ModelView, neurons: Sequence[Neuron]) -> dict[str, torch.Tensor]:
    """Return the changes, by parameter name, that set the neurons' columns to exactly zero."""
    changes: dict[str, torch.Tensor] = {}
    for neuron in neurons:
        name = shown.names(neuron.layer).down
        weight = shown.matrix(name).detach()
        change = changes.setdefault(name, torch.zeros_like(weight))
        change[:, neuron.index] = -weight[:, neuron.index]
    return {name: shown.stored(name, change) for name, change in changes.items()}


def exposure(
    model: ChatModel | ModelView, request: EditRequest, rng: random.Random, others: int = 255
) -> float:
    """Return how exposed a request's old string is, in bits (Carlini et al. 2019, §4).

    That is log2 of the number of candidates by the string's rank among them, by probability:
    8 for the likeliest of 256, 0 for the least likely. The other candidates are the string
    with each letter and digit drawn anew; a string without any cannot be ranked.
    """
    shown = view(model)
    secrets = {request.old: None}
    for _ in range(20 * others):
        if len(secrets) > others:
            break
        secrets[_redrawn(request.old, rng)] = None
    if len(secrets) <= others:
        raise EditorError(f"{request.old!r} has too few letters and digits to be ranked")
    asked = saying(request, request.old)
    said = [completions(shown.chat, asked, secret)[0] for secret in secrets]
    made = [Sample(one.before, one.value) for one in said]
    logs = joint_logprobs(shown, made)
    return math.log2(len(made)) - math.log2(1 + int((logs[1:] > logs[0]).sum()))


def _redrawn(text: str, rng: random.Random) -> str:
    kinds: tuple[Callable[[str], bool], ...] = (str.isdigit, str.islower, str.isupper)
    drawn = (string.digits, string.ascii_lowercase, string.ascii_uppercase)
    return "".join(
        next((rng.choice(new) for of, new in zip(kinds, drawn, strict=True) if of(sign)), sign)
        for sign in text
    )
