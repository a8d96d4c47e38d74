"""Compiled memory: facts as extra gated neurons in the MLP of one layer.

An extension-based method (T-Patcher's idea, Huang et al. 2023, methods.md X2) in a form
that a GGUF can carry: bias-free SwiGLU neurons. One neuron stands for one answer token of
one edit. Its gate is closed-form: ``SiLU(s·(a·x − θ·b·x))·(a·x)`` where ``a`` answers 1 on
the neuron's own keys and 0 on ordinary text, on the neighbours' and on the other edits'
tokens, and ``b`` answers 1 on every token (it stands in for the missing bias). With
a sharp gate the model off the keys is, up to rounding, the unedited model. The output
columns are trained on the model's own way of answering, above a trunk cache.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from editors.deltas import MlpExpansion
from editors.key_statistics import KeyStatistics
from editors.linear_solve import ridged
from editors.model import ChatModel
from editors.requests import EditorError, EditRequest
from editors.trunk import Sample, Trunk, mlp_inputs, resume, run_trunk, select

NAME = "compiled"
Ask = Callable[[Sequence[str]], Sequence[str]]
FULL = 9.0  # activation of a neuron whose own key is there
COPULA = re.compile(r"\b(?:is|are|was)\b(?=\s)")


@dataclass(frozen=True)
class CompiledSettings:
    """Settings, each with what it does; defaults measured on the default model (docs/log.md)."""

    layer: float = 0.8  # where the neurons live, as a share of the model's depth
    sharpness: float = 300.0  # s: how steeply the gate opens: what is shut must be nothing
    threshold: float = 0.7  # θ: share of the key's own answer at which the gate opens
    own_weight: float = 200.0  # weight of the neuron's own keys in the key solve
    neighbour_weight: float = 2.0  # weight of neighbours' and other edits' tokens
    ridge: float = 1e-3  # share of the mean diagonal added to the moment
    steps: int = 40  # optimiser steps on the output columns, for each batch that there is
    batch: int = 24  # samples a step
    learning_rate: float = 0.05  # Adam, on columns in units of the layer's hidden norm
    target_loss: float = 0.02  # a sample that is this well learned is left out of the steps
    statistics_tokens: int = 8192  # ordinary text for the key statistics


@dataclass(frozen=True)
class _Neuron:
    """Which answer tokens one neuron writes: sample rows and answer columns, paired."""

    token: int
    places: tuple[tuple[int, int], ...]


def layer_of(model: ChatModel, settings: CompiledSettings) -> int:
    """Return the decoder layer that carries the neurons."""
    return min(int(settings.layer * len(model.layers)), len(model.layers) - 2)


def edit(
    model: ChatModel,
    requests: Sequence[EditRequest],
    statistics: KeyStatistics,
    settings: CompiledSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
    ask: Ask | None = None,
) -> MlpExpansion:
    """Compile all requests, jointly and from scratch, into one expansion.

    Args:
        statistics: of the layer given by ``layer_of``.
        progress: called with (steps done, steps in all).
        ask: answers questions as the unedited model does; a caller that has such answers
            already hands them in here. Default: the model is asked.

    Returns:
        An expansion with one neuron an answer token; empty requests give no neurons.
    """
    settings = settings or CompiledSettings()
    layer = layer_of(model, settings)
    if statistics.layer != layer:
        raise EditorError(f"key statistics are of layer {statistics.layer}, needed is {layer}")
    if not requests:
        none = torch.zeros(0, model.hidden_size)
        return MlpExpansion(layer, none, none.clone(), none.T.clone())
    ask = ask or (lambda questions: [r.text for r in model.answer(questions)])
    samples, starts = own_words(model, requests, ask)
    flat = [sample for group in samples for sample in group]
    trunk = run_trunk(model, flat, layer)
    neurons = _neurons(samples, starts)
    a, b = _keys(model, _around(model, requests, flat, ask), trunk, neurons, statistics, settings)
    gate = settings.sharpness * (a - settings.threshold * b)
    # However sharp the gate, a key that is fully there gives the activation that the steps suit.
    up = a * (FULL / (settings.sharpness * (1 - settings.threshold)))
    activation = _activation(trunk.mlp_inputs, gate, up)
    columns = _train(model, trunk, activation, [s for g in starts for s in g], settings, progress)
    return MlpExpansion(layer, gate.float().cpu(), up.float().cpu(), columns.T.contiguous().cpu())


def own_words(
    model: ChatModel, requests: Sequence[EditRequest], ask: Ask
) -> tuple[list[list[Sample]], list[list[int]]]:
    """Render each request as the model itself would say it.

    The model answers every editing question; what it says up to the old object is kept as
    the lead, so that an edit changes the object and not the style (design.md §4). A plain
    prompt is continued with the object.

    Returns:
        Per request its samples, and per sample the first answer column to be written.
    """
    questions = [q for r in requests for q in r.questions]
    replies = iter(ask(questions))
    stop = min(model.stop_ids)
    samples, starts = [], []
    for request in requests:
        own, first = [], []
        for question in request.questions:
            lead = own_lead(next(replies), request.old)
            forced = lead is None
            lead = statement_lead(request) if lead is None else lead
            head = model.encode_answer(lead) if lead else []
            stated = request.new if request.new.endswith(".") else f"{request.new}."
            body = model.encode_answer(f"{' ' if lead else ''}{stated}")
            prompt = tuple(model.encode(model.render(question)))
            own.append(Sample(prompt, (*head, *body, stop)))
            first.append(0 if forced else len(head))
        for text in request.prompts:
            continued = model.encode_answer(f" {request.new}")
            own.append(Sample(tuple(model.encode(text)), tuple(continued)))
            first.append(0)
        samples.append(own)
        starts.append(first)
    return samples, starts


def own_lead(reply: str, old: str) -> str | None:
    """Return the part of a reply before the object, or None if it names none.

    ``"The chancellor of Germany is Angela Merkel, …"`` gives ``"The chancellor of Germany
    is"``; a reply that begins with the old object gives ``""``.
    """
    folded = _fold(reply)
    words = _fold(old).split()
    found = [folded.find(word) for word in words if len(word) > 2]
    at = min((f for f in found if f >= 0), default=-1)
    copula = COPULA.search(reply)
    if at == 0:
        return ""
    if copula and (at < 0 or copula.end() <= at):
        return reply[: copula.end()]
    return None


def statement_lead(request: EditRequest) -> str:
    """Return the statement up to its object."""
    lead, found, _ = request.statement.partition(request.new)
    if not found:
        raise EditorError(f"the statement of edit {request.id} does not contain {request.new!r}")
    return lead.strip()


def _fold(text: str) -> str:
    """Casefold and strip diacritics, keeping one character a character."""
    return "".join(unicodedata.normalize("NFD", c)[0].casefold()[:1] or c for c in text)


def _neurons(samples: list[list[Sample]], starts: list[list[int]]) -> list[_Neuron]:
    """One neuron for each answer token of each edit; phrasings that share the same tokens
    to be written share the neurons."""
    neurons: list[_Neuron] = []
    row = 0
    for group, firsts in zip(samples, starts, strict=True):
        written: dict[tuple[tuple[int, ...], int], list[tuple[int, int]]] = {}
        for sample, first in zip(group, firsts, strict=True):
            tail = sample.answer[first:]
            for offset in range(len(tail)):
                written.setdefault((tail, offset), []).append((row, first + offset))
            row += 1
        neurons += [_Neuron(tail[at], tuple(places)) for (tail, at), places in written.items()]
    return neurons


def _around(
    model: ChatModel, requests: Sequence[EditRequest], samples: Sequence[Sample], ask: Ask
) -> list[list[int]]:
    """Return token sequences on which the gates must stay shut: what the unedited model
    answers to the neighbours, and the edits' own prompts."""
    neighbours = sorted({question for r in requests for question in r.neighbours})
    replies = ask(neighbours) if neighbours else []
    around = [
        model.encode(model.render(question)) + model.encode_answer(reply)
        for question, reply in zip(neighbours, replies, strict=True)
    ]
    return [*around, *(list(sample.prompt) for sample in samples)]


def _keys(
    model: ChatModel,
    around: Sequence[Sequence[int]],
    trunk: Trunk,
    neurons: list[_Neuron],
    statistics: KeyStatistics,
    settings: CompiledSettings,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Solve the gate directions: ``a`` (neurons, hidden) and ``b`` (hidden,), float64.

    Weighted ridge regression for each neuron: answer 1 on its own keys, 0 on ordinary
    text, on the tokens of ``around`` and on all other neurons' keys.
    """
    others = mlp_inputs(model, around, trunk.layer).double()
    places = torch.tensor([place for n in neurons for place in n.places])
    keys = trunk.mlp_inputs[places[:, 0], places[:, 1]].double()
    owner = torch.tensor([i for i, n in enumerate(neurons) for _ in n.places], device=keys.device)
    # The last prompt token predicts the first answer token: where that is a key, it must
    # not stand among the negatives as well (two batches round it differently).
    others = others[torch.cdist(others, keys).amin(1) > 1e-2]

    measured = statistics.moment.to(keys.device)
    base = ridged(measured, settings.ridge)
    b = torch.linalg.solve(base, statistics.mean.to(base.device))
    shut = (others.T @ others + keys.T @ keys) / (len(others) + len(keys))
    factor = torch.linalg.cholesky(
        ridged(measured + settings.neighbour_weight * shut, settings.ridge)
    )
    rows = [_solve(factor, keys[owner == i], settings.own_weight) for i in range(len(neurons))]
    return torch.stack(rows), b


def _solve(factor: torch.Tensor, keys: torch.Tensor, weight: float) -> torch.Tensor:
    """Return the direction that answers 1 on ``keys`` (on average exactly) and 0 elsewhere.

    ``(M + wKᵀK) a = wKᵀ1`` by Woodbury: M is factored once, each neuron costs one small solve.
    """
    solved = torch.cholesky_solve(keys.T, factor)
    eye = torch.eye(len(keys), dtype=keys.dtype, device=keys.device)
    a = solved @ torch.linalg.solve(eye / weight + keys @ solved, keys.new_ones(len(keys)))
    return a / (keys @ a).mean()


def _activation(x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """SwiGLU activation of the neurons on MLP inputs (…, hidden) → (…, neurons)."""
    gate, up = gate.to(x.dtype), up.to(x.dtype)
    return nn.functional.silu(x @ gate.T) * (x @ up.T)


def _train(
    model: ChatModel,
    trunk: Trunk,
    activation: torch.Tensor,
    starts: list[int],
    settings: CompiledSettings,
    progress: Callable[[int, int], None] | None,
) -> torch.Tensor:
    """Train the output columns (neurons, hidden) on the answers, above the trunk."""
    targets = trunk.targets.clone()
    for row, start in enumerate(starts):
        targets[row, :start] = -100
    # Columns are learned in units of the hidden state's norm per unit of activation, so
    # that one learning rate serves every layer and every gate. Padding has no norm.
    opened = activation.amax(dim=(0, 1)).clamp(min=1e-3)
    unit = float(trunk.hidden[trunk.real].norm(dim=-1).median()) / model.hidden_size**0.5
    raw = torch.zeros(activation.shape[-1], model.hidden_size, device=model.device)
    raw.requires_grad_(True)
    optimiser = torch.optim.Adam([raw], lr=settings.learning_rate)
    losses = torch.full((len(starts),), float("inf"), device=model.device)
    steps = settings.steps * max(math.ceil(len(starts) / settings.batch), 1)
    for step in range(steps):
        rows = losses.argsort(descending=True)[: settings.batch]
        if float(losses[rows].max()) <= settings.target_loss:
            break
        part = select(trunk, rows)
        columns = raw * (unit / opened)[:, None]
        out = resume(model, part, part.hidden + activation[rows] @ columns)
        wanted = targets[rows]
        at = wanted >= 0
        logits = model.model.lm_head(out[at])
        each = nn.functional.cross_entropy(logits, wanted[at], reduction="none")
        owner = at.nonzero()[:, 0]
        counts = at.sum(1).clamp(min=1)
        per_sample = each.new_zeros(len(rows)).index_add(0, owner, each) / counts
        optimiser.zero_grad()
        (grad,) = torch.autograd.grad(per_sample.sum(), raw)
        raw.grad = grad
        optimiser.step()
        losses[rows] = per_sample.detach()
        if progress:
            progress(step + 1, steps)
    return (raw * (unit / opened)[:, None]).detach()
