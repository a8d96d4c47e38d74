"""ROME and r-ROME (Meng et al. 2022; Gupta et al. 2024, methods.md L2): a rank-one edit.

The value at the subject's last token is optimised at the MLP's output; one outer product then
makes the key give the value exactly, at the least cost tr(ΔCΔᵀ). ROME whitens the mean key
over contexts but is exact at the key of the bare rendering; r-ROME takes the mean key in both
places (``symmetric``), which removes the edits that break a model.

The values of a batch are optimised together, then written one after the other, each with the
keys that the weights give by then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from editors.closed_form import ClosedForm, State
from editors.columns import Columns, delta_of
from editors.deltas import applied
from editors.linear_solve import equality_one
from editors.passages import Passage
from editors.requests import EditorError, EditRequest
from editors.value_optimization import Value

NAME = "rome"


@dataclass(frozen=True)
class Rome(ClosedForm):
    """The method by the protocol of ``editors.editor``."""

    layer: float = 0.3  # whose output matrix is written: share of the depth (GPT2-XL: 17 of 48)
    positions: str = "subject"  # there is no other
    learning_rate: float = 0.5  # Adam, in units of ‖v₀‖/√d (authors: 0.5, absolute)
    clamp: float = 10.0  # ‖δ‖ at most, in units of ‖v₀‖ (authors: 4)
    lead: bool = True  # whether the statement's words before the object are in the loss too
    stated: bool = False  # whether the statement up to its object is a plain prompt too
    average: bool = True  # there is no other
    symmetric: bool = True  # r-ROME; False: the original, exact at the bare key

    tunable: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "layer": (0.2, 0.5),
        "clamp": (4.0,),
        "learning_rate": (0.2,),
    }
    where = "down"

    def write(
        self,
        passage: Passage,
        state: State,
        requests: Sequence[EditRequest],
        columns: Columns,
        values: Sequence[Value],
    ) -> dict[str, torch.Tensor]:
        if not self.average or self.positions != "subject":
            raise EditorError("ROME writes one averaged key an edit, at the subject")
        shown, layer = passage.shown, state.layers[-1]
        name = shown.names(layer).down
        change = torch.zeros_like(shown.matrix(name), dtype=torch.float64)
        for edit, value in enumerate(values):
            with applied(shown.chat, delta_of(shown, {name: change})):
                keys = columns.places(shown, layer)
                given = columns.places(shown, layer, "down", "output")
            mean, bare = columns.mixed(keys)[:, edit], keys[columns.bare[edit]]
            now = columns.mixed(given)[:, edit] if self.symmetric else given[columns.bare[edit]]
            target = (value.clean + value.delta)[0].double()
            at = mean if self.symmetric else bare
            update = equality_one(target - now, mean, state.preserved[layer], at)
            change = change + update.dense()
        return {name: change}
