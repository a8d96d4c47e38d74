"""The verdicts on what the model believes."""

from __future__ import annotations

import json
from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy import Connection

from store.database import Database, known_ids
from store.records import Slot, Verdict, VerdictKind, dumps, from_json

_verdicts = sa.table("verdicts", *map(sa.column, ("seq", "id", "slot", "kind", "body")))


class Verdicts:
    """Every verdict that was reached; the last one of a slot is the one that counts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, verdict: Verdict, conn: Connection | None = None) -> bool:
        """Keep a verdict; return False when it is known already."""
        return self.add_all([verdict], conn) == 1

    def add_all(self, verdicts: Iterable[Verdict], conn: Connection | None = None) -> int:
        """Keep verdicts in one transaction; return how many were new."""
        given = {verdict.id: verdict for verdict in verdicts}
        with self._database.begin(conn) as own:
            known = known_ids(own, _verdicts, list(given))
            rows = [
                {
                    "id": verdict.id,
                    "slot": verdict.slot.key,
                    "kind": verdict.kind.value,
                    "body": dumps(verdict),
                }
                for verdict in given.values()
                if verdict.id not in known
            ]
            if rows:
                own.execute(_verdicts.insert(), rows)
        return len(rows)

    def get(self, id: str) -> Verdict | None:
        found = self._select(_verdicts.c.id == id)
        return found[0] if found else None

    def latest(self, slot: Slot) -> Verdict | None:
        found = self._select(_verdicts.c.slot == slot.key, _is_latest())
        return found[0] if found else None

    def ls(self, kind: VerdictKind | None = None, latest_only: bool = True) -> list[Verdict]:
        """Return verdicts, oldest first; of each slot only the last, unless told otherwise."""
        conditions = [_is_latest()] if latest_only else []
        if kind is not None:
            conditions.append(_verdicts.c.kind == kind.value)
        return self._select(*conditions)

    def counts(self, latest_only: bool = True) -> dict[str, int]:
        """Return how many verdicts there are of every kind, none left out."""
        query = sa.select(_verdicts.c.kind, sa.func.count()).group_by(_verdicts.c.kind)
        if latest_only:
            query = query.where(_is_latest())
        counts = {kind.value: 0 for kind in VerdictKind}
        with self._database.read() as conn:
            for kind, count in conn.execute(query):
                counts[kind] = count
        return counts

    def _select(self, *conditions: sa.ColumnElement[bool]) -> list[Verdict]:
        query = sa.select(_verdicts.c.body).where(*conditions).order_by(_verdicts.c.seq)
        with self._database.read() as conn:
            return [from_json(Verdict, json.loads(body)) for body in conn.scalars(query)]


def _is_latest() -> sa.ColumnElement[bool]:
    return _verdicts.c.seq.in_(sa.select(sa.func.max(_verdicts.c.seq)).group_by(_verdicts.c.slot))
