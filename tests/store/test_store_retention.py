"""Old versions are collected, what an alias stands for is not; two versions can be compared."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from store_samples import NOW, after

from store.errors import StoreError
from store.files import Files
from store.library import Store
from store.records import Version
from store.versions import Versions, outdated, version_id


def saved(store: Store, **changes: Any) -> Version:
    what: dict[str, Any] = {
        "base_hash": "base",
        "editor": "compiled",
        "edit_ids": ["e1"],
        "tensors": {"gate": torch.arange(4.0), "up": torch.ones(2)},
        "settings": {"steps": 40},
        "created": NOW,
    }
    return store.versions.save(**what | changes)


def night(store: Store, day: int, month: int = 11) -> Version:
    return saved(
        store, edit_ids=[f"{month}-{day}"], created=datetime(2026, month, day, 3, tzinfo=UTC)
    )


def test_the_newest_and_the_last_of_each_month_are_kept(store: Store) -> None:
    august, september, early, october = (
        night(store, *when) for when in ((1, 8), (5, 9), (1, 10), (31, 10))
    )
    november = [night(store, day) for day in (1, 2, 3, 4)]
    now = datetime(2026, 11, 5, tzinfo=UTC)
    assert (
        store.versions.outdated(2, 3, now)
        == [
            august.id,  # its month is the fourth
            early.id,  # not the last of its month
            *(version.id for version in november[:2]),
        ]
    )
    assert store.versions.collect(2, 3, now) == [
        august.id,
        early.id,
        *(version.id for version in november[:2]),
    ]
    assert store.versions.ls() == [september, october, *november[2:]]
    assert store.versions.collect(2, 3, now) == []


def test_no_months_and_few_nights_collect_nothing_too_much(store: Store) -> None:
    versions = [night(store, day) for day in (1, 2)]
    assert outdated(versions, set(), 14, 0, NOW) == []
    assert outdated(versions, set(), 1, 0, NOW) == versions[:1]
    assert outdated([], set(), 14, 12, NOW) == []


def test_what_an_alias_stands_for_is_never_collected(store: Store) -> None:
    versions = [night(store, day) for day in (1, 2, 3, 4, 5)]
    store.versions.set_alias("serving", versions[0].id, NOW)
    store.versions.set_alias("serving", versions[1].id, NOW)
    store.versions.set_alias("candidate", versions[2].id, NOW)
    assert store.versions.collect(1, 0, NOW) == [versions[3].id]
    assert store.versions.aliases() == {
        "serving": versions[1].id,
        "previous": versions[0].id,
        "candidate": versions[2].id,
    }
    assert {path.name for path in store.versions.root.iterdir()} == {
        version.id for version in (*versions[:3], versions[4])
    }


def test_collecting_is_in_the_ledger(store: Store) -> None:
    versions = [night(store, day) for day in (1, 2)]
    store.versions.collect(1, 0, after(days=1))
    (entry,) = store.ledger.entries(kind="version.collected")
    assert (entry.body, entry.at) == ({"id": versions[0].id}, after(days=1))
    assert store.ledger.verify() is None


def test_a_collected_version_can_be_made_again(store: Store) -> None:
    first, _ = night(store, 1), night(store, 2)
    store.versions.collect(1, 0, NOW)
    with pytest.raises(StoreError, match="no version begins with"):
        store.versions.load(first.id)
    assert night(store, 1).id == first.id
    assert store.versions.load(first.id).keys() == {"gate", "up"}


class Stubborn(Files):
    """A disk on which nothing can be removed."""

    def remove(self, path: Path) -> None:
        raise OSError(5, "Input/output error", str(path))


def test_a_version_that_cannot_be_removed_is_unknown_all_the_same(store: Store) -> None:
    first, second = night(store, 1), night(store, 2)
    stubborn = Versions(store.database, store.ledger, store.versions.root, Stubborn())
    with pytest.raises(StoreError, match=r"cannot be removed in .*Input/output.*check the disk"):
        stubborn.collect(1, 0, NOW)
    assert store.versions.ls() == [second]
    assert not (store.versions.root / first.id).exists()
    assert len(store.versions.sweep()) == 1
    assert [path.name for path in store.versions.root.iterdir()] == [second.id]


def test_a_name_is_an_alias_or_the_beginning_of_an_id(store: Store) -> None:
    version = saved(store)
    store.versions.set_alias("serving", version.id, NOW)
    assert store.versions.find("serving") == store.versions.find(version.id[:6]) == version
    assert store.versions.find("base") is store.versions.find("previous") is None
    with pytest.raises(StoreError, match="no version begins with"):
        store.versions.find("nightly")


def test_previous_stands_for_the_base_once_the_base_was_served_before(store: Store) -> None:
    one, two = saved(store), saved(store, editor="other")
    for id in (one.id, two.id, None, one.id):
        store.versions.set_alias("serving", id, NOW)
    assert store.versions.aliases() == {"serving": one.id}


def test_a_diff_names_edits_tensors_and_settings(store: Store) -> None:
    old = saved(store, edit_ids=["e1", "e2"])
    new = saved(
        store,
        edit_ids=["e2", "e3"],
        tensors={"gate": torch.arange(4.0) + 1, "down": torch.ones(2)},
        settings={"steps": 50, "batch": 2},
        base_hash="other",
    )
    found = store.versions.diff(old, new)
    assert (found.edits_added, found.edits_removed) == (("e3",), ("e1",))
    assert (found.tensors_added, found.tensors_removed) == (("down",), ("up",))
    assert found.tensors_changed == ("gate",)
    assert found.settings_changed == ("batch", "steps")
    assert found.base_changed
    back = store.versions.diff(new, old)
    assert (back.edits_added, back.tensors_added) == (("e1",), ("up",))


@pytest.mark.parametrize(
    "other", [torch.arange(4.0).reshape(2, 2), torch.arange(4, dtype=torch.int32), -torch.zeros(4)]
)
def test_a_tensor_of_another_shape_type_or_sign_is_changed(
    store: Store, other: torch.Tensor
) -> None:
    plain = {"t": torch.zeros(4) if other.dtype == torch.float32 and not other.any() else None}
    old = saved(store, tensors={"t": plain["t"] if plain["t"] is not None else torch.arange(4.0)})
    assert store.versions.diff(old, saved(store, tensors={"t": other})).tensors_changed == ("t",)


def test_a_version_and_itself_do_not_differ_and_the_base_has_nothing(store: Store) -> None:
    version = saved(store)
    same = store.versions.diff(version, version)
    assert not any(vars(same).values())
    from_base = store.versions.diff(None, version)
    assert (from_base.edits_added, from_base.tensors_added) == (("e1",), ("gate", "up"))
    assert not from_base.base_changed
    assert not any(vars(store.versions.diff(None, None)).values())


def test_a_damaged_version_is_not_compared(store: Store) -> None:
    version = saved(store)
    (Path(version.path) / "delta.safetensors").write_bytes(b"")
    with pytest.raises(StoreError, match="not as it was saved"):
        store.versions.diff(None, version)


def test_an_id_is_known_before_anything_is_saved(store: Store) -> None:
    what = {
        "base_hash": "base",
        "editor": "compiled",
        "edit_ids": ["e2", "e1"],
        "tensors": {"t": torch.ones(1)},
        "settings": {"steps": 40},
    }
    id = version_id(**what)  # type: ignore[arg-type]  # one mapping for both calls
    assert not store.versions.root.exists()
    assert saved(store, **what).id == id
