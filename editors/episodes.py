"""Episodes: exercises in editing, and the upper layers that they are tried on.

Methods that are trained to edit (MEND, MALMEN, KE, SLAG, Editable Training) change only the last
few layers, and see thousands of exercises. ``Upper`` runs everything below the lowest edited
layer once a text and keeps the hidden states; what all chat prompts begin with (the template's
system message) is kept once for all. A try then costs the upper layers on the rest::

    upper = Upper(model, lowest=27)
    upper.remember(episode.samples)                      # the layers below, once
    factors = upper.factors(episode.edits, names)        # of the edit's loss, unedited weights
    said = upper.said(episode.rephrased, change=change)  # as if the change were made
    mean_nll(said), kl(upper.teacher(episode.kept), upper.said(episode.kept, change=change))

Nothing is patched: weights stand in functionally (``weights``, one set for all), and a *change*
is a function that adds to a matrix's output, so that one batch can hold many edits, each sample
seeing the change of its ``owner`` alone::

    def change(name, inputs, owners):        # (B, T, in), (B,) → (B, T, out)
        return ((inputs @ u[name][owners].mT) @ delta[name][owners])

Every position of a text feels a change, the system message's too: the upper layers are run over
all of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from editors.architectures import ModelView, view
from editors.capture import Captures, Site, captured, frozen, padded
from editors.forward import Past, embed, first, run
from editors.generation import shared_prefix
from editors.model import ChatModel
from editors.requests import EditorError
from editors.trunk import Sample

Change = Callable[[str, torch.Tensor, torch.Tensor], "torch.Tensor | None"]
"""(matrix name, inputs (B, T, in), owners (B,)) → what is added to its output, (B, T, out); None:
nothing."""
Weights = Mapping[str, torch.Tensor]
"""Stand-ins for parameters of the upper layers, by name, as they are stored."""
PARTS = ("gate", "up", "down")


@dataclass(frozen=True)
class Episode:
    """One exercise: an edit, and what must and must not follow from it, as token ids.

    Attributes:
        edits: what the edit is computed from: a question (or a plain prompt), the new answer.
        rephrased: other wordings with the new answer, which the edit does not see.
        kept: texts outside the edit's scope, each with what the unedited model says to it.
        question: the canonical question or prompt alone, without template.
        old, new: the object before and after; ``old`` may be empty.
    """

    edits: tuple[Sample, ...]
    rephrased: tuple[Sample, ...] = ()
    kept: tuple[Sample, ...] = ()
    question: tuple[int, ...] = ()
    old: tuple[int, ...] = ()
    new: tuple[int, ...] = ()

    @property
    def samples(self) -> tuple[Sample, ...]:
        return (*self.edits, *self.rephrased, *self.kept)


@dataclass(frozen=True)
class Said:
    """What was predicted where something was asked; n positions, ordered by sample.

    Attributes:
        logits: (n, vocabulary).
        tokens: (n,) what should be predicted.
        rows: (n,) the sample each position is of.
        count: number of samples.
    """

    logits: torch.Tensor
    tokens: torch.Tensor
    rows: torch.Tensor
    count: int

    def part(self, begin: int, end: int) -> Said:
        """Return what was said in the samples from ``begin`` up to ``end``."""
        at = (self.rows >= begin) & (self.rows < end)
        return Said(self.logits[at], self.tokens[at], self.rows[at] - begin, end - begin)


@dataclass(frozen=True)
class Factors:
    """A matrix's gradients for B samples as sums of outer products: ∇W = Σ_t δ_t u_tᵀ.

    Attributes:
        inputs: (B, T, in), what went into the matrix; zero where ``real`` is false.
        deltas: (B, T, out), the gradient of the sample's mean loss at what came out; likewise.
        real: (B, T) bool.
    """

    inputs: torch.Tensor
    deltas: torch.Tensor
    real: torch.Tensor

    def dense(self) -> torch.Tensor:
        """Return the gradient of each sample's loss, (B, out, in)."""
        return self.deltas.mT @ self.inputs


def edited_matrices(
    shown: ModelView, layers: Sequence[int], parts: Sequence[str] = PARTS
) -> dict[str, Site]:
    """Return the MLP matrices of some layers by parameter name, with where they are.

    A plain MLP has no gate; a fused gate and up projection is one matrix.
    """
    found: dict[str, Site] = {}
    for layer in layers:
        names = shown.names(layer)
        for part in parts:
            name = getattr(names, part)
            if name is not None:
                found.setdefault(name, Site(layer, part))
    return found


class Upper:
    """The layers from ``lowest`` on, over texts whose lower layers are run once and kept.

    What is kept stays right while only the upper layers' weights change.
    """

    def __init__(self, model: ChatModel | ModelView, lowest: int) -> None:
        self.view = view(model)
        if not 0 <= lowest < len(self.view.layers):
            raise EditorError(f"{self.view.chat.name} has no layer {lowest} to edit from")
        self.lowest = lowest
        self.head = _chat_head(self.view.chat)
        self._head_state: torch.Tensor | None = None
        self._states: dict[tuple[int, ...], torch.Tensor] = {}
        self._finals: dict[Sample, torch.Tensor] = {}

    @torch.no_grad()
    def remember(
        self, samples: Sequence[Sample], step: Callable[[int, int], None] = lambda done, of: None
    ) -> None:
        """Run the lower layers over the samples that are not known yet.

        The same samples in one call give the same states to the bit (batches are cut by
        length); memory is hidden size times tokens.
        """
        missing = sorted({s.fed for s in samples} - set(self._states), key=lambda f: (len(f), f))
        size, done = self.view.chat.batch_size, 0
        for head in sorted({self._shared(fed) for fed in missing}):
            some = [fed for fed in missing if self._shared(fed) == head]
            for part in (some[at : at + size] for at in range(0, len(some), size)):
                self._run_lower(part, head)
                done += len(part)
                step(done, len(missing))

    def said(
        self,
        samples: Sequence[Sample],
        owners: Sequence[int] | None = None,
        change: Change | None = None,
        weights: Weights | None = None,
    ) -> Said:
        """Run the upper layers; gradients flow into ``change`` and ``weights``.

        Args:
            samples: at least one.
            owners: whose change each sample sees; None: 0 for all.
            change, weights: see the module's docstring; None: the model as it is.
        """
        finals, tokens, rows = self._finals_of(samples, owners, change, weights)
        with frozen(self.view):
            return Said(self.view.logits(finals), tokens, rows, len(samples))

    @torch.no_grad()
    def teacher(self, samples: Sequence[Sample]) -> torch.Tensor:
        """Return the logits (n, vocabulary) of the model as it is, in the order of ``said``.

        Its final hidden states are kept: the model must not be edited between two calls.
        """
        for sample in samples:
            if sample not in self._finals:
                self._finals[sample] = self._finals_of([sample], None, None, None)[0]
        return self.view.logits(torch.cat([self._finals[sample] for sample in samples]))

    def factors(
        self,
        samples: Sequence[Sample],
        sites: Mapping[str, Site],
        owners: Sequence[int] | None = None,
        change: Change | None = None,
        weights: Weights | None = None,
        answers_only: bool = False,
        loss: Callable[[Said], torch.Tensor] | None = None,
    ) -> dict[str, Factors]:
        """Return by matrix the factors of the gradient of each sample's mean loss.

        The columns are those behind the system message that all chat prompts share: its
        tokens are no edit's own. No graph leads out of the result.

        Args:
            sites: matrices, as ``edited_matrices`` gives them.
            answers_only: only columns that predict the answer.
            loss: gives each sample's loss, (samples,); default: ``mean_nll``.
        """
        owner = self._owners(samples, owners)
        self.remember(samples)
        found: dict[str, list[Factors]] = {name: [] for name in sites}
        order: list[int] = []
        for rows, block in self._blocks(samples):
            order += rows
            here = owner[rows]
            past = self._past(block.head, here, change, weights)
            with (
                torch.enable_grad(),
                self._changed(change, past.owners),
                captured(self.view, list(sites.values()), gradients=True) as seen,
            ):
                final = self._run_upper(block, past, weights)
                asked = block.targets >= 0
                said = Said(
                    self.view.logits(final[asked]),
                    block.targets[asked],
                    asked.nonzero()[:, 0],
                    len(rows),
                )
                deltas = seen.deltas((loss or mean_nll)(said).sum())
            real = asked if answers_only else block.real
            for name, site in sites.items():
                mask = real[..., None]
                found[name].append(Factors(seen.inputs(site) * mask, deltas[site] * mask, real))
        back = torch.tensor(order).argsort()
        return {name: _joined(some, back) for name, some in found.items()}

    @torch.no_grad()
    def second_moments(self, sites: Mapping[str, Site]) -> dict[str, torch.Tensor]:
        """Return by matrix E[u uᵀ] of what goes in, (in, in) float64, over every token of the
        texts remembered so far (the system message counts in each of its texts)."""
        texts = [Sample(fed, (0,)) for fed in sorted(self._states, key=lambda f: (len(f), f))]
        sums: dict[str, torch.Tensor] = {}
        count, size = 0, self.view.chat.batch_size

        def add(seen: Captures, times: int) -> None:
            for name, site in sites.items():
                rows = seen.inputs(site).flatten(0, -2).double()
                sums[name] = sums.get(name, torch.zeros(())).to(rows) + times * (rows.mT @ rows)

        for part in (texts[at : at + size] for at in range(0, len(texts), size)):
            for rows, block in self._blocks(part):
                owners = torch.zeros(len(rows), dtype=torch.long)
                with captured(self.view, list(sites.values())) as seen:
                    past = self._past(block.head, owners, None, None)
                if block.head:
                    add(seen, len(rows))
                with captured(self.view, list(sites.values()), block.real) as seen:
                    self._run_upper(block, past, None)
                add(seen, 1)
                count += int(block.real.sum()) + block.head * len(rows)
        return {name: total / max(count, 1) for name, total in sums.items()}

    def _finals_of(
        self,
        samples: Sequence[Sample],
        owners: Sequence[int] | None,
        change: Change | None,
        weights: Weights | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return final hidden states where something is asked, the tokens, the samples."""
        owner = self._owners(samples, owners)
        self.remember(samples)
        finals, tokens, rows = [], [], []
        for some, block in self._blocks(samples):
            past = self._past(block.head, owner[some], change, weights)
            with self._changed(change, past.owners), frozen(self.view):
                final = self._run_upper(block, past, weights)
            asked = block.targets >= 0
            finals.append(final[asked])
            tokens.append(block.targets[asked])
            rows.append(torch.tensor(some, device=asked.device)[asked.nonzero()[:, 0]])
        which = torch.cat(rows)
        order = which.argsort(stable=True)
        return torch.cat(finals)[order], torch.cat(tokens)[order], which[order]

    def _run_upper(self, block: _Block, past: _HeadPast, weights: Weights | None) -> torch.Tensor:
        hidden = torch.nn.utils.rnn.pad_sequence(
            [self._states[fed] for fed in block.fed], batch_first=True
        )
        upper = range(self.lowest, len(self.view.layers))
        made = run(self.view, hidden, upper, block.positions, block.real, past.past, weights)
        return self.view.finish(made)

    def _past(
        self, head: int, owners: torch.Tensor, change: Change | None, weights: Weights | None
    ) -> _HeadPast:
        """Return the upper layers' keys and values of the system message: one row for all, or
        one for each owner's change, handed out to the owner's samples."""
        if not head:
            return _HeadPast(Past(), owners)
        different, row_of = owners.unique(return_inverse=True)
        if change is None:
            different = different[:1]
        state = self._state_of_head().expand(len(different), -1, -1)
        where = torch.arange(head, device=state.device).expand(len(different), -1)
        past = Past(record=True)
        upper = range(self.lowest, len(self.view.layers))
        with self._changed(change, different), frozen(self.view):
            run(self.view, state, upper, where, torch.ones_like(where).bool(), past, weights)
        pairs = past.made
        if len(different) > 1:
            pairs = {layer: (k[row_of], v[row_of]) for layer, (k, v) in pairs.items()}
        return _HeadPast(Past({n: [pair] for n, pair in pairs.items()}, where[:1]), owners)

    @contextlib.contextmanager
    def _changed(self, change: Change | None, owners: torch.Tensor) -> Iterator[None]:
        """Let the MLP matrices of the upper layers add what ``change`` says."""
        with contextlib.ExitStack() as stack:
            if change is not None:
                upper = range(self.lowest, len(self.view.layers))
                for name, site in edited_matrices(self.view, upper).items():
                    module = self.view.module(site.layer, site.part)
                    hook = _adding(name, change, owners)
                    stack.callback(module.register_forward_hook(hook).remove)
            yield

    def _blocks(self, samples: Sequence[Sample]) -> Iterator[tuple[list[int], _Block]]:
        """Cut samples into those with and those without the system message."""
        heads = [self._shared(sample.fed) for sample in samples]
        for head in sorted(set(heads)):
            rows = [i for i, one in enumerate(heads) if one == head]
            yield rows, self._block([samples[i] for i in rows], head)

    def _block(self, samples: Sequence[Sample], head: int) -> _Block:
        ids, real = padded([s.fed[head:] for s in samples])
        targets = torch.full_like(ids, -100)
        for row, sample in enumerate(samples):
            at = len(sample.prompt) - 1 - head
            targets[row, at : at + len(sample.answer)] = torch.tensor(sample.answer)
        where = (torch.arange(ids.shape[1]) + head).expand(len(samples), -1)
        # Padding gets a position that the model has.
        where = torch.where(real, where, head)
        device = self.view.device
        fed = tuple(s.fed for s in samples)
        return _Block(fed, head, targets.to(device), where.to(device), real.to(device))

    def _run_lower(self, fed: Sequence[tuple[int, ...]], head: int) -> None:
        shown = self.view
        ids, real = padded([f[head:] for f in fed])
        where = torch.where(real, torch.arange(ids.shape[1]) + head, head)
        ids, real, where = (t.to(shown.device) for t in (ids, real, where))
        past = self._lower_head if head else None
        hidden = run(shown, embed(shown, ids, where), range(self.lowest), where, real, past)
        for row, one in enumerate(fed):
            self._states[one] = hidden[row, : len(one) - head].clone()

    @property
    def _lower_head(self) -> Past:
        self._state_of_head()
        return self._head_past

    def _state_of_head(self) -> torch.Tensor:
        """Run the lower layers over the system message, once; return what enters the upper."""
        if self._head_state is None:
            shown = self.view
            ids = torch.tensor([self.head], device=shown.device)
            where = torch.arange(len(self.head), device=shown.device)[None]
            past = Past(record=True)
            with torch.no_grad():
                entering, all_real = embed(shown, ids, where), torch.ones_like(ids).bool()
                state = run(shown, entering, range(self.lowest), where, all_real, past)
            self._head_past = Past({layer: [pair] for layer, pair in past.made.items()}, where)
            self._head_state = state
        return self._head_state

    def _shared(self, fed: tuple[int, ...]) -> int:
        """How many tokens at its beginning are the system message's: all, or none."""
        size = len(self.head)
        return size if len(fed) > size and fed[:size] == self.head else 0

    def _owners(self, samples: Sequence[Sample], owners: Sequence[int] | None) -> torch.Tensor:
        if not samples:
            raise EditorError("there is no sample to run the upper layers on")
        return torch.tensor(owners or [0] * len(samples), device=self.view.device)


def mean_nll(said: Said) -> torch.Tensor:
    """Return the mean negative log-likelihood of each sample's answer, (samples,)."""
    logs = _wide(said.logits).log_softmax(-1)
    each = -logs.gather(-1, said.tokens[:, None])[:, 0]
    return by_sample(each, said)


def kl(teacher: torch.Tensor, said: Said) -> torch.Tensor:
    """Return KL(teacher ‖ said), the mean over each sample's positions, (samples,).

    ``teacher`` is (n, vocabulary) logits, in the order of ``said``.
    """
    before, after = _wide(teacher).log_softmax(-1), _wide(said.logits).log_softmax(-1)
    return by_sample((before.exp() * (before - after)).sum(-1), said)


def contrast(said: Said, margin: float) -> torch.Tensor:
    """Return each sample's mean of max(0, max_{y ≠ y*} log p(y) + margin − log p(y*)) over its
    answer's tokens, (samples,): exactly 0 where every one of them wins by the margin."""
    logits = _wide(said.logits)
    target = logits.gather(-1, said.tokens[:, None])
    others = logits.scatter(-1, said.tokens[:, None], -torch.inf).amax(-1)
    # log p differs from the logits by the same number for all tokens.
    return by_sample((others + margin - target[:, 0]).clamp(min=0), said)


def whole(said: Said) -> torch.Tensor:
    """Return for each sample whether every token is the likeliest, (samples,) bool: whether
    greedy free-running generation gives exactly this answer."""
    return prefix(said) == 1


def prefix(said: Said) -> torch.Tensor:
    """Return the share of each answer that greedy generation gives before it first departs
    from it, (samples,)."""
    right = said.logits.argmax(-1) == said.tokens
    lengths = torch.bincount(said.rows, minlength=said.count)
    shares = [part.int().cumprod(0).float().mean() for part in right.split(lengths.tolist())]
    return torch.stack(shares)


def by_sample(each: torch.Tensor, said: Said) -> torch.Tensor:
    """Return the mean over each sample's positions, (samples,), of one number a position."""
    lengths = torch.bincount(said.rows, minlength=said.count).clamp(min=1)
    total = each.new_zeros(said.count).index_add(0, said.rows, each)
    return total / lengths


def _wide(logits: torch.Tensor) -> torch.Tensor:
    return logits.float() if logits.dtype.itemsize < 4 else logits


@dataclass(frozen=True)
class _Block:
    """Some samples' own columns: all behind the first ``head`` tokens, padded on the right."""

    fed: tuple[tuple[int, ...], ...]
    head: int
    targets: torch.Tensor
    positions: torch.Tensor
    real: torch.Tensor


@dataclass(frozen=True)
class _HeadPast:
    """Keys and values of the system message, and the owners of the rows that follow it."""

    past: Past
    owners: torch.Tensor


def _adding(
    name: str, change: Change, owners: torch.Tensor
) -> Callable[[nn.Module, tuple[Any, ...], Any], torch.Tensor | None]:
    def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> torch.Tensor | None:
        added = change(name, args[0], owners)
        return None if added is None else first(output) + added

    return hook


def _joined(parts: Sequence[Factors], back: torch.Tensor) -> Factors:
    """Join blocks of samples of unlike widths, in the samples' own order."""
    if len(parts) == 1:
        return parts[0]
    width = max(part.real.shape[1] for part in parts)

    def wide(tensor: torch.Tensor) -> torch.Tensor:
        made = tensor.new_zeros(len(tensor), width, *tensor.shape[2:])
        made[:, : tensor.shape[1]] = tensor
        return made

    inputs, deltas, real = (
        torch.cat([wide(getattr(part, name)) for part in parts])[back.to(parts[0].real.device)]
        for name in ("inputs", "deltas", "real")
    )
    return Factors(inputs, deltas, real)


def _chat_head(model: ChatModel) -> tuple[int, ...]:
    """Return the tokens with which every question begins in the chat template."""
    prompts = [model.encode(model.render(question)) for question in ("who", "1 2", "?")]
    return tuple(prompts[0][: shared_prefix(prompts)])
