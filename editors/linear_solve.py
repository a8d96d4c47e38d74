"""Linear solves: the closed forms by which edits are written into a matrix (methods.md §3.5).

Shapes: ``W`` is (d, m), a key m long, a value d long; keys ``K`` (m, n) and residuals
``R = V* − W K`` (d, n) hold one edit a column; ``C`` (m, m) is the second moment of ordinary
keys. All forms come to Δ = R Yᵀ with *readers* ``Y`` (m, n) that depend on the keys alone
and are one expression of a positive definite ``A``::

    Y = A⁻¹K (εI + KᵀA⁻¹K)⁻¹  =  (εA + KKᵀ)⁻¹K

    ROME        A = C, ε = 0, one key              EMMET    A = C, ε its slack
    MEMIT, PMET A = C, ε = λ                       MALMEN, UltraEdit    A = I, ε = λ
    AlphaEdit   A = αI + K_pK_pᵀ, ε = 1, in the null space's coordinates

So EMMET with slack ε *is* MEMIT with covariance weight λ = ε. The left side (Woodbury) costs
O(m²n + n³) once A is factored, the right side O(m³): A is factored once a layer, for every
batch and every λ. Only earlier keys that are to be preserved change A (``including``, O(m³)
a batch however many they are, so that a late batch costs what an early one does).

Everything is float64 on the device of the matrix; nothing is ever inverted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from editors.requests import EditorError

SINGULAR = 1e-12
"""A pivot below this share of its own diagonal entry is rounding (m · 2e-16 for m ≈ 4,000)."""


@dataclass(frozen=True)
class Update:
    """A change of one matrix in low-rank form, Δ = residuals @ readersᵀ.

    Attributes:
        residuals: (d, n), what each edit's value is to change by.
        readers: (m, n), how much of each edit a key takes up: a key ``x`` moves by
            ``residuals @ (readersᵀ x)``. All float64.
    """

    residuals: torch.Tensor
    readers: torch.Tensor

    def dense(self) -> torch.Tensor:
        """Return Δ as (d, m)."""
        return self.residuals @ self.readers.T


@dataclass(frozen=True)
class Factor:
    """A positive definite matrix with its Cholesky factor: what is constant over edits.

    Attributes:
        matrix: (m, m) float64.
        lower: (m, m) lower triangular, ``lower @ lowerᵀ = matrix``.
    """

    matrix: torch.Tensor
    lower: torch.Tensor

    def solve(self, right: torch.Tensor) -> torch.Tensor:
        """Return A⁻¹ right for (m, n), in O(m²n)."""
        right = right.to(self.lower)
        return torch.cholesky_solve(right, self.lower) if right.numel() else right

    def energies(self, keys: torch.Tensor) -> torch.Tensor:
        """Return kᵀA⁻¹k of each key (column), (n,): how unlike what A holds it is."""
        if not keys.numel():
            return self.lower.new_zeros(keys.shape[1])
        half = torch.linalg.solve_triangular(self.lower, keys.to(self.lower), upper=False)
        return half.square().sum(0)

    def scaled(self, weight: float) -> Factor:
        """Return the factor of ``weight · A`` without factoring again."""
        _positive("a weight", weight)
        return Factor(self.matrix * weight, self.lower * math.sqrt(weight))

    def including(self, keys: torch.Tensor) -> Factor:
        """Return the factor of A + KKᵀ: the same, with these keys (m, n) to preserve. O(m³)."""
        keys = keys.to(self.matrix)
        return factored(torch.addmm(self.matrix, keys, keys.T)) if keys.numel() else self


def moment(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return second moment (width, width) and mean (width,) of rows, summed up in float64."""
    width = states.shape[1]
    second = states.new_zeros(width, width, dtype=torch.float64)
    mean = states.new_zeros(width, dtype=torch.float64)
    for part in states.split(8192):
        exact = part.double()
        second.addmm_(exact.T, exact)
        mean += exact.sum(0)
    return second / len(states), mean / len(states)


def ridged(moment: torch.Tensor, share: float) -> torch.Tensor:
    """Return a moment (n, n) with a share of its mean diagonal added to the diagonal."""
    eye = torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    return moment + share * moment.diagonal().mean() * eye


def factored(matrix: torch.Tensor, ridge: float = 0.0) -> Factor:
    """Factor a symmetric positive definite matrix (m, m), O(m³).

    Args:
        matrix: read as symmetric; not changed.
        ridge: added to the diagonal, as a share of the diagonal's mean (methods.md L2:
            1e-3 to 1e-2 for a second moment).

    Raises:
        EditorError: it is not positive definite to working precision.
    """
    _square(matrix)
    whole = matrix.detach().to(torch.float64, copy=True)
    if whole.numel():
        whole.diagonal().add_(ridge * whole.diagonal().mean())
    return Factor(
        whole,
        _lower(
            whole,
            f"the {len(whole)}-wide second moment is singular: measure it on more text, "
            "or solve with a ridge",
        ),
    )


def equality_one(
    residual: torch.Tensor, key: torch.Tensor, factor: Factor, at: torch.Tensor | None = None
) -> Update:
    """ROME: one key (m,) gets its residual (d,) exactly, at least cost tr(ΔCΔᵀ).

    ``at`` is the key at which it is exact, where that is another than the one whose whitened
    direction is written (the original code's bare-prompt key; r-ROME leaves it out).

    Raises:
        EditorError: the direction does not see ``at``.
    """
    direction = factor.solve(key[:, None])[:, 0]
    at = key.to(direction) if at is None else at.to(direction)
    seen = direction @ at
    if seen.abs() <= SINGULAR * direction.norm() * at.norm():
        raise EditorError("the key to be exact at is blind to the direction that is written")
    return Update(residual.to(direction)[:, None], (direction / seen)[:, None])


def equality(
    residuals: torch.Tensor, keys: torch.Tensor, factor: Factor, slack: float = 0.0
) -> Update:
    """EMMET: n keys get their residuals exactly (slack 0), at least cost tr(ΔCΔᵀ).

    ``slack`` ε against nearly dependent keys trades exactness away; the result then is that
    of ``ridge`` with ``weight`` ε.

    Raises:
        EditorError: the keys are linearly dependent and there is no slack.
    """
    return _update(residuals, keys, _readers(factor, keys, slack))


def ridge(residuals: torch.Tensor, keys: torch.Tensor, factor: Factor, weight: float) -> Update:
    """MEMIT, PMET: minimise ‖ΔK − R‖² + λ tr(ΔCΔᵀ), Δ = RKᵀ(λC + KKᵀ)⁻¹.

    ``factor`` is C's, ``weight`` λ: the number of ordinary keys that C stands for. Earlier
    keys to preserve are for ``factor.scaled(weight).including(earlier)`` with weight 1.

    Raises:
        EditorError: the weight is not positive.
    """
    _positive("the covariance weight", weight)
    if keys.shape[1] < keys.shape[0]:
        return _update(residuals, keys, _readers(factor, keys, weight))
    return _update(residuals, keys, factor.scaled(weight).including(keys).solve(keys))


def identity_ridge(residuals: torch.Tensor, keys: torch.Tensor, weight: float) -> Update:
    """MALMEN, UltraEdit: Δ = SKᵀ(KKᵀ + λI)⁻¹; solved on the smaller side, n or m.

    ``residuals`` are the value shifts S (d, n) that gradients ask for.

    Raises:
        EditorError: the weight is not positive.
    """
    _positive("the ridge", weight)
    keys = keys.double()
    width, count = keys.shape
    gram = keys.T @ keys if count < width else keys @ keys.T
    gram.diagonal().add_(weight)
    lower = _lower(gram, "the ridge is too small beside these keys: raise it")
    if count < width:
        readers = torch.cholesky_solve(keys.T, lower).T
    else:
        readers = torch.cholesky_solve(keys, lower)
    return _update(residuals, keys, readers)


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues (m,), ascending and not negative, and eigenvectors (m, m) as columns."""

    values: torch.Tensor
    vectors: torch.Tensor

    def dimensions(self, share: float) -> int:
        """Return how many of the least directions hold at most this share of the trace."""
        cumulated = self.values.cumsum(0)
        # The last digits of a sum must not decide about a direction.
        return int((cumulated <= share * (1 + 1e-9) * cumulated[-1:]).sum())

    def leak(self, dimensions: int) -> float:
        """Return the share of the trace that the least directions hold."""
        total = float(self.values.sum())
        return float(self.values[:dimensions].sum()) / total if total else 0.0


def spectrum(moment: torch.Tensor) -> Spectrum:
    """Return the eigen-decomposition of a second moment (m, m): seconds for m = 1,536, O(m³).

    Raises:
        EditorError: it holds numbers that are not finite, or does not converge.
    """
    _square(moment)
    if not moment.isfinite().all():
        raise EditorError("the second moment holds numbers that are not finite; measure it again")
    try:
        values, vectors = torch.linalg.eigh(moment.detach().double())
    except torch.linalg.LinAlgError as error:
        raise EditorError("the second moment's eigen-decomposition did not converge") from error
    return Spectrum(values.clamp(min=0), vectors)


@dataclass(frozen=True)
class NullSpace:
    """Directions that ordinary keys hardly use; P = basis @ basisᵀ projects on them.

    Attributes:
        basis: (m, q) orthonormal columns.
        leak: the share of ordinary keys' energy that is in them, E‖Pk‖² / E‖k‖².
    """

    basis: torch.Tensor
    leak: float

    @property
    def dimensions(self) -> int:
        return self.basis.shape[1]

    def projection(self) -> torch.Tensor:
        """Return P (m, m), symmetric and idempotent."""
        return self.basis @ self.basis.T

    def coordinates(self, keys: torch.Tensor) -> torch.Tensor:
        """Return keys (m, n) in the space's own coordinates, (q, n)."""
        return self.basis.T @ keys.to(self.basis)

    def preserving(self, damping: float, earlier: torch.Tensor | None = None) -> Factor:
        """Return the factor of αI + K_pK_pᵀ in the space's coordinates, (q, q).

        ``damping`` is α; ``earlier`` the keys K_p (m, n) of edits so far. For later batches,
        ``including(coordinates(keys))`` adds theirs.
        """
        _positive("the damping", damping)
        size = self.dimensions
        start = damping * torch.eye(size, dtype=torch.float64, device=self.basis.device)
        factor = Factor(start, start / math.sqrt(damping))
        return factor if earlier is None else factor.including(self.coordinates(earlier))


def null_space(of: Spectrum | torch.Tensor, share: float) -> NullSpace:
    """Return the widest space that holds at most ``share`` of ordinary keys' energy.

    A share of the trace and not an absolute eigenvalue: what is small depends on the model
    (methods.md L6: 0.001 to 0.01).

    Args:
        of: a second moment, or its spectrum where that is at hand.
        share: 0 gives the exact null space, 1 everything.
    """
    if not 0 <= share <= 1:
        raise EditorError(f"the null space's share is between 0 and 1, not {share}")
    found = of if isinstance(of, Spectrum) else spectrum(of)
    size = found.dimensions(share)
    return NullSpace(found.vectors[:, :size], found.leak(size))


def projected(
    residuals: torch.Tensor, keys: torch.Tensor, space: NullSpace, preserved: Factor
) -> Update:
    """AlphaEdit: Δ = RKᵀP(K_pK_pᵀP + KKᵀP + αI)⁻¹, so that ΔP = Δ.

    Solved in the q coordinates of the null space, where it is symmetric: with k̃ = Uᵀk,
    Y = U(αI + K̃_pK̃_pᵀ + K̃K̃ᵀ)⁻¹K̃. ``preserved`` is what ``space.preserving`` gives.
    """
    inside = space.coordinates(keys)
    return _update(residuals, keys, space.basis @ ridge(residuals, inside, preserved, 1.0).readers)


def _readers(factor: Factor, keys: torch.Tensor, slack: float) -> torch.Tensor:
    """A⁻¹K(εI + KᵀA⁻¹K)⁻¹, (m, n)."""
    if slack < 0:
        raise EditorError(f"slack must not be negative, but is {slack}")
    keys = keys.to(factor.lower)
    whitened = factor.solve(keys)
    gram = keys.T @ whitened
    gram = (gram + gram.T) / 2
    gram.diagonal().add_(slack)
    lower = _lower(
        gram,
        f"the keys of these {keys.shape[1]} edits are linearly dependent (the same subject "
        "twice?): leave one out, or solve with slack",
    )
    return torch.cholesky_solve(whitened.T, lower).T if keys.numel() else whitened


def _update(residuals: torch.Tensor, keys: torch.Tensor, readers: torch.Tensor) -> Update:
    if residuals.shape[1] != keys.shape[1]:
        raise EditorError(
            f"{residuals.shape[1]} residuals do not belong to {keys.shape[1]} keys: "
            "both have one column an edit"
        )
    return Update(residuals.to(readers), readers)


def _lower(matrix: torch.Tensor, singular: str) -> torch.Tensor:
    """Return the Cholesky factor; say ``singular`` where there is none to working precision."""
    if not matrix.isfinite().all():
        raise EditorError("keys or their second moment hold numbers that are not finite")
    lower, info = torch.linalg.cholesky_ex(matrix)
    # A dependent row's pivot is what rounding left of its diagonal entry, and may be positive.
    pivots = lower.diagonal().square()
    if int(info) or not bool((pivots > SINGULAR * matrix.diagonal()).all()):
        raise EditorError(singular)
    return lower


def _square(matrix: torch.Tensor) -> None:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise EditorError(f"a second moment is a square matrix, not {tuple(matrix.shape)}")


def _positive(what: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise EditorError(f"{what} must be above 0, but is {value}")
