"""What an editor is asked to do: the facts to write, in the words the model uses."""

from __future__ import annotations

from dataclasses import dataclass


class EditorError(Exception):
    """An editor that cannot do what was asked; the message names what and the remedy."""


@dataclass(frozen=True)
class EditRequest:
    """One fact to write into a model.

    Attributes:
        id: identity of the edit.
        questions: phrasings to edit on, canonical one first.
        new: the new object ("Friedrich Merz").
        statement: the sentence that states it ("The chancellor of Germany is Friedrich Merz.").
        old: what the model answered so far; may be empty.
        neighbours: questions outside the edit's scope whose answers must not change.
        subject: the subject as ``questions`` and ``prompts`` spell it; methods that edit at its
            last token need it.
        prompts: plain texts that the model continues with a space and the new object ("The
            mother tongue of X is"), canonical one first. A request has questions (asked in the
            chat template) or prompts, or both.
        relation: what the fact says of its subject, as the ledger has it; "" where nobody knows.
            Wordings of two that are known and differ ask different things, however alike they
            are ("Who is the president of X?", "Who is the chancellor of X?").
    """

    id: str
    questions: tuple[str, ...]
    new: str
    statement: str
    old: str = ""
    neighbours: tuple[str, ...] = ()
    subject: str = ""
    prompts: tuple[str, ...] = ()
    relation: str = ""
