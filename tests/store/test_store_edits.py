"""The edit queue: legal moves only, leases that run out, and a ledger entry for each change."""

import pytest
from store_samples import GERMANY, NOW, after, an_edit

from store.edits import TRANSITIONS
from store.errors import StoreError
from store.library import Store
from store.records import Edit, EditState, Slot


def move_to(store: Store, edit: Edit, state: EditState) -> None:
    """Bring a queued edit to a state by legal moves."""
    ways = {
        EditState.QUEUED: [],
        EditState.CONSOLIDATED: [EditState.REMEMBERED, EditState.CONSOLIDATED],
        EditState.REVERTED: [EditState.REMEMBERED, EditState.REVERTED],
        EditState.PROPOSED: [EditState.SUPERSEDED, EditState.PROPOSED],
    }
    for step in ways.get(state, [state]):
        store.edits.move(edit.id, step, NOW)


def test_an_edit_is_kept_once(store: Store) -> None:
    edit = an_edit()
    assert store.edits.add(edit)
    assert not store.edits.add(an_edit(state=EditState.PROPOSED))
    assert store.edits.get(edit.id) == edit
    assert store.edits.get("unknown") is None
    assert store.edits.ls() == [edit]
    assert store.edits.ls(EditState.PROPOSED, EditState.PARKED) == []


def test_an_edit_is_found_by_a_unique_prefix(store: Store) -> None:
    store.edits.add(an_edit(id="abc1"))
    store.edits.add(an_edit(id="abd2"))
    store.edits.add(an_edit(id="ab"))
    assert store.edits.find("abc").id == "abc1"
    assert store.edits.find("ab").id == "ab"
    assert store.edits.move("abd", EditState.REJECTED, NOW).id == "abd2"
    for prefix in ("", "x", "%", "_b"):
        with pytest.raises(StoreError, match="no edit begins with"):
            store.edits.find(prefix)
    store.edits.add(an_edit(id="abc2"))
    with pytest.raises(StoreError, match="ambiguous"):
        store.edits.find("abc")


@pytest.mark.parametrize("start", EditState)
def test_only_listed_transitions_are_possible(store: Store, start: EditState) -> None:
    for end in EditState:
        edit = an_edit(f"{start} to {end}")
        store.edits.add(edit)
        move_to(store, edit, start)
        if end in TRANSITIONS[start]:
            moved = store.edits.move(edit.id, end, after(hours=1), "because")
            assert (moved.state, moved.reason, moved.updated) == (end, "because", after(hours=1))
            assert store.edits.get(edit.id) == moved
        else:
            with pytest.raises(StoreError, match=rf"is {start} and cannot become {end}; it can"):
                store.edits.move(edit.id, end, NOW)
            assert store.edits.find(edit.id).state is start


def test_the_open_edit_of_a_slot_is_the_newest_that_waits_or_is_in_force(store: Store) -> None:
    assert store.edits.open_for(GERMANY) is None
    first, second = an_edit("1"), an_edit("2")
    store.edits.add(first)
    store.edits.move(first.id, EditState.REMEMBERED, NOW)
    store.edits.add(second)
    opened = store.edits.open_for(Slot("GERMANY", GERMANY.relation))
    assert opened is not None
    assert opened.id == second.id
    store.edits.move(second.id, EditState.PARKED, NOW)
    opened = store.edits.open_for(GERMANY)
    assert opened is not None
    assert opened.id == first.id
    store.edits.move(first.id, EditState.SUPERSEDED, NOW)
    assert store.edits.open_for(GERMANY) is None


def test_leases_go_to_the_oldest_edit_that_is_free(store: Store) -> None:
    first, second = an_edit("1"), an_edit("2")
    for edit in (an_edit("0", EditState.PROPOSED), first, second):
        store.edits.add(edit)
    assert store.edits.lease("a", NOW) == first
    assert store.edits.lease("b", NOW) == second
    assert store.edits.lease("c", NOW) is None


def test_a_lease_lasts_as_long_as_it_is_renewed(store: Store) -> None:
    edit = an_edit()
    store.edits.add(edit)
    store.edits.lease("a", NOW, seconds=30)
    store.edits.heartbeat(edit.id, "a", after(seconds=25), seconds=30)
    assert store.edits.lease("b", after(seconds=54)) is None
    taken = store.edits.lease("b", after(seconds=55))
    assert taken is not None
    assert (taken.id, taken.attempts, taken.reason) == (edit.id, 1, "worker a stopped")
    with pytest.raises(StoreError, match="not leased to a"):
        store.edits.heartbeat(edit.id, "a", after(seconds=56))
    with pytest.raises(StoreError, match="not leased to a"):
        store.edits.fail(edit.id, "a", after(seconds=56), "too late")
    with pytest.raises(StoreError, match="not leased to a"):
        store.edits.release(edit.id, "a")


def test_a_failed_edit_is_tried_again_and_then_parked(store: Store) -> None:
    edit = an_edit()
    store.edits.add(edit)
    states = []
    for _ in range(3):
        store.edits.lease("a", NOW)
        states.append(store.edits.fail(edit.id, "a", NOW, "no convergence", limit=3).state)
    assert states == [EditState.QUEUED, EditState.QUEUED, EditState.PARKED]
    parked = store.edits.find(edit.id)
    assert (parked.attempts, parked.reason) == (3, "no convergence")
    assert store.edits.lease("a", NOW) is None
    assert store.edits.move(edit.id, EditState.QUEUED, NOW).attempts == 0


def test_an_edit_that_kills_its_workers_is_parked_and_the_queue_flows_on(store: Store) -> None:
    poison, healthy = an_edit("poison"), an_edit("healthy")
    store.edits.add(poison)
    store.edits.add(healthy)
    leased = [store.edits.lease("w", after(minutes=minute), seconds=30) for minute in range(4)]
    assert [edit.id for edit in leased if edit] == [poison.id] * 3 + [healthy.id]
    assert store.edits.find(poison.id).state is EditState.PARKED


def test_a_released_edit_is_free_and_has_not_failed(store: Store) -> None:
    edit = an_edit()
    store.edits.add(edit)
    store.edits.lease("a", NOW)
    store.edits.release(edit.id, "a")
    assert store.edits.lease("b", NOW) == edit


def test_moving_an_edit_ends_its_lease(store: Store) -> None:
    edit = an_edit()
    store.edits.add(edit)
    store.edits.lease("a", NOW)
    store.edits.move(edit.id, EditState.REMEMBERED, NOW)
    with pytest.raises(StoreError, match="not leased"):
        store.edits.heartbeat(edit.id, "a", NOW)


def test_every_change_is_in_the_ledger(store: Store) -> None:
    edit = an_edit()
    store.edits.add(edit)
    store.edits.lease("a", NOW)
    store.edits.fail(edit.id, "a", after(minutes=1), "no convergence")
    store.edits.move(edit.id, EditState.REMEMBERED, after(minutes=2))
    added, failed, moved = store.ledger.entries()
    assert (added.kind, added.body["edit"]["new"]) == ("edit.added", "Friedrich Merz")
    assert (failed.kind, failed.body["attempts"]) == ("edit.moved", 1)
    assert (moved.body["from"], moved.body["to"], moved.at) == (
        "queued",
        "remembered",
        after(minutes=2),
    )
    assert store.ledger.verify() is None


def test_a_refused_move_leaves_no_entry(store: Store) -> None:
    edit = an_edit()
    store.edits.add(edit)
    before = store.ledger.head()
    with pytest.raises(StoreError):
        store.edits.move(edit.id, EditState.CONSOLIDATED, NOW)
    assert store.ledger.head() == before


def test_a_slots_edits_are_listed_in_every_state_oldest_first(store: Store) -> None:
    for edit in (an_edit(id="a1"), an_edit(id="b2"), an_edit(id="c3", subject="France")):
        store.edits.add(edit)
    store.edits.move("a1", EditState.REJECTED, NOW)
    found = store.edits.of_slot(GERMANY)
    assert [(edit.id, edit.state) for edit in found] == [
        ("a1", EditState.REJECTED),
        ("b2", EditState.QUEUED),
    ]
