"""What each cycle, retention run and consolidation came to; reports are drawn from these."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from store.database import Database, stamp
from store.records import dumps

_runs = sa.table("runs", *map(sa.column, ("seq", "kind", "at", "body")))


@dataclasses.dataclass(frozen=True)
class Run:
    """The result of one piece of work, as JSON types in ``body``."""

    id: int
    kind: str
    at: datetime
    body: Mapping[str, Any]


class Runs:
    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, kind: str, at: datetime, body: Mapping[str, Any], conn: Connection | None = None
    ) -> int:
        """Keep a result and return its number. Records and dates in it become JSON types."""
        row = {"kind": kind, "at": stamp(at), "body": dumps(body)}
        with self._database.begin(conn) as own:
            return own.execute(_runs.insert().values(row).returning(_runs.c.seq)).scalar_one()

    def ls(
        self, kind: str | None = None, limit: int | None = None, conn: Connection | None = None
    ) -> list[Run]:
        """Return results, the last first."""
        query = sa.select(_runs).order_by(_runs.c.seq.desc()).limit(limit)
        if kind is not None:
            query = query.where(_runs.c.kind == kind)
        with self._database.read(conn) as own:
            return [_run(row) for row in own.execute(query)]

    def latest(self, kind: str) -> Run | None:
        found = self.ls(kind, limit=1)
        return found[0] if found else None


def _run(row: Row[Any]) -> Run:
    return Run(row.seq, row.kind, datetime.fromisoformat(row.at), json.loads(row.body))
