"""Filters of updates: RECT keeps only what changes most beside what is there (methods.md L7).

A filter follows any closed-form editor, matrix by matrix. It gives up exactness (the edited
key no longer reaches its value) for fewer entries touched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from editors.architectures import ModelView, view
from editors.deltas import DenseDelta
from editors.linear_solve import Update
from editors.model import ChatModel
from editors.requests import EditorError

FLOOR = 1e-6
"""Weights are taken to be no smaller than this share of their matrix's mean magnitude, so that
the change of a zero weight has a ratio too: a huge one, in the order of the changes."""


def rect(weight: torch.Tensor, change: torch.Tensor, share: float) -> torch.Tensor:
    """Return the change with only its ⌈share · n⌉ entries of largest |Δ/W|, the rest zero.

    Args:
        weight: W, of any one shape.
        change: Δ in the same shape, not changed.
        share: of entries that are kept, above 0 to 1; the released code keeps 0.2.

    Returns:
        A new tensor in the dtype of ``change``. Of equal ratios the first entries are kept.

    Raises:
        EditorError: shapes that differ, a share out of range, numbers that are not finite.
    """
    if not 0 < share <= 1:
        raise EditorError(f"the share of entries that RECT keeps is in (0, 1], not {share}")
    if weight.shape != change.shape:
        raise EditorError(
            f"a change of shape {tuple(change.shape)} is none of a matrix {tuple(weight.shape)}"
        )
    if not change.isfinite().all():
        raise EditorError("RECT was given a change with numbers that are not finite")
    # Rounded first: 0.07 · 100 is a little more than 7 in floating point.
    kept = math.ceil(round(share * change.numel(), 6))
    if kept >= change.numel():
        return change.clone()
    size = weight.detach().to(change.device, torch.float64).abs().flatten()
    floor = FLOOR * float(size.mean()) or 1.0
    ratio = change.detach().double().abs().flatten() / size.clamp(min=floor)
    least = ratio.kthvalue(len(ratio) - kept + 1).values
    mask = ratio > least
    # Ties at the least ratio that is kept fill the number up, in the order of the matrix.
    mask[(ratio == least).nonzero()[: kept - int(mask.sum()), 0]] = True
    return change * mask.view_as(change)


def rect_delta(
    model: ChatModel | ModelView, changes: Mapping[str, torch.Tensor | Update], share: float
) -> DenseDelta:
    """Return RECT of each matrix as one dense delta.

    Args:
        model: the unedited model, whose weights the changes are compared with.
        changes: by parameter name; tensors as the parameter is stored (``DenseDelta.changes``),
            low-rank updates as (out, in). The filter breaks the low rank.
        share: of entries that are kept, matrix by matrix.
    """
    shown = view(model)
    filtered = {}
    for name, change in changes.items():
        whole = shown.stored(name, change.dense()) if isinstance(change, Update) else change
        filtered[name] = rect(shown.parameter(name), whole, share)
    return DenseDelta(filtered)
