"""A database of every earlier schema opens, is brought up to date, and keeps what it holds."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from make_fixture import FIXTURES, write
from store_samples import GERMANY, NOW, a_claim, after, same_name

from store.library import Store
from store.migrations import MIGRATIONS
from store.records import EditState

DATABASES = sorted(FIXTURES.glob("schema_*.db"))


@pytest.fixture(params=DATABASES, ids=lambda path: path.stem)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    shutil.copy(request.param, tmp_path / "corrigenda.db")
    with Store(tmp_path) as store:
        yield store


def schema(path: Path) -> set[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as conn:
        return set(conn.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))


def test_every_released_schema_has_its_fixture() -> None:
    numbers = range(1, len(MIGRATIONS) + 1)
    assert [path.name for path in DATABASES] == [f"schema_{number}.db" for number in numbers]


def test_an_old_database_ends_with_the_schema_of_a_new_one(old: Store, tmp_path: Path) -> None:
    with Store(tmp_path / "new"):
        pass
    assert schema(tmp_path / "corrigenda.db") == schema(tmp_path / "new" / "corrigenda.db")


def test_the_present_schema_is_that_of_its_fixture(tmp_path: Path) -> None:
    """A schema that was changed without a migration would show here."""
    write(tmp_path / "now.db")
    assert schema(tmp_path / "now.db") == schema(DATABASES[-1])


def test_everything_an_old_database_holds_can_be_listed(old: Store) -> None:
    assert [document.url for document in old.documents.ls()] == ["https://news.example/1"]
    assert len(old.claims.ls()) == 3
    assert [fact.object for fact in old.facts.history(GERMANY)] == [
        "Olaf Scholz",
        "Friedrich Merz",
        "Jane Doe",
    ]
    assert [fact.object for fact in old.facts.as_of(GERMANY, "2026-11-05", known_on=NOW)] == [
        "Friedrich Merz"
    ]
    assert [edit.state.value for edit in old.edits.ls()] == ["remembered", "rejected", "queued"]
    assert [verdict.believed for verdict in old.verdicts.ls()] == ["Angela Merkel"]
    assert [state.etag for state in old.feeds.ls()] == ['"1"']
    assert [run.kind for run in old.runs.ls()] == ["cycle"]
    assert old.versions.aliases() == {"serving": old.versions.ls()[0].id}
    assert old.ledger.verify() is None
    assert old.database.check() is None


def test_an_old_database_can_be_worked_with(old: Store) -> None:
    before = old.ledger.head()
    assert before is not None
    assert old.edits.lease("b", after(minutes=5)) is not None  # the old lease has run out
    old.facts.assimilate([a_claim("John Roe", "2026-11-20")], same_name, after(days=20))
    (edit,) = old.edits.ls(EditState.REMEMBERED)
    old.edits.move(edit.id, EditState.REVERTED, after(days=21))
    head = old.ledger.head()
    assert head is not None
    assert head.seq == before.seq + 3
    assert old.ledger.verify() is None
