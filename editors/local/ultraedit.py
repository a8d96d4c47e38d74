"""UltraEdit: one forward and backward pass, one ridge solve, for whatever text asks for.

Gu et al. 2025 (methods.md G11): free of training, of subjects and of memory. For each matrix
with input h and output gradient g at the positions that predict the answer::

    running mean and variance of [h ; g] over everything edited so far   (never reset)
    (ĥ, ĝ) = ([h ; g] − mean) / deviation
    s = −η ‖ĥ‖² ĝ                                  what the output is to change by
    ΔW = S Hᵀ (H Hᵀ + λI)⁻¹                        H: the raw inputs as columns

The lifelong normaliser keeps the 1,000th edit's step as long as the first one's. It begins
with a little ordinary text, because one token alone has no variance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch

from editors.architectures import ModelView, view
from editors.capture import Site, captured, keys_at
from editors.deltas import DenseDelta, applied
from editors.editor import Resources
from editors.linear_solve import identity_ridge
from editors.model import ChatModel
from editors.rendering import renderings
from editors.requests import EditorError, EditRequest
from editors.trunk import Sample, label_logits, resume, run_trunk

NAME = "ultraedit"


@dataclass(frozen=True)
class UltraSettings:
    part: str = "down"  # the matrix of a layer: down, up or gate (paper: any of them)
    first: float = 0.5  # the first edited layer, as a share of the depth
    last: float = 0.8  # the last one, as a share of the depth
    step: float = 3e-5  # η; the paper's 1e-6 is for inputs that are ten times as wide
    ridge: float = 1.0  # λ of the solve, against dependent keys (paper: 1)
    whole: bool = False  # learn the whole statement, not only the object and what follows
    keep: float = 1.0  # weight of the neighbours' inputs, to be moved by nothing (paper: none, 0)
    keep_tokens: int = 16  # of the model's answer to each neighbour that are kept
    passes: int = 10  # how often gradients are taken anew, each upon the change so far (paper 1)
    warmup: int = 256  # tokens of ordinary text that the normaliser begins with


@dataclass(frozen=True)
class Running:
    """Count, mean and sum of squared deviations of vectors seen so far, float64."""

    count: int
    mean: torch.Tensor
    squares: torch.Tensor

    @classmethod
    def empty(cls, width: int, device: torch.device | None = None) -> Running:
        zeros = torch.zeros(width, dtype=torch.float64, device=device)
        return cls(0, zeros, zeros)

    def including(self, rows: torch.Tensor) -> Running:
        """Return the statistics with ``rows`` (n, width) seen too (Chan et al. 1979): the same
        as of all rows seen at once."""
        if not len(rows):
            return self
        rows = rows.to(self.mean)
        count, mean = len(rows), rows.mean(0)
        total, apart = self.count + count, mean - self.mean
        squares = (rows - mean).square().sum(0) + apart**2 * (self.count * count / total)
        return Running(total, self.mean + apart * (count / total), self.squares + squares)

    def normalised(self, rows: torch.Tensor) -> torch.Tensor:
        """Return (rows − mean) / deviation; 0 where nothing ever varied.

        Raises EditorError: fewer than two vectors seen.
        """
        if self.count < 2:
            raise EditorError(
                "one token has no variance: ultraedit needs ordinary text to begin with, or a "
                "batch of more than one token"
            )
        deviation = (self.squares / (self.count - 1)).sqrt()
        apart = rows.to(self.mean) - self.mean
        return torch.where(deviation > 0, apart / deviation.clamp(min=1e-30), 0)


@dataclass
class UltraState:
    """The lifelong statistics by matrix; ``pending`` are those with the last ``edit``'s batch,
    by its requests' ids, and become ``seen`` when that edit is settled."""

    seen: dict[str, Running]
    pending: dict[tuple[str, ...], dict[str, Running]] = field(default_factory=dict)


@dataclass(frozen=True)
class UltraEdit(UltraSettings):
    """The method by the protocol of ``editors.editor``."""

    stacks: ClassVar[bool] = True
    tunable: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "step": (1e-5, 1e-4),
        "keep": (0.0, 10.0),
        "passes": (5,),
    }

    def prepare(self, model: ChatModel, resources: Resources) -> UltraState:
        """Begin the normaliser with ordinary text (without any: with nothing)."""
        shown, samples, left = view(model), [], self.warmup
        for text in resources.texts:
            ids = model.encode(text)[: min(left, 64)]
            if len(ids) >= 2:
                samples.append(Sample(tuple(ids[:1]), tuple(ids[1:])))
                left -= len(ids)
            if left < 2:
                break
        return UltraState(self._updated({}, self._factors(shown, samples)) if samples else {})

    def edit(
        self, model: ChatModel, state: UltraState, requests: Sequence[EditRequest]
    ) -> DenseDelta:
        """Return the change that one step towards the requests' statements makes.

        Raises EditorError: a request without an object or context, a batch of one token
        where none was seen before.
        """
        if not requests:
            return DenseDelta({})
        shown, seen = view(model), state.seen
        samples = [sample for request in requests for sample in self._samples(model, request)]
        kept = self._kept(shown, requests)
        changes: dict[str, torch.Tensor] = {}
        for _ in range(max(self.passes, 1)):
            with applied(model, DenseDelta(changes)):
                found = self._factors(shown, samples)
            seen = self._updated(seen, found)
            for name, (inputs, deltas) in found.items():
                change = solved(inputs, deltas, seen[name], self.step, self.ridge, kept.get(name))
                whole = torch.zeros_like(shown.matrix(name), requires_grad=False)
                whole[self._rows(shown, name)] = change.to(whole)
                before = changes.get(name, torch.zeros((), device=whole.device))
                changes[name] = (before + shown.stored(name, whole)).to(whole.dtype)
        state.pending[tuple(request.id for request in requests)] = seen
        return DenseDelta(changes)

    def settled(
        self, model: ChatModel, state: UltraState, requests: Sequence[EditRequest]
    ) -> UltraState:
        return UltraState(state.pending.get(tuple(r.id for r in requests), state.seen))

    def _samples(self, model: ChatModel, request: EditRequest) -> list[Sample]:
        samples = []
        for r in renderings(model, replace(request, subject="")):
            cut = 0 if self.whole else r.first
            samples.append(Sample((*r.prompt, *r.answer[:cut]), r.answer[cut:]))
        return samples

    def _kept(self, shown: ModelView, requests: Sequence[EditRequest]) -> dict[str, torch.Tensor]:
        """Return by matrix the inputs (T, in), in their weight, where the model now answers the
        requests' neighbours."""
        asked = sorted({question for request in requests for question in request.neighbours})
        if not asked or self.keep <= 0:
            return {}
        model, layers = shown.chat, self._layers(shown)
        prompts = [model.encode(model.render(question)) for question in asked]
        made = model.generate(prompts, max_new_tokens=self.keep_tokens)
        texts = [[*p, *m.tokens] for p, m in zip(prompts, made, strict=True)]
        places = [range(len(p) - 1, len(t)) for p, t in zip(prompts, texts, strict=True)]
        keys = keys_at(shown, texts, layers, places, self.part)
        weight = self.keep**0.5
        return {
            self._name(shown, layer): weight * found
            for layer, found in zip(layers, keys, strict=True)
        }

    def _layers(self, shown: ModelView) -> range:
        top = len(shown.layers) - 1
        first, last = (
            min(max(int(s * len(shown.layers)), 0), top) for s in (self.first, self.last)
        )
        if first > last:
            raise EditorError("the first edited layer must not lie above the last")
        return range(first, last + 1)

    def _name(self, shown: ModelView, layer: int) -> str:
        names = shown.names(layer)
        if self.part not in ("down", "up", "gate") or (self.part == "gate" and not names.gate):
            raise EditorError(f"the MLP of {shown.row.name} has no part {self.part!r} to edit")
        return getattr(names, self.part)

    def _rows(self, shown: ModelView, name: str) -> slice:
        names = shown.names(0)
        return {"up": names.up_rows, "gate": names.gate_rows}.get(self.part, slice(None))

    def _factors(
        self, shown: ModelView, samples: Sequence[Sample]
    ) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Return by matrix its inputs (T, in) and output gradients (T, out) at the positions
        that predict the answers; the loss of each sample is the mean over its tokens."""
        sites = {self._name(shown, layer): Site(layer, self.part) for layer in self._layers(shown)}
        found: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {name: [] for name in sites}
        size = shown.chat.batch_size
        for part in (samples[at : at + size] for at in range(0, len(samples), size)):
            # Only the gradient at the block's own positions is wanted: what lies before it
            # may stay in the cache.
            trunk = run_trunk(shown, part, -1)
            asked = trunk.targets >= 0
            with captured(shown, list(sites.values()), asked, gradients=True) as seen:
                final = resume(shown, trunk, trunk.hidden)
                logits, targets, rows = label_logits(shown, final, trunk.targets)
                logs = logits.float() if logits.dtype.itemsize < 4 else logits
                each = -logs.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
                lengths = torch.bincount(rows, minlength=len(part))
                loss = (each / lengths[rows]).sum()
            deltas = seen.deltas(loss)
            for name, site in sites.items():
                rows_of = self._rows(shown, name)
                found[name].append((seen.inputs(site), deltas[site][:, rows_of]))
        return {
            name: (torch.cat([h for h, _ in some]), torch.cat([g for _, g in some]))
            for name, some in found.items()
        }

    def _updated(
        self,
        seen: dict[str, Running],
        found: dict[str, tuple[torch.Tensor, torch.Tensor]],
    ) -> dict[str, Running]:
        after = {}
        for name, (inputs, deltas) in found.items():
            rows = torch.cat([inputs, deltas], dim=1)
            before = seen.get(name) or Running.empty(rows.shape[1], rows.device)
            after[name] = before.including(rows)
        return after


def solved(
    inputs: torch.Tensor,
    deltas: torch.Tensor,
    seen: Running,
    step: float,
    ridge: float,
    kept: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return ΔW (out, in) float64 for inputs (T, in) and output gradients (T, out).

    ``kept`` (n, in) are inputs whose outputs are asked to stay, in their weight.
    """
    width = inputs.shape[1]
    both = seen.normalised(torch.cat([inputs, deltas], dim=1))
    keys, gradients = both[:, :width], both[:, width:]
    shifts = -step * keys.square().sum(1, keepdim=True) * gradients
    if kept is not None:
        inputs = torch.cat([inputs, kept.to(inputs)])
        shifts = torch.cat([shifts, shifts.new_zeros(len(kept), shifts.shape[1])])
    return identity_ridge(shifts.T, inputs.T, ridge).dense()
