from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.queueing import approve, reject, revert
from store.errors import StoreError
from store.library import Store
from store.records import Edit, EditState

NOW = datetime(2026, 11, 2, 8, 0, tzinfo=UTC)
S = EditState


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path) as opened:
        yield opened


def waiting(store: Store, id: str, state: EditState = S.PROPOSED) -> Edit:
    edit = Edit(id, f"Land {id}", "capital", "", "Old", "New", "It is New.", (), state, NOW, NOW)
    store.edits.add(edit)
    return edit


def states(store: Store) -> dict[str, EditState]:
    return {edit.id: edit.state for edit in store.edits.ls()}


def test_approved_edits_are_queued_with_a_note_in_the_ledger(store: Store) -> None:
    waiting(store, "aa1")
    waiting(store, "bb2")
    assert [edit.id for edit in approve(store, ["aa", "bb2"], NOW)] == ["aa1", "bb2"]
    assert states(store) == {"aa1": S.QUEUED, "bb2": S.QUEUED}
    assert [entry.body["reason"] for entry in store.ledger.entries(kind="edit.moved")] == [
        "approved",
        "approved",
    ]


def test_one_bad_id_leaves_all_edits_as_they_were(store: Store) -> None:
    waiting(store, "aa1")
    waiting(store, "bb2", S.REMEMBERED)
    for bad in ("zz", "bb2"):
        with pytest.raises(StoreError):
            approve(store, ["aa1", bad], NOW)
    assert states(store) == {"aa1": S.PROPOSED, "bb2": S.REMEMBERED}


def test_an_edit_that_is_named_twice_is_moved_once(store: Store) -> None:
    waiting(store, "aa1")
    assert len(approve(store, ["aa1", "aa"], NOW)) == 1


def test_a_rejected_edit_keeps_the_reason(store: Store) -> None:
    waiting(store, "aa1")
    (edit,) = reject(store, ["aa1"], "a hoax", NOW)
    assert (edit.state, edit.reason) == (S.REJECTED, "a hoax")


@pytest.mark.parametrize("state", [S.REMEMBERED, S.CONSOLIDATED])
def test_an_edit_in_force_can_be_taken_back(store: Store, state: EditState) -> None:
    waiting(store, "aa1", state)
    (edit,) = revert(store, ["aa1"], "", NOW)
    assert (edit.state, edit.reason) == (S.REVERTED, "reverted")


def test_an_edit_not_in_force_cannot_be_taken_back(store: Store) -> None:
    waiting(store, "aa1")
    with pytest.raises(StoreError, match="is proposed and cannot become reverted"):
        revert(store, ["aa1"], "", NOW)
