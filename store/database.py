"""One relational database behind all repositories: SQLite by default, others by URL."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, event
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, ProgrammingError

from store.errors import StoreError
from store.migrations import MIGRATIONS

_version = sa.table("schema_version", sa.column("version"), sa.column("applied"))

_VERSION_TABLE = (
    "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY, applied TEXT NOT NULL)"
)

_CHUNK = 500  # values in one IN (...) list; databases limit them


class Database:
    """An open database whose schema is up to date. Make one with :func:`open_database`."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine

    @contextmanager
    def begin(self, conn: Connection | None = None) -> Iterator[Connection]:
        """Run a writing transaction, or join the one of ``conn``.

        On SQLite the write lock is taken at the start, so that what is read inside stays
        true until the commit. Raises StoreError when the database cannot be used.
        """
        if conn is not None:
            yield conn
            return
        with _readable_errors(self.engine), self.engine.begin() as own:
            yield own

    @contextmanager
    def read(self, conn: Connection | None = None) -> Iterator[Connection]:
        """Like :meth:`begin`, for transactions that only read: they never wait for writers."""
        if conn is not None:
            yield conn
            return
        with _readable_errors(self.engine), self.engine.connect() as own:
            own.execution_options(corrigenda_reading=True)
            yield own

    def check(self) -> str | None:
        """Return what is damaged in the database file, or None where nothing is known to be."""
        if self.engine.dialect.name != "sqlite":
            return None
        with self.read() as conn:
            found = conn.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
        return None if found == "ok" else str(found)

    def close(self) -> None:
        self.engine.dispose()


def open_database(
    url: str, migrations: Sequence[Callable[[Connection], None]] = MIGRATIONS
) -> Database:
    """Open a database and bring its schema up to date, one transaction a migration.

    Raises StoreError for a database that is newer than this program, damaged, locked,
    or cannot be written.
    """
    try:
        engine = sa.create_engine(url)
    except (ArgumentError, ImportError) as error:
        raise StoreError(
            f"database URL {url.split('://')[0]}://… cannot be used ({error}); "
            "write sqlite:///PATH or install the driver it names"
        ) from error
    if engine.dialect.name == "sqlite":
        _prepare_sqlite(engine)
    database = Database(engine)
    try:
        _migrate(database, migrations)
    except BaseException:
        engine.dispose()
        raise
    return database


def sqlite_url(path: Path) -> str:
    """Return the URL of a SQLite file, making its folder. Raises StoreError if it cannot."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"folder {path.parent} cannot be made ({error.strerror}); choose another home"
        ) from error
    return f"sqlite:///{path}"


def stamp(at: datetime) -> str:
    """Return a moment as text that sorts by time. Raises ValueError for a naive one."""
    if at.tzinfo is None:
        raise ValueError("a moment without a time zone cannot be stored")
    return at.astimezone(UTC).isoformat()


def chunks(values: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield values in parts that a database takes as parameters of one statement."""
    for start in range(0, len(values), _CHUNK):
        yield values[start : start + _CHUNK]


def known_ids(conn: Connection, table: sa.TableClause, ids: Sequence[str]) -> set[str]:
    """Return which of ``ids`` a table already holds."""
    found: set[str] = set()
    for part in chunks(ids):
        found.update(conn.scalars(sa.select(table.c.id).where(table.c.id.in_(part))))
    return found


def resolve(conn: Connection, table: sa.TableClause, prefix: str, what: str) -> str:
    """Return the id that a unique prefix stands for.

    Raises StoreError when none or several begin with it.
    """
    query = sa.select(table.c.id).where(table.c.id.startswith(prefix, autoescape=True))
    found = list(conn.scalars(query.order_by(table.c.id).limit(3))) if prefix else []
    if prefix in found or len(found) == 1:
        return prefix if prefix in found else str(found[0])
    if not found:
        raise StoreError(f"no {what} begins with {prefix!r}; list them to see their ids")
    raise StoreError(
        f"{what} {prefix!r} is ambiguous ({', '.join(found)}, …); write more of the id"
    )


def _migrate(database: Database, migrations: Sequence[Callable[[Connection], None]]) -> None:
    with database.read() as conn:
        done = _applied(conn)
    if done > len(migrations):
        raise StoreError(
            f"database {_name(database.engine)} has schema {done}, this program knows "
            f"{len(migrations)}; upgrade corrigenda or use another home"
        )
    while done < len(migrations):
        # The number is read again in the transaction that raises it: two programs that
        # start at once must not both apply the same migration.
        with database.begin() as conn:
            if (done := _applied(conn)) < len(migrations):
                conn.execute(sa.text(_VERSION_TABLE))
                migrations[done](conn)
                moment = stamp(datetime.now(UTC))
                conn.execute(_version.insert().values(version=done + 1, applied=moment))
                done += 1


def _applied(conn: Connection) -> int:
    if not sa.inspect(conn).has_table("schema_version"):
        return 0
    return conn.scalar(sa.select(sa.func.max(_version.c.version))) or 0


def _prepare_sqlite(engine: sa.Engine) -> None:
    def connected(connection: sqlite3.Connection, _record: Any) -> None:
        # The driver's own transaction handling starts too late (at the first write);
        # switched off, the "begin" event below decides.
        connection.isolation_level = None
        for pragma in (
            "busy_timeout = 30000",
            "journal_mode = WAL",
            "synchronous = FULL",  # in WAL mode a lesser setting can lose commits on power loss
            "foreign_keys = ON",
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    def beginning(connection: Connection) -> None:
        reading = connection.get_execution_options().get("corrigenda_reading")
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", beginning)


@contextmanager
def _readable_errors(engine: sa.Engine) -> Iterator[None]:
    """Turn failures of the database itself into one readable line; our own mistakes pass."""
    try:
        yield
    except (IntegrityError, ProgrammingError):
        raise
    except DBAPIError as error:
        raise StoreError(_explain(engine, str(error.orig))) from error
    except sqlite3.Error as error:  # raised while connecting, before SQLAlchemy sees it
        raise StoreError(_explain(engine, str(error))) from error


def _explain(engine: sa.Engine, reason: str) -> str:
    name, reason = _name(engine), " ".join(reason.split())
    if "not a database" in reason or "malformed" in reason:
        return f"database {name} is damaged ({reason}); restore it from a backup or move it away"
    if "locked" in reason:
        return f"database {name} is locked by another program; wait or stop that program"
    if any(word in reason for word in ("readonly", "unable to open", "full", "I/O error")):
        return f"database {name} cannot be written ({reason}); check its folder's rights and space"
    return f"database {name} failed ({reason}); run `corrigenda doctor`"


def _name(engine: sa.Engine) -> str:
    """Return the file of a SQLite database, else the URL with its password masked."""
    sqlite = engine.dialect.name == "sqlite"
    return (engine.url.database or "in memory") if sqlite else repr(engine.url)
