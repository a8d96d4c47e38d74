"""The append-only, hash-chained record of what was changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from store.database import Database, stamp
from store.records import LedgerEntry, dumps

GENESIS = "0" * 64
"""What the first entry names as its predecessor."""

_COLUMNS = ("seq", "at", "kind", "body", "previous", "digest")
_ledger = sa.table("ledger", *map(sa.column, _COLUMNS))
_head = sa.table("ledger_head", *map(sa.column, ("id", "entries", "digest")))


class Ledger:
    """Entries numbered from 1, each sealed by a SHA-256 over itself and its predecessor.

    Number and digest of the last entry are kept apart, so that a cut-off end shows too.
    Whoever can rewrite the whole chain and the head can still forge it: keep a copy of
    :meth:`head` elsewhere where that matters.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(
        self, kind: str, body: Mapping[str, Any], at: datetime, conn: Connection | None = None
    ) -> LedgerEntry:
        """Add an entry, in the transaction of ``conn`` where one is given."""
        return self.append_all([(kind, body)], at, conn)[0]

    def append_all(
        self,
        entries: Sequence[tuple[str, Mapping[str, Any]]],
        at: datetime,
        conn: Connection | None = None,
    ) -> list[LedgerEntry]:
        """Add entries of one moment, each with its kind and body, in their order."""
        if not entries:
            return []
        made, rows, moment = [], [], stamp(at)
        with self._database.begin(conn) as own:
            # The lock on the head keeps two writers from taking the same number.
            head = own.execute(sa.select(_head).with_for_update()).one()
            seq, previous = head.entries, head.digest
            for kind, body in entries:
                seq, text = seq + 1, dumps(body)
                seal = _seal(seq, moment, kind, text, previous)
                row = (seq, moment, kind, text, previous, seal)
                rows.append(dict(zip(_COLUMNS, row, strict=True)))
                made.append(LedgerEntry(seq, at, kind, json.loads(text), previous, seal))
                previous = seal
            own.execute(_ledger.insert(), rows)
            own.execute(_head.update().values(entries=seq, digest=previous))
        return made

    def verify(self) -> int | None:
        """Return the number of the first entry that is not as it was written, or None.

        A missing last entry is reported under the number it had.
        """
        with self._database.read() as conn:
            head = conn.execute(sa.select(_head)).one_or_none()
            previous, expected = GENESIS, 1
            for row in conn.execute(sa.select(_ledger).order_by(_ledger.c.seq)):
                seal = _seal(row.seq, row.at, row.kind, row.body, previous)
                if (row.seq, row.previous, row.digest) != (expected, previous, seal):
                    return min(row.seq, expected)
                previous, expected = seal, expected + 1
        kept = expected - 1
        count, seal = (head.entries, head.digest) if head is not None else (0, GENESIS)
        if count != kept:
            return min(count, kept) + 1
        return None if seal == previous else max(kept, 1)

    def entries(self, start: int = 0, kind: str | None = None) -> Iterator[LedgerEntry]:
        """Yield the entries from number ``start`` on, oldest first."""
        query = sa.select(_ledger).where(_ledger.c.seq >= start).order_by(_ledger.c.seq)
        if kind is not None:
            query = query.where(_ledger.c.kind == kind)
        with self._database.read() as conn:
            for row in conn.execute(query):
                yield _entry(row)

    def head(self) -> LedgerEntry | None:
        """Return the last entry."""
        with self._database.read() as conn:
            row = conn.execute(sa.select(_ledger).order_by(_ledger.c.seq.desc()).limit(1)).first()
        return None if row is None else _entry(row)


def _seal(seq: int, at: str, kind: str, body: str, previous: str) -> str:
    return hashlib.sha256(dumps([seq, at, kind, body, previous]).encode()).hexdigest()


def _entry(row: Row[Any]) -> LedgerEntry:
    return LedgerEntry(
        row.seq,
        datetime.fromisoformat(row.at),
        row.kind,
        json.loads(row.body),
        row.previous,
        row.digest,
    )
