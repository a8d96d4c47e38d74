"""The claims that documents make."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy import Connection

from store.database import Database, chunks, known_ids
from store.records import Claim, Slot, dumps, from_json

_claims = sa.table("claims", *map(sa.column, ("seq", "id", "slot", "document_id", "body")))


class Claims:
    """Claims with the quotes they rest on, each kept once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, claims: Iterable[Claim], conn: Connection | None = None) -> int:
        """Keep claims; return how many were new."""
        given = {claim.id: claim for claim in claims}
        with self._database.begin(conn) as own:
            known = known_ids(own, _claims, list(given))
            rows = [
                {
                    "id": claim.id,
                    "slot": claim.slot.key,
                    "document_id": claim.document_id,
                    "body": dumps(claim),
                }
                for claim in given.values()
                if claim.id not in known
            ]
            if rows:
                own.execute(_claims.insert(), rows)
        return len(rows)

    def get(self, id: str) -> Claim | None:
        found = self._select(_claims.c.id == id)
        return found[0] if found else None

    def ls(
        self,
        slot: Slot | None = None,
        document_id: str | None = None,
        conn: Connection | None = None,
    ) -> list[Claim]:
        """Return claims in the order in which they were added."""
        conditions = []
        if slot is not None:
            conditions.append(_claims.c.slot == slot.key)
        if document_id is not None:
            conditions.append(_claims.c.document_id == document_id)
        return self._select(*conditions, conn=conn)

    def of_slots(self, keys: Sequence[str], conn: Connection) -> dict[str, list[Claim]]:
        """Return the claims of slots by key, each slot's in the order in which they were added."""
        found: dict[str, list[Claim]] = {key: [] for key in keys}
        for part in chunks(keys):
            for claim in self._select(_claims.c.slot.in_(part), conn=conn):
                found[claim.slot.key].append(claim)
        return found

    def count(self) -> int:
        with self._database.read() as conn:
            return conn.scalar(sa.select(sa.func.count()).select_from(_claims)) or 0

    def _select(
        self, *conditions: sa.ColumnElement[bool], conn: Connection | None = None
    ) -> list[Claim]:
        query = sa.select(_claims.c.body).where(*conditions).order_by(_claims.c.seq)
        with self._database.read(conn) as own:
            return [from_json(Claim, json.loads(body)) for body in own.scalars(query)]
