"""The shape of every editing method: prepare once, compute deltas, keep state between batches.

Computing a delta never changes the model (editors.deltas applies and reverts). A method is a frozen
dataclass of its settings with these three methods, in a file of its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from editors.deltas import EditDelta
from editors.model import ChatModel
from editors.question_embeddings import Embed
from editors.requests import EditRequest


@dataclass(frozen=True)
class Resources:
    """What methods may need beside the model.

    Attributes:
        texts: ordinary text, for key statistics and for what must not change.
        cache: folder in which what belongs to one model is kept (None: nowhere).
        seed: of everything random in a method.
        step: called now and then in long work, with the steps done and their number.
        embed: compares questions in memories of texts (None: by the model's own states).
    """

    texts: Sequence[str] = ()
    cache: Path | None = None
    seed: int = 0
    step: Callable[[int, int], None] = lambda done, of: None
    embed: Embed | None = None


class Editor(Protocol):
    """One editing method with its settings.

    A method whose settings depend on the model may have a class variable ``tunable``: by setting
    the values that `corrigenda editors tune` tries beside the default, in order.
    """

    stacks: ClassVar[bool]
    """Whether a batch's delta is applied upon those before it. Otherwise each delta carries all
    requests so far and replaces the one before (``edit`` is given them all)."""

    def prepare(self, model: ChatModel, resources: Resources) -> Any:
        """Return the state that the first ``edit`` needs: statistics, projections, or None.

        Raises EditorError where the model or the resources do not allow it.
        """
        ...

    def edit(self, model: ChatModel, state: Any, requests: Sequence[EditRequest]) -> EditDelta:
        """Return the change that makes the model say what the requests ask.

        The model is the same after the call as before it. Raises EditorError.
        """
        ...

    def settled(self, model: ChatModel, state: Any, requests: Sequence[EditRequest]) -> Any:
        """Return the state for the next batch, once this one's delta is applied to ``model``."""
        ...
