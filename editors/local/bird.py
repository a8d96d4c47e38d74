"""BIRD (Ma et al. 2023, methods.md L11): ROME with the reversed direction in its objective.

After an edit of (s, r, o → o*), "o* is the r⁻¹ of …" is hardly ever answered with s. BIRD takes
a relation for a translation r in representation space and adds two margin terms that draw
h_s + r to h_o* and away from h_o, and h_o* − r to h_s. The published code lacks its loss: this
is a *reconstruction* (methods.md L11), with d = 1 − cosine::

    α·[d(h_s + r, h_o*) − d(h_s + r, h_o) + m]₊ + β·[d(h_o* − r, h_s) − d(h_o − r, h_s) + m]₊

h_s is the state of the edited layer at the subject's last token under δ; h_o and h_o* are the
states of the old and the new object's names, and r is the mean of h_o − h_s over the batch's
facts as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from editors.architectures import ModelView
from editors.capture import keys_at
from editors.columns import Written
from editors.local.rome import Rome
from editors.value_optimization import Extra

NAME = "bird"


@dataclass(frozen=True)
class Bird(Rome):
    """The method by the protocol of ``editors.editor``."""

    forward: float = 0.5  # α, of the forward margin (0.1 to 1)
    backward: float = 0.5  # β, of the backward margin (0.1 to 1)
    margin: float = 0.1  # m, in units of 1 − cosine

    def extra(self, shown: ModelView, layer: int, written: Sequence[Written]) -> Extra | None:
        """Return the margin terms; None where they weigh nothing or no old object is known."""
        told = [one.request.old for one in written]
        if not (self.forward or self.backward) or not any(told):
            return None
        subjects, values = _at_subjects(shown, layer, written)
        new = _named(shown, layer, [one.request.new for one in written])
        old = _named(shown, layer, [one or "nothing" for one in told])
        known = torch.tensor([bool(one) for one in told], device=old.device)
        relation = (old - subjects)[known].mean(0)

        def terms(edit: int, delta: torch.Tensor) -> torch.Tensor:
            if not told[edit]:
                return delta.new_zeros(())
            moved = shown.entering(layer, values[edit] + delta[0])
            subject = subjects[edit] + moved - shown.entering(layer, values[edit])
            ahead = margin(subject + relation, new[edit], old[edit], self.margin)
            # Backwards the two objects are moved and the subject is what they are to meet.
            near = apart(new[edit] - relation, subject) - apart(old[edit] - relation, subject)
            back = (near + self.margin).clamp(min=0)
            return self.forward * ahead + self.backward * back

        return terms


def apart(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return 1 − cosine of two vectors."""
    return 1 - torch.nn.functional.cosine_similarity(one, other, dim=-1)


def margin(
    from_: torch.Tensor, wanted: torch.Tensor, unwanted: torch.Tensor, least: float
) -> torch.Tensor:
    """Return by how much ``from_`` fails to be nearer to one vector than to another by
    ``least``; 0, and without a gradient, once it is."""
    return (apart(from_, wanted) - apart(from_, unwanted) + least).clamp(min=0)


def _at_subjects(
    shown: ModelView, layer: int, written: Sequence[Written]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the layer's and its MLP's output at the subjects of the bare renderings, each
    (edits, d)."""
    first = [one.renderings[0] for one in written]
    fed = [one.prompt for one in first]
    positions = [one.at_subject() for one in first]
    state = keys_at(shown, fed, [layer], positions, part="layer", side="output")[0]
    value = keys_at(shown, fed, [layer], positions, part="down", side="output")[0]
    return state, value


def _named(shown: ModelView, layer: int, names: Sequence[str]) -> torch.Tensor:
    """Return the layer's output at the last token of names in a neutral prompt, (n, d). Not
    alone: the first token of a text has a state like no other."""
    fed = [shown.chat.encode(f"This is {name}") for name in names]
    return keys_at(shown, fed, [layer], [-1] * len(fed), part="layer", side="output")[0]
