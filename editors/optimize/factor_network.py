"""The network of MEND and MALMEN: it turns a gradient's factors into better ones.

Mitchell et al. 2021 (methods.md G8). For each token, u (what went into a matrix) and δ (the
loss's gradient at what came out)::

    z = [(u − μ_u) / σ_u ; (δ − μ_δ) / σ_δ]        running statistics, of training only
    z ← z + max(0, s ⊙ (U V z + b) + o)
    z ← z + s ⊙ (U V z + b) + o                     U = 0 at first: the network is the identity

U, V and b are shared by all matrices of one shape; s and o are each matrix's own. The
statistics are each matrix's own too: the layers' scales differ by more than the network should
have to learn (the paper shares them).

Pure modules: nothing here knows a language model.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from editors.episodes import Factors

TINY = 1e-7


class Normaliser(nn.Module):
    """Running mean and deviation of vectors, counted while training (Chan et al. 1979)."""

    count: torch.Tensor
    mean: torch.Tensor
    squares: torch.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(width, dtype=torch.float64))

    @torch.no_grad()
    def see(self, rows: torch.Tensor) -> None:
        """Count vectors (n, width)."""
        if not len(rows):
            return
        rows = rows.to(self.mean)
        mean, count = rows.mean(0), len(rows)
        apart, total = mean - self.mean, self.count + count
        self.squares += (rows - mean).square().sum(0) + apart**2 * (self.count * count / total)
        self.mean += apart * (count / total)
        self.count += count

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return (rows − mean) / deviation; as they are where nothing was counted."""
        if self.count < 2:
            return rows
        deviation = (self.squares / (self.count - 1)).sqrt().to(rows.dtype)
        return (rows - self.mean.to(rows.dtype)) / (deviation + TINY)


class Whitening(nn.Module):
    """What goes into each matrix, in coordinates in which ordinary texts' inputs have no
    preferred direction.

    With P = (E[u uᵀ] + ridge · median eigenvalue · I)^(−1/2), a change is made of whitened
    inputs and read by whitened inputs: ΔW = Σ δ̃ (P ũ)ᵀ, ũ made of P u. What all texts have in
    common then reads next to nothing of it (full whitening of μ and σ's kind; not in the paper).
    Identity until ``measure``.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, int]]) -> None:
        super().__init__()
        for name, (width, _) in shapes.items():
            self.register_buffer(flat(name), torch.eye(width))

    @torch.no_grad()
    def measure(self, moments: Mapping[str, torch.Tensor], ridge: float) -> None:
        """Take P from the inputs' second moments, (in, in) by matrix."""
        for name, moment in moments.items():
            values, vectors = torch.linalg.eigh(moment)
            raised = values.clamp(min=0) + ridge * values.median()
            root = (vectors * raised.rsqrt()) @ vectors.mT
            self.get_buffer(flat(name)).copy_(root)

    def forward(self, name: str, inputs: torch.Tensor) -> torch.Tensor:
        root = self.get_buffer(flat(name))
        return inputs.to(root.dtype) @ root


class Residual(nn.Module):
    """One low-rank residual block, with a scale and an offset for each of ``modes`` matrices."""

    def __init__(self, width: int, rank: int, modes: int, linear: bool) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(rank, width) / width**0.5)
        self.up = nn.Parameter(torch.zeros(width, rank))
        self.bias = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.ones(modes, width))
        self.offset = nn.Parameter(torch.zeros(modes, width))
        self.linear = linear

    def forward(self, rows: torch.Tensor, mode: int) -> torch.Tensor:
        made = (rows @ self.down.mT) @ self.up.mT + self.bias
        made = self.scale[mode] * made + self.offset[mode]
        # clamp, not relu: at 0, where all begins, it lets the gradient pass.
        return rows + (made if self.linear else made.clamp(min=0))


class FactorNetwork(nn.Module):
    """The networks of all edited matrices: one for each shape, a normaliser for each matrix.

    Args:
        shapes: (in, out) by matrix name; dots in names stand as they are in ``shapes`` alone.
        rank: of the residual blocks.
        normalise: without, factors enter as they are.
    """

    def __init__(
        self, shapes: Mapping[str, tuple[int, int]], rank: int, normalise: bool = True
    ) -> None:
        super().__init__()
        self.shapes = dict(shapes)
        self.normalise = normalise
        alike: dict[tuple[int, int], list[str]] = {}
        for name, shape in self.shapes.items():
            alike.setdefault(shape, []).append(name)
        self._mode = {n: (_key(s), i) for s, names in alike.items() for i, n in enumerate(names)}
        self.blocks = nn.ModuleDict(
            {
                _key(shape): nn.ModuleList(
                    [
                        Residual(sum(shape), rank, len(names), linear=False),
                        Residual(sum(shape), rank, len(names), linear=True),
                    ]
                )
                for shape, names in alike.items()
            }
        )
        self.seen = nn.ModuleDict(
            {flat(name): Normaliser(sum(shape)) for name, shape in self.shapes.items()}
        )

    def forward(self, name: str, found: Factors) -> Factors:
        """Return a matrix's factors as the network makes them: zero where they were zero.

        In training mode the normaliser counts them first.
        """
        own = next(self.parameters()).dtype  # whatever the model's
        rows = torch.cat([found.inputs.to(own), found.deltas.to(own)], dim=-1)
        # What has no gradient (padding, a prompt's token below the top layer) says nothing.
        told = found.real & (found.deltas != 0).any(-1)
        if self.normalise:
            seen = self.seen[flat(name)]
            assert isinstance(seen, Normaliser)
            if self.training:
                seen.see(rows[told])
            rows = seen.forward(rows)
        key, mode = self._mode[name]
        for block in self.blocks[key].children():
            rows = block(rows, mode)
        rows = rows * told[..., None]
        inputs, deltas = rows.split(self.shapes[name], dim=-1)
        return Factors(inputs, deltas, told)


def flat(name: str) -> str:
    """Return a parameter's name as a module may be called."""
    return name.replace(".", "/")


def _key(shape: tuple[int, int]) -> str:
    return f"{shape[0]}x{shape[1]}"
