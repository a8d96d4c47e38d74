"""Versions are content-addressed and immutable; what was changed on disk is refused."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from store_samples import NOW, after

from store.errors import StoreError
from store.library import Store
from store.records import Version, dumps

TENSORS = {"layer.24.up": torch.arange(6, dtype=torch.float32).reshape(2, 3), "b": torch.ones(1)}


def saved(store: Store, **changes: Any) -> Version:
    what: dict[str, Any] = {
        "base_hash": "base",
        "editor": "replay",
        "edit_ids": ["e2", "e1"],
        "tensors": TENSORS,
        "settings": {"epochs": 3},
        "created": NOW,
    }
    return store.versions.save(**what | changes)


def folder_of(version: Version) -> Path:
    return Path(version.path)


def test_tensors_come_back_bit_for_bit(store: Store) -> None:
    odd = {"nan": torch.tensor([float("nan"), -0.0]), "half": torch.ones(2, dtype=torch.bfloat16)}
    version = saved(store, tensors=odd)
    loaded = store.versions.load(version)
    assert loaded.keys() == odd.keys()
    assert loaded["half"].dtype == torch.bfloat16
    for name, tensor in odd.items():
        assert torch.equal(loaded[name].view(torch.uint8), tensor.view(torch.uint8))


def test_strided_and_shared_tensors_can_be_saved(store: Store) -> None:
    table = torch.arange(6.0).reshape(2, 3)
    version = saved(store, tensors={"a": table.T, "b": table, "c": table[0].requires_grad_()})
    assert torch.equal(store.versions.load(version)["a"], table.T)


def test_an_empty_version_is_the_base(store: Store) -> None:
    version = saved(store, tensors={}, edit_ids=[])
    assert store.versions.load(version) == {}


def test_the_id_depends_on_the_content_and_not_on_time_or_order(store: Store) -> None:
    version = saved(store)
    again = saved(store, created=after(days=1), edit_ids=["e1", "e2"])
    assert again == version
    assert (again.created, again.edit_ids) == (NOW, ("e1", "e2"))
    others = [
        saved(store, base_hash="other"),
        saved(store, editor="other"),
        saved(store, edit_ids=["e1"]),
        saved(store, settings={"epochs": 4}),
        saved(store, tensors={"b": torch.zeros(1)}),
    ]
    assert len({version.id, *(other.id for other in others)}) == 6
    assert store.versions.ls() == [version, *others]
    assert len(list(store.ledger.entries(kind="version.saved"))) == 6


def test_a_version_is_found_by_a_unique_prefix(store: Store) -> None:
    version = saved(store)
    assert store.versions.get(version.id[:5]) == version
    assert store.versions.load(version.id[:5]).keys() == TENSORS.keys()
    with pytest.raises(StoreError, match="no version begins with"):
        store.versions.get("zz")


def test_a_home_may_move(tmp_path: Path) -> None:
    with Store(tmp_path / "old") as store:
        version = saved(store)
    shutil.move(tmp_path / "old", tmp_path / "new")
    with Store(tmp_path / "new") as store:
        assert store.versions.get(version.id).path == str(tmp_path / "new/versions" / version.id)
        assert store.versions.load(version.id).keys() == TENSORS.keys()


def flip(name: str, position: int) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = bytearray((folder / name).read_bytes())
        data[position] ^= 1
        (folder / name).write_bytes(data)

    return damage


def truncate(folder: Path) -> None:
    os.truncate(folder / "delta.safetensors", 20)


def add_a_pickle(folder: Path) -> None:
    (folder / "delta.bin").write_bytes(pickle.dumps({"b": 1}))


def replace_by_a_pickle(folder: Path) -> None:
    (folder / "delta.safetensors").write_bytes(pickle.dumps({"b": 1}))


def remove_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def remove_the_folder(folder: Path) -> None:
    shutil.rmtree(folder)


DAMAGES = [
    flip("delta.safetensors", -1),
    flip("delta.safetensors", 0),
    flip("manifest.json", 1),
    flip("manifest.json", -2),
    truncate,
    add_a_pickle,
    replace_by_a_pickle,
    remove_the_manifest,
    remove_the_folder,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_version_is_refused_and_mended_by_saving_it_again(
    store: Store, damage: Callable[[Path], None]
) -> None:
    version = saved(store)
    damage(folder_of(version))
    with pytest.raises(StoreError, match=f"version {version.id} is not as it was saved"):
        store.versions.load(version)
    assert saved(store) == version
    assert store.versions.load(version).keys() == TENSORS.keys()


def test_another_versions_manifest_and_tensors_are_refused(store: Store) -> None:
    version, other = saved(store), saved(store, tensors={"b": torch.zeros(1)})
    shutil.copy(folder_of(other) / "manifest.json", folder_of(version))
    shutil.copy(folder_of(other) / "delta.safetensors", folder_of(version))
    with pytest.raises(StoreError, match=r"manifest\.json was changed"):
        store.versions.load(version)


def test_a_crash_before_the_commit_leaves_nothing_that_counts(store: Store) -> None:
    def crash() -> None:
        with store.begin() as conn:
            saved(store, conn=conn)
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        crash()
    assert store.versions.ls() == []
    (store.versions.root / ".unfinished-x").mkdir()
    kept = saved(store, editor="other")
    assert len(store.versions.sweep()) == 2
    assert [path.name for path in store.versions.root.iterdir()] == [kept.id]
    assert store.versions.sweep() == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "versions").write_text("in the way")
    with Store(tmp_path) as store:
        with pytest.raises(StoreError, match="cannot be written"):
            saved(store)
        assert store.versions.ls() == []


def test_serving_moves_and_previous_keeps_where_it_was(store: Store) -> None:
    one, two = saved(store), saved(store, editor="other")
    assert store.versions.alias("serving") is None
    store.versions.set_alias("serving", one.id, NOW)
    assert store.versions.aliases() == {"serving": one.id}
    store.versions.set_alias("serving", two.id[:6], after(hours=1))
    store.versions.set_alias("serving", two.id, after(hours=2))  # no move
    assert store.versions.alias("serving") == two
    assert store.versions.alias("previous") == one
    moves = list(store.ledger.entries(kind="version.alias"))
    assert [(move.body["from"], move.body["to"]) for move in moves] == [
        (None, one.id),
        (one.id, two.id),
    ]


def test_an_alias_can_be_taken_away(store: Store) -> None:
    version = saved(store)
    store.versions.set_alias("serving", version.id, NOW)
    assert store.versions.set_alias("serving", None, NOW) is None
    assert store.versions.aliases() == {"previous": version.id}


def test_an_alias_on_an_unknown_version_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="no version begins with"):
        store.versions.set_alias("serving", "ffff", NOW)


def test_settings_that_are_no_json_are_refused_before_anything_is_written(store: Store) -> None:
    with pytest.raises(TypeError):
        saved(store, settings={"tensor": torch.ones(1)})
    assert not store.versions.root.exists()
    assert dumps(saved(store).settings) == '{"epochs":3}'
