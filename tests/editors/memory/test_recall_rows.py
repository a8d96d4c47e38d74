"""How the rows of recall heads are laid out."""

from __future__ import annotations

import dataclasses

from recall_samples import some_rows

from editors.memory.recall_rows import Neuron


def test_what_is_written_for_one_subject_is_apart_from_its_other_edits() -> None:
    """Their code is the same: only the place tells which of them is asked for."""
    first = Neuron(0, 7, True, True, False, (0, 1), (0,))
    other = Neuron(1, 8, True, True, False, (4, 5), (0,))
    alike = Neuron(1, 7, True, True, False, (6,), (0,))  # the same token does no harm
    rows = dataclasses.replace(some_rows(), neurons=(first, other, alike))
    assert [found.tolist() for found in rows.apart()] == [[4, 5], [0, 1, 6], [4, 5]]
    two = dataclasses.replace(rows, subjects=("Germany", "Kenya"), subject_of=(0, 1))
    assert [found.tolist() for found in two.apart()] == [[], [6], [4, 5]]
