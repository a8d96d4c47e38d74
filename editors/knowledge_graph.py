"""A small knowledge graph rendered as text, and how editing it is measured.

A triple (head, relation, tail) is asked as a plain prompt ("The capital of France is"); what could
stand there is the relation's tails, ranked by the mean log-probability of their tokens. That
gives a language model the ranks that knowledge-graph embeddings are measured by (methods.md G9):
Succ@k of edited triples, RK@k of untouched ones, and relative changes of rank.

The metrics are pure functions of ranks; ``Ranker`` makes ranks of a model, everything below the
edited layers run once for all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from editors.architectures import ModelView, view
from editors.deltas import DenseDelta, EditDelta
from editors.episodes import Upper, mean_nll
from editors.model import ChatModel
from editors.requests import EditorError, EditRequest
from editors.trunk import Sample


@dataclass(frozen=True, order=True)
class Triple:
    """One fact of a graph."""

    head: str
    relation: str
    tail: str


@dataclass(frozen=True)
class Graph:
    """Triples, and how each relation is asked.

    Attributes:
        triples: no two have the same head, relation and tail.
        templates: by relation the prompts that its tail continues, ``{}`` for the head, the one
            that is edited on first.
    """

    triples: tuple[Triple, ...]
    templates: Mapping[str, tuple[str, ...]]

    def tails(self, relation: str) -> tuple[str, ...]:
        """Return a relation's tails, the most frequent first."""
        counts: dict[str, int] = {}
        for triple in self.triples:
            if triple.relation == relation:
                counts[triple.tail] = counts.get(triple.tail, 0) + 1
        return tuple(sorted(counts, key=lambda tail: (-counts[tail], tail)))

    def query(self, triple: Triple, most: int = 0) -> Query:
        """Return what is asked for a triple's tail.

        ``most`` bounds the candidates (0: not at all): those drawn by the triple's name, its own
        tail always among them. Other right answers (a head with several tails) are none:
        ranks are *filtered*, as is usual.
        """
        right = {t.tail for t in self.triples if (t.head, t.relation) == triple_key(triple)}
        others = [tail for tail in self.tails(triple.relation) if tail not in right]
        if most:
            others = sorted(others, key=lambda tail: _digest(triple, tail))[: most - 1]
        return Query(self.prompts(triple)[0], (triple.tail, *sorted(others)), triple.tail)

    def prompts(self, triple: Triple) -> tuple[str, ...]:
        """Return the prompts that a triple's tail continues."""
        return tuple(t.replace("{}", triple.head) for t in self.templates[triple.relation])

    def request(self, triple: Triple, old: str = "") -> EditRequest:
        """Return the request to write a triple into a model."""
        prompt = self.prompts(triple)[0]
        return EditRequest(
            id=f"{triple.head} | {triple.relation}",
            questions=(),
            new=triple.tail,
            statement=f"{prompt} {triple.tail}.",
            old=old,
            subject=triple.head,
            prompts=(prompt,),
        )


@dataclass(frozen=True)
class Query:
    """A prompt, what might continue it, and what should."""

    prompt: str
    candidates: tuple[str, ...]
    tail: str


@dataclass(frozen=True)
class Ranked:
    """A query's outcome: the tail's rank (1 is best), and the candidate that came first."""

    rank: int
    first: str


class Ranker:
    """Ranks the candidates of queries, again and again, on a model whose upper layers change.

    One ranker serves changes from layer ``lowest`` on: the layers below are run once a text.
    """

    def __init__(self, model: ChatModel | ModelView, lowest: int) -> None:
        self._upper = Upper(model, lowest)

    @torch.no_grad()
    def rank(self, queries: Sequence[Query]) -> list[Ranked]:
        """Return the rank of each query's tail in the model as it is now.

        All of a query's candidates are one batch. Of candidates that are equally likely the
        tail comes last: a model that says nothing gets no credit.
        """
        return [self._one(query) for query in queries]

    def _one(self, query: Query) -> Ranked:
        chat = self._upper.view.chat
        prompt = tuple(chat.encode(query.prompt))
        samples = [Sample(prompt, tuple(chat.encode_answer(f" {c}"))) for c in query.candidates]
        scores = -mean_nll(self._upper.said(samples))
        own = query.candidates.index(query.tail)
        rank = int((scores >= scores[own]).sum())
        return Ranked(rank, query.candidates[int(scores.argmax())])


def lowest_layer(model: ChatModel | ModelView, deltas: Sequence[EditDelta]) -> int:
    """Return the lowest layer that deltas change; 0 where that cannot be told."""
    shown = view(model)
    layers: dict[str, int] = {}
    for layer in range(len(shown.layers)):
        names = shown.names(layer)
        for name in (names.down, names.up, names.gate, names.attention, *names.queries):
            if name is not None:
                layers[name] = layer
    found = [len(shown.layers) - 1]
    for delta in deltas:
        if not isinstance(delta, DenseDelta):
            return 0
        found += [layers.get(name, 0) for name in delta.changes]
    return min(found)


def succeeded(ranks: Sequence[int], k: int) -> float:
    """Return Succ@k: the share of edited triples whose tail ranks among the first k."""
    _some(ranks)
    return sum(rank <= k for rank in ranks) / len(ranks)


def retained(before: Sequence[int], after: Sequence[int], k: int) -> float:
    """Return RK@k: of the untouched triples that were among the first k, the share that still
    is; 1 where none was, nothing having been lost."""
    pairs = [a <= k for b, a in zip(before, after, strict=True) if b <= k]
    return sum(pairs) / len(pairs) if pairs else 1.0


def edit_change(before: Sequence[int], after: Sequence[int]) -> float:
    """Return ER_roc: the mean share by which edited triples' ranks fell, (before − after) /
    before. Near 1 is best; below 0 ranks became worse."""
    _some(before)
    changes = [(b - a) / b for b, a in zip(before, after, strict=True)]
    return sum(changes) / len(changes)


def kept_change(before: Sequence[int], after: Sequence[int]) -> float:
    """Return RK_roc: the mean share by which untouched triples' ranks moved, |after − before| /
    before. 0 is best."""
    _some(before)
    changes = [abs(a - b) / b for b, a in zip(before, after, strict=True)]
    return sum(changes) / len(changes)


def triple_key(triple: Triple) -> tuple[str, str]:
    """Return what a triple is the answer to."""
    return triple.head, triple.relation


def _some(ranks: Sequence[int]) -> None:
    if not ranks:
        raise EditorError("ranks of no triple have no mean")


def _digest(triple: Triple, tail: str) -> str:
    return hashlib.sha256(f"{triple.head}|{triple.relation}|{tail}".encode()).hexdigest()
