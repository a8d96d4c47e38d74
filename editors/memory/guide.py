"""Guided decoding: the object of a fact is written as it is spelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from editors.memory.scope import Fact

if TYPE_CHECKING:
    import torch

    from editors.model import ChatModel


def lead(fact: Fact) -> str:
    """Return the statement up to its object ("The chancellor of Germany is")."""
    return fact.statement.partition(fact.new)[0].strip()


class ObjectGuide:
    """Writes the object's tokens where the answer comes to its object, then ends the answer:
    what a small model adds after a name that it was told is rarely true.

    The object is due where the answer has just repeated the statement's lead ("The
    chancellor of Germany is"), or where the model is about to write the first token of the
    new object or of a former one. ``opened`` says that the lead is already written.
    """

    def __init__(self, model: ChatModel, fact: Fact, opened: bool = False) -> None:
        self._model = model
        self._stop = min(model.stop_ids)
        self._lead = lead(fact).casefold()
        ended = fact.new if fact.new.endswith(".") else f"{fact.new}."
        self._spaced = model.encode_answer(f" {ended}")
        self._bare = model.encode_answer(ended)
        self._due = opened
        self._queue: list[int] = []
        self._written = False
        names = {part for name in fact.former if name for part in (name, name.split()[-1])}
        names -= {fact.new}
        self._former = {model.encode_answer(f" {name}")[0] for name in names}
        self._former_bare = {model.encode_answer(name)[0] for name in names}

    def choose(self, generated: Sequence[int], logits: torch.Tensor) -> int:
        if self._queue:
            return self._queue.pop(0)
        if self._written:
            return self._stop
        text = self._model.decode(generated)
        if self._due or (self._lead and text.casefold().rstrip().endswith(self._lead)):
            return self._write(self._spaced)
        if not self._lead and not generated:  # the statement is the bare object
            return self._write(self._bare)
        token = int(logits.argmax())
        if token in {self._spaced[0], *self._former}:
            return self._write(self._spaced)
        if token in {self._bare[0], *self._former_bare}:
            # In the middle of a word a name would be no name.
            return self._write(self._spaced if text[-1:].isalnum() else self._bare)
        return token

    def _write(self, tokens: list[int]) -> int:
        self._written = True
        self._queue = list(tokens[1:])
        return tokens[0]
