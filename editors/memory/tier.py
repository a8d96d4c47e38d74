"""The memory tier: an approved edit is answered at once, the weights untouched.

A question in scope of an edit is asked with the fact in the system message, and decoding
is guided along the object's tokens once the answer reaches it, because a small model
misspells names that it was told (design.md §4). A question out of scope never meets the
tier, so removing an edit restores the unedited answers exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from store.records import Edit, Reply

if TYPE_CHECKING:
    import torch

    from editors.model import ChatModel


@dataclass(frozen=True)
class Answered:
    """A reply and the edit that the memory tier used for it, if any."""

    reply: Reply
    edit_id: str | None = None

    @property
    def text(self) -> str:
        return self.reply.text


@dataclass
class MemoryTier:
    """Remembered edits by slot key.

    ``scope`` maps a question to the key of the slot that it asks for, or None.
    """

    scope: Callable[[str], str | None]
    edits: dict[str, Edit] = field(default_factory=dict)

    def remember(self, edit: Edit) -> None:
        """Answer ``edit``'s slot from now on; an earlier edit of the slot is replaced."""
        self.edits[edit.slot.key] = edit

    def forget(self, edit: Edit) -> None:
        """Stop answering ``edit``; does nothing when another edit holds its slot."""
        if self.edits.get(edit.slot.key, edit).id == edit.id:
            self.edits.pop(edit.slot.key, None)

    def match(self, question: str) -> Edit | None:
        """Return the edit in whose scope a question lies."""
        if not self.edits:
            return None
        key = self.scope(question)
        return self.edits.get(key) if key else None

    def answer(
        self,
        model: ChatModel,
        questions: Sequence[str],
        *,
        max_new_tokens: int = 48,
        progress: Callable[[int], None] | None = None,
    ) -> list[Answered]:
        """Answer questions, each with the edit it falls under or as the bare model would."""
        edits = [self.match(question) for question in questions]
        replies = model.answer(
            questions,
            systems=[told(model, edit) if edit else None for edit in edits],
            guides=[ObjectGuide(model, edit) if edit else None for edit in edits],
            max_new_tokens=max_new_tokens,
            progress=progress,
        )
        missed = [i for i, e in enumerate(edits) if e and e.new not in replies[i].text]
        if missed:  # the answer never came to its object: begin it with the statement
            again = model.answer(
                [questions[i] for i in missed],
                systems=[told(model, edits[i]) for i in missed],
                guides=[ObjectGuide(model, edits[i], opened=True) for i in missed],
                starts=[_lead(edits[i]) for i in missed],
                max_new_tokens=max_new_tokens,
            )
            for i, reply in zip(missed, again, strict=True):
                replies[i] = reply
        return [
            Answered(reply, edit.id if edit else None)
            for reply, edit in zip(replies, edits, strict=True)
        ]


def told(model: ChatModel, edit: Edit | None) -> str | None:
    """Return the system message that tells the model an edit's fact."""
    if edit is None:
        return None
    default = model.default_system()
    return f"{default}\nThis is up to date: {edit.statement}".strip()


class ObjectGuide:
    """Writes the object's tokens where the answer comes to its object, then ends the answer:
    what a small model adds after a name that it was told is rarely true.

    The object is due where the answer has just repeated the statement's lead ("The
    chancellor of Germany is"), or where the model is about to write the first token of the
    new object or of a former one. ``opened`` says that the lead is already written.
    """

    def __init__(self, model: ChatModel, edit: Edit | None, opened: bool = False) -> None:
        if edit is None:
            raise ValueError("a guide needs an edit")
        self._model = model
        self._stop = min(model.stop_ids)
        self._lead = _lead(edit).casefold()
        ended = edit.new if edit.new.endswith(".") else f"{edit.new}."
        self._spaced = model.encode_answer(f" {ended}")
        self._bare = model.encode_answer(ended)
        self._due = opened
        self._queue: list[int] = []
        self._written = False
        former = [name for name in (edit.old, *edit.former) if name]
        names = {part for name in former for part in (name, name.split()[-1])} - {edit.new}
        self._former = {model.encode_answer(f" {name}")[0] for name in names}
        self._former_bare = {model.encode_answer(name)[0] for name in names}

    def choose(self, generated: Sequence[int], logits: torch.Tensor) -> int:
        if self._queue:
            return self._queue.pop(0)
        token = int(logits.argmax())
        if self._written:
            return self._stop
        text = self._model.decode(generated).casefold().rstrip()
        if self._due or text.endswith(self._lead):
            return self._write(self._spaced)
        if token in {self._spaced[0], *self._former}:
            return self._write(self._spaced)
        if token in {self._bare[0], *self._former_bare}:
            return self._write(self._bare)
        return token

    def _write(self, tokens: list[int]) -> int:
        self._written = True
        self._queue = list(tokens[1:])
        return tokens[0]


def _lead(edit: Edit | None) -> str:
    """Return the statement up to its object ("The chancellor of Germany is")."""
    if edit is None:
        return ""
    return edit.statement.partition(edit.new)[0].strip()
