"""Integrated gradients: which neurons of the MLPs an answer's probability comes from.

A neuron is a component of the key ``k``, the input of a layer's down projection (methods.md
§1.2). The attribution of neuron i of one layer to an answer is (Dai et al. 2021, §3.2)::

    Attr_i = k_i · ∫₀¹ ∂P(answer; k := α k) / ∂k_i dα      so that   Σ_i Attr_i = P(k) − P(0)

The whole key of one layer is scaled, in the columns that predict the answer and in no others;
other layers follow. The lower layers and all columns before are run once for all layers and
all steps (``editors.trunk``), and the steps of several samples share a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from editors.architectures import ModelView, view
from editors.capture import Site, captured, frozen
from editors.model import ChatModel
from editors.requests import EditorError
from editors.trunk import Sample, Trunk, label_logits, resume, run_trunk, select, with_values

RULES = ("left", "midpoint")
AT_ONCE = 80  # scaled copies in a batch: above it a batch only costs memory


@dataclass(frozen=True, order=True)
class Neuron:
    """Component ``index`` of the key of layer ``layer``."""

    layer: int
    index: int


@dataclass(frozen=True)
class Attribution:
    """Attributions of n samples, by layer.

    Attributes:
        scores: per layer (n, inner) float64, Attr_i of each sample's answer.
        keys: per layer (n, inner) float64, the neurons' activations where the answer is
            predicted, averaged over its tokens.
    """

    scores: Mapping[int, torch.Tensor]
    keys: Mapping[int, torch.Tensor]

    def strongest(self, share: float) -> list[frozenset[Neuron]]:
        """Return for each sample the neurons with at least ``share`` of its highest score."""
        tops = torch.stack([s.amax(1) for s in self.scores.values()]).amax(0)
        found: list[set[Neuron]] = [set() for _ in tops]
        for layer, scores in self.scores.items():
            # A sample whose best score is not positive has no neuron that speaks for it.
            least = torch.where(tops > 0, share * tops, float("inf"))
            for row, index in (scores >= least[:, None]).nonzero().tolist():
                found[row].add(Neuron(layer, index))
        return [frozenset(neurons) for neurons in found]

    def peaking(self, ordinary: Mapping[int, torch.Tensor], peak: float) -> Attribution:
        """Return the attribution with 0 for neurons whose activation is not at least ``peak``
        times what it is on ordinary text (by layer, (inner,)); layers without stay."""
        scores = {
            layer: torch.where(self.keys[layer].abs() >= peak * ordinary[layer], s, 0)
            if layer in ordinary
            else s
            for layer, s in self.scores.items()
        }
        return Attribution(scores, self.keys)

    def mean(self, rows: Sequence[int]) -> Attribution:
        """Return the attribution averaged over some samples, as one sample."""
        at = list(rows)
        return Attribution(
            {layer: s[at].mean(0, keepdim=True) for layer, s in self.scores.items()},
            {layer: k[at].mean(0, keepdim=True) for layer, k in self.keys.items()},
        )


def attribute(
    model: ChatModel | ModelView,
    samples: Sequence[Sample],
    layers: Sequence[int] | None = None,
    steps: int = 20,
    rule: str = "left",
) -> Attribution:
    """Return the attribution of each sample's whole answer: of its tokens' joint probability.

    For single tokens give each its own sample, with the tokens before it in the prompt
    (``token_by_token``).

    Args:
        model: the model or its view; unchanged.
        samples: prompts with the answers to explain, none empty.
        layers: which layers; None: all.
        steps: points of the integral.
        rule: "left", α = j/steps as in the paper's code, or "midpoint", α = (j + ½)/steps,
            whose error falls with the square of the steps.

    Raises:
        EditorError: no samples, an empty answer, no steps or an unknown rule.
    """
    shown = view(model)
    if not samples or any(not s.answer for s in samples) or steps < 1 or rule not in RULES:
        raise EditorError(
            "attribution needs samples with answers, at least one step, and a rule of "
            f"{', '.join(RULES)}"
        )
    wanted = list(range(len(shown.layers)) if layers is None else layers)
    shares = (torch.arange(steps, device=shown.device) + (0.5 if rule == "midpoint" else 0)) / steps
    trunk = run_trunk(shown, samples, -1)
    size = max(AT_ONCE // steps, 1)
    scores: dict[int, list[torch.Tensor]] = {layer: [] for layer in wanted}
    keys: dict[int, list[torch.Tensor]] = {layer: [] for layer in wanted}
    with frozen(shown):
        for rows in torch.arange(len(samples), device=shown.device).split(size):
            part = select(trunk, rows, trim=True)
            copies = torch.arange(len(rows), device=shown.device).repeat_interleave(steps)
            wide = select(part, copies)
            for layer, at, many in _raised(shown, part, wide, wanted, copies):
                asked = (at.targets >= 0)[..., None]
                made = torch.where(asked, at.keys.double(), 0)
                keys[layer].append((made.sum(1) / asked.sum(1)).cpu())
                gradient = _gradient(shown, many, shares.repeat(len(rows)))
                mean = gradient.unflatten(0, (len(rows), steps)).mean(1)
                scores[layer].append((made * mean).sum(1).cpu())
    return Attribution(
        {layer: torch.cat(found) for layer, found in scores.items()},
        {layer: torch.cat(found) for layer, found in keys.items()},
    )


def token_by_token(prompt: Sequence[int], answer: Sequence[int]) -> list[Sample]:
    """Return one sample for each token of an answer, the tokens before it in the prompt."""
    return [Sample((*prompt, *answer[:at]), (token,)) for at, token in enumerate(answer)]


def joint_logprobs(model: ChatModel | ModelView, samples: Sequence[Sample]) -> torch.Tensor:
    """Return log P(answer | prompt) of each sample, natural logarithm, (n,) float64."""
    shown = view(model)
    trunk = run_trunk(shown, samples, -1)
    with torch.no_grad():
        return _logprobs(shown, trunk, resume(shown, trunk, trunk.hidden)).cpu()


def _raised(
    shown: ModelView, part: Trunk, wide: Trunk, layers: Sequence[int], copies: torch.Tensor
) -> Iterator[tuple[int, Trunk, Trunk]]:
    """Yield the trunks at each layer, of the samples and of their copies, from one forward.

    ``part`` and ``wide`` are at the embedding (layer -1).
    """
    sites = [Site(layer, name) for layer in layers for name in ("layer", "down")]
    with torch.no_grad(), captured(shown, sites) as seen:
        resume(shown, part, part.hidden)
    for layer in layers:
        down, whole = Site(layer, "down"), Site(layer, "layer")
        at = replace(
            part,
            layer=layer,
            keys=seen.inputs(down),
            values=seen.outputs(down),
            hidden=seen.outputs(whole),
            past=part.past[layer + 1 :],
            prefix=part.prefix[layer + 1 :],
        )
        many = replace(
            at,
            **{name: getattr(at, name)[copies] for name in ("keys", "values", "hidden")},
            targets=wide.targets,
            real=wide.real,
            firsts=wide.firsts,
            positions=wide.positions,
            past=wide.past[layer + 1 :],
            past_positions=wide.past_positions,
        )
        yield layer, at, many


def _gradient(shown: ModelView, trunk: Trunk, shares: torch.Tensor) -> torch.Tensor:
    """Return ∂P(answer)/∂k (rows, columns, inner) float64, where k is scaled by each row's
    share in the columns that predict the answer."""
    asked = (trunk.targets >= 0)[..., None]
    scaled = torch.where(asked, shares[:, None, None].to(trunk.keys) * trunk.keys, trunk.keys)
    scaled.requires_grad_(True)
    values = shown.module(trunk.layer, "down")(scaled)
    final = resume(shown, trunk, with_values(shown, trunk, values))
    logs = _logprobs(shown, trunk, final)
    # P may lie below what float32 holds; its logarithm does not: ∂P = P ∂ log P, row by row.
    (gradient,) = torch.autograd.grad(logs.sum(), scaled)
    return gradient.double() * logs.detach().exp().to(gradient.device)[:, None, None]


def _logprobs(shown: ModelView, trunk: Trunk, final: torch.Tensor) -> torch.Tensor:
    """Return the answers' joint log-probabilities (rows,), float64."""
    logits, targets, rows = label_logits(shown, final, trunk.targets)
    each = logits.float() if logits.dtype.itemsize < 4 else logits
    picked = each.log_softmax(-1).gather(-1, targets[:, None])[:, 0].double()
    return picked.new_zeros(len(trunk)).index_add(0, rows, picked)
