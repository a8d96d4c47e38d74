"""A question as one vector, made of the model's own hidden states: what routers compare.

A decoder's raw states all point the same way, so each token's state is brought to unit length
and whitened, the mean over the user's question is taken, and the mean of ordinary questions is
taken off (methods.md §3.8). Of paraphrases and of questions on other subjects, the default model
told apart most at a third of its depth, and more with whitening than without (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from editors.architectures import ModelView
from editors.capture import keys_at
from editors.key_statistics import everyday_questions
from editors.runtime import Turns

_FLOOR = 0.1  # share of the mean variance added to every direction's before whitening


@dataclass(frozen=True)
class Asked:
    """A question in the chat template, or a plain text to be continued."""

    text: str
    chat: bool


Embed = Callable[[Sequence[Asked]], torch.Tensor]
"""Makes unit embeddings (n, width) of questions and plain texts."""


@dataclass(frozen=True)
class Embedder:
    """Makes a question's embedding of its states; measured on ordinary questions.

    Attributes:
        layer: whose output is read.
        whiten: (hidden, hidden), applied to each token's unit state.
        chat, plain: (hidden,), the mean of ordinary questions in the chat template and bare.
        last: whether it is made of the prompt's last token, and not of the question's tokens.
    """

    layer: int
    whiten: torch.Tensor
    chat: torch.Tensor
    plain: torch.Tensor
    last: bool = False

    def embedding(self, states: torch.Tensor, chat: bool) -> torch.Tensor:
        """Return the unit embedding (hidden,) of a question's states (n, hidden)."""
        pooled = (unit(states.float()) @ self.whiten.to(states.device)).mean(0)
        return unit(pooled - (self.chat if chat else self.plain).to(states.device))

    def of_prompt(self, turns: Turns, ids: Sequence[int], states: torch.Tensor) -> torch.Tensor:
        """Return the unit embedding of a rendered prompt, given the states (tokens, hidden) of
        all its tokens; without ids they are a text's."""
        at = list(ids) or [0] * len(states)
        return self.embedding(states[read_at(turns, at, self.last)], turns.chat(ids))


def embedder(shown: ModelView, layer: int, last: bool = False) -> Embedder:
    """Return the embedder of a layer, measured on everyday questions, asked and bare."""
    asked, bare = (
        _states(shown, [Asked(question, chat) for question in everyday_questions()], layer, last)
        for chat in (True, False)
    )
    tokens = unit(torch.cat([*asked, *bare]).double())
    apart = tokens - tokens.mean(0)
    spread, directions = torch.linalg.eigh(apart.T @ apart / len(tokens))
    scale = (spread.clamp(min=0) + _FLOOR * spread.mean()).rsqrt()
    whiten = (directions * scale @ directions.T).float()
    chat, plain = (
        torch.stack([(unit(one) @ whiten).mean(0) for one in some]).mean(0)
        for some in (asked, bare)
    )
    return Embedder(layer, whiten, chat, plain, last)


def embeddings(shown: ModelView, asked: Sequence[Asked], made: Embedder) -> torch.Tensor:
    """Return the unit embeddings (n, hidden) of questions and plain texts."""
    if not asked:
        return made.chat.new_zeros(0, len(made.chat))
    states = _states(shown, asked, made.layer, made.last)
    return torch.stack([made.embedding(s, a.chat) for s, a in zip(states, asked, strict=True)])


def question_at(turns: Turns, ids: Sequence[int]) -> slice:
    """Return where a prompt's question stands. A text's first token is left out: decoders park
    attention there, and its state drowns all others."""
    found = turns.question(ids)
    return slice(max(found.start, 1), found.stop) if len(ids) > 1 else found


def read_at(turns: Turns, ids: Sequence[int], last: bool = False) -> slice:
    """Return the tokens that an embedding is made of: the question's, or the prompt's last."""
    if not last:
        return question_at(turns, ids)
    end = turns.last(ids)
    return slice(end, end + 1)


def unit(rows: torch.Tensor) -> torch.Tensor:
    """Return vectors (…, width) at length 1."""
    return nn.functional.normalize(rows, dim=-1)


def _states(shown: ModelView, asked: Sequence[Asked], layer: int, last: bool) -> list[torch.Tensor]:
    """Return the states (tokens, hidden) float32 of each question's own tokens."""
    turns, chat = Turns(shown.chat), shown.chat
    texts = [chat.encode(chat.render(a.text) if a.chat else a.text) for a in asked]
    places = [list(range(len(ids)))[read_at(turns, ids, last)] for ids in texts]
    states = keys_at(shown, texts, [layer], places, part="layer", side="output")[0]
    return list(states.float().split([len(at) for at in places]))
