"""Faults at every nth write: what was served goes on being served, and the error is named."""

import errno
import os
import resource
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import torch
from store_samples import NOW, a_claim, a_document, an_edit, same_name

from store.errors import StoreError
from store.files import Files
from store.library import Store
from store.versions import Versions

OLD = {"t": torch.zeros(3)}
NEW = {"t": torch.ones(3)}


class FaultyFiles(Files):
    """A disk whose nth operation fails, and with ``lasting`` every one after it."""

    def __init__(self, nth: int, code: int, lasting: bool) -> None:
        self.nth, self.code, self.lasting = nth, code, lasting
        self.done = 0

    def _count(self) -> None:
        self.done += 1
        if self.done == self.nth or (self.lasting and self.done > self.nth):
            raise OSError(self.code, os.strerror(self.code))

    def temporary(self, root: Path, prefix: str) -> Path:
        self._count()
        return super().temporary(root, prefix)

    def write(self, path: Path, data: bytes) -> None:
        path.write_bytes(data[: len(data) // 2])  # what fails may have been half done
        self._count()
        super().write(path, data)

    def sync(self, path: Path) -> None:
        self._count()
        super().sync(path)

    def rename(self, path: Path, target: Path) -> None:
        self._count()
        super().rename(path, target)

    def remove(self, path: Path) -> None:
        self._count()
        super().remove(path)


def save(versions: Versions, tensors: dict[str, torch.Tensor]) -> str:
    return versions.save("base", "compiled", ["e1"], tensors, {}, NOW).id


def faulty(store: Store, nth: int, code: int, lasting: bool = False) -> Versions:
    files = FaultyFiles(nth, code, lasting)
    return Versions(store.database, store.ledger, store.versions.root, files)


STEPS = 8  # a folder made; two files written and synced; two folders synced; one rename


def test_a_save_has_as_many_steps_as_these_tests_make_fail(store: Store) -> None:
    files = FaultyFiles(0, errno.EIO, False)
    save(Versions(store.database, store.ledger, store.versions.root, files), NEW)
    assert files.done == STEPS


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize(
    ("code", "remedy"),
    [(errno.ENOSPC, "No space left.*free some space"), (errno.EIO, "Input/output error.*disk")],
    ids=["no space", "I/O error"],
)
@pytest.mark.parametrize("nth", range(1, STEPS + 1))
def test_a_save_that_fails_leaves_the_old_version_serving(
    store: Store, nth: int, code: int, remedy: str, lasting: bool
) -> None:
    old = save(store.versions, OLD)
    store.versions.set_alias("serving", old, NOW)
    before = store.ledger.head()
    with pytest.raises(StoreError, match=rf"version \w+ cannot be written in .*{remedy}") as caught:
        save(faulty(store, nth, code, lasting), NEW)
    assert "\n" not in str(caught.value)
    serving = store.versions.alias("serving")
    assert serving is not None
    assert torch.equal(store.versions.load(serving)["t"], OLD["t"])
    assert [version.id for version in store.versions.ls()] == [old]
    assert store.ledger.head() == before
    # Once there is room again, the same save succeeds, and a sweep leaves nothing else.
    new = save(store.versions, NEW)
    store.versions.sweep()
    assert {path.name for path in store.versions.root.iterdir()} == {old, new}
    assert torch.equal(store.versions.load(new)["t"], NEW["t"])


@pytest.mark.parametrize("nth", range(1, 6))
def test_a_damaged_folder_whose_repair_fails_is_still_refused(store: Store, nth: int) -> None:
    version = save(store.versions, OLD)
    (store.versions.root / version / "delta.safetensors").write_bytes(b"short")
    with pytest.raises(StoreError, match="cannot be written"):
        save(faulty(store, nth, errno.EIO), OLD)
    with pytest.raises(StoreError, match="not as it was saved"):
        store.versions.load(version)
    assert save(store.versions, OLD) == version
    assert store.versions.load(version).keys() == OLD.keys()


def everything(store: Store, number: int) -> None:
    """One transaction over all that a cycle writes, large enough to need new pages."""
    document = a_document(f"https://news.example/{number}", "x" * 20_000)
    with store.begin() as conn:
        store.documents.add(document, conn)
        claims = [a_claim("Friedrich Merz", "2025-05-06", document_id=document.id)]
        store.facts.assimilate(claims, same_name, NOW, conn=conn)
        store.edits.add(an_edit(str(number)), conn)


def state(store: Store) -> tuple[Any, ...]:
    return (
        store.documents.ls(),
        store.claims.ls(),
        store.facts.ls(),
        store.edits.ls(),
        store.ledger.head(),
    )


@pytest.mark.parametrize("spare", range(12))
def test_a_full_database_keeps_what_it_has_and_says_so(store: Store, spare: int) -> None:
    everything(store, 0)
    with store.database.read() as conn:
        most = conn.exec_driver_sql("PRAGMA page_count").scalar_one() + spare

    def limit(connection: Any, _record: object, _proxy: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {most}").close()

    sa.event.listen(store.database.engine, "checkout", limit)
    said, before = "", state(store)
    for number in range(1, 6):
        before = state(store)
        try:
            everything(store, number)
        except StoreError as error:
            said = str(error)
            break
    assert "corrigenda.db cannot be written" in said
    assert "full" in said
    assert state(store) == before
    assert store.database.check() is None
    assert store.ledger.verify() is None


def test_a_database_file_that_cannot_grow_keeps_what_it_has(store: Store) -> None:
    """The system refuses the nth write itself, wherever in the log or the database it falls."""
    everything(store, 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    said = []
    for number, size in enumerate(range(60_000, 400_000, 20_000), start=1):
        before = state(store)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            everything(store, number)
        except StoreError as error:
            said.append(str(error))
            assert state(store) == before
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert store.ledger.verify() is None
    assert said
    assert all("corrigenda.db cannot be written" in line for line in said)
    assert store.database.check() is None
