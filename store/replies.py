"""What models have answered, kept so that nothing is asked of the same model twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Connection

from store.database import Database, stamp
from store.records import Reply, digest, dumps, from_json

_replies = sa.table(
    "replies", *map(sa.column, ("seq", "id", "model", "settings", "question", "asked_at", "body"))
)
Key = tuple[str, str, str]
"""What an answer is kept under: the identity of what answered, the settings, the question."""

_CHUNK = 500  # values in one IN (...) list; databases limit them

# Two programs may ask the same at once: the first answer is kept. Written out because
# SQLAlchemy spells it differently for every database.
_ADD = sa.text(
    "INSERT INTO replies (id, model, settings, question, asked_at, body) "
    "VALUES (:id, :model, :settings, :question, :asked_at, :body) ON CONFLICT (id) DO NOTHING"
)


class Replies:
    """Answers by ``Key``: a cache. Nothing of it is in the ledger; what is lost is asked again."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, asked: Sequence[Key]) -> dict[Key, Reply]:
        """Return those answers that are kept."""
        wanted = {digest(*key): key for key in asked}
        ids = list(wanted)
        found = {}
        with self._database.read() as conn:
            for start in range(0, len(ids), _CHUNK):
                part = ids[start : start + _CHUNK]
                query = sa.select(_replies).where(_replies.c.id.in_(part))
                for row in conn.execute(query):
                    key = (row.model, row.settings, row.question)
                    if key == wanted[row.id]:
                        found[key] = from_json(Reply, json.loads(row.body))
        return found

    def put(
        self, replies: Mapping[Key, Reply], at: datetime, conn: Connection | None = None
    ) -> None:
        """Keep answers; those that are kept already stay as they are."""
        rows = [
            {
                "id": digest(model, settings, question),
                "model": model,
                "settings": settings,
                "question": question,
                "asked_at": stamp(at),
                "body": dumps(reply),
            }
            for (model, settings, question), reply in replies.items()
        ]
        if rows:
            with self._database.begin(conn) as own:
                own.execute(_ADD, rows)

    def count(self) -> int:
        with self._database.read() as conn:
            return conn.scalar(sa.select(sa.func.count()).select_from(_replies)) or 0

    def models(self, conn: Connection | None = None) -> list[str]:
        """Return the identities of everything whose answers are kept."""
        query = sa.select(_replies.c.model).distinct().order_by(_replies.c.model)
        with self._database.read(conn) as own:
            return list(own.scalars(query))

    def collect(self, wanted: Callable[[str], bool]) -> int:
        """Drop the answers of every model that is not wanted; return how many went."""
        gone = 0
        with self._database.begin() as conn:
            for model in self.models(conn):
                if not wanted(model):
                    query = _replies.delete().where(_replies.c.model == model)
                    gone += conn.execute(query).rowcount
        return gone
