"""The store on a real PostgreSQL server, started here where one is installed."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
import torch
from make_fixture import fill
from store_samples import GERMANY, NOW, a_claim, a_document, after, an_edit, same_name

from store.database import open_database
from store.errors import StoreError
from store.library import Store
from store.migrations import MIGRATIONS
from store.records import EditState, Reply


def programs() -> Path | None:
    """The folder of the server's programs; Debian keeps it off the path."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


def unprivileged() -> str | None:
    """A user for the server, which refuses to be run by root; None: we are no root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of an empty server, without the name of a database."""
    pytest.importorskip("psycopg", reason="psycopg is not installed (the extra 'postgres')")
    bin = programs()
    if bin is None:
        pytest.skip("no PostgreSQL server is installed (Debian: apt-get install postgresql)")
    user = unprivileged()
    folder = Path(tempfile.mkdtemp(prefix="corrigenda-postgres-"))  # pytest's own is closed to it
    if user:
        shutil.chown(folder, user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"user": user, "cwd": folder, "capture_output": True, "text": True, "check": True}

    def run(program: str, *arguments: str) -> None:
        subprocess.run([str(bin / program), *arguments], **common)  # type: ignore[call-overload]  # one mapping for all

    data = str(folder / "data")
    settings = f"-c listen_addresses=127.0.0.1 -p {port} -c unix_socket_directories={folder}"
    try:
        run("initdb", "-D", data, "-U", "tester", "-A", "trust", "-E", "UTF8", "--no-sync")
        run("pg_ctl", "-D", data, "-w", "-l", f"{folder}/log", "-o", settings, "start")
        yield f"postgresql+psycopg://tester@127.0.0.1:{port}/"
    finally:
        if Path(data, "postmaster.pid").exists():
            run("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture
def url(server: str, request: pytest.FixtureRequest) -> str:
    """The URL of a database of the test's own."""
    name = f"t{abs(hash(request.node.name))}"
    engine = sa.create_engine(f"{server}postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as conn:
        conn.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return f"{server}{name}"


@pytest.fixture
def store(url: str, tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "home", url) as opened:
        yield opened


def test_everything_can_be_kept_listed_and_verified(store: Store, tmp_path: Path) -> None:
    fill(store)
    with Store(tmp_path / "lite") as lite:
        fill(lite)
        assert store.documents.ls() == lite.documents.ls()
        assert store.claims.ls() == lite.claims.ls()
        assert store.facts.ls() == lite.facts.ls()
        assert store.facts.digest() == lite.facts.digest()
        assert store.facts.as_of(GERMANY, "2026-11-05", NOW) == lite.facts.as_of(
            GERMANY, "2026-11-05", NOW
        )
        assert store.edits.ls() == lite.edits.ls()
        assert store.verdicts.ls() == lite.verdicts.ls()
        assert store.feeds.ls() == lite.feeds.ls()
        assert store.runs.ls() == lite.runs.ls()
        assert store.versions.aliases() == lite.versions.aliases()
        kinds = [entry.kind for entry in store.ledger.entries()]
        assert kinds == [entry.kind for entry in lite.ledger.entries()]
    assert store.ledger.verify() is None
    assert store.database.check() is None
    assert not (store.home / "corrigenda.db").exists()


def test_opening_again_migrates_nothing(store: Store, url: str) -> None:
    store.documents.add(a_document())
    with Store(store.home, url) as again, again.database.read() as conn:
        assert again.documents.count() == 1
        assert conn.scalar(sa.text("SELECT count(*) FROM schema_version")) == len(MIGRATIONS)


def test_a_migration_that_fails_leaves_no_trace(store: Store, url: str) -> None:
    def half(conn: sa.Connection) -> None:
        conn.execute(sa.text("CREATE TABLE notes (text TEXT)"))
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        open_database(url, [*MIGRATIONS, half])
    with store.database.read() as conn:
        assert not sa.inspect(conn).has_table("notes")


def test_a_transaction_is_all_or_nothing(store: Store) -> None:
    def change_everything() -> None:
        with store.begin() as conn:
            store.documents.add(a_document(), conn)
            store.facts.assimilate([a_claim("Friedrich Merz", "2025")], same_name, NOW, conn=conn)
            store.edits.add(an_edit(), conn)
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        change_everything()
    assert store.documents.count() == store.facts.count() == 0
    assert store.ledger.head() is None


def test_an_edit_is_leased_once_and_again_when_its_lease_runs_out(store: Store) -> None:
    first, second = an_edit("1"), an_edit("2")
    for edit in (first, second):
        store.edits.add(edit)
    # A second worker passes over what the first one is just taking.
    with store.begin() as one, store.begin() as other:
        taken = store.edits.lease("a", NOW, conn=one), store.edits.lease("b", NOW, conn=other)
    assert [edit.id for edit in taken if edit] == [first.id, second.id]
    assert store.edits.lease("c", after(seconds=29)) is None
    again = store.edits.lease("c", after(seconds=30))
    assert again is not None
    assert again.attempts == 1
    assert store.edits.end_leases(lambda worker: worker == "c", after(seconds=31)) == 1


def test_writers_from_many_threads_keep_the_chain_whole(store: Store) -> None:
    def write(worker: int) -> None:
        for number in range(10):
            store.ledger.append("test", {"worker": worker, "number": number}, NOW)

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    head = store.ledger.head()
    assert head is not None
    assert head.seq == 40
    assert store.ledger.verify() is None


def test_a_changed_row_is_found(store: Store) -> None:
    for number in range(5):
        store.ledger.append("test", {"number": number}, NOW)
    with store.database.begin() as conn:
        conn.execute(sa.text("UPDATE ledger SET body = '{}' WHERE seq = 3"))
    assert store.ledger.verify() == 3


def test_versions_are_published_served_and_collected(store: Store) -> None:
    made = [
        store.versions.save("base", "compiled", [str(n)], {"t": torch.ones(n)}, {}, after(days=n))
        for n in (1, 2, 3)
    ]
    store.versions.set_alias("serving", made[0].id, NOW)
    assert store.versions.collect(1, 0, NOW) == [made[1].id]
    assert store.versions.load(made[0]).keys() == {"t"}
    assert store.versions.find(made[2].id[:6]) == made[2]


def test_refused_moves_and_wrong_prefixes_read_as_they_do_elsewhere(store: Store) -> None:
    edit = an_edit()
    store.edits.add(edit)
    with pytest.raises(StoreError, match="cannot become consolidated"):
        store.edits.move(edit.id, EditState.CONSOLIDATED, NOW)
    with pytest.raises(StoreError, match="no edit begins with"):
        store.edits.find("%")


def test_kept_answers_are_found_and_collected(store: Store) -> None:
    key = ("base", "settings", "Who?")
    for text in ("Angela Merkel.", "Olaf Scholz."):
        store.replies.put({key: Reply("Who?", text, -0.1, 3, ("x",))}, NOW)
    assert store.replies.get([key]) == {key: Reply("Who?", "Angela Merkel.", -0.1, 3, ("x",))}
    assert store.replies.collect(lambda model: False) == 1


def test_a_server_that_is_gone_is_one_readable_line(tmp_path: Path) -> None:
    pytest.importorskip("psycopg", reason="psycopg is not installed (the extra 'postgres')")
    with pytest.raises(StoreError, match="corrigenda doctor") as caught:
        Store(tmp_path, "postgresql+psycopg://me:secret@127.0.0.1:9/nothing")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
