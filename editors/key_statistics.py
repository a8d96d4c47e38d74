"""Key statistics: what ordinary text looks like inside a layer's MLP (methods.md §3.3).

For compiled memory the key is the MLP's *input* (hidden size wide), so a few thousand
tokens already give a well-conditioned second moment. Computed once per model, layer and
text, and cached by the caller under the model's hash. The closed-form editors' keys are what
enters the *down projection*: ``editors.second_moments`` measures those, of several layers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch

from editors.architectures import ModelView
from editors.capture import Site, streamed
from editors.model import ChatModel
from editors.requests import EditorError
from store.files import Files

MIN_TOKENS = 500
AT_ONCE = 2048
"""Tokens whose keys are in memory at a time."""


@dataclass(frozen=True)
class KeyStatistics:
    """Uncentred second moment (width, width) and mean (width,) of a layer's keys, float64."""

    layer: int
    moment: torch.Tensor
    mean: torch.Tensor
    tokens: int

    def tensors(self) -> dict[str, torch.Tensor]:
        return {
            "moment": self.moment,
            "mean": self.mean,
            "layer_tokens": torch.tensor([self.layer, self.tokens]),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, torch.Tensor]) -> KeyStatistics:
        layer, tokens = tensors["layer_tokens"].tolist()
        return cls(layer, tensors["moment"], tensors["mean"], tokens)

    def mixed(self, other: KeyStatistics, share: float) -> KeyStatistics:
        """Return these statistics with another text's, which gets ``share`` of the weight."""
        return KeyStatistics(
            self.layer,
            (1 - share) * self.moment + share * other.moment,
            (1 - share) * self.mean + share * other.mean,
            self.tokens + other.tokens,
        )


def key_statistics(
    model: ChatModel,
    texts: Sequence[str],
    layer: int,
    max_tokens: int = 8192,
    window: int = 256,
    chat_weight: float = 0.5,
    cache: Path | None = None,
) -> KeyStatistics:
    """Measure the MLP inputs of ``layer`` on plain texts and on everyday chat.

    Plain texts are cut into windows of tokens. Chat is what the model itself answers to
    ``everyday_questions.txt``: tokens of a chat look unlike running text, and a gate that
    never saw them opens on them (measured: docs/log.md). ``chat_weight`` is chat's share, and
    ``cache`` the folder that keeps it.

    Raises:
        EditorError: the texts hold fewer than ``MIN_TOKENS`` tokens.
    """
    site = Site(layer, "mlp")
    running = measured(model, windows(model, texts, max_tokens, window), [site])[0]
    chat = measured(model, everyday_chat(model, cache), [site])[0]
    return running.mixed(chat, chat_weight)


def kept_statistics(
    model: ChatModel, texts: Sequence[str], layer: int, max_tokens: int, cache: Path | None
) -> KeyStatistics:
    """Return ``key_statistics``, measured once for a model, layer and texts where there is a
    folder ``cache`` to keep them in."""
    if cache is None:
        return key_statistics(model, texts, layer, max_tokens)
    from safetensors.torch import load_file, save

    mark = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]
    name = f"{model.base_hash[:16]}-{layer}-{max_tokens}-{mark}.safetensors"
    path = cache / "statistics" / name
    if path.exists():
        return KeyStatistics.from_tensors(load_file(path))
    found = key_statistics(model, texts, layer, max_tokens, cache=cache)
    Files().replace(path, save(found.tensors()))
    return found


def windows(
    model: ChatModel, texts: Sequence[str], max_tokens: int, window: int
) -> list[list[int]]:
    """Cut the first ``max_tokens`` tokens of some texts into windows; none reaches over the
    end of a text.

    Raises:
        EditorError: the texts hold fewer than ``MIN_TOKENS`` tokens.
    """
    cut: list[list[int]] = []
    left = max_tokens
    for text in texts:
        ids = model.encode(text)[:left]
        cut += [ids[at : at + window] for at in range(0, len(ids), window)]
        left -= len(ids)
        if left <= 0:
            break
    if max_tokens - left < MIN_TOKENS:
        raise EditorError(
            f"key statistics need at least {MIN_TOKENS} tokens of ordinary text, got "
            f"{max_tokens - left}; install the demo extra or set consolidation.statistics to a text"
        )
    return cut


@torch.no_grad()
def measured(
    model: ChatModel | ModelView,
    sequences: Sequence[Sequence[int]],
    sites: Sequence[Site],
    step: Callable[[int], None] = lambda tokens: None,
) -> list[KeyStatistics]:
    """Measure what goes into some modules on token sequences, every token counting alike.

    One pass for all sites; keys are summed up in float64 as they come, on the model's
    device, and never kept. The sites' modules must be of one width.

    Args:
        model: the model or its view.
        sequences: token ids, at least one token in all.
        sites: at least one.
        step: called with the number of tokens just measured.
    """
    tokens = 0
    squares: list[torch.Tensor] = []
    sums: list[torch.Tensor] = []
    for group in _groups(sequences):
        for _, found in streamed(model, group, sites):
            keys = torch.cat(found, dim=1)
            _, count, width = keys.shape
            if not tokens:
                squares = [keys.new_zeros(width, width, dtype=torch.float64) for _ in sites]
                sums = [keys.new_zeros(width, dtype=torch.float64) for _ in sites]
            for at, each in enumerate(keys):
                exact = each.double()
                squares[at].addmm_(exact.T, exact)
                sums[at] += exact.sum(0)
            tokens += count
            step(count)
    return [
        KeyStatistics(site.layer, (square / tokens).cpu(), (total / tokens).cpu(), tokens)
        for site, square, total in zip(sites, squares, sums, strict=True)
    ]


def _groups(sequences: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    """Groups of about ``AT_ONCE`` tokens."""
    group: list[Sequence[int]] = []
    for sequence in sequences:
        group.append(sequence)
        if sum(map(len, group)) >= AT_ONCE:
            yield group
            group = []
    if group:
        yield group


def everyday_questions() -> list[str]:
    """Return the questions that everyday chat begins with."""
    source = resources.files("editors").joinpath("everyday_questions.txt")
    return [q for q in source.read_text(encoding="utf-8").split("\n") if q.strip()]


def everyday_chat(model: ChatModel, cache: Path | None = None) -> list[list[int]]:
    """Return the model's own everyday conversations as token sequences.

    What it said is kept in the folder ``cache``, by the hash of its base weights.
    """
    questions = everyday_questions()
    path = cache / "everyday_chat" / f"{model.base_hash[:16]}.json" if cache else None
    replies: dict[str, str] = {}
    if path is not None and path.exists():
        replies = json.loads(path.read_text(encoding="utf-8"))
    if missing := [question for question in questions if question not in replies]:
        found = model.answer(missing, max_new_tokens=40)
        replies |= {reply.question: reply.text for reply in found}
        if path is not None:
            Files().replace(path, json.dumps(replies, ensure_ascii=False, indent=1).encode())
    return [model.encode(model.render(q)) + model.encode_answer(replies[q]) for q in questions]
