"""The rows that recall heads are solved on: readings laid out by what they are for. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from editors.memory.recall_lines import Line, reading_of
from editors.memory.states import States
from editors.requests import EditRequest

_Places = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Neuron:
    """One token that one edit writes after the same beginning.

    Attributes:
        rows: where it is to be written.
        edited: which of ``rows``, by their number there, the request asks itself.
        first: whether the answer begins with it; ``bare``: at once, without a lead; ``opening``:
            and a reply with it.
    """

    edit: int
    token: int
    first: bool
    bare: bool
    opening: bool
    rows: tuple[int, ...]
    edited: tuple[int, ...]


@dataclass(frozen=True)
class Rows:
    """All readings of some edits, float32.

    Attributes:
        query, inner: (rows, hidden) of every place that is read in an answer or before one.
        scale: (rows,) root mean square of the stream there.
        since: (rows,) tokens from the subject's last one to there, -1 where it is not spelled.
        edit: (rows,) whose line it is; ``wording``: which of ``wordings`` it asks in, -1: none.
        asked: where an edit's fact is asked for and answered; ``own``: by the request itself;
            ``later``: behind the answer's first token; ``bare``: without a lead; ``opening``:
            where a reply begins with the answer; ``beside``: where something else is asked of the
            subject; ``past``: the same at another time.
        neurons: what is to be written, and on which rows.
        named, states: (namings, hidden) of the subjects' last tokens, at the flags' MLP and in the
            head's layer; ``spread`` (namings,) the stream's root mean square there; ``owner``
            (namings,) the subject.
        lookalikes: (n, hidden) the same as ``named`` of other names.
        subjects: all of them; ``subject_of``: of each edit the number.
    """

    query: torch.Tensor
    inner: torch.Tensor
    scale: torch.Tensor
    since: torch.Tensor
    edit: torch.Tensor
    wording: torch.Tensor
    asked: torch.Tensor
    own: torch.Tensor
    later: torch.Tensor
    bare: torch.Tensor
    opening: torch.Tensor
    beside: torch.Tensor
    past: torch.Tensor
    neurons: tuple[Neuron, ...]
    named: torch.Tensor
    states: torch.Tensor
    spread: torch.Tensor
    owner: torch.Tensor
    lookalikes: torch.Tensor
    subjects: tuple[str, ...]
    subject_of: tuple[int, ...]
    wordings: tuple[str, ...]

    def alike(self, same: torch.Tensor, edit: int) -> torch.Tensor:
        """Return (edits,) bool: which ask what one edit asks, itself among them; ``same`` (rows,)
        is where that is asked."""
        alike = torch.zeros(len(self.subject_of), dtype=torch.bool)
        alike[self.edit[same & self.own]] = True
        alike[edit] = True
        return alike

    def apart(self) -> list[torch.Tensor]:
        """Return by neuron the rows of the same subject where another token is to be written.

        A code tells of the subject alone; which of its edits is asked for, the place must tell.
        """
        together: dict[int, list[Neuron]] = {}
        for neuron in self.neurons:
            together.setdefault(self.subject_of[neuron.edit], []).append(neuron)
        found = []
        for neuron in self.neurons:
            around = together[self.subject_of[neuron.edit]]
            others = [one for one in around if one.token != neuron.token]
            rows = {row for other in others for row in other.rows} - set(neuron.rows)
            found.append(torch.tensor(sorted(rows), dtype=torch.long))
        return found


def rows_of(
    requests: Sequence[EditRequest], lines: Sequence[Sequence[Line]], states: States
) -> Rows:
    """Lay out the readings of the requests' lines."""
    subjects = tuple(dict.fromkeys(request.subject for request in requests))
    number = {subject: at for at, subject in enumerate(subjects)}
    texts = sorted({line.wording for some in lines for line in some} - {""})
    wordings = {text: at for at, text in enumerate(texts)}
    query, inner, scale, named, read, alike = [], [], [], [], [], []
    spread: list[float] = []
    owner: list[int] = []
    marks: list[tuple[int, int, int, bool, bool, bool, bool, bool, bool, bool]] = []
    places: dict[tuple[int, tuple[int, ...], tuple[bool, bool] | None], _Places] = {}
    for edit, some in enumerate(lines):
        for line in some:
            found = reading_of(line, states.of(line))
            if line.kind == "lookalike":
                assert found.flag is not None  # a lookalike is always spelled
                alike.append(found.flag)
                continue
            if found.flag is not None and found.state is not None:
                named.append(found.flag)
                read.append(found.state)
                spread.append(found.spread)
                owner.append(number[requests[edit].subject])
            if line.kind == "named":
                continue
            asked = line.kind == "asked"
            begin = len(line.ids) - line.count
            for place in range(len(line.targets)):
                tail = line.targets[place:]
                rows, edited = places.setdefault(
                    (edit, tail, None if place else (line.bare, line.opening)), ([], [])
                )
                if line.own:
                    edited.append(len(rows))
                rows.append(len(marks) + place)
            marks += [
                (
                    begin + place - line.subject if line.subject is not None else -1,
                    edit,
                    wordings.get(line.wording, -1),
                    asked,
                    line.own,
                    asked and place > 0,
                    line.bare,
                    line.opening and place == 0,
                    line.kind in ("beside", "reply", "past"),
                    line.kind == "past",
                )
                for place in range(line.count)
            ]
            query.append(found.query)
            inner.append(found.inner)
            scale.append(found.scale)
    columns = [torch.tensor(column) for column in zip(*marks, strict=True)]
    since, edits, wording, *flags = columns
    asked_, own, later, bare, opening, beside, past = flags
    return Rows(
        torch.cat(query),
        torch.cat(inner),
        torch.cat(scale),
        since,
        edits,
        wording,
        asked_,
        own,
        later,
        bare,
        opening,
        beside,
        past,
        tuple(
            Neuron(edit, tail[0], bool(how), *(how or (False, False)), tuple(rows), tuple(edited))
            for (edit, tail, how), (rows, edited) in places.items()
        ),
        torch.stack(named),
        torch.stack(read),
        torch.tensor(spread),
        torch.tensor(owner),
        torch.stack(alike) if alike else torch.zeros(0, query[0].shape[1]),
        subjects,
        tuple(number[request.subject] for request in requests),
        tuple(texts),
    )


def spread(rows: torch.Tensor, most: int) -> torch.Tensor:
    """Return at most so many rows, evenly over all."""
    if len(rows) <= most:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, most).long()]
