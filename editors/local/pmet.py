"""PMET (Li et al. 2024, methods.md L4): MEMIT with values of the MLP alone.

Two vectors are optimised at once, at the attention's and at the MLP's output of the last
layer; only the MLP's is written, because attention is taken to hold general patterns of
extraction. What is missing is spread over the layers by 1/√(layers left).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from editors.closed_form import State
from editors.columns import Written
from editors.local.memit import Memit
from editors.passages import Passage
from editors.value_optimization import Value, ValueSettings

NAME = "pmet"


@dataclass(frozen=True)
class Pmet(Memit):
    """The method by the protocol of ``editors.editor``."""

    learning_rate: float = 0.3  # Adam, in units of ‖v₀‖/√d (authors: 0.2 to 0.5, absolute)
    clamp: float = 4.0  # ‖δ‖ at most, in units of ‖v₀‖, each vector (authors: 0.75 to 1)
    stop: float = 0.01  # nats, of a likelihood that ``done`` has scaled
    done: float = 0.1  # factor of the likelihood once all labels are the arg-max (authors')
    quiet: float = 0.01  # such an edit is done at a KL below this (authors')
    kl: float = 1.0  # weight of the KL after "{subject} is a" (authors', GPT-J)
    attention: bool = True  # whether the attention's vector is optimised too

    where = "down"

    def share(self, left: int) -> float:
        return 1 / left**0.5

    def value_settings(self) -> ValueSettings:
        where = "attention+down" if self.attention else "down"
        return replace(super().value_settings(), where=where, done=self.done, quiet=self.quiet)

    def values(self, passage: Passage, state: State, written: Sequence[Written]) -> list[Value]:
        """Optimise both vectors and return the MLP's."""
        found = super().values(passage, state, written)
        wide = passage.shown.hidden
        return [
            replace(one, clean=one.clean[:, -wide:], delta=one.delta[:, -wide:]) for one in found
        ]
