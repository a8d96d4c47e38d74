"""Recall heads solved: from readings to gates, flags, one group of heads, and columns. Pure.

Everything is a reading ``a·x`` of a normed state that answers 1 where it is meant and 0 elsewhere,
in least squares (``direction``), compared with a level ``b·x`` that answers 1 on every token. The
first token of a text has a massive state of its own, and is shut out by a reading of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from editors.linear_solve import moment, ridged
from editors.requests import EditorError

_HEAVY = 10.0  # weight of what texts begin with, where it must not be taken for a flag
_SHUT = 0.03  # how far below nothing a gate is where a text begins
_ROUNDS, _STEP = 100, 0.15  # in which codes are moved apart, and how far in the first one
LEAST_CODES = 8  # dimensions that subjects are told apart by


@dataclass(frozen=True)
class Ground:
    """What is read at one place in the model, on edits and on ordinary text alike.

    Attributes:
        second: (hidden, hidden) float64 second moment; ``inverse``: of it, ridged.
        level: (hidden,) answers 1 on every token but the first of a text.
        first: (hidden,) what the first looks like.
        start: (hidden,) answers 1 on it, and 0 elsewhere.
    """

    second: torch.Tensor
    inverse: torch.Tensor
    level: torch.Tensor
    first: torch.Tensor
    start: torch.Tensor

    def levels(self, states: torch.Tensor) -> torch.Tensor:
        """Return the level of states (n, hidden), (n,) float32, never near 0."""
        return (states @ self.level.float()).clamp(min=0.2)

    def gate(self, direction: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
        """Return the row (hidden,) that is positive where a direction is above its threshold."""
        return direction - threshold * self.level

    def shut(self, direction: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """Return a direction that answers hardly less than 0 where a text begins, whatever it
        did, and still 1 on ``own`` (n, hidden) on average.

        Not much less: the reading of the first token is none but noise on strange ones.
        """
        made = direction - (direction @ self.first + _SHUT) * self.start
        return made / (own.double() @ made).mean()


def ground(
    edited: torch.Tensor, ordinary: torch.Tensor, first: torch.Tensor, ridge: float
) -> Ground:
    """Measure a place: edits and ordinary text weigh the same, however many there are of either.

    Args:
        edited, ordinary: (n, hidden) float32 states.
        first: (n of ordinary,) bool, those that begin a text.
        ridge: share of the mean diagonal that is added to the second moment.
    """
    one, mine = moment(edited)
    other, usual = moment(ordinary[~first])
    both = one + other
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(ridged(both, ridge)))
    begun = ordinary[first].double().mean(0)
    start = torch.linalg.solve(ridged(both, 1e-3), begun)
    start = start / (begun @ start)
    level = inverse @ (mine + usual)
    return Ground(both, inverse, level - (level @ begun) * start, begun, start)


def direction(
    inverse: torch.Tensor,
    own: torch.Tensor,
    weight: float,
    *apart: tuple[torch.Tensor, float],
) -> torch.Tensor:
    """Return (hidden,) float64 that answers 1 on ``own`` (n, hidden) on average and 0 elsewhere,
    on each kind ``apart`` (n, hidden) with a weight of its own; by Woodbury's identity above one
    inverse for all."""
    keys, wanted = own.double(), own.new_ones(len(own)).double()
    weights = keys.new_full((len(own),), len(own) / weight)
    for some, much in (one for one in apart if len(one[0])):
        keys = torch.cat([keys, some.double()])
        wanted = torch.cat([wanted, keys.new_zeros(len(some))])
        weights = torch.cat([weights, keys.new_full((len(some),), len(some) / much)])
    solved = inverse @ keys.T
    made = solved @ torch.linalg.solve(torch.diag(weights) + keys @ solved, wanted)
    return made / (keys[: len(own)] @ made).mean()


def thresholds(
    shares: torch.Tensor, owners: torch.Tensor, least: float, most: float, margin: float
) -> torch.Tensor:
    """Return by neuron the threshold of its gate: above the highest negative, below its own.

    Args:
        shares: (rows, neurons) what each answers on each row; changed.
        owners: (rows,) the neuron that a row belongs to, -1: none.
        least: the smallest threshold.
        most: the largest, as a share of what its weak own rows (the fiftieth part) answer.
        margin: above the highest negative.
    """
    found = []
    for at in range(shares.shape[1]):
        own = owners == at
        mine = shares[own, at].sort().values
        shares[own, at] = -1.0
        high = (shares[:, at].amax() + margin).clamp(min=least)
        found.append(torch.minimum(high, most * mine[int(0.02 * len(mine))]))
    return torch.stack(found)


@dataclass(frozen=True)
class Room:
    """Directions of the stream in which the heads' layer reads nothing.

    Attributes:
        basis: (hidden, dims) float64, what a flag is written in; the last one says that there
            is a flag at all.
        read: (dims, hidden) reads them of a normed state, 1 for a flag as large as ``size``.
        size: (dims,) of a flag, in units of the stream's root mean square.
        start: (hidden,) answers 1 on a normed state that begins a text, 0 elsewhere.
        calm: (hidden,) answers 1 on every other.
    """

    basis: torch.Tensor
    read: torch.Tensor
    size: torch.Tensor
    start: torch.Tensor
    calm: torch.Tensor


def room(
    reading: torch.Tensor,
    norm: torch.Tensor,
    states: Sequence[torch.Tensor],
    begun: torch.Tensor,
    sizes: torch.Tensor,
) -> Room:
    """Choose the dimensions that are disturbed least where there is no flag.

    Args:
        reading: (rows, hidden) all key and value rows of the layer.
        norm: (hidden,) gains of the norm before it.
        states: some kinds of normed states (n, hidden), each kind weighing the same.
        begun: (n, hidden) those that begin a text.
        sizes: (dims,) of a flag, in standard deviations of what is read where there is none; the
            last one is of "there is a flag".

    What most texts begin with is read as nothing at all: every token rests on it, and each
    would bring what is read there.

    Raises EditorError: the layer's heads read (nearly) everything.
    """
    dims = len(sizes)
    norm = norm.double()
    read = reading.double() * norm
    kept = torch.linalg.svd(read, full_matrices=True)[2][len(read) :].T
    if kept.shape[1] < dims:
        raise EditorError(
            f"recall heads need {dims} directions that a layer's keys and values do not read, and "
            f"there are {kept.shape[1]}; use lookup or compiled memory"
        )
    kinds = [moment(some / norm.float()) for some in states]
    both, mean = (torch.stack(parts).sum(0) for parts in zip(*kinds, strict=True))
    begun = (begun / norm.float()).double()
    first, firsts = begun.mean(0), begun.T @ begun / len(begun)
    heavy = ridged(both + _HEAVY * firsts, 1e-5)
    inverse = torch.linalg.inv(heavy)
    start = inverse @ first
    start = start / (first @ start)
    calm = torch.linalg.solve(ridged(both, 1e-3), mean)
    calm = calm - (first @ calm) * start
    quiet, turned = torch.linalg.eigh(kept.T @ inverse @ kept)
    # The quietest first, and that one last: it says that there is a flag.
    basis = (kept @ turned[:, -dims:]).flip(1).roll(-1, 1)
    large = sizes.double() * quiet[-dims:].flip(0).roll(-1).rsqrt()
    distinct, often = torch.unique(begun, dim=0, return_counts=True)
    told = torch.cat([basis, distinct[often.argmax()][:, None]], dim=1)
    reads = torch.linalg.solve(told.T @ inverse @ told, told.T @ inverse)[:dims]
    return Room(basis, reads / large[:, None] / norm, large, start / norm, calm / norm)


@dataclass(frozen=True)
class Filters:
    """What tells of a reader which relation it asks for.

    Attributes:
        query: (rank, hidden) float64, of a normed state.
        keys: (subjects, rank); ``query`` times a subject's key is ``match`` or more where one of
            its edits is asked for.
    """

    query: torch.Tensor
    keys: torch.Tensor


def factors(
    directions: torch.Tensor, second: torch.Tensor, rank: int, alike: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Factor the edits' directions (edits, hidden) into as few dimensions as asked for: queries
    (rank, hidden) and keys (edits, rank).

    The loss is measured where it matters: on states whose second moment (hidden, hidden) is given.
    Keys are disturbed by as much in each dimension, so that a query has to be small where keys
    are: the size of both is shared out evenly, each relation counting once, however many edits
    ask for it (``alike`` (edits,)). Counted by edits, the keys of many would be next to nothing.
    """
    root = torch.linalg.cholesky(second)
    left, values, right = torch.linalg.svd(directions @ root, full_matrices=False)
    rank = min(rank, len(values))
    query = torch.linalg.solve(root.T, right[:rank].T).T
    keys = left[:, :rank] * values[:rank]
    # The least disturbance of queries, for the same size of keys: C^(1/4) and its inverse.
    sizes, axes = torch.linalg.eigh(keys.T @ (keys / alike.double()[:, None]))
    even = sizes.clamp(min=1e-9 * float(sizes[-1])) ** 0.25
    return (axes * even) @ axes.T @ query, keys @ (axes / even) @ axes.T


def together(keys: torch.Tensor, asked: torch.Tensor, owners: torch.Tensor) -> torch.Tensor:
    """Return one key (rank,) for several, a mixture: where each is asked for, it answers as that
    one does, in least squares. Their sum would answer twice as loud where they are alike.

    Args:
        keys: (n, rank).
        asked: (places, rank) queries; ``owners``: (places,) which of the keys each asks for.
    """
    said = asked @ keys.T
    wanted = said.gather(1, owners[:, None])[:, 0]
    return torch.linalg.solve(ridged(said.T @ said, 1e-3), said.T @ wanted) @ keys


def lifted(
    key: torch.Tensor, asked: torch.Tensor, least: float, inverse: torch.Tensor
) -> torch.Tensor:
    """Return a key (rank,) that answers ``least`` on all queries ``asked`` (places, rank), and
    elsewhere as it did as far as can be, where their second moment has this ``inverse``."""
    answered = asked @ key
    weak = asked[answered < least]
    if not len(weak):
        return key
    solved = inverse @ weak.T
    return key + solved @ torch.linalg.solve(ridged(weak @ solved, 1e-3), least - weak @ key)


def turning(width: int, rank: int) -> list[int]:
    """Return the places in a head of the slowest turning pairs, the very slowest left out: rotary
    embeddings turn place i with i + width / 2, the slower the higher i."""
    half = width // 2
    pairs = [[at, at + half] for at in range(half - 2, -1, -1)]
    return [place for pair in pairs for place in pair][:rank]


def turned(rows: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """Turn the rows (width, hidden) of a head as rotary embeddings do: places i and i + width / 2
    together, by ``angles`` (width / 2,)."""
    first, second = rows.chunk(2)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    return torch.cat([first * cos - second * sin, second * cos + first * sin])


def codes(subjects: int, dims: int) -> torch.Tensor:
    """Return unit vectors (subjects, dims) float64 that are square to one another, or as nearly so
    as can be where there are more subjects than dimensions.

    Drawn, then moved away from those they overlap most with. Of 920 in 64 dimensions no two
    overlap by more than 0.21; as they were drawn, by 0.55: another subject's answer half open.
    """
    if dims < LEAST_CODES:
        raise EditorError(f"recall heads need {LEAST_CODES} dimensions for codes, got {dims}")
    if subjects <= dims:
        return torch.eye(subjects, dims, dtype=torch.float64)
    made = torch.randn(subjects, dims, generator=torch.Generator().manual_seed(0))
    made = nn.functional.normalize(made, dim=1)
    for part in torch.linspace(1, 0, _ROUNDS + 1)[:-1]:
        overlaps = (made @ made.T).fill_diagonal_(0.0)
        # An odd power: the largest overlaps alone count, of either sign.
        towards = (overlaps / overlaps.abs().amax()) ** 11 @ made
        long = towards.norm(dim=1, keepdim=True)
        made = nn.functional.normalize(
            made - _STEP * part * towards / long.clamp(min=float(long.mean())), dim=1
        )
    return made.double()


def loudest(readings: int) -> float:
    """Return about how many deviations the largest of so many normal readings is."""
    return math.sqrt(2 * math.log(max(readings, 2)))


def columns(read: torch.Tensor, tokens: Sequence[int], ridge: float) -> torch.Tensor:
    """Return unit columns (neurons, hidden) that raise each token over all others the most.

    Args:
        read: (vocabulary, hidden) the head's matrix with the last norm's gains.

    With G the second moment of its rows that is ``(G + λ)⁻¹ g``.
    """
    unique = sorted(set(tokens))
    second = ridged((read.T @ read / len(read)).double(), ridge)
    made = nn.functional.normalize(torch.linalg.solve(second, read[unique].double().T).T, dim=1)
    number = {token: at for at, token in enumerate(unique)}
    return made[[number[token] for token in tokens]]


def ramp(sharpness: float, width: float) -> float:
    """Return the activation of a neuron that is ``width`` above its threshold."""
    return sharpness * width / (1 + math.exp(-sharpness * width))
