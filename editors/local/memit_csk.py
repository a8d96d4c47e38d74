"""MEMIT_CSK (Gupta et al. 2023, methods.md L10): MEMIT for commonsense statements.

A statement "subject verb object" has no one subject whose token holds the fact: the edit may
be made at the last token of the subject, of the verb, or of the object (``span``). With the
subject it is MEMIT to the bit. The layers are a window that ends where tracing has the highest
moving average (``window_end``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from editors.local.memit import Memit
from editors.requests import EditorError

NAME = "memit_csk"


@dataclass(frozen=True)
class MemitCsk(Memit):
    """The method by the protocol of ``editors.editor``."""

    layer: float = 0.3  # the last layer of the window: share of the depth
    window: int = 3  # layers that are written (authors: 3 to 5)
    positions: str = "subject"  # at the span's last token
    span: str = "object"  # "subject", "verb" or "object", in a text as "cats eat mice"
    learning_rate: float = 0.1  # Adam, in units of ‖v₀‖/√d
    lead: bool = True  # whether the statement's words before the object are in the loss too
    stated: bool = False  # whether the statement up to its object is a plain prompt too
    average: bool = True  # one column a spot, the mean key
    neighbour_weight: float = 0.0  # how often each key of a neighbour counts as seen


def window_end(effects: Sequence[float], window: int) -> int:
    """Return the last layer of the window whose mean traced effect is the highest.

    Args:
        effects: of restoring each layer, one number a layer (causal tracing).
        window: layers in it (the authors take 3 to 5).

    Raises EditorError where there are fewer layers than the window holds.
    """
    if not 1 <= window <= len(effects):
        raise EditorError(f"a window of {window} layers does not fit into {len(effects)}")
    means = [sum(effects[at : at + window]) for at in range(len(effects) - window + 1)]
    return means.index(max(means)) + window - 1
