"""The database opens, migrates, refuses what it cannot use, and keeps transactions whole."""

import sqlite3
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from store_samples import NOW, a_claim, a_document, an_edit, same_name

from store.database import open_database, sqlite_url, stamp
from store.errors import StoreError
from store.library import Store
from store.migrations import MIGRATIONS


def test_a_blank_home_gets_the_whole_schema(tmp_path: Path) -> None:
    with Store(tmp_path / "new" / "home") as store, store.database.read() as conn:
        tables = set(sa.inspect(conn).get_table_names())
        version = conn.scalar(sa.text("SELECT max(version) FROM schema_version"))
    assert {"documents", "claims", "facts", "verdicts", "edits", "ledger", "versions"} <= tables
    assert version == len(MIGRATIONS)


def test_opening_again_migrates_nothing_and_keeps_everything(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.documents.add(a_document())
    with Store(tmp_path) as store:
        assert store.documents.count() == 1
        with store.database.read() as conn:
            rows = conn.scalar(sa.text("SELECT count(*) FROM schema_version"))
    assert rows == len(MIGRATIONS)


def test_a_later_migration_runs_once_on_an_earlier_database(tmp_path: Path) -> None:
    def add_notes(conn: sa.Connection) -> None:
        conn.execute(sa.text("CREATE TABLE notes (text TEXT)"))

    url = sqlite_url(tmp_path / "c.db")
    open_database(url).close()
    for _ in range(2):
        database = open_database(url, [*MIGRATIONS, add_notes])
        with database.read() as conn:
            assert sa.inspect(conn).has_table("notes")
        database.close()


def test_a_migration_that_fails_leaves_no_trace(tmp_path: Path) -> None:
    def half(conn: sa.Connection) -> None:
        conn.execute(sa.text("CREATE TABLE notes (text TEXT)"))
        raise RuntimeError("power cut")

    url = sqlite_url(tmp_path / "c.db")
    open_database(url).close()
    with pytest.raises(RuntimeError, match="power cut"):
        open_database(url, [*MIGRATIONS, half])
    database = open_database(url)
    with database.read() as conn:
        assert not sa.inspect(conn).has_table("notes")
    database.close()


def test_a_database_from_a_newer_program_is_refused(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "c.db")
    open_database(url, [*MIGRATIONS, lambda conn: None]).close()
    with pytest.raises(StoreError, match="upgrade corrigenda"):
        open_database(url)


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "corrigenda.db"
    file.write_bytes(b"this is a shopping list, not a database\n" * 100)
    with pytest.raises(StoreError, match=r"corrigenda\.db is damaged.*restore"):
        Store(tmp_path)
    assert file.read_bytes().startswith(b"this is a shopping list")


def test_damaged_pages_are_found_by_the_check(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for number in range(200):
            store.documents.add(a_document(f"https://news.example/{number}"))
        assert store.database.check() is None
    file = tmp_path / "corrigenda.db"
    data = bytearray(file.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 8192] = b"\xff" * 8192
    file.write_bytes(data)
    with Store(tmp_path) as store:
        try:
            found = store.database.check()
        except StoreError as error:
            found = str(error)
    assert found


def test_a_place_that_cannot_hold_a_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be made"):
        Store(tmp_path / "file" / "home")
    (tmp_path / "corrigenda.db").mkdir()
    with pytest.raises(StoreError, match=r"corrigenda\.db cannot be written"):
        Store(tmp_path)


def test_a_url_without_a_driver_is_refused_without_showing_its_password() -> None:
    with pytest.raises(StoreError, match="driver") as caught:
        open_database("nosuchbase://me:secret@localhost/db")
    assert "secret" not in str(caught.value)


def test_sqlite_is_set_up_to_survive_power_loss(store: Store) -> None:
    with store.database.read() as conn:
        values = [
            conn.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    assert values == ["wal", 2, 1, 30000]  # synchronous 2 is FULL


def test_one_transaction_over_several_repositories_is_all_or_nothing(store: Store) -> None:
    def change_everything() -> None:
        with store.begin() as conn:
            store.documents.add(a_document(), conn)
            store.facts.assimilate(
                [a_claim("Friedrich Merz", "2025-05-06")], same_name, NOW, conn=conn
            )
            store.edits.add(an_edit(), conn)
            store.runs.add("cycle", NOW, {}, conn)
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        change_everything()
    assert store.documents.count() == store.claims.count() == store.facts.count() == 0
    assert store.edits.ls() == []
    assert store.runs.ls() == []
    assert store.ledger.head() is None
    assert store.ledger.verify() is None


def test_readers_do_not_wait_for_a_writer(store: Store) -> None:
    with store.begin() as conn:
        store.documents.add(a_document(), conn)
        assert store.documents.count() == 0  # another connection: the state before
    assert store.documents.count() == 1


def test_writers_from_many_threads_lose_nothing(store: Store) -> None:
    def write(worker: int) -> None:
        for number in range(5):
            store.ledger.append("test", {"worker": worker, "number": number}, NOW)

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    head = store.ledger.head()
    assert head is not None
    assert head.seq == 20
    assert store.ledger.verify() is None


def test_a_lasting_lock_is_reported_as_such(store: Store) -> None:
    other = sqlite3.connect(store.home / "corrigenda.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    def shorten(connection: sqlite3.Connection, _record: object, _proxy: object) -> None:
        connection.execute("PRAGMA busy_timeout = 50").close()

    sa.event.listen(store.database.engine, "checkout", shorten)
    with pytest.raises(StoreError, match="locked by another program"):
        store.documents.add(a_document())
    other.execute("ROLLBACK")
    other.close()
    assert store.documents.add(a_document())


def test_a_naive_moment_is_no_moment() -> None:
    with pytest.raises(ValueError, match="time zone"):
        stamp(NOW.replace(tzinfo=None))
