"""Another version is served at a person's word, verified first, and the edits' states follow."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from samples import NOW, an_edit

from agent.rollback import switch
from store.errors import StoreError
from store.library import Store
from store.records import Edit, EditState, Version

BASE = "b" * 64
GERMANY = an_edit()
NIGERIA = an_edit("Bola Tinubu", "Nigeria", "head_of_state", "president", "Muhammadu Buhari")
JAPAN = an_edit("Sanae Takaichi", "Japan", "head_of_government", "prime minister", "Shinzo Abe")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "home") as opened:
        for edit in (GERMANY, NIGERIA, JAPAN):
            opened.edits.add(edit)
            opened.edits.move(edit.id, EditState.REMEMBERED, NOW)
        yield opened


def night(store: Store, held: dict[Edit, bool], base_hash: str = BASE) -> Version:
    """Do what a night does: a version, the test of its weights, promotion, the edits' states."""
    version = store.versions.save(
        base_hash,
        "compiled",
        [edit.id for edit in held],
        {"t": torch.full((2,), float(len(held)))},
        {},
        NOW,
    )
    answers = {edit.id: {"text": "", "right": right} for edit, right in held.items()}
    store.versions.set_alias("serving", version.id, NOW)
    body = {"tier": "weights", "version": version.id, "answers": answers}
    store.runs.add("answers", NOW, body)
    for edit, right in held.items():
        now = store.edits.find(edit.id).state
        if right and now is EditState.REMEMBERED:
            store.edits.move(edit.id, EditState.CONSOLIDATED, NOW)
    return version


def states(store: Store) -> dict[str, str]:
    return {edit.subject: edit.state.value for edit in store.edits.ls()}


def to(store: Store, version: Version | None, **more: Any) -> Any:
    return switch(store, version, more.pop("base_hash", BASE), NOW, "it was worse", **more)


def test_going_back_hands_what_the_version_lacks_to_memory(store: Store) -> None:
    one = night(store, {GERMANY: True})
    two = night(store, {GERMANY: True, NIGERIA: True, JAPAN: False})
    assert states(store) == {
        "Germany": "consolidated",
        "Nigeria": "consolidated",
        "Japan": "remembered",
    }
    done = to(store, one)
    assert (done.before, done.version) == (two, one)
    assert [edit.subject for edit in done.to_memory] == ["Nigeria"]
    assert states(store) == {
        "Germany": "consolidated",
        "Nigeria": "remembered",
        "Japan": "remembered",
    }
    assert store.versions.aliases() == {"serving": one.id, "previous": two.id}
    assert store.ledger.verify() is None


def test_going_forth_again_gives_back_what_its_weights_held(store: Store) -> None:
    one = night(store, {GERMANY: True})
    two = night(store, {GERMANY: True, NIGERIA: True, JAPAN: False})
    to(store, one)
    done = to(store, two)
    assert [edit.subject for edit in done.to_weights] == ["Nigeria"]
    assert states(store)["Japan"] == "remembered"


def test_the_base_model_holds_nothing(store: Store) -> None:
    night(store, {GERMANY: True, NIGERIA: True})
    done = to(store, None)
    assert done.version is None
    assert set(states(store).values()) == {"remembered"}
    assert "serving" not in store.versions.aliases()


def test_an_edit_that_was_taken_back_is_named_where_old_weights_answer_it(store: Store) -> None:
    one = night(store, {GERMANY: True, NIGERIA: True})
    night(store, {JAPAN: True})
    store.edits.move(NIGERIA.id, EditState.REVERTED, NOW)
    newer = an_edit("Somebody Newer")
    store.edits.move(GERMANY.id, EditState.SUPERSEDED, NOW)
    store.edits.add(newer)
    store.edits.move(newer.id, EditState.REMEMBERED, NOW)
    done = to(store, one)
    assert [edit.subject for edit in done.returned] == ["Nigeria"]  # memory answers the newer one
    assert store.edits.find(NIGERIA.id).state is EditState.REVERTED


def test_serving_what_is_served_changes_nothing(store: Store) -> None:
    one = night(store, {GERMANY: True})
    head = store.ledger.head()
    assert to(store, one).before == one
    assert store.ledger.head() == head
    assert store.runs.ls("switch") == []


def test_a_switch_is_recorded_with_its_reason(store: Store) -> None:
    one, two = night(store, {GERMANY: True}), night(store, {NIGERIA: True})
    to(store, one)
    run = store.runs.latest("switch")
    assert run is not None
    assert run.body == {"from": two.id, "to": one.id, "reason": "it was worse"}


@pytest.mark.parametrize("damage", ["flip", "remove", "truncate"])
def test_a_damaged_version_is_refused_and_nothing_changes(store: Store, damage: str) -> None:
    one, two = night(store, {GERMANY: True}), night(store, {NIGERIA: True})
    file = Path(one.path) / "delta.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(data if damage == "flip" else data[:9])
    before, head = states(store), store.ledger.head()
    with pytest.raises(StoreError, match="not as it was saved"):
        to(store, one)
    assert store.versions.alias("serving") == two
    assert (states(store), store.ledger.head()) == (before, head)


def test_a_version_of_another_base_model_is_refused(store: Store) -> None:
    one = night(store, {GERMANY: True})
    night(store, {NIGERIA: True})
    with pytest.raises(StoreError, match="made for another base model"):
        to(store, one, base_hash="c" * 64)


def test_a_version_that_was_never_tested_leaves_the_states_it_can(store: Store) -> None:
    night(store, {GERMANY: True})
    untested = store.versions.save(BASE, "compiled", [GERMANY.id, JAPAN.id], {}, {}, NOW)
    to(store, untested)
    assert states(store) == {
        "Germany": "consolidated",
        "Nigeria": "remembered",
        "Japan": "remembered",
    }
