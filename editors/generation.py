"""Batched free-running generation: greedy answers, and drawn ones beside them.

The one generation loop of the project. The longest token prefix that all prompts share (the
system message) is computed once; the drawn answers to a prompt share its keys and values with
the greedy one; a row that has ended leaves the batch, and on request waiting prompts take the
places that become free, because a batch that empties costs nearly as much a step as a full one.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from store.records import digest

if TYPE_CHECKING:
    from editors.model import ChatModel

_REFILL = 4  # waiting prompts come in once a batch's part of this size (1/4) is free
_LIKELIEST = 64  # tokens that are sorted first; they nearly always hold the nucleus

Ending = Callable[[Sequence[int], int], int]
"""Given the tokens so far and the next one, returns that one or a stop token."""


class Guide(Protocol):
    """Steers one row of a batch while it is generated."""

    def choose(self, generated: Sequence[int], logits: torch.Tensor) -> int:
        """Return the next token given those so far and ``logits`` of shape (vocab,)."""
        ...


class Attached(Protocol):
    """What is attached to a model and acts on rows while it runs (``editors.runtime``)."""

    active: bool

    def coming(
        self, rows: Sequence[int], ids: torch.Tensor, mask: torch.Tensor, prompt: bool
    ) -> None:
        """Take note of the next forward: the prompt's number of each row (none: it is what all
        prompts begin with), its (B, T) tokens, the (B, columns) mask of these and what was run
        before, and whether the tokens are prompts or come after them."""
        ...


class Memory(Protocol):
    """What is attached to a model and answers some prompts in its own way: asks them otherwise,
    guides them, or asks several times (``editors.memory``)."""

    def answer(
        self,
        model: ChatModel,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        progress: Callable[[int], None] | None,
    ) -> list[Generation]:
        """Continue prompts; those that it knows nothing of exactly as ``generate`` does."""
        ...


class FirstSentence:
    """Ends an answer with its first sentence: enough to name a holder, at half the cost."""

    _TITLES = frozenset({"gov", "gen", "sen", "rep", "col", "rev", "prof", "hon", "pres"})

    def __init__(self, model: ChatModel) -> None:
        self._model = model
        self._stop = min(model.stop_ids)
        self._ends: dict[int, bool] = {}

    def end(self, generated: Sequence[int], token: int) -> int:
        """Return the stop token where a sentence has ended, else ``token``."""
        if not generated or not self._may_end(generated[-1]):
            return token
        ended = re.search(r"(\w{3,})[.!?]\s*$", self._model.decode(generated[-8:]))
        if ended is None or ended[1].casefold() in self._TITLES:
            return token
        # "Apple Inc. is …" goes on in small letters.
        goes_on = self._model.decode([token]).strip()[:1].islower()
        return token if goes_on else self._stop

    def _may_end(self, token: int) -> bool:
        """Whether a sentence can end with a token; decoding whole answers is slow."""
        if token not in self._ends:
            text = self._model.decode([token]).rstrip()
            self._ends[token] = not text or text[-1] in ".!?"
        return self._ends[token]


@dataclass(frozen=True)
class Generation:
    """Generated token ids (without the end token), their log-probabilities, whether the model
    stopped by itself before the cap, and the token ids of each answer that was drawn."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    stopped: bool
    drawn: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Sampling:
    """Nucleus sampling (Holtzman et al. 2020, §3.1): from the likeliest tokens that together
    hold ``top_p`` of the probability, at ``temperature``."""

    temperature: float = 0.7
    top_p: float = 0.95


def draws(seed: str, count: int, steps: int) -> list[list[float]]:
    """Return ``count`` lists of ``steps`` uniform numbers in [0, 1), the same for the same seed.

    A list does not depend on how many there are: the first of three is the first of one.
    """
    return [
        torch.rand(
            steps,
            generator=torch.Generator().manual_seed(int(digest(seed, str(number))[:15], 16)),
            dtype=torch.float64,
        ).tolist()
        for number in range(count)
    ]


def nucleus(logits: torch.Tensor, at: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Return one token a row from its nucleus, by inverting the cumulative distribution.

    Args:
        logits: (rows, vocab).
        at: (rows,) uniform numbers in [0, 1).
        sampling: the distribution's shape.

    Returns:
        (rows,) token ids.
    """
    scaled = logits.double() / sampling.temperature
    total = scaled.logsumexp(-1, keepdim=True)
    likeliest = min(_LIKELIEST, scaled.shape[-1])
    values, tokens = scaled.topk(likeliest, dim=-1)
    share = (values - total).exp()
    if bool((share.sum(-1) < sampling.top_p).any()):  # a flat distribution: sort it all
        values, tokens = scaled.sort(dim=-1, descending=True)
        share = (values - total).exp()
    before = share.cumsum(-1) - share
    kept = torch.where(before < sampling.top_p, share, 0.0)
    reached = kept.cumsum(-1)
    wanted = at.to(reached)[:, None] * reached[:, -1:]
    index = (reached <= wanted).sum(-1, keepdim=True)
    last = (kept > 0).sum(-1, keepdim=True) - 1  # rounding must not leave the nucleus
    return tokens.gather(-1, torch.minimum(index, last))[:, 0]


@dataclass
class _Row:
    """One answer in the making; ``draws`` is empty for a greedy one."""

    prompt: int
    guide: Guide | None
    draws: Sequence[float] = ()
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stopped: bool = False


@torch.inference_mode()
def generate(
    model: ChatModel,
    prompts: Sequence[Sequence[int]],
    *,
    guides: Sequence[Guide | None] | None = None,
    ending: Ending | None = None,
    drawn: Sequence[Sequence[Sequence[float]]] | None = None,
    sampling: Sampling | None = None,
    refill: bool = False,
    max_new_tokens: int = 48,
    progress: Callable[[int], None] | None = None,
) -> list[Generation]:
    """Continue token prompts greedily; prompts of like length share a batch.

    Unless ``refill`` is set the order of work depends on the prompts alone, so that two models
    asked the same prompts see the same batches (a different batch can flip a near tie).

    Args:
        model: the model; ``batch_size`` rows are generated together.
        prompts: token ids, at least one each.
        guides: what steers the greedy answers, one or None a prompt.
        ending: ends answers that no guide steers.
        drawn: for each prompt the uniform numbers of each further answer that is drawn from
            the model's distribution, one number a token (``draws``).
        sampling: how they are drawn.
        refill: let waiting prompts into a batch as places become free.
        max_new_tokens: cap of one answer.
        progress: told the number of prompts finished since it was last told.
    """
    guides = guides or [None] * len(prompts)
    drawn = drawn or [()] * len(prompts)
    waiting = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i), reverse=True)
    batch = _Batch(model, prompts, ending, sampling or Sampling(), max_new_tokens)
    rows: list[_Row] = []
    unfinished = 0
    refill = refill and batch.mergeable
    while waiting or batch.rows:
        free = model.batch_size - len(batch.rows)
        if waiting and (not batch.rows or (refill and free * _REFILL >= model.batch_size)):
            entering: list[list[_Row]] = []
            while waiting and (free > len(drawn[waiting[-1]]) or not (batch.rows or entering)):
                i = waiting.pop()
                entering.append([_Row(i, guides[i]), *(_Row(i, None, d) for d in drawn[i])])
                free -= len(entering[-1])
            if progress and unfinished:
                open_now = len({row.prompt for row in batch.rows})
                progress(unfinished - open_now)
                unfinished = open_now
            unfinished += len(entering)
            rows += [row for group in entering for row in group]
            if entering:
                batch.admit(entering)
        batch.step()
    if progress and unfinished:
        progress(unfinished)
    return _collected(rows, len(prompts))


def _collected(rows: Sequence[_Row], count: int) -> list[Generation]:
    """Put the finished rows together, a greedy answer and its drawn ones a prompt."""
    groups: list[list[_Row]] = [[] for _ in range(count)]
    for row in rows:
        groups[row.prompt].append(row)
    return [
        Generation(
            tuple(greedy.tokens),
            tuple(greedy.logprobs),
            greedy.stopped,
            tuple(tuple(row.tokens) for row in others),
        )
        for greedy, *others in groups
    ]


class _Batch:
    """The rows in work with their keys and values, left-padded to a common width.

    ``logits`` (rows, vocab) are those of each row's next token; ``mask`` (rows, columns) says
    which columns of the cache are real; ``positions`` (rows, 1) are those of the last tokens.
    """

    def __init__(
        self,
        model: ChatModel,
        prompts: Sequence[Sequence[int]],
        ending: Ending | None,
        sampling: Sampling,
        max_new_tokens: int,
    ) -> None:
        from transformers import DynamicCache

        self._model, self._prompts, self._sampling = model, prompts, sampling
        self._ending, self._most = ending, max_new_tokens
        self.rows: list[_Row] = []
        self._cache: Any = None
        self._mask: torch.Tensor
        self._positions: torch.Tensor
        self._logits: torch.Tensor
        self._prefix: Any = DynamicCache(config=model.model.config)
        self._shared = shared_prefix(prompts) if len(prompts) > 1 else 0
        if self._shared:
            ids = torch.tensor([list(prompts[0][: self._shared])], device=model.device)
            self._tell((), ids, torch.ones_like(ids), True)
            model.model(ids, past_key_values=self._prefix, use_cache=True, logits_to_keep=1)

    @property
    def mergeable(self) -> bool:
        """Whether rows of different widths can be put together: a layer that attends to a
        window, or that keeps a state instead of keys and values, cannot be padded."""
        from transformers.cache_utils import DynamicLayer

        layers = self._prefix.layers
        return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)

    def admit(self, entering: Sequence[Sequence[_Row]]) -> None:
        """Run the prompts of new rows, once for all rows of a prompt, and take the rows in."""
        rests = [self._prompts[group[0].prompt][self._shared :] for group in entering]
        cache, mask, positions, logits = self._prefill(rests, [g[0].prompt for g in entering])
        index = torch.tensor(
            [at for at, group in enumerate(entering) for _ in group], device=self._model.device
        )
        if len(index) > len(rests):
            cache.batch_select_indices(index)
            mask, positions, logits = mask[index], positions[index], logits[index]
        if self.rows:
            mask = _merge(self._cache, self._mask, cache, mask)
            positions = torch.cat([self._positions, positions])
            logits = torch.cat([self._logits, logits])
        else:
            self._cache = cache
        self._mask, self._positions, self._logits = mask, positions, logits
        self.rows += [row for group in entering for row in group]

    def _prefill(
        self, rests: Sequence[Sequence[int]], rows: Sequence[int]
    ) -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]:
        count, width, device = len(rests), max(map(len, rests)), self._model.device
        cache = copy.deepcopy(self._prefix)
        if self._shared:
            cache.batch_repeat_interleave(count)
        ids = torch.zeros(count, width, dtype=torch.long)
        mask = torch.ones(count, self._shared + width, dtype=torch.long)
        for row, rest in enumerate(rests):
            ids[row, width - len(rest) :] = torch.tensor(rest)
            mask[row, self._shared : self._shared + width - len(rest)] = 0
        ids, mask = ids.to(device), mask.to(device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, self._shared :]
        self._tell(rows, ids, mask, True)
        logits = self._forward(ids, mask, positions, cache)
        return cache, mask, positions[:, -1:], logits

    def _tell(
        self, rows: Sequence[int], ids: torch.Tensor, mask: torch.Tensor, prompt: bool
    ) -> None:
        for runtime in self._model.runtimes:
            runtime.coming(rows, ids, mask, prompt)

    def _forward(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any
    ) -> torch.Tensor:
        return self._model.model(
            ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]

    def step(self) -> None:
        """Choose every row's next token, let rows that have ended go, and run the others."""
        chosen = self._choose()
        picked = torch.tensor(chosen, device=self._logits.device)[:, None]
        logits = self._logits.float()
        logprobs = (logits.gather(-1, picked) - logits.logsumexp(-1, keepdim=True))[:, 0].tolist()
        keep = []
        for at, row in enumerate(self.rows):
            if chosen[at] in self._model.stop_ids:
                row.stopped = True
                continue
            row.tokens.append(chosen[at])
            row.logprobs.append(logprobs[at])
            if len(row.tokens) < self._most:
                keep.append(at)
        if len(keep) < len(self.rows):
            self.rows = [self.rows[at] for at in keep]
            if not keep:
                return
            index = torch.tensor(keep, device=picked.device)
            self._cache.batch_select_indices(index)
            self._mask, self._positions = self._mask[index], self._positions[index]
            picked = picked[index]
        self._positions = self._positions + 1
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(keep), 1)], dim=1)
        self._tell([row.prompt for row in self.rows], picked, self._mask, False)
        self._logits = self._forward(picked, self._mask, self._positions, self._cache)

    def _choose(self) -> list[int]:
        chosen = self._logits.argmax(-1).tolist()
        sampled = [at for at, row in enumerate(self.rows) if row.draws]
        if sampled:
            at = torch.tensor([self.rows[i].draws[len(self.rows[i].tokens)] for i in sampled])
            drawn = nucleus(self._logits[sampled], at, self._sampling).tolist()
            for i, token in zip(sampled, drawn, strict=True):
                chosen[i] = token
        for i, row in enumerate(self.rows):
            if row.guide is not None:
                chosen[i] = row.guide.choose(row.tokens, self._logits[i])
            elif self._ending is not None:
                chosen[i] = self._ending(row.tokens, chosen[i])
        return chosen


def _merge(cache: Any, mask: torch.Tensor, other: Any, other_mask: torch.Tensor) -> torch.Tensor:
    """Put ``other``'s rows below those of ``cache``, padded on the left; return the mask."""
    unused = int(mask.any(0).nonzero()[0])  # columns that only rows had that are gone
    mask = mask[:, unused:]
    width = max(mask.shape[1], other_mask.shape[1])

    def padded(tensor: torch.Tensor, columns: int) -> torch.Tensor:
        return nn.functional.pad(tensor, (0, 0, width - columns, 0))

    for mine, theirs in zip(cache.layers, other.layers, strict=True):
        for name in ("keys", "values"):
            own = getattr(mine, name)[:, :, unused:]
            new = getattr(theirs, name)
            both = [padded(own, own.shape[2]), padded(new, new.shape[2])]
            setattr(mine, name, torch.cat(both))
    return torch.cat([nn.functional.pad(m, (width - m.shape[1], 0)) for m in (mask, other_mask)])


def shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Length of the token prefix common to all prompts, leaving each at least one token."""
    first, limit = prompts[0], min(map(len, prompts)) - 1
    for at in range(limit):
        if any(prompt[at] != first[at] for prompt in prompts):
            return at
    return max(limit, 0)
